//! Processes that were registered as an agent's while we run, and what they start.
//!
//! ```text
//!  a process writes NAME into `.agent` of the mount   --claim-->  Register  <--register--  HTTP: a session names a process
//!                                                                    |
//!  a request comes: is its process, or an ancestor of it, in here? --+--> its agent and session; the nearest counts
//! ```
//!
//! What the environment says a process chooses itself, and whoever may not read it cannot know. A registration is known
//! here, holds for all that the process starts, and needs nothing of them but who their parents are, which everybody may
//! see. So it counts more than the environment, and less than a cgroup, which no process leaves by itself: one whose
//! parent has ended belongs to the process that adopted it, and to no registered one any more.
//!
//! A process is its number *and* when it started. It is held by a pidfd, so that a number which comes to name another
//! process is never taken for the one that was meant. A registration ends with the process, with the session it was
//! made in, or when it is taken back.
//!
//! By name alone a process registers itself, once: neither it nor what it starts becomes another agent so. Whoever shows a
//! session's token speaks for the session, and may.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::guard::Sessions;
use super::proc::{Incarnation, Proc, StatFile, Unsure};

/// Most processes that are registered at a time; each has a descriptor open.
pub const REGISTERED_MAX: usize = 256;
/// Longest name of an agent or session that a process gives itself, in bytes.
pub const NAME_MAX: usize = 256;
/// Longest token.
const TOKEN_MAX: usize = 1024;
/// How far up the parents a registered one is looked for.
const ANCESTORS_MAX: usize = 256;
/// How often that is begun again where parents end meanwhile.
const TRIES: usize = 4;
/// A session that was there is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A process as somebody may name it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Its number, in our pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// Its real user.
    pub uid: u32,
    /// Its name, as the kernel keeps it.
    pub name: String,
}

/// Whom a process is to work for.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Claim {
    /// The agent.
    pub agent: Vec<u8>,
    /// The name of its session, which is no secret; empty if there is none.
    pub session: Vec<u8>,
    /// The session's token, where there is one to ask for again.
    pub token: Option<String>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token is a secret.
        f.debug_struct("Claim").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// Why a process was not registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unregistered {
    /// There is no such process, as far as we can see (`ESRCH`).
    NoSuchProcess,
    /// It started at another time: the number has come to name another process, or is one of another pid namespace.
    Another,
    /// It, or an ancestor, is registered, and by name alone nobody becomes another agent (`EPERM`).
    Already,
    /// There is no such session (`EACCES`).
    NoSession,
    /// This is neither a name, nor a name and a session's, nor a token (`EINVAL`).
    Malformed,
    /// There are [`REGISTERED_MAX`], or no more descriptors (`ENOSPC`).
    TooMany,
}

impl fmt::Display for Unregistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchProcess => {
                "there is no such process that this server can see; in a container it sees others with `pid: host`"
            }
            Self::Another => {
                "the process of this number started at another time: it is not the one that is meant"
            }
            Self::Already => "it is registered already",
            Self::NoSession => "there is no such session, or it is over",
            Self::Malformed => "an agent's name, and the name of a session if there is one, or a session's token",
            Self::TooMany => "too many processes are registered",
        })
    }
}

/// What ends with a process.
enum Life {
    /// Becomes readable when its last thread ends (Linux 5.3).
    Pidfd(OwnedFd),
    /// Where pidfds are not to be had, as in containers of old: cannot be read once it was waited for.
    Stat(StatFile),
}

impl Life {
    fn of(proc: &Proc, pid: u32) -> Result<Self, Unregistered> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let opened = number.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Ok(pidfd) => Ok(Self::Pidfd(pidfd)),
            Err(Errno::NOSYS | Errno::PERM) => {
                proc.stat_file(pid).map(Self::Stat).ok_or(Unregistered::NoSuchProcess)
            }
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Err(Unregistered::TooMany),
            Err(_) => Err(Unregistered::NoSuchProcess),
        }
    }

    fn lasts(&self) -> bool {
        match self {
            Self::Pidfd(pidfd) => {
                let mut waiting = [PollFd::new(pidfd, PollFlags::IN)];
                matches!(poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
            }
            Self::Stat(stat) => stat.read().is_some(),
        }
    }
}

