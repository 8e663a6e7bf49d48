//! From an operation to the change it makes, or why it makes none: pure.
//!
//! What is checked comes in the order in which the kernel checks it on a local filesystem, so that a
//! request with two things wrong with it gets the same answer.
//!
//! Invariants: nothing is changed here and no clock is read; a [`Change`] that is named can be
//! applied to the tree it was decided on.

use crate::store::event::{Allocation, Change, Data, Ino, Seq, SetAttr, Timestamp, Xattrs};
use crate::store::index::{Entry, Inode, Tables};

use super::acl::{self, Acl, AclError};
use super::operation::{
    Attributes, COPY_MAX, COPY_PIECES_MAX, COPY_UNCUT_MAX, Caller, FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, FILE_SIZE_MAX, LINK_MAX, NAME_MAX, Operation,
    PERMISSIONS, RenameHow, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
    S_ISGID, S_ISUID, Security, TARGET_MAX, TimeTo, WriteTo, XATTR_LIST_MAX, XATTR_NAME_MAX,
    XATTR_VALUE_MAX, XattrMust,
};
use super::{Refusal, directory, regular, there};

/// Executable by its group: with this, set-group-id is a privilege; without, it once meant mandatory
/// locking and stays.
const S_IXGRP: u32 = 0o010;

const USER: &[u8] = b"user.";
const OURS: &[u8] = b"user.lighthouse.";
const TRUSTED: &[u8] = b"trusted.";
const SECURITY: &[u8] = b"security.";

/// Keeps what a decision makes and its change borrows.
#[derive(Debug, Default)]
pub struct Room {
    access_acl: Vec<u8>,
    default_acl: Vec<u8>,
}

/// Which inode an outcome is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum About {
    /// The one the change makes, whose number is the event's.
    Made,
    /// This one.
    Inode(Ino),
}

/// What is to happen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Decision<'a> {
    /// The change, or `None` where the tree is already as asked.
    pub change: Option<Change<'a>>,
    /// Whose attributes the reply carries.
    pub about: Option<About>,
    /// What a rename replaces or exchanges.
    pub other: Option<About>,
    /// Bytes written, set aside or copied.
    pub len: u64,
}

impl<'a> Decision<'a> {
    fn change(change: Change<'a>, about: About) -> Self {
        Self { change: Some(change), about: Some(about), ..Self::default() }
    }

    fn nothing(about: Ino) -> Self {
        Self { about: Some(About::Inode(about)), ..Self::default() }
    }

    /// A change whose reply carries no attributes.
    fn quiet(change: Change<'a>, len: u64) -> Self {
        Self { change: Some(change), len, ..Self::default() }
    }
}

/// Names the change that `operation` makes to the tree of `tables` at `time`, or why it makes none.
/// `room` keeps what the change borrows and the operation does not have.
pub fn decide<'a>(
    tables: &Tables,
    caller: &Caller<'_>,
    operation: &Operation<'a>,
    time: Timestamp,
    room: &'a mut Room,
) -> Result<Decision<'a>, Refusal> {
    match *operation {
        Operation::Make { parent, name, mode, rdev, exclusive, security } => {
            make(tables, caller, (parent, name), (mode, rdev), exclusive, security, room)
        }
        Operation::Symlink { parent, name, target, security } => {
            symlink(tables, caller, (parent, name), target, security, room)
        }
        Operation::Tmpfile { parent, mode, security } => {
            let dir = living_directory(tables, parent)?;
            let mode = S_IFREG | mode & PERMISSIONS;
            let Made { mode, gid, xattrs } = made(tables, caller, &dir, mode, security, room)?;
            let change = Change::Tmpfile { mode, uid: caller.uid, gid, xattrs };
            Ok(Decision::change(change, About::Made))
        }
        Operation::Link { ino, parent, name } => {
            let inode = there(tables, ino, Seq::NOW)?;
            living_directory(tables, parent)?;
            vacant(tables, parent, name)?;
            if inode.mode & S_IFMT == S_IFDIR {
                return Err(Refusal::NotPermitted);
            }
            if inode.nlink >= LINK_MAX {
                return Err(Refusal::TooManyLinks);
            }
            Ok(Decision::change(Change::Link { ino, parent, name }, About::Inode(ino)))
        }
        Operation::Unlink { parent, name } => {
            let Entry { ino, kind, .. } = taken(tables, parent, name)?;
            if kind == S_IFDIR {
                return Err(Refusal::IsADirectory);
            }
            Ok(Decision::change(Change::Unlink { parent, name, ino }, About::Inode(ino)))
        }
        Operation::Rmdir { parent, name } => {
            let Entry { ino, kind, .. } = taken(tables, parent, name)?;
            if kind != S_IFDIR {
                return Err(Refusal::NotADirectory);
            }
            if there(tables, ino, Seq::NOW)?.entries > 0 {
                return Err(Refusal::NotEmpty);
            }
            Ok(Decision::change(Change::Unlink { parent, name, ino }, About::Inode(ino)))
        }
        Operation::Rename { parent, name, new_parent, new_name, how } => {
            rename(tables, (parent, name), (new_parent, new_name), how)
        }
        Operation::SetAttributes { ino, ref set } => set_attributes(tables, ino, set, time, room),
        Operation::Write { ino, to, data, kill_set_id } => {
            write(tables, ino, to, data, kill_set_id)
        }
        Operation::Allocate { ino, flags, offset, len, kill_set_id } => {
            allocate(tables, ino, flags, (offset, len), kill_set_id)
        }
        Operation::Copy { src, src_offset, dst, dst_offset, len, uncut, ends, kill_set_id } => {
            copy(tables, (src, src_offset), (dst, dst_offset), len, (uncut, ends), kill_set_id)
        }
        Operation::SetXattr { ino, name, value, must, kill_sgid } => {
            set_xattr(tables, ino, (name, value), must, kill_sgid, room)
        }
        Operation::RemoveXattr { ino, name } => {
            let inode = there(tables, ino, Seq::NOW)?;
            xattr_settable(&inode, name)?;
            if tables.xattr(ino, name, Seq::NOW)?.is_none() {
                return if is_acl(name) { Ok(Decision::default()) } else { Err(Refusal::NoData) };
            }
            Ok(Decision::quiet(Change::RemoveXattr { ino, name }, 0))
        }
        Operation::End { ino } => match tables.inode(ino, Seq::NOW)? {
            Some(inode) if inode.nlink == 0 => Ok(Decision::quiet(Change::End { ino }, 0)),
            _ => Ok(Decision::default()),
        },
    }
}

