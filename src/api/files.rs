//! `/files/PATH`: the tree, now or at a moment.
//!
//! A GET reads one version: the content as it was after the last event when the request came, whatever
//! happens while it is sent. A PUT takes effect once the whole body is there: one that ends early changes
//! nothing.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use hyper::body::Body as _;
use serde_json::{Value, json};

use crate::tree::operation::{Attributes, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::tree::{Inode, Seq, Timestamp};

use super::acting::{Acting, Must, READ, Replaced, changed_meanwhile};
use super::ask::{Part, Query, TreePath, encode, lists_tag, part};
use super::problem::{Problem, answer, fault};
use super::routes::{Answer, Asked, next_piece, waiting};
use super::staging::Staging;
use super::state::Shared;

/// Bytes read from the store at a time.
const PIECE: usize = 256 << 10;

/// The version of an inode, as a tag.
pub(crate) fn tag(inode: &Inode) -> String {
    format!("\"{}-{}\"", inode.ino, inode.changed)
}

fn path_of(asked: &Asked) -> Result<TreePath, Problem> {
    let path = asked.parts.uri.path();
    TreePath::from_url(path.strip_prefix("/files").unwrap_or(path))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let value = headers.get(name).map(HeaderValue::to_str).transpose();
    value.map_err(|_| Problem::bad(format!("the header {name} is no ASCII text")))
}

fn header_value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|_| Problem::unavailable("a header could not be written"))
}

pub(crate) async fn get(shared: Shared, asked: Asked) -> Answer {
    let path = path_of(&asked)?;
    let query = Query::parse(asked.parts.uri.query())?;
    let limit = query.number("limit", 1..=10_000)?.unwrap_or(1000);
    let after = query.number("after", 0..=i64::MAX as u64)?.unwrap_or(0);
    let acting = shared.acting(&asked.session)?;
    let moment = query.text("at").map(str::to_owned);
    let found = {
        let (acting, path) = (acting.clone(), path.clone());
        waiting(move || {
            if moment.is_some() {
                acting.may_look_back()?;
            }
            let at = acting.moment(moment.as_deref())?;
            let inode = acting.find(&path, at)?;
            acting.may(&inode, READ, at)?;
            Ok((at, inode))
        })
    };
    let (at, inode) = found.await?;
    let tag = tag(&inode);
    let headers = &asked.parts.headers;
    if text(headers, &header::IF_MATCH)?.is_some_and(|tags| !lists_tag(tags, Some(&tag))) {
        return Err(changed_meanwhile());
    }
    let seen = text(headers, &header::IF_NONE_MATCH)?;
    let mut response = if inode.mode & S_IFMT == S_IFDIR {
        // Whatever was seen: a listing says of what is in it what the directory's version knows nothing of.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        waiting(move || listing(&acting, &path, &inode, at, (after, limit))).await?
    } else if seen.is_some_and(|tags| lists_tag(tags, Some(&tag))) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        if path.directory {
            return Err(Problem::conflict(format!("{} is no directory", path.text())));
        }
        content(&shared, acting, &inode, at, headers)?
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, header_value(&tag)?);
    headers.insert(header::LAST_MODIFIED, header_value(&http_date(inode.mtime))?);
    headers.insert(SEQUENCE, HeaderValue::from(at.0));
    // What it is the browser shall not guess: it may be anything.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The tree that was read, or the last event of a change.
const SEQUENCE: HeaderName = HeaderName::from_static("lighthouse-sequence");

fn content(shared: &Shared, acting: Acting, inode: &Inode, at: Seq, headers: &HeaderMap) -> Answer {
    if inode.mode & S_IFMT != S_IFREG {
        return Err(Problem::conflict("it is neither a file nor a directory"));
    }
    let range = text(headers, &header::RANGE)?;
    let same = text(headers, &header::IF_RANGE)?.is_none_or(|one| one.trim() == tag(inode));
    let (first, count, status) = match part(range.filter(|_| same), inode.size) {
        Part::Whole => (0, inode.size, StatusCode::OK),
        Part::Bytes(first, count) => (first, count, StatusCode::PARTIAL_CONTENT),
        Part::Beyond => {
            let value = header_value(&format!("bytes */{}", inode.size))?;
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "the file is shorter");
            return Err(problem.with(header::CONTENT_RANGE, value));
        }
    };
    let mut response = Response::new(body(shared.clone(), acting, inode, at, (first, count)));
    *response.status_mut() = status;
    let answered = response.headers_mut();
    answered.insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    answered.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let kind = HeaderValue::from_static("application/octet-stream");
    answered.insert(header::CONTENT_TYPE, kind);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{}", first + count - 1, inode.size);
        answered.insert(header::CONTENT_RANGE, header_value(&range)?);
    }
    Ok(response)
}

