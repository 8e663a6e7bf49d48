//! `/dav/`: the tree for WebDAV clients, so that a host without FUSE can mount it too.
//!
//! Only the present. Paths, rights and events are those of `/files/`; an upload takes effect once it is
//! whole. Locks are kept in memory, and known to WebDAV alone.
//!
//! Programs that know only Basic authentication show a session's token as the password, whatever the user; where a
//! session key is demanded, that key does as well, and the user is the agent. Nothing else does: who may have a session
//! asks for one first, here as at `/files/`.

use std::io::SeekFrom;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use bytes::{Buf, Bytes};
use dav_server::DavHandler;
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavMetaData, FsError, FsFuture, FsResult, FsStream, GuardedFileSystem,
    OpenOptions, ReadDirMeta,
};
use dav_server::ls::DavLockSystem;
use dav_server::memls::MemLs;
use futures_util::stream;
use http_body_util::BodyExt;

use crate::tree::operation::{Attributes, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, TimeTo};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::acting::{Acting, Content, Must, READ, WRITE};
use super::ask::{TreePath, from_base64};
use super::problem::Problem;
use super::routes::{Answer, Asked, next_piece, waiting, with_token};
use super::session::{Session, TEXT_MAX};
use super::state::Shared;

/// Where it is, in paths of requests.
const PREFIX: &str = "/dav";
/// Bytes read at a time.
const PIECE: usize = 256 << 10;
/// So much of an upload is kept in memory.
const SHORT_MAX: usize = 1 << 20;

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
    MemLs::new()
}

