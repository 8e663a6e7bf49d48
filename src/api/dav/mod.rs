//! `/dav/`: the tree for WebDAV clients, so that a host without FUSE can mount it too.
//!
//! Only the present. Paths, rights and events are those of `/files/`; an upload takes effect once it is
//! whole. Locks are kept in memory, and known to WebDAV alone.
//!
//! ```text
//!  mod.rs       who asks, and what nobody may ask of dav-server
//!     +--> transfer.rs  MOVE and COPY: what is refused before anything is changed
//!     +--> dav-server   the protocol
//!            +--> tree.rs   the tree as its filesystem
//!            +--> locks.rs  locks of all clients
//! ```
//!
//! Programs that know only Basic authentication show a session's token as the password, whatever the user; where a
//! session key is demanded, that key does as well, and the user is the agent. Nothing else does: who may have a session
//! asks for one first, here as at `/files/`.

mod locks;
mod transfer;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dav_server::DavHandler;
use dav_server::ls::DavLockSystem;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;

use locks::Locks;
use transfer::{How, Transfer};
use tree::{CutShort, DavTree, Seen};

use super::ask::{TreePath, from_base64};
use super::problem::Problem;
use super::routes::{Answer, Asked, next_piece, waiting, whole, with_token};
use super::session::{Session, TEXT_MAX};
use super::state::Shared;

/// Where it is, in paths of requests.
const PREFIX: &str = "/dav";
/// Longest body that is read as XML, in bytes.
const XML_MAX: usize = 64 << 10;
/// Most tags in one.
const TAGS_MAX: usize = 512;

