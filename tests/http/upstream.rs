//! What belongs to other parts of Lighthouse, passed on to a server of this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::client::{Answer, DEADLINE, Place, Server, read_chunk, read_head, send};

/// All that is passed on.
const ENDPOINTS: [(&str, &str); 10] = [
    ("POST", "/validate"),
    ("POST", "/expert/register"),
    ("POST", "/expert/delegate"),
    ("POST", "/task/dispatch"),
    ("POST", "/collaboration/start"),
    ("POST", "/elicitation/create"),
    ("GET", "/elicitation/pending"),
    ("POST", "/elicitation/respond"),
    ("GET", "/elicitation/status/an%20id"),
    ("GET", "/elicitation/metrics"),
];

/// A request as it came to the upstream.
#[derive(Debug)]
struct Seen {
    line: String,
    /// Names in small letters, in order.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut seen = Self::read_head(stream)?;
        if seen.header("transfer-encoding") == ["chunked"] {
            while let Some(chunk) = read_chunk(stream) {
                seen.body.extend(chunk);
            }
        } else if let Some(len) = seen.header("content-length").first() {
            seen.body.resize(len.parse().unwrap(), 0);
            stream.read_exact(&mut seen.body).ok()?;
        }
        Some(seen)
    }

    fn read_head(stream: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|&len| len > 0)?;
        let mut seen = Self { line: line.trim_end().to_owned(), headers: vec![], body: vec![] };
        loop {
            line.clear();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Some(seen) };
            seen.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// Every value of `name`.
    fn header(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }
}

/// A server that does `serve` with each connection, in a thread of its own.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that answers everything with `answer`, and tells what it saw.
fn answering(answer: &'static [u8]) -> (SocketAddr, Receiver<Seen>) {
    let (tell, seen) = channel();
    let address = listen(move |stream| {
        let mut stream = BufReader::new(stream);
        if let Some(seen) = Seen::read(&mut stream) {
            let _ = tell.send(seen);
            let _ = stream.get_mut().write_all(answer);
        }
    });
    (address, seen)
}

fn command(place: &Place, upstream: impl std::fmt::Display) -> Command {
    let mut command = place.command(false);
    command.env("LIGHTHOUSE_UPSTREAM_URL", format!("http://{upstream}"));
    command
}