/// A process that is registered, and as what.
pub(super) struct Registered {
    process: Process,
    claim: Claim,
    life: Life,
    taken_back: AtomicBool,
    began: Instant,
    /// When the session was asked for last, in milliseconds from then on.
    asked_ms: AtomicU64,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, claim, .. } = self;
        let mut shown = f.debug_struct("Registered");
        shown.field("process", process).field("claim", claim).finish_non_exhaustive()
    }
}

impl Registered {
    /// The agent, and what of the session may be recorded.
    pub(super) fn recorded(&self) -> (Vec<u8>, Vec<u8>) {
        (self.claim.agent.clone(), self.claim.session.clone())
    }

    /// What shows the session to who can look it up: its token, else its name.
    pub(super) fn shown(&self) -> Vec<u8> {
        match &self.claim.token {
            Some(token) => token.clone().into_bytes(),
            None => self.claim.session.clone(),
        }
    }
}

/// All that are registered.
pub struct Register {
    proc: Option<Proc>,
    sessions: Option<Sessions>,
    registered: Mutex<Vec<Arc<Registered>>>,
    /// How many there are, to see without the lock that there are none.
    count: AtomicUsize,
    /// Grows with each, for one may stand for processes that were seen before.
    generation: AtomicU64,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").field("registered", &self.registered).finish_non_exhaustive()
    }
}