pub(crate) async fn serve(shared: Shared, asked: Asked) -> Answer {
    let acting = shared.acting(&asked.session)?;
    let handler = DavHandler::builder()
        .filesystem(Box::new(DavTree { upload_max: shared.config.upload_max }))
        .locksystem(shared.locks.clone())
        .strip_prefix(PREFIX)
        .build_handler();
    let head = asked.parts.method == Method::HEAD;
    let mut asked_parts = asked.parts;
    if asked_parts.uri.path() == PREFIX {
        asked_parts.uri = Uri::from_static("/dav/");
    }
    let wrong = |path: &str| Problem::bad(format!("{path:?} is no path below {PREFIX}/"));
    below_prefix(asked_parts.uri.path()).ok_or_else(|| wrong(asked_parts.uri.path()))??;
    if let Some(to) = asked_parts.headers.get("destination") {
        let to = to.to_str().map_err(|_| Problem::bad("Destination is no ASCII text"))?;
        below_prefix(path_in_url(to)).ok_or_else(|| wrong(to))??;
    }
    if has_half_a_tag(&asked_parts.headers) {
        return Err(Problem::bad("a condition has an entity tag of a single quote"));
    }
    end_conditions(&mut asked_parts.headers);
    let request = Request::from_parts(asked_parts, patient(shared, asked.body));
    let response = handler.handle_guarded(request, asked.session.agent, acting).await;
    let (mut parts, body) = response.into_parts();
    let body = Body::new(body);
    let (status, why) = match parts.status {
        // What cannot be done here for now: the store refuses, or the client broke off.
        StatusCode::INTERNAL_SERVER_ERROR => {
            (StatusCode::SERVICE_UNAVAILABLE, "the store refuses, or the client broke off")
        }
        StatusCode::NOT_IMPLEMENTED => (
            StatusCode::FORBIDDEN,
            "this cannot be asked here: a listing of all depths (ask for Depth 0 or 1), or a method that is unknown",
        ),
        StatusCode::BAD_GATEWAY => {
            (StatusCode::BAD_REQUEST, "Destination is outside this tree, or the body ended early")
        }
        StatusCode::LOCKED => (StatusCode::LOCKED, "somebody has locked it"),
        other => (other, other.canonical_reason().unwrap_or("it cannot be done")),
    };
    parts.status = status;
    if !status.is_client_error() && !status.is_server_error() || head {
        return Ok(axum::response::Response::from_parts(parts, body));
    }
    // It is a stream, of which nothing else says whether anything is in it. What one is refused with is short.
    let said = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if !said.is_empty() {
        return Ok(axum::response::Response::from_parts(parts, Body::from(said)));
    }
    // Its reason is in the status alone. What else it says, such as which methods there are, stays.
    let mut response = Problem::new(status, why).into_response();
    for name in [header::ALLOW, header::CONNECTION] {
        if let Some(value) = parts.headers.remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// The path in the tree that one of a URL means; `None` where it is not below ours. `dav-server` (0.11) fails at some that
/// are not, or that lead out by dots.
fn below_prefix(path: &str) -> Option<Result<TreePath, Problem>> {
    let rest = path.strip_prefix(PREFIX)?;
    rest.starts_with('/').then(|| TreePath::from_url(rest))
}

/// The path in a URL, or in what stands for one behind its host.
fn path_in_url(url: &str) -> &str {
    let behind_host = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => url,
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

/// The tree as a filesystem of WebDAV; who acts comes with each call.
#[derive(Clone, Debug)]
struct DavTree {
    upload_max: u64,
}

/// What a client is told where something is refused.
fn told(problem: &Problem) -> FsError {
    match problem.status {
        StatusCode::NOT_FOUND => FsError::NotFound,
        StatusCode::FORBIDDEN => FsError::Forbidden,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => FsError::Exists,
        StatusCode::BAD_REQUEST => FsError::PathTooLong,
        StatusCode::PAYLOAD_TOO_LARGE => FsError::TooLarge,
        StatusCode::INSUFFICIENT_STORAGE => FsError::InsufficientStorage,
        _ => FsError::GeneralFailure,
    }
}

/// As [`told`], to who only looks: where a file is in the way there is nothing.
fn told_looking(problem: &Problem) -> FsError {
    match told(problem) {
        FsError::Exists => FsError::NotFound,
        other => other,
    }
}

fn tree_path(path: &DavPath) -> Result<TreePath, Problem> {
    TreePath::from_bytes(path.as_bytes())
}

/// Does something with one path, on a thread that may wait.
fn with_path<'a, T: Send + 'static>(
    acting: &'a Acting,
    path: &'a DavPath,
    told: fn(&Problem) -> FsError,
    work: impl FnOnce(&Acting, TreePath) -> Result<T, Problem> + Send + 'static,
) -> FsFuture<'a, T> {
    let (acting, path) = (acting.clone(), tree_path(path));
    Box::pin(async move {
        let done = waiting(move || work(&acting, path?)).await;
        done.map_err(|problem| told(&problem))
    })
}

impl GuardedFileSystem<Acting> for DavTree {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        let upload_max = self.upload_max;
        let with = acting.clone();
        with_path(acting, path, told, move |acting, path| {
            let changes = options.write || options.append || options.truncate;
            let there = acting.entry(&path, Seq::NOW, true)?.inode;
            if let Some(inode) = &there {
                if inode.mode & S_IFMT != S_IFREG {
                    return Err(Problem::new(StatusCode::FORBIDDEN, "it is no file"));
                }
                acting.may(inode, if changes { WRITE } else { READ }, Seq::NOW)?;
            }
            if !changes {
                let inode = there.ok_or_else(|| Problem::missing("there is no such file"))?;
                let at = acting.tree.last();
                let how = How::Read { at };
                return Ok(Box::new(Open {
                    acting: with,
                    inode: Some(inode),
                    how,
                    offset: 0,
                    upload_max,
                }) as Box<dyn DavFile>);
            }
            if options.create_new && there.is_some() {
                return Err(Problem::conflict("it is there already"));
            }
            let how = match &there {
                // A part of it is replaced: in place.
                Some(inode) if !options.truncate => How::InPlace { ino: inode.ino },
                None if !options.create && !options.create_new => {
                    return Err(Problem::missing("there is no such file"));
                }
                _ => How::Whole {
                    path,
                    staged: None,
                    pending: Vec::new(),
                    must_be_new: options.create_new,
                },
            };
            let offset = match &there {
                Some(inode) if options.append => inode.size,
                _ => 0,
            };
            Ok(Box::new(Open { acting: with, inode: there, how, offset, upload_max })
                as Box<dyn DavFile>)
        })
    }

    fn read_dir<'a>(
        &'a self,
        path: &'a DavPath,
        _: ReadDirMeta,
        acting: &'a Acting,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        with_path(acting, path, told_looking, |acting, path| {
            let dir = acting.find(&path, Seq::NOW)?;
            acting.may(&dir, READ, Seq::NOW)?;
            let (names, _) = acting.list(dir.ino, Seq::NOW, 0, usize::MAX)?;
            let names = names
                .into_iter()
                .map(|(name, inode)| Ok(Box::new(Child { name, inode }) as Box<dyn DavDirEntry>));
            Ok(Box::pin(stream::iter(names.collect::<Vec<_>>())) as FsStream<Box<dyn DavDirEntry>>)
        })
    }

    fn metadata<'a>(
        &'a self,
        path: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        with_path(acting, path, told_looking, |acting, path| {
            Ok(Box::new(Meta(acting.find(&path, Seq::NOW)?)) as Box<dyn DavMetaData>)
        })
    }

    fn symlink_metadata<'a>(
        &'a self,
        path: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        with_path(acting, path, told_looking, |acting, path| {
            let inode = acting.entry(&path, Seq::NOW, false)?.inode;
            let inode = inode.ok_or_else(|| Problem::missing("there is nothing"))?;
            Ok(Box::new(Meta(inode)) as Box<dyn DavMetaData>)
        })
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        with_path(acting, path, told, |acting, path| {
            let made = acting.make_directory(&path, false)?;
            made.map(drop).ok_or_else(|| Problem::conflict("it is there already"))
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        with_path(acting, path, told, |acting, path| acting.remove(&path, false, None).map(drop))
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        with_path(acting, path, told, |acting, path| acting.remove(&path, false, None).map(drop))
    }

    fn rename<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        let to = tree_path(to);
        with_path(acting, from, told, |acting, from| acting.rename(&from, &to?).map(drop))
    }

    fn copy<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        let to = tree_path(to);
        with_path(acting, from, told, |acting, from| acting.copy(&from, &to?).map(drop))
    }

    fn set_modified<'a>(
        &'a self,
        path: &'a DavPath,
        time: SystemTime,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        with_path(acting, path, told, move |acting, path| {
            let inode = acting.find(&path, Seq::NOW)?;
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let time = TimeTo::from_parts(seconds, since.subsec_nanos());
            let set = Attributes { mtime: Some(time), ..Attributes::default() };
            acting.set_attributes(&inode, set).map(drop)
        })
    }

    fn get_quota<'a>(&'a self, acting: &'a Acting) -> FsFuture<'a, (u64, Option<u64>)> {
        let tree = acting.tree.clone();
        Box::pin(async move {
            let space = waiting(move || Ok(tree.space()?)).await;
            let (space, totals) = space.map_err(|problem| told(&problem))?;
            Ok((totals.allocated, Some(totals.allocated.saturating_add(space.available))))
        })
    }
}

