//! One match over operations, one match from refusals to errno.
//!
//! What is not served is refused with the errno that makes the kernel stop asking:
//!
//! | operation | errno | what the kernel does then |
//! |---|---|---|
//! | FLUSH | ENOSYS | closes without asking, after writing mapped pages back |
//! | ACCESS | ENOSYS | nothing changes: it checks modes itself |
//! | OPEN | ENOSYS where the view's options say so | takes every file for open, and reads it through handle 0 |
//! | OPENDIR | ENOSYS where NO_OPENDIR_SUPPORT was agreed on | takes every directory for open, and keeps its listing |
//! | STATX | ENOSYS where the view's options say so | tells of an inode what GETATTR says, which has no birth time |
//! | GETLK, SETLK, SETLKW | ENOSYS | keeps locks itself; it never asks unless we offered |
//! | POLL | ENOSYS where there are no streams | says that files are always ready |
//! | BMAP | ENOSYS | says that there are no blocks |
//! | IOCTL | ENOTTY | hands it on; other commands may come |
//! | SETUPMAPPING, REMOVEMAPPING | ENOSYS | never asked: there is no DAX window |
//!
//! Invariants: serving an operation from memory allocates nothing where no value of unknown length
//! (a target, an extended attribute) is returned.

use std::mem::size_of;

use crate::meter::LaneId;
use crate::proto::dirent::{Dirent, DirentBuffer};
use crate::proto::extension::Extensions;
use crate::proto::op::{self, Op, SetTime, Whence};
use crate::proto::reply::Reply;
use crate::proto::types::{Caller, Errno, FileHandle, Name, NodeId, RequestId};
use crate::transport::turns::Turn;
use crate::view::listing::{Listed, Page};
use crate::view::{
    Asker, Attributes, Bytes, Found, Range, Read, Refusal, Scratch, Stored, TimeTo, TreeRefusal,
    Unregistered, View,
};

/// What one reader keeps from request to request.
#[derive(Debug)]
pub struct Work {
    /// Values of a length nobody knows beforehand.
    value: Vec<u8>,
    scratch: Scratch,
    /// Replies to READ of so many bytes and more stay in the store's files, where they lie in one piece.
    pub(super) splice_from: usize,
    /// Where its measurements go, once there are some.
    pub(super) lane: Option<LaneId>,
    /// Its turn to receive, where readers take turns.
    pub(super) turn: Option<Turn>,
}

impl Default for Work {
    /// Every reply is copied into the room.
    fn default() -> Self {
        Self {
            value: Vec::new(),
            scratch: Scratch::default(),
            splice_from: usize::MAX,
            lane: None,
            turn: None,
        }
    }
}

/// Most supplementary groups that are looked at; the kernel sends one at most.
const GROUPS_MAX: usize = 32;

/// A reply, and whether its data is elsewhere.
#[derive(Debug)]
pub struct Answer<'w, 'v> {
    /// The reply.
    pub reply: Reply<'w>,
    /// Where its data is, if it is one of [`Reply::data_elsewhere`].
    pub stored: Option<Stored<'v>>,
}

impl<'w> From<Reply<'w>> for Answer<'w, '_> {
    fn from(reply: Reply<'w>) -> Self {
        Self { reply, stored: None }
    }
}

/// Asks the view what `op` asks, and answers. Content and listings are put into `room`, which the transport
/// lent with the request.
pub fn answer<'w, 'v>(
    view: &'v View,
    id: RequestId,
    caller: Caller,
    op: &Op<'_>,
    room: &mut [u8],
    work: &'w mut Work,
) -> Answer<'w, 'v> {
    if let Op::Read(op) = op {
        return read(view, id, op, room, work)
            .unwrap_or_else(|errno| Reply::error(id, errno).into());
    }
    let answered = if id.is_resent() { again(view, id, op) } else { None };
    let result = match answered {
        Some(answered) => answered,
        None => attempt(view, id, caller, op, room, work),
    };
    result.unwrap_or_else(|errno| Reply::error(id, errno)).into()
}

