//! How a server starts and ends.

use std::io::{BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::client::{Place, Server, run, send, within_deadline};

#[test]
fn the_first_start_takes_the_project_and_later_ones_leave_it() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("project/src")).unwrap();
    std::fs::write(place.path("project/src/main.rs"), "fn main() {}\n").unwrap();
    let mut server = place.serve();
    {
        let agent = server.session("a");
        assert_eq!(agent.get("/files/src/main.rs").body, b"fn main() {}\n");
        assert_eq!(agent.put("/files/src/main.rs", b"mine\n").status, 204);
    }
    assert_eq!(std::fs::read(place.path("project/src/main.rs")).unwrap(), b"fn main() {}\n");
    server.stop();
    std::fs::write(place.path("project/later"), "x").unwrap();
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(agent.get("/files/src/main.rs").body, b"mine\n");
    assert_eq!(agent.get("/files/later").status, 404);
}

#[test]
fn the_first_start_takes_what_a_bridge_left_beside_the_store() {
    const LOG: &str = "events_000001.log";
    let place = Place::new();
    let source =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/legacy/legacy-log/small");
    std::fs::create_dir_all(place.path("events")).unwrap();
    std::fs::copy(source.join("events").join(LOG), place.path("events").join(LOG)).unwrap();
    // Where events make a tree, the project is left alone.
    std::fs::create_dir_all(place.path("project")).unwrap();
    std::fs::write(place.path("project/other"), "x").unwrap();
    let serve = || {
        let mut command = place.command(false);
        Server::start(command.env("LIGHTHOUSE_EVENT_SECRET", "lighthouse-fixture-secret-01"))
    };
    let state = std::fs::read(source.join("state_default.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut server = serve();
        {
            let agent = server.session("a");
            for path in state["files"].as_object().unwrap().keys() {
                assert_eq!(agent.get(&format!("/files{path}")).status, 200, "{path}");
            }
            assert_eq!(agent.get("/files/README.md").body, b"# Demo\n\nFixture project.\n");
            assert_eq!(agent.get("/files/other").status, 404);
            let early = agent.get("/files/src/?at=2026-11-24T03:08:10.8Z");
            assert_eq!(early.status, 404, "before the first event there was no such directory");
            counts.push(agent.get("/event/query?limit=1000").json()["count"].as_u64().unwrap());
        }
        server.stop();
    }
    assert!(counts[0] >= 191, "{counts:?}");
    assert_eq!(counts[0], counts[1], "nothing is imported twice");
    let (kept, left) =
        (std::fs::read(source.join("events").join(LOG)), place.path("events").join(LOG));
    assert_eq!(kept.unwrap(), std::fs::read(left).unwrap());
    assert!(!place.path("events/importing").exists());
}

const OLD_SECRET: &str = "lighthouse-fixture-secret-01";

/// What a bridge left beside the store, and a project with a file of its own.
fn with_old_events() -> Place {
    let place = Place::new();
    let source =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/legacy/legacy-log/small");
    std::fs::create_dir_all(place.path("events")).unwrap();
    let log = "events/events_000001.log";
    std::fs::copy(source.join(log), place.path(log)).unwrap();
    std::fs::create_dir_all(place.path("project")).unwrap();
    std::fs::write(place.path("project/other"), "x").unwrap();
    place
}

/// What the files `README.md`, of the old events, and `other`, of the project, are answered with; and what was said.
fn started(command: &mut Command) -> ([u16; 2], String) {
    let mut server = Server::start(command);
    let found = {
        let agent = server.session("a");
        ["README.md", "other"].map(|name| agent.get(&format!("/files/{name}")).status)
    };
    (found, server.stop())
}

#[test]
fn old_events_that_were_left_out_come_at_the_start_that_knows_their_secret() {
    let place = with_old_events();
    for secret in ["", "", "another", "another"] {
        let (found, said) = started(place.command(false).env("LIGHTHOUSE_EVENT_SECRET", secret));
        assert_eq!(found, [404, 200], "{said}");
        let lines = said.lines().filter(|line| line.contains("of the Python bridge were left out"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].contains("start again with theirs in LIGHTHOUSE_EVENT_SECRET"), "{said}");
    }
    for secret in [OLD_SECRET, OLD_SECRET, ""] {
        let (found, said) = started(place.command(false).env("LIGHTHOUSE_EVENT_SECRET", secret));
        assert_eq!(found, [200, 404], "{said}");
        assert!(!said.contains("were left out"), "{said}");
    }
    assert!(place.path("events/set-aside-1/super").exists());
    assert!(!place.path("events/set-aside-2").exists());
    assert!(!place.path("events/importing").exists());
}

#[test]
fn old_events_that_were_left_out_can_be_taken_without_their_secret() {
    let place = with_old_events();
    assert_eq!(started(&mut place.command(false)).0, [404, 200]);
    let (found, said) = started(place.command(false).env("LIGHTHOUSE_IMPORT_UNVERIFIED", "1"));
    assert_eq!(found, [200, 404], "{said}");
}

#[test]
fn a_store_that_somebody_may_have_worked_in_is_never_set_aside() {
    let labelled = |place: &Place| {
        let labelled = run(&["label", "kept", "--store", "events/store"], &place.path(""));
        assert!(labelled.status.success(), "{labelled:?}");
    };
    // The first start was cut short: who knows what was done until it was gone on with.
    let gone_on_with = |place: &Place| {
        std::fs::write(place.path("events/importing"), "files").unwrap();
        assert_eq!(started(&mut place.command(false)).0, [404, 200]);
    };
    let killed = |place: &Place| {
        let mut server = place.serve();
        server.signal(Signal::KILL);
        server.child.wait().unwrap();
    };
    let since: [&dyn Fn(&Place); 3] = [&labelled, &gone_on_with, &killed];
    for (n, since) in since.into_iter().enumerate() {
        // The one that was killed is known to be as it was once it was closed.
        let is_known_later = n == 2;
        let place = with_old_events();
        assert_eq!(started(&mut place.command(false)).0, [404, 200]);
        since(&place);
        let (found, said) =
            started(place.command(false).env("LIGHTHOUSE_EVENT_SECRET", OLD_SECRET));
        assert_eq!(found, [404, 200], "{n}: {said}");
        let why = "the tree has changed since, or its server was not stopped cleanly";
        assert!(said.contains(why), "{n}: {said}");
        assert!(!place.path("events/set-aside-1").exists(), "{n}");
        assert!(!place.path("events/importing").exists(), "{n}");
        let (found, said) =
            started(place.command(false).env("LIGHTHOUSE_EVENT_SECRET", OLD_SECRET));
        assert_eq!(found, if is_known_later { [200, 404] } else { [404, 200] }, "{n}: {said}");
        assert_eq!(place.path("events/set-aside-1").exists(), is_known_later, "{n}");
        assert!(!place.path("events/importing").exists(), "{n}");
    }
}

#[test]
fn old_events_that_were_left_out_are_not_put_over_what_was_done_since() {
    let place = with_old_events();
    let mut server = place.serve();
    assert_eq!(server.session("a").put("/files/mine", b"mine").status, 201);
    server.stop();
    let (store, events) = (place.path("events/store"), place.path("events"));
    let (store, events) = (store.to_str().unwrap(), events.to_str().unwrap());
    let mend = format!("`lighthouse-fuse import --unverified {store} {events}`");
    for _ in 0..2 {
        let mut command = place.command(false);
        let (found, said) = started(command.env("LIGHTHOUSE_EVENT_SECRET", OLD_SECRET));
        assert_eq!(found, [404, 200], "{said}");
        assert!(said.contains("the tree has changed since") && said.contains(&mend), "{said}");
    }
    assert!(!place.path("events/set-aside-1").exists());
    let imported = run(&["import", "--unverified", store, events], &place.path(""));
    assert!(imported.status.success(), "{imported:?}");
    let (found, said) = started(&mut place.command(false));
    assert_eq!(found, [200, 200], "{said}");
    assert!(!said.contains("were left out"), "{said}");
    let server = place.serve();
    assert_eq!(server.session("a").get("/files/mine").body, b"mine");
}

#[test]
fn a_project_that_was_begun_is_gone_on_with_where_the_old_events_make_no_tree() {
    let place = Place::new();
    many_files(&place);
    // One record: a map of short texts.
    let fields = [
        ("event_id", "1000000001_0_lighthouse-01"),
        ("event_type", "agent_registered"),
        ("aggregate_id", "coordinator"),
        ("timestamp", "2026-01-01T00:00:00.000000+00:00"),
    ];
    let mut record = vec![0x80 | u8::try_from(fields.len()).unwrap()];
    for text in fields.into_iter().flat_map(|(name, value)| [name, value]) {
        record.extend([0xd9, u8::try_from(text.len()).unwrap()]);
        record.extend(text.bytes());
    }
    let len = u32::try_from(record.len()).unwrap();
    let log = [&len.to_be_bytes()[..], &[0_u8; 32][..], &record[..]].concat();
    std::fs::create_dir_all(place.path("events")).unwrap();
    std::fs::write(place.path("events/events_000001.log"), log).unwrap();
    let command = || {
        let mut command = place.command(false);
        command.env("LIGHTHOUSE_IMPORT_UNVERIFIED", "1");
        command
    };
    let mut server = Server::start_early(&mut command());
    let health = within_deadline(|| {
        let health = server.get("/health");
        let said = health.json();
        let of_project = said["reason"].as_str().is_some_and(|reason| reason.contains("/project"));
        let begun = of_project && said["progress"]["done"].as_u64() > Some(1 << 20);
        (health.status == 200 || begun).then_some(health)
    });
    assert_eq!(health.status, 503, "the import was over before it could be asked for");
    server.signal(Signal::KILL);
    server.child.wait().unwrap();
    assert_eq!(std::fs::read(place.path("events/importing")).unwrap(), b"files");
    let server = Server::start(&mut command());
    let agent = server.session("a");
    for dir in 0..40 {
        let listed = agent.get(&format!("/files/{dir}")).json();
        assert_eq!(listed["entries"].as_array().unwrap().len(), 100, "{dir}");
    }
    let events = agent.get("/event/query?limit=10").json();
    assert!(events.to_string().contains("agent_registered"), "{events}");
    assert!(!place.path("events/importing").exists());
}

#[test]
fn what_cannot_be_read_does_not_keep_the_rest_of_the_project_out() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let allow = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(place.path(name), mode).unwrap();
    };
    std::fs::create_dir_all(place.path("project/shut")).unwrap();
    for name in ["a", "closed", "shut/in", "z"] {
        std::fs::write(place.path("project").join(name), "x").unwrap();
    }
    allow("project/closed", 0);
    allow("project/shut", 0);
    let plain = place.command(false);
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        // To root nothing is closed.
        allow("", 0o777);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    }
    command.arg(plain.get_program()).arg("serve");
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut server = Server::start(&mut command);
    {
        let agent = server.session("a");
        let found =
            ["a", "closed", "shut", "z"].map(|name| agent.get(&format!("/files/{name}")).status);
        assert_eq!(found, [200, 404, 404, 200]);
    }
    let said = server.stop();
    assert!(said.contains("/project/closed: ") && said.contains("/project/shut: "), "{said}");
    assert!(said.contains("2 entries of "), "{said}");
    allow("project/shut", 0o755);
}

