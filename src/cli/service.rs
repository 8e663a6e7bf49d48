//! A store being served: the threads between a device of the kernel and the tree, as `mount` and
//! `run` both need them.
//!
//! Why four readers, of which the one whose turn it is looks for 20 us before it sleeps: several, so that some can wait for
//! the disk while another answers; in [turns](crate::transport::turns), so that more of them cost nothing. Medians of 5
//! rounds and more on two idle CPUs, each of one run in which all took their turn, against two readers that all sleep
//! in `read(2)`, of which each request wakes one, and that look for 20 us as well:
//!
//! | readers, spin | GETATTR | missing name | READ 4 KiB | open, close | file made | renamed | unlinked |
//! |---|---|---|---|---|---|---|---|
//! | 1, 20 us | 0.91 | 0.96 | 0.71 | 0.90 | 0.86 | 0.84 | 0.81 |
//! | 2, 20 us | 0.78 | 0.94 | 0.85 | 0.66 | 0.97 | 0.95 | 0.75 |
//! | 4, 20 us | 0.88 | 0.82 | 0.95 | 0.73 | 0.84 | 0.84 | 0.62 |
//! | 2, 0 us | 1.32 | 1.27 | 1.07 | 1.30 | 1.32 | 1.24 | 1.10 |
//!
//! | readers, spin | GETATTR, 8 clients | made, 8 | 10 KB saved with fsync, 4 | saved, 8 | 4 KiB from the disk | from the disk, 4 |
//! |---|---|---|---|---|---|---|
//! | 2, 20 us | 1.00 | 0.88 | 0.67 | 0.76 | 0.88 | 1.10 |
//! | 4, 20 us | | | 0.66 | 0.62 | 0.84 | 1.08 |
//! | 8, 20 us | | | 0.77 | 0.59 | | 1.24 |
//!
//! (What is saved travels in its event besides, since the same day: that is most of the difference.) Where other programs have
//! the CPUs, looking is in vain and given up by itself.
//!
//! Between two looks the CPU is given to others, unless those kept it for long the last time. Where the scheduler puts a lone
//! caller on the reader's CPU, as it likes, nothing else lets it come back. Four servers with that and four without in
//! turn, as ratios of geometric means: READ 4 KiB 0.57, missing name 0.72, file made 0.85, unlinked 1.01, open, read and close
//! 1.10, GETATTR 1.22 (7.9 to 17 us, by where the scheduler puts it); with two clients 0.98 to 1.27, with eight 0.94 to 1.06;
//! `tar x` 0.88, `git clone` 0.97, `cargo build` 1.02, `npm ci` 1.04. Beside two or three programs that only compute it is as before.
//!
//! A reader that looks has its caller woken on another CPU; so where callers come back sooner without, it sleeps at once
//! ([`Wait::Spin`]). Against one that always looks, geometric means of four runs with 4 to 8 servers of each: GETATTR 0.88
//! (0.47 to 1.47 in single runs), missing name 0.96, file made 0.69, renamed 0.81, unlinked 0.94, and in CPU time 0.83, 0.87, 0.63,
//! 0.74, 0.93; with two clients 0.90, 0.95, 1.04, 0.93, 1.03; with eight, in one run, 0.99, 1.01, 1.02, 0.87, 1.01; 4 KiB appended
//! and `fsync` 1.03 to 1.06; `tar x` 0.99, `git clone` 1.00, `cargo build` 0.94, `npm ci` 1.02; beside two programs that only
//! compute 0.4 to 1.12.
//!
//! It looks for three times as long where most requests come a little after 20 us, as those of an interpreter do, whose caller is
//! woken on its CPU and then thinks. One server of each build in turn, 13 and 7 rounds of whole commands: a script in Python that makes
//! and reads 2,000 files 0.82 and 0.90, `tar x` 0.87 and 0.90, `grep -r` 0.94 and 1.01, `git clone` 1.01 and 0.99, `git status` and
//! `git log` 0.95 and 1.05, `rm -rf` 1.01 and 1.05. Of callers that do nothing else, five servers of each: GETATTR 0.98, READ 4 KiB 0.96,
//! missing name 0.77, names that are there 1.00; six of each, 13 rounds: file made 1.01, renamed 0.99; with two and eight clients 0.90
//! to 1.08. Looking for 50 us always instead: GETATTR 1.5 to 1.8, missing name 1.4 to 1.8, READ 4 KiB 1.3 of the time with 20 us.
//!
//! Where eight requests in a row were there already when the holder of the turn came for them, another reader helps until it finds
//! none for as long as one looks ([turns](crate::transport::turns)). Against none that helps, four servers of each, 7 rounds in an
//! order drawn anew each time: with two clients GETATTR 0.54, missing name 0.64, READ 4 KiB 0.60, open and close 0.78, names
//! that are there 0.94; with eight 0.93, 0.94, 0.91, 0.94, 0.91. Nobody helps with what changes the tree, one after the other
//! as it is done: where somebody did, eight that made, renamed or removed files took 1.05 to 1.08 of the time, now 1.00 to 1.05,
//! and two 0.99 to 1.04. Nor for a thousand requests after a change: one that writes 4 KiB and syncs them beside eight that ask
//! took 1.6 of the time where somebody helped those in between (0.84 ms for 0.53), waiting for a CPU; now 0.8 to 1.02.
//!
//! Tried and left out: sleeping tried for 64 requests that do not count and 64 that do, after 64 that were looked for, instead of
//! for 32 and given up after 8: GETATTR 0.87 and READ 4 KiB 1.10 of a lone caller, files made by eight 1.14.
//!
//! With two CPUs a reader goes to its caller's, where that asks alone, and the other one is kept from idling
//! ([`Wait::SpinBeside`]). In turn with the build before, five servers of each, 9 rounds: GETATTR 0.48 to 0.92 in three runs, missing
//! name 0.36 to 0.71, READ 4 KiB 0.67 and 1.00, file made 0.78 to 0.90, renamed 0.50 to 0.95, unlinked 0.60, open and close
//! 0.61 to 1.46 (there somebody else than the caller may do something meanwhile, so it is left again); with two clients 0.81 to
//! 1.42, which is as wide as without (`--no-shared-cpu` beside the build before: 0.87 to 1.12), with eight 0.94 to 1.07. One server
//! of each, 5 rounds: `tar x` 0.62, a script in Python 0.74, `rm -rf` 0.65, `git clone` 0.85, `cargo build` and `npm ci` 1.01; in
//! the server's CPU time 0.97, 0.99, 1.26, 0.92, 0.96 and 0.93.
//!
//! The thread that keeps it from idling asks the scheduler to choose anew each time around, and whether its caller is there a
//! reader sees by how long its CPU was away, so that it need not try for 20 ms first. In turn with the build before, one server of
//! each in a session of its own, 9 rounds: missing name 0.54, READ 4 KiB 0.60, open, read and close 0.66, file made 0.81 and
//! 0.56, renamed 0.50, unlinked 0.56, GETATTR 1.24 and 0.82 in two runs; two and eight clients 0.72 to 1.05. In one session,
//! three runs of 7, 11 and 11 rounds: missing name 1.60, 0.55 and 0.63, renamed 1.23, 0.77 and 0.64, unlinked 1.72, 0.51 and 0.51:
//! which of two states the scheduler falls into is chance still. Seven to eleven runs of each in turn: `tar x` 0.68 and
//! 0.72, `git clone` 0.76, `rm -rf` 0.62, `git status` 1.07 and 0.96, a script in sh 1.04 and 1.01.
//!
//! Tried and left out: a reader that follows its caller (`/proc/TID/stat` tells where that runs) and stays on its CPU, with the
//! other one idle. 52 of 53 times the caller was elsewhere again at its next request, and the rows were as without. So they were
//! where what counts was the time from an answer to the next request, and with reads that block (no `O_NONBLOCK`, no poll(2)).

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions};

