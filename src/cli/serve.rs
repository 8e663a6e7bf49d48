//! `serve`: the container's entry: HTTP at once, the store, what was there before ([`first_start`](super::first_start)),
//! the mount.
//!
//! ```text
//!  bind HTTP -> open or make the store -> first start: import -> mount -> wait -> stop
//!     |                                        |                   |
//!     +-- /health: how far it is --------------+                   +-- fails: HTTP alone, one line says why
//!
//!  stop: no more requests, those under way have 3 s -> unmount, users have 5 s -> close the store -> 0
//! ```
//!
//! As process 1 of a container it also takes in children that nobody waits for.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::agents::guard::Sessions;
use crate::agents::register::Register;
use crate::api::{self, FuseCounts, Mount, Running, Secret, Stage, Took, Upstream};
use crate::legacy::import as legacy;
use crate::proto::op;
use crate::server::counters::Counters;
use crate::sys::process;
use crate::sys::signals::Signals;
use crate::transport::device::HandedOver;
use crate::transport::fusermount;
use crate::transport::mount::{self, MountError, MountOptions, Mountpoint, Owner};
use crate::transport::unmount::Detach;
use crate::tree::Tree;
use crate::view::View;

use super::first_start::Before;
use super::service::{self, Callers, Event, Leaving, Mounter, Place, Service, ServiceArgs};
use super::{CliError, bridge, flag, output, store};

/// How long requests under way have after SIGTERM.
const HTTP_PATIENCE: Duration = Duration::from_secs(3);
/// How long users of the mount have then. Together with the other less than the ten seconds that containers
/// are given to stop.
const MOUNT_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked around.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// How often whoever is to hand over a mount is asked, and how long each answer may take. Little, for nobody hears signals
/// meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Longest secret, in bytes.
const SECRET_MAX: u64 = 64 << 10;

/// Serve a project over HTTP and as a filesystem, as the Python bridge did
///
/// This is the container's entry. Reads the bridge's variables. Without a usable /dev/fuse HTTP is served alone,
/// and /health says so. Secrets are read from the variables LIGHTHOUSE_SESSION_KEY and LIGHTHOUSE_AUTH_SECRET, or from files.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Address to listen on; anything but this machine's own needs a session key, or --open-sessions
    #[arg(long, default_value = "127.0.0.1", env = "LIGHTHOUSE_HOST")]
    host: String,
    /// Port to listen on; 0 is any that is free
    #[arg(long, default_value_t = 8765, env = "LIGHTHOUSE_PORT")]
    port: u16,
    /// Where events are kept: the store is made in this directory, as `store`
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/var/lib/lighthouse/events",
        env = "LIGHTHOUSE_EVENT_STORE_PATH"
    )]
    event_store_path: PathBuf,
    /// Where to mount
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/mnt/lighthouse/project",
        env = "LIGHTHOUSE_MOUNT_POINT"
    )]
    mount_point: PathBuf,
    /// What a new store begins with, if it is there; never written to
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/project",
        env = "LIGHTHOUSE_PROJECT_PATH"
    )]
    project_path: PathBuf,
    /// File with a secret under which a Python bridge signed its log, beside the one in LIGHTHOUSE_EVENT_SECRET; may be given several times
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_EVENT_SECRET_FILE")]
    event_secret_file: Vec<PathBuf>,
    /// Take records of that log that no secret vouches for too; `log` shows them as unverified
    #[arg(long, env = "LIGHTHOUSE_IMPORT_UNVERIFIED", value_parser = flag())]
    import_unverified: bool,
    /// Do not mount
    #[arg(long, env = "LIGHTHOUSE_DISABLE_FUSE", value_parser = flag())]
    disable_fuse: bool,
    /// Take the mounted device from `lighthouse-fuse hand-over`, over this unix socket, and mount nothing
    #[arg(long, value_name = "SOCKET", env = "LIGHTHOUSE_FD_SOCKET")]
    fd_socket: Option<PathBuf>,
    /// Let anybody who reaches the address have a session
    #[arg(long, env = "LIGHTHOUSE_OPEN_SESSIONS", value_parser = flag())]
    open_sessions: bool,
    /// File with the key to show for a session
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_SESSION_KEY_FILE")]
    session_key_file: Option<PathBuf>,
    /// File with the secret that tokens are made under; without it, a random one for each start
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_AUTH_SECRET_FILE")]
    auth_secret_file: Option<PathBuf>,
    /// Server to ask what belongs to other parts of Lighthouse (/validate, /expert/, /task/, /collaboration/,
    /// /elicitation/), as http://HOST:PORT and perhaps a path to put before theirs; without one that is answered with 501
    #[arg(long, value_name = "URL", env = "LIGHTHOUSE_UPSTREAM_URL")]
    upstream_url: Option<String>,
    /// User whose rights requests over HTTP have in the tree; without it, the owner of the tree
    #[arg(long, value_name = "UID", env = "LIGHTHOUSE_HTTP_UID", requires = "http_gid")]
    http_uid: Option<u32>,
    /// Group whose rights they have
    #[arg(long, value_name = "GID", env = "LIGHTHOUSE_HTTP_GID", requires = "http_uid")]
    http_gid: Option<u32>,
    /// Longest file that may be sent over HTTP
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = store::parse_size, env = "LIGHTHOUSE_UPLOAD_MAX")]
    upload_max: u64,
    /// HTTP connections at a time; more wait
    #[arg(long, value_name = "N", default_value_t = 256, env = "LIGHTHOUSE_CONNECTIONS",
          value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How long a client has to send its headers, and to go on with a body, in seconds; and an upstream to go on with its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "LIGHTHOUSE_PATIENCE",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    patience: u32,
    #[command(flatten)]
    store_args: store::OpenArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

