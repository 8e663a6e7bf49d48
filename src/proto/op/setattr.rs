//! `FUSE_SETATTR`: change attributes of an inode.

use crate::proto::abi::{
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_CTIME, FATTR_FH, FATTR_GID, FATTR_KILL_SUIDGID,
    FATTR_LOCKOWNER, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW, FATTR_SIZE, FATTR_UID,
    fuse_setattr_in,
};
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, LockOwner, NodeId, Timestamp};

/// Asks to change those attributes that are `Some`: chmod(2), chown(2), truncate(2), utimensat(2).
///
/// Answered with all attributes. The kernel has checked permissions if mounted with
/// `default_permissions`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SetAttr {
    /// The inode.
    pub node: NodeId,
    /// The open file it is asked through, for ftruncate(2) and the like.
    pub handle: Option<FileHandle>,
    /// Permissions, with the type bits as they are.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes, at most `i64::MAX`; what is new reads as zeros.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of anything; sent with write-back caching alone (7.23).
    pub ctime: Option<Timestamp>,
    /// Whose locks count when truncating.
    pub lock_owner: Option<LockOwner>,
    /// Clear the set-user-id bit, and the set-group-id bit if the group may execute (7.33).
    pub kill_suidgid: bool,
}

impl SetAttr {
    /// Sets nothing of `node`: for who fills in what is to be set.
    #[must_use]
    pub const fn nothing(node: NodeId) -> Self {
        Self {
            node,
            handle: None,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: None,
            mtime: None,
            ctime: None,
            lock_owner: None,
            kill_suidgid: false,
        }
    }

    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_setattr_in = message.args()?;
        let has = |flag| args.valid & flag != 0;
        let time = |set, now, secs: u64, nanos| {
            // Seconds are signed; the field is not.
            let at = SetTime::At(Timestamp::new(secs.cast_signed(), nanos));
            has(set).then_some(if has(now) { SetTime::Now } else { at })
        };
        Ok(Self {
            node: message.node()?,
            handle: has(FATTR_FH).then_some(FileHandle(args.fh)),
            mode: has(FATTR_MODE).then_some(args.mode),
            uid: has(FATTR_UID).then_some(args.uid),
            gid: has(FATTR_GID).then_some(args.gid),
            size: if has(FATTR_SIZE) { Some(offset_in_range(args.size, 0)?) } else { None },
            atime: time(FATTR_ATIME, FATTR_ATIME_NOW, args.atime, args.atimensec),
            mtime: time(FATTR_MTIME, FATTR_MTIME_NOW, args.mtime, args.mtimensec),
            ctime: has(FATTR_CTIME)
                .then_some(Timestamp::new(args.ctime.cast_signed(), args.ctimensec)),
            lock_owner: has(FATTR_LOCKOWNER).then_some(LockOwner(args.lock_owner)),
            kill_suidgid: has(FATTR_KILL_SUIDGID),
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        let flag = |set, flag| if set { flag } else { 0 };
        let (atime, atime_now) = SetTime::to_wire(self.atime);
        let (mtime, mtime_now) = SetTime::to_wire(self.mtime);
        let ctime = self.ctime.unwrap_or_default();
        body.node = self.node.get();
        body.args(&fuse_setattr_in {
            valid: flag(self.handle.is_some(), FATTR_FH)
                | flag(self.mode.is_some(), FATTR_MODE)
                | flag(self.uid.is_some(), FATTR_UID)
                | flag(self.gid.is_some(), FATTR_GID)
                | flag(self.size.is_some(), FATTR_SIZE)
                | flag(self.atime.is_some(), FATTR_ATIME)
                | flag(atime_now, FATTR_ATIME_NOW)
                | flag(self.mtime.is_some(), FATTR_MTIME)
                | flag(mtime_now, FATTR_MTIME_NOW)
                | flag(self.ctime.is_some(), FATTR_CTIME)
                | flag(self.lock_owner.is_some(), FATTR_LOCKOWNER)
                | flag(self.kill_suidgid, FATTR_KILL_SUIDGID),
            padding: 0,
            fh: self.handle.unwrap_or_default().0,
            size: self.size.unwrap_or(0),
            lock_owner: self.lock_owner.unwrap_or_default().0,
            atime: atime.secs.cast_unsigned(),
            mtime: mtime.secs.cast_unsigned(),
            ctime: ctime.secs.cast_unsigned(),
            atimensec: atime.nanos,
            mtimensec: mtime.nanos,
            ctimensec: ctime.nanos,
            mode: self.mode.unwrap_or(0),
            unused4: 0,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            unused5: 0,
        });
    }
}

/// What a time is to become.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetTime {
    /// The time of the server's clock (UTIME_NOW).
    Now,
    /// This time.
    At(Timestamp),
}

impl SetTime {
    fn to_wire(time: Option<Self>) -> (Timestamp, bool) {
        match time {
            None => (Timestamp::default(), false),
            Some(Self::Now) => (Timestamp::default(), true),
            Some(Self::At(time)) => (time, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_SETATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    /// Some attributes, and another number in each field.
    fn some_are_set() -> Vec<u8> {
        words(&[
            I(FATTR_MODE
                | FATTR_SIZE
                | FATTR_ATIME
                | FATTR_MTIME
                | FATTR_MTIME_NOW
                | FATTR_KILL_SUIDGID),
            I(0),
            L(1),
            L(2),
            L(3),
            L(4),
            L(5),
            L(6),
            I(7),
            I(8),
            I(9),
            I(10),
            I(11),
            I(12),
            I(13),
            I(14),
        ])
    }

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let expected = SetAttr {
            node: NODE,
            handle: None,
            mode: Some(10),
            uid: None,
            gid: None,
            size: Some(2),
            atime: Some(SetTime::At(Timestamp::new(4, 7))),
            mtime: Some(SetTime::Now),
            ctime: None,
            lock_owner: None,
            kill_suidgid: true,
        };
        assert_eq!(decode(FUSE_SETATTR, &some_are_set(), b""), Ok(Op::SetAttr(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = some_are_set();
        assert_eq!(decode(FUSE_SETATTR, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }

    #[test]
    fn times_before_1970_are_negative() {
        let seconds = (-5_i64).cast_unsigned();
        let mut args = words(&[I(FATTR_ATIME), I(0), L(0), L(0), L(0), L(seconds), L(0), L(0)]);
        args.extend(words(&[I(0); 8]));
        let Ok(Op::SetAttr(set)) = decode(FUSE_SETATTR, &args, b"") else { panic!("a SETATTR") };
        assert_eq!(set.atime, Some(SetTime::At(Timestamp::new(-5, 0))));
    }

    #[test]
    fn a_length_above_what_a_file_can_have_is_refused() {
        let mut args = words(&[I(FATTR_SIZE), I(0), L(0), L(1 << 63), L(0), L(0), L(0), L(0)]);
        args.extend(words(&[I(0); 8]));
        assert_eq!(decode(FUSE_SETATTR, &args, b""), Err(DecodeError::Value));
    }
}
