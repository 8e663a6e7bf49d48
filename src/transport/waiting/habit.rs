//! Which way of waiting a reader keeps to.

use std::time::{Duration, Instant};

/// How a reader waits for the next request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Way {
    /// It goes to sleep at once.
    #[default]
    Sleeps,
    /// It looks for it.
    Looks,
    /// It looks for it on the CPU of its caller, see [`shared_cpu`](super::shared_cpu).
    Shares,
}

/// What the reader that received a request does about the CPU it is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// It runs where the scheduler puts it.
    Anywhere,
    /// It was told before, and that holds.
    AsBefore,
    /// It shares one of two CPUs, from now on the other one if it `moves`.
    Shared { moves: bool },
}

/// In which [`Way`] a reader waits: whichever has requests follow each other sooner.
///
/// ```text
///  a pause, or thousands of requests ---> sleeps ---> looks ---> shares its CPU, the other kept from idling,
///                                           |                    then the other one, and back
///                                           |                            |
///                                           +--- far worse than looking -+--> the best of them
/// ```
///
/// What a caller does besides takes as long in each way, so the time from one request to the next tells which is better. A CPU is
/// shared with one caller alone, for several have something to do on each. It is left where it is not better any more; where only
/// the caller was moved, which shows in requests that take much longer at once, its reader follows. Where it was not better it
/// is tried ever more rarely, unless looking comes to take much longer than that did: callers that were on
/// their reader's CPU by chance were moved from there.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// Whether there are two CPUs to share one of.
    can_share: bool,
    doing: Doing,
    /// How many more requests until the next try, of those that count.
    left: u32,
    /// How many more do not count, since who asks has yet to come to the reader's CPU.
    settling: u32,
    /// The CPU to share from the next request on is the other one.
    moves: bool,
    /// How often it was in this try.
    moved: u32,
    /// For how long the other CPU has been kept from idling in this try.
    warm: Duration,
    /// When the last request was received.
    last: Option<Instant>,
    /// Whose the last one was.
    caller: u32,
    /// What is counted since it was judged the last time.
    round: Round,
    /// How long a request took when sleeping was tried.
    sleeping: Option<Duration>,
    /// How long one took with looking.
    looking: Option<Duration>,
    /// How long one took with a CPU shared.
    sharing: Option<Duration>,
    /// How long one took at least in some round of that.
    sharing_least: Option<Duration>,
    /// [`Habit::WAITED`] for each request that took long with a CPU shared, less one for each that did not.
    waited: u32,
    /// How many more requests until sharing is tried where it was not better.
    waits: u32,
    /// How many they were the last time.
    patience: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doing {
    Tries(Way),
    Does(Way),
}

impl Default for Doing {
    fn default() -> Self {
        Self::Tries(Way::Sleeps)
    }
}

/// Some requests in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    requests: u32,
    took: Duration,
    /// How many were another's than the one before.
    others: u32,
}

impl Round {
    fn add(&mut self, took: Duration, is_anothers: bool) {
        self.requests += 1;
        self.took += took;
        self.others += u32::from(is_anothers);
    }

    fn mean(self) -> Option<Duration> {
        self.took.checked_div(self.requests)
    }

    /// Whether one asked at a time.
    fn is_of_one(self) -> bool {
        self.others * 16 <= self.requests
    }
}

