//! `streams/`, `context/`, `shadows/` and `debug/` over the kernel in memory: what they tell, and that nothing can be
//! changed there. Production decode, dispatch, view, tree and store; no mount.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::legacy::context::{NewPackage, Packages};
use lighthouse_fuse::legacy::native::{NewEvent, keep};
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, serve};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Store};
use lighthouse_fuse::transport::memory::{self, Kernel, Options, User};
use lighthouse_fuse::tree::{Timestamp, Tree};
use lighthouse_fuse::view::{self, View};
use serde_json::Value;
use tempfile::TempDir;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_DIRECTORY: u32 = 0o200_000;

const STREAMS: [&str; 6] = [
    "validation_requests",
    "expert_responses",
    "pair_sessions",
    "file_changes",
    "agent_activities",
    "debug_events",
];

struct Mounted {
    kernel: Kernel,
    tree: Tree,
    server: JoinHandle<usize>,
    _dir: TempDir,
}

fn mount(sections: bool) -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let open = OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() };
    let store = Arc::new(Store::create(dir.path(), &CreateOptions::default(), &open).unwrap());
    let (kernel, device) = memory::pair(Options::default());
    let tree = Tree::new(Arc::clone(&store));
    let server = thread::spawn(move || {
        let agents = Agents::new(Arc::clone(&store));
        let shown = view::Options { sections, ..view::Options::default() };
        let view = View::new(Tree::new(store), agents, shown);
        serve(&device, &view, Config { readers: 1, ..Config::default() }).expect("it ends well");
        view.held().open
    });
    kernel.mount().expect("INIT is answered");
    Mounted { kernel, tree, server, _dir: dir }
}

impl Mounted {
    #[track_caller]
    fn unmount(self) {
        self.kernel.unmount();
        assert_eq!(self.server.join().expect("no panic"), 0, "files that were never released");
    }

    fn tell(&self, kind: &'static str) {
        let new = NewEvent {
            kind,
            aggregate_id: "default".to_owned(),
            aggregate_type: "project".to_owned(),
            source_agent: Some("somebody".to_owned()),
            source_component: "http_server".to_owned(),
            data: serde_json::Map::new(),
            metadata: serde_json::Map::new(),
        };
        keep(&self.tree, Origin::default(), &new).unwrap();
    }
}

fn names(user: &User, path: &str) -> Vec<String> {
    let mut names: Vec<_> = user.list(path).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

/// All of an open file from `offset` on, in pieces of 100 bytes.
fn rest(user: &User, fd: memory::Fd, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let piece = user.pread(fd, 100, offset + bytes.len() as u64).unwrap();
        if piece.is_empty() {
            return bytes;
        }
        bytes.extend(piece);
    }
}

fn kinds(text: &[u8]) -> Vec<String> {
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let kind = |line| {
        let line: Value = serde_json::from_slice(line).unwrap();
        line["event_type"].as_str().unwrap().to_owned()
    };
    lines.map(kind).collect()
}

#[test]
fn only_who_asks_for_them_sees_them() {
    let plain = mount(false);
    let user = plain.kernel.as_root();
    assert_eq!(names(&user, "/"), ["current", "history"]);
    assert_eq!(user.stat("/streams"), Err(Errno::ENOENT));
    plain.unmount();
    let all = mount(true);
    let user = all.kernel.as_root();
    assert_eq!(names(&user, "/"), ["context", "current", "debug", "history", "shadows", "streams"]);
    let mut listed = STREAMS.map(str::to_owned).to_vec();
    listed.push("from".to_owned());
    listed.sort();
    assert_eq!(names(&user, "/streams"), listed);
    assert_eq!(user.stat("/stream"), Err(Errno::ENOENT));
    all.unmount();
}

