//! Mounts that one command sees.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::constant::TEXT;
use crate::fixture::{
    Place, SLOWLY, SOMEBODY, as_somebody, needs_root_and_device, within_deadline,
};
use crate::open_device::OpenDevice;
use crate::{Outcome, Skipped, tests};

tests![
    the_command_sees_the_mount_and_nobody_else_does,
    the_exit_code_is_the_commands,
    a_signal_sent_to_us_reaches_the_command,
    a_terminals_interrupt_reaches_the_command_once,
    an_interrupt_before_the_command_starts_keeps_it_from_starting,
    a_hang_up_of_the_terminal_reaches_the_command,
    processes_left_behind_lose_the_mount_and_are_named,
    a_user_without_privilege_runs_a_command_as_himself,
    a_user_who_may_not_open_the_device_is_told_so,
];

fn command(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "30"]).arg(std::env::current_exe().unwrap());
    command.arg("run").arg(&place.store).arg(&place.at).args(words);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(place: &Place, words: &[&str]) -> Output {
    command(place, words).output().unwrap()
}

fn the_command_sees_the_mount_and_nobody_else_does() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let script = "pwd; cat small; echo ready >&2; read line; cat small";
    let mut child = command(&place, &["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stderr.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    assert_eq!(place.entry(), None);
    assert_eq!(fs::read_dir(&place.at).unwrap().count(), 0);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let expected = format!("{}/current\n{}{1}", place.at.display(), text(TEXT));
    assert_eq!(text(&output.stdout), expected);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    Ok(())
}

fn the_exit_code_is_the_commands() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        let output = run(&place, &["sh", "-c", script]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), String::new()));
    }
    let missing = run(&place, &["no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert_eq!(text(&missing.stderr).lines().count(), 1);
    let no_program = run(&place, &["/etc/passwd"]);
    assert_eq!(no_program.status.code(), Some(126), "{}", text(&no_program.stderr));
    Ok(())
}

/// Starts a command that waits for a signal; gives it, its input, and the pid of our program.
fn waiting(place: &Place, script: &str) -> (Child, Pid) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("run")
        .arg(&place.store)
        .arg(&place.at)
        .args(["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    (child, pid)
}

fn a_signal_sent_to_us_reaches_the_command() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    // Bounded, so that a signal that does not arrive is a failure and no hang.
    let script = "trap 'echo got it; exit 3' TERM; echo ready; \
                  i=0; while [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done";
    let (child, pid) = waiting(&place, script);
    kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("got it\n", Some(3)));
    Ok(())
}

/// `run` of a script on a terminal whose session it leads: `script` gives it the terminal, and types what
/// it reads.
fn on_a_terminal(place: &Place, inner: &str) -> Result<Command, Skipped> {
    if Command::new("script").arg("--version").output().is_err() {
        return Err(Skipped("script(1) is not installed".into()));
    }
    fs::write(place.store.join("inner"), inner).unwrap();
    let line = format!(
        "exec {} run '{}' '{}' sh '{}/inner'",
        std::env::current_exe().unwrap().display(),
        place.store.display(),
        place.at.display(),
        place.store.display()
    );
    // Started in the background of a script, a test ignores SIGINT, and so do its children.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", "script", "-qec", &line, "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

fn until_it_says(child: &mut Child, word: &str) {
    let mut said = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !text(&said).contains(word) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
}

/// Types ^C, and gives what is said from then on, and the exit code.
fn interrupt(mut child: Child) -> (String, Option<i32>) {
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let mut rest = Vec::new();
    child.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
    (text(&rest), child.wait().unwrap().code())
}

fn a_terminals_interrupt_reaches_the_command_once() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let inner = "n=0; trap 'n=$((n+1))' INT; echo ready; i=0; \
                 while [ $i -lt 10 ]; do sleep 0.1; i=$((i+1)); done; echo count $n; exit 5";
    let mut child = on_a_terminal(&place, inner)?.spawn().unwrap();
    until_it_says(&mut child, "ready");
    let (said, code) = interrupt(child);
    assert!(said.contains("count 1"), "{said}");
    assert_eq!(code, Some(5));
    Ok(())
}

