//! The server that other parts of Lighthouse are asked of, and how a request is passed on to it.
//!
//! ```text
//!  client --> routes: a session? --> a connection of its own --> upstream
//!                                      body, piece by piece: 413 over 16 MiB, 408 where the client stops
//!  client <-- status, headers, body, piece by piece <----------- upstream
//!                                      502: not reached, or no HTTP; 504: not in time; 508: it comes back to us
//! ```
//!
//! The Python bridge had one session for all parts, so the request's token goes on with it: the upstream asks
//! `/session/validate` here, or knows the secret that tokens are made under. `X-Lighthouse-Agent` names the agent.
//! What the upstream answers is passed on as it is, but for which pages may read it: that is ours to say.
//!
//! Invariants: headers of one connection end here, in both directions; a client that goes away takes its connection
//! to the upstream with it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::ask;
use super::problem::Problem;
use super::routes::{Answer, Asked, EVENT_MAX, next_piece};
use super::serve::{HEAD_MAX, HEADERS_MAX};
use super::session;
use super::state::Shared;

/// How long connecting may take, where clients are not given less.
const CONNECT: Duration = Duration::from_secs(5);
/// Names being looked up at a time: each takes a thread that others wait for.
const LOOKUPS_MAX: usize = 4;
/// Headers of one connection, beside those that `Connection` names.
const OF_CONNECTION: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Names the agent of the session, encoded as in a URL.
const AGENT: &str = "x-lighthouse-agent";

/// Where requests are passed on to: `http://HOST[:PORT][/PREFIX]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: HeaderValue,
    /// What paths begin with there; no slash at its end.
    prefix: String,
}

impl FromStr for Upstream {
    type Err = String;

    /// What is wrong, and the mend, in words.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{why}; write http://HOST:PORT, and a path to begin all others with")
        };
        let uri: Uri = text.parse().map_err(|_| wrong("this is no URL"))?;
        match uri.scheme_str() {
            Some("http") => (),
            Some("https") => {
                return Err(
                    "https is not spoken; name a proxy that does, such as http://127.0.0.1:8443"
                        .to_owned(),
                );
            }
            _ => return Err(wrong("it does not begin with http://")),
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong("no user and password may stand in it"));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(wrong("nothing may follow its path"));
        }
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?;
        let port = match authority.strip_prefix(host).unwrap_or_default() {
            "" => 80,
            port => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|&port| port != 0)
                .ok_or_else(|| wrong("its port is none"))?,
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: HeaderValue::from_str(authority).map_err(|_| wrong("this is no URL"))?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority.to_str().unwrap_or_default(), self.prefix)
    }
}

impl Upstream {
    /// Whether it is the server that listens at `listening`, as far as that is seen without asking for names: what
    /// comes back to us over others is noticed when it does.
    #[must_use]
    pub fn is(&self, listening: SocketAddr) -> bool {
        let named = self.literal().or_else(|| {
            self.host.eq_ignore_ascii_case("localhost").then_some(Ipv4Addr::LOCALHOST.into())
        });
        // An address is ours if something can be bound to it.
        let is_ours = |address| UdpSocket::bind((address, 0)).is_ok();
        named.filter(|_| self.port == listening.port()).is_some_and(|named| {
            named == listening.ip() || listening.ip().is_unspecified() && is_ours(named)
        })
    }

    fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Who sent a request: set for each by its connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// From where.
    pub(super) address: IpAddr,
    /// Closed when the connection has ended.
    pub(super) there: watch::Receiver<()>,
}

impl Peer {
    pub(super) fn of(asked: &Asked) -> Option<Self> {
        asked.parts.extensions.get().cloned()
    }
}

/// What `work` answers, which ends early when `peer` goes away.
pub(super) async fn while_there(peer: Option<Peer>, work: impl Future<Output = Answer>) -> Answer {
    let Some(mut peer) = peer else { return work.await };
    tokio::select! {
        answer = work => answer,
        // Nobody hears this.
        _ = peer.there.changed() => Err(Problem::bad("the client went away")),
    }
}

