//! The whole server over the kernel in memory: production decode, dispatch, view, tree and store, in a temporary
//! directory, and no mount.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/random_calls.rs"]
mod random_calls;
#[path = "common/stores.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod stores;

use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, serve};
use lighthouse_fuse::store::Store;
use lighthouse_fuse::transport::memory::{self, Caller, Dice, Kernel, Options, User};
use lighthouse_fuse::tree::operation::{self, Attributes, Operation};
use lighthouse_fuse::tree::{Ino, Tree};
use lighthouse_fuse::view::{self, View};

use random_calls::random_calls;

const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_DIRECTORY: u32 = 0o200_000;
const O_TMPFILE: u32 = 0o20_200_000;
const RENAME_EXCHANGE: u32 = 2;

/// A kernel, and the thread that serves it from a store.
struct Mounted {
    kernel: Kernel,
    view: Arc<View>,
    /// Ends with how many files the server still holds open.
    server: JoinHandle<usize>,
}

fn mount(store: &Arc<Store>, options: Options) -> Mounted {
    // As the programs show it, and with every other seed as where directories are opened.
    mount_view(view_of(store, shown(options.seed.is_multiple_of(2))), options)
}

fn shown(no_opendir: bool) -> view::Options {
    view::Options { no_opendir, ..view::Options::default() }
}

fn view_of(store: &Arc<Store>, options: view::Options) -> Arc<View> {
    let agents = Agents::new(Arc::clone(store));
    Arc::new(View::new(Tree::new(Arc::clone(store)), agents, options))
}

/// As [`mount`], with a tree that tells the kernel of what is changed beside it.
fn mount_watched(store: &Arc<Store>) -> (Mounted, Tree) {
    let view = view_of(store, shown(true));
    let tree = view.tree().clone();
    let watcher: Weak<View> = Arc::downgrade(&view);
    tree.watch(watcher);
    (mount_view(view, Options::default()), tree)
}

fn mount_view(view: Arc<View>, options: Options) -> Mounted {
    let readers = options.readers;
    let (kernel, device) = memory::pair(options);
    let served = Arc::clone(&view);
    let server = thread::spawn(move || {
        let config = Config { readers, ..Config::default() };
        serve(&device, &served, config).expect("the connection ends as it should");
        served.held().open
    });
    kernel.mount().expect("INIT is answered");
    Mounted { kernel, view, server }
}

impl Mounted {
    /// Returns when the server has what was queued for it, and the kernel was told what came of that.
    #[track_caller]
    fn settle(&self) {
        self.kernel.settle();
        assert!(self.view.news().settle(Duration::from_secs(60)), "the kernel is told");
    }

    #[track_caller]
    fn unmount(self) {
        self.kernel.unmount();
        let open = self.server.join().expect("the server ends without a panic");
        assert_eq!(open, 0, "files that were never released");
    }

    /// Ends as by a kill: nothing is closed, nothing forgotten.
    fn kill(self) {
        self.kernel.abort();
        self.server.join().expect("the server ends without a panic");
    }
}

/// Everything below `path`: mode, links, size and content of each name.
fn tree_of(user: &User, path: &str) -> Vec<(String, u32, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let attr = user.lstat(&path).unwrap();
        let content = match attr.mode & 0o170_000 {
            0o040_000 => {
                for entry in user.list(&path).unwrap() {
                    todo.push(format!("{path}/{}", String::from_utf8(entry.name).unwrap()));
                }
                Vec::new()
            }
            0o120_000 => user.readlink(&path).unwrap(),
            _ => {
                let content = user.read_file(&path).unwrap();
                assert_eq!(content.len() as u64, attr.size, "{path}");
                content
            }
        };
        let nlink = if attr.mode & 0o170_000 == 0o040_000 { 0 } else { attr.nlink };
        found.push((path, attr.mode, nlink, content));
    }
    found.sort();
    found
}

