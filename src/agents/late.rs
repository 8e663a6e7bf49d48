//! What can only be read while a caller might be holding its own `mmap_lock`: command line and
//! environment. [Others](super::readers) read it, and nobody waits for long for what does not come.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Store;
use crate::store::event::{Actor, ActorId};

use super::environ::{Named, named, recorded};
use super::proc::{Incarnation, Places, Proc, StatFile};
use super::readers::READERS;

/// For so long a request waits until it was read what its caller's command line is: a command that changes one thing is over
/// 0.2 ms after it has its answer, and then nobody can tell any more. Mostly it takes 30 us, as all that its reader looks at
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

    /// Asks for the rest of what there is to know of process `pid`, of which its `stat` told this; never waits. `None` where
    /// nothing can be noted down of it.
    pub(super) fn begin(
        &self,
        pid: u32,
        (stat, process): (StatFile, Incarnation),
    ) -> Option<Asked> {
        self.store.upgrade().filter(|store| store.refusal().is_none())?;
        let store = Weak::clone(&self.store);
        let asked =
            Asked(Arc::new(Exchange { store, state: Mutex::default(), read: Condvar::new() }));
        let reading = Reading(Arc::clone(&asked.0));
        READERS.ask(move |proc| reading.found(Read::of(proc, pid, (&stat, &process))));
        Some(asked)
    }
}

/// Where who reads and who asked meet. Both are at it at once, and whoever comes second does what is left to do.
#[derive(Debug)]
struct Exchange {
    store: Weak<Store>,
    state: Mutex<State>,
    read: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// It is being read.
    #[default]
    Reading,
    /// That was read; nothing, where it cannot be, or was taken.
    Read(Option<Read>),
    /// It is being read, and nobody waits for it any more: it is to be recorded.
    Left(Told),
}

/// Who it is of whom something is being read.
#[derive(Debug)]
struct Told {
    id: ActorId,
    actor: Actor,
    program: Places,
}

impl Exchange {
    fn record(&self, read: Read, Told { id, mut actor, program }: Told) {
        let Some(store) = self.store.upgrade().filter(|_| read.fill_in(&mut actor, program)) else {
            return;
        };
        // It may be known since it was looked at before, and have taken another program in this moment.
        if let Some(known) = store.actor_of(id) {
            if actor.cmdline.is_empty() {
                actor.cmdline = known.cmdline;
            }
            if actor.agent.is_empty() && actor.session.is_empty() {
                (actor.agent, actor.session) = (known.agent, known.session);
            }
        }
        if let Err(err) = store.describe_actor(id, &actor) {
            tracing::debug!("an actor's command line was not recorded: {err}");
        }
    }
}

/// The side of who reads. Dropped, it says that nothing can be read.
struct Reading(Arc<Exchange>);

impl Reading {
    fn found(self, read: Option<Read>) {
        self.put(read);
    }

