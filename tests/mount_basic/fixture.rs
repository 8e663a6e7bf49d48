//! Servers in processes of their own, places for them, and what the host must offer.
//!
//! Invariant: this process never looks below a mount point by itself; `cat`, `stat` and others do,
//! each under a deadline, so that no mistake of ours can hang the tests.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::Wait;
use lighthouse_fuse::transport::dev_fuse::DevFuse;
use lighthouse_fuse::transport::device;
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::mount_table::MountEntry;
use lighthouse_fuse::transport::namespace::{self, Job};
use lighthouse_fuse::transport::unmount::{self, Detach, UnmountError};

use crate::Skipped;
use crate::constant::ConstantServer;

/// How long anything may take before it counts as hung.
const DEADLINE: Duration = Duration::from_secs(20);

/// Says why no mount can be made here, if so.
pub(crate) fn needs_root_and_device() -> Result<(), Skipped> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Skipped("/dev/fuse is missing".into()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Skipped("mounting in this process needs root".into()));
    }
    if !sys::process::may_mount().unwrap() {
        return Err(Skipped("CAP_SYS_ADMIN is missing".into()));
    }
    Ok(())
}

/// A store and a mount point side by side, unmounted and removed at the end.
pub(crate) struct Place {
    _directory: tempfile::TempDir,
    pub(crate) store: PathBuf,
    pub(crate) at: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (store, at) = (root.join("store"), root.join("a b"));
        fs::create_dir(&store).unwrap();
        fs::create_dir(&at).unwrap();
        Self { _directory: directory, store, at }
    }

    /// Gives everything here to that user.
    pub(crate) fn give_to(&self, id: u32) {
        for path in [self.at.parent().unwrap(), &self.store, &self.at] {
            std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
        }
    }

    /// This program, serving this place in a process of its own.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("serve").arg(&self.store).arg(&self.at).args(options);
        command
    }

    pub(crate) fn serve(&self, options: &[&str]) -> Server {
        Server::start(self.command(options))
    }

    /// This program, serving a store here in which names come to be while they are made.
    pub(crate) fn behind(&self) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("behind").arg(&self.store).arg(&self.at);
        Server::start(command)
    }

    /// The mount as the table shows it.
    pub(crate) fn entry(&self) -> Option<MountEntry> {
        let table = lighthouse_fuse::transport::mount_table::read().unwrap();
        lighthouse_fuse::transport::mount_table::topmost(&table, &self.at).cloned()
    }

    pub(crate) fn small(&self) -> PathBuf {
        self.at.join("current/small")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for _ in 0..8 {
            let Some(entry) = self.entry() else { return };
            let _ = unmount::abort(entry.minor);
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A server in a process of its own, killed at the end.
pub(crate) struct Server {
    child: Child,
    /// What it printed first: `ready`, or why it does not serve.
    pub(crate) said: String,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Server {
    /// Starts `command` and waits until it answers INIT, or gives up.
    pub(crate) fn start(mut command: Command) -> Self {
        Self::start_as(&mut command)
    }

    /// As [`Server::start`].
    pub(crate) fn start_as(command: &mut Command) -> Self {
        // If the tests are killed, no server stays behind.
        sys::process::die_with_parent(command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        Self { child, said: said.trim_end().to_owned(), stderr: Some(stderr) }
    }

    pub(crate) fn ready(self) -> Self {
        assert_eq!(self.said, "ready");
        self
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, and gives the exit code and the rest of what it said.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let status = within_deadline(|| self.child.try_wait().unwrap());
        let mut rest = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
        }
        (status.code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// Runs a program that touches a mount, under a deadline.
pub(crate) fn outside(program: &str, arguments: &[&Path]) -> Output {
    let output = Command::new("timeout").arg("20").arg(program).args(arguments).output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{program} {arguments:?} hangs");
    output
}

/// `serve STORE MOUNTPOINT [--spin-us N] [--splice] [--read-only] [--hang] [--private]
/// [--descriptor PATH] [--socket PATH]`
pub(crate) fn serve_in_this_process(arguments: &[String]) -> ExitCode {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let (store, at) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let opened = if let Some(path) = value("--descriptor") {
        device::inherited(Path::new(&path)).map(|device| (device.unwrap(), None))
    } else if let Some(path) = value("--socket") {
        device::HandedOver::take(Path::new(&path), DEADLINE).map(|taken| (taken.device, None))
    } else {
        let mut options = MountOptions::new(store.to_owned());
        options.read_only = flag("--read-only");
        options.allow_other = !flag("--private");
        if flag("--no-helper") {
            options.helper = None;
        }
        mount::check(at, store, false)
            .and_then(mount::Site::prepare)
            .and_then(|point| point.mount(&options))
            .map(|(device, mounted)| (device, Some(mounted)))
    };
    let (device, mounted) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if flag("--hang") {
        eprintln!("ready");
        std::thread::sleep(DEADLINE);
        return ExitCode::FAILURE;
    }
    let wait = value("--spin-us")
        .map_or(Wait::Block, |us| Wait::Spin(Duration::from_micros(us.parse().unwrap())));
    let device = DevFuse::new(device, wait).unwrap();
    let server = Arc::new(ConstantServer::new(device, flag("--splice")).unwrap());
    let readers = start_readers(&server);
    if flag("--read-ahead") {
        mounted.unwrap().raise_read_ahead(4096).unwrap();
    }
    eprintln!("ready");
    for reader in readers {
        reader.join().unwrap().unwrap();
    }
    ExitCode::SUCCESS
}

/// `umount MOUNTPOINT [--lazy]`: as the subcommand does it.
pub(crate) fn unmount_in_this_process(arguments: &[String]) -> ExitCode {
    let lazy = arguments.iter().any(|argument| argument == "--lazy");
    let detach = if lazy { Detach::Lazily } else { Detach::WhenUnused };
    match unmount::unmount(Path::new(&arguments[0]), detach) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts two readers and waits until INIT is answered.
fn start_readers(
    server: &Arc<ConstantServer>,
) -> Vec<std::thread::JoinHandle<std::io::Result<()>>> {
    let readers = (0..2)
        .map(|_| {
            let server = Arc::clone(server);
            std::thread::spawn(move || server.serve())
        })
        .collect();
    within_deadline(|| server.initialised.load(Ordering::Acquire).then_some(()));
    readers
}

/// The variable that makes `run` say `opening` and take its time before it serves.
pub(crate) const SLOWLY: &str = "RUN_SLOWLY";

/// `run STORE MOUNTPOINT COMMAND ...`: as the subcommand does it.
pub(crate) fn run_in_this_process(arguments: &[String]) -> ExitCode {
    let (store, at) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let command: Vec<OsString> = arguments[2..].iter().map(OsString::from).collect();
    let job = Job {
        command: &command,
        directory: Path::new("current"),
        patience: Duration::from_millis(200),
    };
    let run = || -> Result<_, String> {
        let namespace = namespace::enter().map_err(|error| error.to_string())?;
        let point = mount::check(at, store, false)
            .and_then(mount::Site::prepare)
            .map_err(|error| error.to_string())?;
        let options = MountOptions::new(store.to_owned());
        Ok(namespace.run(point, &options, &job, |device, _| {
            if std::env::var_os(SLOWLY).is_some() {
                println!("opening");
                std::thread::sleep(Duration::from_secs(1));
            }
            let server = Arc::new(ConstantServer::new(DevFuse::new(device, Wait::Block)?, false)?);
            Ok(start_readers(&server))
        }))
    };
    match run() {
        Ok(Ok(finished)) => {
            if let Some(error) = finished.left_behind {
                eprintln!("{error}");
            } else {
                for reader in finished.server {
                    reader.join().unwrap().unwrap();
                }
            }
            ExitCode::from(finished.exit_code)
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
        Err(words) => {
            eprintln!("{words}");
            ExitCode::FAILURE
        }
    }
}

/// The user without privilege that tests run as.
pub(crate) const SOMEBODY: u32 = 1000;

/// Makes `command` run as [`SOMEBODY`].
pub(crate) fn as_somebody(command: &mut Command) -> &mut Command {
    command.uid(SOMEBODY).gid(SOMEBODY).current_dir("/")
}

/// Unmounts, as another process than the server.
pub(crate) fn unmount_place(place: &Place, detach: Detach) -> Result<(), UnmountError> {
    unmount::unmount(&place.at, detach)
}
