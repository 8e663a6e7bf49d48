//! WebDAV: what a client that mounts the tree does.

use std::io::{BufReader, Read, Write};
use std::os::unix::fs::symlink;

use crate::client::{Answer, Place, Server, Session, read_head, within_deadline};

const LOCK: &[u8] =
    br#"<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>
    <D:locktype><D:write/></D:locktype></D:lockinfo>"#;

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

/// A COPY or MOVE.
fn transfer(agent: &Session<'_>, method: &str, from: &str, to: &str) -> u16 {
    dav(agent, method, from, &[("destination", &format!("/dav{to}"))], b"").0
}

/// The content of a file; `None` where there is none.
fn content(agent: &Session<'_>, path: &str) -> Option<Vec<u8>> {
    let got = agent.get(&format!("/files{path}"));
    (got.status == 200).then_some(got.body)
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
    let locked = agent.ask("LOCK", "/dav/f", &[("timeout", "Second-60")], LOCK);
    assert_eq!(locked.status, 200, "{locked:?}");
    let token = locked.header("lock-token").to_owned();
    let other = server.session("b");
    assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 423);
    assert_eq!(dav(&agent, "PUT", "/f", &[("if", &format!("({token})"))], b"z").0, 204);
    assert_eq!(agent.ask("UNLOCK", "/dav/f", &[("lock-token", &token)], b"").status, 204);
    assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 204);
}

#[test]
fn a_lock_ends_by_itself() {
    let place = Place::new();
    let server = place.serve();
    let (agent, other) = (server.session("a"), server.session("b"));
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"x").0, 201);
    let locked = agent.ask("LOCK", "/dav/f", &[("timeout", "Second-3")], LOCK);
    assert!(locked.text().contains("Second-3<"), "{locked:?}");
    assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 423);
    within_deadline(|| (dav(&other, "PUT", "/f", &[], b"y").0 == 204).then_some(()));
    let token = locked.header("lock-token");
    assert_eq!(agent.ask("UNLOCK", "/dav/f", &[("lock-token", token)], b"").status, 409);
    // Who does not say how long has it for a while, not for ever.
    let locked = agent.ask("LOCK", "/dav/f", &[], LOCK);
    assert!(locked.text().contains("Second-600<"), "{locked:?}");
    let condition = format!("({})", locked.header("lock-token"));
    let again = [("timeout", "Infinite"), ("if", condition.as_str())];
    let refreshed = agent.ask("LOCK", "/dav/f", &again, b"");
    assert!(refreshed.text().contains("Second-600<"), "{refreshed:?}");
}

#[test]
fn the_root_is_locked_and_unlocked() {
    let place = Place::new();
    let server = place.serve();
    let (agent, other) = (server.session("a"), server.session("b"));
    for status in [201, 204] {
        let locked = agent.ask("LOCK", "/dav/", &[], LOCK);
        assert_eq!(locked.status, 200, "{locked:?}");
        assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, 423);
        let token = [("lock-token", locked.header("lock-token"))];
        assert_eq!(agent.ask("UNLOCK", "/dav/", &token, b"").status, 204);
        assert_eq!(dav(&other, "PUT", "/f", &[], b"y").0, status);
    }
    let metrics = agent.get("/metrics");
    assert!(metrics.text().contains("lighthouse_http_panics_total 0\n"), "{}", metrics.text());
}

#[test]
fn a_name_that_is_locked_is_there() {
    let place = Place::new();
    let policy = place.path("policy");
    std::fs::write(&policy, "expert / filesystem_read\n").unwrap();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_FUSE_POLICY", &policy));
    let (agent, expert) = (server.session("a"), server.session("expert"));
    assert_eq!(agent.ask("LOCK", "/dav/new", &[], LOCK).status, 201);
    assert_eq!(content(&agent, "/new").as_deref(), Some(&b""[..]));
    assert_eq!(agent.ask("LOCK", "/dav/none/new", &[], LOCK).status, 409);
    assert_eq!(expert.ask("LOCK", "/dav/other", &[], LOCK).status, 403);
    assert_eq!(content(&agent, "/other"), None);
    // What could not be made is not locked either.
    assert_eq!(dav(&agent, "PUT", "/other", &[], b"x").0, 201);
}

