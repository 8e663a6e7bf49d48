//! `history/` over the kernel in memory: what its names mean, how long the kernel may keep them, and what cannot be
//! done there. Production decode, dispatch, view, tree and store; no mount.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

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
use tempfile::TempDir;

const O_RDONLY: u32 = 0;

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
    assert_eq!(user.read_file(format!("/history/@{now}/f")).unwrap(), [2; 8 << 20]);
    user.close(held).unwrap();
    mounted.unmount();
}
