//! A store being served: the threads between a device of the kernel and the tree, as `mount` and
//! `run` both need them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::agents::Agents;
use crate::proto::connection;
use crate::server::serve::{Config, Ended, Server};
use crate::store::Store;
use crate::transport::dev_fuse::{DevFuse, Wait};
use crate::tree::Tree;
use crate::view::{Options, View};

use super::{CliError, flag};

/// How many hours are listed where all directories are shown.
const SECTIONS_LIST_TIMES: u32 = 24;

/// How the kernel is served.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Serving")]
pub(super) struct ServiceArgs {
    /// Threads that read requests
    #[arg(long, value_name = "N", default_value_t = 2, env = "LIGHTHOUSE_FUSE_READERS",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    readers: u16,
    /// How long a reader looks for the next request before it sleeps, in microseconds; costs CPU only while requests come
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 20, env = "LIGHTHOUSE_FUSE_SPIN",
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    spin: u32,
    /// How long the kernel may keep names and attributes without asking again, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 86_400,
        env = "LIGHTHOUSE_FUSE_LIFETIME"
    )]
    lifetime: u32,
    /// How many full hours of the past `history/` lists, beside labels
    #[arg(long, value_name = "N", default_value_t = 0, env = "LIGHTHOUSE_FUSE_LIST_TIMES",
          value_parser = clap::value_parser!(u32).range(0..=8784))]
    list_times: u32,
    /// Show streams/, context/, shadows/ and debug/ too, and list the last 24 full hours below history/, as the Python bridge did
    #[arg(long, env = "LIGHTHOUSE_FUSE_SECTIONS", value_parser = flag())]
    pub(super) sections: bool,
    /// How far the kernel reads ahead, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 1024, env = "LIGHTHOUSE_FUSE_READ_AHEAD",
          value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(super) read_ahead: u32,
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
}

impl Service {
    /// Starts answering `device` from `store`.
    pub(super) fn start(
        device: OwnedFd,
        store: Arc<Store>,
        args: &ServiceArgs,
    ) -> io::Result<Self> {
        let wait = match args.spin {
            0 => Wait::Block,
            spin => Wait::Spin(Duration::from_micros(spin.into())),
        };
        let transport = DevFuse::new(device, wait)?;
        let agents = Agents::new(Arc::clone(&store));
        let options = Options {
            lifetime: Duration::from_secs(args.lifetime.into()),
            list_times: args.list_times.max(if args.sections { SECTIONS_LIST_TIMES } else { 0 }),
            sections: args.sections,
        };
        let view = View::new(Tree::new(store), agents, options);
        let default = Config::default();
        let config = Config {
            readers: usize::from(args.readers),
            connection: connection::Config {
                max_readahead: args.read_ahead.saturating_mul(1024),
                ..default.connection
            },
        };
        let (events, received) = channel();
        let thread = thread::Builder::new().name("reader-0".into()).spawn(move || {
            let server = Server::new(&transport, &view, config);
            let ready = events.clone();
            let ended = server.run(move || drop(ready.send(Event::Ready)));
            drop(events.send(Event::Ended(ended)));
        })?;
        Ok(Self { events: received, thread })
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
        let started = std::time::Instant::now();
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

/// An absolute form of STORE: mounts show it as their source, and are found by it.
pub(super) fn absolute(store: &Path) -> Result<std::path::PathBuf, CliError> {
    store
        .canonicalize()
        .or_else(|_| std::path::absolute(store))
        .map_err(|err| CliError::new(format!("cannot find STORE {}: {err}", store.display())))
}
