//! How long something took, how often: buckets of equal width within each power of two.
//!
//! ```text
//!  nanoseconds   0 .. 7   8 9 .. 15   16 18 .. 30   32 36 .. 60   64 ...
//!  width         1        1           2             4             8
//! ```
//!
//! Invariants: a duration is told within an eighth of itself, whatever its size; times of 137 s and more count as so
//! long.

use std::sync::atomic::{AtomicU64, Ordering};

/// A power of two is cut into so many buckets.
const STEPS: usize = 8;
/// log2 of it.
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Times from 2 to this many nanoseconds on are in the last bucket.
const LONGEST_BITS: u32 = 37;
/// How many buckets there are.
const BUCKETS: usize = STEPS * (LONGEST_BITS - STEP_BITS + 1) as usize;

/// Counts of durations.
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            total_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// One that took `ns`.
    pub(super) fn add(&self, ns: u64) {
        if let Some(count) = self.counts.get(bucket(ns)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        if ns > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// The bucket of `ns`.
const fn bucket(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return ns as usize;
    }
    let octave = 63 - ns.leading_zeros();
    if octave >= LONGEST_BITS {
        return BUCKETS - 1;
    }
    // The first one bit and the three behind it.
    let step = (ns >> (octave - STEP_BITS)) as usize - STEPS;
    (octave - STEP_BITS + 1) as usize * STEPS + step
}

/// The longest time in `bucket`, in nanoseconds.
const fn end_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let octave = (bucket / STEPS) as u32 - 1;
    let step = (bucket % STEPS + STEPS + 1) as u64;
    (step << octave) - 1
}

/// Several histograms, read.
#[derive(Clone, Debug)]
pub struct Summary {
    counts: [u64; BUCKETS],
    total_ns: u64,
    longest_ns: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total_ns: 0, longest_ns: 0 }
    }
}

impl Summary {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum = sum.saturating_add(count.load(Ordering::Relaxed));
        }
        let total_ns = histogram.total_ns.load(Ordering::Relaxed);
        self.total_ns = self.total_ns.saturating_add(total_ns);
        self.longest_ns = self.longest_ns.max(histogram.longest_ns.load(Ordering::Relaxed));
    }

    /// Adds what another tells.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*count);
        }
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean, in nanoseconds; 0 of none.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.total_ns.checked_div(self.count()).unwrap_or(0)
    }

    /// The longest, in nanoseconds.
    #[must_use]
    pub const fn longest_ns(&self) -> u64 {
        self.longest_ns
    }

    /// The time within which `percent` of a hundred were done, in nanoseconds: never too short, and too long by
    /// an eighth at most. 0 of none.
    #[must_use]
    pub fn within_ns(&self, percent: f64) -> u64 {
        let count = self.count();
        // Counts are far below 2^52.
        let wanted = (count as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64;
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return end_of(number).min(self.longest_ns);
            }
        }
        self.longest_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for number in 1..BUCKETS {
            assert_eq!(bucket(end_of(number - 1)), number - 1);
            assert_eq!(bucket(end_of(number - 1) + 1), number);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_mean_are_those_of_what_was_added() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.add(us * 1000));
        let mut summary = Summary::default();
        assert_eq!((summary.mean_ns(), summary.within_ns(99.0), summary.count()), (0, 0, 0));
        summary.add(&histogram);
        assert_eq!(summary.count(), 1000);
        assert_eq!(summary.mean_ns(), 500_500);
        assert_eq!(summary.longest_ns(), 1_000_000);
        for percent in [1.0, 50.0, 95.0, 99.0, 100.0] {
            let exact = (percent * 10_000.0) as u64;
            let told = summary.within_ns(percent);
            assert!(told >= exact && told <= exact + exact / 8 + 1, "{percent}: {told}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_told_within_an_eighth(ns in 0u64..1 << LONGEST_BITS) {
            let end = end_of(bucket(ns));
            prop_assert!(end >= ns && end - ns <= ns / 8);
        }
    }
}
