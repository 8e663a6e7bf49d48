//! Processes that are registered in a session: what they do through the mount is its agent's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::client::{Answer, Place, Session, within_deadline};
use crate::mounted::can_mount;

/// A shell that goes on from line to line, and whose environment names nobody.
struct Shell {
    child: Child,
    lines: ChildStdin,
    out: BufReader<ChildStdout>,
    pid: u32,
}

impl Shell {
    fn start(directory: &Path, uid: u32) -> Self {
        let mut command = Command::new("timeout");
        command.args(["60", "sh"]).current_dir(directory).uid(uid).gid(uid);
        command.env_remove("LIGHTHOUSE_SESSION").env_remove("LIGHTHOUSE_AGENT");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (lines, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shell = Self { child, lines, out: BufReader::new(out), pid: 0 };
        shell.pid = shell.say("echo $$").parse().unwrap();
        shell
    }

    /// What it prints for a line, itself one line.
    fn say(&mut self, line: &str) -> String {
        writeln!(self.lines, "{line}").unwrap();
        let mut said = String::new();
        self.out.read_line(&mut said).unwrap();
        said.trim_end().to_owned()
    }

    /// Whether a line succeeds.
    fn can(&mut self, line: &str) -> bool {
        match self.say(&format!("{line}; echo $?")).as_str() {
            "" => panic!("{line}: the shell ended"),
            code => code == "0",
        }
    }

    fn start_time(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn register(session: &Session<'_>, body: &Value) -> Answer {
    let json = [("content-type", "application/json")];
    session.ask("POST", "/session/processes", &json, body.to_string().as_bytes())
}

fn take_back(session: &Session<'_>, pid: u32) -> u16 {
    session.ask("DELETE", &format!("/session/processes/{pid}"), &[], b"").status
}

fn listed(session: &Session<'_>) -> Vec<u64> {
    let listed = session.get("/session/processes").json();
    let pid = |process: &Value| process["pid"].as_u64().unwrap();
    listed["processes"].as_array().unwrap().iter().map(pid).collect()
}

#[test]
fn a_registered_process_and_what_it_starts_work_in_the_session_until_it_ends() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut server, current) = place.serve_sessions_alone();
    let (mut shell, mut sibling) = (Shell::start(&current, 0), Shell::start(&current, 0));
    let token = {
        let (session, other) = (server.session("builder-7"), server.session("other"));
        assert!(!shell.can("touch own") && !sibling.can("touch sibling"));
        let made =
            register(&session, &json!({ "pid": shell.pid, "start_time": shell.start_time() }));
        assert_eq!(made.status, 201, "{made:?}");
        let said = made.json();
        assert_eq!(
            (said["agent_id"].as_str(), said["program"].as_str()),
            (Some("builder-7"), Some("sh"))
        );
        assert!(shell.can("touch own"));
        assert!(shell.can("env -i sh -c 'touch child && (touch grandchild; cat child)'"));
        assert!(!sibling.can("touch sibling") && !sibling.can("cat child"));
        assert_eq!(listed(&session), [u64::from(shell.pid)]);
        assert_eq!(listed(&other), [0; 0]);

        // Taken back, by who registered it alone.
        assert_eq!(take_back(&other, shell.pid), 404);
        assert!(shell.can("touch own"));
        assert_eq!(take_back(&session, shell.pid), 204);
        assert_eq!(take_back(&session, shell.pid), 404);
        assert!(!shell.can("touch own") && !shell.can("sh -c 'touch child'"));

        // It may show the session itself: through the mount, and only a true one.
        let changed = format!("{}x", &session.token[..session.token.len() - 1]);
        assert!(!shell.can(&format!("echo {changed} > ../.agent")));
        assert!(
            !shell.can("echo builder-7 > ../.agent && touch own"),
            "a name alone is not believed"
        );
        assert!(shell.can(&format!("echo {} > ../.agent", session.token)));
        assert!(shell.can("touch own && sh -c 'touch child'"));
        assert!(shell.say("cat ../.agent").starts_with("builder-7 "));

        // Another session may take it over.
        assert_eq!(register(&other, &json!({ "pid": shell.pid })).status, 201);
        assert_eq!((listed(&session), listed(&other)), (vec![], vec![u64::from(shell.pid)]));
        assert!(shell.can("touch others"));
        assert_eq!(register(&session, &json!({ "pid": shell.pid })).status, 201);
        session.token.clone()
    };
    // Three further sessions of the agent end the first one, and what is registered in it.
    for _ in 0..3 {
        server.session("builder-7");
    }
    within_deadline(|| (!shell.can("touch own")).then_some(()));
    let said = server.stop();
    assert!(!said.contains(&token), "a token is not logged");
    let text = place.log();
    let (id, secret) = token.split_once(':').unwrap();
    for (path, agent) in [("own", "builder-7"), ("grandchild", "builder-7"), ("others", "other")] {
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let line = lines.find(|line| line["path"] == path).unwrap();
        assert_eq!(line["agent"], agent, "{line}");
        assert_eq!(line["session"] == id, agent == "builder-7", "{line}");
    }
    assert!(!text.contains(secret), "nor is it kept");
}

#[test]
fn an_agent_that_processes_are_registered_for_may_have_any_letters() {
    if !can_mount() {
        return;
    }
    const AGENT: &str = "b\u{e4}cker";
    let place = Place::new();
    let (server, current) = place.serve_sessions_alone();
    let mut shell = Shell::start(&current, 0);
    let session = server.session(AGENT);
    assert_eq!(register(&session, &json!({ "pid": shell.pid })).status, 201);
    assert!(shell.can("touch own"));
    // Three further sessions of the agent end the first one.
    for _ in 0..3 {
        server.session(AGENT);
    }
    within_deadline(|| (!shell.can("touch own")).then_some(()));
}

#[test]
fn what_is_no_process_or_not_the_one_that_is_meant_is_not_registered() {
    let place = Place::new();
    let server = place.serve();
    let session = server.session("a");
    let shell = Shell::start(Path::new("/"), rustix::process::geteuid().as_raw());
    let refused = |body: Value| {
        let answer = register(&session, &body);
        assert!(answer.json()["detail"].is_string() || answer.status == 422, "{answer:?}");
        answer.status
    };
    assert_eq!(refused(json!({ "pid": shell.pid, "start_time": shell.start_time() + 1 })), 409);
    assert_eq!(refused(json!({ "pid": 0 })), 404);
    assert_eq!(refused(json!({ "pid": u32::MAX })), 404);
    for body in [
        json!({}),
        json!({ "pid": -1 }),
        json!({ "pid": 1.5 }),
        json!({ "pid": "1" }),
        json!({ "pid": 1_u64 << 32 }),
        json!({ "pid": shell.pid, "start_time": "then" }),
    ] {
        assert_eq!(refused(body.clone()), 422, "{body}");
    }
    for path in ["x", "-1", "99999999999", "1/2", ""] {
        let path = format!("/session/processes/{path}");
        let answer = session.ask("DELETE", &path, &[], b"");
        assert!(matches!(answer.status, 404 | 405), "{path}: {answer:?}");
    }
    let pid = shell.pid;
    assert_eq!(register(&session, &json!({ "pid": pid })).status, 201);
    assert_eq!(listed(&session), [u64::from(pid)]);
    // It ends, and with it what it was registered as.
    drop(shell);
    within_deadline(|| listed(&session).is_empty().then_some(()));
    assert_eq!(refused(json!({ "pid": pid })), 404);
}

#[test]
fn a_user_registers_processes_of_their_own_alone() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: being several users needs root");
        return;
    }
    const SOMEBODY: u32 = 1000;
    let place = Place::new();
    let server = place.serve();
    let session = server.session("a");
    let (own, roots) = (Shell::start(Path::new("/"), SOMEBODY), Shell::start(Path::new("/"), 0));
    let as_somebody = |pid: u32| {
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                // The kernel keeps the user of each thread apart; only this one changes.
                let uid = rustix::process::Uid::from_raw(SOMEBODY);
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                register(&session, &json!({ "pid": pid })).status
            });
            asks.join().unwrap()
        })
    };
    assert_eq!((as_somebody(own.pid), as_somebody(roots.pid)), (201, 403));
    assert_eq!(register(&session, &json!({ "pid": own.pid })).status, 201, "root may");
}