impl Habit {
    /// After such a pause whoever asks now may run elsewhere.
    const PAUSE: Duration = Duration::from_millis(10);
    /// A request that took longer waited for its caller, or for a disk, and does not count. For so long after one the other
    /// CPU is kept from idling, where one is shared.
    pub(super) const LONG: Duration = Duration::from_micros(250);
    /// As so much one counts at most: what something else came in between must not decide for all.
    const MOST: Duration = Duration::from_micros(100);
    /// So many requests tell how long one takes.
    pub(super) const ROUND: u32 = 32;
    /// So many tell what is far worse.
    const FAR_WORSE: u32 = 8;
    /// So many do not count once another CPU is shared.
    const SETTLING: u32 = 4;
    /// So often the other CPU is tried.
    const MOVES: u32 = 3;
    /// Where sharing a CPU is not better it is tried once in so many at last. A try takes [`Habit::WARM`] and more.
    const PATIENCE_MAX: u32 = 16 * Self::STAY;
    /// So long the thread that keeps a CPU from idling has to have run before a reader goes to its caller. A scheduler may count
    /// a CPU as free that has little to do on the average, which of a thread that has just begun is a matter of PELT, whose half
    /// life is 32 ms: with 10 ms callers went away again in 16 tries of 16, with 20 ms in none.
    const WARM: Duration = Duration::from_millis(20);
    /// For so many it is left at what was found. Where sleeping takes 25 us longer, [`Habit::FAR_WORSE`] such in so
    /// many are 0.05 us for each.
    const STAY: u32 = 4096;
    /// For so many a CPU is shared where that was found to be better, for leaving it and coming back takes [`Habit::WARM`].
    const STAY_SHARING: u32 = 8 * Self::STAY;
    /// One request that takes long in so many is usual; who shares a CPU with somebody that computes waits for that one's slice each
    /// time.
    const WAITED: u32 = 32;
    const WAITED_MOST: u32 = 2 * Self::WAITED;
    /// So many tell that callers were moved.
    const STAY_SHORT: u32 = Self::STAY / 8;

    /// `can_share`: whether there are two CPUs to share one of.
    pub(super) fn new(can_share: bool) -> Self {
        Self { can_share, ..Self::default() }
    }

    /// How to wait, in the receive that begins.
    pub(super) fn way(&self) -> Way {
        match self.doing {
            Doing::Tries(way) | Doing::Does(way) => way,
        }
    }

    /// Learns that a request of `caller` was received, a thread's number, or 0 where nobody waits for an answer.
    pub(super) fn received(&mut self, now: Instant, caller: u32) -> Place {
        let last = self.last.replace(now);
        let took = last.map_or(Self::PAUSE, |last| now.saturating_duration_since(last));
        if took >= Self::LONG && self.way() == Way::Shares {
            self.has_waited();
        }
        if took >= Self::PAUSE {
            self.begin(Doing::Tries(Way::Sleeps));
        } else if took < Self::LONG {
            self.warm += took;
            if self.settling > 0 {
                self.settling -= 1;
            } else {
                self.count(took, caller);
            }
        }
        match self.way() {
            Way::Shares if took < Self::LONG => {
                Place::Shared { moves: std::mem::take(&mut self.moves) }
            }
            Way::Shares => Place::AsBefore,
            Way::Sleeps | Way::Looks => Place::Anywhere,
        }
    }

    /// Whether sharing a CPU may be tried now.
    fn may_share(&self) -> bool {
        self.can_share && self.waits == 0
    }

    fn count(&mut self, took: Duration, caller: u32) {
        let last =
            if caller == 0 { self.caller } else { std::mem::replace(&mut self.caller, caller) };
        self.round.add(took.min(Self::MOST), caller != 0 && caller != last);
        self.left = self.left.saturating_sub(1);
        self.waited = self.waited.saturating_sub(1);
        self.waits = self.waits.saturating_sub(1);
        match self.round.requests {
            Self::ROUND => self.judge(),
            Self::FAR_WORSE if self.is_far_worse() => self.judge_early(),
            _ => (),
        }
    }

    /// Somebody else needs one of both CPUs, or the caller does: nobody is to be in the way.
    pub(super) fn is_disturbed(&mut self) {
        if self.way() == Way::Shares {
            (self.sharing, self.sharing_least, self.waited) = (None, None, 0);
            self.gives_up();
        }
    }

    /// A request took long that was waited for on a shared CPU.
    fn has_waited(&mut self) {
        self.waited += Self::WAITED;
        if self.waited > Self::WAITED_MOST {
            self.is_disturbed();
        }
    }