use crate::agents::Agents;
use crate::agents::guard::{Guard, Sessions};
use crate::agents::policy::{POLICY_MAX, Policy};
use crate::agents::register::Register;
use crate::server::counters::Counters;
use crate::server::serve::{Config, Ended, READERS, SPLICE_FROM, Server};
use crate::transport::dev_fuse::DevFuse;
use crate::transport::device::{self, Peer};
use crate::transport::recording::Recording;
use crate::transport::unmount::{Detach, Mounted, UnmountError};
use crate::transport::uring::{Queues, Uring};
use crate::transport::{Transport, Wait};
use crate::tree::Tree;
use crate::view::{Options, View};

use super::flight::FlightRecorder;
use super::tuning::TuningArgs;
use super::{CliError, flag, output};

/// What a server listens to: the last asks for a record of the last requests.
pub(super) const SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1];

/// Whether `signal` asks a server to stop.
pub(super) fn stops(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::TERM)
}

/// How many hours are listed where all directories are shown.
const SECTIONS_LIST_TIMES: u32 = 24;

/// Where requests come over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Over {
    /// io_uring where the kernel offers it and nobody else holds the device, /dev/fuse elsewhere; the log says which, and why
    Auto,
    /// /dev/fuse
    Dev,
    /// io_uring, or fail
    Uring,
}

