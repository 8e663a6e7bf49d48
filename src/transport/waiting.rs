//! How a reader of a device waits for the next request: it looks for it, gives its CPU away between two looks, or
//! sleeps, by what was worth it lately.
//!
//! What a lone caller's round trip takes is decided by waking: on two CPUs of a virtual machine (Linux 6.18, GETATTR)
//!
//! | the reader | a round trip |
//! |---|--:|
//! | sleeps, and is woken on the caller's CPU | 7 us |
//! | looks, on another CPU than the caller's, which has to be woken | 15 to 18 us |
//! | sleeps, and is woken on another CPU, as its caller is then | 40 us |
//!
//! Between the first and the last the scheduler chooses: the first where a caller begins to ask after a pause, and for
//! as long as nobody is moved; of two that both have something to do, as a caller and a reader that looks, one is. A reader
//! cannot have it otherwise (one that is pinned to its caller's CPU sees its caller woken on another as soon as
//! that is idle), but it can see it: so [`Habit`] tries.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How a reader waits for a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Wait {
    /// Sleeps in `poll(2)`.
    #[default]
    Block,
    /// Looks for so long first, then sleeps in `poll(2)`; sleeps at once where looking was in vain lately, or where callers
    /// come back sooner so.
    ///
    /// A caller that comes back at once is answered without waking anybody: on two idle CPUs a round trip falls from
    /// about 45 us to 14 us with 20 us of looking. Between two looks the CPU is given to whoever else has something to
    /// do on it, since that may be the caller. Where most come a little later than so long it looks for three times as
    /// long. At rest no CPU is used.
    Spin(Duration),
}

/// How whoever receives waits: as it is told, and as was worth it lately.
#[derive(Debug)]
pub(super) struct Waiting {
    wait: Wait,
    habit: Mutex<Habit>,
    luck: Luck,
    reach: Reach,
    courtesy: Courtesy,
}

impl Waiting {
    pub(super) fn new(wait: Wait) -> Self {
        Self {
            wait,
            habit: Mutex::default(),
            luck: Luck::default(),
            reach: Reach::default(),
            courtesy: Courtesy::default(),
        }
    }

    /// For how long to look, as told.
    fn time(&self) -> Option<Duration> {
        match self.wait {
            Wait::Spin(time) => Some(time),
            Wait::Block => None,
        }
    }

    /// A receive begins, of whoever has the turn.
    pub(super) fn begin(&self) -> Look<'_> {
        let time = self.time().filter(|_| !self.habit.lock().sleeps() && self.luck.tries());
        let looks = time.map(|time| self.reach.of(time));
        let gives_way = looks.is_some() && self.courtesy.is_due();
        Look { waiting: self, looks, gives_way, since: None }
    }

    /// A receive begins, of one who helps.
    pub(super) fn help(&self) -> Help {
        Help { time: self.time().unwrap_or_default(), since: None }
    }
}

/// One receive of whoever has the turn: it looks, then sleeps, and what came of it is learnt.
#[derive(Debug)]
pub(super) struct Look<'w> {
    waiting: &'w Waiting,
    /// For how long it looks still, if it does.
    looks: Option<Duration>,
    gives_way: bool,
    /// When there was nothing for the first time.
    since: Option<Instant>,
}

impl Look<'_> {
    /// There was nothing. Whether to sleep until there is, rather than to look at once.
    pub(super) fn missed(&mut self) -> bool {
        let now = Instant::now();
        let begun = *self.since.get_or_insert(now);
        match self.looks {
            Some(time) if now.duration_since(begun) < time => {
                if self.gives_way {
                    self.gives_way = self.waiting.courtesy.give_way(now);
                } else {
                    std::hint::spin_loop();
                }
                false
            }
            _ => {
                if self.looks.take().is_some() {
                    self.waiting.luck.tried(false);
                }
                true
            }
        }
    }

    /// A request came. Whether it was there at once.
    pub(super) fn found(self) -> bool {
        if self.looks.is_some() {
            self.waiting.luck.tried(true);
        }
        if let Some(time) = self.waiting.time() {
            let now = Instant::now();
            let after = self.since.map_or(Duration::ZERO, |begun| now.duration_since(begun));
            self.waiting.reach.came(after, time);
            self.waiting.habit.lock().received(now);
        }
        self.since.is_none()
    }
}

/// One receive of one who helps: it looks for as long as readers are told to, and gives its CPU away meanwhile.
#[derive(Debug)]
pub(super) struct Help {
    time: Duration,
    /// When there was nothing for the first time.
    since: Option<Instant>,
}

impl Help {
    /// There was nothing. Whether to leave, rather than to look at once.
    pub(super) fn missed(&mut self) -> bool {
        let now = Instant::now();
        let leaves = now.duration_since(*self.since.get_or_insert(now)) >= self.time;
        if !leaves {
            rustix::thread::sched_yield();
        }
        leaves
    }

