//! Who is calling: from the thread id in a request to an actor of the log.
//!
//! ```text
//! request (uid, gid, tid) --> Agents::actor --> ActorId        on the reader's thread, does not block
//!                                  |    proc.rs: who is it?  register.rs: is it, or an ancestor, registered?
//!                                  |
//!                                  +--> late.rs: command line; environ.rs: its own and its ancestors';
//!                                       readers.rs: on threads of their own
//! ```
//!
//! A reader thread looks only at what the kernel shows without the caller's `mmap_lock`: `stat`,
//! `status`, `exe` and `cgroup` below `/proc/PID`. `cmdline` and `environ` take that lock, and a
//! caller that waits for our WRITE in `munmap` holds it: a handler that read them would wait for
//! itself (seen on Linux 6.18). So others read them, and the actor's record in the log grows. They begin at once, and a
//! request waits for them for 2 ms at most: a command that changes one thing is over when it has its answer.
//!
//! Whether a caller is still the same program is asked with every change, and must be cheap: its memory
//! tells (0.4 us here, where `stat` takes 4.6) for a millisecond at a time, see `proc::Evidence`. So must be to look at one that
//! was not seen before, for a shell starts a process for each command, and a compiler a thread for each unit: a thread is known by
//! its process, and nothing is read of another that is not needed at once. Who is new is noted down once, with all that was
//! read of it in time: a script in sh makes the log grow by 0.84 of what it did with a second note for the command line.
//!
//! | two CPUs, medians of 11 to 15 rounds in turn | before | now | if nobody is looked at |
//! |---|--:|--:|--:|
//! | `cp` of a small file, by a shell 14 processes below the first | 1.42 ms | 1.30 ms | 1.14 ms |
//! | a file made by a thread that is new | 128 to 172 us | 72 to 78 us | 57 to 62 us |
//!
//! A process that takes another program is another actor, also where the two look the same but for their command lines (an
//! interpreter that goes on with another script): where a program's code and stack lie tells them apart, and whether
//! its memory is still used. A command line counts only if it was read while that was so: of a process that takes another
//! program at once, such as a shell's child that opens what it redirects to, none is recorded for the first. Where the kernel keeps
//! all of that from us, such programs are one actor.
//!
//! Where a [`Guard`] decides who may, a handler asks first and waits for those threads, half a second at most. It does
//! so for what opens a file or changes names and attributes, never for a READ or WRITE: those may come while the caller, or
//! the kernel for it, holds that lock.
//!
//! Where processes are registered ([`Register`]), the parents of a caller are followed to the nearest that is: `stat` tells
//! them. Then the environment is not asked. Each caller is looked up anew once another process was registered.
//!
//! Where a policy says who runs in which cgroup, that is read anew for each decision: who was moved to another one stays the
//! same program. It is another actor from then on.
//!
//! What could not be looked at, such as where no descriptor was left, is not remembered.
//!
//! What cannot be known is left empty: pid 0 is a process of a pid namespace we do not see, or the
//! kernel itself, or any where numbers are another namespace's ([`Agents::without_processes`]); pages
//! written back from a mapping have no reliable writer and are `ambiguous`. Nothing is invented.

mod environ;
pub mod guard;
mod late;
pub mod policy;
mod proc;
mod readers;
pub mod register;

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::store::event::{Actor, ActorId};
use crate::store::{CommitError, Store};

use guard::{Guard, Identity};
use late::{Asked, Late};
use proc::{Evidence, Places, Proc};
use readers::READERS;
use register::{Register, Registered, Unregistered};

/// Callers remembered at once, each with one or two descriptors open; the least recently seen half goes first.
const KNOWN_MAX: usize = 128;

/// Processes that a new thread may be one of: more are not looked at.
const KIN_MAX: usize = 4;

/// Actors of whom it is remembered which program they are.
const PROGRAMS_MAX: usize = 4096;

