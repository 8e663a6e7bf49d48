//! What can only be read while a caller might be holding its own `mmap_lock`: command line and
//! environment. Threads of their own read it, and nobody waits for long for what does not come.
//!
//! A short command is over within a millisecond, and where there are few CPUs it waits for whoever asks about it. So one
//! thread is woken for that, if there is one that waits, and it reads no more than it must: what an ancestor's environment
//! says was read a moment ago, for the last command of the same shell. With a thread made for each question, and all
//! environments read each time, `cp` took 1.35 ms, of 1.0 where nobody asks (14 processes below the first, two CPUs).

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::store::Store;
use crate::store::event::{Actor, ActorId};

use super::environ::{Named, named, recorded};
use super::proc::{Incarnation, Places, Proc};

/// Questions that may wait; what comes beyond is dropped, and the actor stays as it is.
const QUEUE_MAX: usize = 1024;
/// Threads that read at once. Where all of them hang nothing more is looked up until one returns; while one does not, who
/// comes waits for it.
const READERS_MAX: usize = 8;
/// A read that takes longer hangs: nobody waits for it.
const DEADLINE: Duration = Duration::from_millis(500);
/// For so long a request waits until it was read what its caller's command line is: a command that changes one thing is over
/// 0.2 ms after it has its answer, and then nobody can tell any more. Mostly it takes 40 us, as all that its reader looks at
/// meanwhile. Where the caller holds what the read waits for, its first change takes as long as this.
const PATIENCE: Duration = Duration::from_millis(2);
/// A thread that was asked nothing for so long ends.
const IDLE: Duration = Duration::from_secs(1);

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
        let question = Box::new(move |proc: &Proc| {
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
        READERS.ask(|questions| questions.push_back(question));
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

/// Drops what it takes long to drop, such as a hundred descriptors of `/proc`; never waits.
pub(super) fn forget(those: impl Send + 'static) {
    READERS.ask(|questions| questions.push_back(Box::new(|_| drop(those))));
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

static READERS: Readers = Readers::new();

/// Threads that read what may hang.
struct Readers {
    queue: Mutex<Queue>,
    more: Condvar,
}

/// Nothing can call one back that hangs in the kernel; so there are several.
struct Queue {
    questions: VecDeque<Question>,
    readers: [Reader; READERS_MAX],
}

type Question = Box<dyn FnOnce(&Proc) + Send>;

/// What one thread is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reader {
    /// There is none.
    Missing,
    /// It waits for a question, or is about to take one.
    Waits,
    /// It reads, since then.
    Reads(Instant),
}

impl Queue {
    fn count(&self, are: impl Fn(Reader) -> bool) -> usize {
        self.readers.iter().filter(|reader| are(**reader)).count()
    }

    /// Whether all that may read hang.
    fn hangs(&self) -> bool {
        let hangs = |reader| matches!(reader, Reader::Reads(began) if began.elapsed() >= DEADLINE);
        self.count(hangs) == READERS_MAX
    }

    fn is_at(&mut self, number: usize, reader: Reader) {
        if let Some(known) = self.readers.get_mut(number) {
            *known = reader;
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

/// It took longer than [`DEADLINE`], or all that may read hang.
#[derive(Debug, Eq, PartialEq)]
struct TooSlow;

impl Readers {
    const fn new() -> Self {
        let readers = [Reader::Missing; READERS_MAX];
        let queue = Mutex::new(Queue { questions: VecDeque::new(), readers });
        Self { queue, more: Condvar::new() }
    }

    /// Puts a question, which is read with `/proc` once a thread is free; never waits. It is dropped where too many wait
    /// already, and where there can be no thread.
    fn ask(&'static self, put: impl FnOnce(&mut VecDeque<Question>)) {
        let mut queue = self.queue.lock();
        if queue.questions.len() >= QUEUE_MAX {
            return;
        }
        put(&mut queue.questions);
        if queue.questions.len() <= queue.count(|reader| reader == Reader::Waits) {
            drop(queue);
            self.more.notify_one();
            return;
        }
        let missing = queue.readers.iter().position(|reader| *reader == Reader::Missing);
        // Without one, whoever is done first takes it.
        let Some(number) = missing else { return };
        queue.is_at(number, Reader::Waits);
        drop(queue);
        let started = thread::Builder::new().name("late".into()).spawn(move || self.work(number));
        if let Err(err) = started {
            let mut queue = self.queue.lock();
            queue.is_at(number, Reader::Missing);
            if queue.count(|reader| reader != Reader::Missing) == 0 {
                tracing::warn!("command lines are not recorded: no thread for them: {err}");
                queue.questions.clear();
            }
        }
    }

    /// What `read` finds, which may hang; `None` also where nothing can be read.
    fn answer<T: Send + 'static>(
        &'static self,
        read: impl FnOnce(&Proc) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, TooSlow> {
        if self.queue.lock().hangs() {
            return Err(TooSlow);
        }
        let (reply, answer) = sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&given_up);
        let question = Box::new(move |proc: &Proc| {
            if !over.load(Ordering::Relaxed) {
                drop(reply.send(read(proc)));
            }
        });
        // Somebody waits for it, unlike for others.
        self.ask(|questions| questions.push_front(question));
        match answer.recv_timeout(DEADLINE) {
            Ok(known) => Ok(known),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::Relaxed);
                // It may have come just now.
                answer.try_recv().map_err(|_| TooSlow)
            }
        }
    }

    /// What thread `number` does.
    fn work(&self, number: usize) {
        let proc = Proc::open();
        let mut queue = self.queue.lock();
        loop {
            match queue.questions.pop_front() {
                Some(question) => {
                    queue.is_at(number, Reader::Reads(Instant::now()));
                    MutexGuard::unlocked(&mut queue, || {
                        // Dropped, whoever waits for an answer sees that there is none.
                        if let Some(proc) = &proc {
                            question(proc);
                        }
                    });
                    queue.is_at(number, Reader::Waits);
                }
                None => {
                    let idle = self.more.wait_for(&mut queue, IDLE).timed_out();
                    if idle && queue.questions.is_empty() {
                        queue.is_at(number, Reader::Missing);
                        return;
                    }
                }
            }
        }
    }
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
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    use std::sync::atomic::AtomicUsize;

    use super::*;

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

    /// As many as there are in `all` at once, each in a thread of its own.
    fn at_once<T: Send + 'static>(
        readers: &'static Readers,
        all: usize,
        read: impl Fn(usize) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<Result<Option<T>, TooSlow>> {
        let ask = |number| {
            let read = read.clone();
            thread::spawn(move || readers.answer(move |_| read(number)))
        };
        let asked: Vec<_> = (0..all).map(ask).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    }

    #[test]
    fn many_at_once_wait_for_each_other_and_all_are_answered() {
        let readers: &'static Readers = Box::leak(Box::new(Readers::new()));
        let answers = at_once(readers, 4 * READERS_MAX, |number| {
            thread::sleep(Duration::from_millis(20));
            Some(number)
        });
        assert!(answers.into_iter().eq((0..4 * READERS_MAX).map(|number| Ok(Some(number)))));
    }

    #[test]
    fn where_all_hang_nobody_waits_until_one_returns() {
        let readers: &'static Readers = Box::leak(Box::new(Readers::new()));
        let (began, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
        let shut = gate.lock();
        let (begun, hang) = (Arc::clone(&began), Arc::clone(&gate));
        let answers = at_once(readers, 2 * READERS_MAX, move |_| {
            begun.fetch_add(1, Ordering::Relaxed);
            drop(hang.lock());
            Some(())
        });
        assert!(answers.iter().all(|answer| *answer == Err(TooSlow)), "{answers:?}");
        assert_eq!(began.load(Ordering::Relaxed), READERS_MAX);
        let started = Instant::now();
        while !readers.queue.lock().hangs() {
            assert!(started.elapsed() < Duration::from_secs(20), "they read for long already");
            thread::sleep(Duration::from_millis(2));
        }
        let started = Instant::now();
        assert_eq!(readers.answer(|_| Some(())), Err(TooSlow));
        assert!(started.elapsed() < DEADLINE / 2, "it is refused at once");
        drop(shut);
        let started = Instant::now();
        while readers.answer(|_| Some(())) != Ok(Some(())) {
            assert!(started.elapsed() < Duration::from_secs(20), "they never return");
            thread::sleep(Duration::from_millis(2));
        }
    }
}
