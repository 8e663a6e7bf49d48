//! What may follow a request that makes an inode: security contexts and supplementary groups.
//!
//! ```text
//! security contexts      | size u32 | count u32 (0..=31) | context ... |
//!   context              | size u32 | 0 u32 | name NUL | value [size] | pad to 8 |
//! supplementary groups   | size u32 | 32 u32 | count u32 | gid u32 ... | pad to 8 |
//! ```
//!
//! `size` of an extension counts its own header, and is a multiple of 8. Extensions of other types
//! are passed by.
//!
//! Invariants: [`Extensions`] is a proof that the chain of extensions fits the bytes, and that each
//! security context and group list fits its extension; so its iterators cannot fail.

use zerocopy::FromBytes;

use super::abi::*;
use super::decode::{Cursor, DecodeError};
use super::types::XattrName;

/// The extensions of one request; empty unless asked for at INIT.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extensions<'a>(&'a [u8]);

/// What a security module wants to be stored with a new inode, as an extended attribute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SecurityContext<'a> {
    /// Name of the attribute, such as `security.selinux`.
    pub name: XattrName<'a>,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// Checks `bytes`, which are extensions one after the other.
    ///
    /// # Errors
    ///
    /// `Extensions` if a size does not fit, `Name` or `NameTooLong` for the name of a context.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (kind, body, after) = split(rest).ok_or(DecodeError::Extensions)?;
            if kind <= FUSE_MAX_NR_SECCTX {
                let mut body = Cursor::new(body);
                for _ in 0..kind {
                    context(&mut body)?;
                }
            } else if kind == FUSE_EXT_GROUPS && groups(body).is_none() {
                return Err(DecodeError::Extensions);
            }
            rest = after;
        }
        Ok(Self(bytes))
    }

    /// The bytes on the wire.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The security contexts, in the order they were sent.
    pub fn security_contexts(self) -> impl Iterator<Item = SecurityContext<'a>> {
        self.each().filter(|&(kind, _)| kind <= FUSE_MAX_NR_SECCTX).flat_map(|(kind, body)| {
            let mut body = Cursor::new(body);
            (0..kind).map_while(move |_| context(&mut body).ok())
        })
    }

    /// Groups the caller is in besides its primary one. The kernel sends at most one: the one that
    /// the directory belongs to.
    pub fn supplementary_groups(self) -> impl Iterator<Item = u32> {
        self.each()
            .filter(|&(kind, _)| kind == FUSE_EXT_GROUPS)
            .filter_map(|(_, body)| groups(body))
            .flatten()
    }

    fn each(self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (kind, body, after) = split(rest)?;
            rest = after;
            Some((kind, body))
        })
    }
}

/// The first extension's type and body, and what follows it.
fn split(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (header, _) = fuse_ext_header::read_from_prefix(bytes).ok()?;
    let size = usize::try_from(header.size).ok()?;
    if size % 8 != 0 {
        return None;
    }
    let (extension, rest) = bytes.split_at_checked(size)?;
    Some((header.r#type, extension.get(size_of::<fuse_ext_header>()..)?, rest))
}

fn context<'a>(body: &mut Cursor<'a>) -> Result<SecurityContext<'a>, DecodeError> {
    let outside = |err| if err == DecodeError::Short { DecodeError::Extensions } else { err };
    let fuse_secctx { size, .. } = body.take().map_err(outside)?;
    let name = body.xattr_name()?;
    let len = usize::try_from(size).map_err(|_| DecodeError::Extensions)?;
    let value = body.bytes(len).map_err(outside)?;
    // Cannot overflow: both are lengths of parts of one slice.
    let used = size_of::<fuse_secctx>() + name.as_bytes().len() + 1 + len;
    body.bytes(fuse_rec_align(used) - used).map_err(outside)?;
    Ok(SecurityContext { name, value })
}

fn groups(body: &[u8]) -> Option<impl Iterator<Item = u32>> {
    let (header, rest) = fuse_supp_groups::read_from_prefix(body).ok()?;
    let len = usize::try_from(header.nr_groups).ok()?.checked_mul(size_of::<u32>())?;
    Some(
        rest.get(..len)?
            .chunks_exact(size_of::<u32>())
            .filter_map(|id| u32::read_from_bytes(id).ok()),
    )
}
