//! Connections: taken one by one, at most so many at a time, each with its deadlines, and ended in peace.
//!
//! ```text
//!  accept --> malformed --> hyper: one HTTP/1.1 connection, headers within the deadline
//!                             |
//!                             +--> routes: panics caught, answers counted
//!
//!  stop: no new connections; those idle end; requests under way and streams are told, and have until the
//!  deadline; then all that is left is dropped, and staged uploads with it
//! ```

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use super::drain;
use super::malformed::{Answering, Watched};
use super::processes::Ends;
use super::state::Shared;
use super::upstream::Peer;
use super::{Teller, routes};

/// Threads that drive connections.
const WORKERS: usize = 2;
/// Threads that wait for the store.
const WAITERS_MAX: usize = 16;
/// What each may have on its stack. A directory is walked by what calls itself for those in it, as deep as a path may be;
/// only what is used of this is taken from memory.
const STACK: usize = 16 << 20;
/// Longest head of a request, and of an upstream's answer, in bytes.
pub(super) const HEAD_MAX: usize = 64 << 10;
/// Most headers of one.
pub(super) const HEADERS_MAX: usize = 100;
/// How long to wait when there are no more descriptors.
const BREATHER: Duration = Duration::from_millis(100);

/// HTTP being served.
#[derive(Debug)]
pub struct Running {
    runtime: Runtime,
    shared: Shared,
    address: SocketAddr,
    slots: Arc<Semaphore>,
}

pub(super) fn start(listener: TcpListener, shared: Shared) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WAITERS_MAX)
        .thread_name("http")
        .thread_stack_size(STACK)
        .enable_io()
        .enable_time()
        .build()?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    drop(entered);
    let slots = Arc::new(Semaphore::new(shared.config.connections_max));
    runtime.spawn(accept(listener, shared.clone(), Arc::clone(&slots)));
    runtime.spawn(super::events::look_for_more(shared.clone()));
    Ok(Running { runtime, shared, address, slots })
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Through which it hears of the rest of the program.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller(self.shared.clone())
    }

    /// Takes no more requests, and waits at most `patience` for those under way. Whether all of them ended.
    pub fn stop(self, patience: Duration) -> bool {
        self.shared.stopping.send_replace(true);
        let all = u32::try_from(self.shared.config.connections_max).unwrap_or(u32::MAX);
        let ended = self.runtime.block_on(async {
            tokio::time::timeout(patience, self.slots.acquire_many(all)).await.is_ok()
        });
        // What waits for the disk ends by itself; nothing here may be in the store when it is closed.
        self.runtime.shutdown_timeout(patience);
        ended
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Shared, slots: Arc<Semaphore>) {
    let router = routes::router(shared.clone());
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = shared.stops() => return,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stops() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one client that went away, or of all: then there are no more descriptors for a while.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        let (shared, router) = (shared.clone(), router.clone());
        tokio::spawn(async move {
            shared.counts.connections.fetch_add(1, Ordering::Relaxed);
            shared.counts.connections_open.fetch_add(1, Ordering::Relaxed);
            connection(stream, from.ip(), &shared, router).await;
            shared.counts.connections_open.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, from: IpAddr, shared: &Shared, router: Router) {
    // Answers are written whole: waiting for more to send makes each wait.
    let _ = stream.set_nodelay(true);
    let all = shared.clone();
    let ends = stream.peer_addr().and_then(|peer| Ok(Ends { peer, own: stream.local_addr()? }));
    let ends = ends.ok();
    // What takes long ends with its client; closed when this function ends.
    let (_open, there) = watch::channel(());
    let peer = Peer { address: from, there };
    let answering = Answering::default();
    let watched = Watched::new(stream, shared.clone(), answering.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (shared, router, answering) = (all.clone(), router.clone(), answering.clone());
        answering.begin();
        ends.and_then(|ends| request.extensions_mut().insert(ends));
        request.extensions_mut().insert(peer.clone());
        async move {
            let call = |request| routes::call(shared, router, request);
            let response = drain::answered(request, call).await;
            Ok::<_, Infallible>(answering.with(response))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.patience)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(watched), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stops() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