#[test]
fn a_condition_names_a_lock_that_is_there() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let put = |condition| dav(&agent, "PUT", "/f", &[("if", condition)], b"y").0;
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"x").0, 201);
    assert_eq!(put("(<urn:uuid:invented>)"), 412);
    assert_eq!(content(&agent, "/f").unwrap(), b"x");
    assert_eq!(put("(Not <urn:uuid:invented>)"), 204);
    let locked = agent.ask("LOCK", "/dav/f", &[], LOCK);
    assert_eq!(put("(<urn:uuid:invented>)"), 412);
    assert_eq!(put(&format!("(<urn:uuid:invented>) ({})", locked.header("lock-token"))), 204);
}

#[test]
fn what_was_compared_is_what_is_replaced() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    // Where `@` stands, the version that is there.
    let conditions = [
        ("/f", "if-match", "@"),
        ("/f", "if", "([@])"),
        ("/f", "if-none-match", "\"another\""),
        ("/new", "if-none-match", "*"),
    ];
    // All of a file, and parts of one.
    let ways = [
        ("PUT", ""),
        ("PUT", "content-range: bytes 0-8/*\r\n"),
        (
            "PATCH",
            "content-type: application/x-sabredav-partialupdate\r\nx-update-range: bytes=0-8\r\n",
        ),
        (
            "PATCH",
            "content-type: application/x-sabredav-partialupdate\r\nx-update-range: append\r\n",
        ),
    ];
    for ((path, name, value), (method, part)) in
        conditions.into_iter().flat_map(|condition| ways.map(|way| (condition, way)))
    {
        let made = agent.ask("PUT", "/dav/f", &[], b"first");
        agent.ask("DELETE", "/files/new", &[], b"");
        let value = value.replace('@', made.header("etag"));
        let head = format!(
            "{method} /dav{path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\nconnection: close\r\n\
             expect: 100-continue\r\n{name}: {value}\r\n{part}content-length: 9\r\n\r\n",
            agent.bearer()
        );
        let mut stream = BufReader::new(server.connect());
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        // It wants the body once it has compared.
        assert_eq!(read_head(&mut stream).0, 100, "{method} {part}{name}");
        agent.put(&format!("/files{path}"), b"meanwhile");
        stream.get_mut().write_all(b"forgotten").unwrap();
        let answer = Answer::read(&mut stream, false);
        assert_eq!(answer.status, 412, "{method} {part}{name}: {answer:?}");
        assert!(answer.json()["detail"].is_string(), "{name}");
        assert_eq!(content(&agent, path).unwrap(), b"meanwhile", "{method} {part}{name}");
    }
}

