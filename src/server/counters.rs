//! How many requests of each operation the kernel sent: the fewer, the better it caches.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::meter::OPCODES;
use crate::proto::op::name;

/// Counts since the server began. Reading them while requests come in is fine: each is exact, together
/// they are of no one moment.
#[derive(Debug)]
pub struct Counters {
    requests: [AtomicU64; OPCODES],
    refused: AtomicU64,
    malformed: AtomicU64,
    panics: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            refused: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub(super) fn request(&self, opcode: u32) {
        if let Some(count) = usize::try_from(opcode).ok().and_then(|n| self.requests.get(n)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that the view was asked, or told of, under `opcode`.
    #[must_use]
    pub fn of(&self, opcode: u32) -> u64 {
        let count = usize::try_from(opcode).ok().and_then(|n| self.requests.get(n));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Name and count of every operation that was asked for at all.
    pub fn by_operation(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0..).zip(&self.requests).filter_map(|(opcode, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (name(opcode), count))
        })
    }

    /// Requests answered with an errno.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Messages that were dropped, or answered with an errno, before anybody was asked.
    #[must_use]
    pub fn malformations(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Handlers that panicked; their requests were answered with EIO.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}
