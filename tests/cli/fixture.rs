//! A place to run the program in, and what the host must offer.
//!
//! Invariant: this process never looks below a mount point by itself; other programs do, each under a
//! deadline, so that no mistake of ours can hang the tests.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::{mount_table, unmount};
use rustix::process::{Pid, Signal};

use crate::Skipped;

/// How long anything may take before it counts as hung.
const DEADLINE: Duration = Duration::from_secs(40);

/// The user without privilege that tests run as.
pub(crate) const NOBODY: &str = "65534";

/// Says why no mount can be made here, if so.
pub(crate) fn needs_root_and_device() -> Result<(), Skipped> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Skipped("/dev/fuse is missing".into()));
    }
    needs_root()?;
    if !sys::process::may_mount().unwrap() {
        return Err(Skipped("CAP_SYS_ADMIN is missing".into()));
    }
    Ok(())
}

/// Says so where this is not root.
pub(crate) fn needs_root() -> Result<(), Skipped> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Skipped("needs root".into())),
    }
}

/// A fresh directory, whose mounts are ended and which is removed at the end.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Whatever the umask says: everybody works here.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), open).unwrap();
        let root = directory.path().canonicalize().unwrap();
        Self { directory, root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `program` in this directory, under a deadline, and without variables of ours.
    pub(crate) fn under_deadline(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("timeout");
        command.arg(DEADLINE.as_secs().to_string()).arg(program);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(&self.root).stdin(Stdio::null());
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("LIGHTHOUSE")) {
            command.env_remove(name);
        }
        for name in ["SUDO_UID", "SUDO_GID"] {
            command.env_remove(name);
        }
    }

    /// Our program here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.under_deadline(program());
        command.args(arguments);
        command
    }

    /// Our program here, as a user without privilege.
    pub(crate) fn as_nobody(&self, arguments: &[&str]) -> Command {
        let mut command = self.under_deadline("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(program()).args(arguments);
        command
    }

    /// What our program says and ends with.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        finished(&mut self.command(arguments))
    }

    /// What it prints, having succeeded.
    pub(crate) fn output(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line it fails with.
    #[track_caller]
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        line_of(&self.run(arguments))
    }

    /// What a shell prints here, having succeeded.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = finished(self.under_deadline("sh").arg("-ec").arg(script));
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `lighthouse-fuse mount` in the foreground, once it has said its first line.
    pub(crate) fn mount(&self, arguments: &[&str]) -> Server {
        self.start(&[&["mount"], arguments].concat())
    }

    /// Our program as a server, once it has said its first line.
    pub(crate) fn start(&self, arguments: &[&str]) -> Server {
        let mut command = Command::new(program());
        command.args(arguments);
        self.prepare(&mut command);
        Server::start(&mut command)
    }

    /// A store `store` served at `at`.
    pub(crate) fn served(&self) -> Server {
        let server = self.mount(&["store", "at"]);
        assert_eq!(server.said, format!("serving {} at {}", self.text("store"), self.text("at")));
        server
    }

    /// What `status` says, as JSON.
    pub(crate) fn status(&self, store: &str) -> serde_json::Value {
        serde_json::from_str(&self.output(&["status", store, "--json"])).unwrap()
    }

    /// The last event.
    pub(crate) fn last(&self, store: &str) -> u64 {
        self.status(store)["last"].as_u64().unwrap()
    }

    /// Whether something is mounted at `name`.
    pub(crate) fn is_mounted(&self, name: &str) -> bool {
        mount_table::topmost(&mount_table::read().unwrap(), &self.path(name)).is_some()
    }

    /// Everything here: names, modes, owners and contents. Not for a place with a mount.
    pub(crate) fn listing(&self) -> String {
        self.shell("find . -printf '%p %y %m %U %G %s\\n' | sort; find . -type f | sort | xargs -r sha256sum")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let root = self.directory.path().to_owned();
        for _ in 0..8 {
            let table = mount_table::read().unwrap_or_default();
            let mut ours = table.iter().filter(|entry| entry.mountpoint.starts_with(&root));
            let Some(entry) = ours.next_back() else { return };
            let _ = unmount::abort(entry.minor);
            let _ = rustix::mount::unmount(&entry.mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// The program under test.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_lighthouse-fuse")
}

/// Runs `command` to its end, which must not be the deadline.
#[track_caller]
pub(crate) fn finished(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
    output
}

/// The one line that `output` failed with.
#[track_caller]
pub(crate) fn line_of(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.strip_prefix("lighthouse-fuse: ").unwrap().trim_end().to_owned()
}

/// A server in a process of its own, killed at the end.
pub(crate) struct Server {
    child: Child,
    /// What it said first.
    pub(crate) said: String,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        // If the tests are killed, no server stays behind.
        sys::process::die_with_parent(command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        Self { child, said: said.trim_end().to_owned(), stderr: Some(stderr) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Nobody reads any more what it says.
    pub(crate) fn stop_listening(&mut self) {
        self.stderr = None;
    }

    /// The next line it says.
    pub(crate) fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and gives the exit status and the rest of what it said.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let status = within_deadline(|| self.child.try_wait().unwrap());
        let mut rest = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            stderr.read_to_string(&mut rest).unwrap();
        }
        (status, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that works in a directory of a mount, killed at the end.
pub(crate) struct User(Child);

impl User {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        let mut command = Command::new("sh");
        // The shell, not this process, goes there.
        command.arg("-c").arg("cd \"$0\" && echo there && kill -STOP $$").arg(directory);
        sys::process::die_with_parent(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "there\n");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn within_deadline<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "nothing after {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
