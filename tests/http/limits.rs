//! What nobody should send, and what comes of it: a 4xx that says why, and a server that goes on.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::client::{Place, Server};

/// Requests that make no sense, for any path and method; a session is put where `@` stands.
const CORPUS: &[&str] = &[
    "GET /files/%zz HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/a%00b HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/../../etc/passwd HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n@\r\n\r\n",
    "GET /files//a HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?limit=0 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?limit=99999999999999999999 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?after=-1 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?at=@99999 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?at=@18446744073709551616 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?at=@0 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?at=%ff HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/?at=0001-01-01 HTTP/1.1\r\n@\r\n\r\n",
    "GET /files/x?recursive=maybe HTTP/1.1\r\n@\r\n\r\n",
    "DELETE /files/x?recursive=maybe HTTP/1.1\r\n@\r\n\r\n",
    "PUT /files/x?mode=999 HTTP/1.1\r\n@\r\ncontent-length: 0\r\n\r\n",
    "PUT /files/x?mode=-1 HTTP/1.1\r\n@\r\ncontent-length: 0\r\n\r\n",
    "PUT /files/x HTTP/1.1\r\n@\r\ncontent-length: 5\r\ncontent-range: bytes 0-4/5\r\n\r\nhello",
    "PUT /files/x HTTP/1.1\r\n@\r\ncontent-length: 99999999999\r\n\r\n",
    "PUT /files/x HTTP/1.1\r\n@\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "PUT /files/x HTTP/1.1\r\n@\r\ncontent-length: 10\r\n\r\nhello",
    "PUT /files/x HTTP/1.1\r\n@\r\nif-match: \u{ff}\r\ncontent-length: 0\r\n\r\n",
    "POST /files/x HTTP/1.1\r\n@\r\ncontent-length: 0\r\n\r\n",
    "POST /event/store HTTP/1.1\r\n@\r\ncontent-length: 1\r\n\r\n{",
    "POST /event/store HTTP/1.1\r\n@\r\ncontent-length: 2\r\n\r\n[]",
    "POST /event/store HTTP/1.1\r\n@\r\ncontent-length: 11\r\n\r\n{\"data\": 1}",
    "POST /event/store HTTP/1.1\r\n@\r\ncontent-length: 0\r\n\r\n",
    "GET /event/query?limit=-5 HTTP/1.1\r\n@\r\n\r\n",
    "GET /event/query?limit=many HTTP/1.1\r\n@\r\n\r\n",
    "GET /event/query?start_time=soon HTTP/1.1\r\n@\r\n\r\n",
    "GET /events?after=1.2.3 HTTP/1.1\r\n@\r\n\r\n",
    "GET /events?after=99999999999999999999 HTTP/1.1\r\n@\r\n\r\n",
    "GET /events?path=/../x HTTP/1.1\r\n@\r\n\r\n",
    "GET /events/stream HTTP/1.1\r\n@\r\nlast-event-id: now\r\n\r\n",
    "PROPFIND /dav/%00 HTTP/1.1\r\n@\r\n\r\n",
    "PROPFIND /dav/ HTTP/1.1\r\n@\r\ndepth: 0\r\ncontent-length: 5\r\n\r\n<a><b",
    "MOVE /dav/x HTTP/1.1\r\n@\r\ndestination: nowhere\r\n\r\n",
    "PUT /dav/none/x HTTP/1.1\r\n@\r\ncontent-length: 1\r\n\r\nx",
    "BREW /health HTTP/1.1\r\n\r\n",
    "GET /none HTTP/1.1\r\n\r\n",
    "GET /health HTTP/9.9\r\n\r\n",
    "GET  HTTP/1.1\r\n\r\n",
    "\r\n\r\n\r\n",
    "GET /health HTTP/1.1\r\nbad header\r\n\r\n",
];

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let place = Place::new();
    let server = Server::start(&mut place.command(false));
    // More than the buffers between us hold, and less than is read to no purpose.
    let body = vec![b'x'; 6 << 20];
    for path in ["/files/x", "/dav/x", "/event/store", "/none"] {
        for _ in 0..4 {
            let mut stream = server.connect();
            let head =
                format!("PUT {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).expect("it is taken, wanted or not");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert!(matches!(status(&answer), Some(400..500)), "{path}: {answer:?}");
        }
    }
    // Who asks first is told without sending any, and who stops sending need not wait long.
    for more in ["expect: 100-continue\r\n", ""] {
        let begin = Instant::now();
        let head =
            format!("PUT /files/x HTTP/1.1\r\nhost: h\r\n{more}content-length: 1000\r\n\r\n");
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert!(matches!(status(&answer), Some(400..500)), "{more}{answer:?}");
        assert!(begin.elapsed() < Duration::from_secs(4), "{more}{:?}", begin.elapsed());
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

#[test]
fn bad_requests_are_answered_with_a_reason_and_never_with_500() {
    let place = Place::new();
    let mut command = place.command(false);
    command.env("LIGHTHOUSE_UPLOAD_MAX", "1M").env("LIGHTHOUSE_PATIENCE", "1");
    let server = Server::start(&mut command);
    let session = server.session("a");
    let bearer = format!("host: x\r\nconnection: close\r\nauthorization: {}", session.bearer());
    for request in CORPUS {
        let bytes = request.replace("\r\n@\r\n", &format!("\r\n{bearer}\r\n")).into_bytes();
        let answer = server.raw(&bytes, false);
        // What is no request at all is answered by closing the connection.
        let Some(status) = status(&answer) else {
            assert!(request.trim().is_empty(), "{request:?} was not answered");
            continue;
        };
        let said = String::from_utf8_lossy(&answer);
        assert!((400..500).contains(&status), "{request:?}: {said}");
        assert!(said.contains("{\"detail\":"), "{request:?} is refused without a reason: {said}");
    }
    let metrics = session.get("/metrics");
    assert!(metrics.text().contains("lighthouse_http_panics_total 0\n"), "{}", metrics.text());
    assert_eq!(session.get("/files/").json()["entries"].as_array().unwrap().len(), 0);
}

#[test]
fn random_bytes_do_not_stop_the_server() {
    let place = Place::new();
    let server = place.serve();
    let session = server.session("a");
    let bearer = format!("host: x\r\nconnection: close\r\nauthorization: {}", session.bearer());
    // A generator of its own, so that a failure can be run again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..400 {
        let picked = CORPUS[next(CORPUS.len())].replace("\r\n@\r\n", &format!("\r\n{bearer}\r\n"));
        let mut bytes = picked.into_bytes();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, next(256) as u8),
            }
        }
        let answer = server.raw(&bytes, true);
        assert_ne!(
            status(&answer),
            Some(500),
            "round {round}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert!(session.get("/metrics").text().contains("lighthouse_http_panics_total 0\n"));
}

