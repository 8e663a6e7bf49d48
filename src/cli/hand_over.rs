//! `hand-over`: the privileged half of a server in two parts. It mounts, and another process serves.
//!
//! ```text
//!  listen ---> somebody connects ---> mount, send the device ---> they are done, or gone ---> unmount
//!    ^                                                                                          |
//!    +------------------------------------------------------------------------------------------+
//! ```
//!
//! Invariants: there is at most one mount, and only while somebody holds its device; no copy of the device stays
//! here, so that a killed server's connection ends with it.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::process::Signal;

use crate::sys::process;
use crate::sys::signals::Signals;
use crate::transport::device::{self, HandedOver, Peer};
use crate::transport::mount::{self, MountOptions};
use crate::transport::unmount::{Detach, Mounted, UnmountError};

use super::{CliError, flag, output, service};

/// How long users of the mount have to leave it, once it is to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often process 1 of a container looks for children left to it.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Mount at MOUNTPOINT for a server that may not, and hand it the device over SOCKET
///
/// The server is `lighthouse-fuse serve --fd-socket SOCKET`, without any privilege, or another program that takes a
/// descriptor of /dev/fuse over a unix socket. One server at a time has the mount; when it ends or is killed, it is
/// unmounted, and the next one that connects gets a new one. Whoever may connect may serve: of SOCKET the user may who
/// starts this, and nobody else.
#[derive(Debug, clap::Args)]
pub(super) struct HandOverArgs {
    /// A unix socket; made here
    socket: PathBuf,
    /// Where to mount; made if only its last component is missing
    mountpoint: PathBuf,
    /// Let nobody change anything
    #[arg(long, env = "LIGHTHOUSE_FUSE_READ_ONLY", value_parser = flag())]
    read_only: bool,
}

pub(super) fn run(args: &HandOverArgs, quiet: bool) -> Result<ExitCode, CliError> {
    let signals = Signals::block(&[Signal::INT, Signal::TERM, Signal::HUP])
        .map_err(|err| CliError::new(format!("cannot wait for signals: {err}")))?;
    if process::may_raise_mount_capability().unwrap_or(false)
        && let Err(err) = process::gain_no_privileges()
    {
        tracing::warn!("programs may gain rights: {err}");
    }
    let socket = Socket::listen(&args.socket)?;
    // What is refused now would be refused to every server.
    mount::check(&args.mountpoint, &socket.path, false)
        .map_err(|err| CliError::new(err.to_string()))?;
    if !quiet {
        output::say(format_args!("waiting for a server on {}", socket.path.display()));
    }
    while wait(&signals, &socket.listener, None)? == Woken::Connected {
        let stream = match socket.listener.accept() {
            Ok((stream, _)) => stream,
            Err(err) => {
                tracing::warn!("a server that connected is gone: {err}");
                continue;
            }
        };
        if device::peer(&stream) == Peer::Gone {
            continue;
        }
        // The connection is closed if it fails, which is how the server learns of it.
        let mounted = match lend(args, &socket.path, &stream) {
            Ok(mounted) => mounted,
            Err(why) => {
                tracing::warn!("nothing handed over: {why}");
                continue;
            }
        };
        if !quiet {
            output::say(format_args!("mounted at {} for a server", mounted.path().display()));
        }
        let woken = loop {
            match wait(&signals, &socket.listener, Some(&stream))? {
                // Others learn at once that there is nothing for them; they may ask again.
                Woken::Connected => drop(socket.listener.accept()),
                woken => break woken,
            }
        };
        end(&mounted, &stream, &signals);
        if woken == Woken::Asked {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Mounts for the server at the other end of `stream`.
fn lend(args: &HandOverArgs, source: &Path, stream: &UnixStream) -> Result<Mounted, String> {
    let site = mount::check(&args.mountpoint, source, false).map_err(|err| err.to_string())?;
    let point = site.prepare().map_err(|err| err.to_string())?;
    let options =
        MountOptions { read_only: args.read_only, ..MountOptions::new(source.to_owned()) };
    let (device, mounted) = point.mount(&options).map_err(|err| err.to_string())?;
    HandedOver::offer(stream, device).map_err(|err| {
        // Nobody has the device any more.
        let _ = mounted.unmount(Detach::Lazily);
        format!("the server is gone: {err}")
    })?;
    Ok(mounted)
}

/// Ends a mount: at once if nobody serves it any more, else as soon as its users leave it or their time is up.
fn end(mounted: &Mounted, stream: &UnixStream, signals: &Signals) {
    let hurry = || {
        let again = matches!(signals.next(Some(Duration::ZERO)), Ok(Some(arrival)) if service::stops(arrival.signal));
        again || device::peer(stream) == Peer::Gone
    };
    match mounted.unmount_within(PATIENCE, hurry) {
        Ok(()) => (),
        Err(err @ UnmountError::Busy { .. }) => tracing::warn!("detached although {err}"),
        Err(err) => tracing::warn!("{err}"),
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Woken {
    /// A signal asks to stop.
    Asked,
    /// The server is done, or gone.
    Ended,
    /// Somebody connected.
    Connected,
}

/// Waits until a signal comes, `server` is done or gone, or somebody connects to `listener`.
fn wait(
    signals: &Signals,
    listener: &UnixListener,
    server: Option<&UnixStream>,
) -> Result<Woken, CliError> {
    loop {
        service::reap();
        let mut waiting =
            vec![PollFd::new(signals, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        waiting.extend(server.map(|server| PollFd::new(server, PollFlags::RDHUP)));
        match rustix::event::poll(&mut waiting, Some(&LOOK_EVERY)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(err) => return Err(CliError::new(format!("cannot wait for a server: {err}"))),
        }
        let there = |at: usize| waiting.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (connected, ended) = (there(1), there(2));
        while let Ok(Some(arrival)) = signals.next(Some(Duration::ZERO)) {
            if service::stops(arrival.signal) {
                return Ok(Woken::Asked);
            }
        }
        if ended {
            return Ok(Woken::Ended);
        }
        if connected {
            return Ok(Woken::Connected);
        }
    }
}

/// A unix socket that is gone with this.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn listen(path: &Path) -> Result<Self, CliError> {
        let path = service::absolute(path)?;
        let cannot =
            |err: io::Error| CliError::new(format!("cannot listen on {}: {err}", path.display()));
        let is_socket =
            std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_socket());
        if is_socket {
            match UnixStream::connect(&path) {
                Ok(_) => {
                    let path = path.display();
                    return Err(CliError::new(format!(
                        "somebody listens on {path} already; end that first, or name another socket"
                    )));
                }
                // Left by one that was killed.
                Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path).map_err(cannot)?;
                }
                // Somebody may listen, on a socket of another type or one that is not for us.
                Err(err) => {
                    let path = path.display();
                    return Err(CliError::new(format!(
                        "there is a socket at {path}, and it cannot be told that nobody listens on it ({err}); take it \
                         away if it is of no use, or name another socket"
                    )));
                }
            }
        }
        // There is no other thread yet that this would bind.
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(&path);
        rustix::process::umask(before);
        Ok(Self { listener: listener.map_err(cannot)?, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.path) {
            tracing::debug!("{} stays: {err}", self.path.display());
        }
    }
}
