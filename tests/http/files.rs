//! The tree over `/files/`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Place;

#[test]
fn a_file_is_made_read_replaced_and_taken_away() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("agent-7");
    let made = agent.put("/files/a.txt", b"hello, world\n");
    assert_eq!(made.status, 201, "{made:?}");
    let got = agent.get("/files/a.txt");
    assert_eq!((got.status, &*got.body), (200, &b"hello, world\n"[..]));
    assert_eq!(got.header("etag"), made.header("etag"));
    assert_eq!(agent.ask("HEAD", "/files/a.txt", &[], b"").header("content-length"), "13");
    let then = made.header("lighthouse-sequence").to_owned();
    // Shorter than what was there, and nothing at all.
    for content in [&b"bye\n"[..], b"", b"longer than all before it\n"] {
        assert_eq!(agent.put("/files/a.txt", content).status, 204);
        assert_eq!(agent.get("/files/a.txt").body, content);
    }
    assert_eq!(agent.get(&format!("/files/a.txt?at=@{then}")).body, b"hello, world\n");
    let gone = agent.ask("DELETE", "/files/a.txt", &[], b"");
    assert_eq!(gone.status, 204);
    assert_eq!(agent.get("/files/a.txt").status, 404);
    assert_eq!(agent.get(&format!("/files/a.txt?at=@{then}")).body, b"hello, world\n");
    // The log says who did it.
    let events = agent.get("/events?path=/a.txt").json();
    let events = events["events"].as_array().unwrap();
    assert_eq!(events.first().unwrap()["event_type"], "file_created");
    assert_eq!(events.last().unwrap()["event_type"], "file_deleted");
    let sequence = events.last().unwrap()["sequence"].to_string();
    assert_eq!(gone.header("lighthouse-sequence"), sequence);
    let session = agent.token.split(':').next().unwrap();
    for event in events {
        assert_eq!(event["source_agent"], "agent-7");
        assert_eq!(event["metadata"]["session_id"], session);
    }
}

#[test]
fn long_uploads_are_whole_and_leave_nothing_behind() {
    let place = Place::new();
    let mut server = place.serve();
    let agent = server.session("a");
    let long: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    assert_eq!(agent.put("/files/long", &long).status, 201);
    assert!(agent.get("/files/long").body == long);
    let longer: Vec<u8> = long.iter().rev().chain(&long).copied().collect();
    assert_eq!(agent.put("/files/long", &longer).status, 204);
    assert!(agent.get("/files/long").body == longer);
    let shorter = &long[..2_000_000];
    assert_eq!(agent.put("/files/long", shorter).status, 204);
    assert!(agent.get("/files/long").body == shorter);
    let metrics = agent.get("/metrics");
    let inodes = metrics.text().lines().find_map(|line| line.strip_prefix("lighthouse_inodes "));
    assert_eq!(inodes, Some("2"), "the root and the file");
    server.stop();
    let verified = crate::client::run(&["verify", "events/store"], &place.path(""));
    assert!(verified.status.success(), "{verified:?}");
}

/// A long content and a shorter one, each of a letter of its own: in the event itself, in a content file, and staged.
pub(crate) const CONTENTS: [[(u8, usize); 2]; 3] = [
    [(b'A', 4000), (b'B', 30)],
    [(b'C', 60_000), (b'D', 9000)],
    [(b'E', 3 << 20), (b'F', 2 << 20)],
];

/// Whether `bytes` are one of [`CONTENTS`], all of it.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    CONTENTS
        .as_flattened()
        .iter()
        .any(|&(letter, len)| bytes.len() == len && bytes.iter().all(|&byte| byte == letter))
}

#[test]
fn no_event_leaves_a_mixture_of_what_was_there_and_what_is_put_there() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let first = agent.put("/files/f", &[b'A'; 4000]).header("lighthouse-sequence").to_owned();
    let first: u64 = first.parse().unwrap();
    for way in ["files", "dav"] {
        for (letter, len) in CONTENTS.into_iter().flatten() {
            let tag = agent.get("/files/f").header("etag").to_owned();
            let body = vec![letter; len];
            let put = agent.ask("PUT", &format!("/{way}/f"), &[("if-match", &tag)], &body);
            assert_eq!(put.status, 204, "{put:?}");
            // The tag is that of the last event: nothing more is done to the file.
            let now = agent.get("/files/f");
            assert_eq!(put.header("etag"), now.header("etag"));
            assert!(now.body == body, "{} bytes of {len}", now.body.len());
        }
    }
    let last: u64 = agent.get("/files/").header("lighthouse-sequence").parse().unwrap();
    for at in first..=last {
        let got = agent.get(&format!("/files/f?at=@{at}"));
        assert!(got.status == 200 && is_whole(&got.body), "@{at}: {} bytes", got.body.len());
    }
}

