//! What can only be read while a caller might be holding its own `mmap_lock`: command line and
//! environment. Threads of their own read it, and give up on what does not come in time.
//!
//! Where a process is not registered, the agent and session it works for are what `LIGHTHOUSE_AGENT` and `LIGHTHOUSE_SESSION`
//! say in its own environment, or in that of the nearest ancestor that has one of them. Of a session's token only what
//! is no secret is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Store;
use crate::store::event::{Actor, ActorId};

use super::proc::{Places, Proc, TEXT_MAX};
use super::register::parts_of_token;

/// Questions that may wait; what comes beyond is dropped, and the actor stays as it is.
const QUEUE_MAX: usize = 1024;
/// Threads that read at once. Where all of them hang nothing more is looked up until one returns; while one does not, who
/// comes waits for it.
const READERS_MAX: usize = 8;
/// A read that takes longer is left behind.
const DEADLINE: Duration = Duration::from_millis(500);
/// How far up the parents an agent's name is looked for.
const ANCESTORS_MAX: usize = 16;
/// How much of an environment is looked at, in bytes.
const ENVIRON_MAX: usize = 64 * 1024;

/// The queue to the threads that may wait.
#[derive(Debug)]
pub(super) struct Late {
    queue: SyncSender<Question>,
}

/// An actor, and where its program lies.
type Question = (ActorId, Actor, Places);

impl Late {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let (queue, questions) = sync_channel(QUEUE_MAX);
        let started =
            thread::Builder::new().name("late".into()).spawn(move || answer(&questions, &store));
        if let Err(err) = started {
            tracing::warn!("command lines will not be recorded: no thread for them: {err}");
        }
        Self { queue }
    }

    /// Asks for the rest of what there is to know of `actor`; never waits.
    pub(super) fn look(&self, id: ActorId, actor: Actor, program: Places) {
        drop(self.queue.try_send((id, actor, program)));
    }
}

/// Agent and session of a process, as far as it says so.
pub(super) type Named = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What the process of `actor` says of itself, at once; `None` where it is gone, or does not say it in time.
pub(super) fn ask(actor: Actor) -> Option<Named> {
    READERS.apart(move |proc| named(proc, &actor)).ok().flatten()
}

static READERS: Readers = Readers::new();

/// Threads that read what may hang.
#[derive(Debug)]
struct Readers {
    count: Mutex<Count>,
    fewer: Condvar,
}

#[derive(Debug)]
struct Count {
    /// Somebody waits for what they read.
    awaited: usize,
    /// They were given up, and hang.
    hanging: usize,
}

/// It took longer than [`DEADLINE`], or all that may read hang.
#[derive(Debug, Eq, PartialEq)]
struct TooSlow;

impl Readers {
    const fn new() -> Self {
        let count = Count { awaited: 0, hanging: 0 };
        Self { count: Mutex::new(count), fewer: Condvar::new() }
    }

    /// Does what may hang in a thread of its own, since nothing can call one back that hangs in the kernel; `None` as what
    /// is read, and where there is no thread.
    fn apart<T: Send + 'static>(
        &'static self,
        read: impl FnOnce(&Proc) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, TooSlow> {
        let until = Instant::now() + DEADLINE;
        self.begin(until)?;
        let (reply, answer) = sync_channel(1);
        // Set by whoever ends it: the thread when it has read, or who waits for it no longer.
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let reader = thread::Builder::new().name("late-read".into()).spawn(move || {
            let known = Proc::open().and_then(|proc| read(&proc));
            drop(reply.send(known));
            self.end(&ended);
        });
        if reader.is_err() {
            self.end(&over);
            return Ok(None);
        }
        let left = until.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(known) => Ok(known),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            // Its answer may have come just now.
            Err(RecvTimeoutError::Timeout) if !self.give_up(&over) => {
                answer.try_recv().map_err(|_| TooSlow)
            }
            Err(RecvTimeoutError::Timeout) => Err(TooSlow),
        }
    }

    /// Waits for room.
    fn begin(&self, until: Instant) -> Result<(), TooSlow> {
        let mut count = self.count.lock();
        while count.awaited + count.hanging >= READERS_MAX {
            if count.hanging >= READERS_MAX || self.fewer.wait_until(&mut count, until).timed_out()
            {
                return Err(TooSlow);
            }
        }
        count.awaited += 1;
        Ok(())
    }

    fn end(&self, over: &AtomicBool) {
        let mut count = self.count.lock();
        match over.swap(true, Ordering::Relaxed) {
            true => count.hanging -= 1,
            false => count.awaited -= 1,
        }
        drop(count);
        self.fewer.notify_one();
    }

    /// Whether it had not ended yet.
    fn give_up(&self, over: &AtomicBool) -> bool {
        let mut count = self.count.lock();
        let hangs = !over.swap(true, Ordering::Relaxed);
        if hangs {
            count.awaited -= 1;
            count.hanging += 1;
        }
        if count.hanging >= READERS_MAX {
            self.fewer.notify_all();
        }
        hangs
    }
}

fn answer(questions: &Receiver<Question>, store: &Store) {
    while let Ok((id, actor, program)) = questions.recv() {
        match READERS.apart(move |proc| look_up(proc, actor, program)) {
            Ok(Some(actor)) => {
                if let Err(err) = store.describe_actor(id, &actor) {
                    tracing::debug!("an actor's command line was not recorded: {err}");
                }
            }
            Ok(None) => (),
            Err(TooSlow) => {
                tracing::debug!(
                    actor = id.0,
                    "reading a caller's command line took too long; left out"
                );
            }
        }
    }
}

