//! Who may, where the real program serves: sessions that the mount demands, and a policy for all ways in.

use std::path::Path;
use std::process::Command;

use crate::client::{Place, Server};
use crate::mounted::can_mount;

/// What a shell's exit code is, with these variables.
#[track_caller]
fn shell(directory: &Path, script: &str, variables: &[(&str, &str)]) -> bool {
    let mut command = Command::new("timeout");
    command.arg("30").args(["sh", "-c", script]).current_dir(directory);
    command.env_remove("LIGHTHOUSE_SESSION").env_remove("LIGHTHOUSE_AGENT");
    command.envs(variables.iter().copied()).output().unwrap().status.success()
}

#[test]
fn the_mount_lets_in_whoever_has_a_session_while_it_lasts() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut server, current) = place.serve_sessions_alone();
    let token = server.session("builder").token;
    let with = [("LIGHTHOUSE_SESSION", token.as_str())];
    assert!(shell(&current, "mkdir d && echo x > d/f && cat d/f && mv d/f d/g && rm d/g", &with));
    assert!(shell(&current, "env -u LIGHTHOUSE_SESSION touch d/child", &with), "of an ancestor");
    let changed = format!("{}x", &token[..token.len() - 1]);
    for variables in [
        &[][..],
        &[("LIGHTHOUSE_AGENT", "builder")],
        &[("LIGHTHOUSE_SESSION", changed.as_str())],
        &[("LIGHTHOUSE_SESSION", "builder")],
    ] {
        assert!(shell(&current, "ls d && stat d/child", variables));
        for refused in ["cat d/child", "echo x > d/new", "mkdir e", "rm d/child", "mv d e"] {
            assert!(!shell(&current, refused, variables), "{refused} {variables:?}");
        }
    }
    // Three further sessions of the agent end the first one, and what was started in it.
    for _ in 0..3 {
        server.session("builder");
    }
    assert!(!shell(&current, "cat d/child", &with));
    let said = server.stop();
    assert!(said.contains("refused to open") && said.contains("no session"), "{said}");
    assert!(!said.contains(&token), "a token is not logged");
    let text = place.log();
    let (id, rest) = token.split_once(':').unwrap();
    assert!(text.contains(id) && text.contains("builder"), "{text}");
    assert!(!text.contains(rest), "nor is it kept");
}

#[test]
fn what_is_moved_must_be_allowed_where_it_comes_to_lie() {
    let place = Place::new();
    let policy = place.path("policy");
    std::fs::write(&policy, "mover /current/a/keys filesystem_read\n").unwrap();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_FUSE_POLICY", &policy));
    let mover = server.session("mover");
    assert_eq!(mover.put("/files/x/keys?parents=true", b"another's").status, 201);
    let moved = |to: &str| {
        let data = serde_json::json!({ "old_path": "/x", "new_path": to });
        let event = serde_json::json!({ "event_type": "directory_moved", "data": data });
        let destination = format!("http://{}/dav{to}", server.address());
        let by_dav = mover.ask("MOVE", "/dav/x/", &[("destination", &destination)], b"").status;
        (by_dav, mover.store(&event).status)
    };
    assert_eq!(moved("/a"), (403, 403));
    assert_eq!(mover.get("/files/a").status, 404);
    // Elsewhere it may be: by WebDAV, and then it is not there any more.
    assert_eq!(moved("/b"), (201, 409));
}

