//! A server dies between the log and its answer, and another goes on with the kernel's connection: what was done is
//! answered, and not done again. The kernel is the one in memory, the servers are the production server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::Reply;
use lighthouse_fuse::proto::connection::Limits;
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, Resumed, Server};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::transport::memory::{self, Memory, Options, User};
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, Transport};
use lighthouse_fuse::tree::operation::{Attributes, Caller, Operation, S_IFREG};
use lighthouse_fuse::tree::{Ino, Seq, Tree};
use lighthouse_fuse::view::{self, View};

const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_TMPFILE: u32 = 0o20_200_000;

/// A device whose server dies when told: the next answer is made, and reaches nobody.
struct Mortal {
    device: Memory,
    dies: AtomicBool,
    dead: AtomicBool,
}

impl Transport for Mortal {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        if self.dead.load(Ordering::SeqCst) { Ok(None) } else { self.device.receive(buffer) }
    }
    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        if self.dies.load(Ordering::SeqCst) {
            self.dead.store(true, Ordering::SeqCst);
            return Ok(Delivery::Unwanted);
        }
        self.device.send(reply)
    }
    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        self.device.send_notification(chunks)
    }
}

fn options() -> OpenOptions {
    OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() }
}

fn config() -> Config {
    Config { readers: 1, ..Config::default() }
}

fn view_of(store: &Arc<Store>) -> View {
    let agents = Agents::new(Arc::clone(store));
    View::new(Tree::new(Arc::clone(store)), agents, view::Options::default())
}

/// Opens the store again as after a kill.
fn reopened(dir: &Path) -> Arc<Store> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(dir, &options()) {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Does `before`, then `call`, whose answer is lost with the server; then `after`, with the next server. Returns how many
/// events `call` caused.
fn across_a_crash<T: Sync>(
    before: impl FnOnce(&User) -> T,
    call: impl FnOnce(&User, &T) + Send,
    after: impl FnOnce(&User, T),
) -> u64 {
    across_a_crash_beside(before, call, |user, _, prepared| after(user, prepared))
}

/// As [`across_a_crash`]; `after` has the next server's tree as well, to change it beside the kernel.
fn across_a_crash_beside<T: Sync>(
    before: impl FnOnce(&User) -> T,
    call: impl FnOnce(&User, &T) + Send,
    after: impl FnOnce(&User, &Tree, T),
) -> u64 {
    across_crashes(1, before, call, after)
}

/// The same, but the next server is told of so many before it.
fn across_crashes<T: Sync>(
    restarts: u16,
    before: impl FnOnce(&User) -> T,
    call: impl FnOnce(&User, &T) + Send,
    after: impl FnOnce(&User, &Tree, T),
) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(dir.path(), &CreateOptions::default(), &options()).unwrap());
    let (kernel, device) = memory::pair(Options { stepped: false, ..Options::default() });
    let first = Arc::new(Mortal { device, dies: false.into(), dead: false.into() });
    let served = Arc::clone(&first);
    let server = thread::spawn(move || -> Limits {
        let view = view_of(&store);
        let server = Server::new(&*served, &view, config());
        server.run(|| ()).unwrap();
        *server.connection().limits().unwrap()
    });
    kernel.mount().unwrap();
    let user = kernel.as_root();
    let prepared = before(&user);
    kernel.settle();
    let seq = |user: &User| -> u64 {
        let seq = user.xattr("/current", "user.lighthouse.seq").unwrap();
        String::from_utf8(seq).unwrap().parse().unwrap()
    };
    let was = seq(&user);
    first.dies.store(true, Ordering::SeqCst);
    let (second, tree) = thread::scope(|scope| {
        let (caller, prepared) = (kernel.as_root(), &prepared);
        let calls = scope.spawn(move || call(&caller, prepared));
        let limits = server.join().unwrap();
        let device = kernel.crash();
        let store = reopened(dir.path());
        let view = Arc::new(view_of(&store));
        let tree = view.tree().clone();
        let watcher: Weak<View> = Arc::downgrade(&view);
        tree.watch(watcher);
        let second = thread::spawn(move || {
            let resumed = Resumed { limits, restarts };
            Server::resume(&device, &view, config(), resumed).run(|| ()).unwrap();
        });
        calls.join().expect("the call ends as if nothing had happened");
        (second, tree)
    });
    kernel.settle();
    let caused = seq(&user) - was;
    after(&user, &tree, prepared);
    drop(tree);
    kernel.unmount();
    second.join().unwrap();
    caused
}

