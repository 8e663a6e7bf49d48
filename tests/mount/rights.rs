//! Sessions and a policy on a real mount: what the kernel has cached opens nothing.

use std::fs;
use std::process::Command;

use rustix::io::Errno;

use crate::fixture::{Mount, bounded};
use crate::{Outcome, tests};

tests![
    a_session_is_demanded_of_whoever_opens_makes_or_changes,
    a_policy_closes_what_others_have_read_and_cached,
];

/// Runs a line in a shell that has these variables. Whether it succeeded, and what it said.
fn shell(mount: &Mount, line: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new("env");
    command.args(["-u", "LIGHTHOUSE_SESSION", "-u", "LIGHTHOUSE_AGENT"]);
    command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    let output = bounded(command.args(["sh", "-c", line]).current_dir(mount.path("")));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn a_session_is_demanded_of_whoever_opens_makes_or_changes() -> Outcome {
    let mount = Mount::with(&["--require-session"])?;
    let session = [("LIGHTHOUSE_SESSION", "s1"), ("LIGHTHOUSE_AGENT", "builder")];
    let all = "mkdir d && echo x > d/f && cat d/f && chmod 600 d/f && mv d/f d/g && ln -s g d/l";
    let (done, said) = shell(&mount, all, &session);
    assert!(done, "{said}");
    // Now all of it is in the kernel's caches, pages too.
    assert!(shell(&mount, "ls -lR . && stat d/g && readlink d/l", &[]).0);
    for line in
        ["cat d/g", "echo y >> d/g", "touch d/new", "mkdir e", "rm d/g", "mv d e", "chmod 644 d/g"]
    {
        let (done, said) = shell(&mount, line, &[("LIGHTHOUSE_AGENT", "builder")]);
        assert!(!done && said.contains("Permission denied"), "{line}: {said}");
    }
    assert!(shell(&mount, "cat d/g", &session).1.contains('x'));
    assert!(mount.log().contains("refused to"), "{}", mount.log());
    Ok(())
}

fn a_policy_closes_what_others_have_read_and_cached() -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    fs::write(&policy, "expert /current filesystem_read\nexpert /current/shut none\n").unwrap();
    let mount = Mount::with(&["--policy", policy.to_str().unwrap()])?;
    fs::create_dir(mount.path("shut")).unwrap();
    fs::write(mount.path("shut/f"), "shut").unwrap();
    fs::write(mount.path("open"), "open").unwrap();
    assert_eq!(fs::read(mount.path("shut/f")).unwrap(), b"shut");
    let expert = [("LIGHTHOUSE_AGENT", "expert")];
    assert_eq!(shell(&mount, "cat open", &expert), (true, "open".to_owned()));
    let past = mount.past(mount.seq(), "shut/f");
    let denied = |line: &str| {
        let (done, said) = shell(&mount, line, &expert);
        !done && said.contains("Permission denied")
    };
    for line in ["cat shut/f", "echo x >> open", "touch new", "mv shut/f f", "ln shut/f f"] {
        assert!(denied(line), "{line}");
    }
    assert!(denied(&format!("cat {}", past.display())));
    assert_eq!(fs::read(past).unwrap(), b"shut");
    // Of a mapping of pages that others have read, the file must be opened first.
    let map = "python3 -c 'import mmap; f = open(\"shut/f\", \"rb\"); print(mmap.mmap(f.fileno(), 0)[:])'";
    assert!(!shell(&mount, map, &expert).0);
    fs::write(mount.path("open"), "still").unwrap();
    assert_eq!(crate::fixture::errno(fs::read(mount.path("none"))), Some(Errno::NOENT));
    Ok(())
}