impl ServeArgs {
    /// Where to ask for a mount, if somebody else makes it.
    fn lender(&self) -> Option<&Path> {
        self.fd_socket.as_deref().filter(|_| !self.disable_fuse)
    }
}

pub(super) fn run(args: &ServeArgs, quiet: bool) -> Result<ExitCode, CliError> {
    args.service.check()?;
    // Before any thread starts, so that all of them leave these to us.
    let signals = Signals::block(&service::SIGNALS)
        .map_err(|err| CliError::new(format!("cannot wait for signals: {err}")))?;
    gain_no_privileges(args);
    let config = config(args)?;
    let address = address(args, config.session_key.is_some())?;
    if config.upstream.as_ref().is_some_and(|upstream| upstream.is(address)) {
        return Err(CliError::usage(format!(
            "LIGHTHOUSE_UPSTREAM_URL names this server itself, at {address}; name the one that is to be asked, or none"
        )));
    }
    // Before anything is made: a policy that is not understood lets nobody in.
    let rules = args.service.rules()?;
    let source = prepare(&args.event_store_path)?;
    let running = api::start(address, config)
        .map_err(|err| CliError::new(format!("cannot listen on {address}: {err}")))?;
    if !quiet {
        output::say(format_args!("listening on http://{}", running.address()));
    }
    let sessions = || -> Sessions {
        let teller = running.teller();
        Box::new(move |token| teller.agent_of(token))
    };
    let guard = rules.map(|rules| rules.guard(Some(sessions())));
    if let Some(guard) = &guard {
        running.teller().guards(Arc::clone(guard));
    }
    let register = Arc::new(Register::new(Some(sessions())));
    running.teller().registers(Arc::clone(&register));
    let callers = Callers { guard, register };
    let serving = Serving { args, source, running, callers, signals: None, quiet };
    serving.run(signals)
}

/// A server from when it listens.
struct Serving<'a> {
    args: &'a ServeArgs,
    source: PathBuf,
    running: Running,
    callers: Callers,
    signals: Option<Signals>,
    quiet: bool,
}