#[test]
fn what_makes_or_takes_away_a_name_is_done_once() {
    let nothing = |_: &User| ();
    let one = |what: &str, caused: u64| assert_eq!(caused, 1, "{what}");
    let after = |user: &User, ()| assert_eq!(user.list("/current").unwrap().len(), 1);
    one(
        "mkdir",
        across_a_crash(nothing, |user, ()| user.mkdir("/current/d", 0o755).unwrap(), after),
    );
    one(
        "symlink",
        across_a_crash(nothing, |user, ()| user.symlink("t", "/current/s").unwrap(), after),
    );
    let file = |user: &User| user.write_file("/current/f", b"content", 0o644).unwrap();
    let none = |user: &User, ()| assert_eq!(user.stat("/current/f"), Err(Errno::ENOENT));
    one("unlink", across_a_crash(file, |user, ()| user.unlink("/current/f").unwrap(), none));
    let moved = |user: &User, ()| assert_eq!(user.read_file("/current/g").unwrap(), b"content");
    one(
        "rename",
        across_a_crash(file, |user, ()| user.rename("/current/f", "/current/g").unwrap(), moved),
    );
    let linked = |user: &User, ()| assert_eq!(user.stat("/current/g").unwrap().nlink, 2);
    one(
        "link",
        across_a_crash(file, |user, ()| user.link("/current/f", "/current/g").unwrap(), linked),
    );
    let dir = |user: &User| user.mkdir("/current/d", 0o755).unwrap();
    let empty = |user: &User, ()| assert!(user.list("/current").unwrap().is_empty());
    one("rmdir", across_a_crash(dir, |user, ()| user.rmdir("/current/d").unwrap(), empty));
}

#[test]
fn files_are_made_written_and_cut_once() {
    let exclusive = O_CREAT | O_RDWR | 0o200;
    let caused = across_a_crash(
        |_| (),
        |user, ()| {
            let fd = user.open("/current/f", exclusive, 0o644).unwrap();
            user.pwrite(fd, b"after", 0).unwrap();
            user.close(fd).unwrap();
        },
        |user, ()| assert_eq!(user.read_file("/current/f").unwrap(), b"after"),
    );
    assert_eq!(caused, 2, "one event for the file, one for its content");
    let caused = across_a_crash(
        |_| (),
        |user, ()| {
            let fd = user.open("/current", O_TMPFILE | O_RDWR, 0o600).unwrap();
            user.link_fd(fd, "/current/named").unwrap();
            user.close(fd).unwrap();
        },
        |user, ()| assert_eq!(user.list("/current").unwrap().len(), 1),
    );
    assert_eq!(caused, 2);
    let caused = across_a_crash(
        |user| {
            let fd = user.open("/current/f", O_CREAT | O_RDWR, 0o644).unwrap();
            user.pwrite(fd, b"before", 0).unwrap();
            fd
        },
        |user, fd| assert_eq!(user.pwrite(*fd, b"AFTER", 6), Ok(5)),
        |user, fd| {
            assert_eq!(user.read_file("/current/f").unwrap(), b"beforeAFTER");
            // A handle of the server before is as good as ever.
            user.pwrite(fd, b"!", 11).unwrap();
            user.close(fd).unwrap();
            assert_eq!(user.read_file("/current/f").unwrap(), b"beforeAFTER!");
        },
    );
    assert_eq!(caused, 1, "a write");
    let caused = across_a_crash(
        |user| user.write_file("/current/f", b"long", 0o644).unwrap(),
        |user, ()| {
            let fd = user.open("/current/f", O_RDWR | O_TRUNC, 0).unwrap();
            user.close(fd).unwrap();
        },
        |user, ()| assert_eq!(user.stat("/current/f").unwrap().size, 0),
    );
    assert_eq!(caused, 1, "cutting by open");
}

#[test]
fn labels_are_made_and_removed_once() {
    across_a_crash(
        |_| (),
        |user, ()| user.mkdir("/history/label", 0o755).unwrap(),
        |user, ()| assert_eq!(user.list("/history").unwrap().len(), 1),
    );
    across_a_crash(
        |user| user.mkdir("/history/label", 0o755).unwrap(),
        |user, ()| user.rmdir("/history/label").unwrap(),
        |user, ()| assert!(user.list("/history").unwrap().is_empty()),
    );
}