/// Adds the command line, unless the process has taken another program since, and agent and session where they are not
/// known already; `None` if the process is no longer the one that asked.
fn look_up(proc: &Proc, mut actor: Actor, program: Places) -> Option<Actor> {
    let cmdline = proc.read(actor.pid, "cmdline").unwrap_or_default();
    // Looked at after it was read: a process never comes back to a program it has left.
    let now = proc.stat_file(actor.pid).and_then(|stat| stat.read());
    let is_its_own = now.is_some_and(|now| now.places() == program);
    let (agent, session) = named(proc, &actor)?;
    if is_its_own {
        actor.cmdline = cmdline;
    }
    if actor.agent.is_empty() && actor.session.is_empty() {
        (actor.agent, actor.session) = recorded(agent, session);
    }
    Some(actor)
}

/// What of an agent and a session, as an environment names them, may be recorded.
pub(super) fn recorded(agent: Option<Vec<u8>>, session: Option<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let (session, of_session) = without_secret(session.unwrap_or_default());
    (agent.or(of_session).unwrap_or_default(), session)
}

/// Agent and session of the process of `actor`; `None` if it is no longer the one that asked, or could not be looked at.
fn named(proc: &Proc, actor: &Actor) -> Option<Named> {
    let still_there = |proc: &Proc| {
        let now = proc.stat_file(actor.pid)?.read()?;
        (now.start_time() == actor.start_time).then_some(now.parent())
    };
    let mut parent = still_there(proc)?;
    let environ = |pid| {
        let environ = proc.shown(pid, "environ", ENVIRON_MAX).ok()?;
        Some(named_in(&environ.unwrap_or_default()))
    };
    let mut found = environ(actor.pid)?;
    for _ in 0..ANCESTORS_MAX {
        if found != (None, None) || parent <= 1 {
            break;
        }
        found = environ(parent)?;
        let stat = proc.stat_shown(parent).ok()?;
        let Some(next) = stat.and_then(|stat| stat.read()) else { break };
        parent = next.parent();
    }
    still_there(proc)?;
    Some(found)
}

/// What of a session may be recorded, and the agent that its token names: of `ID:AGENT:TIME:CODE` the id.
fn without_secret(session: Vec<u8>) -> (Vec<u8>, Option<Vec<u8>>) {
    match parts_of_token(&session) {
        Some((id, agent)) => (id.to_vec(), Some(agent.to_vec())),
        None => (session, None),
    }
}

/// Agent and session named in an environment block.
fn named_in(environ: &[u8]) -> Named {
    let value = |name: &[u8]| {
        let mut found = environ.split(|&byte| byte == 0).find_map(|entry| {
            entry.strip_prefix(name)?.strip_prefix(b"=").filter(|value| !value.is_empty())
        })?;
        if let Some(cut) = found.get(..TEXT_MAX) {
            found = cut;
        }
        Some(found.to_vec())
    };
    (value(b"LIGHTHOUSE_AGENT"), value(b"LIGHTHOUSE_SESSION"))
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
        let known = look_up(&proc, actor.clone(), program).unwrap();
        assert_eq!(known.cmdline, b"sh\0-c\0echo $$; read _\0");
        assert_eq!(known.agent, b"builder-7");
        assert_eq!(known.session, b"s1");
        let before = look_up(&proc, actor, [1, 2, 3]).unwrap();
        assert_eq!(before.cmdline, b"", "of another program in the same process");
        assert_eq!(before.agent, b"builder-7");
        let other = Actor { pid, start_time: start_time + 1, ..Actor::default() };
        assert_eq!(look_up(&proc, other, program), None, "a reused number is somebody else");
        // At the end of its input it ends.
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn of_a_token_what_is_secret_is_left_out() {
        let token = b"0123456789abcdef:builder:1795489119.5:c0de".to_vec();
        let agent = Some(b"builder".to_vec());
        assert_eq!(without_secret(token), (b"0123456789abcdef".to_vec(), agent));
        assert_eq!(without_secret(b"session 1".to_vec()), (b"session 1".to_vec(), None));
    }

    #[test]
    fn a_variable_that_only_begins_like_ours_names_nobody() {
        assert_eq!(
            named_in(b"LIGHTHOUSE_AGENTS=x\0XLIGHTHOUSE_AGENT=y\0LIGHTHOUSE_AGENT=\0"),
            (None, None)
        );
        assert_eq!(named_in(b"A=1\0LIGHTHOUSE_AGENT=a=b\0").0.as_deref(), Some(&b"a=b"[..]));
    }

    /// As many as there are in `all` at once, each in a thread of its own.
    fn at_once<T: Send + 'static>(
        readers: &'static Readers,
        all: usize,
        read: impl Fn(usize) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<Result<Option<T>, TooSlow>> {
        let ask = |number| {
            let read = read.clone();
            thread::spawn(move || readers.apart(move |_| read(number)))
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
        assert_eq!(readers.apart(|_| Some(())), Err(TooSlow));
        assert!(started.elapsed() < DEADLINE / 2, "it is refused at once");
        drop(shut);
        let started = Instant::now();
        while readers.apart(|_| Some(())) != Ok(Some(())) {
            assert!(started.elapsed() < Duration::from_secs(20), "they never return");
            thread::sleep(Duration::from_millis(2));
        }
    }
}