    /// No CPU can be shared here.
    pub(super) fn cannot_share(&mut self) {
        self.can_share = false;
        self.is_disturbed();
    }

    /// Whether the requests so far took longer than with looking, by so much that few tell.
    fn is_far_worse(&self) -> bool {
        let limit = self.looking.map(|looking| looking * 3 / 2);
        limit.is_some_and(|limit| self.round.mean() > Some(limit))
    }

    /// A few requests were far worse than with looking.
    fn judge_early(&mut self) {
        match self.doing {
            Doing::Tries(Way::Sleeps) if self.may_share() && self.round.is_of_one() => {
                self.sleeping = self.round.mean();
                self.begin(Doing::Tries(Way::Shares));
            }
            Doing::Tries(Way::Sleeps) => self.begin(Doing::Does(Way::Looks)),
            Doing::Tries(Way::Shares) => self.judge(),
            Doing::Tries(Way::Looks) | Doing::Does(_) => (),
        }
    }

    /// A round is over.
    fn judge(&mut self) {
        let round = std::mem::take(&mut self.round);
        let Some(took) = round.mean() else { return };
        match self.doing {
            Doing::Tries(Way::Sleeps) => {
                self.sleeping = Some(took);
                self.begin(Doing::Tries(Way::Looks));
            }
            Doing::Tries(Way::Looks) => {
                self.looking = Some(took);
                let shares = self.may_share() && round.is_of_one();
                let alone = Doing::Does(self.best_alone());
                self.begin(if shares { Doing::Tries(Way::Shares) } else { alone });
            }
            Doing::Tries(Way::Shares) if round.is_of_one() => self.judge_try(took),
            Doing::Tries(Way::Shares) => {
                self.sharing_least = None;
                self.gives_up();
            }
            Doing::Does(Way::Shares) if round.is_of_one() => self.judge_sharing(took),
            Doing::Does(Way::Shares) => {
                self.sharing_least = None;
                self.begin(Doing::Tries(Way::Looks));
            }
            Doing::Does(way) => {
                match way {
                    Way::Sleeps => self.sleeping = Some(took),
                    _ => self.looking = smoothed(self.looking, took),
                }
                if self.left == 0 {
                    self.begin(Doing::Tries(Way::Sleeps));
                } else if way == Way::Looks && round.is_of_one() && self.misses_sharing() {
                    self.begin(Doing::Tries(Way::Shares));
                } else if way == Way::Sleeps && self.sleeping > self.looking {
                    self.doing = Doing::Does(Way::Looks);
                }
            }
        }
    }

    /// A CPU was tried for a round, with one caller.
    fn judge_try(&mut self, took: Duration) {
        if self.warm < Self::WARM {
            self.sharing = smoothed(self.sharing, took);
            return;
        }
        let before = self.sharing.replace(took);
        self.sharing_least = Some(self.sharing_least.map_or(took, |least| least.min(took)));
        let is_nearer = is_better(Some(took), before, 1);
        match self.moved {
            // The other one is not tried yet, and may be better still.
            0 => self.turn(),
            moved if self.best() == Way::Shares && (is_nearer || moved > 1) => {
                self.patience = 0;
                self.begin(Doing::Does(Way::Shares));
            }
            moved if moved < Self::MOVES => self.turn(),
            _ => self.gives_up(),
        }
    }

    /// A CPU was shared for a round with one caller, as was better.
    fn judge_sharing(&mut self, took: Duration) {
        let is_elsewhere = is_much_longer(took, self.sharing_least);
        self.sharing = smoothed(self.sharing, took);
        self.sharing_least = self.sharing_least.min(Some(took));
        if is_elsewhere {
            self.begin(Doing::Tries(Way::Shares));
            self.warm = Self::WARM;
            self.turn();
        } else if !is_better(self.sharing, self.alone(), 1) {
            self.gives_up();
        } else if self.left == 0 {
            self.begin(Doing::Tries(Way::Looks));
        }
    }