    fn put(&self, read: Option<Read>) {
        let mut state = self.0.state.lock();
        match mem::replace(&mut *state, State::Read(None)) {
            State::Reading => {
                *state = State::Read(read);
                drop(state);
                self.0.read.notify_one();
            }
            State::Left(told) => {
                drop(state);
                if let Some(read) = read {
                    self.0.record(read, told);
                }
            }
            before @ State::Read(_) => *state = before,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.put(None);
    }
}

/// The rest of what there is to know of a process is being read.
#[derive(Debug)]
pub(super) struct Asked(Arc<Exchange>);

impl Asked {
    /// Adds to `actor`, whose program lies there, what was read of it. Waits for that, for [`PATIENCE`] at most.
    pub(super) fn fill_in(&self, actor: &mut Actor, program: Places) {
        let until = Instant::now() + PATIENCE;
        let mut state = self.0.state.lock();
        while matches!(*state, State::Reading) {
            if self.0.read.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        if let State::Read(read) = &mut *state
            && let Some(read) = read.take()
        {
            drop(state);
            read.fill_in(actor, program);
        }
    }

    /// It is `actor`, which got that number: what is read of it from now on, or was and was not taken, is recorded. Does not
    /// wait for it.
    pub(super) fn leave(self, id: ActorId, actor: Actor, program: Places) {
        let told = Told { id, actor, program };
        let mut state = self.0.state.lock();
        match &mut *state {
            State::Read(read) => {
                let read = read.take();
                drop(state);
                if let Some(read) = read {
                    self.0.record(read, told);
                }
            }
            State::Reading | State::Left(_) => *state = State::Left(told),
        }
    }
}

/// What the process of `actor` says of itself, at once; `None` where it is gone, or does not say it in time.
pub(super) fn ask(actor: &Actor) -> Option<Named> {
    let (pid, start_time) = (actor.pid, actor.start_time);
    let read = move |proc: &Proc| {
        let stat = proc.stat_file(pid)?;
        let before = stat.read()?;
        let (named, now) = named(proc, pid, (&stat, &before))?;
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
    /// `None` if the process, of which `stat` told before what it was, is gone, or could not be looked at.
    fn of(proc: &Proc, pid: u32, (stat, before): (&StatFile, &Incarnation)) -> Option<Self> {
        let cmdline = proc.read(pid, "cmdline").unwrap_or_default();
        let (named, now) = named(proc, pid, (stat, before))?;
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
    use crate::store::{CreateOptions, OpenOptions};
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

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
        let stat = proc.stat_file(pid).unwrap();
        let now = stat.read().unwrap();
        let (start_time, program) = (now.start_time(), now.places());
        let actor = Actor { pid, start_time, ..Actor::default() };
        let look_up = |mut actor: Actor, program| {
            Read::of(&proc, pid, (&stat, &now))?.fill_in(&mut actor, program).then_some(actor)
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

    /// Something that is being read, of whom that is, and both ends of it.
    fn exchange(dir: &std::path::Path) -> (Arc<Store>, Told, Asked, Reading) {
        let path = dir.join("store");
        let store =
            Store::create(&path, &CreateOptions::default(), &OpenOptions::default()).unwrap();
        let actor = Actor { pid: 7, ..Actor::default() };
        let told = Told { id: store.actor(&actor).unwrap(), actor, program: [1, 2, 3] };
        let store = Arc::new(store);
        let (state, read) = (Mutex::default(), Condvar::new());
        let asked = Asked(Arc::new(Exchange { store: Arc::downgrade(&store), state, read }));
        let reading = Reading(Arc::clone(&asked.0));
        (store, told, asked, reading)
    }

    /// What is read of that one.
    fn read() -> Option<Read> {
        let mut now =
            Incarnation::parse(b"7 (a) S 1 7 7 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 0 1 2 3 1 2 3 0");
        Some(Read { cmdline: b"a\0b\0".to_vec(), named: Named::default(), now: now.take()? })
    }

    #[test]
    fn what_is_read_in_time_is_told_to_who_asked_and_what_is_not_is_recorded_once_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, Told { mut actor, program, .. }, asked, reading) = exchange(dir.path());
        let waits = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 4);
            reading.found(read());
        });
        asked.fill_in(&mut actor, program);
        waits.join().unwrap();
        // Unless this machine was asleep for all of that time.
        assert!(
            actor.cmdline == b"a\0b\0" || matches!(*asked.0.state.lock(), State::Read(Some(_)))
        );

        // Read before who asked leaves, or afterwards.
        for is_read_first in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (store, Told { id, mut actor, program }, asked, reading) = exchange(dir.path());
            let started = Instant::now();
            asked.fill_in(&mut actor, program);
            assert!(started.elapsed() >= PATIENCE && actor.cmdline.is_empty());
            let find = || reading.found(read());
            match is_read_first {
                true => {
                    find();
                    asked.leave(id, actor, program);
                }
                false => {
                    asked.leave(id, actor, program);
                    assert_eq!(store.actor_of(id).unwrap().cmdline, b"");
                    find();
                }
            }
            assert_eq!(store.actor_of(id).unwrap().cmdline, b"a\0b\0");
        }
    }

    #[test]
    fn what_was_recorded_is_not_lost_to_what_could_not_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for (program, expected) in [([1, 2, 3], &b"a\0b\0"[..]), ([4, 5, 6], b"before\0")] {
            let dir = dir.path().join(program[0].to_string());
            std::fs::create_dir(&dir).unwrap();
            let (store, Told { id, actor, .. }, asked, reading) = exchange(&dir);
            let before =
                Actor { cmdline: b"before\0".to_vec(), agent: b"one".to_vec(), ..actor.clone() };
            store.describe_actor(id, &before).unwrap();
            reading.found(read());
            asked.leave(id, actor, program);
            let after = store.actor_of(id).unwrap();
            assert_eq!((&after.cmdline[..], &after.agent[..]), (expected, &b"one"[..]));
        }
    }

    #[test]
    fn who_waits_for_what_cannot_be_read_goes_on_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, Told { id, mut actor, program }, asked, reading) = exchange(dir.path());
        let dropped = std::thread::spawn(move || drop(reading));
        while matches!(*asked.0.state.lock(), State::Reading) {
            std::thread::yield_now();
        }
        dropped.join().unwrap();
        let started = Instant::now();
        asked.fill_in(&mut actor, program);
        assert!(started.elapsed() < PATIENCE);
        asked.leave(id, actor, program);
        assert_eq!(store.actor_of(id).unwrap().cmdline, b"");
    }
}