/// The session of a request that shows a name and password; `None` where it shows none.
pub(crate) fn authenticated(
    shared: &Shared,
    headers: &HeaderMap,
) -> Option<Result<Session, Problem>> {
    let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let refused = || {
        Some(Err(ask_for_password(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the password must be a session's token or the session key",
        ))))
    };
    let decoded = from_base64(shown.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((agent, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
        return refused();
    };
    if let Ok(session) = with_token(shared, password) {
        return Some(Ok(session));
    }
    match &shared.config.session_key {
        Some(key) if key.is(password.as_bytes()) && agent.len() <= TEXT_MAX => {
            Some(Ok(Session { id: String::new(), agent: agent.to_owned() }))
        }
        _ => refused(),
    }
}

/// A refusal that makes programs ask for a name and password.
pub(crate) fn ask_for_password(problem: Problem) -> Problem {
    let realm = HeaderValue::from_static("Basic realm=\"lighthouse\", charset=\"UTF-8\"");
    let mut asks = problem.with(header::WWW_AUTHENTICATE, realm);
    asks.status = StatusCode::UNAUTHORIZED;
    asks
}

/// Locks of all clients.
pub(crate) fn locks() -> Box<dyn DavLockSystem> {
    Box::new(Locks::default())
}

pub(crate) async fn serve(shared: Shared, asked: Asked) -> Answer {
    let acting = shared.acting(&asked.session)?;
    let Asked { session, mut parts, body } = asked;
    if parts.uri.path() == PREFIX {
        parts.uri = Uri::from_static("/dav/");
    }
    let path = below_prefix(parts.uri.path())?;
    let to = destination(&mut parts.headers)?;
    if has_half_a_tag(&parts.headers) {
        return Err(Problem::bad("a condition has an entity tag of a single quote"));
    }
    end_conditions(&mut parts.headers);
    if has_endless_part(&parts.headers) {
        return Err(Problem::bad("the part of the file that is sent ends nowhere"));
    }
    end_ranges(&mut parts.headers);
    let len = said_len(&mut parts.headers);
    let method = parts.method.clone();
    if method == Method::DELETE && path.names.is_empty() {
        // Else all in it would go first.
        return Err(Problem::new(StatusCode::FORBIDDEN, "the root of the tree stays"));
    }
    if method.as_str() == "PROPFIND" {
        say_depth(&mut parts.headers);
    }
    let shallow = parts.headers.get("depth").is_some_and(|depth| depth == "0");
    let how = match method.as_str() {
        "MOVE" => Some(How::Move),
        "COPY" if shallow => Some(How::CopyShallow),
        "COPY" => Some(How::Copy),
        _ => None,
    };
    let transfer = match how.zip(to) {
        Some((how, to)) => {
            let acting = acting.clone();
            Some(waiting(move || Transfer::checked(&acting, path, to, how)).await?)
        }
        None => None,
    };
    let conditional = matches!(method.as_str(), "PUT" | "PATCH")
        && ["if", "if-match", "if-none-match", "if-unmodified-since"]
            .iter()
            .any(|name| parts.headers.contains_key(*name));
    let cut_short = CutShort::default();
    let tree = DavTree {
        upload_max: shared.config.upload_max,
        transfer,
        seen: conditional.then(Seen::default),
        cut_short: Arc::clone(&cut_short),
        makes_files: method.as_str() == "LOCK",
    };
    let other_len = Arc::new(AtomicBool::new(false));
    let body = match method.as_str() {
        "LOCK" | "PROPFIND" | "PROPPATCH" => xml(&shared, body).await?,
        "PUT" | "PATCH" => {
            as_long_as_said(patient(shared.clone(), body), len, Arc::clone(&other_len))
        }
        _ => patient(shared.clone(), body),
    };
    let handler = DavHandler::builder()
        .filesystem(Box::new(tree))
        .locksystem(shared.locks.clone())
        .strip_prefix(PREFIX)
        .build_handler();
    let request = Request::from_parts(parts, body);
    let response = handler.handle_guarded(request, session.agent, acting).await;
    if other_len.load(Ordering::Relaxed) {
        let why = "the body has another length than was said";
        return Err(Problem::bad(why).with(header::CONNECTION, HeaderValue::from_static("close")));
    }
    let (parts, body) = response.into_parts();
    let mut body = Body::new(body);
    if method.as_str() == "PROPFIND" {
        body = whole_or_broken(body, cut_short);
    }
    let response = Response::from_parts(parts, body);
    Ok(answered(response, conditional, method == Method::HEAD).await)
}

/// `body`, which breaks off at its end where what it tells of does: that must not look whole.
fn whole_or_broken(body: Body, cut_short: CutShort) -> Body {
    let broken = stream::unfold(Some(cut_short), |cut_short| async move {
        let why = cut_short?.get()?.clone();
        Some((Err(axum::Error::new(std::io::Error::other(why))), None))
    });
    Body::from_stream(body.into_data_stream().chain(broken))
}

/// The answer as we say it: with a status of ours, and a reason.
async fn answered(response: Response, conditional: bool, head: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let (status, why) = match parts.status {
        // What cannot be done here for now: the store refuses, or the client broke off.
        StatusCode::INTERNAL_SERVER_ERROR => {
            (StatusCode::SERVICE_UNAVAILABLE, "the store refuses, or the client broke off")
        }
        StatusCode::NOT_IMPLEMENTED => (
            StatusCode::FORBIDDEN,
            "this cannot be asked here: a listing of all depths (ask for Depth 0 or 1), or a method that is unknown",
        ),
        StatusCode::BAD_GATEWAY => (StatusCode::BAD_REQUEST, "Destination is outside this tree"),
        StatusCode::LOCKED => (StatusCode::LOCKED, "somebody has locked it"),
        // Something else was there when all had come.
        StatusCode::METHOD_NOT_ALLOWED if conditional => (
            StatusCode::PRECONDITION_FAILED,
            "it is not what the request expects: look at it again",
        ),
        other => (other, other.canonical_reason().unwrap_or("it cannot be done")),
    };
    parts.status = status;
    if !status.is_client_error() && !status.is_server_error() || head {
        return Response::from_parts(parts, body);
    }
    // It is a stream, of which nothing else says whether anything is in it. What one is refused with is short.
    let said = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if !said.is_empty() {
        return Response::from_parts(parts, Body::from(said));
    }
    // Its reason is in the status alone. What else it says, such as which methods there are, stays.
    let mut response = Problem::new(status, why).into_response();
    for name in [header::ALLOW, header::CONNECTION] {
        if let Some(value) = parts.headers.remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The path in the tree that one of a URL means. `dav-server` (0.11) fails at some that are not below ours, or that lead
/// out by dots.
fn below_prefix(path: &str) -> Result<TreePath, Problem> {
    let rest = path.strip_prefix(PREFIX).filter(|rest| rest.starts_with('/'));
    let wrong = || Problem::bad(format!("{path:?} is no path below {PREFIX}/"));
    TreePath::from_url(rest.ok_or_else(wrong)?)
}

/// The path that `Destination` names. From here on that stands in it, and nothing that `dav-server` (0.11) could read in
/// another way.
fn destination(headers: &mut HeaderMap) -> Result<Option<TreePath>, Problem> {
    let Some(value) = headers.get_mut("destination") else { return Ok(None) };
    let url = value.to_str().map_err(|_| Problem::bad("Destination is no ASCII text"))?;
    let path = below_prefix(path_in_url(url))?;
    let slash = if path.directory && !path.names.is_empty() { "/" } else { "" };
    let plain = HeaderValue::from_str(&format!("{PREFIX}/{}{slash}", path.url()));
    *value = plain.map_err(|_| Problem::bad("Destination is no path"))?;
    Ok(Some(path))
}

/// Says what a PROPFIND means that says nothing, or what nobody knows: all depths (RFC 4918, 9.1), which is refused.
/// `dav-server` (0.11) lists what is in a directory then, without the directory; and all depths where it is tested.
fn say_depth(headers: &mut HeaderMap) {
    let depth = match headers.get("depth").map(HeaderValue::as_bytes) {
        Some(b"0") => "0",
        Some(b"1") => "1",
        _ => "infinity",
    };
    headers.insert("depth", HeaderValue::from_static(depth));
    headers.remove("x-litmus");
}

/// The path in a URL, or in what stands for one behind its host.
fn path_in_url(url: &str) -> &str {
    let behind_host = match url.split_once("://") {
        Some((_, rest)) if !url.starts_with('/') => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
        }
        _ => url,
    };
    behind_host.split(['?', '#']).next().unwrap_or_default()
}

/// Whether an entity tag in a condition is a quote that is never closed: `dav-server` (0.11) takes it for the beginning and
/// the end of one, and fails.
fn has_half_a_tag(headers: &HeaderMap) -> bool {
    const CONDITIONS: [&str; 4] = ["if", "if-match", "if-none-match", "if-range"];
    let half = |tag: &[u8]| {
        let tag = tag.trim_ascii();
        tag.strip_prefix(b"W/").unwrap_or(tag) == b"\""
    };
    CONDITIONS
        .iter()
        .flat_map(|name| headers.get_all(*name))
        .any(|value| value.as_bytes().split(|byte| matches!(byte, b',' | b'[' | b']')).any(half))
}

/// Puts a blank behind the header `If`: `dav-server` (0.11) looks for the end of a token or tag until it finds that or a
/// blank, and without either beyond the end of the header.
fn end_conditions(headers: &mut HeaderMap) {
    if let Some(value) = headers.get_mut("if")
        && let Ok(ended) = HeaderValue::from_bytes(&[value.as_bytes(), b" "].concat())
    {
        *value = ended;
    }
}

/// Whether a number says more than a file can be long.
fn is_beyond_files(digits: &[u8]) -> bool {
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok());
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && number.is_none()
}

/// Whether a part is sent that ends where no file does: `dav-server` (0.11) counts beyond its numbers there.
fn has_endless_part(headers: &HeaderMap) -> bool {
    ["content-range", "x-update-range"]
        .iter()
        .flat_map(|name| headers.get_all(*name))
        .any(|value| value.as_bytes().split(|byte| !byte.is_ascii_digit()).any(is_beyond_files))
}

/// Lets a range that ends where no file does go to the end of the file, which is what it means: `dav-server` (0.11) counts
/// beyond its numbers there.
fn end_ranges(headers: &mut HeaderMap) {
    let Some(value) = headers.get_mut(header::RANGE) else { return };
    let Some((unit, ranges)) = value.to_str().ok().and_then(|text| text.split_once('=')) else {
        return;
    };
    let ended = |range: &str| {
        let range = range.trim();
        match range.split_once('-') {
            Some((first, last)) if !first.is_empty() && is_beyond_files(last.as_bytes()) => {
                format!("{first}-")
            }
            _ => range.to_owned(),
        }
    };
    let ranges: Vec<String> = ranges.split(',').map(ended).collect();
    if let Ok(ended) = HeaderValue::from_str(&format!("{unit}={}", ranges.join(","))) {
        *value = ended;
    }
}

/// How long a client says that what it sends is: the part, or else the file, of which Finder says it in a header of its own.
/// That one is taken out: `dav-server` (0.11) holds what came against it.
fn said_len(headers: &mut HeaderMap) -> Option<u64> {
    let of_finder = headers.remove("x-expected-entity-length");
    let number = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    let part = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let part = part.and_then(|part| {
        let (first, last) = part.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    let whole = || headers.get(header::CONTENT_LENGTH).and_then(number);
    part.or_else(whole).or_else(|| of_finder.as_ref().and_then(number))
}

/// `body`, which ends with an error where it has another length than was said, and then that is noted: `dav-server` (0.11) counts
/// once all has taken effect.
fn as_long_as_said(body: Body, len: Option<u64>, other_len: Arc<AtomicBool>) -> Body {
    let Some(len) = len else { return body };
    let pieces = body.into_data_stream();
    Body::from_stream(stream::unfold(Some((pieces, len)), move |left| {
        let other_len = Arc::clone(&other_len);
        async move {
            let (mut pieces, left) = left?;
            let piece = pieces.next().await;
            let left = match &piece {
                Some(Ok(piece)) => left.checked_sub(piece.len() as u64),
                Some(Err(_)) => return Some((piece?, None)),
                None if left == 0 => return None,
                None => None,
            };
            let Some(left) = left else {
                other_len.store(true, Ordering::Relaxed);
                let why = std::io::Error::other("another length than was said");
                return Some((Err(axum::Error::new(why)), None));
            };
            Some((piece?, Some((pieces, left))))
        }
    }))
}

/// `body`, which ends with an error where the client does not go on with it.
fn patient(shared: Shared, body: Body) -> Body {
    Body::from_stream(stream::unfold(Some(body), move |body| {
        let shared = shared.clone();
        async move {
            let mut body = body?;
            match next_piece(&shared, &mut body).await {
                Ok(piece) => Some((Ok::<Bytes, std::io::Error>(piece?), Some(body))),
                Err(problem) => Some((Err(std::io::Error::other(problem.words())), None)),
            }
        }
    }))
}

/// `body`, which is read as XML. `xmltree` (0.12) goes down the stack with each element that is in another, and ends the
/// process where that ends; so there are few. What they are must be seen without reading entities, or two bytes a letter.
async fn xml(shared: &Shared, body: Body) -> Result<Body, Problem> {
    let xml = whole(shared, body, XML_MAX).await?;
    if xml.iter().filter(|&&byte| byte == b'<').count() > TAGS_MAX {
        return Err(Problem::bad(format!("the body has more than {TAGS_MAX} tags")));
    }
    if xml.contains(&0) || xml.windows(9).any(|word| word == b"<!DOCTYPE") {
        return Err(Problem::bad("the body must be XML in UTF-8, without a document type"));
    }
    Ok(Body::from(xml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_short_does_not_look_whole() {
        for (why, whole) in [(None, true), (Some("the disk failed"), false)] {
            let cut_short = CutShort::default();
            if let Some(why) = why {
                cut_short.set(why.to_owned()).unwrap();
            }
            let body = whole_or_broken(Body::from("names"), cut_short);
            assert_eq!(body.collect().await.is_ok(), whole);
        }
    }
}