    /// Sharing a CPU is not better: does what is, and tries it more rarely.
    fn gives_up(&mut self) {
        self.patience = (self.patience * 2).clamp(Self::STAY, Self::PATIENCE_MAX);
        self.waits = self.patience;
        self.begin(Doing::Does(self.best_alone()));
    }

    /// What is better by more than chance, of what takes no CPU from others.
    fn best_alone(&self) -> Way {
        if is_better(self.sleeping, self.looking, 1) { Way::Sleeps } else { Way::Looks }
    }

    /// How long a request takes with that.
    fn alone(&self) -> Option<Duration> {
        if self.best_alone() == Way::Sleeps { self.sleeping } else { self.looking }
    }

    /// What is better by more than chance; what takes a CPU's time has to be by more.
    fn best(&self) -> Way {
        if is_better(self.sharing, self.alone(), 2) { Way::Shares } else { self.best_alone() }
    }

    fn begin(&mut self, doing: Doing) {
        let settling = if doing == Doing::Tries(Way::Shares) { Self::SETTLING } else { 0 };
        let stay = if doing == Doing::Does(Way::Shares) { Self::STAY_SHARING } else { Self::STAY };
        (self.doing, self.left, self.settling) = (doing, stay, settling);
        (self.moves, self.moved, self.warm) = (false, 0, Duration::ZERO);
        self.round = Round::default();
        if doing == Doing::Tries(Way::Shares) {
            (self.sharing, self.sharing_least) = (None, None);
        }
    }

    /// Whether requests have come to take much longer than they did with a CPU shared, where that was no better: callers that were
    /// on their reader's CPU without it have been moved from there.
    fn misses_sharing(&self) -> bool {
        let is_settled = self.left < Self::STAY - Self::STAY_SHORT;
        let takes_longer =
            self.looking.is_some_and(|took| is_much_longer(took, self.sharing_least));
        self.can_share && is_settled && takes_longer
    }

    /// The caller may be on the other CPU: tries that one.
    fn turn(&mut self) {
        self.moves = true;
        self.moved += 1;
        self.settling = Self::SETTLING;
        self.round = Round::default();
    }
}

/// How long requests take lately, of which the last ones took so long.
fn smoothed(lately: Option<Duration>, took: Duration) -> Option<Duration> {
    Some(lately.map_or(took, |lately| (lately * 3 + took) / 4))
}

/// Whether requests take less by more than so many eighths.
fn is_better(this: Option<Duration>, than: Option<Duration>, by: u32) -> bool {
    this.zip(than).is_some_and(|(this, than)| this < than * (8 - by) / 8)
}

