//! A mount that only one command and its children see: `lighthouse-fuse run`.
//!
//! ```text
//!  this process                                                     COMMAND
//!  unshare(mounts; for users without privilege: users too)
//!  open /dev/fuse, mount, serve (threads)
//!  a signal that ends has come? unmount, 128 + its number
//!  fork ---------------------------------------------------------> chdir MOUNT/current
//!  wait; pass on signals that were sent to us alone                 exec
//!  <------------------------------------------------------------- exit
//!  unmount, give back its exit code
//! ```
//!
//! The server is the parent and the command its child, in the same two namespaces, so nobody else
//! sees the mount and it ends with them. A user without privilege gets a user namespace in which
//! only his own ids exist, mapped to themselves: the command runs as the same user, with no
//! capability. `/dev/fuse` is opened in there, since one from outside is refused.
//!
//! Invariants: the process has one thread when it enters, or the other threads would stay outside;
//! no signal is lost between entering and the end of the command; this process never looks at the
//! mount (the child does, before it becomes the command).

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, Signal};

use super::mount::{MountError, MountOptions, Mountpoint};
use super::unmount::{Detach, Mounted, UnmountError};
use crate::sys;
use crate::sys::signals::{self, Arrival, Sender, Signals};

/// The exit code of a command that was not found, as shells and env(1) have it.
pub const EXIT_NOT_FOUND: u8 = 127;
/// The exit code of a command that was found and could not be run.
pub const EXIT_NOT_RUNNABLE: u8 = 126;
/// What is added to a signal's number to make the exit code of a command it killed.
const EXIT_SIGNALLED: u8 = 128;

/// Of those that are passed on, the signals that end a command which has not started.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The signals that are passed on to the command.
const PASSED_ON: [Signal; 6] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Why a command was not run in a namespace of its own.
#[derive(Debug)]
pub enum RunError {
    /// The kernel gives this user no namespace.
    NoNamespace(io::Error),
    /// The namespace is there and could not be set up.
    Setup {
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// The mount failed.
    Mount(MountError),
    /// The server did not start.
    Serve(io::Error),
    /// The command did not start.
    Command {
        /// Its first word.
        program: OsString,
        /// Why.
        error: io::Error,
    },
}

impl RunError {
    /// The exit code for this error: as shells have it if it is about the command, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                EXIT_NOT_FOUND
            }
            Self::Command { .. } => EXIT_NOT_RUNNABLE,
            Self::NoNamespace(_) | Self::Setup { .. } | Self::Mount(_) | Self::Serve(_) => 1,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNamespace(error) => write!(
                f,
                "no user namespace to be had ({}): allow them with `sudo sysctl \
                 user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0`, \
                 or use sudo",
                super::mount::reason(error)
            ),
            Self::Setup { doing, error } => {
                write!(f, "cannot {doing} in the namespace: {}", super::mount::reason(error))
            }
            Self::Mount(error) => error.fmt(f),
            Self::Serve(error) => {
                write!(f, "the server did not start: {}", super::mount::reason(error))
            }
            Self::Command { program, error } => {
                write!(f, "cannot run {}: {}", program.display(), super::mount::reason(error))
            }
        }
    }
}

impl std::error::Error for RunError {}

/// A process that is alone with its mounts.
///
/// The proof that [`enter`] succeeded; there is no way back.
#[derive(Debug)]
pub struct Namespace {
    signals: Signals,
    /// Not a user namespace of our own.
    privileged: bool,
}

