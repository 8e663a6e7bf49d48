//! The tree as a filesystem of `dav-server`; who acts comes with each call.
//!
//! What is sent becomes a file, or a part of one, when all of it has come.

use std::io::SeekFrom;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use bytes::{Buf, Bytes};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavMetaData, FsError, FsFuture, FsResult, FsStream, GuardedFileSystem,
    OpenOptions, ReadDirMeta,
};
use futures_util::stream;

use crate::api::acting::{Acting, Content, Must, NAMES_AT_ONCE, Named, READ, WRITE};
use crate::api::ask::TreePath;
use crate::api::problem::Problem;
use crate::api::routes::waiting;
use crate::api::staging::Staging;
use crate::tree::operation::{Attributes, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, TimeTo};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::transfer::Transfer;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// What the conditions of a request were held against: the version of a file, or that there is none.
pub(super) type Seen = Arc<OnceLock<Option<(Ino, Seq)>>>;

/// Why a listing ended before its end. `dav-server` (0.11) passes over it, and would answer as if that had been all.
pub(super) type CutShort = Arc<OnceLock<String>>;

/// The tree, for one request.
#[derive(Clone, Debug)]
pub(super) struct DavTree {
    pub(super) upload_max: u64,
    /// What a MOVE or COPY is about.
    pub(super) transfer: Option<Transfer>,
    /// Where an upload has conditions: the file must still be what they were held against once all has come.
    pub(super) seen: Option<Seen>,
    /// Why a listing is not whole, where one is not.
    pub(super) cut_short: CutShort,
    /// Opening a name that leads nowhere makes an empty file, whether or not anything is written: a LOCK.
    pub(super) makes_files: bool,
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

/// Notes that a listing has not even a beginning. Of what is gone, or closed to who asks, there is none.
fn note_unless_nothing(cut_short: &CutShort, problem: &Problem) {
    if !matches!(told_looking(problem), FsError::NotFound | FsError::Forbidden) {
        let _ = cut_short.set(problem.words());
    }
}

impl DavTree {
    fn path(&self, path: &DavPath) -> Result<TreePath, Problem> {
        let path = TreePath::from_bytes(path.as_bytes())?;
        Ok(match &self.transfer {
            Some(transfer) => transfer.meant(path),
            None => path,
        })
    }

    /// What the transfer, where there is one, says of `path`.
    fn asks(&self, path: &DavPath, what: fn(&Transfer, &TreePath) -> bool) -> bool {
        let path = TreePath::from_bytes(path.as_bytes());
        self.transfer.as_ref().zip(path.ok()).is_some_and(|(transfer, path)| what(transfer, &path))
    }

    /// Does something with one path, on a thread that may wait.
    fn with_path<'a, T: Send + 'static>(
        &self,
        acting: &Acting,
        path: &DavPath,
        told: fn(&Problem) -> FsError,
        work: impl FnOnce(&Acting, TreePath) -> Result<T, Problem> + Send + 'static,
    ) -> FsFuture<'a, T> {
        let (acting, path) = (acting.clone(), self.path(path));
        Box::pin(async move {
            let done = waiting(move || work(&acting, path?)).await;
            done.map_err(|problem| told(&problem))
        })
    }
}

