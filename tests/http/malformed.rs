//! What is no request at all: refused with a status and a reason as all else is, and the connection ended.

use std::io::{BufReader, Read, Write};
use std::time::Duration;

use crate::client::{Answer, Place, Server};

/// Bytes that are no request, and the status they are refused with.
fn malformed() -> Vec<(u16, Vec<u8>)> {
    let long = |len| "x".repeat(len);
    let many: String = (0..101).map(|n| format!("h{n}: x\r\n")).collect();
    let texts = [
        (400, "G(T /health HTTP/1.1\r\n\r\n".to_owned()),
        (400, "\u{fc} /health HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /health HTTP/9.9\r\n\r\n".to_owned()),
        (400, "GET /health FTP/1.1\r\n\r\n".to_owned()),
        (400, "GET  HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /a b HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET http://[ HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /health HTTP/1.1\r\nbad header\r\n\r\n".to_owned()),
        (400, "GET /health HTTP/1.1\r\nb(d: x\r\n\r\n".to_owned()),
        (400, "GET /health HTTP/1.1\r\nx: a\0b\r\n\r\n".to_owned()),
        (400, "GET /health HTTP/1.1\r\n: x\r\n\r\n".to_owned()),
        (400, "POST /event/store HTTP/1.1\r\ncontent-length: many\r\n\r\n".to_owned()),
        (400, "POST /event/store HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned()),
        (
            400,
            "POST /event/store HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_owned(),
        ),
        (
            400,
            "POST /event/store HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"
                .to_owned(),
        ),
        (400, "POST /event/store HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned()),
        (414, format!("GET /{} HTTP/1.1\r\n\r\n", long(300_000))),
        (431, format!("GET /health HTTP/1.1\r\n{many}\r\n")),
        (431, format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", long(300_000))),
    ];
    let mut all: Vec<_> = texts.map(|(status, text)| (status, text.into_bytes())).into();
    all.push((
        400,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS where none is spoken".to_vec(),
    ));
    all
}

/// The one answer to `bytes` behind `good` requests, after those of the good ones, and that nothing follows.
fn last(server: &Server, good: usize, bytes: &[u8]) -> Answer {
    let said = server.raw(bytes, false);
    let mut rest = said.as_slice();
    for _ in 0..good {
        assert_eq!(Answer::read(&mut rest, false).status, 200);
    }
    let answer = Answer::read(&mut rest, bytes.starts_with(b"HEAD"));
    assert!(rest.is_empty(), "more follows: {:?}", String::from_utf8_lossy(rest));
    answer
}

fn is_refused(answer: &Answer, status: u16, of: &[u8]) {
    let of = String::from_utf8_lossy(&of[..of.len().min(80)]);
    // A target too long for a URI is so for a head, too: it depends on how it comes which is seen first.
    let same = answer.status == status || (status, answer.status) == (414, 431);
    assert!(same, "{of:?}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/json", "{of:?}");
    assert!(
        answer.json()["detail"].as_str().is_some_and(|why| why.len() > 20),
        "{of:?}: {answer:?}"
    );
    assert_ne!(answer.header("date"), "", "{of:?}");
}

#[test]
fn what_is_no_request_is_refused_with_a_reason_and_others_are_served_on() {
    let place = Place::new();
    let server = place.serve();
    for (status, bytes) in malformed() {
        is_refused(&last(&server, 0, &bytes), status, &bytes);
        assert_eq!(server.get("/health").status, 200);
    }
    let metrics = server.session("a").get("/metrics");
    let counted = format!("lighthouse_http_answers_total{{class=\"4xx\"}} {}\n", malformed().len());
    assert!(metrics.text().contains(&counted), "{}", metrics.text());
}

#[test]
fn behind_good_requests_on_the_same_connection_it_is_refused_too() {
    let place = Place::new();
    let server = place.serve();
    let good = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    for (status, bytes) in malformed() {
        // All at once,
        for count in 1..=2 {
            let all = [good.repeat(count), bytes.clone()].concat();
            is_refused(&last(&server, count, &all), status, &bytes);
        }
        // and one after the other.
        let mut stream = BufReader::new(server.connect());
        stream.get_mut().write_all(good).unwrap();
        assert_eq!(Answer::read(&mut stream, false).status, 200);
        // It may refuse before all is sent.
        let _ = stream.get_mut().write_all(&bytes);
        is_refused(&Answer::read(&mut stream, false), status, &bytes);
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is not closed");
    }
}

#[test]
fn head_is_refused_without_a_body_however_it_comes() {
    let place = Place::new();
    let server = place.serve();
    let bad = b"HEAD /health HTTP/9.9\r\n\r\n";
    for parts in [vec![bad.as_slice()], vec![&bad[..2], &bad[2..9], &bad[9..]]] {
        let mut stream = BufReader::new(server.connect());
        stream.get_mut().write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(Answer::read(&mut stream, false).status, 200);
        for part in parts {
            stream.get_mut().write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
        let answer = Answer::read(&mut stream, true);
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/json"));
        assert_ne!(answer.header("content-length"), "0");
        let mut more = Vec::new();
        stream.read_to_end(&mut more).unwrap();
        assert!(more.is_empty(), "{more:?}");
    }
}

#[test]
fn a_chunk_that_is_none_is_refused_by_whoever_reads_it() {
    let place = Place::new();
    let server = place.serve();
    let bearer = server.session("a").bearer();
    for (method, path) in [("PUT", "/files/f"), ("POST", "/event/store"), ("PUT", "/dav/f")] {
        for chunk in ["zz\r\n", "5\r\nhello!!\r\n", "fffffffffffffffff\r\n"] {
            let bytes = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
            );
            let answer = last(&server, 0, bytes.as_bytes());
            assert!((400..500).contains(&answer.status), "{method} {path} {chunk:?}: {answer:?}");
            assert!(
                answer.text().contains("{\"detail\":"),
                "{method} {path} {chunk:?}: {answer:?}"
            );
        }
    }
}

#[test]
fn no_byte_of_an_answer_changes_that_looks_like_such_a_refusal() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    // What hyper says by itself, as content of a file.
    let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for len in [0, 1, 16_000, 3_000_000] {
        let content = [b"x".repeat(len).as_slice(), bare].concat();
        agent.put("/files/bare", &content);
        assert!(agent.get("/files/bare").body == content, "{len}");
        let get = format!(
            "GET /files/bare HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n\r\n",
            agent.bearer()
        );
        // Behind it at once, while most of the answer still waits to be read; and when that is over.
        for at_once in [true, false] {
            let mut stream = server.connect();
            let nonsense = b"NONSENSE\r\n\r\n".as_slice();
            stream
                .write_all(&[get.as_bytes(), if at_once { nonsense } else { b"" }].concat())
                .unwrap();
            std::thread::sleep(Duration::from_millis(100));
            let mut stream = BufReader::new(stream);
            assert!(Answer::read(&mut stream, false).body == content, "{len}");
            if !at_once {
                stream.get_mut().write_all(nonsense).unwrap();
            }
            is_refused(&Answer::read(&mut stream, false), 400, nonsense);
        }
    }
}
