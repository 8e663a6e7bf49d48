//! Of two CPUs one that a reader shares with its caller, while the other is kept from idling.
//!
//! Who wakes somebody runs meanwhile, so the scheduler puts who is woken on another CPU if that is idle (`select_idle_sibling` in
//! `kernel/sched/fair.c`). So a caller and its reader part, and from then on each is woken on a CPU that has gone to sleep
//! since. In a virtual machine that takes longer than all else of a request. A reader that follows its caller has it moved to the
//! CPU just left; but where a thread keeps that one from idling it stays: the two take turns, and no CPU is woken.
//!
//! Where its caller is a reader does not know, nor will the scheduler leave it there each time. So reader and that thread, the
//! [occupant](Occupant), change places until it shows that reader and caller [are beside each other](super::habit::Asked::beside). A
//! question and its answer between two threads took 4.3 to 5.0 us so, and 10 to 25 us with an answerer that looks on another
//! CPU. A caller that is on the occupant's takes longer than on one that idles (26 to 29 us for 17 to 22), so a try is short.
//!
//! On more than two CPUs it would take an occupant for each but one, and there is none. Over a ring, whose threads
//! stay on a CPU each, it takes less: see [`Settling`](super::Settling).

use std::cell::Cell;
use std::io;
use std::time::Instant;

use rustix::thread::CpuSet;

use super::habit::Habit;
use super::occupant::Occupant;
use crate::sys::process::pin_to;

/// Which CPU is shared, if one is.
#[derive(Debug, Default)]
pub(super) struct SharedCpu {
    cpus: Option<Cpus>,
    /// Started when a CPU is shared for the first time.
    occupant: Option<Occupant>,
}

/// Who had to be moved for one to be shared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moved {
    Nobody,
    /// The thread and the occupant, which takes a tenth of a millisecond.
    Both,
}

/// Both CPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cpus {
    shared: usize,
    occupied: usize,
}

impl Cpus {
    /// The two of a set that has no more, of which the one `here` is to be shared.
    fn of(allowed: &CpuSet, here: usize) -> Option<Self> {
        let mut all = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        match (all.next(), all.next(), all.next()) {
            (Some(first), Some(second), None) if here == first => {
                Some(Self { shared: first, occupied: second })
            }
            (Some(first), Some(second), None) if here == second => {
                Some(Self { shared: second, occupied: first })
            }
            _ => None,
        }
    }

    fn swapped(self) -> Self {
        Self { shared: self.occupied, occupied: self.shared }
    }
}

impl SharedCpu {
    /// Whether there may be one: with two CPUs, of which a control group leaves both to this process.
    pub(super) fn is_possible() -> bool {
        std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 2)
    }

    /// From `now` until soon after, the calling thread stays on the shared CPU, and the other does not idle. If it `moves`
    /// the shared CPU is the other one than before; the first time it is the one that the thread is on.
    ///
    /// # Errors
    ///
    /// `ENOTSUP` where this thread may not run on two CPUs; what the system calls say.
    pub(super) fn share(&mut self, moves: bool, now: Instant) -> io::Result<Moved> {
        let cpus = match self.cpus {
            Some(cpus) if !moves => cpus,
            Some(cpus) => cpus.swapped(),
            None => {
                let allowed = Seat::allowed()?;
                let here = rustix::thread::sched_getcpu();
                Cpus::of(&allowed, here).ok_or(io::ErrorKind::Unsupported)?
            }
        };
        let occupant = match &mut self.occupant {
            Some(occupant) => occupant,
            none => none.insert(Occupant::new()?),
        };
        if self.cpus == Some(cpus) && Seat::is_at(cpus.shared) {
            occupant.occupy(now, Habit::LONG);
            return Ok(Moved::Nobody);
        }
        // Whoever comes to its CPU while it turns there waits until it gives that away.
        occupant.rest();
        Seat::take(cpus.shared)?;
        occupant.go_to(cpus.occupied)?;
        occupant.occupy(Instant::now(), Habit::LONG);
        self.cpus = Some(cpus);
        Ok(Moved::Both)
    }

    /// Nothing is shared any more. Each reader [leaves](Seat::leave) by itself.
    pub(super) fn end(&mut self) {
        self.cpus = None;
    }

    /// Whether somebody else needed the CPU that was kept from idling.
    pub(super) fn was_disturbed(&self) -> bool {
        self.occupant.as_ref().is_some_and(Occupant::was_disturbed)
    }
}

