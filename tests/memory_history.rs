//! `history/` over the kernel in memory: what its names mean, how long the kernel may keep them, and what cannot be
//! done there. Production decode, dispatch, view, tree and store; no mount.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, serve};
use lighthouse_fuse::store::codec::Note;
use lighthouse_fuse::store::log::Next;
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::transport::memory::{self, Kernel, Options, User};
use lighthouse_fuse::tree::Tree;
use lighthouse_fuse::view::{self, View};
use tempfile::TempDir;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;

struct Mounted {
    kernel: Kernel,
    store: Arc<Store>,
    server: JoinHandle<()>,
}

/// A store of uid 1000 that does nothing by itself, with so much room for history.
fn fresh(history: Option<u64>) -> (Arc<Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { mode: 0o777, uid: 1000, gid: 1000, ..CreateOptions::default() };
    let open = OpenOptions { history, ..quiet() };
    (Arc::new(Store::create(dir.path(), &create, &open).unwrap()), dir)
}

fn quiet() -> OpenOptions {
    OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() }
}

fn mount(store: &Arc<Store>) -> Mounted {
    mount_with(store, view::Options::default())
}

fn mount_with(store: &Arc<Store>, shown: view::Options) -> Mounted {
    let (kernel, device) = memory::pair(Options::default());
    let served = Arc::clone(store);
    let server = thread::spawn(move || {
        let agents = Agents::new(Arc::clone(&served));
        let view = View::new(Tree::new(served), agents, shown);
        let config = Config { readers: 1, ..Config::default() };
        serve(&device, &view, config).expect("the connection ends as it should");
    });
    kernel.mount().expect("INIT is answered");
    Mounted { kernel, store: Arc::clone(store), server }
}

impl Mounted {
    #[track_caller]
    fn unmount(self) {
        self.kernel.unmount();
        self.server.join().expect("the server ends without a panic");
    }
}

/// `user.lighthouse.seq` of `path`.
fn seq_of(user: &User, path: &str) -> u64 {
    let seq = user.xattr(path, "user.lighthouse.seq").unwrap();
    String::from_utf8(seq).unwrap().parse().unwrap()
}

/// Waits, by the real clock, for what the server does by itself.
#[track_caller]
fn within_seconds(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what} within 10 s");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_moment_before_the_horizon_is_gone_and_whoever_is_in_it_hears_so() {
    let (store, _dir) = fresh(Some(0));
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", &[1; 8 << 20], 0o644).unwrap();
    let then = seq_of(&user, "/current");
    let past = format!("/history/@{then}");
    let file = format!("{past}/f");
    let held = user.open(&file, O_RDONLY, 0).unwrap();
    assert_eq!(user.pread(held, 4096, 0).unwrap(), [1; 4096]);
    user.write_file("/current/f", &[2; 8 << 20], 0o644).unwrap();
    mounted.store.tick().unwrap();
    assert!(mounted.store.horizon().0 > then, "history has no room at all");
    // What the kernel has not read yet is not there any more: no zeros, nobody else's bytes.
    assert_eq!(user.pread(held, 4096, 6 << 20), Err(Errno::ESTALE));
    within_seconds("the kernel lets go of the name", || user.stat(&past) == Err(Errno::ENOENT));
    assert_eq!(user.stat(&file), Err(Errno::ENOENT));
    let now = seq_of(&user, "/current");
    assert!(user.read_file(format!("/history/@{now}/f")).unwrap() == vec![2; 8 << 20]);
    user.close(held).unwrap();
    mounted.unmount();
}

fn names(user: &User, path: &str) -> Vec<String> {
    let mut names: Vec<_> = user.list(path).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn a_label_is_made_listed_entered_removed_and_given_again() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"one", 0o644).unwrap();
    let one = seq_of(&user, "/current");
    assert_eq!(user.stat("/history/v1"), Err(Errno::ENOENT));
    user.mkdir("/history/v1", 0o755).unwrap();
    user.write_file("/current/f", b"three", 0o644).unwrap();
    assert_eq!(user.read_file("/history/v1/f").unwrap(), b"one");
    assert_eq!(seq_of(&user, "/history/v1"), one);
    user.mkdir("/history/v2", 0o755).unwrap();
    assert_eq!(names(&user, "/history"), ["v1", "v2"]);
    assert_eq!(store.labels().unwrap().len(), 2);

    let inside = user.open("/history/v1/f", O_RDONLY, 0).unwrap();
    user.rmdir("/history/v1").unwrap();
    assert_eq!(user.stat("/history/v1"), Err(Errno::ENOENT));
    assert_eq!(names(&user, "/history"), ["v2"]);
    user.mkdir("/history/v1", 0o755).unwrap();
    assert_eq!(user.read_file("/history/v1/f").unwrap(), b"three");
    assert_eq!(user.pread(inside, 10, 0).unwrap(), b"one", "whoever is in a tree stays in it");
    user.close(inside).unwrap();
    mounted.unmount();
}