/// From this size on a request's data takes longer to copy than another thread takes to be there for the next one.
const MUCH: usize = 64 << 10;

/// Whether `op` is served by copying for so long that others should not wait for it.
pub(super) fn copies_much(op: &Op<'_>) -> bool {
    match op {
        Op::Read(read) => len(read.size) >= MUCH,
        Op::Write(write) => write.data.len() >= MUCH,
        _ => false,
    }
}

/// Whether `op` adds events, which is done one after the other.
pub(super) fn changes(op: &Op<'_>) -> bool {
    matches!(
        op,
        Op::SetAttr(_)
            | Op::Symlink(_)
            | Op::MkNod(_)
            | Op::MkDir(_)
            | Op::Unlink(_)
            | Op::RmDir(_)
            | Op::Rename(_)
            | Op::Rename2(_)
            | Op::Link(_)
            | Op::Create(_)
            | Op::TmpFile(_)
            | Op::Write(_)
            | Op::SetXattr(_)
            | Op::RemoveXattr(_)
            | Op::Fallocate(_)
            | Op::CopyFileRange(_)
            | Op::CopyFileRange64(_)
    )
}

/// Reading changes nothing, so it is done again if it comes again.
fn read<'v>(
    view: &'v View,
    id: RequestId,
    op: &op::Read,
    room: &mut [u8],
    work: &mut Work,
) -> Result<Answer<'static, 'v>, Errno> {
    let Work { scratch, splice_from, .. } = work;
    let buffer = room.get_mut(..len(op.size)).ok_or(Errno::EINVAL)?;
    Ok(match view.read(op.node, op.handle, op.offset, buffer, scratch, *splice_from)? {
        Read::Copied(filled) => Reply::data_in_room(id, filled).into(),
        Read::Stored(stored) => {
            Answer { reply: Reply::data_elsewhere(id, stored.len()), stored: Some(stored) }
        }
    })
}

/// Tells the view what no reply is due to.
pub fn tell(view: &View, op: &Op<'_>) {
    match op {
        Op::Forget(forget) => view.forget(forget.node, forget.lookups),
        Op::BatchForget(batch) => {
            for forget in batch.items.iter() {
                view.forget(forget.node, forget.lookups);
            }
        }
        // Nothing here waits for long but a disk, which cannot be told to hurry: the reply comes.
        Op::Interrupt(_) => (),
        // We retrieve nothing.
        Op::NotifyReply(_) => (),
        other => tracing::debug!(operation = other.name(), "not a thing to be told"),
    }
}

/// Why there is no answer but an errno.
impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        errno(&refusal)
    }
}

