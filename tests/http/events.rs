//! Events over HTTP: kept, found, paged through, followed.

use std::io::BufReader;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Place, Server, Session, read_chunk, read_head, send};

fn stored(agent: &Session<'_>, kind: &str, data: &Value) -> crate::client::Answer {
    agent.store(&json!({ "event_type": kind, "data": data, "agent_id": "mcp_server" }))
}

#[test]
fn events_about_files_change_the_tree() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("mcp_server");
    let steps = [
        ("file_created", json!({"path": "/src/a.py", "content": "one\n"}), 200),
        ("FILE_MODIFIED", json!({"path": "/src/a.py", "content": "two\n"}), 200),
        ("file_copied", json!({"source_path": "/src/a.py", "dest_path": "/lib/b.py"}), 200),
        ("file_moved", json!({"old_path": "/lib/b.py", "new_path": "/c.py"}), 200),
        ("directory_created", json!({"path": "/docs"}), 200),
        ("directory_created", json!({"path": "/docs"}), 409),
        ("directory_moved", json!({"old_path": "/src", "new_path": "/code"}), 200),
        ("directory_deleted", json!({"path": "/lib"}), 200),
        ("file_deleted", json!({"path": "/docs"}), 409),
        ("file_deleted", json!({"path": "/none"}), 409),
        ("file_deleted", json!({"path": "/none/at/all"}), 409),
        ("file_moved", json!({"old_path": "/none", "new_path": "/some"}), 409),
        ("file_created", json!({"path": "/c.py/x", "content": ""}), 409),
        ("file_created", json!({"content": ""}), 422),
        ("file_created", json!({"path": 5}), 422),
        ("file_created", json!({"path": "/../x"}), 400),
        ("file_created", json!({"path": "/a", "content": 5}), 422),
    ];
    for (kind, data, status) in steps {
        let answer = stored(&agent, kind, &data);
        assert_eq!(answer.status, status, "{kind} {data}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.json()["sequence"], answer.json()["event_id"]["sequence"]);
        } else {
            assert!(!answer.json()["detail"].is_null());
        }
    }
    assert_eq!(agent.get("/files/code/a.py").body, b"two\n");
    assert_eq!(agent.get("/files/c.py").body, b"two\n");
    let listed = agent.get("/files/").json();
    let mut names: Vec<&str> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["c.py", "code", "docs"]);
}

#[test]
fn what_is_answered_of_a_change_is_found_again() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let steps = [
        ("file_created", json!({"path": "/a", "content": "longer than what follows"})),
        ("file_created", json!({"path": "/b", "content": "b"})),
        ("file_modified", json!({"path": "/a", "content": "short"})),
        ("file_modified", json!({"path": "/a", "content": ""})),
        ("file_copied", json!({"source_path": "/b", "dest_path": "/c"})),
        ("file_copied", json!({"source_path": "/b", "dest_path": "/a"})),
        ("file_moved", json!({"old_path": "/a", "new_path": "/d/a"})),
        ("file_moved", json!({"old_path": "/b", "new_path": "/c"})),
        ("directory_created", json!({"path": "/e/f"})),
        ("directory_moved", json!({"old_path": "/e", "new_path": "/g"})),
        ("directory_deleted", json!({"path": "/g"})),
        ("file_deleted", json!({"path": "/c"})),
    ];
    for (kind, data) in steps {
        let said = stored(&agent, kind, &data);
        assert_eq!(said.status, 200, "{kind} {data}: {said:?}");
        let said = said.json();
        let events = agent.get("/event/query?limit=1000").json();
        let events = events["events"].as_array().unwrap();
        let found = events.iter().find(|event| event["event_id"] == said["event_id"]);
        let found = found.unwrap_or_else(|| panic!("{kind} {data}: {said} is not in {events:?}"));
        assert_eq!(found["sequence"], said["sequence"], "{kind} {data}");
    }
}