impl Serving<'_> {
    fn run(mut self, signals: Signals) -> Result<ExitCode, CliError> {
        let teller = self.running.teller();
        let site = self.site();
        let owner = self.owner(&site);
        let options = legacy::Options {
            secrets: bridge::secrets(
                &self.args.event_secret_file,
                std::env::var_os(bridge::SECRET).as_deref(),
            )?,
            unverified: self.args.import_unverified,
            aggregate: None,
            uid: owner.uid,
            gid: owner.gid,
        };
        let (events, project) = (&self.args.event_store_path, &self.args.project_path);
        let before = Before::find(events, project, &self.source, options)?;
        let since = before.first_time();
        let opened = store::open_or_begin(&self.source, &self.args.store_args, owner, false, since);
        let opened = opened.inspect_err(|err| teller.stage(Stage::Failed(err.to_string())))?;
        let tree = Tree::new(Arc::clone(&opened));
        let stop = store::Stop::new(signals);
        if before.is_to_be_taken_over() {
            before.take_over(&tree, &teller, &stop, self.quiet);
        }
        let (signals, asked) = stop.into_signals();
        self.signals = Some(signals);
        let mut served = Ok(());
        if !asked {
            served = self.serve(&tree, site);
        } else if !self.running.stop(HTTP_PATIENCE) {
            tracing::warn!("some requests were cut off");
        }
        drop(tree);
        // Whatever became of the mount, what is in the store is safe from here on.
        let closed = store::close(&opened);
        served.and(closed)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The mount point, held on to; `None` where none is wanted.
    fn site(&self) -> Option<Result<Mountpoint, MountError>> {
        if self.args.disable_fuse || self.args.lender().is_some() {
            return None;
        }
        let at = &self.args.mount_point;
        // What the Python bridge left there would otherwise keep us out.
        let leftovers = is_left_behind(at);
        Some(mount::check(at, &self.source, leftovers).and_then(mount::Site::prepare))
    }

    /// Whom a new tree belongs to: who owns the project, else the mount point, else we.
    fn owner(&self, site: &Option<Result<Mountpoint, MountError>>) -> Owner {
        if let Ok(meta) = std::fs::metadata(&self.args.project_path) {
            return Owner { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 };
        }
        match site {
            Some(Ok(point)) => point.owner(),
            _ => Owner {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                mode: 0o755,
            },
        }
    }

    /// Serves `tree` until a signal asks to stop.
    fn serve(
        self,
        tree: &Tree,
        site: Option<Result<Mountpoint, MountError>>,
    ) -> Result<(), CliError> {
        let teller = self.running.teller();
        let mut attached = match site {
            None if self.args.lender().is_none() => {
                teller.mount(Mount::Off);
                None
            }
            None => None,
            Some(site) => match site.and_then(|point| self.mount(point, tree)) {
                Ok(attached) => Some(attached),
                Err(err) => {
                    tracing::warn!("no mount, HTTP alone: {err}");
                    teller.mount(Mount::Down(format!("no mount: {err}")));
                    None
                }
            },
        };
        if attached.is_none() {
            // The mount ends what an earlier one left open; without one nobody else does.
            match tree.end_orphans() {
                Ok(0) | Err(crate::tree::Refusal::ReadOnly(_)) => (),
                Ok(ended) => tracing::info!(ended, "ended files without a name"),
                Err(err) => tracing::warn!("files without a name stay: {err}"),
            }
        }
        let mut counted = Counted::new(&teller);
        counted.now(attached.as_ref());
        teller.serves(tree.clone());
        let mut lender = self.args.lender().map(Lender::new);
        loop {
            if attached.is_none()
                && let Some(lender) = &mut lender
            {
                match lender.ask() {
                    Some(Ok(HandedOver { device, stream })) => {
                        let mounter = Mounter::behind(&stream);
                        let place = Place::Elsewhere(Some(stream));
                        match self.start(device, mounter, tree) {
                            Ok(service) => attached = Some(Attached { place, service }),
                            Err(err) => tracing::warn!("cannot serve the device: {err}"),
                        }
                        counted.now(attached.as_ref());
                    }
                    Some(Err(why)) => teller.mount(Mount::Down(format!("no mount: {why}"))),
                    None => (),
                }
            }
            match attached.as_ref().and_then(|attached| attached.service.next(TRY_EVERY)) {
                Some(Event::Ready) => {
                    if let Some(Attached { place, .. }) = &attached {
                        place.raise_read_ahead(self.args.service.tuning.read_ahead);
                        self.say_where(place);
                    }
                    teller.mount(Mount::Up);
                }
                Some(Event::Ended(ended)) => {
                    let why = match ended {
                        Ok(_) => "it was unmounted or aborted".to_owned(),
                        Err(err) => format!("serving it failed: {err}"),
                    };
                    let mend = if lender.is_some() { "waiting for another" } else { "start again" };
                    let why = format!("the mount is gone: {why}; {mend}");
                    tracing::warn!("{why}");
                    teller.mount(Mount::Down(why));
                    if let Some(Attached { place: Place::Ours(mounted), .. }) = attached.take() {
                        // What is left of it would make everybody who looks at it fail.
                        let _ = mounted.unmount(Detach::Lazily);
                    }
                }
                None => (),
            }
            service::reap();
            // Without a mount nothing else takes its time.
            let wait = if attached.is_some() { Duration::ZERO } else { TRY_EVERY };
            let signals = self.signals.as_ref();
            let arrival = signals.and_then(|signals| signals.next(Some(wait)).unwrap_or_default());
            match arrival {
                Some(arrival) if service::stops(arrival.signal) => break,
                Some(arrival) if arrival.signal == Signal::USR1 => {
                    attached.iter().for_each(|attached| attached.service.record());
                }
                Some(_) | None => (),
            }
        }
        self.stop(attached)
    }

    fn say_where(&self, place: &Place) {
        if self.quiet {
            return;
        }
        let store = self.source.display();
        match place.path() {
            Some(path) => output::say(format_args!("serving {store} at {}", path.display())),
            None => output::say(format_args!("serving {store} where it was mounted for us")),
        }
    }

    fn stop(self, attached: Option<Attached>) -> Result<(), CliError> {
        let Self { running, signals, quiet, .. } = self;
        if !running.stop(HTTP_PATIENCE) {
            tracing::warn!("some requests were cut off");
        }
        let Some(Attached { place, service }) = attached else { return Ok(()) };
        let Place::Ours(mounted) = place else {
            // Whoever mounted it gives its users time to leave.
            if place.ask_to_unmount() {
                service.join(MOUNT_PATIENCE);
            }
            return Ok(());
        };
        let since = Instant::now();
        let (mut again, mut said_busy) = (false, false);
        loop {
            let leaving = Leaving { since, patience: MOUNT_PATIENCE, again, quiet };
            if let Some(patience) = leaving.unmount(&mounted, &mut said_busy)? {
                service.join(patience);
                return Ok(());
            }
            let arrival = signals.as_ref().map(|signals| signals.next(Some(TRY_EVERY)));
            again |= matches!(arrival, Some(Ok(Some(arrival))) if service::stops(arrival.signal));
        }
    }

    fn start(&self, device: OwnedFd, mounter: Mounter, tree: &Tree) -> io::Result<Service> {
        let (tree, callers, args) = (tree.clone(), self.callers.clone(), &self.args.service);
        let mut service = Service::start(device, mounter, tree, callers, args.options(true), args)?;
        service.record_to(&self.source);
        Ok(service)
    }

    fn mount(&self, point: Mountpoint, tree: &Tree) -> Result<Attached, MountError> {
        let path = point.path().to_owned();
        let (device, mounted) = point.mount(&MountOptions::new(self.source.clone()))?;
        let place = Place::Ours(mounted);
        match self.start(device, Mounter::We, tree) {
            Ok(service) => Ok(Attached { place, service }),
            Err(error) => {
                place.give_up();
                Err(MountError::Io { doing: "serve", path, error })
            }
        }
    }
}