fn attempt<'w>(
    view: &View,
    id: RequestId,
    caller: Caller,
    op: &Op<'_>,
    room: &mut [u8],
    work: &'w mut Work,
) -> Result<Reply<'w>, Errno> {
    let asker = Asker { caller, unique: id.masked(), ..Asker::default() };
    Ok(match *op {
        Op::Lookup(op) => match view.lookup(&asker, op.parent, op.name)? {
            Found::Entry(entry) => Reply::entry(id, &entry),
            Found::Absent(valid) => Reply::negative_entry(id, valid),
        },
        Op::GetAttr(op) => {
            let (attr, valid) = view.attributes(op.node)?;
            Reply::attr(id, &attr, valid)
        }
        Op::Statx(_) if !view.tells_birth_times() => return Err(Errno::ENOSYS),
        Op::Statx(op) => {
            let (attr, valid) = view.attributes(op.node)?;
            Reply::statx(id, &attr, valid)
        }
        Op::SetAttr(op) => {
            let set = Attributes {
                mode: op.mode,
                uid: op.uid,
                gid: op.gid,
                size: op.size,
                atime: op.atime.map(time_to),
                mtime: op.mtime.map(time_to),
                kill_set_id: op.kill_suidgid,
            };
            let (attr, valid) = view.set_attributes(&asker, op.node, op.handle, set)?;
            Reply::attr(id, &attr, valid)
        }
        Op::ReadLink(op) => {
            work.value = view.target(op.node)?;
            Reply::data(id, &work.value)
        }
        Op::Symlink(op) => {
            let made = asking(&asker, 0, op.extensions, |asker| {
                view.make_symlink(asker, op.parent, op.name, op.target)
            })?;
            Reply::entry(id, &made)
        }
        Op::MkNod(op) => {
            let made = asking(&asker, op.umask, op.extensions, |asker| {
                view.make(asker, op.parent, op.name, op.mode, op.rdev)
            })?;
            Reply::entry(id, &made)
        }
        Op::MkDir(op) => {
            let made = asking(&asker, op.umask, op.extensions, |asker| {
                view.make_directory(asker, op.parent, op.name, op.mode)
            })?;
            Reply::entry(id, &made)
        }
        Op::Create(op) => {
            let (entry, opened) = asking(&asker, op.umask, op.extensions, |asker| {
                view.create(asker, op.parent, op.name, op.mode, op.flags)
            })?;
            Reply::created(id, &entry, &opened)
        }
        Op::TmpFile(op) => {
            let (entry, opened) = asking(&asker, op.umask, op.extensions, |asker| {
                view.create_nameless(asker, op.parent, op.mode, op.flags)
            })?;
            Reply::created(id, &entry, &opened)
        }
        Op::Unlink(op) => done(id, view.unlink(&asker, op.parent, op.name, false))?,
        Op::RmDir(op) => done(id, view.unlink(&asker, op.parent, op.name, true))?,
        Op::Rename(op) => {
            let to = (op.new_parent, op.new_name);
            done(id, view.rename(&asker, (op.parent, op.name), to, 0))?
        }
        Op::Rename2(op) => {
            let to = (op.new_parent, op.new_name);
            done(id, view.rename(&asker, (op.parent, op.name), to, op.flags))?
        }
        Op::Link(op) => Reply::entry(id, &view.link(&asker, op.node, op.new_parent, op.new_name)?),
        Op::Open(_) if !view.opens_files() => return Err(Errno::ENOSYS),
        Op::Open(op) => Reply::opened(id, &view.open(&asker, op.node, op.flags, op.kill_suidgid)?),
        Op::Write(op) => {
            let bytes = Bytes {
                offset: op.offset,
                data: op.data,
                from_cache: op.from_cache,
                kill_set_id: op.kill_suidgid,
                flags: op.flags,
            };
            let written = view.write(&asker, op.node, op.handle, &bytes)?;
            Reply::written(id, u32::try_from(written).map_err(|_| Errno::EIO)?)
        }
        Op::StatFs(_) => Reply::statfs(id, &view.totals()?),
        Op::Release(op) => done(id, view.close(op.node, op.handle))?,
        Op::FSync(op) => done(id, view.sync_file(op.node, op.handle))?,
        Op::FSyncDir(op) => done(id, view.sync_directory(op.node, op.handle))?,
        Op::SyncFs(_) => done(id, view.sync())?,
        Op::OpenDir(op) => Reply::opened(id, &view.open_directory(op.node)?),
        Op::ReleaseDir(op) => done(id, view.close_directory(op.node, op.handle))?,
        Op::ReadDir(op) => list(view, id, (op.node, op.handle), (op.offset, op.size), false, room)?,
        Op::ReadDirPlus(op) => {
            list(view, id, (op.node, op.handle), (op.offset, op.size), true, room)?
        }
        Op::SetXattr(op) => {
            let kill = op.acl_kill_sgid;
            done(id, view.set_xattr(&asker, op.node, op.name, op.value, op.flags, kill))?
        }
        Op::GetXattr(op) => value(id, op.size, view.xattr(op.node, op.name)?, work)?,
        Op::ListXattr(op) => value(id, op.size, view.xattrs(&asker, op.node)?, work)?,
        Op::RemoveXattr(op) => done(id, view.remove_xattr(&asker, op.node, op.name))?,
        Op::Fallocate(op) => {
            let range = (op.offset, op.length);
            done(id, view.allocate(&asker, op.node, op.handle, op.mode, range))?
        }
        Op::LSeek(op) => {
            let hole = match op.whence {
                Whence::Data => false,
                Whence::Hole => true,
                // The kernel does these itself.
                Whence::Set | Whence::Current | Whence::End => return Err(Errno::EINVAL),
            };
            Reply::lseek(id, view.seek(op.node, op.handle, op.offset, hole)?)
        }
        Op::CopyFileRange(op) => {
            let copied = copy(view, &asker, &op.into(), op.flags)?;
            Reply::written(id, u32::try_from(copied).map_err(|_| Errno::EIO)?)
        }
        Op::CopyFileRange64(op) => Reply::copied_64(id, copy(view, &asker, &op.into(), op.flags)?),
        Op::Poll(op) => {
            // Before 7.21 no kernel says what it is asked for, so it gets all there is.
            let events = if op.events == 0 { u32::MAX } else { op.events };
            match view.poll(op.node, op.handle, op.wait, events, op.notify)? {
                Some(ready) => Reply::poll(id, ready),
                None => return Err(Errno::ENOSYS),
            }
        }
        Op::Ioctl(_) => return Err(Errno::ENOTTY),
        Op::Flush(_)
        | Op::Access(_)
        | Op::GetLk(_)
        | Op::SetLk(_)
        | Op::SetLkW(_)
        | Op::BMap(_)
        | Op::SetupMapping(_)
        | Op::RemoveMapping(_)
        | Op::CuseInit(_) => return Err(Errno::ENOSYS),
        // Answered elsewhere, or no answer is due.
        Op::Read(_)
        | Op::Init(_)
        | Op::Destroy(_)
        | Op::Forget(_)
        | Op::BatchForget(_)
        | Op::Interrupt(_)
        | Op::NotifyReply(_) => return Err(Errno::EINVAL),
    })
}

