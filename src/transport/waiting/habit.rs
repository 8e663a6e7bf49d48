//! Which way of waiting a reader keeps to.

use std::time::{Duration, Instant};

/// Whether a reader looks for the next request or goes to sleep at once: whichever has requests follow each other sooner.
///
/// ```text
///  a pause, or after thousands ---> tries sleeping ---> tries looking ---> sleeps ---> looks
///                                         |                   |      while it is better  ^
///                                         +--- far worse -----+--------------------------+
/// ```
///
/// What a caller does besides takes as long either way, so the time from one request to the next tells which of both is
/// better.
#[derive(Debug, Default)]
pub(super) struct Habit {
    doing: Doing,
    /// How many more requests until the next try, of those that count.
    left: u32,
    /// When the last request was received.
    last: Option<Instant>,
    /// What is counted since it was judged the last time.
    round: Round,
    /// How long a request took when sleeping was tried.
    sleeping: Option<Duration>,
    /// How long one took with looking.
    looking: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Doing {
    #[default]
    TriesSleeping,
    TriesLooking,
    Sleeps,
    Looks,
}

/// Some requests in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    requests: u32,
    took: Duration,
}

impl Round {
    fn add(&mut self, took: Duration) {
        self.requests += 1;
        self.took += took;
    }

    fn mean(self) -> Option<Duration> {
        self.took.checked_div(self.requests)
    }
}

impl Habit {
    /// After such a pause whoever asks now may run elsewhere.
    const PAUSE: Duration = Duration::from_millis(10);
    /// A request that took longer waited for its caller, or for a disk, and does not count.
    const LONG: Duration = Duration::from_micros(250);
    /// As so much one counts at most: what something else came in between must not decide for all.
    const MOST: Duration = Duration::from_micros(100);
    /// So many requests tell how long one takes.
    pub(super) const ROUND: u32 = 32;
    /// So many tell what is far worse.
    const FAR_WORSE: u32 = 8;
    /// For so many it is left at what was found. Where sleeping takes 25 us longer, [`Habit::FAR_WORSE`] such in so
    /// many are 0.05 us for each.
    const STAY: u32 = 4096;

    /// Whether to sleep at once, in the receive that begins.
    pub(super) fn sleeps(&self) -> bool {
        matches!(self.doing, Doing::TriesSleeping | Doing::Sleeps)
    }

    /// Learns that a request was received.
    pub(super) fn received(&mut self, now: Instant) {
        let last = self.last.replace(now);
        let took = last.map_or(Self::PAUSE, |last| now.saturating_duration_since(last));
        if took >= Self::PAUSE {
            self.begin(Doing::TriesSleeping);
        } else if took < Self::LONG {
            self.round.add(took.min(Self::MOST));
            self.left = self.left.saturating_sub(1);
            match self.round.requests {
                Self::ROUND => self.judge(),
                Self::FAR_WORSE if self.doing == Doing::TriesSleeping => self.judge_early(),
                _ => (),
            }
        }
    }

    /// Sleeping was tried for some requests.
    fn judge_early(&mut self) {
        let far_worse = self.looking.map(|looking| looking * 3 / 2);
        if far_worse.is_some_and(|limit| self.round.mean() > Some(limit)) {
            self.begin(Doing::Looks);
        }
    }

    /// A round is over.
    fn judge(&mut self) {
        let took = std::mem::take(&mut self.round).mean();
        if self.sleeps() {
            self.sleeping = took;
        } else {
            self.looking = took;
        }
        match self.doing {
            Doing::TriesSleeping => self.begin(Doing::TriesLooking),
            Doing::TriesLooking if self.is_sleeping_better() => self.begin(Doing::Sleeps),
            Doing::TriesLooking => self.begin(Doing::Looks),
            _ if self.left == 0 => self.begin(Doing::TriesSleeping),
            Doing::Sleeps if self.sleeping > self.looking => self.doing = Doing::Looks,
            Doing::Sleeps | Doing::Looks => (),
        }
    }

    /// Whether it is by more than chance.
    fn is_sleeping_better(&self) -> bool {
        let both = self.sleeping.zip(self.looking);
        both.is_some_and(|(sleeping, looking)| sleeping < looking * 7 / 8)
    }

    fn begin(&mut self, doing: Doing) {
        (self.doing, self.left, self.round) = (doing, Self::STAY, Round::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom a reader serves, as far as it shows: how long a request takes.
    struct Served {
        now: Instant,
        habit: Habit,
    }

    impl Served {
        fn new() -> Self {
            Self { now: Instant::now(), habit: Habit::default() }
        }

        /// So many requests, with what one takes in microseconds. How many were slept for.
        fn asks(&mut self, requests: u32, sleeping: u64, looking: u64) -> u32 {
            (0..requests)
                .map(|_| {
                    let sleeps = self.habit.sleeps();
                    let takes = if sleeps { sleeping } else { looking };
                    self.now += Duration::from_micros(takes);
                    self.habit.received(self.now);
                    u32::from(sleeps)
                })
                .sum()
        }
    }

    #[test]
    fn a_reader_sleeps_where_callers_come_back_sooner_so() {
        let mut served = Served::new();
        let slept = served.asks(10_000, 7, 15);
        assert!(slept > 9_800, "{slept}");
    }

    #[test]
    fn where_sleeping_is_worse_it_is_tried_rarely_and_given_up_soon() {
        let mut served = Served::new();
        assert!(served.asks(1000, 40, 15) <= 1 + Habit::ROUND);
        assert!(served.asks(100_000, 40, 15) <= 30 * Habit::FAR_WORSE);
        // And where neither is better the reader looks.
        assert!(served.asks(100_000, 15, 15) <= 30 * Habit::ROUND);
    }

    #[test]
    fn sleeping_ends_once_it_is_not_better_any_more() {
        let mut served = Served::new();
        served.asks(1000, 7, 15);
        let slept = served.asks(1000, 40, 15);
        assert!(slept <= 2 * Habit::ROUND, "{slept}");
    }

    #[test]
    fn sleeping_is_tried_again_after_a_pause() {
        let mut served = Served::new();
        served.asks(1000, 40, 15);
        served.now += Habit::PAUSE;
        let slept = served.asks(1000, 7, 15);
        assert!(slept > 900, "{slept}");
    }

    #[test]
    fn one_that_waits_long_decides_nothing() {
        let mut served = Served::new();
        served.asks(1000, 7, 15);
        for _ in 0..100 {
            served.asks(1, 5000, 5000);
            assert_eq!(served.asks(10, 7, 15), 10);
        }
    }
}