#[test]
fn bodies_have_a_limit() {
    let place = Place::new();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_UPLOAD_MAX", "2M"));
    let agent = server.session("a");
    assert_eq!(agent.put("/files/fits", &vec![0; 2 << 20]).status, 201);
    assert_eq!(agent.put("/files/long", &vec![0; (2 << 20) + 1]).status, 413);
    let mut chunked = Vec::new();
    for _ in 0..3 {
        chunked.extend(b"100000\r\n");
        chunked.resize(chunked.len() + (1 << 20), 7);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let chunks = [("transfer-encoding", "chunked")];
    assert_eq!(agent.ask("PUT", "/files/long", &chunks, &chunked).status, 413);
    assert_eq!(agent.ask("PUT", "/dav/long", &chunks, &chunked).status, 413);
    let body =
        serde_json::json!({ "agent_id": "x".repeat(2 << 20), "ip_address": "", "user_agent": "" });
    assert_eq!(server.post("/session/create", None, &body).status, 413);
    assert_eq!(agent.get("/files/long").status, 404);
    assert!(agent.get("/metrics").text().contains("\nlighthouse_inodes 2\n"));
}

#[test]
fn who_does_not_go_on_is_not_waited_for() {
    let place = Place::new();
    let mut command = place.command(false);
    command.env("LIGHTHOUSE_PATIENCE", "1").env("LIGHTHOUSE_CONNECTIONS", "2");
    let server = Server::start(&mut command);
    let bearer = server.session("a").bearer();
    let begun = Instant::now();
    // Two that say nothing take all there is, for as long as they are given.
    let mut silent = [server.connect(), server.connect()];
    silent[0].write_all(b"GET /health HT").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.get("/health").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let mut slow = server.connect();
    let head = format!(
        "PUT /files/f HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\ncontent-length: 9\r\n\r\nhalf"
    );
    slow.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(status(&answer), Some(408));
}
