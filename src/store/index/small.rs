//! Byte strings that mostly fit where they stand.
//!
//! Invariant: two [`Small`]s order as their bytes do, wherever the bytes are kept.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// Bytes kept in place up to this length. Keys and values of every table but long names, symbolic
/// links and merged extents fit.
const IN_PLACE: usize = 38;

/// Owned bytes, without an allocation where they are few.
#[derive(Clone)]
pub(super) enum Small {
    /// The first `len` of `bytes`.
    InPlace {
        /// At most [`IN_PLACE`].
        len: u8,
        /// The rest is zero.
        bytes: [u8; IN_PLACE],
    },
    /// Longer ones.
    Heap(Box<[u8]>),
}

impl Small {
    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Heap(bytes) => bytes,
        }
    }

    /// How much memory it takes beyond itself.
    pub(super) fn heap(&self) -> usize {
        match self {
            Self::InPlace { .. } => 0,
            Self::Heap(bytes) => bytes.len(),
        }
    }
}

impl Small {
    /// The bytes, if they are few enough to be kept in place.
    pub(super) fn in_place(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; IN_PLACE];
        let len = u8::try_from(from.len()).ok()?;
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self::InPlace { len, bytes })
    }
}

impl From<&[u8]> for Small {
    fn from(from: &[u8]) -> Self {
        Self::in_place(from).unwrap_or_else(|| Self::Heap(from.into()))
    }
}

impl Borrow<[u8]> for Small {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Eq for Small {}

impl PartialEq for Small {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Ord for Small {
    /// Most keys differ in their first words, so those in place are compared by words: a tree is searched by some
    /// twenty comparisons, and a call of `memcmp` costs more than each.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (
                Self::InPlace { len, bytes },
                Self::InPlace { len: other_len, bytes: other_bytes },
            ) => {
                // The last word overlaps the one before: what they share was equal.
                for at in [0, 8, 16, 24, IN_PLACE - 8] {
                    match word(bytes, at).cmp(&word(other_bytes, at)) {
                        Ordering::Equal => (),
                        different => return different,
                    }
                }
                // One is the other and zeros: those behind its end, or its own.
                len.cmp(other_len)
            }
            _ => self.as_slice().cmp(other.as_slice()),
        }
    }
}

/// Eight bytes, which order as they do.
#[inline]
fn word(bytes: &[u8; IN_PLACE], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u64::from_be_bytes(*word))
}

impl PartialOrd for Small {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_come_back_whatever_their_length() {
        for len in 0..100 {
            let bytes: Vec<u8> = (0..len).collect();
            assert_eq!(Small::from(&bytes[..]).as_slice(), &bytes[..]);
        }
    }

    #[test]
    fn short_and_long_order_as_their_bytes() {
        let short = Small::from(&[1, 2][..]);
        let long = Small::from(&[1; 50][..]);
        assert!(long < short);
        assert!(Small::from(&[1; 38][..]) < long);
    }

    proptest! {
        /// Few different bytes, zeros above all, so that many begin alike and some are another and zeros.
        #[test]
        fn any_two_order_as_their_bytes(
            one in vec(0..3_u8, 0..50), other in vec(0..3_u8, 0..50), same in 0..50_usize,
        ) {
            let mut other = other;
            let same = same.min(one.len()).min(other.len());
            other[..same].copy_from_slice(&one[..same]);
            let order = Small::from(&one[..]).cmp(&Small::from(&other[..]));
            prop_assert_eq!(order, one.cmp(&other));
        }
    }
}