#[test]
fn a_file_is_written_read_renamed_and_removed_through_the_whole_server() {
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options::default());
    let user = mounted.kernel.as_root();
    user.mkdir("/current/d", 0o755).unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    user.write_file("/current/d/f", &content, 0o644).unwrap();
    user.rename("/current/d/f", "/current/g").unwrap();
    mounted.kernel.shrink();
    assert!(user.read_file("/current/g").unwrap() == content);
    assert_eq!(user.write_file("/new", b"", 0o644), Err(Errno::EROFS));
    user.unlink("/current/g").unwrap();
    assert_eq!(user.stat("/current/g"), Err(Errno::ENOENT));
    mounted.unmount();
}

#[test]
fn a_second_stat_and_a_second_read_send_nothing() {
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options::default());
    let user = mounted.kernel.as_root();
    user.write_file("/current/f", &[1; 10_000], 0o644).unwrap();
    let fd = user.open("/current/f", 0, 0).unwrap();
    let look = || {
        user.statx("/current/f", 0xfff).unwrap();
        user.pread(fd, 10_000, 0).unwrap();
        user.fstat(fd).unwrap();
        user.list("/current").unwrap().len()
    };
    look();
    look();
    mounted.settle();
    mounted.kernel.take_counts();
    assert_eq!(look(), 1);
    mounted.settle();
    let counts = mounted.kernel.take_counts();
    assert!(counts.is_empty(), "{counts:?}");
    user.close(fd).unwrap();
    mounted.unmount();
}

/// A file that is made to be written and no more passes the kernel's page cache, and so does whoever opens it meanwhile.
#[test]
fn a_new_file_that_is_only_written_passes_the_cache_with_whoever_opens_it_meanwhile() {
    const O_WRONLY: u32 = 0o1;
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options::default());
    let user = mounted.kernel.as_root();
    let counts = || {
        mounted.settle();
        mounted.kernel.take_counts()
    };
    let written = user.open("/current/f", O_WRONLY | O_CREAT, 0o644).unwrap();
    counts();
    user.write(written, &[1; 5000]).unwrap();
    assert_eq!(
        counts().into_iter().collect::<Vec<_>>(),
        [("WRITE", 1)],
        "no capability is asked for"
    );
    let meanwhile = user.open("/current/f", O_RDWR, 0).unwrap();
    let map = user.mmap(meanwhile, 0, 8192, true, true).unwrap();
    for n in 2..10 {
        user.pwrite(written, &[n; 100], 4950).unwrap();
        assert_eq!(user.pread(meanwhile, 200, 4900).unwrap()[50..150], [n; 100]);
        user.pwrite(meanwhile, &[n + 100; 10], 4950).unwrap();
        // What a mapping brought into the cache is told of after the write.
        mounted.settle();
        assert_eq!(user.map_read(map, 4950, 10).unwrap(), [n + 100; 10]);
    }
    user.munmap(map).unwrap();
    for fd in [written, meanwhile] {
        user.close(fd).unwrap();
    }
    counts();
    let afterwards = user.open("/current/f", 0, 0).unwrap();
    let read = || user.pread(afterwards, 200, 4900).unwrap();
    let once = read();
    counts();
    assert_eq!(read(), once);
    assert_eq!(counts().get("READ"), None, "a file like any other");
    user.close(afterwards).unwrap();
    mounted.unmount();
    // Where it is to be, and for a kernel that could not map such a file as shared.
    let options = view::Options { no_direct_writes: true, ..shown(true) };
    let older = Options { minor: 38, ..Options::default() };
    for (view, kernel) in [(options, Options::default()), (shown(true), older)] {
        let mounted = mount_view(view_of(&store, view), kernel);
        let user = mounted.kernel.as_root();
        let name = format!("/current/cached-{}", view.no_direct_writes);
        user.write_file(&name, &[1; 8192], 0o644).unwrap();
        mounted.settle();
        mounted.kernel.take_counts();
        assert_eq!(user.read_file(&name).unwrap(), [1; 8192]);
        mounted.settle();
        assert_eq!(mounted.kernel.count(lighthouse_fuse::proto::abi::FUSE_READ), 0, "{name}");
        mounted.unmount();
    }
}