fn detail(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn every_endpoint_of_other_parts_is_passed_on_for_who_has_a_session() {
    let (address, seen) = answering(
        b"HTTP/1.1 207 Whatever\r\ncontent-length: 15\r\nx-own: kept\r\n\r\n{\"approved\": 1}",
    );
    let place = Place::new();
    let server = Server::start(&mut command(&place, format_args!("{address}/old/")));
    let agent = server.session("mcp_server");
    for (method, path) in ENDPOINTS {
        let body: &[u8] = if method == "POST" { br#"{"tool_name": "Bash"}"# } else { b"" };
        let target = format!("{path}?a=1&b=%2F");
        assert_eq!(server.ask(method, &target, &[], body).status, 403, "{path}");
        let answer = agent.ask(method, &target, &[("content-type", "application/json")], body);
        assert_eq!((answer.status, answer.text()), (207, "{\"approved\": 1}"), "{path}");
        assert_eq!(answer.header("x-own"), "kept");
        let seen = seen.try_recv().unwrap();
        assert_eq!(seen.line, format!("{method} /old{target} HTTP/1.1"));
        assert_eq!(seen.body, body, "{path}");
        assert_eq!(seen.header("host"), [address.to_string()]);
        assert_eq!(seen.header("authorization"), [agent.bearer()]);
    }
    assert!(seen.try_recv().is_err(), "something came without a session");
    assert_eq!(agent.get("/validate").status, 405);
    assert_eq!(agent.get("/files/").status, 200);
    assert_eq!(server.get("/status").json()["components"]["speed_layer"], "upstream");
    let metrics = agent.get("/metrics");
    let counted = "lighthouse_upstream_requests_total{outcome=\"answered\"} 10\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    drop(agent);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn an_empty_url_names_no_upstream() {
    let place = Place::new();
    let server = Server::start(place.command(false).env("LIGHTHOUSE_UPSTREAM_URL", ""));
    let answer = server.session("a").ask("POST", "/validate", &[], b"{}");
    assert_eq!(answer.status, 501);
    assert!(detail(&answer).contains("LIGHTHOUSE_UPSTREAM_URL"), "{answer:?}");
}

#[test]
fn headers_of_one_connection_end_here_and_those_of_a_gateway_are_added() {
    let (address, seen) = answering(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: x-hop\r\nx-hop: 1\r\n\
          keep-alive: timeout=9\r\naccess-control-allow-origin: *\r\nset-cookie: a=b\r\nvia: 1.1 other\r\n\r\n\
          3\r\n{}\n\r\n0\r\n\r\n",
    );
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let agent = server.session("ü b");
    let headers = [
        ("connection", "close, X-Mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-lighthouse-agent", "admin"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("accept-language", "de"),
        ("cookie", "c=d"),
        ("via", "1.0 first"),
        ("origin", "http://evil.example"),
    ];
    let answer = agent.ask("POST", "/validate", &headers, b"{}");
    assert_eq!((answer.status, answer.text()), (200, "{}\n"));
    assert_eq!(answer.header("set-cookie"), "a=b");
    for name in ["x-hop", "keep-alive", "access-control-allow-origin"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
    assert!(answer.header("via").starts_with("1.1 lighthouse-fuse-"), "{answer:?}");
    let seen = seen.try_recv().unwrap();
    for name in ["x-mine", "te", "upgrade", "proxy-authorization", "transfer-encoding"] {
        assert!(seen.header(name).is_empty(), "{name}: {seen:?}");
    }
    assert_eq!(seen.header("connection"), ["close"]);
    assert_eq!(seen.header("x-lighthouse-agent"), ["%C3%BC%20b"]);
    assert_eq!(seen.header("x-forwarded-for"), ["192.0.2.7", "127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("x-forwarded-host"), ["test"]);
    assert_eq!((seen.header("accept-language"), seen.header("cookie")), (vec!["de"], vec!["c=d"]));
    let via = seen.header("via");
    assert!(via.len() == 2 && via[0] == "1.0 first", "{via:?}");
    assert_eq!(seen.header("content-length"), ["2"]);
    // A page that may ask reads the answer by our word, not by the upstream's.
    let page = [("origin", "http://localhost:3000")];
    let answer = agent.ask("POST", "/validate", &page, b"{}");
    assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:3000");
}

#[test]
fn head_has_the_headers_alone_and_an_answer_without_a_body_ends() {
    let (address, seen) =
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\nconnection: close\r\n\r\n");
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let answer = server.session("a").ask("HEAD", "/elicitation/pending", &[], b"");
    assert_eq!((answer.status, answer.header("content-length")), (200, "4000"));
    assert_eq!(seen.try_recv().unwrap().line, "HEAD /elicitation/pending HTTP/1.1");
    let (address, _seen) = answering(b"HTTP/1.1 204 No Content\r\n\r\n");
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let answer = server.session("a").ask("POST", "/task/dispatch", &[], b"");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
}

#[test]
fn an_upstream_that_is_down_or_speaks_something_else_is_a_502_with_a_reason() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let agent = server.session("a");
    let answer = agent.ask("POST", "/validate", &[], b"{}");
    assert_eq!(answer.status, 502);
    assert!(detail(&answer).contains("refused"), "{answer:?}");
    assert_eq!(agent.put("/files/f", b"all else goes on").status, 201);
    let metrics = agent.get("/metrics");
    let counted = "lighthouse_upstream_requests_total{outcome=\"failed\"} 1\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    for said in [
        b"SSH-2.0-OpenSSH_9.9\r\n".as_slice(),
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"",
    ] {
        let (address, _seen) = answering(said);
        let place = Place::new();
        let server = Server::start(&mut command(&place, address));
        let answer = server.session("a").ask("POST", "/validate", &[], b"{}");
        assert_eq!(answer.status, 502, "{answer:?}");
        detail(&answer);
    }
    // A name that nobody has.
    let place = Place::new();
    let server = Server::start(&mut command(&place, "none.invalid"));
    let answer = server.session("a").ask("POST", "/validate", &[], b"{}");
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
}

#[test]
fn an_upstream_that_is_too_slow_is_a_504_and_half_an_answer_is_cut() {
    let address = listen(|stream| {
        let mut stream = BufReader::new(stream);
        let seen = Seen::read(&mut stream).unwrap();
        if seen.line.contains("/expert/") {
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
            stream.get_mut().write_all(half).unwrap();
        }
        // Until the other side gives up.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let place = Place::new();
    let server = Server::start(command(&place, address).env("LIGHTHOUSE_PATIENCE", "1"));
    let agent = server.session("a");
    let begun = Instant::now();
    let answer = agent.ask("POST", "/validate", &[], b"{}");
    assert_eq!(answer.status, 504);
    assert!(detail(&answer).contains("in time"), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let metrics = agent.get("/metrics");
    let counted = "lighthouse_upstream_requests_total{outcome=\"late\"} 1\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    let mut stream = server.connect();
    let bearer = agent.bearer();
    send(&mut stream, "POST", "/expert/register", &[("authorization", &bearer)], b"{}");
    let mut stream = BufReader::new(stream);
    assert_eq!(read_head(&mut stream).0, 200);
    let mut body = Vec::new();
    let _ = stream.read_to_end(&mut body);
    assert_eq!(body, b"half");
}

#[test]
fn a_client_that_is_too_slow_is_a_408_whatever_the_upstream_does() {
    let (address, _seen) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let place = Place::new();
    let server = Server::start(command(&place, address).env("LIGHTHOUSE_PATIENCE", "1"));
    let bearer = server.session("a").bearer();
    let mut stream = server.connect();
    let headers = [("authorization", bearer.as_str()), ("content-length", "9")];
    send(&mut stream, "POST", "/validate", &headers, b"half");
    let answer = Answer::read(&mut BufReader::new(stream), false);
    assert_eq!(answer.status, 408, "{answer:?}");
    detail(&answer);
}

#[test]
fn long_bodies_pass_both_ways_piece_by_piece() {
    const PIECE: usize = 1 << 20;
    let (tell, came) = channel();
    let address = listen(move |stream| {
        let mut stream = BufReader::new(stream);
        let seen = Seen::read_head(&mut stream).unwrap();
        let mut piece = vec![0; PIECE];
        stream.read_exact(&mut piece).unwrap();
        tell.send(piece.len()).unwrap();
        let len: usize = seen.header("content-length")[0].parse().unwrap();
        let mut body = vec![0; len - PIECE];
        stream.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|&byte| byte == b'u'));
        let out = stream.get_mut();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 40 * PIECE);
        out.write_all(head.as_bytes()).unwrap();
        for n in 0..40_u8 {
            if n == 1 {
                // Not before the client has the first.
                let mut go = [0; 1];
                let _ = out.set_read_timeout(Some(Duration::from_millis(300)));
                let _ = out.read(&mut go);
            }
            out.write_all(&vec![n; PIECE]).unwrap();
        }
    });
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let bearer = server.session("a").bearer();
    let mut stream = server.connect();
    let len = (12 * PIECE).to_string();
    let headers = [("authorization", bearer.as_str()), ("content-length", &len)];
    send(&mut stream, "POST", "/validate", &headers, &vec![b'u'; PIECE + 1]);
    // The upstream has the first piece while the client still holds the others.
    assert_eq!(came.recv_timeout(DEADLINE), Ok(PIECE));
    stream.write_all(&vec![b'u'; 11 * PIECE - 1]).unwrap();
    let mut stream = BufReader::new(stream);
    let (status, headers) = read_head(&mut stream);
    assert_eq!((status, headers["content-length"].as_str()), (200, "41943040"));
    let mut piece = vec![0; PIECE];
    for n in 0..40_u8 {
        stream.read_exact(&mut piece).unwrap();
        assert!(piece.iter().all(|&byte| byte == n), "piece {n}");
    }
    assert_eq!(stream.read(&mut piece).unwrap(), 0);
}

#[test]
fn a_body_without_a_length_passes_and_one_that_is_too_long_does_not() {
    let (address, seen) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let agent = server.session("a");
    let chunked = |pieces: usize| {
        let mut body = Vec::new();
        for _ in 0..pieces {
            body.extend(b"100000\r\n");
            body.resize(body.len() + (1 << 20), b'c');
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        body
    };
    let headers = [("transfer-encoding", "chunked")];
    assert_eq!(agent.ask("POST", "/validate", &headers, &chunked(3)).status, 200);
    let seen = seen.recv_timeout(DEADLINE).unwrap();
    assert_eq!(seen.header("transfer-encoding"), ["chunked"]);
    assert!(seen.body.len() == 3 << 20 && seen.body.iter().all(|&byte| byte == b'c'));
    for answer in [
        agent.ask("POST", "/validate", &headers, &chunked(17)),
        agent.ask("POST", "/validate", &[("content-length", "16777217")], b""),
    ] {
        assert_eq!(answer.status, 413);
        detail(&answer);
    }
    let answer = agent.ask("POST", "/validate", &headers, b"zz\r\n");
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[test]
fn a_client_that_goes_away_takes_its_connection_to_the_upstream_with_it() {
    let (tell, came) = channel();
    let address = listen(move |stream| {
        let mut stream = BufReader::new(stream);
        let seen = Seen::read(&mut stream).unwrap();
        if seen.line.contains("/expert/") {
            let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nbegun";
            stream.get_mut().write_all(begun).unwrap();
        }
        tell.send("asked").unwrap();
        // Ends when the other side does.
        let _ = stream.read_to_end(&mut Vec::new());
        tell.send("gone").unwrap();
    });
    let place = Place::new();
    let server = Server::start(&mut command(&place, address));
    let bearer = server.session("a").bearer();
    for path in ["/validate", "/expert/register"] {
        let mut stream = server.connect();
        send(&mut stream, "POST", path, &[("authorization", &bearer)], b"{}");
        assert_eq!(came.recv_timeout(DEADLINE), Ok("asked"));
        if path != "/validate" {
            let mut stream = BufReader::new(&stream);
            assert_eq!(read_head(&mut stream).0, 200);
        }
        let left = Instant::now();
        drop(stream);
        assert_eq!(came.recv_timeout(DEADLINE), Ok("gone"), "{path}");
        assert!(left.elapsed() < Duration::from_secs(10), "{path}: {:?}", left.elapsed());
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_wrong_url_is_wrong_usage_and_named_without_its_secrets() {
    let place = Place::new();
    for url in
        ["https://bridge:8765", "bridge:8765", "http://user:hunter2@bridge", "http://bridge/?x"]
    {
        let ended = place.command(false).env("LIGHTHOUSE_UPSTREAM_URL", url).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{url}: {said}");
        assert!(said.contains("LIGHTHOUSE_UPSTREAM_URL: "), "{said}");
        assert!(said.lines().count() == 1 && !said.contains("hunter2"), "{said}");
    }
    assert!(!place.path("events").exists(), "something was made");
}

#[test]
fn an_upstream_that_is_the_server_itself_is_refused_at_once_or_when_it_comes_back() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let place = Place::new();
    let mut own = command(&place, format_args!("localhost:{free}/"));
    let ended = own.env("LIGHTHOUSE_PORT", free.to_string()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("LIGHTHOUSE_UPSTREAM_URL names this server itself"), "{said}");
    // By another name: something before us that passes all on to us.
    let (tell, target) = channel::<String>();
    let target = std::sync::Mutex::new((target, String::new()));
    let relay = listen(move |mut from| {
        let mut target = target.lock().unwrap();
        if let Ok(known) = target.0.try_recv() {
            target.1 = known;
        }
        let mut to = TcpStream::connect(&target.1).unwrap();
        drop(target);
        let (mut back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut from));
        let _ = std::io::copy(&mut forth, &mut to);
    });
    let server = Server::start(&mut command(&place, relay));
    tell.send(server.address().to_owned()).unwrap();
    let answer = server.session("a").ask("POST", "/validate", &[], b"{}");
    assert_eq!(answer.status, 508, "{answer:?}");
    assert!(detail(&answer).contains("back"), "{answer:?}");
}
