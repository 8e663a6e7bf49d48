//! Everything a client can send over HTTP, as a function of any bytes: what the fuzz targets and a plain test run.
//!
//! One server in this process answers them all, over a connection each. It must not panic, and must not answer 500;
//! what it refuses it refuses with a reason.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lighthouse_fuse::api::{self, Config, Mount, Running};
use lighthouse_fuse::store::sim::SimDisk;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::tree::Tree;

/// Sends bytes, and panics if the answer is none that a client may get.
type Sender = fn(&[u8]);

/// Every target.
pub(crate) const TARGETS: [(&str, Sender); 6] = [
    ("http_request", request),
    ("http_path", path),
    ("http_query", query),
    ("http_header", header),
    ("http_json", json),
    ("http_dav_xml", dav_xml),
];

/// Runs the target `name`.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target is called {name}")).1(bytes);
}

/// Longest answer that is looked at.
const ANSWER_MAX: usize = 1 << 20;

struct Server {
    address: SocketAddr,
    authorization: String,
    _running: Running,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let open = OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() };
        let disk = Arc::new(SimDisk::new(1 << 30));
        let store = Store::create_on(disk, &CreateOptions::default(), &open);
        let tree = Tree::new(Arc::new(store.unwrap_or_else(|err| panic!("{err}"))));
        let config =
            Config { upload_max: 1 << 20, patience: Duration::from_secs(2), ..Config::default() };
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = api::start(local, config).unwrap_or_else(|err| panic!("{err}"));
        running.teller().mount(Mount::Off);
        running.teller().serves(tree);
        let address = running.address();
        let body = r#"{"agent_id": "fuzz", "ip_address": "", "user_agent": ""}"#;
        let made = send(address, &whole("POST", "/session/create", "", body.as_bytes()), false);
        let made = String::from_utf8_lossy(&made).into_owned();
        let token =
            made.split("\"session_token\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let token = token.unwrap_or_else(|| panic!("no token in {made}"));
        let server = Server {
            address,
            authorization: format!("authorization: Bearer {token}\r\n"),
            _running: running,
        };
        // Something that is there to be asked for.
        let put = whole("PUT", "/files/d/f?parents=true", &server.authorization, b"content");
        assert_eq!(status(&send(address, &put, false)), Some(201));
        server
    })
}

fn whole(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {len}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

/// With `ends` it hears that no more come, which it may take for a client that went away.
fn send(address: SocketAddr, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|err| panic!("{err}"));
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    // It may refuse before all is sent.
    let _ = stream.write_all(bytes);
    if ends {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    while answer.len() < ANSWER_MAX && !answer.windows(17).any(|at| at == b"text/event-stream") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(len) => answer.extend_from_slice(&piece[..len]),
        }
    }
    answer
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

/// Sends `bytes` and looks at the answer. `ours`: it is a request, so that we and not the HTTP library refuse it.
fn ask(bytes: &[u8], ours: bool) {
    let answer = send(server().address, bytes, !ours);
    let (sent, said) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&answer));
    let Some(status) = status(&answer) else {
        assert!(!ours, "{sent:?} was not answered: {said}");
        return;
    };
    // An endpoint of other parts of Lighthouse is not here.
    assert!(status < 500 || status == 501, "{sent:?}: {said}");
    // To HEAD there is no body, and a browser's question whether it may ask is answered in a word.
    let excused = match ours {
        true => sent.starts_with("HEAD"),
        false => sent.contains("HEAD") || sent.contains("OPTIONS"),
    };
    if status >= 400 && !excused {
        let told = said.contains("{\"detail\":") || said.contains("<?xml");
        assert!(told, "{sent:?} is refused without a reason: {said}");
    }
    let metrics =
        send(server().address, &whole("GET", "/metrics", &server().authorization, b""), false);
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains("lighthouse_http_panics_total 0\n"), "{sent:?}: a handler panicked");
}

/// The one of `all` that the first byte picks, and the rest.
fn picked<'a, T: Copy>(all: &[T], bytes: &'a [u8]) -> (T, &'a [u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    (all[usize::from(*first) % all.len()], rest)
}

