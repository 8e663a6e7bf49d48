//! Who may ask.

use serde_json::json;

use crate::client::{Place, Server};

#[test]
fn what_needs_a_session_is_refused_without_one() {
    let place = Place::new();
    let server = place.serve();
    let described = server.get("/openapi.json").json();
    let mut refused = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let target = path.replace("{path}", "a").replace("{elicitation_id}", "e");
            let answer = server.ask(&method.to_uppercase(), &target, &[], b"");
            if operation["security"].is_array() {
                assert_eq!(answer.status, 403, "{method} {path}");
                assert!(answer.json()["detail"].is_string(), "{method} {path}");
                refused += 1;
            } else {
                assert!(!matches!(answer.status, 401 | 403), "{method} {path}: {answer:?}");
            }
        }
    }
    assert!(refused > 15, "only {refused} endpoints need a session");
    let dav = server.ask("PROPFIND", "/dav/", &[("depth", "0")], b"");
    assert_eq!((dav.status, dav.header("www-authenticate").is_empty()), (401, false));
}

#[test]
fn a_session_key_is_demanded_and_never_logged() {
    let place = Place::new();
    let mut command = place.command(false);
    command.env("LIGHTHOUSE_SESSION_KEY", "open-sesame").env("LIGHTHOUSE_LOG_LEVEL", "TRACE");
    let mut server = Server::start(&mut command);
    let body = json!({ "agent_id": "a", "ip_address": "", "user_agent": "" });
    assert_eq!(server.post("/session/create", None, &body).status, 401);
    assert_eq!(server.post("/session/create", Some("open-sesamE"), &body).status, 403);
    let made = server.post("/session/create", Some("open-sesame"), &body);
    assert_eq!(made.status, 200);
    let token = made.json()["session_token"].as_str().unwrap().to_owned();
    let mut with_key = body.clone();
    with_key["session_key"] = "open-sesame".into();
    assert_eq!(server.post("/session/create", None, &with_key).status, 200);
    // Programs that know only names and passwords: `a:open-sesame`, `a:wrong`.
    let dav = |password| {
        let headers = [("authorization", password), ("depth", "0")];
        server.ask("PROPFIND", "/dav/", &headers, b"").status
    };
    assert_eq!(dav("Basic YTpvcGVuLXNlc2FtZQ=="), 207);
    assert_eq!(dav("Basic YTp3cm9uZw=="), 401);
    // An agent that is longer than any may be.
    let long = to_base64(format!("{}:open-sesame", "a".repeat(300)).as_bytes());
    assert_eq!(dav(&format!("Basic {long}")), 401);
    let said = server.stop();
    assert!(!said.contains("open-sesame") && !said.contains(&token), "{said}");
}

#[test]
fn a_session_key_may_be_of_any_letters() {
    let place = Place::new();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_SESSION_KEY", "sch\u{f6}nes wetter"));
    let body = json!({ "agent_id": "a", "ip_address": "", "user_agent": "" });
    let create = |key| server.post("/session/create", Some(key), &body).status;
    assert_eq!((create("sch\u{f6}nes wetter"), create("schoenes wetter")), (200, 403));
}

/// As RFC 4648 has it.
fn to_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |three: &[u8], at: usize| {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize])
    };
    bytes
        .chunks(3)
        .flat_map(|three| {
            (0..4).map(move |at| if at <= three.len() { digit(three, at) } else { '=' })
        })
        .collect()
}

#[test]
fn webdav_wants_a_token_where_files_do() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let ask = |method, path, header: Option<&str>| {
        let mut headers: Vec<_> = header.iter().map(|value| ("authorization", *value)).collect();
        headers.push(("depth", "0"));
        server.ask(method, path, &headers, b"").status
    };
    let token = to_base64(format!("anybody:{}", agent.token).as_bytes());
    for header in [format!("Basic {token}"), agent.bearer()] {
        assert_eq!(ask("PROPFIND", "/dav/", Some(&header)), 207, "{header}");
    }
    let wrong = ["a:", "a:any", "a:test_secret_key", ":", "", &format!("a:{}x", agent.token)];
    let wrong = wrong.map(|pair| format!("Basic {}", to_base64(pair.as_bytes())));
    for header in wrong.iter().map(String::as_str).chain(["Basic %%%", "Bearer 0123456789ab"]) {
        assert_eq!(ask("PROPFIND", "/dav/", Some(header)), 401, "{header}");
        assert!(matches!(ask("GET", "/files/", Some(header)), 401 | 403), "{header}");
    }
    assert_eq!((ask("PROPFIND", "/dav/", None), ask("GET", "/files/", None)), (401, 403));
}

#[test]
fn beyond_this_machine_a_key_is_needed_or_a_word_that_it_is_not() {
    let place = Place::new();
    let refused = place.command(false).env("LIGHTHOUSE_HOST", "0.0.0.0").output();
    let output = refused.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("LIGHTHOUSE_SESSION_KEY"), "{said}");
    assert!(!place.path("events").exists());
    for (variable, value) in [("LIGHTHOUSE_OPEN_SESSIONS", "1"), ("LIGHTHOUSE_SESSION_KEY", "k")] {
        let mut command = place.command(false);
        let mut server =
            Server::start(command.env("LIGHTHOUSE_HOST", "0.0.0.0").env(variable, value));
        server.stop();
    }
}

#[test]
fn a_page_of_another_origin_gets_no_session() {
    let place = Place::new();
    let server = place.serve();
    let body = br#"{"agent_id": "a", "ip_address": "", "user_agent": ""}"#;
    let create = |origin| server.ask("POST", "/session/create", &[("origin", origin)], body).status;
    assert_eq!(create("http://evil.example:8765"), 403);
    assert_eq!(create("http://localhost:3000"), 200);
    let preflight = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(server.ask("OPTIONS", "/validate", &preflight, b"").status, 400);
}