impl Register {
    /// Nobody yet. With `sessions` tokens are looked up, and a registration made with one ends when the session does;
    /// without, what a process says is its session is taken for one.
    #[must_use]
    pub fn new(sessions: Option<Sessions>) -> Self {
        Self {
            proc: Proc::open(),
            sessions,
            registered: Mutex::default(),
            count: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// The process of number `pid`, which may be any of its threads.
    ///
    /// # Errors
    ///
    /// [`Unregistered::NoSuchProcess`].
    pub fn look(&self, pid: u32) -> Result<Process, Unregistered> {
        let look = || {
            let proc = self.proc.as_ref()?;
            let pid = proc.thread_group(pid)?;
            let stat = proc.stat_file(pid)?;
            let now = stat.read()?;
            let uid = proc.real_user(pid)?;
            // Through the open file: what was read in between was this process's.
            let still = stat.read()?;
            let same = still.start_time() == now.start_time();
            same.then(|| Process { pid, start_time: now.start_time(), uid, name: now.name() })
        };
        look().ok_or(Unregistered::NoSuchProcess)
    }

    /// From now on `process`, and what it starts, works for `claim`; it replaces what the process was registered as.
    ///
    /// # Errors
    ///
    /// [`Unregistered::NoSuchProcess`], [`Unregistered::Another`], [`Unregistered::TooMany`].
    pub fn register(&self, process: &Process, claim: Claim) -> Result<(), Unregistered> {
        self.add(process, claim).map(drop)
    }

    fn add(&self, process: &Process, claim: Claim) -> Result<Arc<Registered>, Unregistered> {
        let proc = self.proc.as_ref().ok_or(Unregistered::NoSuchProcess)?;
        let life = Life::of(proc, process.pid)?;
        let registered = Registered {
            process: process.clone(),
            claim,
            life,
            taken_back: AtomicBool::new(false),
            began: Instant::now(),
            asked_ms: AtomicU64::new(0),
        };
        // The process that is held now is the one that is meant, if it started when that did and runs still.
        let now = self.look(process.pid)?;
        if now.start_time != process.start_time {
            return Err(Unregistered::Another);
        }
        if !registered.life.lasts() {
            return Err(Unregistered::NoSuchProcess);
        }
        let mut all = self.registered.lock();
        all.retain(|other| self.holds(other) && !other.is(process.pid, process.start_time));
        if all.len() >= REGISTERED_MAX {
            return Err(Unregistered::TooMany);
        }
        let registered = Arc::new(registered);
        all.push(Arc::clone(&registered));
        self.count.store(all.len(), Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(registered)
    }

    /// Registers the process of thread `tid`, which asks for it, as what `text` says: an agent's name; that and the name of a
    /// session; or a session's token.
    pub(super) fn claim(&self, tid: u32, text: &[u8]) -> Result<Arc<Registered>, Unregistered> {
        let claim = self.understand(text)?;
        let process = self.look(tid)?;
        if claim.token.is_none() {
            let found = self.find(process.pid, process.start_time);
            if found.map_err(|Unsure| Unregistered::TooMany)?.is_some() {
                return Err(Unregistered::Already);
            }
        }
        self.add(&process, claim)
    }

    fn understand(&self, text: &[u8]) -> Result<Claim, Unregistered> {
        let text = text.trim_ascii();
        let printable = |name: &[u8]| !name.iter().any(|byte| byte.is_ascii_control());
        if let Some((session, agent)) = parts_of_token(text) {
            let token = std::str::from_utf8(text).ok().filter(|token| token.len() <= TOKEN_MAX);
            let token = token.filter(|token| printable(token.as_bytes()));
            let token = token.ok_or(Unregistered::Malformed)?;
            let (session, agent) = (session.to_vec(), agent.to_vec());
            return match &self.sessions {
                None => Ok(Claim { agent, session, token: None }),
                Some(sessions) => {
                    let agent = sessions(token).ok_or(Unregistered::NoSession)?.into_bytes();
                    Ok(Claim { agent, session, token: Some(token.to_owned()) })
                }
            };
        }
        let mut words = text.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let (agent, session, more) = (words.next(), words.next(), words.next());
        let name = |word: Option<&[u8]>| {
            let word = word.unwrap_or_default();
            (word.len() <= NAME_MAX && printable(word)).then(|| word.to_vec())
        };
        match (name(agent), name(session), more) {
            (Some(agent), Some(session), None) if !agent.is_empty() => {
                Ok(Claim { agent, session, token: None })
            }
            _ => Err(Unregistered::Malformed),
        }
    }

    /// Takes back what the process `pid` is registered as in `session`. Whether it was.
    pub fn take_back(&self, pid: u32, session: &[u8]) -> bool {
        let mut all = self.registered.lock();
        let before = all.len();
        all.retain(|other| {
            let meant = other.process.pid == pid && other.claim.session == session;
            other.taken_back.fetch_or(meant, Ordering::Relaxed);
            !meant
        });
        self.count.store(all.len(), Ordering::Release);
        all.len() < before
    }

    /// The processes that are registered in `session`, by number.
    #[must_use]
    pub fn of_session(&self, session: &[u8]) -> Vec<Process> {
        let all = self.registered.lock().clone();
        let own = all.iter().filter(|one| one.claim.session == session && self.holds(one));
        let mut own: Vec<Process> = own.map(|one| one.process.clone()).collect();
        own.sort_unstable_by_key(|process| process.pid);
        own
    }

    /// Changes where a process that was looked up before may be another's now.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it is still to be counted.
    pub(super) fn holds(&self, registered: &Registered) -> bool {
        !registered.taken_back.load(Ordering::Relaxed)
            && registered.life.lasts()
            && self.session_lasts(registered)
    }

    /// Who works uses the session. It is asked for once a second at most.
    fn session_lasts(&self, registered: &Registered) -> bool {
        let (Some(token), Some(sessions)) = (&registered.claim.token, &self.sessions) else {
            return true;
        };
        let elapsed = registered.began.elapsed();
        let last = Duration::from_millis(registered.asked_ms.load(Ordering::Relaxed));
        if elapsed.saturating_sub(last) < ASK_AGAIN {
            return true;
        }
        let lasts = sessions(token).is_some();
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        registered.asked_ms.store(now, Ordering::Relaxed);
        registered.taken_back.fetch_or(!lasts, Ordering::Relaxed);
        lasts
    }

    /// What the process `pid` that started at `start_time` is registered as, else its nearest ancestor that is. Reads
    /// only what waits for nobody.
    pub(super) fn find(
        &self,
        pid: u32,
        start_time: u64,
    ) -> Result<Option<Arc<Registered>>, Unsure> {
        let Some(proc) = &self.proc else { return Ok(None) };
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        for _ in 0..TRIES {
            match self.find_once(proc, pid, start_time)? {
                Walk::Found(registered) => return Ok(Some(registered)),
                Walk::None => return Ok(None),
                Walk::Changed => (),
            }
        }
        Ok(None)
    }

    fn find_once(&self, proc: &Proc, pid: u32, start_time: u64) -> Result<Walk, Unsure> {
        // All held open: one that ended meanwhile shows, even where its number names another by then.
        let mut line: Vec<(StatFile, Incarnation)> = Vec::new();
        let mut next = pid;
        while next != 0 && line.len() < ANCESTORS_MAX {
            let stat = proc.stat_shown(next)?;
            let seen = stat.and_then(|stat| stat.read().map(|now| (stat, now)));
            let Some((stat, now)) = seen else {
                return Ok(if line.is_empty() { Walk::None } else { Walk::Changed });
            };
            if line.is_empty() && now.start_time() != start_time {
                return Ok(Walk::None);
            }
            let (own, started) = (next, now.start_time());
            next = now.parent();
            line.push((stat, now));
            let registered =
                self.registered.lock().iter().find(|one| one.is(own, started)).cloned();
            if let Some(registered) = registered.filter(|one| self.holds(one)) {
                let same = |(stat, then): &(StatFile, Incarnation)| {
                    stat.read().is_some_and(|now| now.parent() == then.parent())
                };
                let still = line.iter().all(same);
                return Ok(if still { Walk::Found(registered) } else { Walk::Changed });
            }
        }
        Ok(Walk::None)
    }
}

impl Registered {
    fn is(&self, pid: u32, start_time: u64) -> bool {
        self.process.pid == pid && self.process.start_time == start_time
    }
}

enum Walk {
    Found(Arc<Registered>),
    None,
    /// Somebody on the way ended.
    Changed,
}

/// Id and agent in a session's token, `ID:AGENT:TIME:CODE`.
pub(super) fn parts_of_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = text.split(|&byte| byte == b':');
    let (id, agent) = (parts.next()?, parts.next()?);
    (parts.count() == 2).then_some((id, agent))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that does `script`, and the number it prints.
    fn start(script: &str) -> (Child, u32) {
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        (child, line.trim().parse().unwrap())
    }

    fn end(mut child: Child) {
        let _ = child.kill();
        let _ = child.wait();
    }

    /// What process `pid` is known as.
    fn known(register: &Register, pid: u32) -> Option<Vec<u8>> {
        let process = register.look(pid).unwrap();
        let found = register.find(process.pid, process.start_time).unwrap()?;
        Some(found.recorded().0)
    }

    fn named(agent: &str, session: &str) -> Claim {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Claim { agent: bytes(agent), session: bytes(session), token: None }
    }

    #[test]
    fn the_nearest_that_is_registered_speaks_for_what_it_starts_and_for_nobody_else() {
        let register = Register::new(None);
        let (parent, child) = start("sleep 60 & echo $!; wait");
        let (sibling, _) = start("echo 0; exec sleep 60");
        let process = register.look(parent.id()).unwrap();
        assert_eq!(
            (process.uid, process.name.as_str()),
            (rustix::process::getuid().as_raw(), "sh")
        );
        let before = register.generation();
        register.register(&process, named("builder", "s1")).unwrap();
        assert_ne!(register.generation(), before, "who was looked up before is another's now");
        for pid in [parent.id(), child] {
            assert_eq!(known(&register, pid).as_deref(), Some(&b"builder"[..]));
        }
        assert_eq!(known(&register, sibling.id()), None);
        register.register(&register.look(child).unwrap(), named("worker", "s2")).unwrap();
        assert_eq!(known(&register, child).as_deref(), Some(&b"worker"[..]));
        assert_eq!(known(&register, parent.id()).as_deref(), Some(&b"builder"[..]));
        assert_eq!(register.of_session(b"s1"), [process]);
        // Taken back, the next above counts.
        assert!(!register.take_back(child, b"s1"));
        assert!(register.take_back(child, b"s2") && !register.take_back(child, b"s2"));
        assert_eq!(known(&register, child).as_deref(), Some(&b"builder"[..]));
        end(parent);
        assert_eq!(known(&register, child), None, "its parent has ended, and spoke for it");
        let _ = Command::new("kill").arg(child.to_string()).status();
        end(sibling);
    }

    #[test]
    fn a_number_that_names_another_process_by_now_is_not_the_one_that_was_meant() {
        let register = Register::new(None);
        let (child, _) = start("echo 0; exec sleep 60");
        let process = register.look(child.id()).unwrap();
        let other = Process { start_time: process.start_time + 1, ..process.clone() };
        assert_eq!(register.register(&other, named("a", "")), Err(Unregistered::Another));
        register.register(&process, named("a", "")).unwrap();
        assert!(register.find(process.pid, process.start_time).unwrap().is_some());
        assert!(register.find(process.pid, process.start_time + 1).unwrap().is_none());
        end(child);
        assert!(register.find(process.pid, process.start_time).unwrap().is_none());
        assert_eq!(register.register(&process, named("a", "")), Err(Unregistered::NoSuchProcess));
        for none in [0, u32::MAX, i32::MAX.unsigned_abs()] {
            assert_eq!(register.look(none), Err(Unregistered::NoSuchProcess));
        }
    }

    #[test]
    fn the_end_of_a_process_shows_with_pidfds_and_without() {
        let proc = Proc::open().unwrap();
        let (child, _) = start("echo 0; exec sleep 60");
        let lives =
            [Life::of(&proc, child.id()).unwrap(), Life::Stat(proc.stat_file(child.id()).unwrap())];
        assert!(lives.iter().all(Life::lasts));
        end(child);
        assert!(!lives.iter().any(Life::lasts));
    }

    #[test]
    fn by_name_a_process_registers_once_and_with_a_token_as_often_as_it_shows_one() {
        let lookup: Sessions =
            Box::new(|token| token.ends_with(":true").then(|| "agent".to_owned()));
        let register = Register::new(Some(lookup));
        let (parent, child) = start("sleep 60 & echo $!; wait");
        let claim = |pid: u32, text: &str| register.claim(pid, text.as_bytes()).map(drop);
        assert_eq!(claim(0, "a"), Err(Unregistered::NoSuchProcess));
        assert_eq!(claim(parent.id(), "id:x:1:false"), Err(Unregistered::NoSession));
        assert_eq!(claim(parent.id(), " builder  s1\n"), Ok(()));
        assert_eq!(claim(parent.id(), "other"), Err(Unregistered::Already));
        assert_eq!(claim(child, "other"), Err(Unregistered::Already));
        assert_eq!(claim(child, "id:x:1:true\n"), Ok(()));
        let process = register.look(child).unwrap();
        let found = register.find(process.pid, process.start_time).unwrap().unwrap();
        assert_eq!(found.recorded(), (b"agent".to_vec(), b"id".to_vec()), "as the session says");
        assert_eq!(found.shown(), b"id:x:1:true");
        assert!(!format!("{register:?}").contains(":true"), "a token is a secret");
        let _ = Command::new("kill").arg(child.to_string()).status();
        end(parent);
    }

    #[test]
    fn what_is_registered_in_a_session_ends_with_it() {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let lookup: Sessions =
            Box::new(move |_| (!asked.load(Ordering::Relaxed)).then(|| "agent".to_owned()));
        let register = Register::new(Some(lookup));
        let (child, _) = start("echo 0; exec sleep 60");
        register.claim(child.id(), b"id:agent:1:code").unwrap();
        over.store(true, Ordering::Relaxed);
        let started = Instant::now();
        while known(&register, child.id()).is_some() {
            assert!(started.elapsed() < Duration::from_secs(30), "it outlives its session");
            std::thread::sleep(Duration::from_millis(20));
        }
        // A session that comes again is another one.
        over.store(false, Ordering::Relaxed);
        assert_eq!(known(&register, child.id()), None);
        end(child);
    }

    #[test]
    fn what_is_no_name_is_not_understood() {
        let register = Register::new(None);
        let long = "x".repeat(NAME_MAX + 1);
        let token = format!("{}:agent:1:code", "x".repeat(TOKEN_MAX));
        for text in ["", " \n", "a b c", "a\nb", "a \u{7f}", &long, &format!("a {long}"), &token] {
            assert_eq!(
                register.understand(text.as_bytes()),
                Err(Unregistered::Malformed),
                "{text:?}"
            );
        }
        assert_eq!(register.understand(b"a b\n"), Ok(named("a", "b")));
        assert_eq!(register.understand(b"id:agent:1:code"), Ok(named("agent", "id")));
        assert_eq!(register.understand("\u{e9}".as_bytes()), Ok(named("\u{e9}", "")));
    }
}
