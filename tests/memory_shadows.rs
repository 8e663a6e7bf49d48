//! `shadows/` over the kernel in memory: who touched each definition of a file last. The processes are real ones, so that
//! they say of themselves what processes say.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/waiting.rs"]
mod waiting;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, serve};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::transport::memory::{self, Kernel, Options, User};
use lighthouse_fuse::tree::Tree;
use lighthouse_fuse::view::{self, View};
use serde_json::Value;
use tempfile::TempDir;

use waiting::Waiting;

const O_RDWR: u32 = 0o2;

struct Mounted {
    kernel: Kernel,
    server: JoinHandle<()>,
    _dir: TempDir,
}

fn mount() -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let open = OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() };
    let store = Arc::new(Store::create(dir.path(), &CreateOptions::default(), &open).unwrap());
    let (kernel, device) = memory::pair(Options::default());
    let server = thread::spawn(move || {
        let agents = Agents::new(Arc::clone(&store));
        let shown = view::Options { sections: true, ..view::Options::default() };
        let view = View::new(Tree::new(store), agents, shown);
        serve(&device, &view, Config { readers: 1, ..Config::default() }).expect("it ends well");
    });
    kernel.mount().expect("INIT is answered");
    Mounted { kernel, server, _dir: dir }
}

/// A process of an agent. It only waits; what it does, the test does in its name.
struct Agent {
    user: User,
    _process: Waiting,
}

impl Agent {
    /// Writes all of a file, and returns the event by which that ended.
    fn writes(&self, path: &str, text: &str) -> u64 {
        self.user.write_file(format!("/current/{path}"), text.as_bytes(), 0o644).unwrap();
        self.last()
    }

    /// The last event.
    fn last(&self) -> u64 {
        let seq = self.user.xattr("/current", "user.lighthouse.seq").unwrap();
        String::from_utf8(seq).unwrap().parse().unwrap()
    }
}

impl Mounted {
    fn agent(&self, name: &str) -> Agent {
        let process = Waiting::with(&[("LIGHTHOUSE_AGENT", name)]);
        Agent { user: self.kernel.as_user(0, 0, &[], 0o022, process.id()), _process: process }
    }

    fn shadow(&self, path: &str) -> Value {
        let user = self.kernel.as_root();
        serde_json::from_slice(&user.read_file(format!("/shadows/{path}")).unwrap()).unwrap()
    }

