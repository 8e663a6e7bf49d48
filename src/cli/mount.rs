//! `mount`: serve a store until it is unmounted or a signal comes.
//!
//! ```text
//!  check the place -> mount -> open the store -> answer INIT -> "serving" -> wait -> unmount -> close
//!        |              |            |
//!        +--------------+------------+--- refused: one line, and nothing has changed
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::server::serve::Ended;
use crate::store::OpenError;
use crate::sys::signals::Signals;
use crate::transport::device::{self, HandedOver};
use crate::transport::mount::{self, MountOptions};
use crate::tree::Tree;
use crate::view::Options;

use super::service::{self, Event, Left, Mounter, Place, Service, ServiceArgs};
use super::{CliError, flag, output, store};

/// How long users of the mount have to leave it after SIGINT or SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server of a mount that was given up has to end, before the store is closed.
const GIVEN_UP_WITHIN: Duration = Duration::from_millis(200);
/// How often it is tried again to unmount.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// Tells a server started by `--background` that its standard error is a pipe to whoever waits for it.
const BACKGROUND: &str = "LIGHTHOUSE_FUSE_BACKGROUND_CHILD";
/// What such a server writes once it serves; no message contains it.
const SERVING: u8 = 0;

/// Serve STORE as a filesystem at MOUNTPOINT
///
/// The live tree is in MOUNTPOINT/current, the whole tree as it was after event N in
/// MOUNTPOINT/history/@N. STORE and the last component of MOUNTPOINT are made if they do not exist.
/// Serves until it is unmounted, or until ^C or SIGTERM: then users have 10 seconds to leave.
/// A process says which agent it works for by writing the name into MOUNTPOINT/.agent.
#[derive(Debug, clap::Args)]
pub(super) struct MountArgs {
    /// The store; made if it does not exist
    store: PathBuf,
    /// Where to mount; made if only its last component is missing
    mountpoint: PathBuf,
    /// Serve in the background; return once the mount works. The log goes to STORE/server.log, with --read-only nowhere
    #[arg(long, env = "LIGHTHOUSE_FUSE_BACKGROUND", value_parser = flag())]
    background: bool,
    /// Let nobody change anything, and change nothing in STORE either: it may lie on a medium that cannot be written
    #[arg(long, env = "LIGHTHOUSE_FUSE_READ_ONLY", value_parser = flag())]
    read_only: bool,
    /// Serve files without being asked to open them, which spares two requests each time one is opened; with --read-only
    #[arg(long, requires = "read_only", conflicts_with_all = ["sections", "policy", "require_session"],
          env = "LIGHTHOUSE_FUSE_NO_OPEN", value_parser = flag())]
    no_open: bool,
    /// Mount over a directory that has files in it
    #[arg(long, env = "LIGHTHOUSE_FUSE_NONEMPTY", value_parser = flag())]
    nonempty: bool,
    /// Take the mounted device over from a descriptor sent over this unix socket. One that is open already is given as
    /// MOUNTPOINT, as /dev/fd/N: whoever mounted that must be in our process namespace, or the log names other processes
    #[arg(long, value_name = "SOCKET", env = "LIGHTHOUSE_FUSE_FD_SOCKET")]
    fd_socket: Option<PathBuf>,
    #[command(flatten)]
    store_args: store::OpenArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

