//! Which way of waiting a reader keeps to.

use std::time::{Duration, Instant};

use super::learnt::Disturbance;

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
///                                           |          |         then the other one, until that is its caller's
///                                           |   beside its caller            |
///                                           |          |                     |
///                                           +----------+---------------------+--> the best of them
/// ```
///
/// What a caller does besides takes as long in each way, so the time from one request to the next tells which is better. Whether a
/// caller is [beside](Asked::beside) its reader shows in each request. A CPU is shared with one caller alone, for several have
/// something to do on each, and only where looking does not find it there anyhow. Where the caller was moved its reader
/// follows. Where sharing was not better it is tried ever more rarely; where it was it goes on after a short pause: what
/// one begins with a moment after another, as a build does its commands, is over by the time that all was tried again.
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
    /// Whether somebody is in the way of a shared CPU.
    disturbance: Disturbance,
    /// How many more requests until sharing is tried where it was not better.
    waits: u32,
    /// How many they were the last time.
    patience: u32,
}

/// A request that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// A thread's number, or 0 where nobody waits for an answer.
    pub(super) caller: u32,
    /// The caller ran on the reader's CPU, while that gave it away or before it came to look.
    pub(super) beside: bool,
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
    /// How many were of callers beside their reader.
    beside: u32,
}

impl Round {
    fn add(&mut self, took: Duration, is_anothers: bool, beside: bool) {
        self.requests += 1;
        self.took += took;
        self.others += u32::from(is_anothers);
        self.beside += u32::from(beside);
    }

    fn mean(self) -> Option<Duration> {
        self.took.checked_div(self.requests)
    }

    /// Whether one asked at a time.
    fn is_of_one(self) -> bool {
        self.others * 16 <= self.requests
    }

    /// Whether callers were beside their reader, for the most part.
    fn is_beside(self) -> bool {
        self.beside * 2 > self.requests
    }
}

impl Habit {
    /// After such a pause whoever asks now may run elsewhere.
    const PAUSE: Duration = Duration::from_millis(10);
    /// After such a one nothing is left of what was learnt about sharing a CPU.
    const LONG_PAUSE: Duration = Duration::from_secs(1);
    /// A request that took longer waited for its caller, or for a disk, and does not count. For so long after one the other
    /// CPU is kept from idling, where one is shared.
    pub(super) const LONG: Duration = Duration::from_micros(250);
    /// As so much one counts at most: what something else came in between must not decide for all.
    const MOST: Duration = Duration::from_micros(100);
    /// So many requests tell how long one takes.
    pub(super) const ROUND: u32 = 32;
    /// So many tell what is far worse, and where a caller is.
    const FEW: u32 = 8;
    /// So many do not count once another CPU is shared.
    const SETTLING: u32 = 4;
    /// So often the reader goes to the other CPU in a try: of callers whose readers came to them two to three in four were still
    /// there a moment later, and of those nearly all after thousands of requests.
    const MOVES: u32 = 4;
    /// Where sharing a CPU is not better it is tried once in so many at last. A try takes fewer than a hundred.
    const PATIENCE_MAX: u32 = 4 * Self::STAY;
    /// For so many it is left at what was found. Where sleeping takes 25 us longer, [`Habit::FEW`] such in so
    /// many are 0.05 us for each.
    const STAY: u32 = 4096;
    /// For so many a CPU is shared where that was found to be better, for leaving it and coming back takes a try.
    const STAY_SHARING: u32 = 8 * Self::STAY;

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

