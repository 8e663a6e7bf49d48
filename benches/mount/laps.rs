//! How long each of many operations takes, at the cost of one look at the clock for each.

use std::time::{Duration, Instant};

/// The times of one client in one turn.
pub(crate) struct Laps {
    /// In nanoseconds.
    each: Vec<u32>,
    all: Duration,
    last: Instant,
}

impl Laps {
    pub(crate) fn new() -> Self {
        Self { each: Vec::new(), all: Duration::ZERO, last: Instant::now() }
    }

    /// What was done until now does not count.
    pub(crate) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// What was done since the last call is one operation.
    pub(crate) fn lap(&mut self) {
        let now = Instant::now();
        let took = now - self.last;
        self.each.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
        self.all += took;
        self.last = now;
    }

    /// Does it so often, from now on.
    pub(crate) fn timed(&mut self, count: u64, mut act: impl FnMut(u64)) {
        self.each.reserve(count as usize);
        self.start();
        for n in 0..count {
            act(n);
            self.lap();
        }
    }

    pub(crate) const fn all(&self) -> Duration {
        self.all
    }

    pub(crate) fn into_each(self) -> Vec<u32> {
        self.each
    }
}

/// Some of many times, in seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Percentiles {
    /// From nanoseconds, in any order. A percentile is the smallest time that so many were not above.
    pub(crate) fn of(mut each: Vec<u32>) -> Self {
        each.sort_unstable();
        let at = |share: f64| {
            let rank = (each.len() as f64 * share).ceil() as usize;
            each.get(rank.saturating_sub(1)).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e9)
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