/// Makes an inode of any type but a symbolic link.
fn make<'a>(
    tables: &Tables,
    caller: &Caller<'_>,
    (parent, name): (Ino, &'a [u8]),
    (mode, rdev): (u32, u64),
    exclusive: bool,
    security: Security<'a>,
    room: &'a mut Room,
) -> Result<Decision<'a>, Refusal> {
    let kind = match mode & S_IFMT {
        0 => S_IFREG,
        kind @ (S_IFREG | S_IFDIR | S_IFIFO | S_IFSOCK | S_IFCHR | S_IFBLK) => kind,
        _ => return Err(Refusal::Invalid),
    };
    let dir = living_directory(tables, parent)?;
    if let Some(entry) = entry(tables, parent, name)? {
        return match entry.kind {
            _ if exclusive => Err(Refusal::Exists),
            S_IFREG => Ok(Decision::nothing(entry.ino)),
            S_IFDIR => Err(Refusal::IsADirectory),
            _ => Err(Refusal::Stale),
        };
    }
    let mode = kind | mode & PERMISSIONS;
    let Made { mode, gid, xattrs } = made(tables, caller, &dir, mode, security, room)?;
    let rdev = if matches!(kind, S_IFCHR | S_IFBLK) { rdev } else { 0 };
    let change =
        Change::Create { parent, name, mode, uid: caller.uid, gid, rdev, target: &[], xattrs };
    Ok(Decision::change(change, About::Made))
}

fn symlink<'a>(
    tables: &Tables,
    caller: &Caller<'_>,
    (parent, name): (Ino, &'a [u8]),
    target: &'a [u8],
    security: Security<'a>,
    room: &'a mut Room,
) -> Result<Decision<'a>, Refusal> {
    match target.len() {
        0 => return Err(Refusal::NotFound),
        1..=TARGET_MAX => (),
        _ => return Err(Refusal::NameTooLong),
    }
    if target.contains(&0) {
        return Err(Refusal::Invalid);
    }
    let dir = living_directory(tables, parent)?;
    vacant(tables, parent, name)?;
    let mode = S_IFLNK | 0o777;
    let Made { mode, gid, xattrs } = made(tables, caller, &dir, mode, security, room)?;
    let change =
        Change::Create { parent, name, mode, uid: caller.uid, gid, rdev: 0, target, xattrs };
    Ok(Decision::change(change, About::Made))
}

fn allocate<'a>(
    tables: &Tables,
    ino: Ino,
    flags: u32,
    (offset, len): (u64, u64),
    kill_set_id: bool,
) -> Result<Decision<'a>, Refusal> {
    let how = match (flags, flags & FALLOC_FL_KEEP_SIZE != 0) {
        (0 | FALLOC_FL_KEEP_SIZE, keep_size) => Allocation::Reserve { keep_size },
        (flags, true) if flags == FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE => Allocation::Punch,
        (flags, keep_size) if flags & !FALLOC_FL_KEEP_SIZE == FALLOC_FL_ZERO_RANGE => {
            Allocation::Zero { keep_size }
        }
        _ => return Err(Refusal::NotSupported),
    };
    if len == 0 {
        return Err(Refusal::Invalid);
    }
    let file = regular(tables, ino, Seq::NOW)?;
    end_of(offset, len)?;
    let mode = kill_set_id.then(|| without_set_id(file.mode)).flatten();
    Ok(Decision::quiet(Change::Fallocate { ino, how, offset, len, mode }, len))
}

fn copy<'a>(
    tables: &Tables,
    (src, src_offset): (Ino, u64),
    (dst, dst_offset): (Ino, u64),
    len: u64,
    (uncut, ends): (bool, bool),
    kill_set_id: bool,
) -> Result<Decision<'a>, Refusal> {
    let from = regular(tables, src, Seq::NOW)?;
    let to = regular(tables, dst, Seq::NOW)?;
    let len = len.min(from.size.saturating_sub(src_offset));
    if len == 0 {
        return Ok(Decision::default());
    }
    let src_end = end_of(src_offset, len)?;
    let whole = len <= COPY_MAX
        || uncut
            && len <= COPY_UNCUT_MAX
            && !tables.lies_in_more_pieces(src, (src_offset, src_end), COPY_PIECES_MAX)?;
    let most = if whole { len } else { COPY_MAX };
    let dst_end = end_of(dst_offset, most)?;
    if src == dst && dst_offset < src_end && src_offset < dst_offset.saturating_add(len) {
        return Err(Refusal::Invalid);
    }
    let len = dst_end - dst_offset;
    let mode = kill_set_id.then(|| without_set_id(to.mode)).flatten();
    let ends = ends && whole && dst_end < to.size;
    let change = Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode };
    Ok(Decision::quiet(change, len))
}

/// What `name` in `parent` stands for; a name nothing could have is refused.
fn entry(tables: &Tables, parent: Ino, name: &[u8]) -> Result<Option<Entry>, Refusal> {
    if name.len() > NAME_MAX {
        return Err(Refusal::NameTooLong);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Refusal::Invalid);
    }
    Ok(tables.entry(parent, name, Seq::NOW)?)
}

/// A directory in which names can be made: one that was not removed.
fn living_directory(tables: &Tables, ino: Ino) -> Result<Inode, Refusal> {
    let dir = directory(tables, ino, Seq::NOW)?;
    if dir.nlink == 0 { Err(Refusal::NotFound) } else { Ok(dir) }
}

fn vacant(tables: &Tables, parent: Ino, name: &[u8]) -> Result<(), Refusal> {
    match entry(tables, parent, name)? {
        Some(_) => Err(Refusal::Exists),
        None => Ok(()),
    }
}

fn taken(tables: &Tables, parent: Ino, name: &[u8]) -> Result<Entry, Refusal> {
    directory(tables, parent, Seq::NOW)?;
    entry(tables, parent, name)?.ok_or(Refusal::NotFound)
}

/// What a new inode gets from its maker and its directory.
struct Made<'a> {
    mode: u32,
    gid: u32,
    xattrs: Xattrs<'a>,
}

