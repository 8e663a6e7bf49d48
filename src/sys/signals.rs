//! Signals as values that are read, not as handlers that interrupt.
//!
//! A signal that is blocked stays pending until somebody reads it from a `signalfd(2)`. This also
//! holds for process 1 of a container, which otherwise never sees a signal it has no handler for.
//!
//! Invariant: what [`Signals::block`] blocked stays blocked in every thread started afterwards, so
//! call it before there is a second thread. Children must be started through
//! [`crate::sys::process::unblock_signals`], or they inherit the mask.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

/// Who sent a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sender {
    /// The kernel: a key on the terminal (which every process in the foreground got as well), its
    /// hang-up (which the leader of the terminal's session alone got), or the end of a child.
    Kernel,
    /// A process, by `kill(2)`; `None` if it is in a pid namespace that cannot be seen from here.
    Process(Option<Pid>),
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// Its number, one of those given to [`Signals::block`].
    pub signal: Signal,
    /// Who sent it.
    pub sender: Sender,
}

/// A set of blocked signals, readable one by one.
#[derive(Debug)]
pub struct Signals {
    arrivals: OwnedFd,
}

impl Signals {
    /// Blocks `signals` in this thread and every thread it starts from now on, and makes them
    /// readable. Not undone on drop: a pending one would then take its default action.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE` or `ENOMEM` of `signalfd(2)`.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set = set_of(signals);
        change_mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: `signalfd` reads one `sigset_t` through its pointer and keeps no copy of the
        // pointer; -1 asks for a new descriptor.
        let arrivals =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if arrivals < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `arrivals` was just made by `signalfd`, so it is open and nobody else owns it.
        Ok(Self { arrivals: unsafe { OwnedFd::from_raw_fd(arrivals) } })
    }

    /// Waits for the next signal, at most `timeout` if there is one. `None` when time is up.
    ///
    /// # Errors
    ///
    /// Whatever `poll(2)` or `read(2)` say beyond `EINTR` and `EAGAIN`.
    pub fn next(&self, timeout: Option<Duration>) -> io::Result<Option<Arrival>> {
        let timeout = timeout.map(|time| {
            Timespec::try_from(time).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
        });
        loop {
            if let Some(arrival) = self.pending()? {
                return Ok(Some(arrival));
            }
            let mut waiting = [PollFd::new(&self.arrivals, PollFlags::IN)];
            match rustix::event::poll(&mut waiting, timeout.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(rustix::io::Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes one signal that has arrived, or `None` if none has.
    fn pending(&self) -> io::Result<Option<Arrival>> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.arrivals, &mut info) {
            Ok(_) => (),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Offsets as in `struct signalfd_siginfo`: signo 0, errno 4, code 8, pid 12.
        let number = |at: usize| {
            info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes)
        };
        let Some(signal) = number(0).and_then(Signal::from_named_raw) else { return Ok(None) };
        let sender = match number(8) {
            // `SI_USER`, `SI_QUEUE`, `SI_TKILL`: what a process can send has no positive code.
            Some(..=0) => Sender::Process(number(12).and_then(Pid::from_raw)),
            // `SI_KERNEL`, or why a child ended.
            _ => Sender::Kernel,
        };
        Ok(Some(Arrival { signal, sender }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrivals.as_fd()
    }
}

/// Unblocks every signal in this thread: what a child does before it becomes another program.
///
/// Calls nothing but `pthread_sigmask`, so it may run between `fork` and `exec`.
pub(super) fn unblock_all() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, &set_of(&[]))
}

/// Whether this process ignores `signal`, as whoever started it has set: nohup(1) for a hang-up, a
/// shell without job control for the interrupt of what it starts in the background.
///
/// A blocked signal arrives all the same.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: `sigaction` is integers, an address and a set of signals, for all of which zeroes are
    // a value.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `sigaction` changes nothing where its second pointer is null, and writes one `struct
    // sigaction` through its third, which is ours.
    let answer = unsafe { libc::sigaction(signal.as_raw(), std::ptr::null(), &raw mut now) };
    answer == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Makes the end of a child wait until it is looked at, also where whoever started us ignores
/// `SIGCHLD`: then there is no signal, and nothing is left to be waited for.
pub fn heed_children() {
    // SAFETY: `SIG_DFL` is no function of ours that could be called.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    assert!(before != libc::SIG_ERR, "`SIGCHLD` has an action that can be set");
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: `sigset_t` is an array of integers, for which all zeroes is a value (the empty set).
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: `sigaddset` writes inside the one `sigset_t` it is given, which is ours.
        let answer = unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
        assert!(answer == 0, "`Signal` holds valid signal numbers only");
    }
    set
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `pthread_sigmask` reads one `sigset_t` through its second pointer, which is
    // borrowed, and writes nothing through its third, which is null.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_waits_until_it_is_read_and_says_who_sent_it() {
        // In a thread of its own, since a mask belongs to a thread.
        std::thread::spawn(|| {
            let signals = Signals::block(&[Signal::USR1, Signal::USR2]).unwrap();
            assert_eq!(signals.next(Some(Duration::ZERO)).unwrap(), None);
            let me = rustix::process::getpid();
            // To the thread, or another test's thread would take its default action and die.
            let thread = rustix::thread::gettid();
            // SAFETY: `tgkill` takes integers only.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    me.as_raw_nonzero().get(),
                    thread.as_raw_nonzero().get(),
                    libc::SIGUSR2,
                )
            };
            assert_eq!(answer, 0);
            let arrival = signals.next(Some(Duration::from_secs(5))).unwrap().unwrap();
            assert_eq!(arrival.signal, Signal::USR2);
            assert_eq!(arrival.sender, Sender::Process(Some(me)));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_whoever_started_us_ignores_is_known() {
        // Which no other test here relies on.
        let signal = Signal::WINCH;
        assert!(!is_ignored(signal));
        for (action, ignored) in [(libc::SIG_IGN, true), (libc::SIG_DFL, false)] {
            // SAFETY: neither is a function of ours that could be called.
            let before = unsafe { libc::signal(signal.as_raw(), action) };
            assert!(before != libc::SIG_ERR);
            assert_eq!(is_ignored(signal), ignored);
        }
    }
}