#[test]
fn a_part_of_a_file_comes_at_once_where_it_belongs() {
    const PATCH: (&str, &str) = ("content-type", "application/x-sabredav-partialupdate");
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let version =
        |tag: &str| -> u64 { tag.trim_matches('"').split_once('-').unwrap().1.parse().unwrap() };
    let mut expected = vec![b'o'; 3 << 20];
    let mut tag = agent.put("/files/f", &expected).header("etag").to_owned();
    // A part in memory, and one that is staged.
    for (letter, len) in [(b'p', 5000), (b'q', 2 << 20)] {
        let part = vec![letter; len];
        let range = format!("bytes 1000-{}/*", 999 + len);
        let update = format!("bytes={}-{}", expected.len() - 7, expected.len() - 8 + len);
        for (method, headers, at) in [
            ("PUT", vec![("content-range", range.as_str())], 1000),
            ("PATCH", vec![PATCH, ("x-update-range", &update)], expected.len() - 7),
            ("PATCH", vec![PATCH, ("x-update-range", "append")], usize::MAX),
        ] {
            let conditional: Vec<_> =
                headers.into_iter().chain([("if-match", tag.as_str())]).collect();
            let put = agent.ask(method, "/dav/f", &conditional, &part);
            assert_eq!(put.status, 204, "{conditional:?}: {put:?}");
            let at = at.min(expected.len());
            expected.resize(expected.len().max(at + len), 0);
            expected[at..at + len].fill(letter);
            let got = agent.get("/files/f");
            assert!(got.body == expected, "{conditional:?}");
            assert_eq!(put.header("etag"), got.header("etag"));
            // Which no longer is what is there.
            assert_eq!(agent.ask(method, "/dav/f", &conditional, &part).status, 412);
            // It was one event.
            let (before, after) = (version(&tag), version(put.header("etag")));
            for at in before..after {
                let then = agent.get(&format!("/files/f?at=@{at}"));
                assert_eq!(then.header("etag"), tag, "@{at}");
            }
            tag = put.header("etag").to_owned();
        }
    }
    // What has not come changes nothing.
    let mut stream = server.connect();
    let head = format!(
        "PUT /dav/f HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-range: bytes 0-8/*\r\n\
         content-length: 9\r\n\r\nearly",
        agent.bearer()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // Whatever it says, it has made up its mind once it hangs up.
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert!(agent.get("/files/f").body == expected);
}

#[test]
fn nothing_goes_where_the_source_is_in_the_destination() {
    let place = Place::new();
    let project = place.path("project");
    std::fs::create_dir_all(project.join("d/sub")).unwrap();
    std::fs::create_dir_all(project.join("other")).unwrap();
    std::fs::create_dir_all(project.join("x")).unwrap();
    std::fs::write(project.join("d/sub/f"), "deep").unwrap();
    std::fs::write(project.join("d/g"), "shallow").unwrap();
    std::fs::write(project.join("other/f"), "other").unwrap();
    symlink("d", project.join("l")).unwrap();
    symlink("d/g", project.join("lg")).unwrap();
    symlink("../other", project.join("x/way")).unwrap();
    let server = place.serve();
    let agent = server.session("a");
    let refused = [
        ("/d/sub/f", "/d"),
        ("/d/", "/d/old"),
        ("/d/g", "/d/g"),
        // The same by another path, and a link to what would go for it.
        ("/l/sub/f", "/d"),
        ("/d/g", "/l/g"),
        ("/lg", "/d/g"),
        ("/l", "/d"),
        ("/d", "/"),
        ("/", "/new"),
    ];
    for (from, to) in refused {
        for method in ["MOVE", "COPY"] {
            assert_eq!(transfer(&agent, method, from, to), 403, "{method} {from} {to}");
        }
    }
    assert_eq!(transfer(&agent, "COPY", "/l", "/d/sub"), 403);
    // As some read a URL, this is /d.
    let odd = dav(&agent, "MOVE", "/d/sub/f", &[("destination", "http:///dav/dav/d")], b"").0;
    assert!((400..500).contains(&odd), "{odd}");
    for method in ["MOVE", "COPY"] {
        assert_eq!(transfer(&agent, method, "/none", "/d"), 404);
        assert_eq!(transfer(&agent, method, "/d/g/none", "/d"), 404);
        assert_eq!(transfer(&agent, method, "/d/g", "/none/g"), 409);
        assert_eq!(transfer(&agent, method, "/d/g", "/d/sub/f/g"), 409);
    }
    assert_eq!(dav(&agent, "DELETE", "/", &[], b"").0, 403);
    assert_eq!(content(&agent, "/d/sub/f").unwrap(), b"deep");
    assert_eq!(content(&agent, "/lg").unwrap(), b"shallow");
    // A link on the way to the source may go with the destination.
    assert_eq!(transfer(&agent, "MOVE", "/x/way/f", "/x"), 204);
    assert_eq!(content(&agent, "/x").unwrap(), b"other");
    assert_eq!(content(&agent, "/other/f"), None);
}

#[test]
fn a_file_is_replaced_in_one_step() {
    let place = Place::new();
    let project = place.path("project");
    std::fs::create_dir_all(&project).unwrap();
    for name in ["f", "g", "h"] {
        std::fs::write(project.join(name), name).unwrap();
    }
    std::fs::hard_link(project.join("h"), project.join("h2")).unwrap();
    symlink("g", project.join("l")).unwrap();
    let server = place.serve();
    let agent = server.session("a");
    let last = || -> u64 { agent.get("/files/").header("lighthouse-sequence").parse().unwrap() };
    for (method, from) in [("COPY", "/f"), ("MOVE", "/f")] {
        let before = last();
        assert_eq!(transfer(&agent, method, from, "/g"), 204, "{method}");
        for at in before..=last() {
            let there = agent.get(&format!("/files/g?at=@{at}"));
            assert_eq!(there.status, 200, "{method}: there is none at {at}");
        }
        assert_eq!(content(&agent, "/g").unwrap(), b"f");
    }
    assert_eq!(content(&agent, "/f"), None);
    // A link is replaced itself, not what it leads to.
    assert_eq!(transfer(&agent, "COPY", "/h", "/l"), 204);
    assert_eq!(content(&agent, "/l").unwrap(), b"h");
    assert_eq!(content(&agent, "/g").unwrap(), b"f");
    // Of two names of one file, the old one goes.
    assert_eq!(transfer(&agent, "MOVE", "/h", "/h2"), 204);
    assert_eq!(content(&agent, "/h"), None);
    assert_eq!(content(&agent, "/h2").unwrap(), b"h");
    // Where it is not to be overwritten, it is not.
    let kept = [("destination", "/dav/g"), ("overwrite", "F")];
    assert_eq!(dav(&agent, "COPY", "/l", &kept, b"").0, 412);
    assert_eq!(content(&agent, "/g").unwrap(), b"f");
}

#[test]
fn what_may_not_be_read_replaces_nothing() {
    let place = Place::new();
    let policy = place.path("policy");
    std::fs::write(&policy, "expert /current/shut none\nexpert /current/kept filesystem_read\n")
        .unwrap();
    let mut command = place.command(false);
    let server = Server::start(command.env("LIGHTHOUSE_FUSE_POLICY", &policy));
    let (agent, expert) = (server.session("a"), server.session("expert"));
    for path in ["shut/f", "kept/f", "open/f", "open/d/f"] {
        let path = format!("/files/{path}?parents=true");
        assert_eq!(agent.put(&path, b"content").status, 201);
    }
    for (method, from, to) in [
        ("COPY", "/shut/f", "/open/f"),
        ("COPY", "/shut/f", "/open/d"),
        ("MOVE", "/shut/f", "/open/f"),
        ("MOVE", "/kept/f", "/open/d"),
        ("COPY", "/open/f", "/kept/f"),
        ("MOVE", "/open/d", "/kept"),
    ] {
        assert_eq!(transfer(&expert, method, from, to), 403, "{method} {from} {to}");
    }
    for path in ["/shut/f", "/kept/f", "/open/f", "/open/d/f"] {
        assert_eq!(content(&agent, path).unwrap(), b"content", "{path}");
    }
    assert_eq!(transfer(&expert, "COPY", "/kept/f", "/open/f"), 204);
}

#[test]
fn links_in_a_directory_are_copied_as_links() {
    let place = Place::new();
    let project = place.path("project");
    std::fs::create_dir_all(project.join("d/e")).unwrap();
    std::fs::write(project.join("d/e/f"), "content").unwrap();
    // Followed, these would be two to the power of forty directories.
    let links = [("a", "."), ("b", "."), ("e/up", ".."), ("out", "/etc/passwd"), ("gone", "none")];
    for (name, target) in links {
        symlink(target, project.join("d").join(name)).unwrap();
    }
    symlink("d", project.join("l")).unwrap();
    let server = place.serve();
    let agent = server.session("a");
    for (from, to) in [("/d/", "/copied/"), ("/l", "/followed")] {
        assert_eq!(transfer(&agent, "COPY", from, to), 201, "{from}");
        let listed = agent.get(&format!("/files{to}")).json();
        let mut listed: Vec<_> = listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| ["name", "type"].map(|field| entry[field].as_str().unwrap()).join(" "))
            .collect();
        listed.sort();
        assert_eq!(listed, ["a link", "b link", "e directory", "gone link", "out link"], "{from}");
        let to = to.trim_end_matches('/');
        assert_eq!(content(&agent, &format!("{to}/a/b/e/up/e/f")).unwrap(), b"content");
    }
    // A link that is asked for itself is followed.
    assert_eq!(transfer(&agent, "COPY", "/d/e/up/e/f", "/f"), 201);
    assert_eq!(content(&agent, "/f").unwrap(), b"content");
}

