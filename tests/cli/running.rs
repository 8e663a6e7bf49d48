//! `run`: one command in a mount of its own, as root and as somebody without privilege.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::fixture::{Place, finished, line_of, needs_root_and_device, within_deadline};
use crate::open_device::OpenDevice;
use crate::{Outcome, Skipped, tests};

tests![
    the_command_starts_in_current_and_its_end_is_ours,
    input_and_output_are_the_commands,
    a_signal_to_us_reaches_the_command,
    whoever_ignores_the_ends_of_children_hears_of_ours,
    processes_left_behind_do_not_keep_us,
    a_user_without_privilege_runs_too,
    a_user_without_a_device_is_told_the_mend_and_nothing_changes,
];

fn the_command_starts_in_current_and_its_end_is_ours() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let script = "test \"$PWD\" = \"$(pwd)\" && pwd && mkdir new && exit 7";
    let output = place.run(&["run", "store", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(output.stdout.ends_with(b"/current\n") && output.stderr.is_empty(), "{output:?}");
    assert_eq!(place.output(&["run", "store", "--", "ls"]), "new\n");
    for (command, code) in [
        (&["sh", "-c", "kill -9 $$"][..], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
        (&["true"], 0),
    ] {
        let arguments = [&["run", "store", "--"], command].concat();
        let output = place.run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let lines = String::from_utf8_lossy(&output.stderr).lines().count();
        assert_eq!(lines, usize::from(code == 126 || code == 127), "{output:?}");
    }
    assert_eq!(place.status("store")["state"], "closed");
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounted.contains(&place.text("store")), "a mount shows outside");
    Ok(())
}

fn input_and_output_are_the_commands() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut command = place.command(&["run", "store", "--", "sh", "-c", "cat; echo err >&2"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let bytes: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == bytes && output.stderr == b"err\n");
    Ok(())
}

fn a_signal_to_us_reaches_the_command() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM] {
        // Without `timeout`, which would keep the signal from us.
        let script = format!(
            "trap 'echo caught; exit 9' INT TERM; touch {}; while :; do sleep 0.05; done",
            place.text("there")
        );
        // Started in the background of a script, a test ignores SIGINT, its children do too, and a shell cannot trap it then.
        let mut command = std::process::Command::new("env");
        command.arg("--default-signal=INT").arg(crate::fixture::program());
        command.args(["run", "store", "--", "sh", "-c", &script]).stdout(Stdio::piped());
        lighthouse_fuse::sys::process::die_with_parent(&mut command);
        let child = command.current_dir(place.path("")).spawn().unwrap();
        within_deadline(|| place.path("there").exists().then_some(()));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(9), &b"caught\n"[..]));
        fs::remove_file(place.path("there")).unwrap();
    }
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn whoever_ignores_the_ends_of_children_hears_of_ours() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut command = place.under_deadline("env");
    command.arg("--ignore-signal=CHLD").arg(crate::fixture::program());
    let output = finished(command.args(["run", "store", "--", "sh", "-c", "exit 7"]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn processes_left_behind_do_not_keep_us() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let started = Instant::now();
    let script = "touch made; sleep 60 > /dev/null 2>&1 < /dev/null & \
                  until grep -q sleep /proc/$!/comm; do :; done; echo $!";
    let output = place.run(&["run", "store", "--", "sh", "-c", script]);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("sleep (pid {pid})")), "{said}");
    assert_eq!(place.output(&["run", "store", "--", "ls"]), "made\n");
    Ok(())
}

fn a_user_without_privilege_runs_too() -> Outcome {
    needs_root_and_device()?;
    let _open = OpenDevice::for_all();
    let place = Place::new();
    let script = "id -u; touch mine; stat -c %u mine; exit 5";
    let output = finished(&mut place.as_nobody(&["run", "store", "--", "sh", "-c", script]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("no user namespace") {
        return Err(Skipped(said));
    }
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"65534\n65534\n", "{output:?}");
    let output = finished(&mut place.as_nobody(&["run", "store", "--", "ls"]));
    assert_eq!(output.stdout, b"mine\n", "{output:?}");
    // A store of somebody else is one line too.
    place.output(&["run", "roots", "--", "true"]);
    let before = place.listing();
    let line = line_of(&finished(&mut place.as_nobody(&["run", "roots", "--", "true"])));
    assert!(line.contains("roots") && line.contains("Permission denied"), "{line}");
    assert_eq!(place.listing(), before);
    Ok(())
}

fn a_user_without_a_device_is_told_the_mend_and_nothing_changes() -> Outcome {
    needs_root_and_device()?;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata("/dev/fuse").unwrap().permissions());
    if mode & 0o006 != 0 {
        return Err(Skipped("everybody may open /dev/fuse here".into()));
    }
    let place = Place::new();
    let before = place.listing();
    let line = line_of(&finished(&mut place.as_nobody(&["run", "store", "--", "true"])));
    assert!(line.contains("/dev/fuse") && line.contains("sudo"), "{line}");
    assert_eq!(place.listing(), before);
    let line = line_of(&finished(&mut place.as_nobody(&["mount", "store", "at"])));
    // `run` is no mend here: it needs the device too. The helper program opens it for anybody.
    let mend = if fusermount_is_there() { "lighthouse-fuse run" } else { "/dev/fuse" };
    assert!(line.contains("sudo") && line.contains(mend), "{line}");
    assert_eq!(place.listing(), before);
    Ok(())
}

fn fusermount_is_there() -> bool {
    ["/usr/bin/fusermount3", "/bin/fusermount3"].iter().any(|path| fs::metadata(path).is_ok())
}