/// Walks a directory of `files` names whose listing the kernel has kept and whose names it has forgotten. Returns what it asked.
fn walk_what_was_forgotten(
    files: usize,
    no_opendir: bool,
) -> std::collections::BTreeMap<&'static str, u64> {
    let (store, _dir) = stores::fresh();
    let mounted = mount_view(view_of(&store, shown(no_opendir)), Options::default());
    let user = mounted.kernel.as_root();
    for number in 0..files {
        user.write_file(format!("/current/{number}"), b"", 0o644).unwrap();
    }
    // Whoever stands in it keeps its inode, and with it the listing.
    let within = user.open("/current", O_DIRECTORY, 0).unwrap();
    let walk = || {
        let listed = user.list("/current").unwrap();
        for entry in &listed {
            user.lstat([b"/current/", &*entry.name].concat()).unwrap();
        }
        listed.len()
    };
    assert_eq!((walk(), walk()), (files, files));
    mounted.kernel.shrink();
    mounted.settle();
    mounted.kernel.take_counts();
    assert_eq!(walk(), files);
    let counts = mounted.kernel.take_counts();
    user.close(within).unwrap();
    mounted.unmount();
    counts.into_iter().collect()
}

#[test]
fn a_walk_over_forgotten_names_reads_the_listing_again_with_their_attributes() {
    for no_opendir in [false, true] {
        for files in [1, 2, 50, 100] {
            let asked = walk_what_was_forgotten(files, no_opendir);
            assert!(asked.contains_key("READDIRPLUS"), "{files}: {asked:?}");
            // `current` itself was forgotten too.
            assert!(asked.get("LOOKUP").is_none_or(|&lookups| lookups <= 1), "{files}: {asked:?}");
            assert_eq!(asked.contains_key("OPENDIR"), !no_opendir, "{files}: {asked:?}");
        }
        // One READDIRPLUS would bring too few of them.
        let asked = walk_what_was_forgotten(1000, no_opendir);
        assert!(!asked.contains_key("READDIRPLUS"), "{asked:?}");
    }
}

#[test]
fn a_label_shows_in_a_listing_that_the_kernel_keeps() {
    let (store, _dir) = stores::fresh();
    let mounted = mount_view(view_of(&store, shown(true)), Options::default());
    let user = mounted.kernel.as_root();
    let labels = || {
        let mut names: Vec<_> =
            user.list("/history").unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((labels().len(), labels().len()), (0, 0));
    mounted.kernel.take_counts();
    assert!(labels().is_empty());
    assert!(mounted.kernel.take_counts().is_empty(), "the kernel keeps it");
    user.mkdir("/history/made", 0o755).unwrap();
    assert_eq!(labels(), ["made"]);
    assert_eq!(user.stat("/history/then"), Err(Errno::ENOENT));
    // What the command `label` does: the kernel sees an attribute that is set, and no name.
    user.set_xattr("/history", "user.lighthouse.label", b"@2/then", 0).unwrap();
    mounted.settle();
    assert_eq!(labels(), ["made", "then"]);
    assert!(user.stat("/history/then").is_ok());
    user.rmdir("/history/made").unwrap();
    assert_eq!(labels(), ["then"]);
    mounted.unmount();
}

#[test]
fn directories_are_opened_where_a_listing_may_change_beside_the_kernel() {
    let unopened = shown(true);
    let uncached = view::Caching { listings: false, ..view::Caching::default() };
    for (options, opened) in [
        (unopened, false),
        (view::Options { list_times: 1, ..unopened }, true),
        (view::Options { sections: true, ..unopened }, true),
        (view::Options { caching: uncached, ..unopened }, true),
    ] {
        let (store, _dir) = stores::fresh();
        let mounted = mount_view(view_of(&store, options), Options::default());
        let user = mounted.kernel.as_root();
        for _ in 0..2 {
            assert_eq!(user.list("/").unwrap().len(), if options.sections { 6 } else { 2 });
        }
        let asked = mounted.kernel.take_counts().get("OPENDIR").copied().unwrap_or(0);
        // Refused once, it is not asked for again.
        assert_eq!(asked, if opened { 2 } else { 1 }, "{options:?}");
        mounted.unmount();
    }
    // A kernel from before NO_OPENDIR_SUPPORT would tell who lists a directory of the refusal.
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options { minor: 28, ..Options::default() });
    let user = mounted.kernel.as_root();
    assert_eq!(user.list("/").unwrap().len(), 2);
    assert_eq!(mounted.kernel.take_counts().get("OPENDIR"), Some(&1));
    assert_eq!(user.list("/").unwrap().len(), 2);
    assert_eq!(mounted.kernel.take_counts().get("OPENDIR"), Some(&1));
    mounted.unmount();
}