#[test]
fn a_listing_of_all_depths_is_refused_however_it_is_asked_for() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    for headers in
        [&[][..], &[("depth", "infinity"), ("x-litmus", "1")], &[("depth", "2")], &[("depth", "")]]
    {
        let (status, said) = dav(&agent, "PROPFIND", "/", headers, b"");
        assert_eq!(status, 403, "{headers:?}: {said}");
        assert!(said.contains("propfind-finite-depth"), "{headers:?}: {said}");
    }
    for depth in ["0", "1"] {
        let (status, said) = dav(&agent, "PROPFIND", "/", &[("depth", depth)], b"");
        assert!(status == 207 && said.contains("<D:href>/dav/</D:href>"), "{said}");
    }
}

#[test]
fn elements_in_each_other_do_not_end_the_server() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let doctype = "<!DOCTYPE a [<!ENTITY b \"<a><a><a>\">]><a>&b;</a>";
    let bodies = ["<a>".repeat(20_000), "<a>".repeat(512), doctype.to_owned()];
    for method in ["PROPFIND", "PROPPATCH", "LOCK"] {
        for body in &bodies {
            let (status, said) = dav(&agent, method, "/", &[("depth", "0")], body.as_bytes());
            assert_eq!(status, 400, "{method} {}: {said}", &body[..20]);
        }
    }
    let wanted: String = (0..200).map(|n| format!("<x:p{n}/>")).collect();
    let body = format!(
        "<D:propfind xmlns:D=\"DAV:\" xmlns:x=\"urn:x\"><D:prop>{wanted}</D:prop></D:propfind>"
    );
    assert_eq!(dav(&agent, "PROPFIND", "/", &[("depth", "0")], body.as_bytes()).0, 207);
}

