//! The log: events in order, appended by one process and read by any.
//!
//! Appending is one `pwrite` of one record at the end. Reading needs no lock: a reader goes from
//! record to record as long as each is whole and follows the one before, and comes back later to
//! where it stopped. How its segments are named only [`segment`](super::segment) knows.
//!
//! Invariants: a failed append applies nothing, uses no number, and its place is where the next
//! one goes; the segment after the one being written is set aside ahead, so that what frees space
//! ([`Claim::SetAside`]) has one to go to when the disk is full, and what grows takes that one only if another can
//! follow it; a segment begins directly behind a seal.

mod reader;
mod writer;

use super::event::Seq;
use super::segment::Position;

pub(super) use reader::payload_of;
pub use reader::{LogReader, Next, damage_in};
pub use writer::{AppendError, Appended, Claim, Log, RESERVE, SyncPoint, Tail};
pub(super) use writer::{absorb, content_until};

/// Where reading can begin again: opaque to whoever keeps it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// Which store's log.
    pub store: [u8; 16],
    /// The place of the next record.
    pub position: Position,
    /// `crc` of the record before.
    pub prev: u32,
    /// The last event before.
    pub seq: Seq,
}

impl Mark {
    /// Length of [`to_bytes`](Self::to_bytes).
    pub const LEN: usize = 36;

    /// As bytes, for keeping.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.store);
        bytes[16..20].copy_from_slice(&self.position.segment.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.position.offset.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.prev.to_le_bytes());
        bytes[28..].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes
    }

    /// From kept bytes; `None` if they have another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
            Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        }
        if bytes.len() != Self::LEN {
            return None;
        }
        Some(Self {
            store: *bytes.first_chunk()?,
            position: Position { segment: u32_at(bytes, 16)?, offset: u32_at(bytes, 20)? },
            prev: u32_at(bytes, 24)?,
            seq: Seq(u64::from_le_bytes(*bytes.get(28..)?.first_chunk()?)),
        })
    }
}