fn an_interrupt_before_the_command_starts_keeps_it_from_starting() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut command = on_a_terminal(&place, "echo started; exit 5")?;
    let mut child = command.env(SLOWLY, "1").spawn().unwrap();
    until_it_says(&mut child, "opening");
    let (said, code) = interrupt(child);
    assert!(!said.contains("started"), "{said}");
    assert_eq!(code, Some(130));
    Ok(())
}

fn a_hang_up_of_the_terminal_reaches_the_command() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let heard = place.store.join("heard");
    let inner = format!(
        "trap 'echo > {}; exit 3' HUP; echo ready; \
         i=0; while [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done",
        heard.display()
    );
    let mut child = on_a_terminal(&place, &inner)?.spawn().unwrap();
    until_it_says(&mut child, "ready");
    // The terminal goes with who made it.
    child.kill().unwrap();
    child.wait().unwrap();
    within_deadline(|| heard.exists().then_some(()));
    Ok(())
}

fn processes_left_behind_lose_the_mount_and_are_named() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let script = "sleep 15 >/dev/null 2>&1 & \
                  until grep -q sleep /proc/$!/comm; do :; done; echo $!; exit 4";
    let output = run(&place, &["sh", "-c", script]);
    let sleeper = Pid::from_raw(text(&output.stdout).trim().parse().unwrap()).unwrap();
    let words = text(&output.stderr);
    let _ = kill_process(sleeper, Signal::KILL);
    assert_eq!(output.status.code(), Some(4));
    assert!(words.contains(&format!("sleep (pid {})", sleeper.as_raw_nonzero())), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    Ok(())
}

/// Whether a user without privilege gets a user namespace here, and can reach this program.
fn needs_user_namespaces() -> Outcome {
    needs_root_and_device()?;
    let mut unshare = Command::new("unshare");
    match as_somebody(&mut unshare).args(["--user", "--mount", "true"]).output() {
        Ok(output) if output.status.success() => (),
        Ok(output) => return Err(Skipped(text(&output.stderr).trim().to_owned())),
        Err(_) => return Err(Skipped("unshare(1) is not installed".into())),
    }
    let mut list = Command::new(std::env::current_exe().unwrap());
    match as_somebody(&mut list).arg("--list").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(Skipped(format!("another user cannot run this program: {error}"))),
    }
}

fn a_user_without_privilege_runs_a_command_as_himself() -> Outcome {
    needs_user_namespaces()?;
    let _open = OpenDevice::for_all();
    let place = Place::new();
    place.give_to(SOMEBODY);
    let script = "cat small; id -u; id -g; grep CapEff /proc/self/status; \
                  touch \"$1/made\"; stat -c %u \"$1/made\"; exit 9";
    let store = place.store.to_str().unwrap();
    let mut command = command(&place, &["sh", "-c", script, "sh", store]);
    let output = as_somebody(&mut command).output().unwrap();
    let expected = format!("{}1000\n1000\nCapEff:\t0000000000000000\n1000\n", text(TEXT));
    assert_eq!((text(&output.stdout), text(&output.stderr)), (expected, String::new()));
    assert_eq!(output.status.code(), Some(9));
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(place.store.join("made")).unwrap());
    assert_eq!(owner, SOMEBODY);
    within_deadline(|| place.entry().is_none().then_some(()));
    Ok(())
}

fn a_user_who_may_not_open_the_device_is_told_so() -> Outcome {
    needs_user_namespaces()?;
    if std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(Path::new("/dev/fuse")).unwrap().permissions(),
    ) & 0o6
        != 0
    {
        return Err(Skipped("here everybody may open /dev/fuse".into()));
    }
    let place = Place::new();
    place.give_to(SOMEBODY);
    let mut command = command(&place, &["true"]);
    let output = as_somebody(&mut command).output().unwrap();
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words.starts_with("/dev/fuse cannot be opened") && words.lines().count() == 1,
        "{words}"
    );
    Ok(())
}
