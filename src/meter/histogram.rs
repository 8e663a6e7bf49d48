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

use serde::{Deserialize, Serialize};

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

/// Several histograms, read. As JSON, the buckets with something in them as pairs of number and count.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Sparse", into = "Sparse")]
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

/// A summary on its way to another process.
#[derive(Deserialize, Serialize)]
struct Sparse {
    total_ns: u64,
    longest_ns: u64,
    buckets: Vec<(usize, u64)>,
}

impl From<Summary> for Sparse {
    fn from(summary: Summary) -> Self {
        let counts = summary.counts.into_iter().enumerate();
        Self {
            total_ns: summary.total_ns,
            longest_ns: summary.longest_ns,
            buckets: counts.filter(|&(_, count)| count > 0).collect(),
        }
    }
}

impl From<Sparse> for Summary {
    /// Of a bucket that is not known here it counts the longest time that is.
    fn from(sparse: Sparse) -> Self {
        let mut counts = [0; BUCKETS];
        for (bucket, count) in sparse.buckets {
            if let Some(sum) = counts.get_mut(bucket.min(BUCKETS - 1)) {
                *sum = count.saturating_add(*sum);
            }
        }
        Self { counts, total_ns: sparse.total_ns, longest_ns: sparse.longest_ns }
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

    /// What came since the same was asked `earlier`. Of a longest time that is not longer than the one before, only its
    /// bucket is known: then it is told too long by an eighth at most.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts: [u64; BUCKETS] = std::array::from_fn(|bucket| {
            let count = |of: &Self| of.counts.get(bucket).copied().unwrap_or(0);
            count(self).saturating_sub(count(earlier))
        });
        let last = counts.iter().rposition(|&count| count > 0);
        let longest_ns = match self.longest_ns > earlier.longest_ns {
            true => self.longest_ns,
            false => last.map_or(0, end_of).min(self.longest_ns),
        };
        Self { counts, total_ns: self.total_ns.saturating_sub(earlier.total_ns), longest_ns }
    }

    /// With one bucket for each power of two: a tenth of the size at most.
    pub(super) fn coarse(&mut self) {
        for octave in self.counts.chunks_mut(STEPS) {
            let sum = octave.iter().sum();
            octave.fill(0);
            if let Some(last) = octave.last_mut() {
                *last = sum;
            }
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How long they took together, in nanoseconds.
    #[must_use]
    pub const fn total_ns(&self) -> u64 {
        self.total_ns
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
            seen = count.saturating_add(seen);
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

    #[test]
    fn what_came_since_is_told_alone() {
        let histogram = Histogram::default();
        let read = || {
            let mut summary = Summary::default();
            summary.add(&histogram);
            summary
        };
        histogram.add(1_000_000);
        let earlier = read();
        (1..=100).for_each(|us| histogram.add(us * 1000));
        let since = read().since(&earlier);
        assert_eq!((since.count(), since.mean_ns()), (100, 50_500));
        assert!((100_000..=112_500).contains(&since.longest_ns()), "{}", since.longest_ns());
        assert_eq!(since.within_ns(100.0), since.longest_ns());
        let none = read().since(&read());
        assert_eq!((none.count(), none.longest_ns(), none.within_ns(99.0)), (0, 0, 0));
        // Of another server, started since: nothing is below nothing.
        assert_eq!(earlier.since(&read()).count(), 0);
    }

    #[test]
    fn whatever_another_process_tells_is_no_reason_to_panic() {
        let json = format!(
            "{{\"total_ns\":1,\"longest_ns\":7,\"buckets\":[[9999,{0}],[3,{0}],[3,1]]}}",
            u64::MAX
        );
        let summary: Summary = serde_json::from_str(&json).unwrap();
        assert_eq!((summary.count(), summary.within_ns(1.0)), (u64::MAX, 3));
        assert_eq!(summary.within_ns(100.0), 3);
        assert!(serde_json::from_str::<Summary>("{\"buckets\":[[-1,2]]}").is_err());
    }

    proptest! {
        #[test]
        fn a_time_is_told_within_an_eighth(ns in 0u64..1 << LONGEST_BITS) {
            let end = end_of(bucket(ns));
            prop_assert!(end >= ns && end - ns <= ns / 8);
        }
    }
}