    /// A request came. Whether it was there at once.
    pub(super) fn found(self) -> bool {
        self.since.is_none()
    }
}

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
struct Luck(Pause);

impl Luck {
    const PAUSE_MAX: u32 = 64;

    /// Whether to try now.
    fn tries(&self) -> bool {
        self.0.is_over()
    }

    /// Learns what a try came to.
    fn tried(&self, found: bool) {
        self.0.begin(if found { 0 } else { self.0.next().max(1) }, Self::PAUSE_MAX);
    }
}

/// For how long a reader looks: as long as it is told, or longer where callers came back soon after that lately.
///
/// A caller that thinks, as an interpreter does, is woken on its CPU and comes back by the time that who looked for a
/// while has just gone to sleep, and has to be woken on its own in turn. Where callers come back before, looking for
/// longer would only keep both on two CPUs where one would do.
#[derive(Debug, Default)]
struct Reach(AtomicU32);

impl Reach {
    /// So many times as long it looks then.
    const LONGER: u32 = 3;
    /// So many came a little too late, less two for each that came in time and one for each that came much later.
    const OFTEN: u32 = 32;
    /// More do not count, so that a caller who comes back at once is soon believed.
    const MOST: u32 = 64;

    /// For how long to look, by who is told to for `time`.
    fn of(&self, time: Duration) -> Duration {
        let often = self.0.load(Ordering::Relaxed) >= Self::OFTEN;
        if often { time.saturating_mul(Self::LONGER) } else { time }
    }

    /// Learns that a request came `after` so long, to who is told to look for `time`.
    fn came(&self, after: Duration, time: Duration) {
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
struct Courtesy(Pause);

impl Courtesy {
    /// Longer than callers need to ask for something, shorter than a slice of the scheduler.
    const LONG: Duration = Duration::from_micros(300);
    const PAUSE_MIN: u32 = 64;
    /// A slice of 4 ms lost in so many receives is a microsecond for each.
    const PAUSE_MAX: u32 = 4096;

    /// Whether to, in the receive that begins.
    fn is_due(&self) -> bool {
        self.0.is_over()
    }

    /// Gives the CPU away for once, since `now`. Whether to go on doing so.
    fn give_way(&self, now: Instant) -> bool {
        rustix::thread::sched_yield();
        self.gave_way(now.elapsed())
    }

    /// Learns how long it was away.
    fn gave_way(&self, took: Duration) -> bool {
        let next = self.0.next().max(Self::PAUSE_MIN);
        if took < Self::LONG {
            self.0.set_next(next - 1);
            return true;
        }
        self.0.begin(next, Self::PAUSE_MAX);
        false
    }
}

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
struct Habit {
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
    const ROUND: u32 = 32;
    /// So many tell what is far worse.
    const FAR_WORSE: u32 = 8;
    /// For so many it is left at what was found. Where sleeping takes 25 us longer, [`Habit::FAR_WORSE`] such in so
    /// many are 0.05 us for each.
    const STAY: u32 = 4096;

    /// Whether to sleep at once, in the receive that begins.
    fn sleeps(&self) -> bool {
        matches!(self.doing, Doing::TriesSleeping | Doing::Sleeps)
    }

    /// Learns that a request was received.
    fn received(&mut self, now: Instant) {
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

    /// How often there was nothing until a receive came to sleep.
    fn looks(mut missed: impl FnMut() -> bool) -> u32 {
        (1..).find(|_| missed()).unwrap_or(u32::MAX)
    }

    #[test]
    fn a_reader_sleeps_at_once_or_after_having_looked_for_long_enough() {
        let block = Waiting::new(Wait::Block);
        let mut look = block.begin();
        assert_eq!(looks(|| look.missed()), 1);
        assert!(!look.found());
        assert!(block.begin().found());
        assert_eq!(looks(|| block.help().missed()), 1);

        let time = Duration::from_millis(2);
        let spin = Waiting::new(Wait::Spin(time));
        let begun = Instant::now();
        let mut help = spin.help();
        assert!(looks(|| help.missed()) > 1);
        assert!(begun.elapsed() >= time);
        // Sleeping is tried first, and left where requests are there at once.
        let mut look = spin.begin();
        assert_eq!(looks(|| look.missed()), 1);
        assert!(!look.found());
        (0..4 * Habit::ROUND).for_each(|_| assert!(spin.begin().found()));
        let (begun, mut look) = (Instant::now(), spin.begin());
        assert!(looks(|| look.missed()) > 1);
        assert!(begun.elapsed() >= time);
        // Once it sleeps, it does not look again before something came.
        assert!(look.missed());
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