/// A mount that is served.
struct Attached {
    place: Place,
    service: Service,
}

/// What HTTP tells of the requests to the mount, whichever is served.
struct Counted(Arc<Mutex<Option<Begun>>>);

/// A mount that is served.
struct Begun {
    /// Once its server has begun.
    counters: Arc<OnceLock<Arc<Counters>>>,
    view: Weak<View>,
}

impl Counted {
    fn new(teller: &api::Teller) -> Self {
        let served: Arc<Mutex<Option<Begun>>> = Arc::default();
        let shown = Arc::clone(&served);
        teller.counts(Box::new(move || {
            let served = shown.lock();
            let Begun { counters, view } = served.as_ref()?;
            let counters = counters.get()?;
            let measured = view.upgrade()?.meter().snapshot(|_| String::new());
            let took = measured.operations.iter().map(|(opcode, summary)| {
                let within_ns = [50.0, 99.0, 99.9].map(|percent| summary.within_ns(percent));
                let (count, total_ns) = (summary.count(), summary.total_ns());
                (op::name(*opcode), Took { count, total_ns, within_ns })
            });
            Some(FuseCounts {
                requests: counters.by_operation().collect(),
                took: took.collect(),
                refused: counters.refusals(),
                malformed: counters.malformations(),
                panics: counters.panics(),
            })
        }));
        Self(served)
    }