pub(super) fn run(args: &MountArgs, quiet: bool) -> Result<ExitCode, CliError> {
    args.service.check()?;
    if args.background && std::env::var_os(BACKGROUND).is_none() {
        return start_in_background();
    }
    // Before any thread starts, so that all of them leave these to us.
    let signals = Signals::block(&service::SIGNALS)
        .map_err(|err| CliError::new(format!("cannot wait for signals: {err}")))?;
    let source = service::absolute(&args.store)?;
    // Nobody makes sessions here that could be looked up.
    let callers = service::Callers::without_sessions(&args.service)?;
    let refused = |err: mount::MountError| CliError::new(err.to_string());
    let (device, place, mounter, owner) = match taken_over(args)? {
        Some((device, place, mounter)) => (device, place, mounter, mount_owner_here()),
        None => {
            let site = mount::check(&args.mountpoint, &source, args.nonempty).map_err(refused)?;
            store::check(&source)?;
            if args.read_only && !source.join("super").exists() {
                return Err(store::failed(&source, &OpenError::Missing));
            }
            let point = site.prepare().map_err(refused)?;
            let owner = point.owner();
            let mut options = MountOptions::new(source.clone());
            options.read_only = args.read_only;
            let (device, mounted) = point.mount(&options).map_err(refused)?;
            (device, Place::Ours(mounted), Mounter::We, owner)
        }
    };
    let opened = store::open_or_make(&source, &args.store_args, owner, args.read_only)
        .inspect_err(|_| place.give_up())?;
    let tree = Tree::new(Arc::clone(&opened));
    let shown = Options { no_open: args.no_open, ..args.service.options(false) };
    let mut service = Service::start(device, mounter, tree, callers, shown, &args.service)
        .inspect_err(|_| place.give_up())
        .map_err(|err| CliError::new(format!("cannot serve {}: {err}", source.display())))?;
    if !args.read_only {
        service.record_to(&source);
    }
    let waited = wait(args, &source, &place, service, &signals, quiet);
    // Whatever became of the mount, what is in the store is safe from here on.
    let closed = store::close(&opened);
    waited.and(closed)?;
    Ok(ExitCode::SUCCESS)
}

/// A device that was mounted by somebody else.
fn taken_over(args: &MountArgs) -> Result<Option<(OwnedFd, Place, Mounter)>, CliError> {
    /// How long the other side has to send it.
    const SENT_WITHIN: Duration = Duration::from_secs(60);
    let refused = |err: mount::MountError| CliError::new(err.to_string());
    if let Some(socket) = &args.fd_socket {
        let HandedOver { device, stream } =
            HandedOver::take(socket, SENT_WITHIN).map_err(refused)?;
        let mounter = Mounter::behind(&stream);
        return Ok(Some((device, Place::Elsewhere(Some(stream)), mounter)));
    }
    let inherited = device::inherited(&args.mountpoint).map_err(refused)?;
    Ok(inherited.map(|device| (device, Place::Elsewhere(None), Mounter::Another)))
}

/// What a new store's tree starts with where the mount point is not ours to look at.
fn mount_owner_here() -> mount::Owner {
    mount::Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode: 0o755,
    }
}

/// Waits until the connection ends, by itself or because a signal asked for it.
fn wait(
    args: &MountArgs,
    source: &Path,
    place: &Place,
    service: Service,
    signals: &Signals,
    quiet: bool,
) -> Result<(), CliError> {
    let mut asked: Option<Instant> = None;
    let mut said_busy = false;
    loop {
        match service.next(TRY_EVERY) {
            Some(Event::Ready) => {
                if let Err(err) = ready(args, source, place, quiet) {
                    place.give_up();
                    service.join(GIVEN_UP_WITHIN);
                    return Err(err);
                }
            }
            Some(Event::Ended(ended)) => {
                // A recording is whole once its threads are gone.
                service.join(PATIENCE);
                return end_of(ended, asked.is_some(), source, place);
            }
            None => (),
        }
        let mut again = false;
        while let Some(arrival) = signals.next(Some(Duration::ZERO)).unwrap_or_default() {
            match arrival.signal {
                // Nothing to reload yet; but the terminal going away must not end a server.
                Signal::HUP => (),
                Signal::USR1 => service.record(),
                _ if asked.is_some() => again = true,
                _ => asked = Some(Instant::now()),
            }
        }
        service::reap();
        let Some(since) = asked else { continue };
        let Place::Ours(mounted) = place else {
            // Not our mount: it ends when whoever mounted it has heard, or is given up.
            if again || since.elapsed() >= PATIENCE || !place.ask_to_unmount() {
                return Ok(());
            }
            continue;
        };
        let leaving = service::Leaving { since, patience: PATIENCE, again, quiet };
        if let Some(patience) = leaving.unmount(mounted, &mut said_busy)? {
            service.join(patience);
            return Ok(());
        }
    }
}