/// A set-group-id directory hands down its group, and the bit to directories. A default ACL takes the
/// umask's place; a symbolic link inherits neither.
fn made<'a>(
    tables: &Tables,
    caller: &Caller<'_>,
    dir: &Inode,
    mut mode: u32,
    security: Security<'a>,
    room: &'a mut Room,
) -> Result<Made<'a>, Refusal> {
    let mut gid = caller.gid;
    if dir.mode & S_ISGID != 0 {
        gid = dir.gid;
        if mode & S_IFMT == S_IFDIR {
            mode |= S_ISGID;
        } else if mode & S_IXGRP != 0 && !may_be_set_gid(caller, gid) {
            mode &= !S_ISGID;
        }
    }
    let mut xattrs = Xattrs::new();
    if let Some((name, value)) = security {
        if !name.starts_with(SECURITY) || value.len() > XATTR_VALUE_MAX {
            return Err(Refusal::Invalid);
        }
        xattr_namespace(name)?;
        xattrs.push((name, value));
    }
    if mode & S_IFMT != S_IFLNK {
        let handed_down = tables.xattr(dir.ino, acl::DEFAULT, Seq::NOW)?;
        // What is stored was valid when it was set; anything else grants nothing beyond the mode.
        let acl = handed_down.as_deref().map(Acl::parse).and_then(Result::ok).flatten();
        if let Some(mut acl) = acl {
            let Room { access_acl, default_acl } = room;
            if mode & S_IFMT == S_IFDIR {
                acl.encode(default_acl);
                xattrs.push((acl::DEFAULT, default_acl));
            }
            mode = acl.inherit(mode);
            if !acl.is_mode() {
                acl.encode(access_acl);
                xattrs.push((acl::ACCESS, access_acl));
            }
        } else {
            mode &= !(caller.umask & 0o777);
        }
    }
    Ok(Made { mode, gid, xattrs })
}

/// Whether `caller` may make a file that runs as `gid`. The kernel knows better since 6.0 and has
/// taken the bit off already; where its groups are unknown, its word stands.
fn may_be_set_gid(caller: &Caller<'_>, gid: u32) -> bool {
    caller.uid == 0 || caller.gid == gid || caller.groups.is_none_or(|groups| groups.contains(&gid))
}

fn rename<'a>(
    tables: &Tables,
    (parent, name): (Ino, &'a [u8]),
    (new_parent, new_name): (Ino, &'a [u8]),
    how: RenameHow,
) -> Result<Decision<'a>, Refusal> {
    directory(tables, parent, Seq::NOW)?;
    directory(tables, new_parent, Seq::NOW)?;
    let old = entry(tables, parent, name)?.ok_or(Refusal::NotFound)?;
    let new = entry(tables, new_parent, new_name)?;
    match (how, new) {
        (RenameHow::NoReplace, Some(_)) => return Err(Refusal::Exists),
        (RenameHow::Exchange, None) => return Err(Refusal::NotFound),
        _ => (),
    }
    if parent != new_parent {
        if old.kind == S_IFDIR && is_within(tables, new_parent, old.ino)? {
            return Err(Refusal::CrossesItself);
        }
        if let Some(new) = new
            && new.kind == S_IFDIR
            && is_within(tables, parent, new.ino)?
        {
            return Err(match how {
                RenameHow::Exchange => Refusal::CrossesItself,
                RenameHow::Replace | RenameHow::NoReplace => Refusal::NotEmpty,
            });
        }
    }
    let ino = old.ino;
    if let Some(new) = new {
        if new.ino == ino {
            return Ok(Decision::nothing(ino));
        }
        if how == RenameHow::Exchange {
            let change =
                Change::Exchange { parent, name, new_parent, new_name, ino, other: new.ino };
            let other = Some(About::Inode(new.ino));
            return Ok(Decision { other, ..Decision::change(change, About::Inode(ino)) });
        }
        match (old.kind == S_IFDIR, new.kind == S_IFDIR) {
            (true, false) => return Err(Refusal::NotADirectory),
            (false, true) => return Err(Refusal::IsADirectory),
            (true, true) if there(tables, new.ino, Seq::NOW)?.entries > 0 => {
                return Err(Refusal::NotEmpty);
            }
            (true, true) | (false, false) => (),
        }
    }
    // The old directory has a name in it, so it was not removed; the new one may have been.
    living_directory(tables, new_parent)?;
    let replaced = new.map(|new| new.ino);
    let change = Change::Rename { parent, name, new_parent, new_name, ino, replaced };
    let other = replaced.map(About::Inode);
    Ok(Decision { other, ..Decision::change(change, About::Inode(ino)) })
}

/// Whether the directory `dir` is `ancestor` or lies below it.
fn is_within(tables: &Tables, mut dir: Ino, ancestor: Ino) -> Result<bool, Refusal> {
    // No way up is longer than there are inodes.
    for _ in 0..=tables.totals().inodes {
        if dir == ancestor {
            return Ok(true);
        }
        match tables.parent(dir, Seq::NOW)? {
            Some(parent) if parent != dir => dir = parent,
            Some(_) | None => return Ok(false),
        }
    }
    Err(Refusal::Damaged(format!(
        "directory {dir} lies below itself; delete `index/` to rebuild it"
    )))
}

fn set_attributes<'a>(
    tables: &Tables,
    ino: Ino,
    set: &Attributes,
    time: Timestamp,
    room: &'a mut Room,
) -> Result<Decision<'a>, Refusal> {
    let inode = there(tables, ino, Seq::NOW)?;
    let kind = inode.mode & S_IFMT;
    if let Some(size) = set.size {
        regular(tables, ino, Seq::NOW)?;
        end_of(0, size)?;
    }
    if set.mode.is_some() && kind == S_IFLNK {
        return Err(Refusal::NotSupported);
    }
    let given = set.mode.map(|mode| kind | mode & PERMISSIONS);
    let chown = set.uid.is_some() || set.gid.is_some();
    let kept = ((set.kill_set_id || chown) && kind != S_IFDIR)
        .then(|| without_set_id(given.unwrap_or(inode.mode)))
        .flatten();
    let mode = kept.or(given);
    let Attributes { uid, gid, size, .. } = *set;
    let atime = set.atime.map(|to| to.at(time));
    // A truncation moves `mtime` even where the size stays.
    let mtime = set.mtime.or(size.map(|_| TimeTo::Now)).map(|to| to.at(time));
    let fields = SetAttr { mode, uid, gid, size, atime, mtime };
    if fields == SetAttr::default() {
        return Ok(Decision::nothing(ino));
    }
    let mut acl = None;
    if let Some(mode) = given
        && let Some(stored) = tables.xattr(ino, acl::ACCESS, Seq::NOW)?
        && let Ok(Some(mut access)) = Acl::parse(&stored)
    {
        access.chmod(mode);
        access.encode(&mut room.access_acl);
        acl = Some(room.access_acl.as_slice());
    }
    let drop_capability =
        (size.is_some() || chown) && kind != S_IFDIR && has_capability(tables, ino)?;
    let change = Change::SetAttr { ino, set: fields, acl, drop_capability };
    Ok(Decision::change(change, About::Inode(ino)))
}