#[test]
fn a_killed_server_leaves_no_mixture_of_what_was_there_and_what_is_put_there() {
    let place = Place::new();
    let (mut first, mut tag) = (0, String::new());
    for round in 0..=4 {
        let mut server = place.serve();
        {
            let agent = server.session("a");
            if round == 0 {
                let made = agent.put("/files/f", &[b'A'; 4000]);
                first = made.header("lighthouse-sequence").parse().unwrap();
            }
            // After each event since the last kill.
            let now = agent.get("/files/");
            let last: u64 = now.header("lighthouse-sequence").parse().unwrap();
            for at in first..=last {
                let path = format!("/files/f?at=@{at}");
                let then = agent.ask("GET", &path, &[("if-none-match", &tag)], b"");
                if then.status != 304 {
                    assert!(is_whole(&then.body), "@{at}: {} {}", then.status, then.body.len());
                    then.header("etag").clone_into(&mut tag);
                }
            }
            first = last;
            if round == 4 {
                break;
            }
            std::thread::scope(|scope| {
                let bearer = agent.bearer();
                let server = &server;
                scope.spawn(move || {
                    loop {
                        for (letter, len) in CONTENTS.into_iter().flatten() {
                            let Ok(mut stream) = TcpStream::connect(server.address()) else {
                                return;
                            };
                            let headers = [("authorization", bearer.as_str())];
                            let _ = try_send(&mut stream, "/files/f", &headers, &vec![letter; len]);
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(200 + 70 * round));
                server.signal(Signal::KILL);
            });
        }
        server.child.wait().unwrap();
    }
    let verified = crate::client::run(&["verify", "events/store"], &place.path(""));
    assert!(verified.status.success(), "{verified:?}");
}

/// Puts a file, as far as the server goes along.
fn try_send(
    stream: &mut TcpStream,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("PUT {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn parts_of_a_file_are_given() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let made = agent.put("/files/f", b"0123456789");
    let part = |range| agent.ask("GET", "/files/f", &[("range", range)], b"");
    let some = part("bytes=2-4");
    assert_eq!(
        (some.status, &*some.body, some.header("content-range")),
        (206, &b"234"[..], "bytes 2-4/10")
    );
    assert_eq!(part("bytes=-3").body, b"789");
    assert_eq!(part("bytes=8-").body, b"89");
    assert_eq!(part("bytes=0-1,3-4").status, 200);
    let beyond = part("bytes=10-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
    let if_range =
        |tag| agent.ask("GET", "/files/f", &[("range", "bytes=0-0"), ("if-range", tag)], b"");
    assert_eq!(if_range(made.header("etag")).status, 206);
    assert_eq!(if_range("\"1-1\"").status, 200);
}

#[test]
fn conditions_are_those_of_http() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let with =
        |method, name, value, body: &[u8]| agent.ask(method, "/files/f", &[(name, value)], body);
    assert_eq!(with("PUT", "if-match", "*", b"x").status, 412);
    let first = with("PUT", "if-none-match", "*", b"one");
    assert_eq!(first.status, 201);
    assert_eq!(with("PUT", "if-none-match", "*", b"two").status, 412);
    let tag = first.header("etag");
    assert_eq!(with("GET", "if-none-match", tag, b"").status, 304);
    let second = with("PUT", "if-match", tag, b"two");
    assert_eq!(second.status, 204);
    assert_eq!(with("PUT", "if-match", tag, b"three").status, 412);
    assert_eq!(with("DELETE", "if-match", tag, b"").status, 412);
    assert_eq!(with("GET", "if-match", tag, b"").status, 412);
    assert_eq!(agent.get("/files/f").body, b"two");
    assert_eq!(with("DELETE", "if-match", second.header("etag"), b"").status, 204);
}

#[test]
fn what_is_refused_leaves_no_directories_behind() {
    let place = Place::new();
    let mut command = place.command(false);
    let server = crate::client::Server::start(command.env("LIGHTHOUSE_UPLOAD_MAX", "1M"));
    let agent = server.session("a");
    let path = "/files/new/sub/f?parents=true";
    for path in [path, "/files/new/sub/?parents=true"] {
        assert_eq!(agent.ask("PUT", path, &[("if-match", "*")], b"").status, 412, "{path}");
    }
    assert_eq!(agent.put(path, &vec![0; (1 << 20) + 1]).status, 413);
    let chunks = [("transfer-encoding", "chunked")];
    assert_eq!(agent.ask("PUT", path, &chunks, b"1\r\nx\r\nzz\r\n").status, 400);
    let moved = json!({ "old_path": "/none", "new_path": "/new/sub/f" });
    let moved = agent.store(&json!({ "event_type": "file_moved", "data": moved }));
    assert_eq!(moved.status, 409);
    assert_eq!(agent.get("/files/").json()["entries"], json!([]));
    let new = [("if-none-match", "*")];
    assert_eq!(agent.ask("PUT", path, &new, b"x").status, 201);
    assert_eq!(agent.ask("PUT", path, &new, b"y").status, 412);
    assert_eq!(agent.get("/files/new/sub/f").body, b"x");
}

#[test]
fn what_is_kept_is_asked_for_again_and_a_listing_is_always_given() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    agent.put("/files/d/f?parents=true", b"one");
    let listed = agent.get("/files/d");
    assert_eq!(listed.json()["entries"][0]["size"], 3);
    // It touches the file alone.
    assert_eq!(agent.put("/files/d/f", b"another").status, 204);
    let seen = [("if-none-match", listed.header("etag"))];
    let again = agent.ask("GET", "/files/d", &seen, b"");
    assert_eq!((again.status, &again.json()["entries"][0]["size"]), (200, &json!(7)));
    let file = agent.get("/files/d/f");
    let seen = [("if-none-match", file.header("etag"))];
    let same = agent.ask("GET", "/files/d/f", &seen, b"");
    let missing = agent.get("/files/none");
    assert_eq!((file.status, same.status, missing.status), (200, 304, 404));
    for answer in [&listed, &again, &file, &same, &missing] {
        assert_eq!(answer.header("cache-control"), "no-cache", "{answer:?}");
    }
}

#[test]
fn of_many_who_replace_what_they_saw_one_succeeds() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let tag = agent.put("/files/f", b"0").header("etag").to_owned();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8_u8)
            .map(|n| {
                let (agent, tag) = (&agent, &tag);
                scope.spawn(move || {
                    agent.ask("PUT", "/files/f", &[("if-match", tag)], &[n; 100]).status
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 204).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 412).count(), 7, "{statuses:?}");
}

#[test]
fn directories_are_made_listed_and_taken_away() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(agent.put("/files/d/e/", b"").status, 404);
    assert_eq!(agent.put("/files/d/e/?parents=true", b"").status, 201);
    assert_eq!(agent.put("/files/d/e/", b"").status, 204);
    assert_eq!(agent.put("/files/d/e", b"x").status, 409);
    assert_eq!(agent.put("/files/d/x/", b"content").status, 400);
    assert_eq!(agent.put("/files/new/sub/f?parents=true&mode=755", b"#!/bin/sh\n").status, 201);
    for name in ["%ff%00", "%ff"] {
        let status = agent.put(&format!("/files/d/{name}"), b"odd").status;
        assert_eq!(status, if name.len() > 3 { 400 } else { 201 });
    }
    let listed = agent.get("/files/d").json();
    let mut urls: Vec<&str> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["url"].as_str().unwrap())
        .collect();
    urls.sort_unstable();
    assert_eq!(urls, ["/files/d/%FF", "/files/d/e/"]);
    assert_eq!(agent.get("/files/d/%FF").body, b"odd");
    let sub = agent.get("/files/new/sub/").json();
    assert_eq!((&sub["entries"][0]["mode"], &sub["next"]), (&json!("0755"), &Value::Null));
    assert_eq!(agent.ask("DELETE", "/files/d", &[], b"").status, 409);
    assert_eq!(agent.ask("DELETE", "/files/d?recursive=true", &[], b"").status, 204);
    assert_eq!(agent.ask("DELETE", "/files/", &[], b"").status, 409);
    assert_eq!(agent.get("/files/").json()["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn many_who_make_the_same_directories_at_once_all_succeed() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    for round in 0..20 {
        std::thread::scope(|scope| {
            for n in 0..8 {
                let agent = &agent;
                scope.spawn(move || {
                    let path = format!("/files/{round}/a/b/{n}?parents=true");
                    let made = agent.put(&path, b"x");
                    assert_eq!(made.status, 201, "{path}: {made:?}");
                });
            }
        });
    }
}

#[test]
fn a_tree_as_deep_as_paths_go_is_made_and_taken_away() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let deep = format!("/files/{}", "d/".repeat(2000));
    let made = agent.put(&format!("{deep}?parents=true"), b"");
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(agent.put(&format!("{deep}f"), b"x").status, 201);
    assert_eq!(agent.ask("DELETE", "/files/d?recursive=true", &[], b"").status, 204);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(agent.get("/files/").json()["entries"], json!([]));
}

