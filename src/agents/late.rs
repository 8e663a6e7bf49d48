//! What can only be read while a caller might be holding its own `mmap_lock`: command line and
//! environment. [Others](super::readers) read it, and nobody waits for long for what does not come.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::store::Store;
use crate::store::event::{Actor, ActorId};

use super::environ::{Named, named, recorded};
use super::proc::{Incarnation, Places, Proc};
use super::readers::{DEADLINE, READERS};

/// For so long a request waits until it was read what its caller's command line is: a command that changes one thing is over
/// 0.2 ms after it has its answer, and then nobody can tell any more. Mostly it takes 40 us, as all that its reader looks at
/// meanwhile. Where the caller holds what the read waits for, its first change takes as long as this.
const PATIENCE: Duration = Duration::from_millis(2);

/// Looks for the rest of what there is to know of a store's actors.
#[derive(Debug)]
pub(super) struct Late {
    /// Not held: a read that hangs would keep it open.
    store: Weak<Store>,
}

impl Late {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::downgrade(store) }
    }

    /// Asks for the rest of what there is to know of process `pid`; never waits. It is recorded once it is
    /// [told](Asked::is) who that is.
    pub(super) fn begin(&self, pid: u32) -> Asked {
        let store = Weak::clone(&self.store);
        let ((tell, told), (done, is_done)) = (sync_channel(1), sync_channel(1));
        READERS.ask(move |proc| {
            let read = Read::of(proc, pid);
            drop(done);
            let Some(read) = read else { return };
            // At once, unless it takes long to look at the rest; never, where nothing is to be recorded.
            let Ok(Told { id, mut actor, program }) = told.recv_timeout(DEADLINE) else { return };
            if read.fill_in(&mut actor, program)
                && let Some(store) = store.upgrade()
                && let Err(err) = store.describe_actor(id, &actor)
            {
                tracing::debug!("an actor's command line was not recorded: {err}");
            }
        });
        Asked { tell, is_done }
    }
}

/// The rest of what there is to know of a process is being read.
#[derive(Debug)]
pub(super) struct Asked {
    tell: SyncSender<Told>,
    /// Ends once it was read, or cannot be.
    is_done: Receiver<()>,
}

#[derive(Debug)]
struct Told {
    id: ActorId,
    actor: Actor,
    program: Places,
}

impl Asked {
    /// It is `actor`, whose program lies there. Waits until that was read, for [`PATIENCE`] at most.
    pub(super) fn is(self, id: ActorId, actor: Actor, program: Places) {
        // Nobody listens where it could not be read.
        drop(self.tell.try_send(Told { id, actor, program }));
        let _ = self.is_done.recv_timeout(PATIENCE);
    }
}

/// What the process of `actor` says of itself, at once; `None` where it is gone, or does not say it in time.
pub(super) fn ask(actor: &Actor) -> Option<Named> {
    let (pid, start_time) = (actor.pid, actor.start_time);
    let read = move |proc: &Proc| {
        let (named, now) = named(proc, &proc.stat_file(pid)?, pid)?;
        (now.start_time() == start_time).then_some(named)
    };
    READERS.answer(read).ok().flatten()
}

/// What was read of a process.
#[derive(Debug)]
struct Read {
    cmdline: Vec<u8>,
    named: Named,
    /// What it was after that was read.
    now: Incarnation,
}

impl Read {
    /// `None` if the process is gone, or could not be looked at.
    fn of(proc: &Proc, pid: u32) -> Option<Self> {
        let stat = proc.stat_file(pid)?;
        let cmdline = proc.read(pid, "cmdline").unwrap_or_default();
        let (named, now) = named(proc, &stat, pid)?;
        Some(Self { cmdline, named, now })
    }

    /// Adds the command line, unless the process had taken another program meanwhile, and agent and session where they are
    /// not known already. Whether it is the one that asked.
    fn fill_in(self, actor: &mut Actor, program: Places) -> bool {
        if self.now.start_time() != actor.start_time {
            return false;
        }
        // A process never comes back to a program it has left.
        if self.now.places() == program {
            actor.cmdline = self.cmdline;
        }
        if actor.agent.is_empty() && actor.session.is_empty() {
            (actor.agent, actor.session) = recorded(self.named);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    #[test]
    fn an_agent_is_named_by_the_environment_of_the_nearest_process_that_names_one() {
        // It speaks once it runs: while an `exec` is under way, what `/proc` shows of it is part old, part new.
        let inner = "exec env -u LIGHTHOUSE_AGENT -u LIGHTHOUSE_SESSION sh -c 'echo $$; read _'";
        let mut child = Command::new("sh")
            .args(["-c", &format!("({inner}); true")])
            .env("LIGHTHOUSE_AGENT", "builder-7")
            .env("LIGHTHOUSE_SESSION", "s1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid: u32 = line.trim().parse().unwrap();
        let proc = Proc::open().unwrap();
        let now = proc.stat_file(pid).unwrap().read().unwrap();
        let (start_time, program) = (now.start_time(), now.places());
        let actor = Actor { pid, start_time, ..Actor::default() };
        let look_up = |mut actor: Actor, program| {
            Read::of(&proc, pid)?.fill_in(&mut actor, program).then_some(actor)
        };
        let known = look_up(actor.clone(), program).unwrap();
        assert_eq!(known.cmdline, b"sh\0-c\0echo $$; read _\0");
        assert_eq!(known.agent, b"builder-7");
        assert_eq!(known.session, b"s1");
        let before = look_up(actor, [1, 2, 3]).unwrap();
        assert_eq!(before.cmdline, b"", "of another program in the same process");
        assert_eq!(before.agent, b"builder-7");
        let other = Actor { pid, start_time: start_time + 1, ..Actor::default() };
        assert_eq!(look_up(other, program), None, "a reused number is somebody else");
        // At the end of its input it ends.
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn who_waits_for_what_hangs_goes_on_and_for_what_ended_does_not_wait() {
        for hangs in [true, false] {
            let ((tell, told), (done, is_done)) = (sync_channel(1), sync_channel(1));
            let done = Some(done).filter(|_| hangs);
            let started = Instant::now();
            Asked { tell, is_done }.is(ActorId(7), Actor::default(), [1, 2, 3]);
            assert_eq!(started.elapsed() >= PATIENCE, hangs);
            assert_eq!(told.recv().unwrap().id, ActorId(7), "it may come to be read later");
            drop(done);
        }
    }
}
