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

impl From<&[u8]> for Small {
    fn from(from: &[u8]) -> Self {
        let mut bytes = [0; IN_PLACE];
        match (bytes.get_mut(..from.len()), u8::try_from(from.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(from);
                Self::InPlace { len, bytes }
            }
            _ => Self::Heap(from.into()),
        }
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
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
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
}