/// Where `--help` shows what the mount shows, and who may.
const SHOWN: &str = "What is shown";
const WHO: &str = "Who may";

/// How the kernel is served.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Serving")]
pub(super) struct ServiceArgs {
    /// Where requests come over. io_uring (Linux 6.14, enable_uring of the fuse module set to Y) answers reads and
    /// attributes sooner
    #[arg(long, value_name = "TRANSPORT", value_enum, default_value_t = Over::Auto, env = "LIGHTHOUSE_FUSE_TRANSPORT")]
    transport: Over,
    /// Requests that one CPU's queue of io_uring holds at one time; each may take 1 MiB of memory. By default 4, or fewer
    /// where all together would take more than 32 MiB
    #[arg(long, value_name = "N", env = "LIGHTHOUSE_FUSE_QUEUE_DEPTH",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue_depth: Option<u16>,
    /// Threads that answer requests from /dev/fuse: so many can wait for the disk at one time. io_uring has one for each
    /// CPU
    #[arg(long, value_name = "N", default_value_t = READERS, env = "LIGHTHOUSE_FUSE_READERS",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    readers: u16,
    /// How long the one whose turn it is looks for the next request before it sleeps, in microseconds; costs CPU only while
    /// requests come, and is given up while it is in vain, or while callers come back sooner without; three times as long while
    /// most come a little later
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 20, env = "LIGHTHOUSE_FUSE_SPIN",
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    spin: u32,
    /// Leave it to the scheduler alone on which CPU who asks runs. Without this, on exactly two CPUs, while a single thread asks
    /// again and again and that is answered sooner so, its reader stays on its CPU, and a thread of the least weight keeps the other
    /// one from idling. Over io_uring threads that serve weigh a little more than others, where they may (CAP_SYS_NICE), and on two
    /// CPUs one whose caller was moved to the other keeps its own from idling for a moment. --spin 0 does without as well
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_SHARED_CPU")]
    no_shared_cpu: bool,
    /// Answer reads of so many bytes and more by splice, which copies them once instead of twice; 0: none
    #[arg(long, value_name = "BYTES", default_value_t = SPLICE_FROM, env = "LIGHTHOUSE_FUSE_SPLICE_FROM")]
    splice_from: usize,
    /// How many full hours of the past `history/` lists, beside labels; `serve` lists 24 without it, others none
    #[arg(long, value_name = "N", env = "LIGHTHOUSE_FUSE_LIST_TIMES", help_heading = SHOWN,
          value_parser = clap::value_parser!(u32).range(0..=8784))]
    list_times: Option<u32>,
    /// Show streams/, context/, shadows/ and debug/ too, and list the last 24 full hours below history/, as the Python bridge did
    #[arg(long, env = "LIGHTHOUSE_FUSE_SECTIONS", help_heading = SHOWN, value_parser = flag())]
    sections: bool,
    /// Keep a copy of all that goes to the kernel and back in a new FILE, for `replay`; over /dev/fuse. It holds what
    /// people write
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_FUSE_RECORD", help_heading = "Recording")]
    record: Option<PathBuf>,
    /// Refuse whoever opens, makes or changes something without a session: one that it, or an ancestor, is registered in
    /// (`.agent` of the mount; /session/processes of HTTP), LIGHTHOUSE_SESSION in its environment (under `serve` the token
    /// of a session made over HTTP), or a cgroup that the policy names
    #[arg(long, env = "LIGHTHOUSE_FUSE_REQUIRE_SESSION", help_heading = WHO, value_parser = flag())]
    require_session: bool,
    /// What agents may do where. A line is WHO PATH WORD...: an agent, the beginning of a name and `*`, `*` or `-` (no
    /// agent); a path in the mount, such as /current/src; filesystem_read, filesystem_write, ast_access,
    /// context_access, stream_access, debug_access, or none. The longest path decides. A line `cgroup PATH AGENT` says
    /// who runs there
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_FUSE_POLICY", help_heading = WHO)]
    policy: Option<PathBuf>,
    #[command(flatten)]
    pub(super) tuning: TuningArgs,
}