/// Moves this process into a mount namespace of its own, and into a user namespace if it may not
/// mount otherwise. From now on signals wait for [`Namespace::run`].
///
/// Does nothing to the mounts outside, and sees those that are made outside later (only).
///
/// # Errors
///
/// [`RunError::NoNamespace`], [`RunError::Setup`] (`EINVAL`: the process has several threads).
pub fn enter() -> Result<Namespace, RunError> {
    let setup = |doing| move |error: io::Error| RunError::Setup { doing, error };
    let mut waited_for = PASSED_ON.to_vec();
    waited_for.push(Signal::CHILD);
    let signals = Signals::block(&waited_for).map_err(setup("wait for signals"))?;
    let capability = sys::process::MountCapability::raise().ok().flatten();
    let privileged = capability.is_some();
    // Before `unshare`: afterwards nobody has a name until the maps are written.
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::process::unshare_mounts(!privileged).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => RunError::Setup { doing: "enter with several threads", error },
        _ => RunError::NoNamespace(error),
    })?;
    if !privileged {
        // Without `deny` a group map may not be written by a user: groups that forbid something
        // could be dropped.
        fs::write("/proc/self/setgroups", "deny").map_err(setup("give up setgroups"))?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(setup("map the user"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
            .map_err(setup("map the group"))?;
    }
    // Downstream: what is mounted outside appears here, never the reverse.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)
        .map_err(|error| setup("make the mounts private")(error.into()))?;
    Ok(Namespace { signals, privileged })
}

/// What to run, and where.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program and its arguments.
    pub command: &'a [OsString],
    /// The directory inside the mount in which it starts: `current`.
    pub directory: &'a Path,
    /// How long processes that the command left behind may keep the mount after its end.
    pub patience: Duration,
}

/// How a job ended.
#[derive(Debug)]
pub struct Finished<S> {
    /// The command's exit code, or 128 and the number of the signal that killed it, or that came before
    /// it was started.
    pub exit_code: u8,
    /// What `serve` returned; its connection has ended or is abandoned.
    pub server: S,
    /// Why the mount did not end by itself, if processes were left behind: they have lost it.
    pub left_behind: Option<UnmountError>,
}

impl Namespace {
    /// Mounts on `point`, has `serve` answer, runs the command in it and waits for its end.
    ///
    /// `serve` gets the device and must start the threads that answer it, INIT included, before it
    /// returns. What it returns comes back in [`Finished`], so that the caller can join those
    /// threads and sync. The threads it starts have signals blocked, as they should.
    ///
    /// # Errors
    ///
    /// [`RunError`]; nothing is mounted then.
    pub fn run<S>(
        &self,
        point: Mountpoint,
        options: &MountOptions,
        job: &Job<'_>,
        serve: impl FnOnce(OwnedFd, &Mounted) -> io::Result<S>,
    ) -> Result<Finished<S>, RunError> {
        // In here `fusermount3` is no more privileged than we are.
        let options = MountOptions { helper: None, ..options.clone() };
        let (device, mounted) = point.mount(&options).map_err(|error| match error {
            // AppArmor gives a user the namespace, and no rights in it.
            MountError::Refused { error, .. }
                if !self.privileged && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                RunError::NoNamespace(error)
            }
            error => RunError::Mount(error),
        })?;
        let server = match serve(device, &mounted) {
            Ok(server) => server,
            Err(error) => {
                let _ = mounted.unmount(Detach::Lazily);
                return Err(RunError::Serve(error));
            }
        };
        let exit_code = self.start_and_wait(job, mounted.path());
        let left_behind = mounted.unmount_within(job.patience, || false).err();
        Ok(Finished { exit_code: exit_code?, server, left_behind })
    }

    /// Starts the command, unless a signal came first that would have ended it, and waits for its
    /// end. Gives its exit code.
    fn start_and_wait(&self, job: &Job<'_>, mountpoint: &Path) -> Result<u8, RunError> {
        let failed = |error| RunError::Setup { doing: "wait", error };
        let early = self.arrived().map_err(failed)?;
        let ends = |signal: &Signal| ENDING.contains(signal) && !signals::is_ignored(*signal);
        if let Some(signal) = early.iter().copied().find(ends) {
            return Ok(exit_code_of_signal(signal.as_raw()));
        }
        let child = start(job, mountpoint)?;
        // Who was not there yet got none of these, nor what came from the terminal since.
        let early = early.into_iter().chain(self.arrived().unwrap_or_default());
        early.for_each(|signal| pass_on(&child, signal));
        self.wait_for(child).map(exit_code_of).map_err(failed)
    }

    /// The signals that have arrived, apart from those of children.
    fn arrived(&self) -> io::Result<Vec<Signal>> {
        let mut arrived = Vec::new();
        while let Some(arrival) = self.signals.next(Some(Duration::ZERO))? {
            arrived.extend(Some(arrival.signal).filter(|&signal| signal != Signal::CHILD));
        }
        Ok(arrived)
    }

    /// Waits for the end of `child`, passing signals on to it.
    fn wait_for(&self, mut child: Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let Some(arrival) = self.signals.next(None)? else { continue };
            if arrival.signal != Signal::CHILD && is_ours_alone(arrival) {
                pass_on(&child, arrival.signal);
            }
        }
    }
}