/// A project that takes a while to import.
fn many_files(place: &Place) {
    for dir in 0..40 {
        let dir = place.path(&format!("project/{dir}"));
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..100 {
            std::fs::write(dir.join(file.to_string()), "content").unwrap();
        }
    }
}

#[test]
fn while_a_long_import_runs_health_says_how_far_it_is_and_it_can_be_interrupted() {
    let place = Place::new();
    many_files(&place);
    let mut server = Server::start_early(&mut place.command(false));
    let health = within_deadline(|| {
        let health = server.get("/health");
        let progress = health.json()["progress"].clone();
        (health.status == 200 || progress["done"].as_u64() > Some(0)).then_some(health)
    });
    assert_eq!(health.status, 503, "the import was over before it could be asked for");
    let said = health.json();
    assert_eq!(said["status"], "starting");
    assert!(said["reason"].as_str().unwrap().starts_with("importing "), "{said}");
    assert!(said["progress"]["total"].as_u64() > Some(0), "{said}");
    let agent = server.session("a");
    assert_eq!(agent.get("/files/").status, 503);
    drop(agent);
    server.stop();
    let server = place.serve();
    let agent = server.session("a");
    for dir in 0..40 {
        let listed = agent.get(&format!("/files/{dir}")).json();
        assert_eq!(listed["entries"].as_array().unwrap().len(), 100, "{dir}");
    }
    assert!(!place.path("events/importing").exists());
}