/// The answer to a request that was done before the server died; `None` for one that was not, or that may
/// be done any number of times.
fn again(view: &View, id: RequestId, op: &Op<'_>) -> Option<Result<Reply<'static>, Errno>> {
    // Names were free, or taken, when the kernel asked, and it lets nobody else in meanwhile.
    match *op {
        Op::MkDir(op) if view.is_history(op.parent) => {
            return match view.lookup(&Asker::default(), op.parent, op.name) {
                Ok(Found::Entry(entry)) => Some(Ok(Reply::entry(id, &entry))),
                Ok(Found::Absent(_)) | Err(_) => None,
            };
        }
        Op::RmDir(op) if view.is_history(op.parent) => {
            let gone = view.lookup(&Asker::default(), op.parent, op.name);
            let gone = matches!(gone, Err(Refusal::Tree(TreeRefusal::NotFound)));
            return gone.then(|| Ok(Reply::empty(id)));
        }
        _ => (),
    }
    let seq = view.answered(id.masked())?;
    tracing::debug!(id = id.masked(), %seq, operation = op.name(), "was done before; answered again");
    let answer = || {
        Ok(match *op {
            Op::Symlink(_) | Op::MkNod(_) | Op::MkDir(_) => Reply::entry(id, &view.made(seq)?),
            Op::Link(op) => Reply::entry(id, &view.linked(op.node, seq)?),
            Op::Create(op::Create { flags, .. }) | Op::TmpFile(op::TmpFile { flags, .. }) => {
                let (entry, opened) = view.created(flags, seq)?;
                Reply::created(id, &entry, &opened)
            }
            Op::Write(op) => {
                if op.flags.is_sync() && !op.from_cache {
                    view.sync()?;
                }
                Reply::written(id, u32::try_from(op.data.len()).map_err(|_| Errno::EIO)?)
            }
            Op::CopyFileRange(op) => {
                let copied = view.copied(&op.into(), seq)?;
                Reply::written(id, u32::try_from(copied).map_err(|_| Errno::EIO)?)
            }
            Op::CopyFileRange64(op) => Reply::copied_64(id, view.copied(&op.into(), seq)?),
            // Unlink, rmdir, renames, extended attributes, space set aside: their answers say nothing.
            _ => Reply::empty(id),
        })
    };
    match op {
        // Cutting a file again would take away what was written since; so it is opened as it is.
        Op::Open(open) if view.opens_files() => Some(
            view.open(&Asker::default(), open.node, open.flags.without_truncation(), false)
                .map(|opened| Reply::opened(id, &opened))
                .map_err(Errno::from),
        ),
        Op::SetAttr(set) => Some(
            view.attributes(set.node)
                .map(|(attr, valid)| Reply::attr(id, &attr, valid))
                .map_err(Errno::from),
        ),
        Op::Symlink(_)
        | Op::MkNod(_)
        | Op::MkDir(_)
        | Op::Link(_)
        | Op::Create(_)
        | Op::TmpFile(_)
        | Op::Write(_)
        | Op::CopyFileRange(_)
        | Op::CopyFileRange64(_)
        | Op::Unlink(_)
        | Op::RmDir(_)
        | Op::Rename(_)
        | Op::Rename2(_)
        | Op::SetXattr(_)
        | Op::RemoveXattr(_)
        | Op::Fallocate(_) => Some(answer()),
        _ => None,
    }
}

/// A size on the wire, as a length here; no buffer is as long as what does not fit.
fn len(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn done(id: RequestId, result: Result<(), Refusal>) -> Result<Reply<'static>, Errno> {
    result?;
    Ok(Reply::empty(id))
}

/// Runs `ask` with what comes along with a creation.
fn asking<T>(
    asker: &Asker<'_>,
    umask: u32,
    extensions: Extensions<'_>,
    ask: impl FnOnce(&Asker<'_>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut groups = [0; GROUPS_MAX];
    let mut count = 0;
    for (to, group) in groups.iter_mut().zip(extensions.supplementary_groups()) {
        *to = group;
        count += 1;
    }
    let security = extensions
        .security_contexts()
        .find(|context| !context.value.is_empty())
        .map(|context| (context.name.as_bytes(), context.value));
    let groups = groups.get(..count).filter(|groups| !groups.is_empty());
    ask(&Asker { umask, groups, security, ..*asker })
}

fn time_to(time: SetTime) -> TimeTo {
    match time {
        SetTime::Now => TimeTo::Now,
        SetTime::At(time) => TimeTo::from_parts(time.secs, time.nanos),
    }
}

impl From<op::CopyFileRange> for Range {
    fn from(op: op::CopyFileRange) -> Self {
        Self {
            src: (op.node, op.handle),
            src_offset: op.offset,
            dst: (op.new_node, op.new_handle),
            dst_offset: op.new_offset,
            // More than its reply can count; the kernel asks again for the rest.
            len: op.len.min(u32::MAX.into()),
        }
    }
}

impl From<op::CopyFileRange64> for Range {
    fn from(op: op::CopyFileRange64) -> Self {
        Self {
            src: (op.node, op.handle),
            src_offset: op.offset,
            dst: (op.new_node, op.new_handle),
            dst_offset: op.new_offset,
            len: op.len,
        }
    }
}

fn copy(view: &View, asker: &Asker<'_>, range: &Range, flags: u64) -> Result<u64, Errno> {
    // Of copy_file_range(2), which has none.
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(view.copy(asker, range)?)
}

/// A value whose length the caller may only want to know.
fn value<'w>(
    id: RequestId,
    size: u32,
    value: Vec<u8>,
    work: &'w mut Work,
) -> Result<Reply<'w>, Errno> {
    let value_len = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
    if size == 0 {
        return Ok(Reply::xattr_size(id, value_len));
    }
    if value_len > size {
        return Err(Errno::ERANGE);
    }
    work.value = value;
    Ok(Reply::data(id, &work.value))
}

