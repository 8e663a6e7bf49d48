//! A caller that goes to and fro between two CPUs over a ring, and what has it stay on one.
//!
//! The thread of a queue runs while it wakes its caller, so the scheduler puts that on the other CPU if that idles
//! (`select_idle_sibling` in `kernel/sched/fair.c`). There it asks the other queue, whose thread does the same. So a caller that
//! was moved once, by whatever else had something to do for a moment, is moved with each request from then on, and each time a CPU
//! has to be woken, which in a virtual machine takes longer than all else of a request. The thread that a caller has left
//! therefore keeps its CPU from idling, until the caller has asked [a few times](Settling::ENOUGH) on the other: who is woken
//! stays where it was, and soon does so though a CPU idles beside it.
//!
//! ```text
//!  CPU 0:  thread 0 answers, its caller is woken -.   thread 0 looks for requests: not idle ......... sleeps
//!  CPU 1:                                         '-> caller asks, thread 1 answers, caller asks, thread 1 answers ...
//! ```
//!
//! On more than two CPUs the scheduler finds another that idles.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Wait;
use super::learnt::Luck;
use super::shared_cpu::SharedCpu;

/// Where callers ask, of all queues of a connection.
#[derive(Debug)]
pub(in super::super) struct Settling {
    /// There are two CPUs, and it is asked for.
    is_wanted: bool,
    /// The last caller, and above it the queue that it asked.
    last: AtomicU64,
    /// How often it has asked that queue since, with nobody in between.
    run: AtomicU32,
    /// Some CPU is kept from idling.
    keeps: AtomicBool,
    luck: Luck,
}

impl Settling {
    /// Who has asked so often in the same place stays there.
    const ENOUGH: u32 = 16;
    /// For so long the next request is waited for.
    const PATIENCE: Duration = Duration::from_micros(100);

    pub(in super::super) fn new(wait: Wait) -> Self {
        Self::wanted(matches!(wait, Wait::SpinBeside(_)) && SharedCpu::is_possible())
    }

    fn wanted(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            last: AtomicU64::new(0),
            run: AtomicU32::new(0),
            keeps: AtomicBool::new(false),
            luck: Luck::default(),
        }
    }

    /// Thread `caller` asks `queue`. Whether it asked another the last time, and nobody has asked since.
    pub(in super::super) fn asks(&self, queue: u16, caller: u32) -> bool {
        // What the kernel asks by itself has no caller, and is asked from anywhere.
        if !self.is_wanted || caller == 0 {
            return false;
        }
        let now = u64::from(queue) << u32::BITS | u64::from(caller);
        let before = self.last.swap(now, Ordering::Relaxed);
        if before == now {
            self.run.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.run.store(0, Ordering::Relaxed);
        before & u64::from(u32::MAX) == u64::from(caller)
    }

    /// The thread of a queue, with nothing to do, is to keep its CPU from idling for a while, unless another does so or that has
    /// come to nothing lately.
    pub(in super::super) fn keep(&self) -> Option<Keep<'_>> {
        if !self.luck.tries() || self.keeps.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Keep { settling: self, run: 0, until: Instant::now() + Self::PATIENCE, stays: false })
    }
}

/// A CPU is kept from idling for as long as this is there.
#[derive(Debug)]
pub(in super::super) struct Keep<'s> {
    settling: &'s Settling,
    /// How often the caller had asked on the other.
    run: u32,
    until: Instant,
    /// It stays there.
    stays: bool,
}

impl Keep<'_> {
    /// Whether to look for a request once more, with the CPU given away in between to whoever else needs it.
    pub(in super::super) fn goes_on(&mut self) -> bool {
        let run = self.settling.run.load(Ordering::Relaxed);
        self.stays = run >= Settling::ENOUGH;
        let now = Instant::now();
        if run != self.run {
            (self.run, self.until) = (run, now + Settling::PATIENCE);
        }
        if self.stays || now >= self.until {
            return false;
        }
        rustix::thread::sched_yield();
        true
    }
}

impl Drop for Keep<'_> {
    fn drop(&mut self) {
        self.settling.luck.tried(self.stays);
        self.settling.keeps.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_elsewhere_than_the_last_time_with_nobody_in_between_has_moved() {
        let settling = Settling::wanted(true);
        assert!(!settling.asks(0, 7), "the first time");
        assert!(!settling.asks(0, 7));
        assert!(settling.asks(1, 7));
        assert!(!settling.asks(1, 7), "it stays there");
        assert!(!settling.asks(0, 8), "another caller");
        assert!(!settling.asks(0, 7), "somebody has asked in between");
        assert!(!settling.asks(1, 0), "the kernel itself");
        assert!(settling.asks(1, 7));
        let unwanted = Settling::wanted(false);
        assert!((0..9).all(|number| !unwanted.asks(number, 7)));
        assert!(!Settling::new(Wait::Spin(Duration::from_micros(20))).is_wanted);
    }

    #[test]
    fn a_cpu_is_kept_until_the_caller_has_come_to_stay_on_the_other() {
        let settling = Settling::wanted(true);
        settling.asks(0, 7);
        assert!(settling.asks(1, 7));
        let mut keep = settling.keep().unwrap();
        assert!(settling.keep().is_none(), "the thread beside the caller is not to look as well");
        for _ in 0..Settling::ENOUGH {
            // However long each takes.
            keep.until = Instant::now() + Duration::from_secs(60);
            assert!(keep.goes_on());
            settling.asks(1, 7);
        }
        assert!(!keep.goes_on());
        drop(keep);
        assert!(settling.keep().is_some(), "it was worth it");
    }

    #[test]
    fn where_nobody_comes_to_stay_no_cpu_is_kept_for_long_and_ever_more_rarely() {
        let settling = Settling::wanted(true);
        let (mut begun, mut kept) = (Instant::now(), 0);
        for _ in 0..1000 {
            let Some(mut keep) = settling.keep() else { continue };
            begun = Instant::now();
            while keep.goes_on() {}
            kept += 1;
        }
        assert!(begun.elapsed() >= Settling::PATIENCE);
        assert!((5..30).contains(&kept), "{kept}");
    }
}