#[test]
fn only_names_that_are_free_and_mean_no_moment_become_labels() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.mkdir("/history/taken", 0o755).unwrap();
    for (name, refusal) in [
        ("taken", Errno::EEXIST),
        ("@99999", Errno::EINVAL),
        ("@x", Errno::EINVAL),
        ("2999-01-01", Errno::EINVAL),
        ("9999999d-ago", Errno::EINVAL),
    ] {
        assert_eq!(user.mkdir(format!("/history/{name}"), 0o755), Err(refusal), "{name}");
    }
    let now = seq_of(&user, "/current");
    assert_eq!(user.rmdir(format!("/history/@{now}")), Err(Errno::EROFS));
    let set =
        |value: String| user.set_xattr("/history", "user.lighthouse.label", value.as_bytes(), 0);
    set(format!("@{now}/earlier")).unwrap();
    assert_eq!(seq_of(&user, "/history/earlier"), now);
    assert_eq!(set(format!("@{now}/earlier")), Err(Errno::EEXIST));
    assert_eq!(set(format!("@{}/later", now + 1)), Err(Errno::ENOENT));
    assert_eq!(set("no moment/x".to_owned()), Err(Errno::EINVAL));
    assert_eq!(set("earlier".to_owned()), Err(Errno::EINVAL));
    user.rmdir("/history/earlier").unwrap();
    assert_eq!(user.rmdir("/history/none"), Err(Errno::ENOENT));
    assert_eq!(names(&user, "/history"), ["taken"]);
    mounted.unmount();
}

#[test]
fn only_the_owner_of_the_tree_and_root_give_and_take_labels() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let (root, owner) = (mounted.kernel.as_root(), mounted.kernel.as_user(1000, 1000, &[], 0, 11));
    let other = mounted.kernel.as_user(1001, 1000, &[], 0, 12);
    // The tree's root is open to all.
    other.write_file("/current/f", b"", 0o644).unwrap();
    assert_eq!(other.mkdir("/history/o", 0o755), Err(Errno::EACCES));
    owner.mkdir("/history/o", 0o755).unwrap();
    root.mkdir("/history/r", 0o755).unwrap();
    assert_eq!(other.rmdir("/history/o"), Err(Errno::EACCES));
    owner.rmdir("/history/r").unwrap();
    root.rmdir("/history/o").unwrap();
    mounted.unmount();
}

