//! What all requests share: the tree once it is there, sessions, and how far the start is.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dav_server::ls::DavLockSystem;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

use crate::agents::guard::Guard;
use crate::agents::register::Register;
use crate::legacy::context::Packages;
use crate::tree::Tree;

use super::Config;
use super::acting::Acting;
use super::look::TURNS_MAX;
use super::problem::Problem;
use super::session::{Secret, Session, Sessions};
use super::upstream::Passing;

/// How far the start is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The store is being opened.
    Opening,
    /// What was there before is taken over: what, and how much of how much.
    Importing {
        /// From where.
        what: String,
        /// How much is done.
        done: u64,
        /// Of how much; 0 where that is not known.
        total: u64,
    },
    /// The tree is there.
    Serving,
    /// It will never be; why, and the mend.
    Failed(String),
}

/// What became of the mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mount {
    /// Not tried yet.
    Pending,
    /// It works.
    Up,
    /// Nobody wants one.
    Off,
    /// There is none; why, and the mend.
    Down(String),
}

/// What the mount was asked for.
#[derive(Clone, Debug, Default)]
pub struct FuseCounts {
    /// Requests by operation.
    pub requests: Vec<(&'static str, u64)>,
    /// How long those took that are answered, by operation.
    pub took: Vec<(&'static str, Took)>,
    /// Answered with an errno.
    pub refused: u64,
    /// Dropped, or refused before anybody was asked.
    pub malformed: u64,
    /// Handlers that panicked.
    pub panics: u64,
}

/// How long the requests of one operation took, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub total_ns: u64,
    /// Half of them, 99 and 99.9 of a hundred took no longer.
    pub within_ns: [u64; 3],
}

/// Asks the mount for its counts; `None` where there is none.
pub type AskCounts = Box<dyn Fn() -> Option<FuseCounts> + Send + Sync>;

/// Counts of HTTP.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Answers by the first digit of their status.
    pub(crate) answers: [AtomicU64; 6],
    pub(crate) connections: AtomicU64,
    pub(crate) connections_open: AtomicU64,
    pub(crate) streams_open: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) panics: AtomicU64,
}

impl Counts {
    pub(crate) fn answered(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Shared by all requests.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    /// To another server, if one is named.
    pub(super) passing: Option<Passing>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) stage: RwLock<Stage>,
    pub(crate) mount: RwLock<Mount>,
    pub(crate) tree: OnceLock<Tree>,
    /// Kept, so that a request reads only what came since the one before it.
    packages: OnceLock<Packages>,
    pub(crate) ask_counts: OnceLock<AskCounts>,
    pub(crate) guard: OnceLock<Arc<Guard>>,
    pub(crate) register: OnceLock<Arc<Register>>,
    pub(crate) counts: Counts,
    pub(crate) started: Instant,
    pub(crate) replacing: Arc<Mutex<()>>,
    /// Of WebDAV clients.
    pub(crate) locks: Box<dyn DavLockSystem>,
    /// Becomes true when no more requests are taken.
    pub(crate) stopping: watch::Sender<bool>,
    /// Says that the log went on, which is looked at now and then while somebody follows.
    pub(crate) more: watch::Sender<()>,
    /// Of those who look through the log.
    pub(super) turns: Arc<Semaphore>,
}

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stage", &*self.stage.read()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(config: Config, secret: Secret, passing: Option<Passing>) -> Self {
        Self(Arc::new(Inner {
            config,
            passing,
            sessions: Mutex::new(Sessions::new(secret)),
            stage: RwLock::new(Stage::Opening),
            mount: RwLock::new(Mount::Pending),
            tree: OnceLock::new(),
            packages: OnceLock::new(),
            ask_counts: OnceLock::new(),
            guard: OnceLock::new(),
            register: OnceLock::new(),
            counts: Counts::default(),
            started: Instant::now(),
            replacing: Arc::default(),
            locks: super::dav::locks(),
            stopping: watch::Sender::new(false),
            more: watch::Sender::new(()),
            turns: Arc::new(Semaphore::new(TURNS_MAX)),
        }))
    }

    /// Returns when no more requests are taken.
    pub(crate) async fn stops(&self) {
        // The sender is here as well, so it cannot be gone.
        let _ = self.stopping.subscribe().wait_for(|&stopping| stopping).await;
    }

    /// The tree, or how far it is from being there.
    pub(crate) fn tree(&self) -> Result<&Tree, Problem> {
        let stage = self.stage.read();
        match (&*stage, self.tree.get()) {
            (Stage::Serving, Some(tree)) => Ok(tree),
            (stage, _) => Err(Problem::unavailable(words(stage))),
        }
    }

    /// The context packages of `tree`, which is the one there is.
    pub(crate) fn packages(&self, tree: &Tree) -> &Packages {
        self.packages.get_or_init(|| Packages::new(tree))
    }

    pub(crate) fn acting(&self, session: &Session) -> Result<Acting, Problem> {
        let guard = self.guard.get().cloned();
        Acting::new(self.tree()?, session, self.config.act_as, &self.replacing, guard)
    }
}

/// A stage in words.
pub(crate) fn words(stage: &Stage) -> String {
    match stage {
        Stage::Opening => "the store is being opened".to_owned(),
        Stage::Importing { what, done, total } if *total > 0 => {
            format!("importing {what}: {done} of {total}, {}%", done.saturating_mul(100) / total)
        }
        Stage::Importing { what, done, .. } => format!("importing {what}: {done} so far"),
        Stage::Serving => "serving".to_owned(),
        Stage::Failed(why) => why.clone(),
    }
}

/// Since 1970.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