/// A reply to READDIR or READDIRPLUS, being filled.
struct Entries<'b> {
    buffer: DirentBuffer<'b>,
    plus: bool,
}

impl Page for Entries<'_> {
    fn push(&mut self, listed: &Listed<'_>) -> bool {
        let &Listed { name, ino, mode, next, entry } = listed;
        // Of what is stored every name is one; a reply could not carry another anyway.
        let Ok(name) = Name::new(name) else { return true };
        let dirent = Dirent { ino, next_offset: next, mode, name };
        let pushed = if self.plus {
            self.buffer.push_plus(&dirent, entry)
        } else {
            self.buffer.push(&dirent)
        };
        pushed.is_ok()
    }

    fn mark(&self) -> usize {
        self.buffer.len()
    }

    fn back_to(&mut self, mark: usize) {
        self.buffer.truncate(mark);
    }
}

fn list(
    view: &View,
    id: RequestId,
    (node, handle): (NodeId, FileHandle),
    (offset, size): (u64, u32),
    plus: bool,
    room: &mut [u8],
) -> Result<Reply<'static>, Errno> {
    // A shorter reply than was asked for is fine here: the next one goes on.
    let longest = len(size).min(room.len());
    let room = room.get_mut(..longest).ok_or(Errno::EINVAL)?;
    let mut entries = Entries { buffer: DirentBuffer::new(room), plus };
    view.list(node, handle, offset, plus, &mut entries)?;
    Ok(Reply::data_in_room(id, entries.buffer.finish().len()))
}