#[test]
fn each_reader_sees_every_event_once_and_offsets_stay() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    let early = user.open("/streams/file_changes", O_RDONLY, 0).unwrap();
    assert_eq!(rest(&user, early, 0), b"");
    user.write_file("/current/a", b"one", 0o644).unwrap();
    user.mkdir("/current/d", 0o755).unwrap();
    let first = rest(&user, early, 0);
    assert_eq!(kinds(&first), ["file_created", "file_modified", "directory_created"]);
    user.rename("/current/a", "/current/d/b").unwrap();
    user.unlink("/current/d/b").unwrap();
    let late = user.open("/streams/file_changes", O_RDONLY, 0).unwrap();
    let all = rest(&user, late, 0);
    assert!(all.starts_with(&first));
    assert_eq!(rest(&user, early, first.len() as u64), all[first.len()..]);
    assert_eq!(kinds(&all[first.len()..]), ["file_moved", "file_deleted"]);
    assert_eq!(user.stat("/streams/file_changes").unwrap().size, all.len() as u64);
    for fd in [early, late] {
        user.close(fd).unwrap();
    }
    mounted.unmount();
}

#[test]
fn a_foreign_event_is_told_in_the_stream_of_its_kind_alone() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    for (kind, stream) in [
        ("validation_request_submitted", "validation_requests"),
        ("validation_decision_made", "expert_responses"),
        ("expert_agent_summoned", "expert_responses"),
        ("pair_session_started", "pair_sessions"),
        ("agent_registered", "agent_activities"),
        ("custom", "debug_events"),
    ] {
        mounted.tell(kind);
        for name in STREAMS {
            let path = format!("/streams/{name}");
            let told = kinds(&user.read_file(&path).unwrap()).contains(&kind.to_owned());
            assert_eq!(told, name == stream, "{kind} in {name}");
        }
    }
    mounted.unmount();
}

#[test]
fn a_stream_from_an_event_on_has_what_is_told_from_there() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    for name in ["a", "b", "c"] {
        user.mkdir(format!("/current/{name}"), 0o755).unwrap();
    }
    let last = mounted.tree.last().0;
    let paths = |from: u64| -> Vec<String> {
        let text = user.read_file(format!("/streams/from/@{from}/file_changes")).unwrap();
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let path = |line| serde_json::from_slice::<Value>(line).unwrap()["data"]["path"].clone();
        lines.map(|line| path(line).as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(last), ["/c"]);
    assert_eq!(paths(2), ["/a", "/b", "/c"]);
    assert_eq!(paths(last + 1), [""; 0]);
    user.mkdir("/current/e", 0o755).unwrap();
    assert_eq!(paths(last + 1), ["/e"]);
    assert_eq!(names(&user, "/streams/from"), [""; 0]);
    assert_eq!(user.stat("/streams/from/@1"), Err(Errno::ENOENT));
    assert_eq!(user.stat("/streams/from/x"), Err(Errno::ENOENT));
    mounted.unmount();
}

#[test]
fn debug_files_have_their_size_and_tell_what_happened() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    user.write_file("/current/a", b"one", 0o644).unwrap();
    for name in names(&user, "/debug") {
        let path = format!("/debug/{name}");
        let fd = user.open(&path, O_RDONLY, 0).unwrap();
        let size = user.fstat(fd).unwrap().size;
        let text = rest(&user, fd, 0);
        assert_eq!(text.len() as u64, size, "{name}");
        user.close(fd).unwrap();
        if name == "operation_log.txt" {
            let text = String::from_utf8(text).unwrap();
            assert!(text.lines().any(|line| line.contains(" CREATE ")), "{text}");
            continue;
        }
        let json: Value = serde_json::from_slice(&text).unwrap();
        let keys: &[&[&str]] = match &*name {
            "performance.json" => &[
                &["performance_stats", "total_operations"],
                &["performance_stats", "cache_hits"],
                &["performance_stats", "cache_misses"],
                &["performance_stats", "avg_response_time_ms"],
                &["operation_times", "getattr", "avg_ms"],
                &["operation_times", "readdir", "count"],
                &["operation_times", "read", "p95_ms"],
                &["operation_times", "write", "count"],
                &["cache_performance", "attr_cache_size"],
                &["cache_performance", "dir_cache_size"],
                &["cache_performance", "content_cache_size"],
                &["cache_performance", "history_cache_size"],
            ],
            "cache_stats.json" => &[
                &["cache_sizes", "attr_cache"],
                &["cache_sizes", "dir_cache"],
                &["cache_sizes", "content_cache"],
                &["cache_sizes", "history_cache"],
                &["cache_performance", "hits"],
                &["cache_performance", "misses"],
                &["cache_performance", "hit_rate_percent"],
            ],
            "health.json" => &[
                &["uptime_seconds"],
                &["total_operations"],
                &["avg_response_time_ms"],
                &["cache_hit_rate"],
                &["active_streams"],
                &["context_packages"],
            ],
            other => panic!("{other}"),
        };
        for path in keys {
            let value = path.iter().fold(&json, |value, key| &value[key]);
            assert!(value.is_number(), "{name}: {path:?} is {value}");
        }
        if name == "performance.json" {
            assert_eq!(json["operation_times"]["write"]["count"], 1);
        }
        if name == "health.json" {
            assert_eq!(json["status"], "healthy");
        }
    }
    mounted.unmount();
}