fn write<'a>(
    tables: &Tables,
    ino: Ino,
    to: WriteTo,
    data: Data<'a>,
    kill_set_id: bool,
) -> Result<Decision<'a>, Refusal> {
    let file = regular(tables, ino, Seq::NOW)?;
    let len = data.len();
    if len == 0 {
        return Ok(Decision::default());
    }
    let offset = to.offset().unwrap_or(file.size);
    let end = end_of(offset, len)?;
    let ends = to == WriteTo::Whole && end < file.size;
    let mode = kill_set_id.then(|| without_set_id(file.mode)).flatten();
    let drop_capability = has_capability(tables, ino)?;
    Ok(Decision::quiet(Change::Write { ino, offset, data, ends, mode, drop_capability }, len))
}

/// Where a range ends, if a file may reach that far.
fn end_of(offset: u64, len: u64) -> Result<u64, Refusal> {
    offset.checked_add(len).filter(|&end| end <= FILE_SIZE_MAX).ok_or(Refusal::TooLarge)
}

/// The mode of a file without the bits that let others run it with its owner's or group's rights;
/// `None` where it has none.
fn without_set_id(mode: u32) -> Option<u32> {
    let sgid = if mode & S_IXGRP == 0 { 0 } else { S_ISGID };
    let killed = mode & !(S_ISUID | sgid);
    (killed != mode).then_some(killed)
}

fn has_capability(tables: &Tables, ino: Ino) -> Result<bool, Refusal> {
    Ok(tables.has_capability(ino)?)
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

/// Refuses names of extended attributes that are too long or outside every namespace there is here.
pub fn xattr_namespace(name: &[u8]) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Refusal::Range);
    }
    if is_acl(name) {
        return Ok(());
    }
    let local = [USER, TRUSTED, SECURITY].iter().find_map(|prefix| name.strip_prefix(*prefix));
    match local {
        None => Err(Refusal::NotSupported),
        Some(local) if local.is_empty() || local.contains(&0) => Err(Refusal::Invalid),
        Some(_) => Ok(()),
    }
}

/// Refuses what nobody may set or remove on `inode`.
fn xattr_settable(inode: &Inode, name: &[u8]) -> Result<(), Refusal> {
    xattr_namespace(name)?;
    let kind = inode.mode & S_IFMT;
    if name.starts_with(OURS) {
        return Err(Refusal::NotPermitted);
    }
    if name.starts_with(USER) && !matches!(kind, S_IFREG | S_IFDIR) {
        return Err(Refusal::NotPermitted);
    }
    if is_acl(name) && kind == S_IFLNK {
        return Err(Refusal::NotSupported);
    }
    Ok(())
}

fn set_xattr<'a>(
    tables: &Tables,
    ino: Ino,
    (name, value): (&'a [u8], &'a [u8]),
    must: XattrMust,
    kill_sgid: bool,
    room: &'a mut Room,
) -> Result<Decision<'a>, Refusal> {
    let inode = there(tables, ino, Seq::NOW)?;
    xattr_settable(&inode, name)?;
    if value.len() > XATTR_VALUE_MAX {
        return Err(Refusal::ValueTooLarge);
    }
    let is_set = tables.xattr(ino, name, Seq::NOW)?.is_some();
    match must {
        XattrMust::BeNew if is_set => return Err(Refusal::Exists),
        XattrMust::Exist if !is_set => return Err(Refusal::NoData),
        XattrMust::Any | XattrMust::BeNew | XattrMust::Exist => (),
    }
    let mut mode = None;
    let mut value = value;
    if is_acl(name) {
        let says_something = value.len() > acl::HEADER_LEN;
        if name == acl::DEFAULT && inode.mode & S_IFMT != S_IFDIR && says_something {
            return Err(Refusal::DefaultAclOnFile);
        }
        let parsed = if value.is_empty() { Ok(None) } else { Acl::parse(value) };
        let acl = parsed.map_err(|error| match error {
            AclError::Version => Refusal::NotSupported,
            AclError::Invalid => Refusal::Invalid,
        })?;
        let Some(acl) = acl else {
            let change = is_set.then_some(Change::RemoveXattr { ino, name });
            return Ok(Decision { change, ..Decision::default() });
        };
        if name == acl::ACCESS {
            let sgid = if kill_sgid { S_ISGID } else { 0 };
            let implied = inode.mode & !(0o777 | sgid) | acl.permissions();
            if acl.is_mode() {
                let set = SetAttr { mode: Some(implied), ..SetAttr::default() };
                // An empty ACL beside a mode takes away the one that is there.
                let acl: Option<&[u8]> = is_set.then_some(&[]);
                let change = Change::SetAttr { ino, set, acl, drop_capability: false };
                return Ok(Decision::quiet(change, 0));
            }
            mode = Some(implied);
        }
        acl.encode(&mut room.access_acl);
        value = &room.access_acl;
    }
    if !is_set {
        let names = tables.xattrs(ino, Seq::NOW)?;
        let listed: usize = names.iter().map(|name| name.len() + 1).sum();
        if listed + name.len() + 1 > XATTR_LIST_MAX {
            return Err(Refusal::NoSpace);
        }
    }
    Ok(Decision::quiet(Change::SetXattr { ino, name, value, mode }, 0))
}

#[cfg(test)]
mod tests {
    use crate::store::event::{ActorId, Event, FileId, Location, Place};
    use crate::store::index::{Index, Options};

    const CAPABILITY: &[u8] = b"security.capability";