/// Whether a signal reached us, and not the command.
///
/// A key on the terminal reached it too, which is in the same foreground group. Of a hang-up the
/// kernel tells the leader of the session, and the others when that ends.
fn is_ours_alone(arrival: Arrival) -> bool {
    let leads = || rustix::process::getsid(None).is_ok_and(|own| own == rustix::process::getpid());
    match arrival.sender {
        Sender::Process(_) => true,
        Sender::Kernel => arrival.signal == Signal::HUP && leads(),
    }
}

fn pass_on(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile, which shows when it is waited for.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Starts the command in its directory inside the mount at `mountpoint`.
fn start(job: &Job<'_>, mountpoint: &Path) -> Result<Child, RunError> {
    let not_found = || io::Error::from(io::ErrorKind::NotFound);
    let (program, arguments) = job
        .command
        .split_first()
        .ok_or_else(|| RunError::Command { program: OsString::new(), error: not_found() })?;
    let directory = mountpoint.join(job.directory);
    let mut command = Command::new(program);
    // The child changes directory, after the fork: this process may not touch the mount.
    command.args(arguments).current_dir(&directory).env("PWD", &directory);
    sys::process::unblock_signals(&mut command);
    command.spawn().map_err(|error| RunError::Command { program: program.clone(), error })
}

fn exit_code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => exit_code_of_signal(signal),
        (None, None) => u8::MAX,
    }
}

fn exit_code_of_signal(signal: i32) -> u8 {
    EXIT_SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX))
}

/// Makes a directory of a new name for a mount that only one command sees, below the directory
/// for temporary files. The caller removes it.
///
/// # Errors
///
/// Whatever `mkdir(2)` says there.
pub fn scratch_directory() -> io::Result<PathBuf> {
    let below = std::env::temp_dir();
    let pid = std::process::id();
    for attempt in 0..1000_u32 {
        let path = below.join(format!("lighthouse-{pid}-{attempt}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_or_tells_the_signal() {
        // As wait(2) encodes them: the code in the second byte, a signal in the first.
        for (raw, code) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(exit_code_of(ExitStatus::from_raw(raw)), code);
        }
    }

    #[test]
    fn an_error_about_the_command_has_the_exit_code_shells_give() {
        let command = |errno| RunError::Command {
            program: "x".into(),
            error: io::Error::from_raw_os_error(errno),
        };
        assert_eq!(command(libc::ENOENT).exit_code(), 127);
        assert_eq!(command(libc::EACCES).exit_code(), 126);
        assert_eq!(RunError::NoNamespace(io::Error::from_raw_os_error(libc::EPERM)).exit_code(), 1);
    }

    #[test]
    fn scratch_directories_are_new() {
        let (first, second) = (scratch_directory().unwrap(), scratch_directory().unwrap());
        assert_ne!(first, second);
        for path in [first, second] {
            fs::remove_dir(path).unwrap();
        }
    }
}
