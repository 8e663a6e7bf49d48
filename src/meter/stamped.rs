//! A few numbers that one thread writes and others read without waiting for it, all of one writing or none.
//!
//! Invariants: whoever reads meets numbers that were written together. They are stamped after they were written, and while
//! that is under way there is no stamp; what changed while it was read is not there.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// `N` numbers and their stamp. On a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Stamped<const N: usize> {
    /// 0: there is nothing.
    stamp: AtomicU64,
    numbers: [AtomicU64; N],
}

impl<const N: usize> Default for Stamped<N> {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self { stamp: zero(0), numbers: std::array::from_fn(zero) }
    }
}

impl<const N: usize> Stamped<N> {
    /// Writes `numbers`; `stamp` is not 0, and not that of the writing before.
    pub(super) fn set(&self, stamp: u64, numbers: [u64; N]) {
        self.clear();
        fence(Ordering::Release);
        for (place, number) in self.numbers.iter().zip(numbers) {
            place.store(number, Ordering::Relaxed);
        }
        self.stamp.store(stamp, Ordering::Release);
    }

    /// From now on there is nothing.
    pub(super) fn clear(&self) {
        self.stamp.store(0, Ordering::Relaxed);
    }

    /// What is there, and its stamp.
    pub(super) fn get(&self) -> Option<(u64, [u64; N])> {
        let stamp = self.stamp.load(Ordering::Acquire);
        let mut numbers = [0; N];
        for (number, place) in numbers.iter_mut().zip(&self.numbers) {
            *number = place.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        (stamp != 0 && self.stamp.load(Ordering::Relaxed) == stamp).then_some((stamp, numbers))
    }
}