#[test]
fn labels_outlive_clean_stops_kills_and_the_index() {
    let (store, dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"one", 0o644).unwrap();
    user.mkdir("/history/kept", 0o755).unwrap();
    user.mkdir("/history/removed", 0o755).unwrap();
    user.rmdir("/history/removed").unwrap();
    mounted.unmount();
    let labels = store.labels().unwrap();
    assert_eq!(labels.len(), 1);
    let reopen = |store: Arc<Store>, close: bool, rebuild: bool| {
        within_seconds("nobody else has the store", || Arc::strong_count(&store) == 1);
        if close {
            store.close().unwrap();
        }
        drop(store);
        if rebuild {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = Arc::new(Store::open(dir.path(), &quiet()).unwrap());
        assert_eq!(store.labels().unwrap(), labels, "closed {close}, rebuilt {rebuild}");
        store
    };
    let mut store = store;
    for (close, rebuild) in [(true, false), (false, false), (true, true), (false, true)] {
        store = reopen(store, close, rebuild);
    }
    let mounted = mount(&store);
    assert_eq!(mounted.kernel.as_root().read_file("/history/kept/f").unwrap(), b"one");
    mounted.unmount();
}

#[test]
fn a_label_keeps_its_tree_though_history_has_no_room() {
    let (store, _dir) = fresh(Some(0));
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    for byte in 1..=4 {
        user.write_file("/current/f", &vec![byte; 4 << 20], 0o644).unwrap();
        if byte == 2 {
            user.mkdir("/history/two", 0o755).unwrap();
        }
    }
    store.tick().unwrap();
    let label = store.labels().unwrap()[0].1;
    assert_eq!(store.horizon(), label, "all before the label was let go, and nothing after it");
    assert!(user.read_file("/history/two/f").unwrap() == vec![2; 4 << 20]);
    user.rmdir("/history/two").unwrap();
    store.tick().unwrap();
    assert!(store.horizon() > label);
    mounted.unmount();
}

/// How many ends of versions the log has.
fn versions(store: &Store) -> usize {
    let (mut log, mut count) = (store.log(None).unwrap(), 0);
    while let Next::Record(_, record) = log.read().unwrap() {
        count += usize::from(matches!(record.entry(), Some(Entry::Note(Note::Version { .. }))));
    }
    count
}

#[test]
fn a_version_ends_where_somebody_could_want_it_back_and_nowhere_else() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    // Other processes: ones that can be told from this one.
    let other = mounted.kernel.as_user(0, 0, &[], 0o022, 1);
    let create = |path: &str| user.open(path, O_CREAT | O_RDWR, 0o644).unwrap();
    let mut seen = versions(&store);
    let mut more = |what: &str, by: usize| {
        mounted.kernel.settle();
        let now = versions(&store);
        assert_eq!(now - seen, by, "{what}");
        seen = now;
    };
    let f = create("/current/f");
    user.pwrite(f, b"one", 0).unwrap();
    user.pwrite(f, b"two", 0).unwrap();
    more("writes alone", 0);
    user.sync(f, false).unwrap();
    more("fsync", 1);
    user.sync(f, false).unwrap();
    more("fsync with nothing written since", 0);
    user.pwrite(f, b"three", 0).unwrap();
    let also = other.open("/current/f", O_RDWR, 0).unwrap();
    other.pwrite(also, b"x", 0).unwrap();
    more("somebody else writes", 1);
    other.close(also).unwrap();
    more("the last writer closes", 1);
    user.close(f).unwrap();
    more("an earlier writer closes", 0);

    let g = create("/current/g");
    user.pwrite(g, b"new", 0).unwrap();
    user.rename("/current/g", "/current/h").unwrap();
    more("a rename to a free name", 0);
    user.rename("/current/h", "/current/f").unwrap();
    more("a rename over a name", 1);
    user.pwrite(g, b"newer", 0).unwrap();
    user.link("/current/f", "/current/linked").unwrap();
    more("a link", 1);
    user.pwrite(g, b"newest", 0).unwrap();
    user.mkdir("/history/label", 0o755).unwrap();
    more("a label", 1);
    user.pwrite(g, b"last", 0).unwrap();
    more("a write", 0);
    within_seconds("silence ends a version", || versions(&store) > seen);
    seen += 1;
    user.close(g).unwrap();
    mounted.kernel.settle();
    assert_eq!(versions(&store), seen, "closing what was marked already");
    mounted.unmount();
}

#[test]
fn names_that_move_are_asked_for_each_time_and_those_that_stand_are_not() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"one", 0o644).unwrap();
    user.mkdir("/history/label", 0o755).unwrap();
    let at = format!("@{}", seq_of(&user, "/current"));
    for (name, lookups) in [(&*at, 0), ("label", 2), ("0s-ago", 2)] {
        let file = format!("/history/{name}/f");
        user.stat(&file).unwrap();
        user.stat(&file).unwrap();
        mounted.kernel.settle();
        mounted.kernel.take_counts();
        user.stat(&file).unwrap();
        user.stat(&file).unwrap();
        mounted.kernel.settle();
        let counts = mounted.kernel.take_counts();
        assert_eq!(counts.get("LOOKUP").copied().unwrap_or(0), lookups, "{name}: {counts:?}");
        // A name looked up again has its access control list read again; one that stands asks nothing at all.
        assert_eq!(counts.is_empty(), lookups == 0, "{name}: {counts:?}");
    }
    // What does not exist yet is asked for each time, so it is seen once it does.
    let next = format!("/history/@{}", seq_of(&user, "/current") + 1);
    assert_eq!(user.stat(&next), Err(Errno::ENOENT));
    assert_eq!(user.stat("/history/2999-01-01"), Err(Errno::ENOENT));
    user.write_file("/current/g", b"", 0o644).unwrap();
    user.stat(&next).unwrap();
    mounted.unmount();
}