#[test]
fn a_long_listing_comes_in_pages() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    for n in 0..25 {
        agent.put(&format!("/files/f{n}"), b"");
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = agent.get(&format!("/files/?limit=10{after}")).json();
        let entries = page["entries"].as_array().unwrap();
        names.extend(entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

#[test]
fn the_user_that_http_acts_as_may_do_what_modes_say() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let place = Place::new();
    let project = place.path("project");
    std::fs::create_dir_all(project.join("open")).unwrap();
    std::fs::create_dir_all(project.join("closed")).unwrap();
    std::fs::write(project.join("closed/f"), "s").unwrap();
    std::fs::write(project.join("secret"), "s").unwrap();
    std::fs::write(project.join("shown"), "s").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", project.join("out")).unwrap();
    std::os::unix::fs::symlink("shown", project.join("in")).unwrap();
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(project.join(name), std::fs::Permissions::from_mode(mode))
            .unwrap();
    };
    mode("", 0o755);
    mode("open", 0o777);
    mode("closed", 0o700);
    mode("closed/f", 0o644);
    mode("secret", 0o600);
    mode("shown", 0o644);
    let mut command = place.command(false);
    command.env("LIGHTHOUSE_HTTP_UID", "1234").env("LIGHTHOUSE_HTTP_GID", "1234");
    let server = crate::client::Server::start(&mut command);
    let agent = server.session("a");
    assert_eq!(agent.get("/files/secret").status, 403);
    assert_eq!(agent.get("/files/shown").body, b"s");
    assert_eq!(agent.get("/files/in").body, b"s");
    assert_eq!(agent.get("/files/out").status, 403);
    assert_eq!(agent.put("/files/shown", b"x").status, 403);
    assert_eq!(agent.put("/files/new", b"x").status, 403);
    assert_eq!(agent.ask("DELETE", "/files/shown", &[], b"").status, 403);
    assert_eq!(agent.put("/files/open/new", b"x").status, 201);
    let listed = agent.get("/files/open").json();
    assert_eq!(listed["entries"][0]["uid"], 1234);
    let files = ["/shown", "/missing", "/shown/below", "/secret", "/closed/f", "/closed/missing"];
    for (file, status) in files.into_iter().zip([201, 201, 201, 403, 403, 403]) {
        let package =
            serde_json::json!({ "package_id": file.replace('/', "-"), "files_involved": [file] });
        let made = agent.ask("POST", "/context/packages", &[], package.to_string().as_bytes());
        assert_eq!(made.status, status, "{file}: {made:?}");
    }
}

#[test]
fn what_is_made_has_the_mode_that_was_asked_for() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    for (path, status) in [
        ("/files/f?mode=666", 201),
        ("/files/g?mode=664", 201),
        ("/files/g?mode=622", 204),
        ("/files/usual", 201),
        ("/files/d/?mode=777", 201),
        ("/files/e/?mode=700", 201),
        ("/files/e/?mode=750", 204),
        ("/files/deep/usual/?parents=true", 201),
    ] {
        assert_eq!(agent.put(path, b"").status, status, "{path}");
    }
    let listed = agent.get("/files/").json();
    let mut modes: Vec<(&str, &str)> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry["mode"].as_str().unwrap()))
        .collect();
    modes.sort_unstable();
    let expected = [
        ("d", "0777"),
        ("deep", "0755"),
        ("e", "0750"),
        ("f", "0666"),
        ("g", "0622"),
        ("usual", "0644"),
    ];
    assert_eq!(modes, expected);
}