#[test]
fn a_package_shows_its_files_as_of_its_creation_until_it_is_removed() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    user.mkdir("/current/d", 0o755).unwrap();
    user.write_file("/current/d/f", b"then", 0o644).unwrap();
    user.write_file("/current/secret", b"s", 0o600).unwrap();
    user.write_file("/current/empty", b"", 0o644).unwrap();
    let packages = Packages::new(&mounted.tree);
    let files = ["/d/f", "/secret", "/empty", "/missing", "/d/f/x", "/d"];
    let new = NewPackage {
        package_id: "review 1".to_owned(),
        request_id: "r1".to_owned(),
        agent_capabilities: vec!["security".to_owned()],
        files_involved: files.map(str::to_owned).to_vec(),
        context_data: serde_json::Map::from_iter([("why".to_owned(), "because".into())]),
        expires_at: None,
    };
    assert_eq!(names(&user, "/context"), [""; 0]);
    assert_eq!(user.stat("/context/review 1"), Err(Errno::ENOENT));
    packages.make(Origin::default(), &new, Timestamp(0)).unwrap();
    user.write_file("/current/d/f", b"and now", 0o644).unwrap();
    assert_eq!(names(&user, "/context"), ["review 1"]);
    assert_eq!(names(&user, "/context/review 1"), ["context.json", "files.json", "manifest.json"]);
    let json = |name: &str| -> Value {
        let path = format!("/context/review 1/{name}.json");
        let text = user.read_file(&path).unwrap();
        assert_eq!(user.stat(&path).unwrap().size, text.len() as u64);
        serde_json::from_slice(&text).unwrap()
    };
    assert_eq!(json("files"), serde_json::json!({"/d/f": "then", "/secret": "s"}));
    assert_eq!(json("context"), serde_json::json!({"why": "because"}));
    let manifest = json("manifest");
    assert_eq!(manifest["package_id"], "review 1");
    assert_eq!(manifest["files_involved"].as_array().unwrap().len(), 6);
    assert!(manifest["expires_at"].is_null() && manifest["created_at"].is_string());
    assert_eq!(user.stat("/context/review 1/files.json").unwrap().mode & 0o777, 0o600);
    assert_eq!(user.stat("/context/review 1/context.json").unwrap().mode & 0o777, 0o644);
    assert_eq!(user.unlink("/context/review 1/files.json"), Err(Errno::EROFS));
    assert_eq!(user.rmdir("/context/review 1"), Err(Errno::EROFS));
    assert!(packages.remove(Origin::default(), "review 1", Timestamp(0)).unwrap());
    assert_eq!(user.stat("/context/review 1"), Err(Errno::ENOENT));
    assert_eq!(names(&user, "/context"), [""; 0]);
    mounted.unmount();
}

#[test]
fn a_package_that_goes_while_they_are_listed_hides_no_other() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    let packages = Packages::new(&mounted.tree);
    let ids: Vec<String> = (0..60).map(|number| format!("p{number:02}")).collect();
    for package_id in ids.iter().cloned() {
        let new = NewPackage {
            package_id,
            request_id: "r".to_owned(),
            agent_capabilities: Vec::new(),
            files_involved: Vec::new(),
            context_data: serde_json::Map::new(),
            expires_at: None,
        };
        packages.make(Origin::default(), &new, Timestamp(0)).unwrap();
    }
    let dir = user.open("/context", O_DIRECTORY, 0).unwrap();
    let mut seen = Vec::new();
    loop {
        let some = user.getdents_in(dir, 1024).unwrap();
        let Some(last) = some.last() else { break };
        // What was listed just now, and so is behind the offset that the listing goes on at.
        let last = String::from_utf8(last.name.clone()).unwrap();
        let _ = packages.remove(Origin::default(), &last, Timestamp(0)).unwrap();
        seen.extend(some.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
    }
    user.close(dir).unwrap();
    assert_eq!(seen.split_off(2), ids);
    assert!(names(&user, "/context").len() < ids.len() - 1, "some went, and not only at the end");
    mounted.unmount();
}