impl ServiceArgs {
    /// Options that exclude each other; before anything is made.
    ///
    /// # Errors
    ///
    /// Wrong usage.
    pub(super) fn check(&self) -> Result<(), CliError> {
        // A ring's messages never lie in one piece.
        if self.transport == Over::Uring && self.record.is_some() {
            return Err(CliError::usage(
                "--record keeps what goes over /dev/fuse, and --transport uring asks for io_uring: leave out one of them",
            ));
        }
        Ok(())
    }

    /// Who may do what; `None` where everybody may.
    ///
    /// # Errors
    ///
    /// The policy cannot be read, or says something that is not understood.
    pub(super) fn rules(&self) -> Result<Option<Rules>, CliError> {
        let policy = match &self.policy {
            None => Policy::default(),
            Some(file) => {
                let cannot = |why: String| {
                    CliError::new(format!("cannot use the policy {}: {why}", file.display()))
                };
                let opened = std::fs::File::open(file).map_err(|err| cannot(err.to_string()))?;
                let mut text = String::new();
                // A byte more than it may have, to see that it has it.
                let mut bounded = opened.take(POLICY_MAX + 1);
                let len = bounded.read_to_string(&mut text);
                let len = len.map_err(|err| cannot(err.to_string()))? as u64;
                if len > POLICY_MAX {
                    return Err(cannot(format!("it is longer than {POLICY_MAX} bytes")));
                }
                Policy::parse(&text).map_err(|err| cannot(err.to_string()))?
            }
        };
        let require_session = self.require_session;
        let wanted = require_session || !policy.is_empty();
        Ok(wanted.then_some(Rules { require_session, policy }))
    }

    /// How the mount shows itself; with all directories where `sections` says so, or the option does.
    pub(super) fn options(&self, sections: bool) -> Options {
        let sections = sections || self.sections;
        let list_times = if sections { SECTIONS_LIST_TIMES } else { 0 };
        Options {
            caching: self.tuning.caching(),
            list_times: self.list_times.unwrap_or(list_times),
            sections,
            no_open: false,
            no_opendir: true,
            no_birth_times: self.tuning.no_birth_times,
            no_direct_writes: self.tuning.no_direct_writes,
        }
    }

    /// How a reader of `/dev/fuse` waits.
    fn wait(&self) -> Wait {
        let time = Duration::from_micros(self.spin.into());
        match self.spin {
            0 => Wait::Block,
            _ if self.no_shared_cpu => Wait::Spin(time),
            _ => Wait::SpinBeside(time),
        }
    }
}