/// What can be told of a file or directory.
#[derive(Clone, Debug)]
struct Meta(Inode);

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.0.unsigned_abs());
    let moved = match time.0 {
        0.. => SystemTime::UNIX_EPOCH.checked_add(nanos),
        _ => SystemTime::UNIX_EPOCH.checked_sub(nanos),
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn modified(&self) -> FsResult<SystemTime> {
        Ok(system_time(self.0.mtime))
    }

    fn is_dir(&self) -> bool {
        self.0.mode & S_IFMT == S_IFDIR
    }

    fn is_symlink(&self) -> bool {
        self.0.mode & S_IFMT == S_IFLNK
    }

    fn created(&self) -> FsResult<SystemTime> {
        Ok(system_time(self.0.btime))
    }

    fn status_changed(&self) -> FsResult<SystemTime> {
        Ok(system_time(self.0.ctime))
    }

    fn accessed(&self) -> FsResult<SystemTime> {
        Ok(system_time(self.0.atime))
    }

    fn executable(&self) -> FsResult<bool> {
        Ok(self.0.mode & 0o100 != 0)
    }

    fn etag(&self) -> Option<String> {
        Some(format!("{}-{}", self.0.ino, self.0.changed))
    }
}

/// One name in a directory.
struct Child {
    name: Vec<u8>,
    inode: Inode,
}

impl DavDirEntry for Child {
    fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn metadata(&'_ self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta = Meta(self.inode);
        Box::pin(async move { Ok(Box::new(meta) as Box<dyn DavMetaData>) })
    }
}

/// An open file.
#[derive(Debug)]
struct Open {
    acting: Acting,
    inode: Option<Inode>,
    how: How,
    offset: u64,
    upload_max: u64,
}

#[derive(Debug)]
enum How {
    /// One version of it.
    Read { at: Seq },
    /// Each write goes into it.
    InPlace { ino: Ino },
    /// What is written becomes all of it, at the flush.
    Whole { path: TreePath, staged: Option<(Ino, u64)>, pending: Vec<u8>, must_be_new: bool },
}