/// Finds out who is behind a request, once per process and program.
#[derive(Debug)]
pub struct Agents {
    store: Arc<Store>,
    proc: Option<Proc>,
    known: Mutex<Known>,
    late: Late,
    guard: Option<Arc<Guard>>,
    register: Arc<Register>,
    /// Whether the numbers in requests name processes here.
    sees_processes: bool,
}

#[derive(Debug, Default)]
struct Known {
    callers: FxHashMap<Caller, Seen>,
    programs: FxHashMap<ActorId, Places>,
    tick: u64,
}

/// What a request says of its caller.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Caller {
    uid: u32,
    gid: u32,
    tid: u32,
    ambiguous: bool,
}

/// A caller of whom nothing is known that still holds.
#[derive(Clone, Copy, Debug)]
struct Stranger {
    caller: Caller,
    /// The generation of the register, before anything was looked at.
    generation: u64,
    tick: u64,
    /// Who it was, if that program is known to be no more.
    over: Option<ActorId>,
}

/// What was found out of one.
#[derive(Debug)]
struct Found {
    actor: Actor,
    /// Its program, if that shows, and the rest that there is to know, if that is being read.
    program: Option<(Places, Option<Asked>)>,
    evidence: Option<Evidence>,
    registered: Option<Arc<Registered>>,
    sure: bool,
}

/// One who is known.
#[derive(Debug)]
struct Seen {
    id: ActorId,
    /// Who it is, where the log took no note of it: it takes none while it can only be read.
    unrecorded: Option<Arc<Actor>>,
    /// `None` where there was nothing to look at: then the caller is known by its numbers alone.
    evidence: Option<Evidence>,
    /// Whether all could be looked at that there is to see.
    sure: bool,
    /// Its process, and the cgroup that was in.
    place: (u32, Vec<u8>),
    tick: u64,
    /// What it was registered as, itself or by an ancestor, when it was looked up.
    registered: Option<Arc<Registered>>,
    /// The generation of the register then.
    generation: u64,
    /// What it says of itself, once somebody asked.
    identity: Option<Identity>,
}

