//! `FUSE_BATCH_FORGET`: give back lookups of many inodes.

use zerocopy::{FromBytes, IntoBytes};

use super::Forget;
use crate::proto::abi::{fuse_batch_forget_in, fuse_forget_one};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Says what FORGET says, of many inodes at once (7.16). No reply is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchForget<'a> {
    /// Which, and how many lookups of each.
    pub items: ForgetList<'a>,
}

impl<'a> BatchForget<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_batch_forget_in { count, .. } = message.args()?;
        let len = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size_of::<fuse_forget_one>()))
            .ok_or(DecodeError::Short)?;
        Ok(Self { items: ForgetList(message.body().bytes(len)?) })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.args(&fuse_batch_forget_in { count: self.items.len_u32(), dummy: 0 });
        body.bytes(self.items.0);
    }
}

/// The elements of a BATCH_FORGET, in place in the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForgetList<'a>(&'a [u8]);

impl<'a> ForgetList<'a> {
    /// A list of these elements.
    pub fn new(items: &'a [fuse_forget_one]) -> Self {
        Self(IntoBytes::as_bytes(items))
    }

    /// The elements, each decoded when it is asked for. One with node 0 is passed by: the kernel
    /// sends none, and there is nobody to tell.
    pub fn iter(self) -> impl Iterator<Item = Forget> + use<'a> {
        self.0
            .chunks_exact(size_of::<fuse_forget_one>())
            .filter_map(|bytes| fuse_forget_one::read_from_bytes(bytes).ok())
            .filter_map(|one| Some(Forget { node: NodeId::new(one.nodeid)?, lookups: one.nlookup }))
    }

    fn len_u32(self) -> u32 {
        Body::len_u32(self.0) / Body::len_u32(&[0; size_of::<fuse_forget_one>()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_BATCH_FORGET;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, OTHER, decode, words};

    #[test]
    fn each_element_is_a_node_and_its_lookups() {
        let args = words(&[I(2), I(0)]);
        let items = words(&[L(NODE.get()), L(3), L(OTHER.get()), L(4)]);
        let Ok(Op::BatchForget(batch)) = decode(FUSE_BATCH_FORGET, &args, &items) else {
            panic!("a BATCH_FORGET")
        };
        let forgets: Vec<_> = batch.items.iter().collect();
        assert_eq!(
            forgets,
            [Forget { node: NODE, lookups: 3 }, Forget { node: OTHER, lookups: 4 }]
        );
    }

    #[test]
    fn an_element_for_node_0_is_passed_by() {
        let args = words(&[I(2), I(0)]);
        let items = words(&[L(0), L(3), L(OTHER.get()), L(4)]);
        let Ok(Op::BatchForget(batch)) = decode(FUSE_BATCH_FORGET, &args, &items) else {
            panic!("a BATCH_FORGET")
        };
        assert_eq!(batch.items.iter().count(), 1);
    }

    #[test]
    fn fewer_elements_than_counted_are_refused() {
        let items = words(&[L(NODE.get()), L(3)]);
        for count in [2, u32::MAX] {
            let args = words(&[I(count), I(0)]);
            assert_eq!(decode(FUSE_BATCH_FORGET, &args, &items), Err(DecodeError::Short));
        }
    }
}