impl Drop for Open {
    fn drop(&mut self) {
        if let How::Whole { staged: Some((ino, len)), .. } = self.how {
            self.acting.discard(&Content::Staged { ino, len });
        }
    }
}

impl Open {
    async fn write(&mut self, bytes: Bytes) -> FsResult<()> {
        let len = bytes.len() as u64;
        let end = self.offset.checked_add(len).filter(|end| *end <= self.upload_max);
        let end = end.ok_or(FsError::TooLarge)?;
        match &mut self.how {
            How::Read { .. } => return Err(FsError::Forbidden),
            &mut How::InPlace { ino } => {
                let (acting, offset) = (self.acting.clone(), self.offset);
                let written = waiting(move || acting.write(ino, offset, &bytes).map(drop)).await;
                written.map_err(|problem| told(&problem))?;
            }
            How::Whole { pending, .. } => {
                pending.extend_from_slice(&bytes);
                if pending.len() >= SHORT_MAX {
                    self.spill().await?;
                }
            }
        }
        self.offset = end;
        Ok(())
    }

    async fn spill(&mut self) -> FsResult<()> {
        let How::Whole { staged, pending, .. } = &mut self.how else { return Ok(()) };
        let bytes = std::mem::take(pending);
        let (ino, len) = match *staged {
            Some(staged) => staged,
            None => {
                let acting = self.acting.clone();
                let ino =
                    waiting(move || acting.stage()).await.map_err(|problem| told(&problem))?;
                (ino, 0)
            }
        };
        let all = len + bytes.len() as u64;
        *staged = Some((ino, len));
        let acting = self.acting.clone();
        let written = waiting(move || acting.write(ino, len, &bytes).map(drop)).await;
        written.map_err(|problem| told(&problem))?;
        *staged = Some((ino, all));
        Ok(())
    }
}

impl DavFile for Open {
    fn metadata(&'_ mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta = self.inode.map(|inode| Box::new(Meta(inode)) as Box<dyn DavMetaData>);
        Box::pin(async move { meta.ok_or(FsError::NotFound) })
    }

    fn write_buf(&'_ mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        Box::pin(self.write(bytes))
    }

    fn write_bytes(&'_ mut self, bytes: Bytes) -> FsFuture<'_, ()> {
        Box::pin(self.write(bytes))
    }

    fn read_bytes(&'_ mut self, count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(async move {
            let (How::Read { at }, Some(inode)) = (&self.how, self.inode) else {
                return Err(FsError::Forbidden);
            };
            let (acting, at, offset) = (self.acting.clone(), *at, self.offset);
            let read = waiting(move || acting.read(inode.ino, offset, count.min(PIECE), at)).await;
            let bytes = read.map_err(|problem| told(&problem))?;
            self.offset += bytes.len() as u64;
            Ok(bytes)
        })
    }

    fn seek(&'_ mut self, to: SeekFrom) -> FsFuture<'_, u64> {
        let size = self.inode.map_or(0, |inode| inode.size);
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => size.checked_add_signed(by),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
        };
        // What becomes all of a file is written from its beginning.
        let possible = !matches!(self.how, How::Whole { .. }) || offset == Some(self.offset);
        let offset = offset.filter(|_| possible);
        if let Some(offset) = offset {
            self.offset = offset;
        }
        Box::pin(async move { offset.ok_or(FsError::NotImplemented) })
    }

    fn flush(&'_ mut self) -> FsFuture<'_, ()> {
        Box::pin(async move {
            match &self.how {
                How::Read { .. } => return Ok(()),
                How::Whole { staged: Some(_), .. } => self.spill().await?,
                How::Whole { .. } | How::InPlace { .. } => (),
            }
            let acting = self.acting.clone();
            let inode = match &mut self.how {
                &mut How::InPlace { ino } => {
                    waiting(move || {
                        acting.version_ends(ino);
                        Ok(acting.tree.inode(ino, Seq::NOW)?)
                    })
                    .await
                }
                How::Whole { path, staged, pending, must_be_new } => {
                    let content = match *staged {
                        Some((ino, len)) => Content::Staged { ino, len },
                        None => Content::Short(std::mem::take(pending)),
                    };
                    let must = if *must_be_new { Must::BeNew } else { Must::Be };
                    let path = path.clone();
                    waiting(move || Ok(acting.replace(&path, &content, None, must)?.inode)).await
                }
                How::Read { .. } => return Ok(()),
            };
            self.inode = Some(inode.map_err(|problem| told(&problem))?);
            Ok(())
        })
    }
}