impl Agents {
    /// Looks callers up for `store`. Without a readable `/proc` only their numbers are recorded.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        let late = Late::new(&store);
        let register = Arc::new(Register::new(None));
        let (proc, known) = (Proc::open(), Mutex::default());
        Self { store, proc, known, late, guard: None, register, sees_processes: true }
    }

    /// As [`Agents::new`], and `guard` decides who may.
    #[must_use]
    pub fn guarded(store: Arc<Store>, guard: Arc<Guard>) -> Self {
        Self { guard: Some(guard), ..Self::new(store) }
    }

    /// The same, and whoever is in `register` is known by that.
    #[must_use]
    pub fn registered(self, register: Arc<Register>) -> Self {
        Self { register, ..self }
    }

    /// The same, where the numbers in requests are those of another pid namespace, and name other processes
    /// here: all are unknown. Users and groups are what they are.
    #[must_use]
    pub fn without_processes(self) -> Self {
        Self { sees_processes: false, ..self }
    }

    /// The number `pid` of a request, if it is one here; else 0.
    const fn here(&self, pid: u32) -> u32 {
        if self.sees_processes { pid } else { 0 }
    }

    /// Registers the process behind a request as what it says, for all that it and its descendants do from now on.
    pub(crate) fn claim(&self, uid: u32, pid: u32, text: &[u8]) -> Result<(), Unregistered> {
        let claimed = self.register.claim(self.here(pid), text);
        match &claimed {
            Ok(process) => {
                let (agent, session) = process.recorded();
                let (agent, session) =
                    (String::from_utf8_lossy(&agent), String::from_utf8_lossy(&session));
                tracing::info!(uid, pid, %agent, %session, "registered a process");
            }
            Err(why) => tracing::info!(uid, pid, "did not register a process: {why}"),
        }
        claimed.map(drop)
    }

    /// Whom the log names for what the process behind a request does: agent and session. May wait as
    /// [`Agents::identity`] does.
    pub(crate) fn recorded(&self, uid: u32, gid: u32, pid: u32) -> (Vec<u8>, Vec<u8>) {
        let Identity { agent, session, .. } = self.identity(uid, gid, pid);
        environ::recorded((Some(agent).filter(|agent| !agent.is_empty()), Some(session)))
    }

    /// Who decides, if anybody does.
    pub(crate) fn guard(&self) -> Option<&Guard> {
        self.guard.as_deref()
    }

    /// What the process behind a request says of itself; nothing where it cannot be seen, or not in time. May wait,
    /// half a second at most.
    pub(crate) fn identity(&self, uid: u32, gid: u32, pid: u32) -> Identity {
        let caller = Caller { uid, gid, tid: self.here(pid), ambiguous: false };
        self.forget_moved(caller);
        let (id, unrecorded, identity) =
            self.seen(caller, |seen| (seen.id, seen.unrecorded.clone(), seen.identity.clone()));
        if let Some(identity) = identity {
            return identity;
        }
        let actor = match &unrecorded {
            Some(actor) => Some(Actor::clone(actor)),
            None => self.store.actor_of(id),
        };
        let Some(actor) = actor.filter(|actor| actor.pid != 0) else {
            return Identity::default();
        };
        let cgroup = actor.cgroup.clone();
        // What is not known now, or not in time, is asked again the next time.
        let Ok(registered) = self.register.find(actor.pid, actor.start_time) else {
            return Identity { cgroup, ..Identity::default() };
        };
        if let Some(registered) = registered {
            let (agent, _) = registered.recorded();
            return Identity { agent, session: registered.shown(), cgroup };
        }
        let Some((agent, session)) = late::ask(&actor) else {
            return Identity { cgroup, ..Identity::default() };
        };
        let (agent, session) = (agent.unwrap_or_default(), session.unwrap_or_default());
        let identity = Identity { agent, session, cgroup };
        let mut known = self.known.lock();
        if let Some(seen) = known.callers.get_mut(&caller)
            && seen.is_still(id, unrecorded.as_ref())
            && seen.evidence.is_some()
        {
            seen.identity = Some(identity.clone());
        }
        identity
    }

    /// The actor behind a request of thread `pid` (as the kernel gives it) acting as `uid` and
    /// `gid`; `write_cache` where the request carries `FUSE_WRITE_CACHE`. [`ActorId`] 0 where even
    /// recording it failed: that must never decide whether something can be done.
    #[must_use]
    pub fn actor(&self, uid: u32, gid: u32, pid: u32, write_cache: bool) -> ActorId {
        let tid = self.here(pid);
        self.seen(Caller { uid, gid, tid, ambiguous: write_cache }, |seen| seen.id)
    }

    /// What `take` takes of what is known of `caller`, who is looked up where it may be another one by now.
    fn seen<T>(&self, caller: Caller, take: impl FnOnce(&Seen) -> T) -> T {
        let mut known = self.known.lock();
        known.tick += 1;
        let tick = known.tick;
        let generation = self.register.generation();
        if let Some(seen) = known.callers.get_mut(&caller)
            && seen.generation == generation
            && seen.registered.as_ref().is_none_or(|registered| self.register.holds(registered))
            && self.still_shows(seen)
        {
            seen.tick = tick;
            return take(seen);
        }
        let over = known.callers.get(&caller).and_then(|seen| {
            seen.evidence.as_ref().is_some_and(Evidence::is_over).then_some(seen.id)
        });
        drop(known);
        let seen = self.look_up(Stranger { caller, generation, tick, over });
        let taken = take(&seen);
        let mut known = self.known.lock();
        if !seen.sure {
            known.callers.remove(&caller);
            return taken;
        }
        if known.callers.len() >= KNOWN_MAX {
            // It takes long to close a hundred files of `/proc`.
            let older = known.take_older_half();
            READERS.ask(|_| drop(older));
        }
        known.callers.insert(caller, seen);
        taken
    }

    /// Whether what was looked at shows the same program still.
    fn still_shows(&self, seen: &mut Seen) -> bool {
        let holds =
            |evidence: &mut Evidence| self.proc.as_ref().is_some_and(|proc| evidence.holds(proc));
        seen.evidence.as_mut().is_none_or(holds)
    }

    /// Forgets who was moved to another cgroup since, where the policy goes by that: nothing else tells.
    fn forget_moved(&self, caller: Caller) {
        let by_cgroup = self.guard.as_ref().is_some_and(|guard| guard.names_cgroups());
        let Some(proc) = self.proc.as_ref().filter(|_| by_cgroup) else { return };
        let place = self.known.lock().callers.get(&caller).map(|seen| seen.place.clone());
        let Some((pid @ 1.., cgroup)) = place else { return };
        if proc.cgroup(pid).as_ref() != Ok(&cgroup) {
            self.known.lock().callers.retain(|_, seen| seen.place.0 != pid);
        }
    }

    /// The name of thread `tid`, as the kernel keeps it; empty if there is none. Waits for nobody.
    #[must_use]
    pub fn name_of(&self, tid: u32) -> String {
        let tid = self.here(tid);
        let name = self.proc.as_ref().filter(|_| tid != 0).and_then(|proc| proc.read(tid, "comm"));
        String::from_utf8_lossy(&name.unwrap_or_default()).trim_end_matches('\n').to_owned()
    }

    /// Who it is: one of a process that is known, or one who is looked at.
    fn look_up(&self, stranger: Stranger) -> Seen {
        let Some(proc) = self.proc.as_ref().filter(|_| stranger.caller.tid != 0) else {
            return self.note(stranger, Found::of(stranger.caller));
        };
        let is_process = proc.is_process(stranger.caller.tid);
        let kin = (is_process == Some(false)).then(|| self.by_kin(proc, stranger));
        kin.flatten()
            .unwrap_or_else(|| self.note(stranger, self.look_at(proc, stranger.caller, is_process)))
    }

    /// A thread that is new, of a process of which another is known: what holds for that one. It takes two files to see that,
    /// and a dozen to look up one of whom nothing is known.
    fn by_kin(&self, proc: &Proc, stranger: Stranger) -> Option<Seen> {
        let Stranger { caller, generation, tick, .. } = stranger;
        let known = self.known.lock();
        known.last_of_processes(caller, generation).into_iter().find_map(|kin| {
            let thread = proc.thread(kin.place.0, caller.tid)?;
            let holds = |registered| self.register.holds(registered);
            kin.registered.as_deref().is_none_or(holds).then_some(())?;
            let evidence = Some(kin.evidence.as_ref()?.of_thread(thread)?);
            let (place, identity) = (kin.place.clone(), kin.identity.clone());
            let (unrecorded, registered) = (kin.unrecorded.clone(), kin.registered.clone());
            let Seen { id, sure, .. } = *kin;
            Some(Seen {
                id,
                unrecorded,
                evidence,
                sure,
                place,
                tick,
                registered,
                generation,
                identity,
            })
        })
    }

    /// Looks at all there is to see of `caller`. `is_process`: whether it is that rather than another thread of one, as far as
    /// known.
    fn look_at(&self, proc: &Proc, caller: Caller, is_process: Option<bool>) -> Found {
        let mut found = Found::of(caller);
        let memory = proc.memory(caller.tid);
        let Ok(stat) = proc.stat_shown(caller.tid) else {
            return Found { sure: false, ..found };
        };
        let Some((stat, now)) = stat.and_then(|stat| stat.read().map(|now| (stat, now))) else {
            return found;
        };
        // At once, so that it is read while the rest is: a command may be over as soon as it has its answer.
        let begun = (is_process == Some(true))
            .then(|| self.late.begin(caller.tid, (stat.clone(), now.clone())))
            .flatten();
        let (places, actor) = (now.places(), &mut found.actor);
        let (described, seen) = proc.describe(caller.tid, is_process, (stat, now), actor);
        let registered = self.register.find(actor.pid, actor.start_time);
        found.sure = described.is_ok() && registered.is_ok();
        found.registered = registered.unwrap_or_default();
        if let Some(registered) = &found.registered {
            (actor.agent, actor.session) = registered.recorded();
        }
        let begin = || self.late.begin(actor.pid, seen.of_process(caller.tid)?.clone());
        found.program = Some((places, begun.or_else(begin)));
        found.evidence = Some(proc.evidence(caller.tid, memory, seen));
        found
    }

    /// Takes note of who `stranger` is, in the log where that can be.
    fn note(&self, stranger: Stranger, found: Found) -> Seen {
        let Found { actor, program, evidence, registered, sure } = found;
        let place = (actor.pid, actor.cgroup.clone());
        let (id, unrecorded) = match self.number(stranger, &actor, program.as_ref()) {
            Ok(id) => {
                if let Some((places, asked)) = program {
                    self.known.lock().remember(id, places);
                    if let Some(asked) = asked {
                        asked.leave(id, actor, places);
                    }
                }
                (id, None)
            }
            Err(_) => (ActorId::default(), Some(Arc::new(actor))),
        };
        let Stranger { generation, tick, .. } = stranger;
        let identity = None;
        Seen { id, unrecorded, evidence, sure, place, tick, registered, generation, identity }
    }

    /// The number that `stranger` has in the log, who is `actor` there. Who has none yet gets it with all that was read of it in
    /// time.
    fn number(
        &self,
        stranger: Stranger,
        actor: &Actor,
        program: Option<&(Places, Option<Asked>)>,
    ) -> Result<ActorId, CommitError> {
        let known = self.store.number_of(actor);
        let is_another = known.zip(program).is_some_and(|(id, (places, _))| {
            stranger.over == Some(id) || self.known.lock().is_another(id, *places)
        });
        if let Some(known) = known.filter(|_| !is_another) {
            return Ok(known);
        }
        let mut told = actor.clone();
        if let Some((places, Some(asked))) = program {
            asked.fill_in(&mut told, *places);
        }
        match is_another {
            true => self.store.actor_anew(actor, told),
            false => self.store.actor_told(actor, told),
        }
    }
}

