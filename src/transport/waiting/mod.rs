//! How a reader of a device waits for the next request: it looks for it, gives its CPU away between two looks, or
//! sleeps, by what was worth it lately.
//!
//! What a lone caller's round trip takes is decided by waking: on two CPUs of a virtual machine (Linux 6.18, GETATTR)
//!
//! | the reader | a round trip |
//! |---|--:|
//! | sleeps, and is woken on the caller's CPU | 7 us |
//! | looks on the caller's CPU, and the other one is [kept from idling](shared_cpu) | 7 us |
//! | looks, on another CPU than the caller's, which has to be woken | 15 to 18 us |
//! | sleeps, and is woken on another CPU, as its caller is then | 40 us |
//!
//! Between the first and the last the scheduler chooses: the first where a caller begins to ask after a pause, and for
//! as long as nobody is moved; of two that both have something to do, as a caller and a reader that looks, one is. A reader
//! cannot have the first as it likes (one that is pinned to its caller's CPU sees its caller woken on another as soon as
//! that is idle), but it can see which it has: so [`Habit`] tries.

mod habit;
mod learnt;
mod occupant;
mod settling;
mod shared_cpu;

use std::time::{Duration, Instant};

use habit::{Asked, Habit, Place, Way};
use learnt::{Courtesy, Luck, Reach};
use parking_lot::Mutex;
pub(super) use settling::Settling;
use shared_cpu::{Moved, Seat, SharedCpu};

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
    /// As [`Wait::Spin`]; and on exactly two CPUs, where one thread asks at a time and is answered sooner so, the reader looks on
    /// that one's CPU, while a thread of the least weight keeps the other from idling.
    ///
    /// With a lone caller this takes half to all of the time, and up to twice the CPU time in the server, for that thread's
    /// counts; at rest none. Over a ring: [where callers stay](super::uring).
    SpinBeside(Duration),
}

/// How whoever receives waits: as it is told, and as was worth it lately.
#[derive(Debug)]
pub(super) struct Waiting {
    wait: Wait,
    kept: Mutex<Kept>,
    luck: Luck,
    reach: Reach,
    courtesy: Courtesy,
}

/// What a reader keeps to.
#[derive(Debug)]
struct Kept {
    habit: Habit,
    cpu: SharedCpu,
}

impl Kept {
    /// A request was received at `now`.
    fn received(&mut self, now: Instant, asked: Asked) {
        match self.habit.received(now, asked) {
            Place::Anywhere => self.cpu.end(),
            Place::AsBefore => (),
            Place::Shared { .. } if self.cpu.was_disturbed() => self.habit.is_disturbed(),
            Place::Shared { moves } => match self.cpu.share(moves, now) {
                Ok(Moved::Nobody) => (),
                Ok(Moved::Both) => self.habit.was_moved(Instant::now()),
                Err(error) => {
                    tracing::debug!(%error, "no CPU is shared with who asks");
                    self.habit.cannot_share();
                }
            },
        }
        if self.habit.way() != Way::Shares {
            Seat::leave();
        }
    }
}

impl Waiting {
    pub(super) fn new(wait: Wait) -> Self {
        let beside = matches!(wait, Wait::SpinBeside(_));
        let habit = Habit::new(beside && SharedCpu::is_possible());
        Self {
            wait,
            kept: Mutex::new(Kept { habit, cpu: SharedCpu::default() }),
            luck: Luck::default(),
            reach: Reach::default(),
            courtesy: Courtesy::default(),
        }
    }

    /// For how long to look, as told.
    fn time(&self) -> Option<Duration> {
        match self.wait {
            Wait::Spin(time) | Wait::SpinBeside(time) => Some(time),
            Wait::Block => None,
        }
    }