/// Bytes as they can stand in the target of a request: what cannot as `%XX`.
fn in_target(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes.iter().take(8 << 10) {
        match byte {
            // The HTTP library refuses others before we see them.
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let with =
        text.replace("\r\n@", &format!("\r\nconnection: close\r\n{}", server().authorization));
    // What no session stands in stays as it is, whatever its bytes are.
    let bytes = if text.contains("\r\n@") { with.as_bytes() } else { bytes };
    ask(bytes, false);
}

fn path(bytes: &[u8]) {
    let all = [
        ("GET", "/files/"),
        ("PUT", "/files/"),
        ("DELETE", "/files/"),
        ("GET", "/dav/"),
        ("PUT", "/dav/"),
        ("PROPFIND", "/dav/"),
        ("DELETE", "/dav/"),
        ("MKCOL", "/dav/"),
        ("LOCK", "/dav/"),
        ("OPTIONS", "/dav/"),
        ("GET", "/context/packages/"),
        ("DELETE", "/context/packages/"),
        ("GET", "/"),
    ];
    let ((method, root), rest) = picked(&all, bytes);
    let target = format!("{root}{}", in_target(rest));
    ask(&whole(method, &target, &server().authorization, b""), true);
}

fn query(bytes: &[u8]) {
    let all = [
        ("GET", "/files/d/f?"),
        ("GET", "/files/d/f?at="),
        ("GET", "/files/?limit="),
        ("GET", "/files/?after="),
        ("PUT", "/files/q?"),
        ("PUT", "/files/q?mode="),
        ("DELETE", "/files/q?recursive="),
        ("GET", "/event/query?"),
        ("GET", "/event/query?start_time="),
        ("GET", "/event/query?limit="),
        ("GET", "/events?"),
        ("GET", "/events?after="),
        ("GET", "/events?since="),
        ("GET", "/events?path="),
        ("GET", "/events/stream?after="),
    ];
    let ((method, target), rest) = picked(&all, bytes);
    let target = format!("{target}{}", in_target(rest));
    ask(&whole(method, &target, &server().authorization, b""), true);
}

fn header(bytes: &[u8]) {
    let all = [
        ("GET", "/files/d/f", "range"),
        ("GET", "/files/d/f", "if-match"),
        ("GET", "/files/d/f", "if-none-match"),
        ("GET", "/files/d/f", "if-range"),
        ("PUT", "/files/h", "if-match"),
        ("PUT", "/files/h", "if-none-match"),
        ("PUT", "/files/h", "content-range"),
        ("GET", "/events/stream", "last-event-id"),
        ("GET", "/dav/d/f", "range"),
        ("GET", "/dav/d/f", "if-range"),
        ("GET", "/dav/d/f", "if-modified-since"),
        ("PUT", "/dav/h", "if"),
        ("PUT", "/dav/h", "if-match"),
        ("PUT", "/dav/h", "content-range"),
        ("PUT", "/dav/h", "x-expected-entity-length"),
        ("PATCH", "/dav/d/f", "x-update-range"),
        ("PROPFIND", "/dav/", "depth"),
        ("COPY", "/dav/d/f", "destination"),
        ("MOVE", "/dav/h", "destination"),
        ("MOVE", "/dav/h", "overwrite"),
        ("LOCK", "/dav/h", "timeout"),
        ("UNLOCK", "/dav/h", "lock-token"),
        ("GET", "/dav/d/f", "authorization"),
        ("GET", "/files/d/f", "authorization"),
        ("OPTIONS", "/files/", "origin"),
    ];
    let ((method, target, name), rest) = picked(&all, bytes);
    let value: Vec<u8> = rest
        .iter()
        .map(|&byte| if matches!(byte, b' '..=b'~' | 0x80..) { byte } else { b'?' })
        .take(4 << 10)
        .collect();
    let authorization = if name == "authorization" { "" } else { &server().authorization };
    let head = whole(method, target, authorization, b"");
    let (before, after) = head.split_at(head.len() - 2);
    let field = [name.as_bytes(), b": ", &value, b"\r\n"].concat();
    ask(&[before, &field, after].concat(), true);
}

fn json(bytes: &[u8]) {
    let all = ["/event/store", "/session/create", "/session/validate", "/context/packages"];
    let (target, body) = picked(&all, bytes);
    ask(&whole("POST", target, &server().authorization, body), true);
}

fn dav_xml(bytes: &[u8]) {
    let all = [
        ("PROPFIND", "/dav/"),
        ("PROPFIND", "/dav/d/f"),
        ("PROPPATCH", "/dav/d/f"),
        ("LOCK", "/dav/d/f"),
        ("REPORT", "/dav/"),
        ("MKCOL", "/dav/x"),
        ("DELETE", "/dav/x"),
    ];
    let ((method, target), body) = picked(&all, bytes);
    let headers = format!("{}depth: 0\r\n", server().authorization);
    ask(&whole(method, target, &headers, body), true);
}