/// `count` bytes of a file from `first` on, read as they are sent.
fn body(
    shared: Shared,
    acting: Acting,
    inode: &Inode,
    at: Seq,
    (first, count): (u64, u64),
) -> Body {
    let ino = inode.ino;
    let pieces = stream::unfold((first, count), move |(offset, left)| {
        let (acting, shared) = (acting.clone(), shared.clone());
        async move {
            if left == 0 {
                return None;
            }
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let read = waiting(move || acting.read(ino, offset, len, at)).await;
            let piece = match read {
                Ok(piece) if !piece.is_empty() => piece,
                // The length is promised: what is missing must not look like the end.
                Ok(_) => return Some((Err(std::io::Error::other("it became shorter")), (0, 0))),
                Err(problem) => return Some((Err(std::io::Error::other(problem.words())), (0, 0))),
            };
            let len = piece.len() as u64;
            shared.counts.sent.fetch_add(len, Ordering::Relaxed);
            Some((Ok::<Bytes, std::io::Error>(piece), (offset + len, left.saturating_sub(len))))
        }
    });
    Body::from_stream(pieces)
}

fn listing(
    acting: &Acting,
    path: &TreePath,
    dir: &Inode,
    at: Seq,
    (after, limit): (u64, usize),
) -> Answer {
    let (mut names, mut next) = acting.list(dir.ino, at, after, limit)?;
    while let Some(from) = next
        && names.len() < limit
    {
        let more;
        (more, next) = acting.list(dir.ino, at, from, limit - names.len())?;
        names.extend(more);
    }
    let mut above = path.url();
    if !above.is_empty() {
        above.push('/');
    }
    let entries = names.iter().map(|(name, inode)| described(&above, name, inode));
    let said = json!({
        "path": path.text(),
        "sequence": at.0,
        "entries": entries.collect::<Vec<_>>(),
        "next": next,
    });
    Ok(answer(StatusCode::OK, &said))
}

fn described(above: &str, name: &[u8], inode: &Inode) -> Value {
    let kind = match inode.mode & S_IFMT {
        S_IFDIR => "directory",
        S_IFREG => "file",
        S_IFLNK => "link",
        _ => "special",
    };
    let slash = if kind == "directory" { "/" } else { "" };
    json!({
        // As text; the URL has it byte by byte.
        "name": String::from_utf8_lossy(name),
        "url": format!("/files/{above}{}{slash}", encode(name)),
        "type": kind,
        "size": inode.size,
        "mode": format!("{:04o}", inode.mode & 0o7777),
        "uid": inode.uid,
        "gid": inode.gid,
        "modified": rfc3339(inode.mtime),
        "version": inode.changed.0,
        "etag": tag(inode),
    })
}

pub(crate) async fn put(shared: Shared, asked: Asked) -> Answer {
    let path = path_of(&asked)?;
    let query = Query::parse(asked.parts.uri.query())?;
    let parents = query.flag("parents")?;
    let mode = query.text("mode").map(octal).transpose()?;
    let acting = shared.acting(&asked.session)?;
    let headers = &asked.parts.headers;
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::bad("a part of a file cannot be sent; send all of it"));
    }
    let (if_match, if_none_match) =
        (text(headers, &header::IF_MATCH)?, text(headers, &header::IF_NONE_MATCH)?);
    let conditions = Conditions {
        if_match: if_match.map(str::to_owned),
        if_none_match: if_none_match.map(str::to_owned),
    };
    if path.directory {
        if !asked.body.is_end_stream() {
            return Err(Problem::bad(
                "a directory has no content: send nothing, or leave the slash",
            ));
        }
        return waiting(move || make_directory(&acting, &path, parents, mode, &conditions)).await;
    }
    // Before the body is taken: what will be refused need not be sent.
    let early = {
        let (acting, path, conditions) = (acting.clone(), path.clone(), conditions.clone());
        waiting(move || conditions.must(&acting, &path, parents))
    };
    let must = early.await?;
    let declared = asked.parts.headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > shared.config.upload_max) {
        return Err(too_long(&shared));
    }
    let mut staging = Staging::new(acting.clone());
    receive(&shared, asked.body, &mut staging).await?;
    waiting(move || {
        let content = staging.content()?;
        // Not before: what is refused leaves no directories behind.
        if parents && !matches!(must, Must::BeAsSeen(..)) {
            acting.make_parents(&path)?;
        }
        let Replaced { inode, new, seq } = acting.replace(&path, &content, mode, must)?;
        let status = if new { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
        changed(status, &inode, seq)
    })
    .await
}