    use super::super::operation::{RenameHow, WriteTo, XattrMust};
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);
    const ROOT: Ino = Ino::ROOT;

    /// A tree that takes what is decided.
    struct Small {
        index: Index,
        caller: Caller<'static>,
    }

    impl Small {
        fn new() -> Self {
            let small = Self {
                index: Index::in_memory(&Options::default()).unwrap(),
                caller: Caller { uid: 1000, gid: 1000, umask: 0o022, ..Caller::default() },
            };
            small.apply(Change::Mkfs { mode: S_IFDIR | 0o755, uid: 0, gid: 0 });
            small
        }

        fn apply(&self, change: Change<'_>) -> Ino {
            let last = self.index.read().last();
            let seq = if last == Seq::ZERO { Seq::FIRST } else { last.next() };
            let event = Event { seq, time: NOW, actor: ActorId(0), unique: 0, change };
            // Nobody reads content here: any place will do.
            let place = matches!(event.change, Change::Write { .. });
            let place = place.then_some(Location { file: FileId::Log(1), offset: 0 });
            self.index.write().apply(&event, place).unwrap();
            Ino(seq.0)
        }

        /// What is decided, without doing it.
        fn ask<R>(
            &self,
            operation: &Operation<'_>,
            look: impl FnOnce(Result<Decision<'_>, Refusal>) -> R,
        ) -> R {
            let mut room = Room::default();
            look(decide(&self.index.read(), &self.caller, operation, NOW, &mut room))
        }

        fn refusal(&self, operation: &Operation<'_>) -> Refusal {
            self.ask(operation, |decided| match decided {
                Ok(decision) => panic!("{operation:?} is decided: {decision:?}"),
                Err(refusal) => refusal,
            })
        }

        fn is_nothing(&self, operation: &Operation<'_>) -> bool {
            self.ask(operation, |decided| decided.unwrap().change.is_none())
        }

        /// Does it; the number of what it makes, if it makes something.
        fn perform(&self, operation: &Operation<'_>) -> Ino {
            let mut room = Room::default();
            let tables = self.index.read();
            let decided = decide(&tables, &self.caller, operation, NOW, &mut room).unwrap();
            drop(tables);
            self.apply(decided.change.unwrap())
        }

        fn make(&self, parent: Ino, name: &[u8], mode: u32) -> Ino {
            self.perform(&make(parent, name, mode))
        }

        fn inode(&self, ino: Ino) -> Inode {
            self.index.read().inode(ino, Seq::NOW).unwrap().unwrap()
        }

        fn xattr(&self, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
            self.index.read().xattr(ino, name, Seq::NOW).unwrap()
        }
    }

    fn make(parent: Ino, name: &[u8], mode: u32) -> Operation<'_> {
        Operation::Make { parent, name, mode, rdev: 0, exclusive: true, security: None }
    }

    fn set(ino: Ino, set: Attributes) -> Operation<'static> {
        Operation::SetAttributes { ino, set }
    }

    fn set_xattr<'a>(ino: Ino, name: &'a [u8], value: &'a [u8]) -> Operation<'a> {
        Operation::SetXattr { ino, name, value, must: XattrMust::Any, kill_sgid: false }
    }

    fn write(ino: Ino, offset: u64, kill_set_id: bool) -> Operation<'static> {
        let data = Data { hash: [0; 32], salt: [0; 16], place: Place::Inline(b"abc") };
        Operation::Write { ino, to: WriteTo::Offset(offset), data, kill_set_id }
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn a_name_is_one_component_of_at_most_255_bytes() {
        let small = Small::new();
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert!(matches!(small.refusal(&make(ROOT, name, 0o644)), Refusal::Invalid));
        }
        assert!(matches!(small.refusal(&make(ROOT, &[b'n'; 256], 0o644)), Refusal::NameTooLong));
        small.make(ROOT, &[b'n'; 255], 0o644);
    }

    #[test]
    fn what_is_made_is_of_a_type_that_can_be_made() {
        let small = Small::new();
        assert!(matches!(small.refusal(&make(ROOT, b"l", S_IFLNK | 0o777)), Refusal::Invalid));
        assert!(matches!(small.refusal(&make(ROOT, b"x", S_IFMT)), Refusal::Invalid));
        assert_eq!(small.inode(small.make(ROOT, b"f", 0o666)).mode, S_IFREG | 0o644);
        let device = Operation::Make {
            parent: ROOT,
            name: b"d",
            mode: S_IFCHR | 0o600,
            rdev: 0x103,
            exclusive: true,
            security: None,
        };
        assert_eq!(small.inode(small.perform(&device)).rdev, 0x103);
    }

    #[test]
    fn opening_with_o_creat_finds_a_file_that_is_there() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o644);
        small.make(ROOT, b"d", S_IFDIR | 0o755);
        small.make(ROOT, b"p", S_IFIFO | 0o644);
        let open = |name| Operation::Make {
            parent: ROOT,
            name,
            mode: S_IFREG | 0o644,
            rdev: 0,
            exclusive: false,
            security: None,
        };
        small.ask(&open(b"f"), |decided| assert_eq!(decided.unwrap(), Decision::nothing(file)));
        assert!(matches!(small.refusal(&open(b"d")), Refusal::IsADirectory));
        assert!(matches!(small.refusal(&open(b"p")), Refusal::Stale));
        assert!(matches!(small.refusal(&make(ROOT, b"f", 0o644)), Refusal::Exists));
    }

    #[test]
    fn a_set_group_id_directory_hands_down_its_group_and_to_directories_the_bit() {
        let mut small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o2777);
        small.perform(&set(dir, Attributes { gid: Some(50), ..Attributes::default() }));
        let file = small.inode(small.make(dir, b"f", 0o644));
        assert_eq!((file.gid, file.mode & S_ISGID), (50, 0));
        let below = small.inode(small.make(dir, b"d", S_IFDIR | 0o755));
        assert_eq!((below.gid, below.mode & S_ISGID), (50, S_ISGID));
        let link = Operation::Symlink { parent: dir, name: b"l", target: b"t", security: None };
        assert_eq!(small.inode(small.perform(&link)).gid, 50);
        for (groups, kept) in [(None, true), (Some(&[7][..]), false), (Some(&[7, 50]), true)] {
            small.caller.groups = groups;
            let tmpfile = Operation::Tmpfile { parent: dir, mode: 0o2755, security: None };
            let made = small.inode(small.perform(&tmpfile));
            assert_eq!(made.mode & S_ISGID != 0, kept, "{groups:?}");
        }
    }

    #[test]
    fn a_default_acl_takes_the_place_of_the_umask() {
        let small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o755);
        let default =
            acl(&[(1, 7, NONE), (2, 6, 1001), (4, 5, NONE), (0x10, 7, NONE), (0x20, 0, NONE)]);
        small.perform(&set_xattr(dir, acl::DEFAULT, &default));
        let file = small.make(dir, b"f", 0o666);
        assert_eq!(small.inode(file).mode, S_IFREG | 0o660);
        let access =
            acl(&[(1, 6, NONE), (2, 6, 1001), (4, 5, NONE), (0x10, 6, NONE), (0x20, 0, NONE)]);
        assert_eq!(small.xattr(file, acl::ACCESS), Some(access));
        assert_eq!(small.xattr(file, acl::DEFAULT), None);
        let below = small.make(dir, b"d", S_IFDIR | 0o777);
        assert_eq!(small.xattr(below, acl::DEFAULT), Some(default));
        let link = Operation::Symlink { parent: dir, name: b"l", target: b"t", security: None };
        let link = small.perform(&link);
        assert_eq!(small.inode(link).mode, S_IFLNK | 0o777);
        assert_eq!(small.xattr(link, acl::ACCESS), None);
    }

    #[test]
    fn a_default_acl_that_is_a_mode_gives_a_mode_and_no_access_acl() {
        let small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o755);
        let default = acl(&[(1, 7, NONE), (4, 7, NONE), (0x20, 4, NONE)]);
        small.perform(&set_xattr(dir, acl::DEFAULT, &default));
        let file = small.make(dir, b"f", 0o666);
        assert_eq!(small.inode(file).mode, S_IFREG | 0o664);
        assert_eq!(small.xattr(file, acl::ACCESS), None);
    }

    #[test]
    fn a_default_acl_counts_from_when_it_is_set_until_it_is_removed() {
        let small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o755);
        let mode_of = |name: &[u8]| small.inode(small.make(dir, name, 0o666)).mode;
        assert_eq!(mode_of(b"before"), S_IFREG | 0o644);
        for round in 0..3_u8 {
            let default = acl(&[(1, 7, NONE), (4, 7, NONE), (0x20, 4, NONE)]);
            small.perform(&set_xattr(dir, acl::DEFAULT, &default));
            assert_eq!(mode_of(&[b'w', round + 1]), S_IFREG | 0o664);
            small.perform(&Operation::RemoveXattr { ino: dir, name: acl::DEFAULT });
            assert_eq!(mode_of(&[b'a', round + 1]), S_IFREG | 0o644);
        }
    }

    #[test]
    fn an_access_acl_and_the_mode_stay_in_step() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o2775);
        let named = acl(&[(1, 7, NONE), (2, 7, 5), (4, 1, NONE), (0x10, 5, NONE), (0x20, 0, NONE)]);
        small.perform(&set_xattr(file, acl::ACCESS, &named));
        assert_eq!(small.inode(file).mode, S_IFREG | 0o2750);
        small.perform(&set(file, Attributes { mode: Some(0o604), ..Attributes::default() }));
        let changed =
            acl(&[(1, 6, NONE), (2, 7, 5), (4, 1, NONE), (0x10, 0, NONE), (0x20, 4, NONE)]);
        assert_eq!(small.xattr(file, acl::ACCESS), Some(changed));
        // An ACL that says no more than a mode is the mode.
        let plain = acl(&[(1, 6, NONE), (4, 4, NONE), (0x20, 0, NONE)]);
        small.perform(&set_xattr(file, acl::ACCESS, &plain));
        assert_eq!(small.xattr(file, acl::ACCESS), None);
        assert_eq!(small.inode(file).mode, S_IFREG | 0o640);
        // Removing what is not there is no event; on a file, a default ACL is refused.
        assert!(small.is_nothing(&Operation::RemoveXattr { ino: file, name: acl::ACCESS }));
        assert!(matches!(
            small.refusal(&set_xattr(file, acl::DEFAULT, &plain)),
            Refusal::DefaultAclOnFile
        ));
    }

    #[test]
    fn setting_an_acl_takes_the_set_group_id_bit_if_the_kernel_says_so() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o2755);
        let value = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 5, NONE)]);
        let (name, must) = (acl::ACCESS, XattrMust::Any);
        let operation =
            Operation::SetXattr { ino: file, name, value: &value, must, kill_sgid: true };
        small.perform(&operation);
        assert_eq!(small.inode(file).mode, S_IFREG | 0o755);
    }

    #[test]
    fn set_id_bits_go_with_a_write_if_the_kernel_says_so_and_with_chown_always() {
        for (mode, left) in [(0o6755, 0o755), (0o6745, 0o2745), (0o755, 0o755)] {
            let small = Small::new();
            let file = small.make(ROOT, b"f", mode);
            small.perform(&write(file, 0, false));
            assert_eq!(small.inode(file).mode & PERMISSIONS, mode);
            small.perform(&set(file, Attributes { uid: Some(1), ..Attributes::default() }));
            assert_eq!(small.inode(file).mode & PERMISSIONS, left);
            small.perform(&set(file, Attributes { mode: Some(mode), ..Attributes::default() }));
            small.perform(&write(file, 0, true));
            assert_eq!(small.inode(file).mode & PERMISSIONS, left);
        }
        let small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o6775);
        let chown = Attributes { gid: Some(1), kill_set_id: true, ..Attributes::default() };
        small.perform(&set(dir, chown));
        assert_eq!(small.inode(dir).mode & PERMISSIONS, 0o6755, "only the umask took its share");
    }

    #[test]
    fn a_capability_goes_with_a_write_a_truncation_and_a_chown() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o755);
        let size = Attributes { size: Some(9), ..Attributes::default() };
        let owner = Attributes { gid: Some(9), ..Attributes::default() };
        let mode = Attributes { mode: Some(0o700), ..Attributes::default() };
        for (operation, goes) in [
            (write(file, 0, false), true),
            (set(file, size), true),
            (set(file, owner), true),
            (set(file, mode), false),
        ] {
            small.perform(&set_xattr(file, CAPABILITY, b"cap"));
            small.perform(&operation);
            assert_eq!(small.xattr(file, CAPABILITY).is_none(), goes, "{operation:?}");
        }
    }

    #[test]
    fn a_directory_never_comes_to_lie_below_itself() {
        let small = Small::new();
        let a = small.make(ROOT, b"a", S_IFDIR | 0o755);
        let b = small.make(a, b"b", S_IFDIR | 0o755);
        let rename = |parent, name, new_parent, new_name, how| Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            how,
        };
        let (replace, exchange) = (RenameHow::Replace, RenameHow::Exchange);
        for (operation, crosses) in [
            (rename(ROOT, b"a", a, b"x", replace), true),
            (rename(ROOT, b"a", b, b"x", replace), true),
            (rename(a, b"b", ROOT, b"a", exchange), true),
            (rename(a, b"b", ROOT, b"a", replace), false),
        ] {
            match small.refusal(&operation) {
                Refusal::CrossesItself => assert!(crosses, "{operation:?}"),
                Refusal::NotEmpty => assert!(!crosses, "{operation:?}"),
                other => panic!("{operation:?}: {other:?}"),
            }
        }
        assert!(small.is_nothing(&rename(ROOT, b"a", ROOT, b"a", replace)));
    }

    #[test]
    fn nothing_is_made_in_a_directory_that_was_removed() {
        let small = Small::new();
        let dir = small.make(ROOT, b"d", S_IFDIR | 0o755);
        let file = small.make(ROOT, b"f", 0o644);
        small.perform(&Operation::Rmdir { parent: ROOT, name: b"d" });
        for operation in [
            make(dir, b"x", 0o644),
            Operation::Symlink { parent: dir, name: b"x", target: b"t", security: None },
            Operation::Tmpfile { parent: dir, mode: 0o644, security: None },
            Operation::Link { ino: file, parent: dir, name: b"x" },
            Operation::Rename {
                parent: ROOT,
                name: b"f",
                new_parent: dir,
                new_name: b"x",
                how: RenameHow::Replace,
            },
        ] {
            assert!(matches!(small.refusal(&operation), Refusal::NotFound), "{operation:?}");
        }
    }

    #[test]
    fn a_file_has_at_most_link_max_names() {
        let small = Small::new();
        let file = small.make(ROOT, b"0", 0o644);
        for number in 1..LINK_MAX {
            let name = number.to_string().into_bytes();
            small.apply(Change::Link { ino: file, parent: ROOT, name: &name });
        }
        let one_more = Operation::Link { ino: file, parent: ROOT, name: b"more" };
        assert!(matches!(small.refusal(&one_more), Refusal::TooManyLinks));
        small.perform(&Operation::Unlink { parent: ROOT, name: b"7" });
        small.perform(&one_more);
        assert_eq!(small.inode(file).nlink, LINK_MAX);
    }

    #[test]
    fn no_file_grows_beyond_the_largest_size() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o644);
        let size = |size| set(file, Attributes { size: Some(size), ..Attributes::default() });
        let allocate = |offset, len| Operation::Allocate {
            ino: file,
            flags: FALLOC_FL_ZERO_RANGE,
            offset,
            len,
            kill_set_id: false,
        };
        for operation in [
            size(FILE_SIZE_MAX + 1),
            size(u64::MAX),
            write(file, FILE_SIZE_MAX - 2, false),
            write(file, u64::MAX, false),
            allocate(FILE_SIZE_MAX, 1),
            allocate(u64::MAX, u64::MAX),
        ] {
            assert!(matches!(small.refusal(&operation), Refusal::TooLarge), "{operation:?}");
        }
        small.perform(&size(FILE_SIZE_MAX));
        small.perform(&write(file, FILE_SIZE_MAX - 3, false));
        assert_eq!(small.inode(file).size, FILE_SIZE_MAX);
    }

    #[test]
    fn modes_of_fallocate_that_are_not_offered_are_refused() {
        let small = Small::new();
        let ino = small.make(ROOT, b"f", 0o644);
        let allocate =
            |flags| Operation::Allocate { ino, flags, offset: 0, len: 1, kill_set_id: false };
        let taken: Vec<u32> =
            (0..256).filter(|&f| small.ask(&allocate(f), |decided| decided.is_ok())).collect();
        assert_eq!(taken, [0, 1, 3, 16, 17]);
        assert!(matches!(small.refusal(&allocate(1 << 31)), Refusal::NotSupported));
    }

    #[test]
    fn a_copy_is_cut_at_the_end_of_its_source_and_at_copy_max() {
        let small = Small::new();
        let (src, dst) = (small.make(ROOT, b"s", 0o644), small.make(ROOT, b"d", 0o644));
        let size = 3 * COPY_MAX;
        small.perform(&set(src, Attributes { size: Some(size), ..Attributes::default() }));
        let copy = |src_offset, dst, dst_offset, len| Operation::Copy {
            src,
            src_offset,
            dst,
            dst_offset,
            len,
            uncut: false,
            ends: false,
            kill_set_id: false,
        };
        let copied = |operation: &Operation<'_>| small.ask(operation, |d| d.unwrap().len);
        assert_eq!(copied(&copy(0, dst, 0, u64::MAX)), COPY_MAX);
        assert_eq!(copied(&copy(size - 5, dst, 7, 100)), 5);
        assert!(small.is_nothing(&copy(size, dst, 0, 100)));
        assert!(matches!(small.refusal(&copy(0, src, 10, 11)), Refusal::Invalid));
        assert!(matches!(small.refusal(&copy(10, src, 0, 11)), Refusal::Invalid));
        assert_eq!(copied(&copy(10, src, 0, 10)), 10);
    }

    #[test]
    fn what_is_all_of_a_file_ends_it_where_it_was_longer_and_says_nothing_of_its_end_elsewhere() {
        let small = Small::new();
        let (src, dst) = (small.make(ROOT, b"s", 0o644), small.make(ROOT, b"d", 0o644));
        let sized = |ino, size| set(ino, Attributes { size: Some(size), ..Attributes::default() });
        small.perform(&sized(src, 2 * COPY_MAX));
        let data = Data { hash: [0; 32], salt: [0; 16], place: Place::Inline(b"new") };
        let whole = Operation::Write { ino: dst, to: WriteTo::Whole, data, kill_set_id: false };
        let copy = |len| Operation::Copy {
            src,
            src_offset: 0,
            dst,
            dst_offset: 0,
            len,
            uncut: true,
            ends: true,
            kill_set_id: false,
        };
        // That a file ends where it grows to is said without it, so that older programs read it.
        for (before, operation, len, ends) in [
            (4, whole.clone(), 3, true),
            (3, whole.clone(), 3, false),
            (0, whole, 3, false),
            (3 * COPY_MAX, copy(2 * COPY_MAX), 2 * COPY_MAX, true),
            (3 * COPY_MAX, copy(u64::MAX), 2 * COPY_MAX, true),
            (2 * COPY_MAX, copy(u64::MAX), 2 * COPY_MAX, false),
            (11, copy(10), 10, true),
            (10, copy(10), 10, false),
        ] {
            small.perform(&sized(dst, before));
            small.ask(&operation, |decided| {
                let Decision { change, len: done, .. } = decided.unwrap();
                assert_eq!((change.unwrap().ends_a_file(), done), (ends, len), "{operation:?}");
            });
            small.perform(&operation);
            assert_eq!(small.inode(dst).size, len, "{operation:?}");
        }
    }

    #[test]
    fn what_is_not_to_be_cut_is_cut_where_it_is_too_long_for_one_event_and_ends_nothing_there() {
        let small = Small::new();
        let (src, dst) = (small.make(ROOT, b"s", 0o644), small.make(ROOT, b"d", 0o644));
        let sized = |ino, size| set(ino, Attributes { size: Some(size), ..Attributes::default() });
        for (uncut, size, len) in [
            (false, COPY_MAX, COPY_MAX),
            (false, COPY_MAX + 1, COPY_MAX),
            (true, COPY_MAX + 1, COPY_MAX + 1),
            (true, COPY_UNCUT_MAX, COPY_UNCUT_MAX),
            (true, COPY_UNCUT_MAX + 1, COPY_MAX),
            (true, u64::MAX >> 2, COPY_MAX),
        ] {
            for ends in [false, true] {
                small.perform(&sized(src, size + 7));
                small.perform(&sized(dst, u64::MAX >> 1 & !0xffff));
                let (src_offset, dst_offset, kill_set_id) = (7, 1, false);
                let operation = Operation::Copy {
                    src,
                    src_offset,
                    dst,
                    dst_offset,
                    len: u64::MAX,
                    uncut,
                    ends,
                    kill_set_id,
                };
                small.ask(&operation, |decided| {
                    let Decision { change, len: copied, .. } = decided.unwrap();
                    assert_eq!(copied, len, "{operation:?} of {size}");
                    assert_eq!(change.unwrap().ends_a_file(), ends && len == size);
                });
            }
        }
    }

    #[test]
    fn extended_attributes_have_four_namespaces_and_named_limits() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o644);
        let fifo = small.make(ROOT, b"p", S_IFIFO | 0o644);
        let refusal = |ino, name, value| small.refusal(&set_xattr(ino, name, value));
        assert!(matches!(refusal(file, b"system.other", b""), Refusal::NotSupported));
        assert!(matches!(refusal(file, b"plain", b""), Refusal::NotSupported));
        assert!(matches!(refusal(file, b"user.", b""), Refusal::Invalid));
        assert!(matches!(refusal(file, b"", b""), Refusal::Range));
        assert!(matches!(refusal(file, b"user.lighthouse.seq", b"1"), Refusal::NotPermitted));
        assert!(matches!(refusal(fifo, b"user.x", b""), Refusal::NotPermitted));
        small.perform(&set_xattr(fifo, b"trusted.x", b""));
        let large = vec![0; XATTR_VALUE_MAX + 1];
        assert!(matches!(refusal(file, b"user.x", &large), Refusal::ValueTooLarge));
        small.perform(&set_xattr(file, b"user.x", &large[1..]));
        small.perform(&Operation::RemoveXattr { ino: file, name: b"user.x" });
        let name = |number: usize| format!("user.{number:0250}").into_bytes();
        assert_eq!(name(0).len(), XATTR_NAME_MAX);
        let fit = XATTR_LIST_MAX / (XATTR_NAME_MAX + 1);
        for number in 0..fit {
            small.perform(&set_xattr(file, &name(number), b"v"));
        }
        assert!(matches!(refusal(file, b"user.more", b""), Refusal::NoSpace));
        small.perform(&set_xattr(file, &name(0), b"another"));
    }

    #[test]
    fn a_security_context_comes_with_what_is_made() {
        let small = Small::new();
        let made = |security| Operation::Make {
            parent: ROOT,
            name: b"f",
            mode: S_IFREG | 0o644,
            rdev: 0,
            exclusive: true,
            security: Some(security),
        };
        assert!(matches!(small.refusal(&made((b"user.x", b"v"))), Refusal::Invalid));
        let file = small.perform(&made((b"security.selinux", b"context")));
        assert_eq!(small.xattr(file, b"security.selinux"), Some(b"context".to_vec()));
    }

    #[test]
    fn what_changes_nothing_is_no_event() {
        let small = Small::new();
        let file = small.make(ROOT, b"f", 0o644);
        small.perform(&Operation::Link { ino: file, parent: ROOT, name: b"g" });
        let empty = Data { hash: [0; 32], salt: [0; 16], place: Place::Inline(b"") };
        for operation in [
            set(file, Attributes::default()),
            set(file, Attributes { kill_set_id: true, ..Attributes::default() }),
            Operation::Write { ino: file, to: WriteTo::Offset(5), data: empty, kill_set_id: true },
            Operation::Rename {
                parent: ROOT,
                name: b"f",
                new_parent: ROOT,
                new_name: b"g",
                how: RenameHow::Replace,
            },
            Operation::End { ino: file },
            Operation::End { ino: Ino(999) },
        ] {
            assert!(small.is_nothing(&operation), "{operation:?}");
        }
        let same = Attributes { size: Some(0), ..Attributes::default() };
        small.ask(&set(file, same), |decided| {
            let set = SetAttr { size: Some(0), mtime: Some(NOW), ..SetAttr::default() };
            let change = Change::SetAttr { ino: file, set, acl: None, drop_capability: false };
            assert_eq!(decided.unwrap().change, Some(change));
        });
    }
}