    fn now(&mut self, attached: Option<&Attached>) {
        *self.0.lock() = attached.map(|Attached { service, .. }| Begun {
            counters: service.counters(),
            view: service.view(),
        });
    }
}

/// Whoever mounts for us, and is asked until it does.
struct Lender<'a> {
    socket: &'a Path,
    asked: Option<Instant>,
    /// What it said last, which is logged once.
    said: String,
}

impl<'a> Lender<'a> {
    fn new(socket: &'a Path) -> Self {
        Self { socket, asked: None, said: String::new() }
    }

    /// Asks, if it is time to.
    fn ask(&mut self) -> Option<Result<HandedOver, String>> {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return None;
        }
        let answer = HandedOver::take(self.socket, ANSWERS_WITHIN);
        self.asked = Some(Instant::now());
        Some(match answer {
            Ok(handed_over) => {
                self.said.clear();
                Ok(handed_over)
            }
            Err(err) => {
                let why = format!(
                    "{err}; start `lighthouse-fuse hand-over` there: it is asked for again and again"
                );
                if self.said != why {
                    tracing::warn!("no mount, HTTP alone: {why}");
                    self.said.clone_from(&why);
                }
                Err(why)
            }
        })
    }
}

/// Makes sure that neither we nor what we start gains rights from here on, unless only the set-user-id program can
/// mount for us. Before any thread starts, so that it holds for all; the capability to mount is permitted already.
fn gain_no_privileges(args: &ServeArgs) {
    let mounts = !args.disable_fuse && args.lender().is_none();
    let helped = mounts
        && !process::may_raise_mount_capability().unwrap_or(false)
        && fusermount::find().is_some();
    if !helped && let Err(err) = process::gain_no_privileges() {
        tracing::warn!("programs may gain rights: {err}");
    }
}

fn config(args: &ServeArgs) -> Result<api::Config, CliError> {
    Ok(api::Config {
        session_key: secret("LIGHTHOUSE_SESSION_KEY", args.session_key_file.as_deref())?,
        token_secret: secret("LIGHTHOUSE_AUTH_SECRET", args.auth_secret_file.as_deref())?,
        act_as: args.http_uid.zip(args.http_gid),
        upstream: upstream(args.upstream_url.as_deref())?,
        upload_max: args.upload_max,
        connections_max: usize::from(args.connections),
        patience: Duration::from_secs(args.patience.into()),
    })
}

