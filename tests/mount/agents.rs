//! Whom a process works for, where it says so through the mount: `.agent`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustix::io::Errno;

use crate::fixture::{Mount, SOMEBODY, as_user, bounded, errno, names, until};
use crate::{Outcome, Skipped, tests};

tests![
    what_a_registered_process_starts_is_its_agents_and_what_is_beside_it_is_not,
    a_registration_ends_with_its_process_and_a_reused_number_is_somebody_else,
    a_process_says_once_whom_it_works_for,
    whoever_asks_is_known_where_the_log_takes_no_note_of_them,
    without_open_whoever_reads_is_told_of_themselves_too,
    a_session_is_shown_through_the_mount_where_one_is_demanded,
    a_policy_goes_by_what_a_process_is_registered_as_whatever_its_environment_says,
];

/// A shell in `current/` whose own environment names nobody.
fn command(mount: &Mount, line: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["-u", "LIGHTHOUSE_SESSION", "-u", "LIGHTHOUSE_AGENT", "sh", "-c", line]);
    command.current_dir(mount.path(""));
    command
}

/// Runs a line in one. Whether it succeeded, and what it printed.
fn shell(mount: &Mount, line: &str) -> (bool, String) {
    let output = bounded(&mut command(mount, line));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Agent and session of the last event about each path, as `log` tells them.
fn told(mount: &Mount) -> BTreeMap<String, (String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
    let output =
        bounded(command.args(["log", "--json", "-n", "1000", "--store"]).arg(mount.store()));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines.map(|line| (of(&line, "path"), (of(&line, "agent"), of(&line, "session")))).collect()
}

fn what_a_registered_process_starts_is_its_agents_and_what_is_beside_it_is_not() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    assert_eq!(
        names(&mount.top("")),
        ["context", "current", "debug", "history", "shadows", "streams"]
    );
    // The first bracket is a process of its own, which registers itself; the second one comes after it.
    let line = "echo before > before; \
                ( echo builder-7 s1 > ../.agent; cat ../.agent; echo own > own; \
                  env -i sh -c 'echo child > child; sh -c \"echo grandchild > grandchild\"' ); \
                ( cat ../.agent; echo sibling > sibling ); echo parent > parent; cat ../.agent";
    assert_eq!(shell(&mount, line), (true, "builder-7 s1\n".to_owned()));
    let told = told(&mount);
    let nobody = (String::new(), String::new());
    let builder = ("builder-7".to_owned(), "s1".to_owned());
    for (path, who) in [
        ("before", &nobody),
        ("own", &builder),
        ("child", &builder),
        ("grandchild", &builder),
        ("sibling", &nobody),
        ("parent", &nobody),
    ] {
        assert_eq!(told.get(path), Some(who), "{path}: {told:?}");
    }
    let stream = fs::read_to_string(mount.top("streams/file_changes")).unwrap();
    let line = |path: &str| {
        let path = format!("\"path\":\"/{path}\"");
        stream.lines().rfind(|line| line.contains(&path)).unwrap().to_owned()
    };
    assert!(line("grandchild").contains("\"source_agent\":\"builder-7\""), "{stream}");
    assert!(!line("sibling").contains("\"source_agent\":\"builder-7\""), "{stream}");
    Ok(())
}

fn a_registration_ends_with_its_process_and_a_reused_number_is_somebody_else() -> Outcome {
    let mount = Mount::fresh()?;
    // What it leaves behind is adopted by another process, and is nobody's then.
    let line = "echo builder > ../.agent; echo own > own; \
                ( while [ ! -e go ]; do sleep 0.02; done; cat ../.agent > said; echo left > left; \
                  mv said done ) > /dev/null 2>&1 &";
    assert!(shell(&mount, line).0);
    fs::write(mount.path("go"), "").unwrap();
    until("what is left has written", || mount.path("done").exists());
    assert_eq!(fs::read(mount.path("done")).unwrap(), b"");
    let told_then = told(&mount);
    assert_eq!(told_then["own"].0, "builder");
    assert_eq!(told_then["left"].0, "");

    let mut registered = command(&mount, "echo builder > ../.agent; echo 1 > ready; exec sleep 60");
    let mut registered = registered.spawn().unwrap();
    until("it is registered", || mount.path("ready").exists());
    let number = registered.id();
    registered.kill().unwrap();
    registered.wait().unwrap();
    let last = "/proc/sys/kernel/ns_last_pid";
    for _ in 0..200 {
        if let Err(error) = fs::write(last, (number - 1).to_string()) {
            return Err(Skipped(format!("numbers of processes cannot be chosen: {last}: {error}")));
        }
        let mut other =
            command(&mount, "cat ../.agent > said; echo other > other").spawn().unwrap();
        let same = other.id() == number;
        assert!(other.wait().unwrap().success());
        if same {
            assert_eq!(fs::read(mount.path("said")).unwrap(), b"");
            assert_eq!(told(&mount)["other"].0, "");
            return Ok(());
        }
    }
    Err(Skipped(format!("process {number} did not come again")))
}