#[test]
fn health_is_an_exit_code() {
    let place = Place::new();
    let mut server = place.serve();
    let url = format!("http://{}/health", server.address());
    let healthy = run(&["health", &url], &place.path(""));
    assert!(healthy.status.success() && healthy.stderr.is_empty(), "{healthy:?}");
    server.stop();
    let gone = run(&["health", &url], &place.path(""));
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(String::from_utf8(gone.stderr).unwrap().lines().count(), 1);
    for wrong in ["https://localhost/", "http://", "localhost", "http://a\r\nb/"] {
        assert_eq!(run(&["health", wrong], &place.path("")).status.code(), Some(1), "{wrong}");
    }
}

#[test]
fn without_a_mount_http_is_served_and_health_says_why() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("at")).unwrap();
    std::fs::write(place.path("at/file"), "in the way").unwrap();
    let mut server = Server::start(&mut place.command(true));
    let health = server.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("degraded")));
    let reason = health.json()["reason"].as_str().unwrap().to_owned();
    let url = format!("http://{}/health", server.address());
    let asked = run(&["health", &url], &place.path(""));
    assert_eq!(asked.status.code(), Some(1));
    assert!(String::from_utf8(asked.stderr).unwrap().contains(&reason));
    {
        let agent = server.session("a");
        assert_eq!(agent.put("/files/f", b"x").status, 201);
    }
    assert_eq!(server.get("/status").json()["components"]["fuse_mount"], "unavailable");
    let said = server.stop();
    let lines = said.lines().filter(|line| line.contains("no mount")).count();
    assert_eq!(lines, 1, "{said}");
}