    /// Name, event and agent of each definition, once all names are known: they come a little later.
    fn touched(&self, path: &str) -> Vec<(String, u64, String)> {
        let started = Instant::now();
        loop {
            let shadow = self.shadow(path);
            let annotations = shadow["ast_annotations"].as_array().unwrap();
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let known: Option<Vec<_>> = annotations
                .iter()
                .map(|it| {
                    let last = &it["last_changed"];
                    assert_eq!(last.get("or_earlier"), None, "{it:#}");
                    let command = text(&last["command"])?;
                    assert!(command.contains("cat"), "{command}");
                    let name = text(&it["contextual_info"]["node_name"])?;
                    Some((name, last["sequence"].as_u64()?, text(&last["agent_id"])?))
                })
                .collect();
            if let Some(known) = known {
                return known;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{shadow:#}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn unmount(self) {
        self.kernel.unmount();
        self.server.join().expect("no panic");
    }
}

fn known(list: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    list.iter().map(|&(name, seq, agent)| (name.to_owned(), seq, agent.to_owned())).collect()
}

#[test]
fn each_function_names_the_agent_that_touched_it_last() {
    let mounted = mount();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| mounted.agent(name));
    let made = alice.writes("a.py", "def f(x):\n    return 1\n\ndef g(x):\n    return 1\n");
    let edited = bob.writes("a.py", "def f(x):\n    return 1\n\ndef g(x):\n    return 2\n");
    assert_eq!(mounted.touched("a.py"), known(&[("f", made, "alice"), ("g", edited, "bob")]));
    // What moves is not touched.
    let text =
        "import os\n\ndef h():\n    pass\n\ndef f(x):\n    return 1\n\ndef g(x):\n    return 2\n";
    let moved = carol.writes("a.py", text);
    let all = [("h", moved, "carol"), ("f", made, "alice"), ("g", edited, "bob")];
    assert_eq!(mounted.touched("a.py"), known(&all));
    let shadow = mounted.shadow("a.py");
    assert_eq!(shadow["original_content"], text);
    let f = &shadow["ast_annotations"][1];
    assert_eq!(
        (&f["original_position"]["start_row"], &f["current_position"]["start_row"]),
        (&0.into(), &5.into())
    );
    // Neither is what was written again as it was, nor what only changed its mode.
    bob.writes("a.py", text);
    carol.user.chmod("/current/a.py", 0o600).unwrap();
    assert_eq!(mounted.touched("a.py"), known(&all));
    mounted.unmount();
}

#[test]
fn a_path_keeps_its_past_where_files_are_replaced_and_renamed() {
    let mounted = mount();
    let [alice, git, editor] = ["alice", "git", "editor"].map(|name| mounted.agent(name));
    let text = |f: u32, g: u32| format!("def f():\n    return {f}\n\ndef g():\n    return {g}\n");
    let made = alice.writes("a.py", &text(1, 1));
    git.user.unlink("/current/a.py").unwrap();
    let checked_out = git.writes("a.py", &text(1, 2));
    assert_eq!(mounted.touched("a.py"), known(&[("f", made, "alice"), ("g", checked_out, "git")]));
    editor.writes("a.py~", &text(3, 2));
    editor.user.rename("/current/a.py~", "/current/a.py").unwrap();
    let replaced = editor.last();
    let all = [("f", replaced, "editor"), ("g", checked_out, "git")];
    assert_eq!(mounted.touched("a.py"), known(&all));
    git.user.mkdir("/current/src", 0o755).unwrap();
    git.user.rename("/current/a.py", "/current/src/b.py").unwrap();
    assert_eq!(mounted.touched("src/b.py"), known(&all));
    git.user.rename("/current/src", "/current/lib").unwrap();
    let user = mounted.kernel.as_root();
    // In this order: otherwise the kernel moves the directory itself, which is right and which this one reports.
    assert_eq!(user.stat("/shadows/src"), Err(Errno::ENOENT));
    assert_eq!(mounted.touched("lib/b.py"), known(&all));
    assert_eq!(user.stat("/shadows/a.py"), Err(Errno::ENOENT));
    git.user.unlink("/current/lib/b.py").unwrap();
    assert_eq!(user.stat("/shadows/lib/b.py"), Err(Errno::ENOENT));
    mounted.unmount();
}

#[test]
fn of_an_edit_in_place_each_event_is_told_apart() {
    let mounted = mount();
    let [alice, bob] = ["alice", "bob"].map(|name| mounted.agent(name));
    alice.writes("a.go", "package a\n\nfunc F() int { return 1 }\nfunc G() int { return 1 }\n");
    let fd = bob.user.open("/current/a.go", O_RDWR, 0).unwrap();
    bob.user.pwrite(fd, b"2", 33).unwrap();
    let first = bob.last();
    bob.user.pwrite(fd, b"3", 59).unwrap();
    let second = bob.last();
    bob.user.close(fd).unwrap();
    let shadow = mounted.shadow("a.go");
    assert_eq!(
        shadow["original_content"],
        "package a\n\nfunc F() int { return 2 }\nfunc G() int { return 3 }\n"
    );
    assert_eq!(mounted.touched("a.go"), known(&[("F", first, "bob"), ("G", second, "bob")]));
    mounted.unmount();
}

#[test]
fn an_annotation_has_the_shape_of_an_anchor_and_a_name_that_stays() {
    let mounted = mount();
    let alice = mounted.agent("alice");
    let text = "class A:\n    def m(self, a, *b):\n        pass\n\ndef m():\n    pass\n";
    let made = alice.writes("a.py", text);
    mounted.touched("a.py");
    let shadow = mounted.shadow("a.py");
    let user = mounted.kernel.as_root();
    let size = user.stat("/shadows/a.py").unwrap().size;
    assert_eq!(size, user.read_file("/shadows/a.py").unwrap().len() as u64);
    let [class, method, function] = shadow["ast_annotations"].as_array().unwrap().as_slice() else {
        panic!("{shadow:#}");
    };
    let mut keys: Vec<&String> = method.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "anchor_id",
            "anchor_type",
            "child_anchor_ids",
            "contextual_info",
            "created_at",
            "current_position",
            "file_path",
            "language",
            "last_changed",
            "last_confidence",
            "last_resolved",
            "original_position",
            "parent_anchor_id",
            "resolution_attempts",
            "structure_hash",
        ]
    );
    let kinds = [class, method, function].map(|it| it["anchor_type"].as_str().unwrap());
    assert_eq!(kinds, ["class_definition", "method_definition", "function_definition"]);
    assert_eq!(method["parent_anchor_id"], class["anchor_id"]);
    assert_eq!(class["child_anchor_ids"], serde_json::json!([method["anchor_id"]]));
    assert_eq!(method["contextual_info"]["parameter_names"], serde_json::json!(["self", "a", "b"]));
    assert_eq!(method["contextual_info"]["preceding_text"], "class A:\n    ");
    assert_eq!(method["contextual_info"]["following_text"], "\n\ndef m():\n    pass\n");
    assert!(method["contextual_info"]["parent_text"].as_str().unwrap().starts_with("class A:\n"));
    assert_eq!(method["language"], "python");
    assert_eq!(method["last_changed"]["sequence"], made);
    let time = method["last_changed"]["time"].as_str().unwrap();
    assert_eq!(user.read_file(format!("/history/{time}/a.py")).unwrap(), text.as_bytes());
    let ids = |shadow: &Value| -> Vec<String> {
        let all = shadow["ast_annotations"].as_array().unwrap();
        all.iter().map(|it| it["anchor_id"].as_str().unwrap().to_owned()).collect()
    };
    let [one, two, three] = ids(&shadow).try_into().unwrap();
    alice.writes("a.py", &format!("def m():\n    return 1\n\n{text}"));
    let after = ids(&mounted.shadow("a.py"));
    assert_eq!(after.len(), 4);
    // The second function of the name is another than the first.
    assert_eq!((&after[0], &after[1], &after[2]), (&three, &one, &two));
    assert!(![one, two, three].contains(&after[3]));
    mounted.unmount();
}