fn a_process_says_once_whom_it_works_for() -> Outcome {
    let mount = Mount::fresh()?;
    let agent = mount.top(".agent");
    assert_eq!(names(&mount.top("")), ["current", "history"], "it is not listed");
    assert_eq!(fs::read(&agent).unwrap(), b"");
    let too_long = "x".repeat(3000);
    for wrong in ["\n", "a b c", "a\u{1b}[1m", &too_long] {
        assert_eq!(errno(fs::write(&agent, wrong)), Some(Errno::INVAL), "{wrong}");
    }
    // Another user may, and for the whole process: it is the kernel that tells which one asks.
    let commons = mount.commons();
    as_user(SOMEBODY, || fs::write(&agent, "tester t1\n")).unwrap();
    assert_eq!(fs::read(&agent).unwrap(), b"tester t1\n");
    assert_eq!(errno(fs::write(&agent, "other")), Some(Errno::PERM));
    assert!(!shell(&mount, "echo other > ../.agent").0, "nor does what it starts become another");
    fs::write(commons.join("f"), "x").unwrap();
    assert_eq!(told(&mount)["commons/f"], ("tester".to_owned(), "t1".to_owned()));
    // Nothing else can be done with it.
    assert_eq!(errno(fs::remove_file(&agent)), Some(Errno::ROFS));
    assert_eq!(errno(fs::rename(&agent, mount.path("x"))), Some(Errno::ROFS));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    assert_eq!(errno(fs::set_permissions(&agent, mode)), Some(Errno::ROFS));
    Ok(())
}

fn whoever_asks_is_known_where_the_log_takes_no_note_of_them() -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    fs::write(&policy, "worker /current/shut none\n").unwrap();
    let mount = Mount::fresh()?;
    assert!(shell(&mount, "mkdir shut; echo shut > shut/f").0);
    mount.stop();
    mount.start(&["--read-only", "--policy", policy.to_str().unwrap()]);
    assert_eq!(shell(&mount, "LIGHTHOUSE_AGENT=one cat ../.agent"), (true, "one\n".to_owned()));
    assert_eq!(shell(&mount, "cat ../.agent"), (true, String::new()));
    for _ in 0..2 {
        assert!(shell(&mount, "LIGHTHOUSE_AGENT=other cat shut/f && cat shut/f").0);
        assert!(!shell(&mount, "LIGHTHOUSE_AGENT=worker cat shut/f").0);
    }
    mount.stop();
    mount.start(&["--read-only", "--require-session"]);
    assert!(!shell(&mount, "cat shut/f").0);
    assert!(shell(&mount, "LIGHTHOUSE_SESSION=s1 cat shut/f").0);
    Ok(())
}

fn without_open_whoever_reads_is_told_of_themselves_too() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("f"), "x").unwrap();
    mount.stop();
    mount.start(&["--read-only", "--no-open"]);
    // From here on the kernel asks for nothing to be opened.
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    let agent = mount.top(".agent");
    for _ in 0..2 {
        for name in ["one", "two", "another"] {
            let said = shell(&mount, &format!("LIGHTHOUSE_AGENT={name} cat ../.agent"));
            assert_eq!(said, (true, format!("{name}\n")));
        }
        assert_eq!(shell(&mount, "cat ../.agent"), (true, String::new()));
    }
    // All at once, and again and again.
    std::thread::scope(|scope| {
        let readers = ["a", "b", "c", "d", "e", "f"].map(|name| {
            let line = format!(
                "export LIGHTHOUSE_AGENT={name}; for i in 1 2 3 4 5 6 7 8; do cat ../.agent; done"
            );
            let mount = &mount;
            (name, scope.spawn(move || shell(mount, &line)))
        });
        for (name, reader) in readers {
            assert_eq!(reader.join().unwrap(), (true, format!("{name}\n").repeat(8)));
        }
    });
    // What is open stays what it is, for longer than what nobody knows is kept.
    let line = "LIGHTHOUSE_AGENT=patient sh -c 'exec 3< ../.agent; sleep 7; cat <&3'";
    assert_eq!(shell(&mount, line), (true, "patient\n".to_owned()));
    assert_eq!(errno(fs::write(&agent, "me")), Some(Errno::ROFS));
    Ok(())
}

fn a_session_is_shown_through_the_mount_where_one_is_demanded() -> Outcome {
    let mount = Mount::with(&["--require-session"])?;
    let work = "mkdir d && echo x > d/f && cat d/f && rm -r d";
    assert!(!shell(&mount, work).0);
    assert!(
        !shell(&mount, &format!("echo builder > ../.agent && {work}")).0,
        "a name is no session"
    );
    assert!(shell(&mount, &format!("echo builder s1 > ../.agent && {work}")).0);
    assert!(shell(&mount, &format!("echo builder s1 > ../.agent && env -i sh -c '{work}'")).0);
    assert!(!shell(&mount, work).0);
    Ok(())
}

fn a_policy_goes_by_what_a_process_is_registered_as_whatever_its_environment_says() -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    fs::write(&policy, "worker /current/shut none\n- /current/agents none\n").unwrap();
    let mount = Mount::with(&["--policy", policy.to_str().unwrap()])?;
    // Nobody's own shell makes both, before it is anybody.
    let make = "mkdir shut; echo shut > shut/f; cat shut/f";
    assert_eq!(shell(&mount, make), (true, "shut\n".to_owned()));
    assert!(!shell(&mount, "mkdir agents").0, "for agents alone");
    let as_worker = |line: &str| shell(&mount, &format!("echo worker > ../.agent; {line}"));
    assert!(as_worker("mkdir agents && echo x > agents/f").0);
    for line in [
        "cat shut/f",
        "LIGHTHOUSE_AGENT=boss cat shut/f",
        "env LIGHTHOUSE_AGENT=boss LIGHTHOUSE_SESSION=s sh -c 'cat shut/f'",
        "env -i sh -c 'sh -c \"cat shut/f || exit 1; true\"'",
    ] {
        assert!(!as_worker(line).0, "{line}");
    }
    assert!(shell(&mount, "cat shut/f").0, "who is beside it may");
    Ok(())
}
