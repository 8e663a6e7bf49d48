//! `FUSE_REMOVEMAPPING`: unmap ranges of the DAX window.

use zerocopy::{FromBytes, IntoBytes};

use crate::proto::abi::{fuse_removemapping_in, fuse_removemapping_one};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks to undo SETUPMAPPING; sent by virtiofs alone (7.31).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RemoveMapping<'a> {
    /// The file.
    pub node: NodeId,
    /// Ranges of the window.
    pub items: MappingList<'a>,
}

impl<'a> RemoveMapping<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_removemapping_in { count } = message.args()?;
        let len = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size_of::<fuse_removemapping_one>()))
            .ok_or(DecodeError::Short)?;
        Ok(Self { node: message.node()?, items: MappingList(message.body().bytes(len)?) })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_removemapping_in { count: self.items.len_u32() });
        body.bytes(self.items.0);
    }
}

/// The elements of a REMOVEMAPPING, in place in the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MappingList<'a>(&'a [u8]);

impl<'a> MappingList<'a> {
    /// A list of these elements.
    pub fn new(items: &'a [fuse_removemapping_one]) -> Self {
        Self(IntoBytes::as_bytes(items))
    }

    /// The elements, each decoded when it is asked for.
    pub fn iter(self) -> impl Iterator<Item = fuse_removemapping_one> + use<'a> {
        self.0
            .chunks_exact(size_of::<fuse_removemapping_one>())
            .filter_map(|bytes| fuse_removemapping_one::read_from_bytes(bytes).ok())
    }

    fn len_u32(self) -> u32 {
        Body::len_u32(self.0) / Body::len_u32(&[0; size_of::<fuse_removemapping_one>()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_REMOVEMAPPING;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_element_is_a_range_of_the_window() {
        let items = words(&[L(1), L(2), L(3), L(4)]);
        let args = words(&[I(2)]);
        let Ok(Op::RemoveMapping(remove)) = decode(FUSE_REMOVEMAPPING, &args, &items) else {
            panic!("a REMOVEMAPPING")
        };
        assert_eq!(remove.node, NODE);
        let ranges: Vec<_> = remove.items.iter().map(|range| (range.moffset, range.len)).collect();
        assert_eq!(ranges, [(1, 2), (3, 4)]);
    }

    #[test]
    fn fewer_elements_than_counted_are_refused() {
        let args = words(&[I(u32::MAX)]);
        assert_eq!(decode(FUSE_REMOVEMAPPING, &args, b""), Err(DecodeError::Short));
    }
}