#[test]
fn a_file_without_a_name_outlives_the_server_that_knew_it_was_open() {
    across_a_crash(
        |user| {
            let fd = user.open("/current/f", O_CREAT | O_RDWR, 0o644).unwrap();
            user.pwrite(fd, b"held", 0).unwrap();
            fd
        },
        |user, _| user.unlink("/current/f").unwrap(),
        |user, fd| {
            assert_eq!(user.pread(fd, 10, 0).unwrap(), b"held");
            user.pwrite(fd, b"still", 4).unwrap();
            user.close(fd).unwrap();
        },
    );
}

#[test]
fn a_kernel_that_was_taken_over_hears_of_what_is_changed_beside_it() {
    across_a_crash_beside(
        |user| {
            user.mkdir("/current/d", 0o755).unwrap();
            user.write_file("/current/d/f", b"content", 0o644).unwrap();
            assert_eq!(user.stat("/current/d/f").unwrap().size, 7);
            assert_eq!(user.stat("/current/d/new"), Err(Errno::ENOENT));
            assert_eq!(user.list("/current/d").unwrap().len(), 1);
        },
        |user, ()| user.mkdir("/current/e", 0o755).unwrap(),
        |user, tree, ()| {
            let dir = tree.lookup(Ino::ROOT, b"d", Seq::NOW).unwrap().ino;
            let file = tree.lookup(dir, b"f", Seq::NOW).unwrap().ino;
            let (mode, rdev, exclusive, security) = (S_IFREG | 0o644, 0, true, None);
            let (parent, name) = (dir, &b"new"[..]);
            for operation in [
                Operation::Make { parent, name, mode, rdev, exclusive, security },
                Operation::SetAttributes {
                    ino: file,
                    set: Attributes { size: Some(3), ..Attributes::default() },
                },
            ] {
                tree.perform_beside(&Caller::default(), &operation, None).unwrap();
            }
            assert_eq!(user.stat("/current/d/f").unwrap().size, 3);
            assert_eq!(user.read_file("/current/d/f").unwrap(), b"con");
            assert!(user.stat("/current/d/new").is_ok());
            assert_eq!(user.list("/current/d").unwrap().len(), 2);
        },
    );
}

#[test]
fn a_file_of_the_past_is_found_again_when_it_is_opened() {
    across_a_crash(
        |user| {
            user.write_file("/current/f", b"then", 0o644).unwrap();
            let seq = user.xattr("/current", "user.lighthouse.seq").unwrap();
            let path = format!("/history/@{}/f", String::from_utf8(seq).unwrap());
            // The kernel knows the node, and none of its pages.
            assert_eq!(user.stat(&path).unwrap().size, 4);
            path
        },
        |user, _| user.mkdir("/current/d", 0o755).unwrap(),
        |user, path| {
            let fd = user.open(&path, 0, 0).unwrap();
            assert_eq!(user.pread(fd, 10, 0).unwrap(), b"then");
            user.close(fd).unwrap();
        },
    );
}

#[test]
fn what_the_kernel_still_holds_of_the_past_never_shows_another_tree() {
    let seq = |user: &User| {
        let seq = user.xattr("/current", "user.lighthouse.seq").unwrap();
        String::from_utf8(seq).unwrap()
    };
    // As many as there are places to begin at, so that the next begins where the first did.
    for restarts in [1, 16] {
        let held = across_crashes(
            restarts,
            |user| {
                user.write_file("/current/f", b"then", 0o644).unwrap();
                let then = format!("/history/@{}", seq(user));
                user.write_file("/current/f", b"another", 0o644).unwrap();
                let another = format!("/history/@{}", seq(user));
                (user.open(format!("{then}/f"), 0, 0).unwrap(), another)
            },
            |user, _| user.mkdir("/current/d", 0o755).unwrap(),
            |user, _, (held, another)| {
                assert_eq!(user.read_file(format!("{another}/f")).unwrap(), b"another");
                let read = user.pread(held, 10, 0);
                let was = read == Ok(b"then".to_vec()) || read == Err(Errno::ESTALE);
                assert!(was, "after {restarts}: {read:?}");
                user.close(held).unwrap();
            },
        );
        assert_eq!(held, 1);
    }
}