/// The CPU that a thread was made to stay on, and where it was allowed to run before.
#[derive(Clone, Copy)]
pub(super) struct Seat {
    cpu: usize,
    before: CpuSet,
}

thread_local! {
    static SEAT: Cell<Option<Seat>> = const { Cell::new(None) };
}

impl Seat {
    /// Where the calling thread may run, but for the seat it has.
    fn allowed() -> io::Result<CpuSet> {
        match SEAT.get() {
            Some(seat) => Ok(seat.before),
            None => Ok(rustix::thread::sched_getaffinity(None)?),
        }
    }

    /// Whether the calling thread stays on that CPU.
    fn is_at(cpu: usize) -> bool {
        SEAT.get().is_some_and(|seat| seat.cpu == cpu)
    }

    /// Makes the calling thread stay on that CPU.
    fn take(cpu: usize) -> io::Result<()> {
        if Self::is_at(cpu) {
            return Ok(());
        }
        let before = Self::allowed()?;
        pin_to(cpu)?;
        SEAT.set(Some(Self { cpu, before }));
        Ok(())
    }

    /// Lets the calling thread run where it was allowed to before, unless somebody else has said since where it may.
    pub(super) fn leave() {
        let Some(seat) = SEAT.take() else { return };
        let is_there = |now: CpuSet| now.count() == 1 && now.is_set(seat.cpu);
        if rustix::thread::sched_getaffinity(None).is_ok_and(is_there) {
            // Fails only where none of those CPUs is there any more, and then the kernel has chosen others already.
            let _ = rustix::thread::sched_setaffinity(None, &seat.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        set
    }

    #[test]
    fn of_two_cpus_the_one_that_a_reader_is_on_is_shared_and_of_others_none() {
        let cpus = |allowed: &[usize], here| Cpus::of(&set(allowed), here);
        assert_eq!(cpus(&[3, 9], 3), Some(Cpus { shared: 3, occupied: 9 }));
        assert_eq!(cpus(&[3, 9], 9), Some(Cpus { shared: 9, occupied: 3 }));
        assert_eq!(cpus(&[3, 9], 9).map(Cpus::swapped), cpus(&[3, 9], 3));
        assert_eq!(cpus(&[3], 3), None);
        assert_eq!(cpus(&[3, 9, 10], 3), None);
        // Moved elsewhere in this moment.
        assert_eq!(cpus(&[3, 9], 4), None);
    }

    #[test]
    fn a_thread_stays_until_it_leaves_and_is_allowed_what_it_was_before() {
        let allowed = || rustix::thread::sched_getaffinity(None).unwrap();
        let before = allowed();
        let all: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu)).collect();
        Seat::leave();
        assert!(allowed() == before);
        for &cpu in all.iter().chain(&all) {
            Seat::take(cpu).unwrap();
            assert!(allowed() == set(&[cpu]));
            assert_eq!(rustix::thread::sched_getcpu(), cpu);
        }
        Seat::leave();
        assert!(allowed() == before);

        // What somebody else said meanwhile is left as it is.
        if let [first, second, ..] = all[..] {
            Seat::take(first).unwrap();
            pin_to(second).unwrap();
            Seat::leave();
            assert!(allowed() == set(&[second]));
        }
    }

    #[test]
    fn a_cpu_is_shared_with_an_occupant_on_the_other_one() {
        if !SharedCpu::is_possible() {
            eprintln!("SKIPPED: there are not two CPUs here");
            return;
        }
        let mut cpu = SharedCpu::default();
        assert_eq!(cpu.share(false, Instant::now()).unwrap(), Moved::Both);
        let cpus = cpu.cpus.unwrap();
        assert_eq!(rustix::thread::sched_getcpu(), cpus.shared);
        assert_eq!(cpu.share(false, Instant::now()).unwrap(), Moved::Nobody);
        assert_eq!(cpu.cpus, Some(cpus));
        assert_eq!(cpu.share(true, Instant::now()).unwrap(), Moved::Both);
        assert_eq!(cpu.cpus, Some(cpus.swapped()));
        assert_eq!(rustix::thread::sched_getcpu(), cpus.occupied);
        cpu.end();
        Seat::leave();
        // Anew, by a thread that may run on one of them alone.
        Seat::take(cpus.shared).unwrap();
        SEAT.take();
        let refused = cpu.share(false, Instant::now()).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::Unsupported));
    }
}