#[test]
fn what_is_changed_beside_the_kernel_shows_to_whoever_asks_from_then_on() {
    let (store, _dir) = stores::fresh();
    let (mounted, tree) = mount_watched(&store);
    let user = mounted.kernel.as_root();
    let change = |operation: &Operation<'_>| {
        tree.perform_beside(&operation::Caller::default(), operation, None).unwrap()
    };
    for n in 0..300 {
        let (path, name) = (format!("/current/{n}"), format!("{n}"));
        // The kernel keeps that it is not there, then what it is, then that it is gone.
        assert_eq!(user.stat(&path), Err(Errno::ENOENT), "{n}");
        let (parent, name) = (Ino::ROOT, name.as_bytes());
        let mode = operation::S_IFREG | 0o644;
        let made = change(&Operation::Make {
            parent,
            name,
            mode,
            rdev: 0,
            exclusive: true,
            security: None,
        });
        assert_eq!(user.stat(&path).map(|attr| attr.size), Ok(0), "{n}");
        let set = Attributes { size: Some(n), ..Attributes::default() };
        change(&Operation::SetAttributes { ino: made.inode.unwrap().ino, set });
        assert_eq!(user.stat(&path).map(|attr| attr.size), Ok(n));
        change(&Operation::Unlink { parent, name });
        assert_eq!(user.stat(&path), Err(Errno::ENOENT), "{n}");
    }
    mounted.unmount();
}