/// Passing requests on.
#[derive(Debug)]
pub(super) struct Passing {
    to: Upstream,
    /// What we are called in `Via`: another name at each start.
    name: String,
    lookups: Arc<Semaphore>,
    pub(super) counts: Counts,
}

/// What became of requests that were passed on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    /// The upstream was not reached, or spoke no HTTP.
    pub(super) failed: AtomicU64,
    /// It did not answer in time.
    pub(super) late: AtomicU64,
}

impl Passing {
    /// Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// Without random numbers.
    pub(super) fn new(to: Upstream) -> io::Result<Self> {
        let name = format!("lighthouse-fuse-{}", session::hex(&session::random::<8>()?));
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Ok(Self { to, name, lookups, counts: Counts::default() })
    }
}

/// Answers what is asked of another part of Lighthouse: passes it on, if there is where to.
pub(super) async fn elsewhere(shared: Shared, asked: Asked) -> Answer {
    let Some(passing) = &shared.passing else {
        let why = format!(
            "{} belongs to another part of Lighthouse, which this program does not replace; LIGHTHOUSE_UPSTREAM_URL can \
             name a server to pass it to",
            asked.parts.uri.path()
        );
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, why));
    };
    let peer = Peer::of(&asked);
    let from = peer.as_ref().map(|peer| peer.address);
    let answer = while_there(peer, pass_on(&shared, passing, from, asked)).await;
    let counts = &passing.counts;
    let count = match answer.as_ref().map_err(|problem| problem.status) {
        Ok(_) => &counts.answered,
        Err(StatusCode::BAD_GATEWAY) => &counts.failed,
        Err(StatusCode::GATEWAY_TIMEOUT) => &counts.late,
        Err(_) => return answer,
    };
    count.fetch_add(1, Ordering::Relaxed);
    if let Err(problem) = &answer {
        tracing::warn!(why = problem.words(), "cannot pass a request on to {}", passing.to);
    }
    answer
}