/// Who may, before it is known where sessions are looked up.
#[derive(Debug)]
pub(super) struct Rules {
    require_session: bool,
    policy: Policy,
}

impl Rules {
    /// Who decides by them.
    pub(super) fn guard(self, sessions: Option<Sessions>) -> Arc<Guard> {
        Arc::new(Guard::new(self.require_session, self.policy, sessions))
    }
}

/// What is to be known of callers, whichever mount they come through.
#[derive(Clone, Debug)]
pub(super) struct Callers {
    /// Decides who may; without it modes alone do.
    pub(super) guard: Option<Arc<Guard>>,
    /// Whom processes work for.
    pub(super) register: Arc<Register>,
}

impl Callers {
    /// Where no session can be looked up.
    pub(super) fn without_sessions(args: &ServiceArgs) -> Result<Self, CliError> {
        let guard = args.rules()?.map(|rules| rules.guard(None));
        Ok(Self { guard, register: Arc::new(Register::new(None)) })
    }
}

/// Who mounted what is served: what else holds the device, and whose numbers processes have in requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mounter {
    /// This process.
    We,
    /// Another one, which may hold the device as well. It counts processes as we do, as far as can be told.
    Another,
    /// Another one, in a process namespace that is not ours: a number in a request would name another process here.
    Elsewhere,
}

impl Mounter {
    /// Whoever is at the other end of `stream`, over which the device came.
    pub(super) fn behind(stream: &UnixStream) -> Self {
        match device::names_our_processes(stream) {
            true => Self::Another,
            false => Self::Elsewhere,
        }
    }
}

/// The queues to serve, or nothing: then requests come over `/dev/fuse`, and the log says why.
fn queues(args: &ServiceArgs, shared: bool, config: &Config) -> io::Result<Option<Queues>> {
    let prepare = || {
        let prepared =
            Queues::prepare(config.connection.data_max(), args.queue_depth.map(usize::from));
        prepared.inspect(|queues| {
            let (cpus, depth) = queues.size();
            tracing::debug!(cpus, depth, "prepared queues of io_uring");
        })
    };
    match args.transport {
        // Only those over /dev/fuse can be recorded.
        Over::Auto if args.record.is_some() => Ok(None),
        Over::Dev => Ok(None),
        Over::Uring => {
            if shared {
                tracing::warn!(
                    "whoever gave us the device may hold it still: if this server is killed, programs wait for its \
                     answers until that process closes the device too"
                );
            }
            prepare().map(Some).map_err(io::Error::other)
        }
        // Its requests are lost with a killed server, and would be waited for as long as the device is held.
        Over::Auto if shared => {
            tracing::info!("no io_uring: whoever gave us the device may hold it still");
            Ok(None)
        }
        Over::Auto => Ok(prepare().map_err(|why| tracing::info!("no io_uring: {why}")).ok()),
    }
}

/// Where what is served is mounted, and so how it ends.
#[derive(Debug)]
pub(super) enum Place {
    /// We mounted it, and unmount it.
    Ours(Mounted),
    /// Somebody else did, and gave us the device; over the stream, if there is one, they hear when it is to end.
    Elsewhere(Option<UnixStream>),
}

/// What a connection left that ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// It was unmounted.
    Nothing,
    /// A dead mount, which is gone now.
    Cleared,
    /// A dead mount.
    Dead,
}

impl Place {
    /// Detaches it, whoever uses it: nobody will serve it.
    pub(super) fn give_up(&self) {
        if let Self::Ours(mounted) = self
            && let Err(err) = mounted.unmount(Detach::Lazily)
        {
            tracing::warn!("{err}");
        }
    }

    /// Detaches what its connection left when it ended, which makes everybody fail who looks at it.
    pub(super) fn clear(&self) -> Left {
        let Self::Ours(mounted) = self else { return Left::Nothing };
        match mounted.unmount(Detach::Lazily) {
            Ok(()) => Left::Cleared,
            Err(UnmountError::NotMounted(_)) => Left::Nothing,
            Err(err) => {
                tracing::warn!("{err}");
                Left::Dead
            }
        }
    }