fn too_long(shared: &Shared) -> Problem {
    let max = shared.config.upload_max;
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the file is longer than {max} bytes"))
}

async fn receive(shared: &Shared, mut body: Body, staging: &mut Staging) -> Result<(), Problem> {
    let mut total = 0;
    while let Some(piece) = next_piece(shared, &mut body).await? {
        total += piece.len() as u64;
        if total > shared.config.upload_max {
            return Err(too_long(shared));
        }
        staging.add(&piece).await?;
    }
    Ok(())
}

#[derive(Clone, Debug, Default)]
struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
}

impl Conditions {
    /// What the file must be, having looked at what it is. With `parents` the directories above it need not be there.
    fn must(&self, acting: &Acting, path: &TreePath, parents: bool) -> Result<Must, Problem> {
        let there = match acting.entry(path, Seq::NOW, true) {
            Ok(named) => named.inode,
            Err(problem) if parents && problem.status == StatusCode::NOT_FOUND => None,
            Err(problem) => return Err(problem),
        };
        let tag = there.as_ref().map(tag);
        if self.if_match.as_deref().is_some_and(|tags| !lists_tag(tags, tag.as_deref())) {
            return Err(changed_meanwhile());
        }
        if self.if_none_match.as_deref().is_some_and(|tags| lists_tag(tags, tag.as_deref())) {
            return Err(changed_meanwhile());
        }
        Ok(match (&there, &self.if_match, &self.if_none_match) {
            (Some(inode), Some(_), _) | (Some(inode), None, Some(_)) => {
                Must::BeAsSeen(inode.ino, inode.changed)
            }
            (None, _, Some(_)) => Must::BeNew,
            (_, None, None) | (None, Some(_), None) => Must::Be,
        })
    }
}

fn make_directory(
    acting: &Acting,
    path: &TreePath,
    parents: bool,
    mode: Option<u32>,
    conditions: &Conditions,
) -> Answer {
    conditions.must(acting, path, parents)?;
    match acting.make_directory(path, parents, mode)? {
        Some(inode) => changed(StatusCode::CREATED, &inode, inode.changed),
        None => {
            let last = acting.tree.last();
            let inode = acting.find(path, Seq::NOW)?;
            let Some(mode) = mode.filter(|mode| inode.mode & 0o7777 != *mode) else {
                return changed(StatusCode::NO_CONTENT, &inode, last);
            };
            let set = Attributes { mode: Some(mode), ..Attributes::default() };
            let seq = acting.set_attributes(&inode, set)?.seq.unwrap_or(last);
            changed(StatusCode::NO_CONTENT, &acting.tree.inode(inode.ino, seq)?, seq)
        }
    }
}

fn changed(status: StatusCode, inode: &Inode, seq: Seq) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::ETAG, header_value(&tag(inode))?);
    response.headers_mut().insert(SEQUENCE, HeaderValue::from(seq.0));
    Ok(response)
}

pub(crate) async fn delete(shared: Shared, asked: Asked) -> Answer {
    let path = path_of(&asked)?;
    let query = Query::parse(asked.parts.uri.query())?;
    let recursive = query.flag("recursive")?;
    let acting = shared.acting(&asked.session)?;
    let wanted = text(&asked.parts.headers, &header::IF_MATCH)?.map(str::to_owned);
    waiting(move || {
        let there = acting.entry(&path, Seq::NOW, false)?.inode;
        let there =
            there.ok_or_else(|| Problem::missing(format!("{} does not exist", path.text())))?;
        if wanted.as_deref().is_some_and(|tags| !lists_tag(tags, Some(&tag(&there)))) {
            return Err(changed_meanwhile());
        }
        if path.directory && there.mode & S_IFMT != S_IFDIR {
            return Err(Problem::conflict(format!("{} is no directory", path.text())));
        }
        let version = wanted.is_some().then_some(there.changed);
        let seq = acting.remove(&path, recursive, version)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(SEQUENCE, HeaderValue::from(seq.0));
        Ok(response)
    })
    .await
}

fn octal(text: &str) -> Result<u32, Problem> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| {
        let msg = "must be permissions in octal, such as 644";
        Problem::invalid(vec![fault("value_error", &["query", "mode"], msg)])
    })
}

/// A time as HTTP writes it.
pub(crate) fn http_date(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_second(time.0.div_euclid(1_000_000_000)).unwrap_or_default();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub(crate) fn rfc3339(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
    format!("{time:.6}")
}