    /// A receive begins, of whoever has the turn.
    pub(super) fn begin(&self) -> Look<'_> {
        let way = self.time().map_or(Way::Sleeps, |_| self.kept.lock().habit.way());
        if way != Way::Shares {
            Seat::leave();
        }
        let time = self.time().filter(|_| way != Way::Sleeps && self.luck.tries());
        let looks = time.map(|time| self.reach.of(time));
        let gives_way = match way {
            Way::Shares => GivesWay::Always,
            _ if looks.is_some() && self.courtesy.is_due() => GivesWay::AsLearnt,
            _ => GivesWay::Never,
        };
        Look { waiting: self, looks, gives_way, since: None, away: Duration::ZERO }
    }

    /// A receive begins, of one who helps.
    pub(super) fn help(&self) -> Help {
        Seat::leave();
        Help { time: self.time().unwrap_or_default(), since: None }
    }
}

/// Whether the CPU is given to others between two looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum GivesWay {
    Never,
    /// Until somebody keeps it for long.
    AsLearnt,
    /// Who is waited for needs it.
    Always,
}

/// One receive of whoever has the turn: it looks, then sleeps, and what came of it is learnt.
#[derive(Debug)]
pub(super) struct Look<'w> {
    waiting: &'w Waiting,
    /// For how long it looks still, if it does.
    looks: Option<Duration>,
    gives_way: GivesWay,
    /// When there was nothing for the first time.
    since: Option<Instant>,
    /// For how long the CPU was given away between the last two looks.
    away: Duration,
}

impl Look<'_> {
    /// Whoever has the CPU for longer did something on it: to give it away to nobody takes a fifth of that.
    const BESIDE: Duration = Duration::from_micros(1);

    /// There was nothing. Whether to sleep until there is, rather than to look at once.
    pub(super) fn missed(&mut self) -> bool {
        let now = Instant::now();
        let begun = *self.since.get_or_insert(now);
        self.away = Duration::ZERO;
        match self.looks {
            Some(time) if now.duration_since(begun) < time => {
                if self.gives_way == GivesWay::Never {
                    std::hint::spin_loop();
                    return false;
                }
                rustix::thread::sched_yield();
                self.away = now.elapsed();
                let is_learnt = self.gives_way == GivesWay::AsLearnt;
                if is_learnt && !self.waiting.courtesy.gave_way(self.away) {
                    self.gives_way = GivesWay::Never;
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

    /// Whether whoever asks did so on this CPU: before the reader came to look, or while that gave it away.
    fn is_beside(&self) -> bool {
        self.since.is_none() || self.away > Self::BESIDE
    }

    /// A request of `caller` came, a thread's number. Whether it was there at once.
    pub(super) fn found(self, caller: u32) -> bool {
        if self.looks.is_some() {
            self.waiting.luck.tried(true);
        }
        if let Some(time) = self.waiting.time() {
            let now = Instant::now();
            let after = self.since.map_or(Duration::ZERO, |begun| now.duration_since(begun));
            self.waiting.reach.came(after, time);
            let asked = Asked { caller, beside: self.is_beside() };
            self.waiting.kept.lock().received(now, asked);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often there was nothing until a receive came to sleep.
    fn looks(mut missed: impl FnMut() -> bool) -> u32 {
        (1..).find(|_| missed()).unwrap_or(u32::MAX)
    }

    #[test]
    fn who_asked_while_the_cpu_was_given_away_is_beside_the_reader() {
        let spin = Waiting::new(Wait::Spin(Duration::from_millis(2)));
        let mut look = spin.begin();
        assert!(look.is_beside());
        look.since = Some(Instant::now());
        assert!(!look.is_beside());
        look.away = 2 * Look::BESIDE;
        assert!(look.is_beside());
        // Asleep it cannot tell.
        assert_eq!(looks(|| look.missed()), 1);
        assert!(!look.is_beside());
    }

    #[test]
    fn a_reader_sleeps_at_once_or_after_having_looked_for_long_enough() {
        let block = Waiting::new(Wait::Block);
        let mut look = block.begin();
        assert_eq!(looks(|| look.missed()), 1);
        assert!(!look.found(7));
        assert!(block.begin().found(7));
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
        assert!(!look.found(7));
        (0..4 * Habit::ROUND).for_each(|_| assert!(spin.begin().found(7)));
        let (begun, mut look) = (Instant::now(), spin.begin());
        assert!(looks(|| look.missed()) > 1);
        assert!(begun.elapsed() >= time);
        // Once it sleeps, it does not look again before something came.
        assert!(look.missed());
    }
}