#[test]
fn a_very_deep_directory_is_taken_away() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    // Put together from shallow ones: the way to the bottom is long.
    let chain = "d/".repeat(40);
    let make = |top: &str| {
        assert_eq!(agent.put(&format!("/files/{top}/{chain}?parents=true"), b"").status, 201);
    };
    make("deep");
    let mut bottom = format!("/deep/{chain}");
    for _ in 1..20 {
        make("next");
        assert_eq!(transfer(&agent, "MOVE", "/next", &format!("{bottom}next")), 201);
        bottom.push_str(&format!("next/{chain}"));
    }
    assert_eq!(dav(&agent, "DELETE", "/deep/", &[], b"").0, 204);
    assert_eq!(agent.get("/files/deep").status, 404);
}

#[test]
fn a_range_beyond_every_file_is_the_rest_of_this_one() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"content").0, 201);
    let got = |range: &str| dav(&agent, "GET", "/f", &[("range", range)], b"");
    for (range, rest) in [
        ("bytes=1-18446744073709551615", "ontent"),
        ("bytes=0-18446744073709551615", "content"),
        ("bytes=6-99999999999999999999", "t"),
    ] {
        assert_eq!(got(range), (206, rest.to_owned()), "{range}");
    }
    assert_eq!(got("bytes=7-18446744073709551615").0, 416);
    let part = [("content-range", "bytes 0-18446744073709551615/*")];
    assert_eq!(dav(&agent, "PUT", "/f", &part, b"x").0, 400);
    assert_eq!(content(&agent, "/f").unwrap(), b"content");
}