/// Whether requests take longer by more than what their callers do besides may make of it, from one time to another.
fn is_much_longer(this: Duration, than: Option<Duration>) -> bool {
    than.is_some_and(|than| this > than * 3 / 2)
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
                    let sleeps = self.habit.way() == Way::Sleeps;
                    let takes = if sleeps { sleeping } else { looking };
                    self.now += Duration::from_micros(takes);
                    self.habit.received(self.now, 7);
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

    /// A caller and its reader on two CPUs, and the thread that keeps one of them from idling.
    struct TwoCpus {
        now: Instant,
        habit: Habit,
        /// Whether the shared CPU is the caller's.
        together: bool,
        /// How long a request takes in microseconds: of a reader that sleeps, looks, shares its caller's CPU, shares the other.
        takes: [u64; 4],
        /// For how long the other CPU has been kept from idling.
        warm: Duration,
    }

    impl TwoCpus {
        fn new(takes: [u64; 4]) -> Self {
            let habit = Habit::new(true);
            Self { now: Instant::now(), habit, together: false, takes, warm: Duration::ZERO }
        }

        /// How many of so many requests of `callers` were received on a shared CPU, and how many of those on their caller's.
        fn asks(&mut self, requests: u32, callers: u32) -> (u32, u32) {
            let (mut shared, mut together) = (0, 0);
            for request in 0..requests {
                let [sleeps, looks, near, far] = self.takes;
                let shares = self.habit.way() == Way::Shares;
                let took = Duration::from_micros(match self.habit.way() {
                    Way::Sleeps => sleeps,
                    Way::Looks => looks,
                    Way::Shares if self.together => near,
                    Way::Shares => far,
                });
                shared += u32::from(shares);
                together += u32::from(shares && self.together);
                self.warm = if shares { self.warm + took } else { Duration::ZERO };
                self.now += took;
                match self.habit.received(self.now, 7 + request % callers) {
                    // Who looked or slept has its caller on the other CPU.
                    Place::Anywhere => self.together = false,
                    Place::Shared { moves: true } => {
                        self.together = !self.together && self.warm >= Habit::WARM;
                    }
                    Place::Shared { moves: false } | Place::AsBefore => (),
                }
            }
            (shared, together)
        }
    }

    #[test]
    fn a_cpu_is_shared_where_that_is_better() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        cpus.asks(4000, 1);
        let (_, together) = cpus.asks(1_000_000, 1);
        assert!(together > 900_000, "{together}");
    }

    #[test]
    fn where_sharing_is_not_better_it_is_tried_ever_more_rarely() {
        for near in [13, 15, 40] {
            let mut cpus = TwoCpus::new([40, 15, near, 15]);
            cpus.asks(1_000_000, 1);
            let (shared, _) = cpus.asks(1_000_000, 1);
            assert!(shared < 25_000, "{near}: {shared}");
        }
    }

    #[test]
    fn a_caller_that_was_beside_its_reader_by_chance_is_followed_once_it_is_not() {
        let mut cpus = TwoCpus::new([40, 7, 7, 7]);
        cpus.asks(10_000, 1);
        cpus.takes = [40, 15, 7, 15];
        cpus.asks(3_000, 1);
        assert!(cpus.together);
    }

    #[test]
    fn a_reader_follows_a_caller_that_was_moved() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        cpus.asks(10_000, 1);
        for _ in 0..10 {
            assert!(cpus.together);
            cpus.together = false;
            let (shared, together) = cpus.asks(500, 1);
            assert_eq!(shared, 500);
            assert!(together > 400, "{together}");
        }
    }

    #[test]
    fn no_cpu_is_shared_with_several_callers() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        assert_eq!(cpus.asks(100_000, 2), (0, 0));
        // One that is alone has it for as long as that is so.
        cpus.asks(10_000, 1);
        assert!(cpus.together);
        cpus.asks(1000, 2);
        assert_eq!(cpus.asks(100_000, 2), (0, 0));
    }

    #[test]
    fn sharing_ends_where_somebody_else_needs_the_cpu_or_it_cannot_be() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        cpus.asks(10_000, 1);
        cpus.habit.is_disturbed();
        assert_eq!(cpus.asks(Habit::STAY, 1), (0, 0));
        cpus.asks(10_000, 1);
        assert!(cpus.together);
        cpus.habit.cannot_share();
        assert_eq!(cpus.asks(100_000, 1), (0, 0));
    }

    #[test]
    fn a_cpu_that_somebody_computes_on_is_not_shared() {
        // A slice of a few milliseconds is over before each request.
        for slice in [300, 3000, 12_000] {
            let mut cpus = TwoCpus::new([40, 15, slice, slice]);
            let (shared, _) = cpus.asks(100_000, 1);
            assert!(shared < 50, "{slice}: {shared}");
        }
    }

    #[test]
    fn one_who_thinks_for_longer_than_that_is_no_reason_to_keep_a_cpu_from_idling() {
        let mut habit = Habit::new(true);
        let mut now = Instant::now();
        for _ in 0..10_000 {
            now += Habit::LONG;
            assert!(!matches!(habit.received(now, 7), Place::Shared { .. }));
        }
    }
}