#[test]
fn an_upload_under_way_may_end_and_one_that_does_not_changes_nothing() {
    let place = Place::new();
    let mut server = place.serve();
    let bearer = server.session("a").bearer();
    let begin = |name: &str, len: usize| {
        let mut stream = server.connect();
        let headers = [("authorization", bearer.as_str()), ("content-length", &len.to_string())];
        send(&mut stream, "PUT", &format!("/files/{name}"), &headers, &vec![b'x'; 1_500_000]);
        stream
    };
    let mut ends = begin("ends", 1_500_001);
    let _stays = begin("stays", 9_000_000);
    // Both are being received.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    server.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    ends.write_all(b"y").unwrap();
    let answer = crate::client::Answer::read(&mut BufReader::new(ends), false);
    assert_eq!(answer.status, 201, "{answer:?}");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let verified = run(&["verify", "events/store"], &place.path(""));
    assert!(verified.status.success(), "{verified:?}");
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(agent.get("/files/ends").body.len(), 1_500_001);
    assert_eq!(agent.get("/files/stays").status, 404);
    let metrics = agent.get("/metrics");
    assert!(metrics.text().contains("\nlighthouse_inodes 2\n"), "{}", metrics.text());
}

#[test]
fn a_killed_server_keeps_what_it_answered() {
    let place = Place::new();
    let mut server = place.serve();
    {
        let agent = server.session("a");
        for n in 0..20 {
            assert_eq!(agent.put(&format!("/files/f{n}"), b"kept").status, 201);
        }
    }
    server.signal(Signal::KILL);
    server.child.wait().unwrap();
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(agent.get("/files/").json()["entries"].as_array().unwrap().len(), 20);
}

#[test]
fn as_process_1_it_takes_in_children_left_to_it_and_ends_on_a_signal() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: a process namespace needs root");
        return;
    }
    let place = Place::new();
    // A long first import, which is no time to leave children lying about either.
    for file in 0..3000 {
        let dir = place.path(&format!("project/{}", file / 100));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file.to_string()), "content").unwrap();
    }
    let plain = place.command(false);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(plain.get_program()).arg("serve");
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut server = Server::start_early(&mut command);
    let children = |of: u32| {
        let all = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
        all.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
    };
    let first = children(server.child.id())[0];
    for _ in 0..2 {
        let leave = ["-p", "sh", "-c", "for n in 1 2 3; do sleep 0.3 & done"];
        let entered = Command::new("nsenter").args(["-t", &first.to_string()]).args(leave).status();
        assert!(entered.unwrap().success());
        assert_eq!(children(first).len(), 3, "their parent has ended");
        within_deadline(|| children(first).is_empty().then_some(()));
        // Once more, with nothing else to do.
        within_deadline(|| (server.get("/health").status == 200).then_some(()));
    }
    let first = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(first, Signal::TERM).unwrap();
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
}