#[test]
fn an_upload_of_another_length_than_was_said_changes_nothing() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let sent = |path: &str, said: &str| {
        let headers = [("transfer-encoding", "chunked"), ("x-expected-entity-length", said)];
        dav(&agent, "PUT", path, &headers, b"3\r\nnew\r\n0\r\n\r\n").0
    };
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"old").0, 201);
    for said in ["2", "4", "0"] {
        assert_eq!((sent("/f", said), sent("/g", said)), (400, 400), "{said}");
        assert_eq!(content(&agent, "/f").unwrap(), b"old");
        assert_eq!(content(&agent, "/g"), None);
    }
    // A part, of which too little comes, too much at once, and too much once all has come.
    for (range, body) in [
        ("bytes 0-3/*", "3\r\nnew\r\n0\r\n\r\n"),
        ("bytes 0-1/*", "3\r\nnew\r\n0\r\n\r\n"),
        ("bytes 1-3/9", "3\r\nnew\r\n1\r\n!\r\n0\r\n\r\n"),
    ] {
        let headers = [("transfer-encoding", "chunked"), ("content-range", range)];
        for path in ["/f", "/g"] {
            let (status, said) = dav(&agent, "PUT", path, &headers, body.as_bytes());
            let refused = if path == "/g" && range.contains(" 1") { 416 } else { 400 };
            assert_eq!(status, refused, "{range} of {path}: {said}");
        }
        assert_eq!(content(&agent, "/f").unwrap(), b"old", "{range}");
        assert_eq!(content(&agent, "/g"), None, "{range}");
    }
    let part = [("transfer-encoding", "chunked"), ("content-range", "bytes 1-3/*")];
    assert_eq!(dav(&agent, "PUT", "/f", &part, b"3\r\nnew\r\n0\r\n\r\n").0, 204);
    assert_eq!(content(&agent, "/f").unwrap(), b"onew");
    assert_eq!((sent("/f", "3"), sent("/g", "3")), (204, 201));
    assert_eq!(content(&agent, "/f").unwrap(), b"new");
    assert_eq!(content(&agent, "/g").unwrap(), b"new");
}

#[test]
fn a_part_of_another_length_than_was_said_changes_nothing() {
    let place = Place::new();
    let server = place.serve();
    let agent = server.session("a");
    let sent = |path: &str, range: &str| {
        let headers = [("transfer-encoding", "chunked"), ("content-range", range)];
        dav(&agent, "PUT", path, &headers, b"2\r\nne\r\n1\r\nw\r\n0\r\n\r\n").0
    };
    assert_eq!(dav(&agent, "PUT", "/f", &[], b"content").0, 201);
    // The second is as long as one of the chunks.
    for range in ["bytes 1-1/*", "bytes 1-2/*", "bytes 1-4/*", "bytes 0-3/7", "bytes 5-8/9"] {
        assert_eq!(sent("/f", range), 400, "{range}");
        assert_eq!(content(&agent, "/f").unwrap(), b"content", "{range}");
    }
    for range in ["bytes 0-1/*", "bytes 0-3/*"] {
        assert_eq!((sent("/g", range), content(&agent, "/g")), (400, None), "{range}");
    }
    assert_eq!((sent("/f", "bytes 1-3/*"), sent("/g", "bytes 0-2/*")), (204, 201));
    assert_eq!(content(&agent, "/f").unwrap(), b"cnewent");
    assert_eq!(content(&agent, "/g").unwrap(), b"new");
}