    /// Tells whoever mounted that it is to end. Whether there is anybody to tell, and so something to wait for.
    pub(super) fn ask_to_unmount(&self) -> bool {
        match self {
            Self::Elsewhere(Some(stream)) => {
                device::peer(stream) != Peer::Gone && stream.shutdown(Shutdown::Write).is_ok()
            }
            Self::Elsewhere(None) | Self::Ours(_) => false,
        }
    }

    /// Where it is, if that is for us to know.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Ours(mounted) => Some(mounted.path()),
            Self::Elsewhere(_) => None,
        }
    }

    /// Once INIT is answered: raises how far the kernel reads ahead, if that is for us to do.
    pub(super) fn raise_read_ahead(&self, kib: u32) {
        if let Self::Ours(mounted) = self
            && let Err(err) = mounted.raise_read_ahead(kib)
        {
            tracing::debug!("read-ahead stays as it is: {err}");
        }
    }
}

/// What became of a service.
#[derive(Debug)]
pub(super) enum Event {
    /// INIT is answered: the mount works.
    Ready,
    /// The connection ended.
    Ended(io::Result<Ended>),
}

/// A service under way.
#[derive(Debug)]
pub(super) struct Service {
    events: Receiver<Event>,
    thread: JoinHandle<()>,
    view: Weak<View>,
    recorder: Option<FlightRecorder>,
    counters: Arc<OnceLock<Arc<Counters>>>,
}

impl Service {
    /// Starts answering `device`, mounted by `mounter`, from `tree`, shown as `options` say, whose other users may go
    /// on changing it.
    pub(super) fn start(
        device: OwnedFd,
        mounter: Mounter,
        tree: Tree,
        callers: Callers,
        options: Options,
        args: &ServiceArgs,
    ) -> io::Result<Self> {
        let store = Arc::clone(tree.store());
        let agents = match callers.guard {
            Some(guard) => Agents::guarded(store, guard),
            None => Agents::new(store),
        };
        let mut agents = agents.registered(callers.register);
        if mounter == Mounter::Elsewhere {
            tracing::warn!(
                "whoever mounted is in another process namespace, or cannot be seen in /proc: the log names no processes, \
                 and no session or agent is known; start both in the same one, containers with `--pid host`"
            );
            agents = agents.without_processes();
        }
        let view = Arc::new(View::new(tree, agents, options));
        let shared_view = Arc::downgrade(&view);
        let watcher: Weak<View> = Weak::clone(&shared_view);
        view.tree().watch(watcher);
        let default = Config::default();
        let mut config = Config {
            readers: usize::from(args.readers),
            splice_from: Some(args.splice_from).filter(|&from| from > 0),
            connection: args.tuning.connection(default.connection),
            ring_only: args.transport == Over::Uring,
        };
        let transport: Box<dyn Transport> = match queues(args, mounter != Mounter::We, &config)? {
            Some(queues) => {
                config.connection.io_uring = true;
                Box::new(Uring::new(device, queues, args.wait())?)
            }
            None => Box::new(DevFuse::new(device, args.wait())?),
        };
        let transport: Box<dyn Transport> = match &args.record {
            Some(file) => Box::new(Recording::new(transport, file).map_err(|err| {
                // Never over an older one: it may be all that is left of what went wrong.
                let mend = match err.kind() {
                    io::ErrorKind::AlreadyExists => "; name a new file, or take this one away",
                    io::ErrorKind::NotFound => "; make its directory first",
                    _ => "",
                };
                let why = format!("cannot record to {}: {err}{mend}", file.display());
                io::Error::new(err.kind(), why)
            })?),
            None => transport,
        };
        let (events, received) = channel();
        let counters: Arc<OnceLock<Arc<Counters>>> = Arc::default();
        let shown = Arc::clone(&counters);
        let thread = thread::Builder::new().name("reader-0".into()).spawn(move || {
            let server = Server::new(&*transport, &view, config);
            _ = shown.set(Arc::clone(server.counters()));
            let ready = events.clone();
            let ended = server.run(move || drop(ready.send(Event::Ready)));
            drop(events.send(Event::Ended(ended)));
        })?;
        Ok(Self { events: received, thread, view: shared_view, recorder: None, counters })
    }