async fn pass_on(shared: &Shared, passing: &Passing, from: Option<IpAddr>, asked: Asked) -> Answer {
    let Asked { session, parts, body } = asked;
    let came_by = |via: &HeaderValue| via.to_str().is_ok_and(|via| via.contains(&passing.name));
    if parts.headers.get_all(header::VIA).iter().any(came_by) {
        let why = "the server that this is passed to passes it back";
        return Err(Problem::new(StatusCode::LOOP_DETECTED, why));
    }
    let declared = parts.headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > EVENT_MAX as u64) {
        return Err(too_long());
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = Uri::try_from(format!("{}{target}", passing.to.prefix));
    let target =
        target.map_err(|_| Problem::new(StatusCode::URI_TOO_LONG, "the path is too long"))?;
    let patience = shared.config.patience;
    let turn = Arc::new(Mutex::new(Turn::Upstream(Instant::now())));
    let body = match body.is_end_stream() {
        true => Body::empty(),
        false => upload(shared.clone(), body, Arc::clone(&turn)),
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers_there(passing, parts.headers, from, &session.agent);

    let stream = connect(passing, patience).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let connection = Connection(tokio::spawn(connection).abort_handle());
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = loop {
        match timeout_at(until(&turn, patience), answer.as_mut()).await {
            Ok(answer) => break answer,
            // It was the client's turn meanwhile.
            Err(_) if until(&turn, patience) > Instant::now() => (),
            Err(_) => return Err(late()),
        }
    };
    let answer =
        answer.map_err(|error| match std::mem::replace(&mut *turn.lock(), Turn::Client) {
            Turn::Ended(problem) => problem,
            Turn::Client | Turn::Upstream(_) => failed(&error),
        })?;
    if answer.status().is_informational() {
        return Err(failed(&"it wants to speak something else"));
    }
    let (head, body) = answer.into_parts();
    let body = match body.is_end_stream() {
        true => Body::empty(),
        false => download(body, connection, patience),
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers_here(passing, head.headers);
    Ok(response)
}

/// What is said to the upstream in the place of what the client said to us.
fn headers_there(
    passing: &Passing,
    mut headers: HeaderMap,
    from: Option<IpAddr>,
    agent: &str,
) -> HeaderMap {
    end_here(&mut headers);
    let host = headers.insert(header::HOST, passing.to.authority.clone());
    // A proxy before us knows these better.
    if let Some(host) = host {
        headers.entry("x-forwarded-host").or_insert(host);
    }
    headers.entry("x-forwarded-proto").or_insert(HeaderValue::from_static("http"));
    let from = from.and_then(|from| HeaderValue::from_str(&from.to_canonical().to_string()).ok());
    if let Some(from) = from {
        headers.append("x-forwarded-for", from);
    }
    // Encoded, for it may be any text. Nobody else's word for it.
    headers.remove(AGENT);
    if let Ok(agent) = HeaderValue::from_str(&ask::encode(agent.as_bytes())) {
        headers.insert(AGENT, agent);
    }
    // One request, one connection.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    pass_by(passing, &mut headers);
    headers
}

/// What is said to the client in the place of what the upstream said to us.
fn headers_here(passing: &Passing, mut headers: HeaderMap) -> HeaderMap {
    end_here(&mut headers);
    // Which pages may read it is ours to say.
    let of_pages = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    for name in headers.keys().filter(of_pages).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    pass_by(passing, &mut headers);
    headers
}

/// Takes out what is about one connection.
fn end_here(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

fn pass_by(passing: &Passing, headers: &mut HeaderMap) {
    if let Ok(via) = HeaderValue::from_str(&format!("1.1 {}", passing.name)) {
        headers.append(header::VIA, via);
    }
}

async fn connect(passing: &Passing, patience: Duration) -> Result<TcpStream, Problem> {
    let connecting = async {
        let addresses = match passing.to.literal() {
            Some(address) => vec![SocketAddr::new(address, passing.to.port)],
            None => look_up(passing).await?,
        };
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        // Requests are written whole: waiting for more to send makes each wait.
        stream.set_nodelay(true).map(|()| stream)
    };
    match timeout(CONNECT.min(patience), connecting).await {
        Ok(connected) => connected.map_err(|error| failed(&error)),
        Err(_) => Err(late()),
    }
}

async fn look_up(passing: &Passing) -> io::Result<Vec<SocketAddr>> {
    let lookup = Arc::clone(&passing.lookups).acquire_owned().await.map_err(io::Error::other)?;
    let (host, port) = (passing.to.host.clone(), passing.to.port);
    let found = tokio::task::spawn_blocking(move || {
        // Until the thread is free again, whether it is still waited for or not.
        let _lookup = lookup;
        Ok((host, port).to_socket_addrs()?.collect())
    });
    found.await.map_err(io::Error::other)?
}

/// Whose turn it is while a request is passed on.
enum Turn {
    /// The client's, to go on with the body; how long that may take is looked after there.
    Client,
    /// The upstream's since then: to take more of the body, or to answer.
    Upstream(Instant),
    /// The body ended early, and this is why.
    Ended(Problem),
}

/// When it is to be looked again whether the upstream is late.
fn until(turn: &Mutex<Turn>, patience: Duration) -> Instant {
    match &*turn.lock() {
        Turn::Upstream(since) => *since + patience,
        Turn::Client | Turn::Ended(_) => Instant::now() + patience,
    }
}

/// The client's body on its way to the upstream.
fn upload(shared: Shared, body: Body, turn: Arc<Mutex<Turn>>) -> Body {
    Body::from_stream(stream::unfold(Some((body, 0)), move |at| {
        let (shared, turn) = (shared.clone(), Arc::clone(&turn));
        async move {
            let (mut body, mut total) = at?;
            *turn.lock() = Turn::Client;
            let piece = next_piece(&shared, &mut body).await.and_then(|piece| {
                total += piece.as_ref().map_or(0, Bytes::len);
                if total > EVENT_MAX { Err(too_long()) } else { Ok(piece) }
            });
            let (piece, next, whose) = match piece {
                Ok(piece) => (piece.map(Ok), Some((body, total)), Turn::Upstream(Instant::now())),
                Err(problem) => {
                    let error = io::Error::other(problem.words());
                    (Some(Err(error)), None, Turn::Ended(problem))
                }
            };
            *turn.lock() = whose;
            Some((piece?, next))
        }
    }))
}

/// The upstream's body on its way to the client.
fn download(body: Incoming, connection: Connection, patience: Duration) -> Body {
    Body::from_stream(stream::unfold(Some((body, connection)), move |at| async move {
        let (mut body, connection) = at?;
        loop {
            let Ok(frame) = timeout(patience, body.frame()).await else {
                return Some((Err(io::Error::other(late().words())), None));
            };
            match frame? {
                // Anything but data says nothing here.
                Ok(frame) => {
                    let Ok(data) = frame.into_data() else { continue };
                    return Some((Ok(data), Some((body, connection))));
                }
                Err(error) => return Some((Err(io::Error::other(error)), None)),
            }
        }
    }))
}

/// A connection to the upstream, which ends with this.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn failed(error: &impl fmt::Display) -> Problem {
    let why = format!("the server that this is passed to does not answer: {error}");
    Problem::new(StatusCode::BAD_GATEWAY, why)
}

fn late() -> Problem {
    let why = "the server that this is passed to does not answer in time";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, why)
}

fn too_long() -> Problem {
    let why = format!("the body is longer than {EVENT_MAX} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Upstream {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn an_address_is_http_with_a_host_and_perhaps_a_port_and_a_path() {
        for (text, host, port, prefix) in [
            ("http://bridge", "bridge", 80, ""),
            ("http://bridge:8765/", "bridge", 8765, ""),
            ("http://10.0.0.7:1/old/api/", "10.0.0.7", 1, "/old/api"),
            ("HTTP://[::1]:65535", "::1", 65535, ""),
        ] {
            let upstream = parsed(text);
            assert_eq!(
                (upstream.host.as_str(), upstream.port, upstream.prefix.as_str()),
                (host, port, prefix),
                "{text}"
            );
        }
        assert_eq!(parsed("http://[::1]:9/x/").to_string(), "http://[::1]:9/x");
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for text in [
            "bridge",
            "bridge:8765",
            "/validate",
            "http://",
            "http://:80",
            "http:///path",
            "https://bridge",
            "ftp://bridge",
            "http://user:hunter2@bridge",
            "http://bridge:0",
            "http://bridge:65536",
            "http://bridge:",
            "http://bridge/?x=1",
            "http://bridge/#x",
            "http://bri dge",
            "http://bridge\r\nx: y",
        ] {
            let why = text.parse::<Upstream>().expect_err(text);
            assert!(why.contains("http://") && !why.contains("hunter2"), "{text}: {why}");
        }
    }

    #[test]
    fn it_is_seen_when_an_address_is_our_own() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(parsed("http://127.0.0.1:8765").is(at("127.0.0.1:8765")));
        assert!(parsed("http://localhost:8765/x").is(at("127.0.0.1:8765")));
        assert!(parsed("http://localhost:8765").is(at("0.0.0.0:8765")));
        assert!(parsed("http://[::1]:8765").is(at("[::1]:8765")));
        assert!(!parsed("http://127.0.0.1:8766").is(at("127.0.0.1:8765")));
        // Documentation's: nobody's here.
        assert!(!parsed("http://192.0.2.1:8765").is(at("0.0.0.0:8765")));
        assert!(!parsed("http://bridge:8765").is(at("127.0.0.1:8765")));
    }

    #[test]
    fn headers_of_one_connection_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-One"),
            ("connection", "x-two,, \u{1}"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic x"),
            ("content-type", "text/plain"),
            ("x-three", "3"),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes());
            headers.append(name, value.unwrap_or(HeaderValue::from_static("x-two")));
        }
        end_here(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "x-three"]);
    }
}