/// An access control list as the attribute holds it: tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// One that lets its owner do what `owner` says, user 1000 what `named` and the mask do, and nobody else anything.
fn acl_of(owner: u16, named: u16, mask: u16) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    acl(&[
        (0x01, owner, NONE),
        (0x02, named, 1000),
        (0x04, 0, NONE),
        (0x10, mask, NONE),
        (0x20, 0, NONE),
    ])
}

const ACL: &str = "system.posix_acl_access";

/// Waits until `holds` does: what the kernel is told, it is told by a thread of its own.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_access_control_list_holds_wherever_the_file_shows() {
    let mounted = mount(true);
    let root = mounted.kernel.as_root();
    let in_group = mounted.kernel.as_user(1001, 50, &[], 0o022, 1);
    let named = mounted.kernel.as_user(1000, 1000, &[], 0o022, 1);
    root.write_file("/current/f", b"text", 0o640).unwrap();
    root.chown("/current/f", None, Some(50)).unwrap();
    assert!(in_group.read_file("/shadows/f").is_ok());
    root.set_xattr("/current/f", ACL, &acl_of(7, 4, 4), 0).unwrap();
    for place in ["/current/f", "/shadows/f"] {
        assert_eq!(root.stat(place).unwrap().mode & 0o777, 0o740, "{place}");
        assert_eq!(in_group.read_file(place), Err(Errno::EACCES), "{place}");
        assert!(named.read_file(place).is_ok(), "{place}");
        assert_eq!(root.xattr(place, ACL).unwrap(), acl_of(7, 4, 4), "{place}");
        assert_eq!(root.xattr_names(place).unwrap(), [ACL.as_bytes()], "{place}");
    }
    mounted.unmount();
}

#[test]
fn the_access_control_list_of_the_tree_holds_beside_and_above_it() {
    let mounted = mount(true);
    let root = mounted.kernel.as_root();
    let in_group = mounted.kernel.as_user(1001, 50, &[], 0o022, 1);
    let named = mounted.kernel.as_user(1000, 1000, &[], 0o022, 1);
    root.chown("/current", None, Some(50)).unwrap();
    let directories = ["/", "/current", "/history", "/shadows", "/context", "/streams", "/debug"];
    let files = ["/streams/file_changes", "/debug/health.json"];
    for place in directories {
        assert!(in_group.list(place).is_ok() && named.list(place).is_ok(), "{place}");
    }
    root.set_xattr("/current", ACL, &acl_of(7, 7, 7), 0).unwrap();
    eventually("the list holds above the tree", || in_group.list("/") == Err(Errno::EACCES));
    for place in directories {
        assert!(named.list(place).is_ok(), "{place}");
        eventually(place, || in_group.list(place) == Err(Errno::EACCES));
    }
    for place in files {
        assert!(named.read_file(place).is_ok(), "{place}");
        assert_eq!(in_group.read_file(place), Err(Errno::EACCES), "{place}");
    }
    // What may be done to names in the tree may not be done to labels.
    assert_eq!(named.mkdir("/history/label", 0o755), Err(Errno::EACCES));
    assert_eq!(root.xattr("/", ACL).unwrap(), acl_of(7, 7, 7));
    assert_eq!(root.xattr("/history", ACL).unwrap(), acl_of(7, 7, 5));
    assert_eq!(root.xattr("/streams/file_changes", ACL).unwrap(), acl_of(6, 7, 4));
    assert_eq!(root.xattr_names("/debug").unwrap(), [ACL.as_bytes()]);
    assert_eq!(root.xattr("/.agent", ACL), Err(Errno::ENODATA));
    root.remove_xattr("/current", ACL).unwrap();
    for place in directories {
        eventually(place, || in_group.list(place).is_ok());
        eventually(place, || named.list(place) == Err(Errno::EACCES));
        assert_eq!(root.xattr(place, ACL), Err(Errno::ENODATA), "{place}");
    }
    mounted.unmount();
}

