//! A mount of the real program in a fresh directory, other users, and other programs.
//!
//! Invariant: whatever a test leaves behind, its mounts are detached and its server ends: by
//! [`Place`], in the process that started the test's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Signal, Uid};

use lighthouse_fuse::transport::uring::Queues;
use lighthouse_fuse::transport::{mount_table, unmount};

use crate::Skipped;

/// The variable with the directory a test works in.
pub(crate) const PLACE: &str = "LIGHTHOUSE_FUSE_TEST_PLACE";
/// A user without privilege, and another.
pub(crate) const SOMEBODY: u32 = 1000;
pub(crate) const ANOTHER: u32 = 1001;
/// How long a program may take that touches the mount.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory for one test, gone at the end with all that is mounted in it.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        Self(tempfile::Builder::new().permissions(mode).tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    /// Ends every connection here: whoever waits for a server gets an error.
    pub(crate) fn abort(&self) {
        for entry in mount_table::read().unwrap() {
            if entry.is_ours() && entry.mountpoint.starts_with(self.root()) {
                let _ = unmount::abort(entry.minor);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in mount_table::read().unwrap().iter().rev() {
            if entry.mountpoint.starts_with(self.root()) {
                let _ =
                    rustix::mount::unmount(&entry.mountpoint, rustix::mount::UnmountFlags::DETACH);
            }
        }
        // The server ends with its connection; its store must not be pulled from under it before.
        let begin = Instant::now();
        while is_served(&self.store()) {
            if begin.elapsed() > PATIENCE {
                self.abort();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The process that says it has the store.
fn server_of(store: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(store.join("LOCK")).ok()?.trim().parse().ok()?)
}

/// Whether a server has the store. The lock says so until the last thread of a killed server is gone.
fn is_served(store: &Path) -> bool {
    let Ok(lock) = fs::File::open(store.join("LOCK")) else { return false };
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}

/// A mounted store.
pub(crate) struct Mount {
    store: PathBuf,
    at: PathBuf,
}

impl Mount {
    /// A fresh store, mounted; or why that is not possible here.
    pub(crate) fn fresh() -> Result<Self, Skipped> {
        Self::with(&[])
    }

    /// As [`Mount::fresh`], with options of `mount`.
    pub(crate) fn with(options: &[&str]) -> Result<Self, Skipped> {
        if !Path::new("/dev/fuse").exists() {
            return Err(Skipped("/dev/fuse is missing".into()));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(Skipped("mounting with set-id bits and for other users needs root".into()));
        }
        if !lighthouse_fuse::sys::process::may_mount().unwrap() {
            return Err(Skipped("CAP_SYS_ADMIN is missing".into()));
        }
        let place = PathBuf::from(std::env::var_os(PLACE).expect("started by this program"));
        let mount = Self { store: place.join("store"), at: place.join("mnt") };
        fs::create_dir(&mount.at).unwrap();
        mount.start(options);
        Ok(mount)
    }

    /// Starts a server of the store; what it says before it serves.
    pub(crate) fn start(&self, options: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
        command.args(["mount", "--background"]).args(options);
        let output = bounded(command.arg(&self.store).arg(&self.at));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// Kills the server as a crash would, and takes its dead mount away.
    pub(crate) fn crash(&self) {
        let server = server_of(&self.store).expect("it holds the lock");
        rustix::process::kill_process(server, Signal::KILL).unwrap();
        until("the server is gone", || !is_served(&self.store));
        rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).unwrap();
    }

    /// The process that serves it.
    pub(crate) fn server(&self) -> Pid {
        server_of(&self.store).expect("it holds the lock")
    }

    /// Stops the server as an operator would.
    pub(crate) fn stop(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
        let output = bounded(command.arg("umount").arg(&self.at));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        until("the server is gone", || !is_served(&self.store));
    }

    /// A path below `current/`.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at.join("current").join(name)
    }

    /// A path below the mount point.
    pub(crate) fn top(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at.join(name)
    }

    /// A path in the tree as it was after event `seq`.
    pub(crate) fn past(&self, seq: u64, name: impl AsRef<Path>) -> PathBuf {
        self.at.join("history").join(format!("@{seq}")).join(name)
    }

    /// The number of the last event.
    pub(crate) fn seq(&self) -> u64 {
        let mut value = [0; 32];
        let path = self.at.join("current");
        let len = rustix::fs::getxattr(&path, "user.lighthouse.seq", &mut value).unwrap();
        std::str::from_utf8(&value[..len]).unwrap().trim().parse().unwrap()
    }

    /// What the server wrote about itself so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.store.join("server.log")).unwrap_or_default()
    }

    /// A directory in which everybody may do everything.
    pub(crate) fn commons(&self) -> PathBuf {
        fs::set_permissions(self.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let commons = self.path("commons");
        fs::create_dir(&commons).unwrap();
        fs::set_permissions(&commons, fs::Permissions::from_mode(0o777)).unwrap();
        commons
    }
}

/// Whether there is a ring here, or why not.
pub(crate) fn needs_ring() -> Result<(), Skipped> {
    Queues::prepare(1 << 20, Some(1)).map(drop).map_err(|why| Skipped(why.to_string()))
}

/// Runs a program under a deadline.
pub(crate) fn bounded(command: &mut Command) -> Output {
    let mut under = Command::new("timeout");
    under.arg(PATIENCE.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        under.current_dir(directory);
    }
    let output = under.output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
    output
}

/// Runs a program that must succeed, and gives what it printed.
pub(crate) fn program(name: &str, arguments: &[&OsStr]) -> String {
    let output = bounded(Command::new(name).args(arguments));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a line of shell in `directory`; it must succeed.
pub(crate) fn shell(directory: &Path, line: &str) -> String {
    let output = bounded(Command::new("sh").args(["-c", line]).current_dir(directory));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `work` as a user without privilege.
pub(crate) fn as_user<T: Send>(id: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        // The kernel keeps the user of each thread apart; only this one changes.
        let worker = scope.spawn(move || {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The errno of a failure of the standard library.
pub(crate) fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.err()?)
}

/// The permission bits of a file, set-id and sticky bits among them.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Opens with flags the standard library has no words for.
pub(crate) fn open(path: &Path, flags: OFlags, mode: u32) -> Result<fs::File, Errno> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, mode).map(fs::File::from)
}

/// The names in a directory, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
