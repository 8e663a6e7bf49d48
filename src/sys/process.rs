//! Processes and threads: children with a clean signal mask, namespaces, capabilities, CPUs.

use std::io;
use std::marker::PhantomData;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CpuSet, UnshareFlags};

/// Makes the child start with no signal blocked, as programs expect, whatever this process has
/// blocked for itself.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: between `fork` and `exec` only async-signal-safe calls may be made. The hook makes
    // one, `pthread_sigmask`, takes no lock and allocates nothing.
    unsafe { command.pre_exec(super::signals::unblock_all) }
}

/// Makes the child get `SIGKILL` when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let hook = || {
        let signal = Some(rustix::process::Signal::KILL);
        Ok(rustix::process::set_parent_process_death_signal(signal)?)
    };
    // SAFETY: between `fork` and `exec` only async-signal-safe calls may be made. The hook makes
    // one system call, `prctl`, takes no lock and allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// Makes the child lead a session of its own: no terminal, and no signal from one.
pub fn start_session(command: &mut Command) -> &mut Command {
    // SAFETY: between `fork` and `exec` only async-signal-safe calls may be made. The hook makes
    // one system call, `setsid`, takes no lock and allocates nothing.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) }
}

/// Moves this process into a new mount namespace, and with `user` a new user namespace as well.
///
/// # Errors
///
/// `EINVAL` if the process has more than one thread: the others would stay behind. `EPERM` if
/// it may not, `ENOSPC` if there are as many user namespaces as the system allows.
pub fn unshare_mounts(user: bool) -> io::Result<()> {
    if threads()? != 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut flags = UnshareFlags::NEWNS;
    if user {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: what makes `unshare` unsafe is `CLONE_FILES`, which is not among the flags.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Whether `tid`, a number of our pid namespace, is that of a process rather than of another thread of one; `false` where
/// nothing has it. `None` where the kernel does not say.
///
/// A signal to one thread of one process, tgkill(2), is sent where the two belong together; signal 0 is looked at and not
/// sent. It is a tenth of what a pidfd takes.
#[must_use]
pub fn is_process(tid: Pid) -> Option<bool> {
    let tid = tid.as_raw_nonzero().get();
    // SAFETY: three numbers, no memory; signal 0 is none, so nothing happens to who has the number.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, 0) };
    match (sent, io::Error::last_os_error().raw_os_error()) {
        // Who may not send one to it was found to be one before.
        (0, _) | (_, Some(libc::EPERM)) => Some(true),
        (_, Some(libc::ESRCH)) => Some(false),
        _ => None,
    }
}

/// How many threads this process has.
fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Whether this thread may mount now.
///
/// # Errors
///
/// Whatever `capget(2)` says.
pub fn may_mount() -> io::Result<bool> {
    Ok(rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// `CAP_SYS_ADMIN`, effective in this thread for as long as this lives.
///
/// A program file with `cap_sys_admin+p` starts with the capability permitted only, so that it
/// also starts where the bounding set lacks it. Threads started meanwhile have it effective and
/// keep it so.
#[derive(Debug)]
pub struct MountCapability {
    /// It was not effective before.
    raised: bool,
    /// Capabilities belong to a thread, so this must not leave it.
    _thread: PhantomData<*const ()>,
}

impl MountCapability {
    /// Makes the capability effective; `None` where it is not permitted.
    ///
    /// # Errors
    ///
    /// Whatever `capget(2)` or `capset(2)` say.
    pub fn raise() -> io::Result<Option<Self>> {
        let mut sets = rustix::thread::capabilities(None)?;
        let raised = !sets.effective.contains(CapabilitySet::SYS_ADMIN);
        if raised {
            if !sets.permitted.contains(CapabilitySet::SYS_ADMIN) {
                return Ok(None);
            }
            sets.effective |= CapabilitySet::SYS_ADMIN;
            rustix::thread::set_capabilities(None, sets)?;
        }
        Ok(Some(Self { raised, _thread: PhantomData }))
    }
}

impl Drop for MountCapability {
    fn drop(&mut self) {
        if !self.raised {
            return;
        }
        if let Ok(mut sets) = rustix::thread::capabilities(None) {
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            // Giving up what one has is never refused.
            let _ = rustix::thread::set_capabilities(None, sets);
        }
    }
}

/// Whether `CAP_SYS_ADMIN` was given to this user by whoever started the program, and is not the program file's, which is
/// everybody's who may run it: executing a file with capabilities empties the ambient set (capabilities(7)).
#[must_use]
pub fn was_given_mount_capability() -> bool {
    let is_ambient = rustix::thread::capability_is_in_ambient_set(CapabilitySet::SYS_ADMIN);
    rustix::process::getuid().is_root() || is_ambient.unwrap_or(false)
}

/// Whether this thread may raise `CAP_SYS_ADMIN`, or has it.
///
/// # Errors
///
/// Whatever `capget(2)` says.
pub fn may_raise_mount_capability() -> io::Result<bool> {
    Ok(rustix::thread::capabilities(None)?.permitted.contains(CapabilitySet::SYS_ADMIN))
}

/// From here on no program that this thread, or one it starts, becomes or starts has more rights than
/// it has now: set-user-id bits and file capabilities are void. What is permitted stays permitted.
///
/// # Errors
///
/// Whatever `prctl(2)` says.
pub fn gain_no_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Why `CAP_SYS_ADMIN` of the program file did not come into effect, as far as this process can tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Withheld {
    /// Nobody in this container, or in what else has a bounding set, may have it.
    Bounded,
    /// Whoever started us forbade to gain rights.
    NoNewPrivileges,
    /// The program file does not have it.
    NotOnTheFile,
}

/// See [`Withheld`]; of use where [`may_raise_mount_capability`] says no.
#[must_use]
pub fn why_no_mount_capability() -> Withheld {
    if !rustix::thread::capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap_or(true) {
        Withheld::Bounded
    } else if rustix::thread::no_new_privs().unwrap_or(false) {
        Withheld::NoNewPrivileges
    } else {
        Withheld::NotOnTheFile
    }
}

/// The CPUs this thread may run on, in ascending order.
///
/// # Errors
///
/// Whatever `sched_getaffinity(2)` says.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Makes this thread run on `cpu` alone.
///
/// # Errors
///
/// `EINVAL` if the thread may not run there, or there is no such CPU.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    pin(None, cpu)
}

/// Makes a thread run on `cpu` alone, this one or another of this process.
///
/// # Errors
///
/// As [`pin_to`]; `ESRCH` if there is no such thread.
pub fn pin(thread: Option<Pid>, cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(thread, &set)?)
}

/// Makes this thread weigh so many nice levels more than it does, a quarter more with each, setpriority(2).
///
/// # Errors
///
/// `EACCES` or `EPERM` without `CAP_SYS_NICE` where `RLIMIT_NICE` does not allow it.
pub fn weigh_more(levels: i32) -> io::Result<()> {
    let nice = rustix::process::getpriority_process(None)?;
    // Less than the least is the least.
    Ok(rustix::process::setpriority_process(None, nice.saturating_sub(levels))?)
}

/// Lets this thread run where the first one of the process may, and has it weigh what that does. Who is started by a thread
/// that is pinned, or weighs more, has both from it.
///
/// # Errors
///
/// Whatever `sched_setaffinity(2)` and `setpriority(2)` say.
pub fn be_as_the_first_thread() -> io::Result<()> {
    let first = Some(rustix::process::getpid());
    rustix::thread::sched_setaffinity(None, &rustix::thread::sched_getaffinity(first)?)?;
    let nice = rustix::process::getpriority_process(first)?;
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// The least that a thread may weigh, setpriority(2).
pub const NICE_MAX: i32 = 19;

/// Makes this thread weigh the least, and take its CPU in the longest slices, so that whoever wakes up on that gets it at
/// once: one with shorter slices need not wait for the end of a longer one (Linux 6.12, `PREEMPT_SHORT` in
/// `kernel/sched/features.h`). Earlier kernels know no slice of a thread's own.
///
/// # Errors
///
/// Whatever `setpriority(2)` says, where `sched_setattr(2)` is refused.
pub fn weigh_least() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: u32::try_from(libc::SCHED_OTHER).unwrap_or(0),
        sched_flags: 0,
        sched_nice: NICE_MAX,
        sched_priority: 0,
        // The most that the kernel takes for a slice, in nanoseconds.
        sched_runtime: 100_000_000,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says from a structure that lives until the call returns, and writes
    // none, for `size` is not more than what it knows. Process 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match set {
        0 => Ok(()),
        _ => Ok(rustix::process::setpriority_process(None, NICE_MAX)?),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;
    use crate::sys::signals::Signals;

    #[test]
    fn a_child_starts_with_no_signal_blocked() {
        let blocked_of_child = |clean: bool| {
            std::thread::spawn(move || {
                let _signals = Signals::block(&[Signal::TERM, Signal::INT]).unwrap();
                let mut command = Command::new("grep");
                command.args(["SigBlk", "/proc/self/status"]);
                if clean {
                    unblock_signals(&mut command);
                }
                let output = command.output().unwrap().stdout;
                String::from_utf8(output).unwrap().split_whitespace().nth(1).unwrap().to_owned()
            })
            .join()
            .unwrap()
        };
        assert_eq!(blocked_of_child(true), "0000000000000000");
        assert_eq!(blocked_of_child(false), "0000000000004002");
    }

    #[test]
    fn a_child_with_a_session_of_its_own_leads_it() {
        let mut command = Command::new("sh");
        // Fields 1 and 6 of stat(5): its process id and its session.
        command.args([
            "-c",
            "read pid comm state parent group session rest < /proc/self/stat; \
                             [ $pid = $session ]",
        ]);
        assert!(!command.status().unwrap().success());
        assert!(start_session(&mut command).status().unwrap().success());
    }

    #[test]
    fn a_child_with_a_deadly_parent_ends_with_the_thread_that_started_it() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let mut child = std::thread::spawn(move || die_with_parent(&mut command).spawn().unwrap())
            .join()
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn a_process_is_told_from_its_other_threads_and_from_nobody() {
        let own = rustix::process::getpid();
        assert_eq!(is_process(own), Some(true));
        let other =
            std::thread::spawn(|| (rustix::thread::gettid(), is_process(rustix::thread::gettid())));
        let (tid, seen) = other.join().unwrap();
        assert_ne!(tid, own);
        assert_eq!(seen, Some(false));
        assert_eq!(is_process(Pid::from_raw(i32::MAX).unwrap()), Some(false));
    }

    #[test]
    fn a_process_with_several_threads_is_not_split_over_namespaces() {
        let other = std::thread::spawn(std::thread::park);
        assert_eq!(unshare_mounts(false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        other.thread().unpark();
        other.join().unwrap();
    }

    #[test]
    fn a_permitted_capability_is_raised_and_lowered_again_and_another_one_is_missed() {
        // In a thread of its own, since capabilities belong to a thread.
        std::thread::spawn(|| {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            if !sets.permitted.contains(CapabilitySet::SYS_ADMIN) {
                assert!(MountCapability::raise().unwrap().is_none());
                eprintln!("SKIPPED in part: CAP_SYS_ADMIN is not permitted here");
                return;
            }
            // What was effective before stays so.
            drop(MountCapability::raise().unwrap().unwrap());
            assert!(may_mount().unwrap());
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            assert!(!may_mount().unwrap());
            let outer = MountCapability::raise().unwrap().unwrap();
            drop(MountCapability::raise().unwrap().unwrap());
            assert!(may_mount().unwrap());
            drop(outer);
            assert!(!may_mount().unwrap());
            assert!(may_raise_mount_capability().unwrap());
            sets.permitted.remove(CapabilitySet::SYS_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            assert!(!may_raise_mount_capability().unwrap());
            assert!(MountCapability::raise().unwrap().is_none());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_gains_no_privileges_says_so_and_keeps_what_it_has() {
        std::thread::spawn(|| {
            let before = rustix::thread::capabilities(None).unwrap();
            gain_no_privileges().unwrap();
            assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
            if why_no_mount_capability() != Withheld::Bounded {
                assert_eq!(why_no_mount_capability(), Withheld::NoNewPrivileges);
            }
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_pinned_thread_may_run_on_one_cpu() {
        std::thread::spawn(|| {
            let last = *allowed_cpus().unwrap().last().unwrap();
            pin_to(last).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [last]);
            assert_eq!(rustix::thread::sched_getcpu(), last);
        })
        .join()
        .unwrap();
        assert!(pin_to(usize::MAX).is_err());
    }

    #[test]
    fn a_thread_weighs_more_where_that_is_allowed_and_no_other_does() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::spawn(move || match weigh_more(5) {
            Ok(()) => assert_eq!(nice(), (before - 5).max(-20)),
            Err(err) => {
                assert_eq!(err.kind(), io::ErrorKind::PermissionDenied);
                assert_eq!(nice(), before);
            }
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_that_another_started_runs_where_and_weighs_what_the_first_does() {
        let first = Some(rustix::process::getpid());
        let looks = |who| {
            let cpus = rustix::thread::sched_getaffinity(who).unwrap();
            (cpus, rustix::process::getpriority_process(who).unwrap())
        };
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        std::thread::spawn(move || {
            pin_to(cpu).unwrap();
            weigh_least().unwrap();
            std::thread::spawn(move || {
                assert!(looks(None) != looks(first));
                // Without CAP_SYS_NICE nobody weighs more again.
                if rustix::process::geteuid().is_root() {
                    be_as_the_first_thread().unwrap();
                    assert!(looks(None) == looks(first));
                }
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_weighs_least_and_no_other_does() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::spawn(move || {
            weigh_least().unwrap();
            assert_eq!(nice(), NICE_MAX);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }
}