#[test]
fn a_policy_closes_every_way_in() {
    let place = Place::new();
    let policy = place.path("policy");
    let text = "expert-* / filesystem_read\nexpert-1 /current/shut none\nexpert-2 /history none\n\
        expert-3 /history none\nexpert-3 /streams stream_access\n";
    std::fs::write(&policy, text).unwrap();
    let mut command = place.command(false);
    let mut server = Server::start(command.env("LIGHTHOUSE_FUSE_POLICY", &policy));
    {
        let (builder, expert) = (server.session("builder"), server.session("expert-1"));
        for path in ["shut/f", "open/f"] {
            let path = format!("/files/{path}?parents=true");
            assert_eq!(builder.put(&path, b"content").status, 201);
        }
        assert_eq!(expert.get("/files/open/f").status, 200);
        assert_eq!(expert.get("/dav/open/f").status, 200);
        let to = |path: &str| format!("http://{}/dav/{path}", server.address());
        let refused = [
            ("GET", "/files/shut/f", ""),
            ("GET", "/files/shut/f?at=@5000", "absent"),
            ("GET", "/dav/shut/f", ""),
            ("PUT", "/files/open/f", ""),
            ("PUT", "/files/open/new", ""),
            ("PUT", "/files/open/new/", ""),
            ("DELETE", "/files/open/f", ""),
            ("DELETE", "/files/open?recursive=true", ""),
            ("PUT", "/dav/open/f", ""),
            ("MKCOL", "/dav/open/d", ""),
            ("MOVE", "/dav/open/f", "open/g"),
            ("COPY", "/dav/open/f", "open/g"),
            ("COPY", "/dav/shut/f", "open/g"),
        ];
        for (method, path, other) in refused {
            let destination = to(other);
            let answer = expert.ask(method, path, &[("destination", &destination)], b"");
            let expected = if other == "absent" { 404 } else { 403 };
            assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
            assert!(answer.json()["detail"].is_string(), "{method} {path}");
        }
        let event = |kind: &str, data: serde_json::Value| serde_json::json!({ "event_type": kind, "data": data });
        let created = event("file_created", serde_json::json!({ "path": "/open/new" }));
        assert_eq!(expert.store(&created).status, 403);
        let deleted = event("file_deleted", serde_json::json!({ "path": "/open/f" }));
        assert_eq!(expert.store(&deleted).status, 403);
        assert_eq!(expert.store(&event("agent_heartbeat", serde_json::json!({}))).status, 200);
        let package = serde_json::json!({ "package_id": "p", "files_involved": ["/shut/f"] });
        let make = |by: &crate::client::Session<'_>| {
            by.ask("POST", "/context/packages", &[], package.to_string().as_bytes()).status
        };
        assert_eq!((make(&expert), make(&builder)), (403, 201));
        // What `streams/` and `context/` of a mount show is closed here as it is there.
        for path in ["/events", "/events/stream", "/event/query", "/context/packages"] {
            assert_eq!(expert.get(path).status, 403, "{path}");
        }
        for method in ["GET", "DELETE"] {
            assert_eq!(expert.ask(method, "/context/packages/p", &[], b"").status, 403, "{method}");
        }
        assert_eq!(builder.get("/context/packages").json()["count"], 1);
        let contents = |by: &crate::client::Session<'_>| -> Vec<Option<String>> {
            let found = by.get("/event/query?event_type=file_created").json();
            let events = found["events"].as_array().unwrap().iter();
            events.map(|event| Some(event["data"]["content"].as_str()?.to_owned())).collect()
        };
        assert_eq!(contents(&builder), [Some("content".to_owned()), Some("content".to_owned())]);
        assert_eq!(
            contents(&server.session("expert-3")),
            [None::<String>, None],
            "it is of the past"
        );
        let other = server.session("expert-2");
        assert_eq!(other.get("/files/shut/f").status, 200);
        assert_eq!(other.get("/files/shut/f?at=0min-ago").status, 403);
        assert_eq!(builder.get("/files/open/f").body, b"content");
    }
    let said = server.stop();
    assert!(said.contains("refused to serve over HTTP"), "{said}");
    for (line, why) in
        [("expert-1 /current maybe\n", "maybe"), ("* /history/@5 none\n", "/history is judged")]
    {
        std::fs::write(&policy, line).unwrap();
        let mut command = place.command(false);
        let output = command.env("LIGHTHOUSE_FUSE_POLICY", &policy).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.lines().count() == 1 && said.contains("line 1") && said.contains(why),
            "{said}"
        );
    }
}

#[test]
fn one_package_or_stream_is_closed_as_it_is_in_the_mount() {
    let place = Place::new();
    let policy = place.path("policy");
    let text = "agent /context/secret none\nagent /context/half/manifest.json none\n\
        watcher /streams/file_changes none\nlate /streams/from none\n";
    std::fs::write(&policy, text).unwrap();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_FUSE_POLICY", &policy));
    let (builder, agent) = (server.session("builder"), server.session("agent"));
    for id in ["half", "open", "secret"] {
        let package = serde_json::json!({ "package_id": id }).to_string();
        let made = builder.ask("POST", "/context/packages", &[], package.as_bytes());
        assert_eq!(made.status, 201, "{made:?}");
    }
    let ask = |method, id| agent.ask(method, &format!("/context/packages/{id}"), &[], b"").status;
    for id in ["half", "secret"] {
        assert_eq!((ask("GET", id), ask("DELETE", id)), (403, 403), "{id}");
    }
    let listed = agent.get("/context/packages").json();
    assert_eq!(listed["count"], 1);
    assert_eq!(listed["packages"][0]["package_id"], "open");
    assert_eq!(builder.get("/context/packages").json()["count"], 3);
    assert_eq!((ask("GET", "open"), ask("DELETE", "open")), (200, 204));
    for who in ["watcher", "late"] {
        let closed = server.session(who);
        for path in ["/events?type=file_modified", "/events/stream", "/event/query"] {
            assert_eq!(closed.get(path).status, 403, "{who} {path}");
        }
    }
    assert_eq!(agent.get("/events?type=file_modified").status, 200);
}