#[test]
fn times_lead_to_the_tree_as_it_was_then() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"one", 0o644).unwrap();
    let one = seq_of(&user, "/current");
    thread::sleep(Duration::from_millis(1100));
    let mtime = user.stat("/current/f").unwrap().mtime.secs;
    // The first whole second after it, which is over by now.
    let then = view::moment::stamp(lighthouse_fuse::tree::Timestamp((mtime + 1) * 1_000_000_000));
    let then = String::from_utf8(then.to_vec()).unwrap();
    user.stat("/history/0s-ago").unwrap();
    user.write_file("/current/f", b"second", 0o644).unwrap();
    assert_eq!(seq_of(&user, &format!("/history/{then}")), one);
    assert_eq!(user.read_file(format!("/history/{then}/f")).unwrap(), b"one");
    // A relative time stands still for whoever has just come in.
    assert_eq!(user.read_file("/history/0s-ago/f").unwrap(), b"one");
    for before in ["1970-01-01", "10w-ago", "0001-01-01T00:00:00Z"] {
        assert_eq!(user.stat(format!("/history/{before}")), Err(Errno::ENOENT), "{before}");
    }
    mounted.unmount();
}

#[test]
fn nothing_below_a_moment_can_be_changed_whatever_its_mode() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.mkdir("/current/d", 0o777).unwrap();
    user.write_file("/current/f", b"one", 0o666).unwrap();
    let past = format!("/history/@{}", seq_of(&user, "/current"));
    let (file, dir, new) = (format!("{past}/f"), format!("{past}/d"), format!("{past}/new"));
    let refused = Err(Errno::EROFS);
    assert_eq!(user.mkdir(&new, 0o755), refused);
    assert_eq!(user.rmdir(&dir), refused);
    assert_eq!(user.unlink(&file), refused);
    assert_eq!(user.symlink("x", &new), refused);
    assert_eq!(user.link(&file, &new), refused);
    assert_eq!(user.rename(&file, &new), refused);
    assert_eq!(user.rename(&past, "/history/new"), refused);
    assert_eq!(user.chmod(&file, 0o600), refused);
    assert_eq!(user.truncate(&file, 0), refused);
    assert_eq!(user.set_xattr(&file, "user.x", b"1", 0), refused);
    assert_eq!(user.open(&file, O_RDWR, 0).map(drop), refused);
    assert_eq!(user.open(&new, O_CREAT | O_RDWR, 0o644).map(drop), refused);
    assert_eq!(user.open("/history/file", O_CREAT | O_RDWR, 0o644).map(drop), refused);
    assert_eq!(user.symlink("x", "/history/x"), refused);
    assert_eq!(user.mkdir("/new", 0o755), refused);
    assert_eq!(user.read_file(&file).unwrap(), b"one");
    mounted.unmount();
}

#[test]
fn a_version_has_one_number_under_all_names_and_never_one_of_the_present() {
    let (store, _dir) = fresh(None);
    let mounted = mount(&store);
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", b"one", 0o644).unwrap();
    let first = seq_of(&user, "/current");
    user.mkdir("/history/label", 0o755).unwrap();
    user.write_file("/current/other", b"", 0o644).unwrap();
    let second = seq_of(&user, "/current");
    let ino = |path: String| user.stat(path).unwrap().ino;
    let version = ino(format!("/history/@{first}/f"));
    assert_eq!(ino("/history/label/f".to_owned()), version);
    assert_eq!(ino(format!("/history/@{second}/f")), version, "f has not changed since");
    assert_ne!(ino("/current/f".to_owned()), version);
    assert_eq!(seq_of(&user, &format!("/history/@{second}/f")), seq_of(&user, "/current/f"));
    assert_eq!(seq_of(&user, &format!("/history/@{second}")), second);
    user.write_file("/current/f", b"two", 0o644).unwrap();
    let third = seq_of(&user, "/current");
    assert_ne!(ino(format!("/history/@{third}/f")), version);
    mounted.unmount();
}