#[test]
fn other_events_are_kept_with_all_they_say() {
    let place = Place::new();
    let mut server = place.serve();
    let body = json!({
        "event_type": "CUSTOM", "aggregate_id": "x", "aggregate_type": "t", "agent_id": "somebody",
        "data": {"deep": [1, {"a": "\u{e4}"}]}, "metadata": {"k": "v"},
    });
    let sequence = {
        let agent = server.session("a");
        agent.store(&body).json()["sequence"].as_u64().unwrap()
    };
    server.stop();
    let server = place.serve();
    let agent = server.session("a");
    let page = agent.get("/events?type=custom").json();
    let event = &page["events"][0];
    assert_eq!(event["sequence"], sequence);
    for name in ["aggregate_id", "aggregate_type", "data", "metadata"] {
        assert_eq!(event[name], body[name]);
    }
    assert_eq!(
        (&event["source_agent"], &event["event_type"]),
        (&json!("somebody"), &json!("custom"))
    );
    assert_eq!(event.as_object().unwrap().len(), 14, "thirteen fields and the cursor: {event}");
}

#[test]
fn pages_join_without_a_gap_and_filters_hold() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    for n in 0..30 {
        agent.put(&format!("/files/f{n}"), b"x");
        agent.put(&format!("/files/f{n}"), b"yy");
    }
    let whole = agent.get("/events?limit=1000").json();
    assert_eq!(whole["end"], true);
    let cursors = |page: &Value| -> Vec<String> {
        let events = page["events"].as_array().unwrap();
        events.iter().map(|event| event["cursor"].as_str().unwrap().to_owned()).collect()
    };
    let (mut joined, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let page = agent.get(&format!("/events?limit=7&after={after}")).json();
        joined.extend(cursors(&page));
        after = page["next"].as_str().unwrap().to_owned();
        if page["end"] == true {
            break;
        }
    }
    assert_eq!(joined, cursors(&whole));
    let one = agent.get("/events?path=/f7").json();
    let kinds: Vec<&Value> =
        one["events"].as_array().unwrap().iter().map(|event| &event["event_type"]).collect();
    assert_eq!(kinds, ["file_created", "file_modified"]);
    assert_eq!(agent.get("/events?agent=nobody").json()["events"], json!([]));
    assert_eq!(agent.get("/events?until=2001-01-01").json()["events"], json!([]));
    assert_eq!(agent.get("/events?since=1h-ago&limit=1000").json()["events"], whole["events"]);
    assert_eq!(agent.get("/events?since=never").status, 422);
    assert_eq!(agent.get("/events?after=x").status, 400);
    let beyond = agent.get("/events?after=18446744073709551615");
    assert_eq!((beyond.status, &beyond.json()["events"]), (200, &json!([])));
    assert_eq!(agent.get("/event/query?limit=3").json()["count"], 3);
}

/// Reads server-sent events until there are `count` of them; their ids and data.
fn followed(
    server: &Server,
    agent: &Session<'_>,
    target: &str,
    last: Option<&str>,
    count: usize,
    act: impl FnOnce(),
) -> Vec<(String, Value)> {
    let mut stream = server.connect();
    let bearer = agent.bearer();
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(last.map(|last| ("last-event-id", last)));
    send(&mut stream, "GET", target, &headers, b"");
    let mut reader = BufReader::new(stream);
    let (status, headers) = read_head(&mut reader);
    assert_eq!((status, headers["content-type"].as_str()), (200, "text/event-stream"));
    let mut text = String::from_utf8(read_chunk(&mut reader).unwrap()).unwrap();
    act();
    loop {
        let events: Vec<(String, Value)> = text
            .split("\n\n")
            .filter_map(|event| {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                Some((field("id: ")?.to_owned(), serde_json::from_str(field("data: ")?).unwrap()))
            })
            .collect();
        if events.len() >= count {
            return events;
        }
        text += &String::from_utf8(read_chunk(&mut reader).expect("the stream goes on")).unwrap();
    }
}

