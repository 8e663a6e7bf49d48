//! How bytes become values: the errors, and the cursor over what follows a fixed part.
//!
//! Invariants: nothing here allocates, panics or looks past the message. Bytes after those an
//! operation knows are ignored, as a later minor version may append some.

use std::fmt;

use zerocopy::FromBytes;

use super::types::{Errno, Name, NameError, XattrName};

/// Why a message is no request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// The message ends before what its operation needs.
    Short,
    /// The header counts another length than what was read.
    Length,
    /// No operation has this number. Answered with ENOSYS, which makes the kernel stop asking where
    /// it can.
    Opcode(u32),
    /// Node 0 where an inode is needed.
    Node,
    /// A name that is empty, not ended by NUL, or holds `/`.
    Name,
    /// A name longer than 255 bytes, which the kernel may send: up to 1024, newer ones up to a page.
    NameTooLong,
    /// A number outside what its field can mean: an offset above `i64::MAX`, or a kind of lock that
    /// does not exist.
    Value,
    /// Extensions that do not fit in the message, or in each other.
    Extensions,
}

impl DecodeError {
    /// What the request is answered with.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Short | Self::Length => Errno::EIO,
            Self::Opcode(_) => Errno::ENOSYS,
            Self::NameTooLong => Errno::ENAMETOOLONG,
            Self::Node | Self::Name | Self::Value | Self::Extensions => Errno::EINVAL,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("message ends before what its operation needs"),
            Self::Length => f.write_str("message is not as long as its header says"),
            Self::Opcode(opcode) => write!(f, "no operation has the number {opcode}"),
            Self::Node => f.write_str("node id is 0"),
            Self::Name => f.write_str("name is empty, unfinished, or holds '/'"),
            Self::NameTooLong => f.write_str("name is longer than 255 bytes"),
            Self::Value => f.write_str("a number is outside what its field can mean"),
            Self::Extensions => f.write_str("extensions do not fit in the message"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<NameError> for DecodeError {
    fn from(err: NameError) -> Self {
        match err {
            NameError::Malformed => Self::Name,
            NameError::TooLong => Self::NameTooLong,
        }
    }
}

/// What is left to be read of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A struct, wherever it is aligned.
    pub(super) fn take<T: FromBytes>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| DecodeError::Short)?;
        self.0 = rest;
        Ok(value)
    }

    /// `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The bytes up to a NUL, which is passed by.
    pub(super) fn c_string(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(DecodeError::Name)?;
        let string = self.bytes(end)?;
        self.bytes(1)?;
        Ok(string)
    }

    pub(super) fn name(&mut self) -> Result<Name<'a>, DecodeError> {
        Ok(Name::new(self.c_string()?)?)
    }

    pub(super) fn xattr_name(&mut self) -> Result<XattrName<'a>, DecodeError> {
        Ok(XattrName::new(self.c_string()?)?)
    }
}

/// `offset`, if it is at most `i64::MAX` and so is the last of the `len` bytes from there.
pub(super) fn offset_in_range(offset: u64, len: u64) -> Result<u64, DecodeError> {
    const END_MAX: u64 = 1 << 63;
    match offset.checked_add(len) {
        Some(end) if offset < END_MAX && end <= END_MAX => Ok(offset),
        _ => Err(DecodeError::Value),
    }
}