impl GuardedFileSystem<Acting> for DavTree {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        let Self { upload_max, makes_files, .. } = *self;
        let seen = self.seen.as_ref().and_then(|seen| seen.get().copied());
        let with = acting.clone();
        self.with_path(acting, path, told, move |acting, path| {
            let changes = options.write || options.append || options.truncate;
            // What is read is of one moment: its size, its tag and its bytes.
            let at = if changes { Seq::NOW } else { acting.tree.last() };
            let there = acting.entry(&path, at, true)?.inode;
            if let Some(inode) = &there {
                if inode.mode & S_IFMT != S_IFREG {
                    return Err(Problem::new(StatusCode::FORBIDDEN, "it is no file"));
                }
                acting.may(inode, if changes { WRITE } else { READ }, at)?;
            }
            if !changes {
                let inode = there.ok_or_else(|| Problem::missing("there is no such file"))?;
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
            if there.is_none() && !options.create && !options.create_new {
                return Err(Problem::missing("there is no such file"));
            }
            let there = match there {
                None if makes_files => {
                    let empty = Content::Short(Vec::new());
                    Some(acting.replace(&path, &empty, None, Must::BeNew)?.inode)
                }
                there => there,
            };
            let must = match seen {
                _ if options.create_new => Must::BeNew,
                Some(Some((ino, version))) => Must::BeAsSeen(ino, version),
                Some(None) => Must::BeNew,
                None => Must::Be,
            };
            let becomes = match options {
                OpenOptions { append: true, .. } => Becomes::End,
                OpenOptions { truncate: false, .. } => Becomes::Part { from: 0 },
                _ => Becomes::All,
            };
            let staging = Box::new(Staging::new(with.clone()));
            let how = How::Upload { path, becomes, staging, must };
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
        let cut_short = Arc::clone(&self.cut_short);
        let with = acting.clone();
        self.with_path(acting, path, told_looking, move |acting, path| {
            let at = acting.tree.last();
            let dir = acting.find(&path, at);
            let dir = dir.and_then(|dir| acting.may(&dir, READ, at).map(|()| dir));
            let dir = dir.inspect_err(|problem| note_unless_nothing(&cut_short, problem))?;
            let listing = Listing {
                acting: with,
                dir: dir.ino,
                at,
                names: Vec::new().into_iter(),
                next: Some(0),
                cut_short,
            };
            let names = stream::unfold(listing, |mut listing| async move {
                let name = listing.next().await?;
                Some((name, listing))
            });
            Ok(Box::pin(names) as FsStream<Box<dyn DavDirEntry>>)
        })
    }

    fn metadata<'a>(
        &'a self,
        path: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        let follow = !self.asks(path, Transfer::takes_along);
        let seen = self.seen.clone();
        self.with_path(acting, path, told_looking, move |acting, path| {
            let found = acting.entry(&path, Seq::NOW, follow).and_then(|named| there(&named));
            if let Some(seen) = seen {
                // The first is the file itself, before anything else is looked at. That one stays.
                let _ = seen.set(found.as_ref().ok().map(|inode| (inode.ino, inode.changed)));
            }
            Ok(Box::new(Meta(found?)) as Box<dyn DavMetaData>)
        })
    }

    fn symlink_metadata<'a>(
        &'a self,
        path: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        self.with_path(acting, path, told_looking, |acting, path| {
            let inode = acting.entry(&path, Seq::NOW, false).and_then(|named| there(&named))?;
            Ok(Box::new(Meta(inode)) as Box<dyn DavMetaData>)
        })
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        self.with_path(acting, path, told, |acting, path| {
            let made = acting.make_directory(&path, false, None)?;
            made.map(drop).ok_or_else(|| Problem::conflict("it is there already"))
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        self.with_path(acting, path, told, |acting, path| {
            acting.remove(&path, false, None).map(drop)
        })
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath, acting: &'a Acting) -> FsFuture<'a, ()> {
        if self.asks(path, Transfer::keeps) {
            return Box::pin(async { Ok(()) });
        }
        self.with_path(acting, path, told, |acting, path| {
            acting.remove(&path, false, None).map(drop)
        })
    }

    fn rename<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        let to = self.path(to);
        self.with_path(acting, from, told, |acting, from| acting.rename(&from, &to?).map(drop))
    }

    fn copy<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        let (to, along) = (self.path(to), self.asks(from, Transfer::takes_along));
        self.with_path(acting, from, told, move |acting, from| {
            let to = to?;
            if along
                && let Some(inode) = acting.entry(&from, Seq::NOW, false)?.inode
                && inode.mode & S_IFMT == S_IFLNK
            {
                return acting.copy_link(&inode, &to);
            }
            acting.copy(&from, &to).map(drop)
        })
    }

    fn set_modified<'a>(
        &'a self,
        path: &'a DavPath,
        time: SystemTime,
        acting: &'a Acting,
    ) -> FsFuture<'a, ()> {
        self.with_path(acting, path, told, move |acting, path| {
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

fn there(named: &Named) -> Result<Inode, Problem> {
    named.inode.ok_or_else(|| Problem::missing("there is nothing"))
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

/// A directory as it was after one event, read while it is told of: however many names it has, few are in memory, and changes
/// get through in between.
struct Listing {
    acting: Acting,
    dir: Ino,
    at: Seq,
    /// Names that were read, and not yet told of.
    names: std::vec::IntoIter<(Vec<u8>, Inode)>,
    /// Where the next begin, if there are others.
    next: Option<u64>,
    cut_short: CutShort,
}

impl Listing {
    async fn next(&mut self) -> Option<FsResult<Box<dyn DavDirEntry>>> {
        loop {
            if let Some((name, inode)) = self.names.next() {
                return Some(Ok(Box::new(Child { name, inode })));
            }
            let (acting, dir, at, from) =
                (self.acting.clone(), self.dir, self.at, self.next.take()?);
            match waiting(move || acting.list(dir, at, from, NAMES_AT_ONCE)).await {
                Ok((names, next)) => (self.names, self.next) = (names.into_iter(), next),
                Err(problem) => {
                    // The first is as good as any.
                    let _ = self.cut_short.set(problem.words());
                    return Some(Err(told(&problem)));
                }
            }
        }
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
    /// What is written takes effect at the flush.
    Upload { path: TreePath, becomes: Becomes, staging: Box<Staging>, must: Must },
}

/// What of a file becomes of what is written, also where there was none before.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    All,
    Part {
        from: u64,
    },
    /// It comes behind all else.
    End,
}

impl Open {
    async fn write(&mut self, bytes: Bytes) -> FsResult<()> {
        let len = bytes.len() as u64;
        let end = self.offset.checked_add(len).filter(|end| *end <= self.upload_max);
        let end = end.ok_or(FsError::TooLarge)?;
        match &mut self.how {
            How::Read { .. } => return Err(FsError::Forbidden),
            How::Upload { staging, .. } => {
                staging.add(&bytes).await.map_err(|problem| told(&problem))?;
            }
        }
        self.offset = end;
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
        let to = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => size.checked_add_signed(by),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
        };
        let possible = match (&mut self.how, to) {
            (How::Read { .. }, Some(to)) => {
                self.offset = to;
                true
            }
            // Where there is no file, one begins at its beginning.
            (How::Upload { becomes: Becomes::Part { from }, staging, .. }, Some(to))
                if staging.is_empty() && (to == 0 || self.inode.is_some()) =>
            {
                (*from, self.offset) = (to, to);
                true
            }
            // `dav-server` (0.11) goes to the beginning of what it opened to append to.
            (How::Upload { becomes: Becomes::End, .. }, _) => true,
            // What becomes all of a file is written from its beginning, and a part without a gap.
            (How::Upload { .. } | How::Read { .. }, to) => to == Some(self.offset),
        };
        let offset = to.filter(|_| possible);
        Box::pin(async move { offset.ok_or(FsError::NotImplemented) })
    }

    fn flush(&'_ mut self) -> FsFuture<'_, ()> {
        Box::pin(async move {
            let (acting, is_new) = (self.acting.clone(), self.inode.is_none());
            let How::Upload { path, becomes, staging, must } = &mut self.how else { return Ok(()) };
            let (path, becomes, must) = (path.clone(), *becomes, *must);
            // Who asks may go away meanwhile.
            let mut staging = staging.take();
            let inode = waiting(move || {
                let content = staging.content()?;
                match becomes {
                    Becomes::All => Ok(acting.replace(&path, &content, None, must)?.inode),
                    Becomes::Part { from } => {
                        acting.replace_part(&path, Some(from), &content, must, is_new)
                    }
                    Becomes::End => acting.replace_part(&path, None, &content, must, is_new),
                }
            });
            self.inode = Some(inode.await.map_err(|problem| told(&problem))?);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc::{Sender, channel};

    use futures_util::StreamExt;

    use crate::api::session::Session;
    use crate::tree::Tree;
    use crate::tree::operation::{Caller, Operation};

    use super::*;

    fn make(tree: &Tree, name: &str) {
        let (parent, mode, rdev, exclusive, security) = (Ino::ROOT, S_IFREG | 0o644, 0, true, None);
        let name = name.as_bytes();
        let operation = Operation::Make { parent, name, mode, rdev, exclusive, security };
        tree.perform(&Caller::default(), &operation).unwrap();
    }

    /// Keeps the only thread that may wait busy until it is dropped.
    fn plug() -> Sender<()> {
        let (plug, plugged) = channel();
        drop(tokio::task::spawn_blocking(move || plugged.recv()));
        plug
    }

    fn acting(tree: &Tree) -> Acting {
        let session = Session { id: "session".to_owned(), agent: "agent".to_owned() };
        Acting::new(tree, &session, None, &Arc::default(), None).unwrap()
    }

    fn dav() -> DavTree {
        DavTree {
            upload_max: 1 << 30,
            transfer: None,
            seen: None,
            cut_short: CutShort::default(),
            makes_files: false,
        }
    }

    /// A thread for what is asked, and one for what waits.
    fn runtime() -> tokio::runtime::Runtime {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.max_blocking_threads(1).build().unwrap()
    }

    fn content(acting: &Acting, name: &str) -> Vec<u8> {
        let inode = acting.find(&TreePath::from_text(name).unwrap(), Seq::NOW).unwrap();
        acting.read(inode.ino, 0, 4 << 20, Seq::NOW).unwrap().to_vec()
    }

    #[test]
    fn who_goes_away_while_an_upload_takes_effect_takes_nothing_of_it_along() {
        let tree = Tree::in_memory();
        let acting = acting(&tree);
        let dav = dav();
        let path = DavPath::new("/file").unwrap();
        let (runtime, bytes) = (runtime(), vec![b'n'; 2 << 20]);
        runtime.block_on(async {
            let (write, create, truncate) = (true, true, true);
            let options = OpenOptions { write, create, truncate, ..OpenOptions::default() };
            let mut file = dav.open(&path, options, &acting).await.unwrap();
            file.write_bytes(bytes.clone().into()).await.unwrap();
            let plugged = plug();
            let mut flush = file.flush();
            poll_fn(|context| {
                assert!(flush.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            drop(flush);
            drop(file);
            drop(plugged);
            // Behind the change, on the only thread there is.
            waiting(|| Ok(())).await.unwrap();
        });
        assert!(content(&acting, "file") == bytes);
        let (_, totals) = tree.space().unwrap();
        assert_eq!(totals.inodes, 2, "the root and the file: nothing is left of the upload");
    }

    #[test]
    fn a_part_stays_one_where_a_file_comes_meanwhile_and_begins_one_where_none_does() {
        for (append, comes, expected) in [
            (false, true, &b"partthing"[..]),
            (true, true, b"somethingpart"),
            (false, false, b"part"),
            (true, false, b"part"),
        ] {
            let tree = Tree::in_memory();
            let acting = acting(&tree);
            let dav = dav();
            let path = DavPath::new("/file").unwrap();
            runtime().block_on(async {
                let (write, create) = (true, true);
                let options = OpenOptions { write, create, append, ..OpenOptions::default() };
                let mut file = dav.open(&path, options, &acting).await.unwrap();
                file.seek(SeekFrom::Start(0)).await.unwrap();
                file.write_bytes(Bytes::from_static(b"part")).await.unwrap();
                if comes {
                    let (path, other) = (TreePath::from_text("file").unwrap(), b"something");
                    let other = Content::Short(other.to_vec());
                    acting.replace(&path, &other, None, Must::Be).unwrap();
                }
                file.flush().await.unwrap();
            });
            assert_eq!(content(&acting, "file"), expected, "append: {append}, comes: {comes}");
        }
    }

    #[test]
    fn a_listing_that_does_not_begin_is_cut_short_unless_there_is_nothing_to_tell() {
        for (problem, noted) in [
            (Problem::missing("it is gone"), false),
            (Problem::conflict("a file is in the way"), false),
            (Problem::new(StatusCode::FORBIDDEN, "it is closed"), false),
            (Problem::unavailable("the disk does not answer"), true),
        ] {
            let cut_short = CutShort::default();
            note_unless_nothing(&cut_short, &problem);
            assert_eq!(cut_short.get(), noted.then(|| problem.words()).as_ref(), "{problem:?}");
        }
    }

    #[test]
    fn a_directory_is_read_page_by_page_while_it_is_told_of() {
        let tree = Tree::in_memory();
        for n in 0..2 * NAMES_AT_ONCE + 1 {
            make(&tree, &format!("f{n}"));
        }
        let acting = acting(&tree);
        let dav = dav();
        let root = DavPath::new("/").unwrap();
        let (told, pauses) = runtime().block_on(async {
            let mut names = dav.read_dir(&root, ReadDirMeta::Data, &acting).await.unwrap();
            let (mut told, mut pauses) = (0, Vec::new());
            let mut plugged = Some(plug());
            loop {
                let name = poll_fn(|context| {
                    let polled = names.poll_next_unpin(context);
                    if polled.is_pending() && plugged.take().is_some() {
                        pauses.push(told);
                        // It is of one moment, whatever comes meanwhile.
                        make(&tree, &format!("new{told}"));
                    }
                    polled
                });
                let Some(name) = name.await else { return (told, pauses) };
                name.unwrap();
                told += 1;
                plugged.get_or_insert_with(plug);
            }
        });
        assert_eq!(told, 2 * NAMES_AT_ONCE + 1);
        assert_eq!(pauses, [0, NAMES_AT_ONCE, 2 * NAMES_AT_ONCE]);
        assert!(dav.cut_short.get().is_none());
    }
}
