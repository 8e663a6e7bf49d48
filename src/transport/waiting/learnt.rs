//! What a reader learns from how it waited before: how often looking is worth it, for how long, and whether it gives its CPU
//! away meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// For how many receives something is not done, and for how many the next time. Only whoever has the turn counts; of two at once
/// one may be lost, and then it is one longer.
#[derive(Debug, Default)]
struct Pause {
    left: AtomicU32,
    next: AtomicU32,
}

impl Pause {
    /// Whether it is over in the receive that begins, and one less is left of it.
    fn is_over(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    fn set_next(&self, receives: u32) {
        self.next.store(receives, Ordering::Relaxed);
    }

    /// Begins one of so many, whose next is twice as long up to `most`.
    fn begin(&self, receives: u32, most: u32) {
        self.left.store(receives, Ordering::Relaxed);
        self.set_next((receives * 2).min(most));
    }
}

/// How often looking for a request is worth it.
///
/// Each time in vain halves how often it is tried, down to one in [`Luck::PAUSE_MAX`] receives; once it finds
/// something it is tried with each again. On busy CPUs nothing comes while the reader has the one that the
/// caller needs; so it gives way there, and finds out by itself when that is over.
#[derive(Debug, Default)]
pub(super) struct Luck(Pause);

impl Luck {
    const PAUSE_MAX: u32 = 64;

    /// Whether to try now.
    pub(super) fn tries(&self) -> bool {
        self.0.is_over()
    }

    /// Learns what a try came to.
    pub(super) fn tried(&self, found: bool) {
        self.0.begin(if found { 0 } else { self.0.next().max(1) }, Self::PAUSE_MAX);
    }
}

/// For how long a reader looks: as long as it is told, or longer where callers came back soon after that lately.
///
/// A caller that thinks, as an interpreter does, is woken on its CPU and comes back by the time that who looked for a
/// while has just gone to sleep, and has to be woken on its own in turn. Where callers come back before, looking for
/// longer would only keep both on two CPUs where one would do.
#[derive(Debug, Default)]
pub(super) struct Reach(AtomicU32);

impl Reach {
    /// So many times as long it looks then.
    const LONGER: u32 = 3;
    /// So many came a little too late, less two for each that came in time and one for each that came much later.
    const OFTEN: u32 = 32;
    /// More do not count, so that a caller who comes back at once is soon believed.
    const MOST: u32 = 64;

    /// For how long to look, by who is told to for `time`.
    pub(super) fn of(&self, time: Duration) -> Duration {
        let often = self.0.load(Ordering::Relaxed) >= Self::OFTEN;
        if often { time.saturating_mul(Self::LONGER) } else { time }
    }

    /// Learns that a request came `after` so long, to who is told to look for `time`.
    pub(super) fn came(&self, after: Duration, time: Duration) {
        let late = self.0.load(Ordering::Relaxed);
        // Whoever slept learns of it later than it came, by what waking takes.
        let now = if after <= time {
            late.saturating_sub(2)
        } else if after <= time.saturating_mul(2 * Self::LONGER) {
            (late + 1).min(Self::MOST)
        } else {
            late.saturating_sub(1)
        };
        if now != late {
            self.0.store(now, Ordering::Relaxed);
        }
    }
}

/// Whether the CPU is given to others between two looks for a request.
///
/// Where a lone caller runs on the reader's CPU it can only come back once the reader lets it: then `sched_yield(2)` is
/// all that a round trip needs, and no other CPU is woken. A program that only computes keeps the CPU for
/// milliseconds instead, so after such a time it is not given away for a while.
#[derive(Debug, Default)]
pub(super) struct Courtesy(Pause);

impl Courtesy {
    /// Longer than callers need to ask for something, shorter than a slice of the scheduler.
    const LONG: Duration = Duration::from_micros(300);
    const PAUSE_MIN: u32 = 64;
    /// A slice of 4 ms lost in so many receives is a microsecond for each.
    const PAUSE_MAX: u32 = 4096;

    /// Whether to, in the receive that begins.
    pub(super) fn is_due(&self) -> bool {
        self.0.is_over()
    }