#[test]
fn what_is_beside_the_tree_has_the_owner_and_mode_it_has_now_and_times_that_stay() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    let places =
        ["/", "/history", "/streams", "/streams/from", "/streams/from/@2", "/context", "/debug"];
    let before: Vec<_> = places.iter().map(|place| user.stat(place).unwrap()).collect();
    user.write_file("/current/f", b"", 0o644).unwrap();
    user.chmod("/current", 0o750).unwrap();
    user.chown("/current", Some(1000), Some(50)).unwrap();
    for (place, before) in places.iter().zip(before) {
        let looks = |place| {
            let attr = user.stat(place).unwrap();
            (attr.mode & 0o777, attr.uid, attr.gid)
        };
        eventually(place, || looks(place) == (0o750, 1000, 50));
        mounted.kernel.shrink();
        let after = user.stat(place).unwrap();
        assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime), "{place}");
    }
    mounted.unmount();
}

#[test]
fn a_package_is_read_by_nobody_who_may_not_read_what_is_in_it() {
    let mounted = mount(true);
    let root = mounted.kernel.as_root();
    let packages = Packages::new(&mounted.tree);
    root.chown("/current", None, Some(50)).unwrap();
    let file = |path: &str, mode: u32, owner: (u32, u32)| {
        let path = format!("/current{path}");
        root.write_file(&path, b"text", 0o600).unwrap();
        root.chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        root.chmod(&path, mode).unwrap();
    };
    let directory = |path: &str, mode: u32| {
        root.mkdir(format!("/current{path}"), 0o700).unwrap();
        root.chown(format!("/current{path}"), None, Some(50)).unwrap();
        root.chmod(format!("/current{path}"), mode).unwrap();
    };
    for (path, mode) in [("/open", 0o755), ("/closed", 0o700), ("/group", 0o750)] {
        directory(path, mode);
    }
    file("/open/f", 0o644, (0, 50));
    file("/closed/f", 0o644, (0, 50));
    file("/group/f", 0o644, (0, 50));
    file("/others", 0o644, (1000, 1000));
    file("/others group", 0o640, (0, 1000));
    file("/not the owner", 0o044, (1000, 50));
    file("/listed", 0o644, (0, 50));
    root.set_xattr("/current/listed", ACL, &acl_of(7, 4, 4), 0).unwrap();
    let mut number = 0;
    let mut mode = |files: &[&str]| {
        number += 1;
        let package_id = number.to_string();
        let new = NewPackage {
            package_id: package_id.clone(),
            files_involved: files.iter().map(|&file| file.to_owned()).collect(),
            ..NewPackage::default()
        };
        packages.make(Origin::default(), &new, Timestamp(0)).unwrap();
        root.stat(format!("/context/{package_id}/files.json")).unwrap().mode & 0o777
    };
    assert_eq!(mode(&[]), 0o644);
    assert_eq!(mode(&["/open/f", "/missing"]), 0o644);
    assert_eq!(mode(&["/open/f", "/closed/f"]), 0o600);
    assert_eq!(mode(&["/open/f", "/group/f"]), 0o640);
    assert_eq!(mode(&["/others"]), 0o644);
    assert_eq!(mode(&["/others group"]), 0o600);
    assert_eq!(mode(&["/not the owner"]), 0o600);
    assert_eq!(mode(&["/listed"]), 0o600);
    assert_eq!(mode(&["/open/f"]), 0o644);
    root.set_xattr("/current", ACL, &acl_of(7, 5, 5), 0).unwrap();
    assert_eq!(mode(&["/open/f"]), 0o600);
    mounted.unmount();
}