    /// From now on writes what it is at to a file of `store`, when it hangs or is asked to.
    pub(super) fn record_to(&mut self, store: &Path) {
        self.recorder = Some(FlightRecorder::start(Weak::clone(&self.view), store));
    }

    /// Asks for such a record.
    pub(super) fn record(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.ask();
        }
    }

    /// What the kernel asked for so far, once the server has begun.
    pub(super) fn counters(&self) -> Arc<OnceLock<Arc<Counters>>> {
        Arc::clone(&self.counters)
    }

    /// What is served, while it is.
    pub(super) fn view(&self) -> Weak<View> {
        Weak::clone(&self.view)
    }

    /// What happened since the last call; waits at most `timeout`.
    pub(super) fn next(&self, timeout: Duration) -> Option<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            // The thread ended without a word: it panicked outside a handler.
            Err(RecvTimeoutError::Disconnected) => {
                Some(Event::Ended(Err(io::Error::other("the server's main thread failed"))))
            }
        }
    }

    /// Waits up to `timeout` for the connection to end. Whether it did.
    pub(super) fn join(self, timeout: Duration) -> bool {
        let started = Instant::now();
        while let Some(left) = timeout.checked_sub(started.elapsed()) {
            match self.next(left) {
                Some(Event::Ended(_)) => return self.thread.join().is_ok(),
                Some(Event::Ready) => (),
                None => break,
            }
        }
        false
    }
}

/// Users of a mount being given time to leave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Since when.
    pub(super) since: Instant,
    /// How long they have.
    pub(super) patience: Duration,
    /// It is not to be waited for them any more.
    pub(super) again: bool,
    /// Nobody wants to hear who stays.
    pub(super) quiet: bool,
}

impl Leaving {
    /// Unmounts `mounted` if nobody uses it any more and nothing is mounted on top, or if their time is up. Returns how long its server
    /// then has to end; `None` if the mount is still there.
    pub(super) fn unmount(
        self,
        mounted: &Mounted,
        said_busy: &mut bool,
    ) -> Result<Option<Duration>, CliError> {
        let late = self.again || self.since.elapsed() >= self.patience;
        match mounted.unmount(if late { Detach::Lazily } else { Detach::WhenUnused }) {
            // Whoever still has files open after a lazy detach loses them when we end.
            Ok(()) => Ok(Some(if late { Duration::from_millis(200) } else { self.patience })),
            Err(UnmountError::NotMounted(_)) => Ok(Some(Duration::from_secs(1))),
            Err(err @ (UnmountError::Busy { .. } | UnmountError::Covered(_))) if !late => {
                if !std::mem::replace(said_busy, true) && !self.quiet {
                    output::say(format_args!("waiting up to {} s: {err}", self.patience.as_secs()));
                }
                Ok(None)
            }
            Err(err) => Err(CliError::new(err.to_string())),
        }
    }
}

/// Takes in children that were left to us, if this is process 1 of a container: nobody else would.
pub(super) fn reap() {
    if std::process::id() == 1 {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// An absolute form of STORE, without symbolic links: mounts show it as their source, and are found by it. What of it does
/// not exist yet is as it was given, so that it is the same once it does.
pub(super) fn absolute(store: &Path) -> Result<PathBuf, CliError> {
    let path = std::path::absolute(store)
        .map_err(|err| CliError::new(format!("cannot find STORE {}: {err}", store.display())))?;
    let found = path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        there.canonicalize().ok().map(|mut real| {
            real.extend(rest);
            real
        })
    });
    Ok(found.unwrap_or(path))
}
