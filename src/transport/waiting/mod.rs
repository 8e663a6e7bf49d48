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

mod habit;
mod learnt;

use std::time::{Duration, Instant};

use habit::Habit;
use learnt::{Courtesy, Luck, Reach};
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
}