/// What a connection that ended without our doing comes to; `asked`: it was to end.
fn end_of(
    ended: io::Result<Ended>,
    asked: bool,
    source: &Path,
    place: &Place,
) -> Result<(), CliError> {
    let why = match (ended, place.clear()) {
        (Ok(Ended::Unmounted), Left::Nothing) => return Ok(()),
        (Ok(Ended::Unmounted), Left::Cleared) if asked => return Ok(()),
        (Ok(Ended::Unmounted), Left::Cleared) => {
            "its connection was aborted, and the dead mount is taken away; mount it again"
                .to_owned()
        }
        (Ok(Ended::Unmounted), Left::Dead) => {
            "its connection was aborted, and the dead mount is there still; unmount it".to_owned()
        }
        (Ok(Ended::NeverAgreed), _) => {
            "it ended before the kernel and we agreed on anything".to_owned()
        }
        (Err(err), _) => err.to_string(),
    };
    Err(CliError::new(format!("serving {} failed: {why}", source.display())))
}

fn ready(args: &MountArgs, source: &Path, place: &Place, quiet: bool) -> Result<(), CliError> {
    // What fails, fails before it is said that anything is served.
    let log = match std::env::var_os(BACKGROUND) {
        Some(_) => Some(Log::open(args, source)?),
        None => None,
    };
    place.raise_read_ahead(args.service.tuning.read_ahead);
    let at = place.path().unwrap_or(&args.mountpoint);
    if !quiet {
        output::say(format_args!("serving {} at {}", source.display(), at.display()));
        if io::stderr().is_terminal() {
            output::say(format_args!("work in {}/current; ^C stops", at.display()));
        }
    }
    log.map_or(Ok(()), Log::detach)
}

/// Starts this program again as a server of its own session, and waits until it serves or fails.
fn start_in_background() -> Result<ExitCode, CliError> {
    let cannot = |err: io::Error| CliError::new(format!("cannot start in the background: {err}"));
    let program = std::env::current_exe().map_err(cannot)?;
    let mut server = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let mut said = Vec::new();
    if let Some(mut stderr) = server.stderr.take() {
        let mut piece = [0; 1024];
        while !said.contains(&SERVING) {
            match stderr.read(&mut piece).map_err(cannot)? {
                0 => break,
                len => said.extend(piece.iter().take(len)),
            }
        }
    }
    let serving = said.contains(&SERVING);
    said.retain(|&byte| byte != SERVING);
    // As it came: what the server said is whole lines.
    _ = io::stderr().write_all(&said);
    if serving {
        return Ok(ExitCode::SUCCESS);
    }
    // It said why; its exit code is ours.
    let status = server.wait().map_err(cannot)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code.max(1)))
}

/// Where a server in the background writes to: STORE/server.log, or nowhere where nothing may be written there.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn open(args: &MountArgs, source: &Path) -> Result<Self, CliError> {
        let path = match args.read_only {
            true => PathBuf::from("/dev/null"),
            false => source.join("server.log"),
        };
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = opened.map_err(|err| {
            let path = path.display();
            CliError::new(format!(
                "cannot log to {path}: {err}; see to it that it can be written, or leave out --background"
            ))
        })?;
        Ok(Self { path, file })
    }

    /// Lets go of the terminal and of whoever waits: from here on messages go here.
    fn detach(self) -> Result<(), CliError> {
        let Self { path, file } = self;
        let cannot = |err: rustix::io::Errno| {
            let err = io::Error::from(err);
            CliError::new(format!(
                "cannot go on in the background, logging to {}: {err}",
                path.display()
            ))
        };
        rustix::process::setsid().map_err(cannot)?;
        // Where we were started from may be unmounted while we serve.
        rustix::process::chdir("/").map_err(cannot)?;
        // Whoever waited may be gone, and then nobody knows of us.
        rustix::io::write(rustix::stdio::stderr(), &[SERVING]).map_err(cannot)?;
        rustix::stdio::dup2_stderr(&file).map_err(cannot)?;
        rustix::stdio::dup2_stdout(&file).map_err(cannot)
    }
}