    /// Learns that a request was received.
    pub(super) fn received(&mut self, now: Instant, asked: Asked) -> Place {
        let last = self.last.replace(now);
        let took = last.map_or(Self::PAUSE, |last| now.saturating_duration_since(last));
        if took >= Self::LONG && self.way() == Way::Shares && self.disturbance.waited() {
            self.is_disturbed();
        }
        if took >= Self::PAUSE {
            self.pauses(took);
        } else if took < Self::LONG {
            if self.settling > 0 {
                self.settling -= 1;
            } else {
                self.count(took, asked);
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

    /// Reader and occupant were moved until `now`, which no caller waited for.
    pub(super) fn was_moved(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Nobody asked for so long.
    fn pauses(&mut self, pause: Duration) {
        if self.doing == Doing::Does(Way::Shares) && pause < Self::LONG_PAUSE {
            (self.round, self.settling) = (Round::default(), Self::SETTLING);
            (self.sleeping, self.looking) = (None, None);
        } else {
            if self.doing == Doing::Tries(Way::Shares) {
                // Perhaps who asks waited for somebody that computes.
                self.waits = Self::STAY;
            }
            self.begin(Doing::Tries(Way::Sleeps));
        }
    }

    /// Whether sharing a CPU may be tried now.
    fn may_share(&self) -> bool {
        self.can_share && self.waits == 0
    }

    fn count(&mut self, took: Duration, asked: Asked) {
        let Asked { caller, beside } = asked;
        let last =
            if caller == 0 { self.caller } else { std::mem::replace(&mut self.caller, caller) };
        self.round.add(took.min(Self::MOST), caller != 0 && caller != last, beside);
        self.left = self.left.saturating_sub(1);
        self.disturbance.went_on();
        self.waits = self.waits.saturating_sub(1);
        match self.round.requests {
            Self::ROUND => self.judge(),
            Self::FEW => self.judge_early(),
            _ => (),
        }
    }

    /// Somebody else needs one of both CPUs, or the caller does: nobody is to be in the way.
    pub(super) fn is_disturbed(&mut self) {
        if self.way() == Way::Shares {
            self.disturbance = Disturbance::default();
            self.gives_up();
        }
    }

    /// No CPU can be shared here.
    pub(super) fn cannot_share(&mut self) {
        self.can_share = false;
        self.is_disturbed();
    }

    /// A few requests of a try were received, which may tell already what comes of it.
    fn judge_early(&mut self) {
        match self.doing {
            Doing::Tries(Way::Sleeps) if self.is_far_worse() => {
                self.begin(Doing::Does(Way::Looks));
            }
            Doing::Tries(Way::Shares) if !self.round.is_beside() => self.judge(),
            Doing::Tries(_) | Doing::Does(_) => (),
        }
    }

    /// Whether the requests so far took longer than with looking, by so much that few tell.
    fn is_far_worse(&self) -> bool {
        let limit = self.looking.map(|looking| looking * 3 / 2);
        limit.is_some_and(|limit| self.round.mean() > Some(limit))
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
                let shares = self.shares_after(round);
                let alone = Doing::Does(self.best_alone());
                self.begin(if shares { Doing::Tries(Way::Shares) } else { alone });
            }
            Doing::Tries(Way::Shares) if round.is_of_one() => {
                self.judge_try(took, round.is_beside());
            }
            Doing::Tries(Way::Shares) => self.gives_up(),
            Doing::Does(Way::Shares) if round.is_of_one() => {
                self.judge_sharing(took, round.is_beside());
            }
            Doing::Does(Way::Shares) => self.begin(Doing::Tries(Way::Looks)),
            Doing::Does(Way::Looks) if self.shares_after(round) => {
                // What took less was beside its caller by chance, or of what was asked for before.
                (self.sleeping, self.looking) = (None, Some(took));
                self.begin(Doing::Tries(Way::Shares));
            }
            Doing::Does(way) => {
                match way {
                    Way::Sleeps => self.sleeping = Some(took),
                    _ => self.looking = smoothed(self.looking, took),
                }
                if self.left == 0 {
                    self.begin(Doing::Tries(Way::Sleeps));
                } else if way == Way::Sleeps && self.sleeping > self.looking {
                    self.doing = Doing::Does(Way::Looks);
                }
            }
        }
    }

    /// Whether to try to share a CPU after a round of looking.
    fn shares_after(&self, round: Round) -> bool {
        self.may_share() && round.is_of_one() && !round.is_beside()
    }

    /// A CPU was tried, with one caller.
    fn judge_try(&mut self, took: Duration, is_beside: bool) {
        if is_beside {
            self.sharing = Some(took);
            if self.looking.is_none() || is_better(self.sharing, self.alone()) {
                self.patience = 0;
                self.begin(Doing::Does(Way::Shares));
            } else {
                self.gives_up();
            }
        } else if self.moved < Self::MOVES {
            self.turn();
        } else {
            self.gives_up();
        }
    }

    /// A CPU was shared for a round with one caller, as was better.
    fn judge_sharing(&mut self, took: Duration, is_beside: bool) {
        if !is_beside {
            // What looking took was of what was asked for before.
            (self.sleeping, self.looking) = (None, None);
            self.begin(Doing::Tries(Way::Shares));
            self.turn();
            return;
        }
        self.sharing = smoothed(self.sharing, took);
        // What is asked for may be something else by now, which takes longer in each way.
        let is_settled = self.left < Self::STAY_SHARING - Self::STAY;
        let alone = self.alone();
        let is_worse = alone.is_some() && !is_better(self.sharing, alone);
        if is_settled && is_worse || self.left == 0 {
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
        if is_better(self.sleeping, self.looking) { Way::Sleeps } else { Way::Looks }
    }

    /// How long a request takes with that.
    fn alone(&self) -> Option<Duration> {
        if self.best_alone() == Way::Sleeps { self.sleeping } else { self.looking }
    }

    fn begin(&mut self, doing: Doing) {
        let settling = if doing == Doing::Tries(Way::Shares) { Self::SETTLING } else { 0 };
        let stay = if doing == Doing::Does(Way::Shares) { Self::STAY_SHARING } else { Self::STAY };
        (self.doing, self.left, self.settling) = (doing, stay, settling);
        (self.moves, self.moved) = (false, 0);
        self.round = Round::default();
    }

    /// The caller is on the other CPU: tries that one.
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

/// Whether requests take less by more than an eighth.
fn is_better(this: Option<Duration>, than: Option<Duration>) -> bool {
    this.zip(than).is_some_and(|(this, than)| this < than * 7 / 8)
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
                    self.habit.received(self.now, Asked { caller: 7, beside: false });
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
        assert!(served.asks(100_000, 40, 15) <= 30 * Habit::FEW);
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
        /// Whether a reader that looks is on its caller's by chance.
        by_chance: bool,
        /// How long a request takes in microseconds: of a reader that sleeps, looks, shares its caller's CPU, shares the other.
        takes: [u64; 4],
        /// How often the caller is moved when its reader comes.
        flees: u32,
    }

    impl TwoCpus {
        fn new(takes: [u64; 4]) -> Self {
            let habit = Habit::new(true);
            let (together, by_chance) = (false, false);
            Self { now: Instant::now(), habit, together, by_chance, takes, flees: 2 }
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
                self.now += took;
                let beside = match self.habit.way() {
                    Way::Sleeps => false,
                    Way::Looks => self.by_chance,
                    Way::Shares => self.together,
                };
                match self.habit.received(self.now, Asked { caller: 7 + request % callers, beside })
                {
                    // Who looked or slept has its caller on the other CPU.
                    Place::Anywhere => self.together = false,
                    Place::Shared { moves: true } => {
                        self.together = !self.together && self.flees == 0;
                        self.flees = self.flees.saturating_sub(1);
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
        for near in [14, 15, 40] {
            let mut cpus = TwoCpus::new([40, 15, near, 15]);
            cpus.asks(1_000_000, 1);
            let (shared, _) = cpus.asks(1_000_000, 1);
            assert!(shared < 25_000, "{near}: {shared}");
        }
    }

    #[test]
    fn a_caller_that_was_beside_its_reader_by_chance_is_followed_once_it_is_not() {
        let mut cpus = TwoCpus::new([40, 7, 7, 7]);
        cpus.by_chance = true;
        assert_eq!(cpus.asks(100_000, 1), (0, 0));
        (cpus.by_chance, cpus.takes) = (false, [40, 15, 7, 15]);
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
    fn after_a_short_pause_a_cpu_is_shared_again_at_once() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        cpus.asks(10_000, 1);
        cpus.now += Habit::PAUSE;
        assert_eq!(cpus.asks(1000, 1), (1000, 1000));
        // Whoever runs elsewhere meanwhile is followed.
        cpus.now += Habit::PAUSE;
        cpus.together = false;
        assert!(cpus.asks(1000, 1).1 > 900);
        // And after a long one all is tried again.
        cpus.now += Habit::LONG_PAUSE;
        cpus.asks(1, 1);
        assert_eq!(cpus.habit.way(), Way::Sleeps);
    }

    #[test]
    fn what_moving_takes_does_not_count() {
        let mut cpus = TwoCpus::new([40, 15, 7, 15]);
        cpus.asks(10_000, 1);
        for _ in 0..100 {
            cpus.now += Habit::LONG;
            cpus.habit.was_moved(cpus.now);
            assert_eq!(cpus.asks(1, 1), (1, 1));
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
            let asked = Asked { caller: 7, beside: false };
            assert!(!matches!(habit.received(now, asked), Place::Shared { .. }));
        }
    }
}