#[test]
fn a_stream_tells_events_as_they_come_and_goes_on_where_it_was() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    agent.put("/files/before", b"x");
    let act = || {
        agent.put("/files/one", b"1");
        agent.put("/files/two", b"2");
        agent.put("/files/three", b"3");
    };
    let events = followed(&server, &agent, "/events/stream", None, 3, act);
    let paths: Vec<&Value> = events.iter().map(|(_, event)| &event["data"]["path"]).collect();
    assert_eq!(paths, ["/one", "/two", "/three"]);
    // Whoever comes back says what it had last.
    let again = followed(&server, &agent, "/events/stream", Some(&events[0].0), 2, || ());
    assert_eq!(again, events[1..]);
    let filtered = followed(&server, &agent, "/events/stream?after=0&path=/before", None, 1, || ());
    assert_eq!(filtered[0].1["data"]["path"], "/before");
    // Nobody is told twice, and nothing is left out, however fast it comes.
    let after = events.last().unwrap().0.clone();
    let act = || (0..300).for_each(|n| drop(agent.put(&format!("/files/many{n}"), b"x")));
    let many = followed(&server, &agent, "/events/stream", Some(&after), 300, act);
    let names: Vec<String> =
        many.iter().map(|(_, event)| event["data"]["path"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..300).map(|n| format!("/many{n}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn a_stream_says_where_it_is_before_it_tells_anything() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    agent.put("/files/before", b"x");
    agent.put("/files/before", b"y");
    let mut stream = server.connect();
    send(&mut stream, "GET", "/events/stream", &[("authorization", &agent.bearer())], b"");
    let mut reader = BufReader::new(stream);
    read_head(&mut reader);
    let begin = String::from_utf8(read_chunk(&mut reader).unwrap()).unwrap();
    let id = begin.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    // The connection ends before anything happened, and comes back after something did.
    drop(reader);
    agent.put("/files/between", b"x");
    let events = followed(&server, &agent, "/events/stream", Some(id), 1, || ());
    assert_eq!(events[0].1["data"]["path"], "/between");
}

#[test]
fn long_events_are_told_a_few_at_a_time() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let text = "x".repeat(3 << 20);
    for n in 0..4 {
        assert_eq!(stored(&agent, "custom", &json!({ "n": n, "text": text })).status, 200);
    }
    assert_eq!(stored(&agent, "custom", &json!({ "n": 4 })).status, 200);
    let (mut pages, mut told, mut after) = (Vec::new(), Vec::new(), "0".to_owned());
    loop {
        let page = agent.get(&format!("/events?type=custom&after={after}")).json();
        let events = page["events"].as_array().unwrap();
        pages.push(events.len());
        told.extend(events.iter().map(|event| event["data"].clone()));
        after = page["next"].as_str().unwrap().to_owned();
        if page["end"] == true {
            break;
        }
    }
    assert_eq!(pages, [2, 2, 1], "of 4 MiB, and what was begun");
    // There is no cursor to go on from: it comes piece by piece.
    let found = agent.get("/event/query?event_type=custom");
    assert_eq!((found.status, found.header("transfer-encoding")), (200, "chunked"));
    let found = found.json();
    assert_eq!((&found["count"], &found["message"]), (&json!(5), &json!("5 events")));
    let data: Vec<Value> =
        found["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect();
    assert!(data == told, "what pages tell and what a query finds is the same");
    let target = "/events/stream?after=0&type=custom";
    let events = followed(&server, &agent, target, None, 5, || ());
    assert!(events.iter().map(|(_, event)| &event["data"]).eq(&told));
}

#[test]
fn who_looks_for_what_is_nowhere_keeps_nobody_waiting() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    agent.put("/files/f", b"x");
    // It takes a while to read these.
    let data = json!({ "numbers": vec![0; 1 << 18] });
    for _ in 0..40 {
        assert_eq!(stored(&agent, "custom", &data).status, 200);
    }
    let target = "/event/query?agent_id=nobody";
    let begun = Instant::now();
    assert_eq!(agent.get(target).json()["count"], 0);
    let alone = begun.elapsed();
    let bearer = agent.bearer();
    let ask = |_| {
        let mut stream = server.connect();
        send(&mut stream, "GET", target, &[("authorization", &bearer)], b"");
        stream
    };
    let asking: Vec<_> = (0..24).map(ask).collect();
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    assert_eq!(agent.get("/files/f").body, b"x");
    let waited = begun.elapsed();
    assert!(waited < alone.max(Duration::from_secs(1)), "{waited:?} beside {alone:?}");
    // Whoever gives up is not looked for any more.
    drop(asking);
    let begun = Instant::now();
    assert_eq!(agent.get(target).json()["count"], 0);
    let took = begun.elapsed();
    assert!(took < alone * 4 + Duration::from_secs(1), "{took:?} after {alone:?}");
}

#[test]
fn a_stream_ends_when_the_server_stops() {
    let place = Place::new();
    let mut server = place.serve();
    let mut stream = server.connect();
    let bearer = server.session("a").bearer();
    send(&mut stream, "GET", "/events/stream", &[("authorization", &bearer)], b"");
    let mut reader = BufReader::new(stream);
    read_head(&mut reader);
    assert!(read_chunk(&mut reader).is_some());
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(read_chunk(&mut reader).is_none());
}