/// Whom to ask what is not ours; an empty URL names nobody.
fn upstream(url: Option<&str>) -> Result<Option<Upstream>, CliError> {
    let url = url.map(str::trim).filter(|url| !url.is_empty());
    // Without the URL: there might be a password in it.
    let wrong = |why: String| CliError::usage(format!("LIGHTHOUSE_UPSTREAM_URL: {why}"));
    url.map(str::parse).transpose().map_err(wrong)
}

/// A secret from `file`, else from a variable; an empty one is none.
fn secret(variable: &str, file: Option<&Path>) -> Result<Option<Secret>, CliError> {
    let bytes = match file {
        Some(file) => {
            let cannot = |why: String| {
                CliError::new(format!("cannot read a secret from {}: {why}", file.display()))
            };
            let len = std::fs::metadata(file).map_err(|err| cannot(err.to_string()))?.len();
            if len > SECRET_MAX {
                return Err(cannot(format!("it is longer than {SECRET_MAX} bytes")));
            }
            std::fs::read(file).map_err(|err| cannot(err.to_string()))?
        }
        None => std::env::var_os(variable).unwrap_or_default().into_encoded_bytes(),
    };
    let bytes = bytes.trim_ascii().to_vec();
    if bytes.is_empty() && file.is_some() {
        return Err(CliError::new(format!(
            "the file for {variable} is empty; put the secret into it"
        )));
    }
    Ok((!bytes.is_empty()).then(|| Secret::new(bytes)))
}

/// Where to listen. Beyond this machine not everybody may have a session, unless somebody says so.
fn address(args: &ServeArgs, has_key: bool) -> Result<SocketAddr, CliError> {
    let wrong = |why: String| CliError::new(format!("cannot listen on {}: {why}", args.host));
    let address = match args.host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, args.port),
        Err(_) => (args.host.as_str(), args.port)
            .to_socket_addrs()
            .map_err(|err| wrong(err.to_string()))?
            .next()
            .ok_or_else(|| wrong("the name has no address".to_owned()))?,
    };
    if !address.ip().is_loopback() && !has_key && !args.open_sessions {
        return Err(wrong(
            "others reach it, and anybody could have a session; set LIGHTHOUSE_SESSION_KEY, or \
             LIGHTHOUSE_OPEN_SESSIONS=1 where only those reach it who may"
                .to_owned(),
        ));
    }
    Ok(address)
}

/// Makes the directory for events, and gives the store's.
fn prepare(events: &Path) -> Result<PathBuf, CliError> {
    std::fs::create_dir_all(events).map_err(|err| {
        CliError::new(format!(
            "cannot make {} for the store: {err}; mount a volume there that user {} may write to",
            events.display(),
            rustix::process::geteuid().as_raw()
        ))
    })?;
    service::absolute(&events.join("store"))
}

/// Whether all that is in the directory at `path` are FIFOs and directories without files, as the Python bridge left
/// them below its mount point.
fn is_left_behind(path: &Path) -> bool {
    /// Names in a directory, and directories in each other, that are looked at.
    const NAMES_MAX: usize = 64;
    const DEPTH_MAX: usize = 4;
    fn only(path: &Path, depth: usize) -> bool {
        let Ok(entries) = std::fs::read_dir(path) else { return false };
        depth <= DEPTH_MAX
            && entries.take(NAMES_MAX + 1).enumerate().all(|(count, entry)| {
                let Ok(entry) = entry else { return false };
                let Ok(kind) = entry.file_type() else { return false };
                count < NAMES_MAX
                    && (kind.is_fifo() || kind.is_dir() && only(&entry.path(), depth + 1))
            })
    }
    const LEFT: [&str; 2] = ["streams", "experts"];
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    let mut names = entries.take(LEFT.len() + 1).filter_map(Result::ok);
    let known = |entry: std::fs::DirEntry| {
        LEFT.iter().any(|name| entry.file_name() == *name) && only(&entry.path(), 0)
    };
    names.next().is_some_and(known) && names.all(known)
}