impl Found {
    /// Nothing but what the request says.
    fn of(Caller { uid, gid, ambiguous, .. }: Caller) -> Self {
        let actor = Actor { uid, gid, ambiguous, ..Actor::default() };
        Self { actor, program: None, evidence: None, registered: None, sure: true }
    }
}

impl Seen {
    /// Whether this is about the one that had this number, or none and was noted down here.
    fn is_still(&self, id: ActorId, unrecorded: Option<&Arc<Actor>>) -> bool {
        self.id == id && self.unrecorded.as_ref().map(Arc::as_ptr) == unrecorded.map(Arc::as_ptr)
    }
}

impl Known {
    /// Whether an actor is known to be another program than this.
    fn is_another(&self, id: ActorId, program: Places) -> bool {
        self.programs.get(&id).is_some_and(|known| *known != program)
    }

    fn remember(&mut self, id: ActorId, program: Places) {
        if self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        self.programs.insert(id, program);
    }

    /// Of the processes that act as `caller` does, the last seen thread of each of the last seen.
    fn last_of_processes(&self, caller: Caller, generation: u64) -> Vec<&Seen> {
        let acts_so = |other: &Caller| Caller { tid: caller.tid, ..*other } == caller;
        let known = self.callers.iter().filter(|(other, _)| acts_so(other)).map(|(_, seen)| seen);
        let mut known: Vec<&Seen> =
            known.filter(|seen| seen.generation == generation && seen.place.0 != 0).collect();
        known.sort_unstable_by_key(|seen| std::cmp::Reverse((seen.place.0, seen.tick)));
        known.dedup_by_key(|seen| seen.place.0);
        known.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.tick));
        known.truncate(KIN_MAX);
        known
    }

    fn take_older_half(&mut self) -> Vec<Seen> {
        let mut ticks: Vec<u64> = self.callers.values().map(|seen| seen.tick).collect();
        ticks.sort_unstable();
        let middle = ticks.get(ticks.len() / 2).copied().unwrap_or(0);
        self.callers.extract_if(|_, seen| seen.tick <= middle).map(|(_, seen)| seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::store::{CreateOptions, OpenOptions};

    /// Waits until something is so, and fails after a while.
    fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = is() {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn agents(dir: &tempfile::TempDir) -> Agents {
        let path = dir.path().join("store");
        let store =
            Store::create(&path, &CreateOptions::default(), &OpenOptions::default()).unwrap();
        Agents::new(Arc::new(store))
    }

    #[test]
    fn where_numbers_are_another_namespaces_nobody_is_taken_for_a_process_here() {
        let dir = tempfile::tempdir().unwrap();
        let agents = agents(&dir);
        let own = std::process::id();
        let seen = agents.store.actor_of(agents.actor(1, 2, own, false)).unwrap();
        assert_eq!((seen.uid, seen.gid, seen.pid), (1, 2, own));
        assert!(!agents.name_of(own).is_empty());

        let agents = agents.without_processes();
        let unseen = agents.store.actor_of(agents.actor(1, 2, own, false)).unwrap();
        assert_eq!((unseen.uid, unseen.gid, unseen.pid), (1, 2, 0));
        assert!(unseen.exe.is_empty());
        assert_eq!(agents.name_of(own), "");
        assert_eq!(agents.claim(1, own, b"me"), Err(Unregistered::NoSuchProcess));
        assert_eq!(agents.identity(1, 2, own), Identity::default());
    }

    #[test]
    fn a_process_that_takes_the_same_program_again_is_another_actor() {
        let dir = tempfile::tempdir().unwrap();
        let agents = agents(&dir);
        let mut child = Command::new("sh")
            .args(["-c", "echo; read line; exec sh -c 'echo; read line; true' second"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        // Each says when it runs: while an `exec` is under way, what `/proc` shows of it is part old, part new.
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = || out.next().unwrap().unwrap();
        let words_of = |id| {
            let actor = agents.store.actor_of(id).unwrap();
            Some(actor.cmdline).filter(|cmdline| !cmdline.is_empty())
        };
        said();
        let first = agents.actor(1, 2, pid, false);
        assert_eq!(agents.actor(1, 2, pid, false), first);
        let words = until("it is known by its words", || words_of(first));
        assert!(words.windows(4).any(|word| word == b"exec"), "{words:?}");
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        said();
        // As long as its memory is believed without another look.
        std::thread::sleep(Duration::from_millis(5));
        let second = agents.actor(1, 2, pid, false);
        assert_ne!(second, first);
        let later = until("that is known by its words too", || words_of(second));
        assert!(later.ends_with(b"second\0"), "{later:?}");
        assert_eq!(
            words_of(first),
            Some(words),
            "what the first one did was not done by the second"
        );
        assert_eq!(agents.actor(1, 2, pid, false), second);
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_known_of_one_thread_holds_for_the_others_of_its_process_that_act_as_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let agents = agents(&dir);
        let barrier = std::sync::Barrier::new(3);
        let (told, tids) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (told, barrier) = (told.clone(), &barrier);
                scope.spawn(move || {
                    let tid = rustix::thread::gettid().as_raw_nonzero().get();
                    told.send(u32::try_from(tid).unwrap()).unwrap();
                    barrier.wait();
                });
            }
            let (first, second) = (tids.recv().unwrap(), tids.recv().unwrap());
            let id = agents.actor(1, 2, first, false);
            assert_eq!(agents.store.actor_of(id).unwrap().pid, std::process::id());
            let kin = |uid, tid| {
                let caller = Caller { uid, gid: 2, tid, ambiguous: false };
                let generation = agents.register.generation();
                let stranger = Stranger { caller, generation, tick: 7, over: None };
                agents.by_kin(agents.proc.as_ref()?, stranger).map(|seen| seen.id)
            };
            assert_eq!(kin(1, second), Some(id));
            assert_eq!(agents.actor(1, 2, second, false), id);
            assert_eq!(kin(8, second), None, "as another user it may have other rights");
            let id_of_other = agents.actor(8, 2, second, false);
            assert_ne!(id_of_other, id);
            assert_eq!(kin(8, first), Some(id_of_other));
            // Once something is registered, each is looked up anew.
            let own = agents.register.look(second).unwrap();
            let claim = register::Claim { agent: b"one".to_vec(), ..Default::default() };
            agents.register.register(&own, claim).unwrap();
            assert_eq!(kin(1, second), None);
            assert_eq!(agents.recorded(1, 2, second).0, b"one");
            assert!(kin(1, first).is_some());
            assert_eq!(agents.recorded(1, 2, first).0, b"one");
            // And once that ends.
            assert!(agents.register.take_back(own.pid, b""));
            assert_eq!(kin(1, first), None);
            barrier.wait();
        });
    }

    /// A process that only a directory tells of, which looks like `/proc`.
    struct Told {
        dir: tempfile::TempDir,
        agents: Agents,
    }

    impl Told {
        const PID: u32 = i32::MAX.unsigned_abs();

        fn new(policy: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let store =
                Store::create(&path, &CreateOptions::default(), &OpenOptions::default()).unwrap();
            let policy = policy::Policy::parse(policy).unwrap();
            let guard = Arc::new(Guard::new(false, policy, None));
            let mut agents = Agents::guarded(Arc::new(store), guard);
            agents.proc = Proc::open_at(dir.path());
            std::fs::create_dir(dir.path().join(Self::PID.to_string())).unwrap();
            let told = Self { dir, agents };
            told.says("status", &format!("Name:\ta\nTgid:\t{}\n", Self::PID));
            told.says("cgroup", "0::/one\n");
            told.says(
                "stat",
                "7 (a) S 1 7 7 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 9000 1 2 3 100 200 300 0",
            );
            told
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(Self::PID.to_string()).join(name)
        }

        fn says(&self, name: &str, text: &str) {
            std::fs::write(self.file(name), text).unwrap();
        }

        fn actor(&self) -> (ActorId, Actor) {
            let id = self.agents.actor(1, 2, Self::PID, false);
            (id, self.agents.store.actor_of(id).unwrap())
        }

        fn cgroup(&self) -> Vec<u8> {
            self.agents.identity(1, 2, Self::PID).cgroup
        }
    }

    #[test]
    fn who_is_moved_to_another_cgroup_is_judged_and_told_of_by_that() {
        let told = Told::new("cgroup /one first");
        let (before, actor) = told.actor();
        assert_eq!((actor.pid, actor.cgroup), (Told::PID, b"/one".to_vec()));
        assert_eq!(told.cgroup(), b"/one");
        assert_eq!(told.actor().0, before);
        told.says("cgroup", "0::/two\n");
        assert_eq!(told.cgroup(), b"/two");
        let (after, actor) = told.actor();
        assert_eq!(actor.cgroup, b"/two");
        assert_ne!(after, before);
        told.says("cgroup", "0::/one\n");
        assert_eq!(told.cgroup(), b"/one");
        assert_eq!(told.actor().0, before, "the same again");
    }

    #[test]
    fn what_could_not_be_looked_at_is_looked_at_again_and_what_is_not_there_is_not() {
        for name in ["stat", "status", "cgroup"] {
            let told = Told::new("");
            let text = std::fs::read(told.file(name)).unwrap();
            std::fs::remove_file(told.file(name)).unwrap();
            // No link is followed, which is none of the errors that say that nothing is there.
            std::os::unix::fs::symlink("elsewhere", told.file(name)).unwrap();
            let (before, _) = told.actor();
            std::fs::remove_file(told.file(name)).unwrap();
            std::fs::write(told.file(name), text).unwrap();
            let (after, actor) = told.actor();
            assert_eq!((actor.pid, &actor.cgroup[..]), (Told::PID, &b"/one"[..]), "{name}");
            assert_eq!(after != before, name != "status", "{name}");
        }
        let told = Told::new("");
        std::fs::rename(told.file("stat"), told.file("hidden")).unwrap();
        assert_eq!(told.actor().1.pid, 0);
        std::fs::rename(told.file("hidden"), told.file("stat")).unwrap();
        assert_eq!(told.actor().1.pid, 0, "a process that is hidden stays so");
    }
}