/// What a caller is told.
fn errno(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::Tree(refusal) => match refusal {
            TreeRefusal::NotFound => Errno::ENOENT,
            TreeRefusal::Stale => Errno::ESTALE,
            TreeRefusal::Exists => Errno::EEXIST,
            TreeRefusal::NotADirectory => Errno::ENOTDIR,
            TreeRefusal::IsADirectory => Errno::EISDIR,
            TreeRefusal::NotEmpty => Errno::ENOTEMPTY,
            TreeRefusal::CrossesItself | TreeRefusal::Invalid => Errno::EINVAL,
            TreeRefusal::TooManyLinks => Errno::EMLINK,
            TreeRefusal::NameTooLong => Errno::ENAMETOOLONG,
            TreeRefusal::NoSpace => Errno::ENOSPC,
            TreeRefusal::ReadOnly(why) => {
                tracing::debug!(why, "a change was refused");
                Errno::EROFS
            }
            TreeRefusal::NotSupported => Errno::EOPNOTSUPP,
            TreeRefusal::NoData => Errno::ENODATA,
            TreeRefusal::Range => Errno::ERANGE,
            TreeRefusal::NotPermitted => Errno::EPERM,
            TreeRefusal::DefaultAclOnFile => Errno::EACCES,
            TreeRefusal::TooLarge => Errno::EFBIG,
            TreeRefusal::ValueTooLarge => Errno::E2BIG,
            TreeRefusal::Io(error) => {
                tracing::error!(%error, "the store's disk failed");
                Errno::EIO
            }
            TreeRefusal::Damaged(what) => {
                tracing::error!(what, "the store's index is damaged");
                Errno::EIO
            }
        },
        Refusal::ReadOnly => Errno::EROFS,
        Refusal::BadHandle => Errno::EBADF,
        Refusal::Executing => Errno::ETXTBSY,
        Refusal::NotAllowed => Errno::EACCES,
        Refusal::OtherTree => Errno::EXDEV,
        Refusal::TooManyViews => Errno::ENFILE,
        Refusal::NoMemory => Errno::ENOMEM,
        Refusal::NothingThere => Errno::ENXIO,
        Refusal::Unregistered(why) => match why {
            Unregistered::NoSuchProcess | Unregistered::Another => Errno::ESRCH,
            Unregistered::Already => Errno::EPERM,
            Unregistered::NoSession => Errno::EACCES,
            Unregistered::Malformed => Errno::EINVAL,
            Unregistered::TooMany => Errno::ENOSPC,
        },
    }
}

const _: () = assert!(size_of::<Reply<'_>>() <= 512, "replies are passed by value");
