//! WebDAV: what a client that mounts the tree does.

use crate::client::{Place, Session};

fn dav(
    agent: &Session<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let answer = agent.ask(method, &format!("/dav{path}"), headers, body);
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[test]
fn a_client_works_with_the_tree() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let ask = |method, path| dav(&agent, method, path, &[], b"").0;
    assert_eq!(ask("OPTIONS", "/"), 200);
    assert_eq!(ask("MKCOL", "/d"), 201);
    assert_eq!(ask("MKCOL", "/d"), 405);
    assert_eq!(ask("MKCOL", "/none/d"), 409);
    assert_eq!(dav(&agent, "PUT", "/d/f", &[], b"content").0, 201);
    assert_eq!(dav(&agent, "PUT", "/d/f", &[], b"short").0, 204);
    assert_eq!(agent.get("/files/d/f").body, b"short");
    assert_eq!(dav(&agent, "GET", "/d/f", &[("range", "bytes=1-2")], b""), (206, "ho".to_owned()));
    let (status, listed) = dav(&agent, "PROPFIND", "/d/", &[("depth", "1")], b"");
    assert_eq!(status, 207);
    assert!(listed.contains("/dav/d/f") && listed.contains("getcontentlength>5<"), "{listed}");
    let to = |path: &str| format!("http://{}/dav{path}", server.address());
    let with_destination = |method, from, destination: &str| {
        dav(&agent, method, from, &[("destination", &to(destination)), ("overwrite", "T")], b"").0
    };
    assert_eq!(with_destination("COPY", "/d/f", "/d/g"), 201);
    assert_eq!(with_destination("MOVE", "/d/g", "/h"), 201);
    assert_eq!(with_destination("MOVE", "/h", "/d/f"), 204);
    assert_eq!(with_destination("COPY", "/d/", "/e/"), 201);
    assert_eq!(agent.get("/files/e/f").body, b"short");
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(dav(&agent, "PUT", "/long", &[], &long).0, 201);
    assert!(agent.get("/files/long").body == long);
    assert_eq!(ask("DELETE", "/d/"), 204);
    assert_eq!(ask("DELETE", "/none"), 404);
    assert_eq!(agent.get("/files/d").status, 404);
    assert_eq!(agent.get("/files/e/f").body, b"short");
}

#[test]
fn a_lock_keeps_other_clients_out() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"x").0, 201);
    let lock = br#"<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>
        <D:locktype><D:write/></D:locktype></D:lockinfo>"#;
    let locked = agent.ask("LOCK", "/dav/f", &[("timeout", "Second-60")], lock);
    assert_eq!(locked.status, 200, "{locked:?}");
    let token = locked.header("lock-token").to_owned();
    let other = server.session("b");
    assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 423);
    assert_eq!(dav(&agent, "PUT", "/f", &[("if", &format!("({token})"))], b"z").0, 204);
    assert_eq!(agent.ask("UNLOCK", "/dav/f", &[("lock-token", &token)], b"").status, 204);
    assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 204);
}
