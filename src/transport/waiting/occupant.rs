//! A thread that keeps a CPU from being idle while it is asked to.
//!
//! It turns in a circle, [weighs the least](process::weigh_least) that a thread can (`SCHED_IDLE` would count as idle to the
//! scheduler). Whoever else has something to do there gets the CPU at once: who slept for 50 us to 1 ms was awake 64 us after
//! its time at the median and after 68 in one of a hundred, and where the CPU was idle after 77 and 83 to 92; 50 us of each are
//! the slack of timers. If somebody keeps the CPU for long, the thread stays away until it is asked anew.
//!
//! Each time around it asks the scheduler to choose anew. Who is woken while it is not yet their turn (`entity_eligible` in
//! `kernel/sched/fair.c`) would otherwise wait for the next tick; and where the occupant's process has a share of its own,
//! in another control group than who asks or in another session (`sched_autogroup`), callers waited so for each second
//! request, until it slept 250 us later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::sys::process;

/// Whoever is away from its CPU for longer is in somebody's way; a slice of the scheduler's is 2.8 ms.
const LONG: Duration = Duration::from_millis(3);

/// How long to wait for the thread to be there: a caller that is woken before finds the CPU idle.
const ARRIVAL: Duration = Duration::from_micros(100);

/// The thread, asleep until it is asked.
#[derive(Debug)]
pub(super) struct Occupant {
    shared: Arc<Shared>,
    thread: Thread,
    id: Pid,
    /// `None` once it was joined.
    handle: Option<JoinHandle<()>>,
}

/// What is agreed on with the thread.
#[derive(Debug)]
struct Shared {
    /// What times are counted from.
    begun: Instant,
    /// Until when to turn, in nanoseconds.
    until: AtomicU64,
    /// Nobody turns: who asks has to wake the thread.
    asleep: AtomicBool,
    /// It is there, and turns.
    turns: AtomicBool,
    /// Somebody else needed the CPU.
    disturbed: AtomicBool,
    ends: AtomicBool,
}

impl Occupant {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// `EAGAIN` where no more threads are to be had; what `setpriority(2)` says.
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            until: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            turns: AtomicBool::new(false),
            disturbed: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let (tells, told) = mpsc::sync_channel(1);
        let named = thread::Builder::new().name("occupant".into()).stack_size(64 << 10);
        let handle = named.spawn(move || {
            // Of more weight it would be in the way of others.
            let weighs = process::weigh_least();
            let begins = weighs.is_ok();
            let _ = tells.send(weighs.map(|()| rustix::thread::gettid()));
            if begins {
                theirs.serve();
            }
        })?;
        let id = told.recv().map_err(io::Error::other)??;
        Ok(Self { shared, thread: handle.thread().clone(), id, handle: Some(handle) })
    }

    /// Has it go to sleep, as it does by itself once its time is over.
    pub(super) fn rest(&self) {
        let begun = Instant::now();
        self.shared.until.store(0, Ordering::SeqCst);
        while !self.shared.asleep.load(Ordering::SeqCst) && begun.elapsed() < ARRIVAL {
            std::hint::spin_loop();
        }
    }

    /// Has it turn on that CPU from now on.
    ///
    /// # Errors
    ///
    /// What `sched_setaffinity(2)` says.
    pub(super) fn go_to(&self, cpu: usize) -> io::Result<()> {
        process::pin(Some(self.id), cpu)
    }

    /// Keeps its CPU from being idle for so long from `now` on, and returns once it is there.
    pub(super) fn occupy(&self, now: Instant, time: Duration) {
        self.shared.until.store(self.shared.nanos(now + time), Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
            while !self.shared.turns.load(Ordering::Relaxed) && now.elapsed() < ARRIVAL {
                std::hint::spin_loop();
            }
        }
    }

    /// Whether somebody else needed the CPU since this was asked the last time.
    pub(super) fn was_disturbed(&self) -> bool {
        self.shared.disturbed.load(Ordering::Relaxed)
            && self.shared.disturbed.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // It cannot panic, and if it did there is nobody to tell.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
            || self.nanos(Instant::now()) >= self.until.load(Ordering::SeqCst)
    }

    /// What the thread does.
    fn serve(&self) {
        while !self.ends.load(Ordering::SeqCst) {
            self.turn();
            self.turns.store(false, Ordering::Relaxed);
            self.asleep.store(true, Ordering::SeqCst);
            // Who asked before that has not woken it.
            if self.is_over() {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Turns until it is no longer asked to, or somebody else needs the CPU.
    fn turn(&self) {
        let mut last = Instant::now();
        while !self.is_over() {
            (0..16).for_each(|_| std::hint::spin_loop());
            rustix::thread::sched_yield();
            let now = Instant::now();
            if now.duration_since(last) > LONG {
                self.disturbed.store(true, Ordering::Relaxed);
                self.until.store(0, Ordering::SeqCst);
                return;
            }
            last = now;
            self.turns.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::CpuSet;

    use super::*;
    use crate::sys::process::NICE_MAX;

    /// Whether something becomes so within a minute.
    fn becomes(is_so: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if is_so() {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn it_turns_for_as_long_as_it_is_asked_and_sleeps_otherwise() {
        let occupant = Occupant::new().unwrap();
        let sleeps = || occupant.shared.asleep.load(Ordering::SeqCst);
        assert!(becomes(sleeps));
        let long = Duration::from_secs(3600);
        for _ in 0..100 {
            // Where other tests need its CPU it stays away, and may be asked again.
            assert!(becomes(|| {
                occupant.occupy(Instant::now(), long);
                !sleeps()
            }));
            occupant.occupy(Instant::now(), Duration::ZERO);
            assert!(becomes(sleeps));
        }
        occupant.occupy(Instant::now(), long);
        // Ends although it was to turn for an hour.
        drop(occupant);
    }

    #[test]
    fn it_is_of_the_least_weight_and_where_it_was_told_to_be() {
        let occupant = Occupant::new().unwrap();
        let own = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(rustix::process::getpriority_process(Some(occupant.id)).unwrap(), NICE_MAX);
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), own);
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
        occupant.go_to(cpu).unwrap();
        let its = rustix::thread::sched_getaffinity(Some(occupant.id)).unwrap();
        assert!(its.is_set(cpu) && its.count() == 1);
        assert_eq!(
            occupant.go_to(CpuSet::MAX_CPU - 1).map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidInput)
        );
    }

    #[test]
    fn who_is_disturbed_says_so_once() {
        let occupant = Occupant::new().unwrap();
        occupant.shared.disturbed.store(true, Ordering::Relaxed);
        assert!(occupant.was_disturbed());
        assert!(!occupant.was_disturbed());
    }
}