#[test]
fn a_shadow_is_the_file_as_json_and_follows_it() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    user.mkdir("/current/d", 0o755).unwrap();
    user.write_file("/current/d/f", b"a \xff \"quote\"\n", 0o640).unwrap();
    user.symlink("d/f", "/current/link").unwrap();
    user.mknod("/current/fifo", 0o010_644, 0).unwrap();
    for number in 0..200 {
        user.write_file(format!("/current/d/{number}"), b"", 0o644).unwrap();
    }
    assert_eq!(names(&user, "/shadows"), ["d", "link"]);
    assert_eq!(names(&user, "/shadows/d"), names(&user, "/current/d"));
    assert_eq!(user.readlink("/shadows/link").unwrap(), b"d/f");
    assert_eq!(user.stat("/shadows/fifo"), Err(Errno::ENOENT));
    let json = |path: &str| -> Value {
        let text = user.read_file(path).unwrap();
        assert_eq!(user.stat(path).unwrap().size, text.len() as u64, "{path}");
        serde_json::from_slice(&text).unwrap()
    };
    let shadow = json("/shadows/d/f");
    assert_eq!(shadow["original_content"], "a \u{fffd} \"quote\"\n");
    assert_eq!(shadow["file_path"], "/d/f");
    assert_eq!(shadow["ast_annotations"], serde_json::json!([]));
    assert_eq!(shadow["generated_at"].as_str().unwrap().len(), 26);
    assert_eq!(shadow.as_object().unwrap().len(), 4);
    assert_eq!(user.stat("/shadows/d/f").unwrap().mode, user.stat("/current/d/f").unwrap().mode);
    user.write_file("/current/d/f", b"longer than it was before", 0o640).unwrap();
    assert_eq!(json("/shadows/d/f")["original_content"], "longer than it was before");
    user.rename("/current/d", "/current/elsewhere").unwrap();
    // In this order: otherwise the kernel moves the directory itself, which is right and which this one reports.
    assert_eq!(user.stat("/shadows/d"), Err(Errno::ENOENT));
    assert_eq!(json("/shadows/elsewhere/f")["file_path"], "/elsewhere/f");
    assert_eq!(user.unlink("/shadows/elsewhere/f"), Err(Errno::EROFS));
    let refused = user.open("/shadows/elsewhere/f", O_RDWR, 0).map(drop);
    assert_eq!(refused, Err(Errno::EROFS));
    mounted.unmount();
}

#[test]
fn a_shadow_is_read_as_it_was_when_it_was_opened() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"first", 0o644).unwrap();
    let opened = || user.open("/shadows/f", O_RDONLY, 0).unwrap();
    let content = |fd| -> String {
        let json: Value = serde_json::from_slice(&rest(&user, fd, 0)).unwrap();
        json["original_content"].as_str().unwrap().to_owned()
    };
    let young = opened();
    // From now on those who open it share it.
    thread::sleep(Duration::from_millis(2100));
    let (one, other) = (opened(), opened());
    user.write_file("/current/f", b"second", 0o644).unwrap();
    let new = opened();
    user.close(one).unwrap();
    assert_eq!((content(young), content(other)), ("first".to_owned(), "first".to_owned()));
    assert_eq!(content(new), "second");
    for fd in [young, other, new] {
        user.close(fd).unwrap();
    }
    mounted.unmount();
}

#[test]
fn nothing_there_can_be_changed() {
    let mounted = mount(true);
    let user = mounted.kernel.as_root();
    let opened = |path: &str, flags| user.open(path, flags, 0o644).map(drop);
    let refused = Err(Errno::EROFS);
    for file in ["/streams/file_changes", "/debug/health.json", "/streams/from/@2/debug_events"] {
        assert_eq!(opened(file, O_RDWR), refused, "{file}");
        assert_eq!(user.unlink(file), refused, "{file}");
        assert_eq!(user.truncate(file, 0), refused, "{file}");
        assert_eq!(user.chmod(file, 0o600), refused, "{file}");
        assert_eq!(user.set_xattr(file, "user.a", b"1", 0), refused, "{file}");
        assert_eq!(user.rename(file, "/current/x"), refused, "{file}");
        assert_eq!(user.link(file, "/current/x"), Err(Errno::EXDEV), "{file}");
    }
    for directory in ["/streams", "/debug", "/context", "/streams/from", "/streams/from/@2"] {
        assert_eq!(user.mkdir(format!("{directory}/x"), 0o755), refused, "{directory}");
        assert_eq!(opened(&format!("{directory}/x"), O_RDWR | O_CREAT), refused, "{directory}");
    }
    mounted.unmount();
}