#[test]
fn a_listing_that_the_kernel_keeps_of_a_directory_that_moved_tells_what_is_above_it() {
    let (store, _dir) = stores::fresh();
    let (mounted, tree) = mount_watched(&store);
    let user = mounted.kernel.as_root();
    for path in ["/current/a", "/current/b", "/current/a/d", "/current/b/e"] {
        user.mkdir(path, 0o755).unwrap();
    }
    let inos = ["/current/a", "/current/b"].map(|path| user.stat(path).unwrap().ino);
    let above = |path: &str| {
        let dir = user.open(path, O_DIRECTORY, 0).unwrap();
        let listed = user.getdents(dir).unwrap();
        // To the end, so that it is kept.
        assert!(user.getdents(dir).unwrap().is_empty());
        user.close(dir).unwrap();
        listed.iter().find(|entry| entry.name == b"..").unwrap().ino
    };
    let comes_to_be = |path: &str, ino: u64| {
        let until = Instant::now() + Duration::from_secs(10);
        while above(path) != ino {
            assert!(Instant::now() < until, "{path}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    assert_eq!((above("/current/a/d"), above("/current/b/e")), (inos[0], inos[1]));
    user.rename_with("/current/a/d", "/current/b/e", RENAME_EXCHANGE).unwrap();
    comes_to_be("/current/a/d", inos[0]);
    comes_to_be("/current/b/e", inos[1]);
    user.rename("/current/b/e", "/current/a/f").unwrap();
    comes_to_be("/current/a/f", inos[0]);
    // Whoever changes it beside the kernel waits until that has heard of it.
    let rename = Operation::Rename {
        parent: Ino(inos[0]),
        name: b"f",
        new_parent: Ino(inos[1]),
        new_name: b"g",
        how: operation::RenameHow::Replace,
    };
    tree.perform_beside(&operation::Caller::default(), &rename, None).unwrap();
    assert_eq!(above("/current/b/g"), inos[1]);
    mounted.unmount();
}

#[test]
fn what_the_kernel_has_not_heard_of_is_opened_by_nobody_who_may_not() {
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options::default());
    let tree = Tree::new(Arc::clone(&store));
    let root = mounted.kernel.as_root();
    root.chmod("/current", 0o777).unwrap();
    let other = mounted.kernel.as_user(1000, 1000, &[], 0o022, 1);
    // The kernel keeps that there is no such name, and nobody tells it, as when its request overtakes the news.
    let make_beside = |name: &str| {
        let path = format!("/current/{name}");
        assert_eq!(other.stat(&path), Err(Errno::ENOENT), "{name}");
        let (parent, mode) = (Ino::ROOT, operation::S_IFREG | 0o600);
        let (rdev, exclusive, security) = (0, true, None);
        let name = name.as_bytes();
        let make = Operation::Make { parent, name, mode, rdev, exclusive, security };
        let caller = operation::Caller::default();
        let made = tree.perform(&caller, &make).unwrap().inode.unwrap();
        tree.write(&caller, made.ino, operation::WriteTo::Offset(0), b"secret", false).unwrap();
        path
    };
    for flags in [0, O_RDWR, O_RDWR | O_TRUNC] {
        let path = make_beside(&format!("closed{flags}"));
        let opened = other.open(&path, O_CREAT | flags, 0o666);
        assert_eq!(opened, Err(Errno::EACCES), "{path}");
        assert_eq!(root.read_file(&path).unwrap(), b"secret", "{path}");
    }
    for (flags, left) in [(O_RDWR, &b"secret"[..]), (O_RDWR | O_TRUNC, b"")] {
        let path = make_beside(&format!("open{flags}"));
        let fd = root.open(&path, O_CREAT | flags, 0o644).unwrap();
        assert_eq!(root.pread(fd, 10, 0).unwrap(), left, "{path}");
        root.close(fd).unwrap();
        assert_eq!(root.stat(&path).unwrap().mode & 0o777, 0o600, "{path}");
    }
    mounted.unmount();
}

#[test]
fn every_minor_version_is_served() {
    for minor in 12..=45 {
        let (store, _dir) = stores::fresh();
        let mounted = mount(&store, Options { minor, ..Options::default() });
        let user = mounted.kernel.as_root();
        user.mkdir("/current/d", 0o755).unwrap();
        user.write_file("/current/d/f", b"content", 0o644).unwrap();
        user.set_xattr("/current/d/f", "user.a", b"1", 0).unwrap();
        assert_eq!(user.read_file("/current/d/f").unwrap(), b"content", "7.{minor}");
        assert_eq!(user.list("/current/d").unwrap().len(), 1, "7.{minor}");
        mounted.unmount();
    }
}

#[test]
fn random_calls_leave_nothing_behind_and_what_is_cached_is_what_is_stored() {
    for seed in 0..12 {
        let (store, _dir) = stores::fresh();
        let options = Options {
            seed,
            shuffle: seed % 2 == 0,
            interrupts_per_mille: if seed % 3 == 0 { 50 } else { 0 },
            minor: [45, 31, 23, 12][usize::try_from(seed % 4).unwrap_or(0)],
            in_parts: seed / 4 % 2 == 1,
            ..Options::default()
        };
        let mounted = mount(&store, options.clone());
        let user = mounted.kernel.as_root();
        let mut dice = Dice::new(seed);
        for _ in 0..3 {
            random_calls(&user, &mut dice, 60, "/current/");
            mounted.kernel.advance(Duration::from_secs(40_000));
        }
        let cached = tree_of(&user, "/current");
        mounted.kernel.shrink();
        assert!(
            tree_of(&user, "/current") == cached,
            "seed {seed}: the cache shows something else"
        );
        mounted.unmount();
        // Another server, another kernel: the same tree.
        let mounted = mount(&store, Options { minor: 45, ..options });
        let user = mounted.kernel.as_root();
        assert!(
            tree_of(&user, "/current") == cached,
            "seed {seed}: the next mount shows something else"
        );
        random_calls(&user, &mut dice, 40, "/current/");
        mounted.unmount();
    }
}

#[test]
fn several_callers_at_once_leave_nothing_behind() {
    for seed in 0..10 {
        let (store, _dir) = stores::fresh();
        let options = Options {
            seed,
            shuffle: true,
            stepped: seed % 2 == 0,
            readers: if seed % 2 == 0 { 1 } else { 3 },
            in_parts: seed / 2 % 2 == 1,
            ..Options::default()
        };
        let mounted = mount(&store, options);
        let user = mounted.kernel.as_root();
        let callers: Vec<Caller<'_>> = (0..4)
            .map(|number| {
                let caller: Caller<'_> = Box::new(move |user| {
                    random_calls(user, &mut Dice::new(seed * 10 + number), 40, "/current/");
                });
                caller
            })
            .collect();
        mounted.kernel.race(&user, callers);
        let cached = tree_of(&user, "/current");
        mounted.kernel.shrink();
        assert!(
            tree_of(&user, "/current") == cached,
            "seed {seed}: the cache shows something else"
        );
        mounted.unmount();
    }
}

