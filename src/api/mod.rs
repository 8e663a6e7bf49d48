//! HTTP: what the Python bridge answered, and the tree and its events besides.
//!
//! ```text
//!  serve.rs      connections, their limits, the end          (hyper on tokio)
//!     +--> malformed.rs what hyper refuses by itself, said as we say it
//!     +--> drain.rs     what a client still sends once it is refused
//!  routes.rs     one table: path, method, who may, what is answered, in words
//!     |             +--> openapi.rs    the same table as an OpenAPI description
//!     +--> bridge.rs   health, status, sessions, event store and query
//!     +--> processes.rs  processes that work for a session
//!     +--> events.rs   events by sequence and time, and as they come
//!     |      +--> look.rs  the log looked through, in turns
//!     +--> files.rs    the tree: GET, PUT, DELETE
//!     +--> dav/        the tree for WebDAV
//!     +--> metrics.rs  live counters
//!     +--> upstream.rs what belongs elsewhere, passed on
//!  staging.rs    uploads on their way
//!  acting.rs     the tree as somebody may see and change it
//! ```
//!
//! tokio is used in this folder alone, in two threads; what may wait for the disk runs in others. The mount
//! has threads of its own and never waits for any of these.
//!
//! Invariants: every answer of ours that is no 2xx or 3xx is `{"detail": ...}`, and none is 500; secrets are
//! neither logged nor printed.

mod acting;
mod ask;
mod bridge;
mod context;
mod dav;
mod drain;
mod events;
mod files;
mod look;
mod malformed;
mod metrics;
mod openapi;
mod problem;
mod processes;
mod routes;
mod serve;
mod session;
mod staging;
mod state;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::agents::guard::Guard;
use crate::agents::register::Register;
use crate::tree::Tree;

pub use serve::Running;
pub use session::Secret;
pub use state::{AskCounts, FuseCounts, Mount, Stage, Took};
pub use upstream::Upstream;

use state::Shared;
use upstream::Passing;

/// How HTTP is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who wants a session shows this first; `None`: anybody may have one.
    pub session_key: Option<Secret>,
    /// What tokens are made under; `None`: random for each start.
    pub token_secret: Option<Secret>,
    /// User and group whose rights requests have in the tree; `None`: those of the tree's owner.
    pub act_as: Option<(u32, u32)>,
    /// The server that is asked what belongs to other parts of Lighthouse; `None`: that is answered with 501.
    pub upstream: Option<Upstream>,
    /// Longest file that may be sent, in bytes. Other bodies are cut at 1 MiB, events and what is passed on at 16 MiB.
    pub upload_max: u64,
    /// Connections at a time; more wait.
    pub connections_max: usize,
    /// How long a client has to send its headers, and to go on with a body; and the upstream to go on with its answer.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            session_key: None,
            token_secret: None,
            act_as: None,
            upstream: None,
            upload_max: 16 << 30,
            connections_max: 256,
            patience: Duration::from_secs(30),
        }
    }
}

/// Tells HTTP what became of the rest of the program.
#[derive(Clone, Debug)]
pub struct Teller(Shared);

impl Teller {
    /// How far the start is.
    pub fn stage(&self, stage: Stage) {
        *self.0.stage.write() = stage;
    }

    /// The tree is there, whole: from now on it is served.
    pub fn serves(&self, tree: Tree) {
        if self.0.tree.set(tree).is_ok() {
            self.stage(Stage::Serving);
        }
    }

    /// What became of the mount.
    pub fn mount(&self, mount: Mount) {
        *self.0.mount.write() = mount;
    }

    /// Who decides what agents may do, from now on.
    pub fn guards(&self, guard: Arc<Guard>) {
        // The first one stays.
        let _ = self.0.guard.set(guard);
    }

    /// Where processes are registered, from now on.
    pub fn registers(&self, register: Arc<Register>) {
        // The first one stays.
        let _ = self.0.register.set(register);
    }

    /// The agent whose session has this token now, which counts as using it.
    #[must_use]
    pub fn agent_of(&self, token: &str) -> Option<String> {
        routes::with_token(&self.0, token).ok().map(|session| session.agent)
    }

    /// Whom to ask for the mount's counts.
    pub fn counts(&self, ask: AskCounts) {
        // The first one stays.
        let _ = self.0.ask_counts.set(ask);
    }
}

/// Binds `address` and begins to answer there.
///
/// # Errors
///
/// What binding says, or starting threads; without random numbers.
pub fn start(address: SocketAddr, config: Config) -> io::Result<Running> {
    let listener = TcpListener::bind(address)?;
    let secret = match &config.token_secret {
        Some(secret) => secret.clone(),
        None => Secret::random()?,
    };
    let passing = config.upstream.clone().map(Passing::new).transpose()?;
    serve::start(listener, Shared::new(config, secret, passing))
}