    /// Learns for how long it was given away. Whether to go on doing so.
    pub(super) fn gave_way(&self, took: Duration) -> bool {
        let next = self.0.next().max(Self::PAUSE_MIN);
        if took < Self::LONG {
            self.0.set_next(next - 1);
            return true;
        }
        self.0.begin(next, Self::PAUSE_MAX);
        false
    }
}

/// Whether requests take long that are waited for on a shared CPU.
///
/// One in many is usual; but who shares a CPU with somebody that computes waits for that one's slice each time.
#[derive(Debug, Default)]
pub(super) struct Disturbance(u32);

impl Disturbance {
    /// For each request that took long, less one for each that did not.
    const WAITED: u32 = 32;
    const MOST: u32 = 2 * Self::WAITED;

    /// A request took long. Whether too many did.
    pub(super) fn waited(&mut self) -> bool {
        self.0 += Self::WAITED;
        self.0 > Self::MOST
    }

    /// One did not.
    pub(super) fn went_on(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_many_may_take_long_and_a_few_in_a_row_may_not() {
        let mut usual = Disturbance::default();
        for _ in 0..100 {
            assert!(!usual.waited());
            (0..32).for_each(|_| usual.went_on());
        }
        let mut disturbed = Disturbance::default();
        assert!(!disturbed.waited() && !disturbed.waited() && disturbed.waited());
    }

    /// In how many of so many receives something was done, which is whenever it `is_due`.
    fn times_done(receives: u32, is_due: impl Fn() -> bool, act: impl Fn()) -> usize {
        (0..receives).filter(|_| is_due()).inspect(|_| act()).count()
    }

    #[test]
    fn looking_in_vain_becomes_rare_and_one_find_makes_up_for_it() {
        let luck = Luck::default();
        let tries = |receives, found| times_done(receives, || luck.tries(), || luck.tried(found));
        assert_eq!(tries(100, true), 100);
        assert!(tries(1000, false) < 30);
        // The pause under way is kept, no longer.
        let most = usize::try_from(Luck::PAUSE_MAX).unwrap();
        assert!(tries(1000, true) >= 1000 - most);
        assert_eq!(tries(100, true), 100);
    }

    #[test]
    fn a_reader_looks_for_longer_where_callers_come_a_little_too_late() {
        let (reach, time) = (Reach::default(), Duration::from_micros(20));
        let asks = |requests, after_us| {
            (0..requests).for_each(|_| reach.came(Duration::from_micros(after_us), time));
            reach.of(time)
        };
        let longer = time * Reach::LONGER;
        assert_eq!(asks(1000, 14), time);
        // One that is late now and then changes nothing.
        (0..1000).for_each(|_| assert_eq!(asks(3, 14).max(asks(1, 40)), time));
        assert_eq!(asks(100, 30), longer);
        assert_eq!(asks(Reach::MOST, 14), time);
        // Found by looking longer they are still late for a short look, found after sleeping they are too.
        assert_eq!(asks(100, 119), longer);
        // Those that come much later would not be found by either.
        assert_eq!(asks(100, 500), time);
        assert_eq!(asks(1000, 500), time);
    }

    #[test]
    fn the_cpu_is_given_away_until_somebody_keeps_it_for_long() {
        let courtesy = Courtesy::default();
        let given = |receives, took| {
            let give = || {
                courtesy.gave_way(took);
            };
            times_done(receives, || courtesy.is_due(), give)
        };
        let (short, long) = (Duration::from_micros(10), Duration::from_millis(4));
        assert_eq!(given(1000, short), 1000);
        // Once, and then ever more rarely.
        assert_eq!(given(Courtesy::PAUSE_MIN, long), 1);
        assert!(given(20 * Courtesy::PAUSE_MAX, long) < 30);
        assert_eq!(given(Courtesy::PAUSE_MAX, long), 1);
        // The pause under way is kept, no longer; of how long it was so much is forgotten with each receive.
        let all = usize::try_from(3 * Courtesy::PAUSE_MAX).unwrap();
        let most = usize::try_from(Courtesy::PAUSE_MAX).unwrap();
        assert!(given(3 * Courtesy::PAUSE_MAX, short) >= all - most);
        assert_eq!(given(1000, short), 1000);
        assert_eq!(given(Courtesy::PAUSE_MIN, long), 1);
    }
}