#[test]
fn a_connection_that_is_aborted_loses_nothing_that_was_answered() {
    for seed in 0..6 {
        let (store, _dir) = stores::fresh();
        let options = Options { seed, shuffle: true, ..Options::default() };
        let mounted = mount(&store, options.clone());
        let user = mounted.kernel.as_root();
        let mut dice = Dice::new(seed);
        random_calls(&user, &mut dice, 80, "/current/");
        let held = user.open("/current/held", O_CREAT | O_RDWR, 0o644).unwrap();
        user.pwrite(held, b"answered", 0).unwrap();
        let gone = user.open("/current", O_TMPFILE | O_RDWR, 0o600).unwrap();
        user.pwrite(gone, b"without a name", 0).unwrap();
        let before = tree_of(&user, "/current");
        mounted.kill();
        let mounted = mount(&store, options);
        let user = mounted.kernel.as_root();
        assert!(tree_of(&user, "/current") == before, "seed {seed}: another tree after the abort");
        assert_eq!(user.read_file("/current/held").unwrap(), b"answered");
        random_calls(&user, &mut dice, 40, "/current/");
        mounted.unmount();
    }
}

#[test]
fn the_past_is_a_whole_tree_that_cannot_be_changed() {
    let (store, _dir) = stores::fresh();
    let mounted = mount(&store, Options::default());
    let user = mounted.kernel.as_root();
    let mut dice = Dice::new(3);
    let mut moments = Vec::new();
    for _ in 0..6 {
        random_calls(&user, &mut dice, 25, "/current/");
        mounted.settle();
        let seq = user.xattr("/current", "user.lighthouse.seq").unwrap();
        moments.push((String::from_utf8(seq).unwrap(), tree_of(&user, "/current")));
    }
    for (seq, then) in &moments {
        let top = format!("/history/@{seq}");
        let shown: Vec<_> = tree_of(&user, &top)
            .into_iter()
            .map(|(path, mode, nlink, content)| {
                (path.replacen(&top, "/current", 1), mode, nlink, content)
            })
            .collect();
        assert!(shown == *then, "@{seq} shows something else");
        assert_eq!(user.mkdir(format!("{top}/new"), 0o755), Err(Errno::EROFS));
        assert_eq!(user.open(&top, O_TMPFILE | O_RDWR, 0o600), Err(Errno::EROFS));
    }
    mounted.unmount();
}