#[test]
fn looking_back_ends_and_says_so_and_goes_on_from_what_is_known() {
    let mounted = mount();
    let [alice, bob] = ["alice", "bob"].map(|name| mounted.agent(name));
    let text = |count: u32| format!("def f():\n    pass\n\ndef g():\n    return {count}\n");
    // Unlooked at for so many edits:
    alice.writes("a.py", &text(0));
    let mut last = 0;
    for count in 1..=100 {
        last = bob.writes("a.py", &text(count));
    }
    let shadow = mounted.shadow("a.py");
    let [f, g] = shadow["ast_annotations"].as_array().unwrap().as_slice() else {
        panic!("{shadow:#}")
    };
    assert_eq!(g["last_changed"]["sequence"], last);
    assert_eq!(f["last_changed"]["or_earlier"], true);
    assert_eq!(f["last_changed"]["agent_id"], Value::Null);
    assert!(f["last_changed"]["sequence"].as_u64().unwrap() < last);
    // And looked at each time:
    let made = alice.writes("b.py", &text(0));
    for count in 1..=100 {
        last = bob.writes("b.py", &text(count));
        assert_eq!(mounted.shadow("b.py")["ast_annotations"][1]["last_changed"]["sequence"], last);
    }
    assert_eq!(mounted.touched("b.py"), known(&[("f", made, "alice"), ("g", last, "bob")]));
    mounted.unmount();
}

#[test]
fn what_is_no_source_has_no_annotations() {
    let mounted = mount();
    let user = mounted.kernel.as_root();
    let long = "def f(): pass\n".repeat(50_000);
    for (name, content, kept) in [
        ("a.txt", &b"def f(): pass\n"[..], true),
        ("empty.py", b"", true),
        ("latin.py", b"def f(): '\xe9'\n", false),
        ("long.py", long.as_bytes(), true),
    ] {
        user.write_file(format!("/current/{name}"), content, 0o644).unwrap();
        let shadow = mounted.shadow(name);
        assert_eq!(shadow["ast_annotations"], serde_json::json!([]), "{name}");
        let same = shadow["original_content"].as_str().unwrap().as_bytes() == content;
        assert_eq!(same, kept, "{name}");
        let size = user.stat(format!("/shadows/{name}")).unwrap().size;
        assert_eq!(
            size,
            user.read_file(format!("/shadows/{name}")).unwrap().len() as u64,
            "{name}"
        );
    }
    user.symlink("a.txt", "/current/link.py").unwrap();
    user.mkdir("/current/dir.py", 0o755).unwrap();
    assert_eq!(user.readlink("/shadows/link.py").unwrap(), b"a.txt");
    assert!(user.list("/shadows/dir.py").unwrap().len() <= 2);
    mounted.unmount();
}
