//! Which of several readers receives: one at a time, so that a request wakes no more threads than it needs.
//!
//! Readers that all sleep in `read(2)` are woken one for each request, also for those that another takes who was
//! looking already. On few CPUs such a thread runs where the caller or the server was about to. So here one reader
//! has the turn. It alone receives, keeps the turn while it serves what takes microseconds, and passes it on
//! before it waits for a disk, if somebody else was there to be served the last times. Of the others one is the
//! deputy, which sees to it that the turn is never stuck:
//!
//! ```text
//!               takes it once passed on, or once its holder serves one request for a whole tick
//!   deputy ----------------------------------------------------------------------------------> holder
//!     ^  \ the holder waits for requests: ticks become rarer, then it sleeps until one comes      |
//!     |                                                                                           |
//!   others <------------------------------------------- passed on, or taken away while it served -+
//! ```
//!
//! A lone caller that waits for the disk asks for nothing meanwhile. To wake another thread for it costs a fifth of an
//! `fsync` of 4 KiB on a fast disk, so that is left to the deputy's tick until it was seen that others had to wait.
//!
//! Where requests come faster than the holder takes them, which its deputy sees at a tick, that one becomes a helper:
//! it receives as well, until it finds nothing, and another becomes the deputy. Nobody is woken for that. There are fewer
//! helpers than CPUs, since the callers need one too; and there is none while something is changed each few milliseconds. Nor is
//! there one on two CPUs while more callers than that ask: then these keep both busy, and one reader that takes
//! what has gathered has fewer of them woken and put aside again.
//!
//! Invariants: where nobody serves, somebody has the turn or the deputy is about to take it, or a helper is about to
//! find nothing and to wait for it; that two hold the turn at one time is harmless, and happens only where it is taken away
//! from one who comes back in that moment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::sys::blocking::{self, Prepared};

/// One reader among all of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReaderId(u64);

impl ReaderId {
    /// One that nobody had before.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(NOBODY + 1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for ReaderId {
    fn default() -> Self {
        Self::new()
    }
}

const NOBODY: u64 = 0;

/// How often the deputy looks after a holder that serves: what comes behind a request that takes longer waits for
/// up to two of these, and where the holder had nothing to do before, for one and what is left of [`TICK_MAX`].
const TICK: Duration = Duration::from_millis(1);
/// Where the holder waits for requests the ticks double up to this, and then the deputy sleeps until one comes.
const TICK_MAX: Duration = Duration::from_millis(16);

/// The turn of one reader, whether it has it or not.
#[derive(Clone, Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    reader: ReaderId,
}

impl Turn {
    pub(super) fn new(turns: &Arc<Turns>, reader: ReaderId) -> Self {
        Self { turns: Arc::clone(turns), reader }
    }

    /// Lets another receive, if it is this one's turn.
    pub fn pass(&self) {
        self.turns.pass(self.reader);
    }

    /// Its reader is busy for longer than another takes to be there: lets that one receive, if it had something to
    /// receive the last times.
    pub fn waits(&self) {
        self.turns.waits(self.reader);
    }

    /// What its reader serves now is served one at a time: a helper would wait for others, or they for it.
    pub fn excludes(&self) {
        self.turns.excludes(self.reader);
    }

    /// While what is returned lives, this is so whenever the calling thread is about to wait.
    pub fn passed_before_waiting(self) -> Prepared {
        blocking::before_waiting(move || self.waits())
    }
}

/// Whether others have to be served while a reader waits for a disk.
#[derive(Debug, Default)]
struct Demand {
    /// How many more times the turn is passed on, unless it is seen again that it had to be.
    times: AtomicU32,
    /// The [`ReaderId`] of the last that passed it on and has not answered yet, or [`NOBODY`].
    passed_by: AtomicU64,
    /// The beat of that moment.
    passed_at: AtomicU64,
    /// The [`ReaderId`] of one that waited and kept the turn, so that what is there when it answers had to wait as well;
    /// or [`NOBODY`].
    kept_by: AtomicU64,
}

impl Demand {
    /// So often in vain is no pattern yet.
    const TIMES: u32 = 16;

    fn is_there(&self) -> bool {
        self.times.load(Ordering::Relaxed) > 0
    }

    fn passed(&self, reader: ReaderId, beat: u64) {
        self.passed_at.store(beat, Ordering::Relaxed);
        self.passed_by.store(reader.0, Ordering::Relaxed);
    }

    fn kept(&self, reader: ReaderId) {
        self.kept_by.store(reader.0, Ordering::Relaxed);
    }

    /// `reader` received something. If no answer was due for what it passed the turn on for, nothing is learnt of that.
    fn receives(&self, reader: ReaderId) {
        for learns in [&self.passed_by, &self.kept_by] {
            if learns.load(Ordering::Relaxed) == reader.0 {
                learns.store(NOBODY, Ordering::Relaxed);
            }
        }
    }

    /// `reader` is about to answer. If it passed the turn on: was anything received meanwhile? If it waited and did
    /// not: `is_ready` says whether anything had to wait with it.
    ///
    /// Not once the reply was sent: the caller may have come back with its next request before its reader does.
    fn answers(&self, reader: ReaderId, beat: u64, is_ready: impl Fn() -> bool) {
        if self.passed_by.load(Ordering::Relaxed) == reader.0 {
            self.passed_by.store(NOBODY, Ordering::Relaxed);
            // Whoever takes the turn makes it even, and what is received odd again.
            if beat.wrapping_sub(self.passed_at.load(Ordering::Relaxed)) < 2 {
                let times = self.times.load(Ordering::Relaxed).saturating_sub(1);
                self.times.store(times, Ordering::Relaxed);
            } else {
                self.times.store(Self::TIMES, Ordering::Relaxed);
            }
        } else if self.kept_by.load(Ordering::Relaxed) == reader.0 {
            self.kept_by.store(NOBODY, Ordering::Relaxed);
            if is_ready() {
                self.times.store(Self::TIMES, Ordering::Relaxed);
            }
        }
    }
}

/// Whether requests come faster than the holder takes them.
#[derive(Debug)]
struct Crowd {
    /// How many more in a row have to be there already when it comes for them.
    left: AtomicU32,
    /// Who asked lately, the last one first: thread numbers, of as many as may ask while another helps. None where any number may.
    callers: Box<[AtomicU32]>,
}

impl Crowd {
    /// So many in a row are no accident.
    const MANY: u32 = 8;
    /// So many without one that excludes others, some 10 ms: whoever changes something each few milliseconds, and syncs it,
    /// needs a CPU soon once the disk is done, and where a helper and its callers had them waited for 1.6 times as long.
    const CALM: u32 = 1024;

    /// `few`: with how many callers at once there may be helpers; 0: with any number.
    fn new(few: usize) -> Self {
        let callers = (0..few).map(|_| AtomicU32::new(0)).collect();
        Self { left: AtomicU32::new(Self::MANY), callers }
    }

    /// A request of `caller` was received, 0 if nobody waits for its answer. Whether there are more callers than may be.
    fn is_beyond_few(&self, caller: u32) -> bool {
        let is_the_last = |last: &AtomicU32| last.load(Ordering::Relaxed) == caller;
        if caller == 0 || self.callers.first().is_none_or(is_the_last) {
            return false;
        }
        // Of those that two readers note down at the same time one may be missed.
        let mut before = caller;
        for known in &self.callers {
            before = known.swap(before, Ordering::Relaxed);
            if before == caller {
                return false;
            }
        }
        self.left.fetch_max(Self::MANY, Ordering::Relaxed);
        true
    }

    /// A request was received, which was there already or was waited for.
    fn received(&self, at_once: bool) {
        let left = self.left.load(Ordering::Relaxed);
        let left = if at_once { left.saturating_sub(1) } else { left.max(Self::MANY) };
        self.left.store(left, Ordering::Relaxed);
    }

    fn is_there(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// One that helped finds that it is not.
    fn is_gone(&self) {
        self.left.store(Self::MANY, Ordering::Relaxed);
    }

    /// Something is served that excludes others.
    fn is_disturbed(&self) {
        self.left.store(Self::CALM, Ordering::Relaxed);
    }
}

/// Why a reader may receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// It has the turn, and waits for what comes.
    Holder,
    /// It takes what is there, and [`leaves`](Turns::leaves) once it finds nothing.
    Helper,
}

/// Who receives at one device.
#[derive(Debug)]
pub(super) struct Turns {
    /// The [`ReaderId`] of whoever has the turn, or [`NOBODY`].
    holder: AtomicU64,
    /// Counts what the holder received, from bit 1 on; bit 0: it is serving it.
    beat: AtomicU64,
    demand: Demand,
    crowd: Crowd,
    /// The [`ReaderId`] of each helper; [`NOBODY`] where one may become it.
    helpers: Box<[AtomicU64]>,
    /// Nothing more is to be received.
    ended: AtomicBool,
    /// Whoever has it locked is the deputy.
    deputy: Mutex<()>,
    /// What the deputy waits at between ticks.
    free: Mutex<()>,
    freed: Condvar,
}

/// What the deputy saw of the holder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    holder: u64,
    beat: u64,
}

/// What the deputy does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Takes the turn, from the holder that was seen or because nobody has it.
    Take,
    /// Looks again after so long.
    Tick(Duration),
    /// Sleeps until a request comes.
    Sleep,
}

/// `last`: what was seen before, and how long ago.
fn step(last: Option<(Seen, Duration)>, seen: Seen) -> Step {
    let serves = seen.beat & 1 == 1;
    match last {
        _ if seen.holder == NOBODY => Step::Take,
        Some((last, _)) if last == seen && serves => Step::Take,
        Some((last, tick)) if last == seen && tick >= TICK_MAX => Step::Sleep,
        Some((last, tick)) if last == seen => Step::Tick((tick * 2).min(TICK_MAX)),
        _ => Step::Tick(TICK),
    }
}

impl Turns {
    /// With up to so many helpers, and those only with `few` callers at once, or with any number if that is 0.
    pub(super) fn new(helpers: usize, few: usize) -> Self {
        Self {
            holder: AtomicU64::new(NOBODY),
            beat: AtomicU64::new(0),
            demand: Demand::default(),
            crowd: Crowd::new(few),
            helpers: (0..helpers).map(|_| AtomicU64::new(NOBODY)).collect(),
            ended: AtomicBool::new(false),
            deputy: Mutex::default(),
            free: Mutex::default(),
            freed: Condvar::default(),
        }
    }

    /// With as many helpers as have a CPU beside a holder or a caller.
    pub(super) fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // On more CPUs it was not measured.
        Self::new(cpus.saturating_sub(1), if cpus == 2 { 2 } else { 0 })
    }

    /// Waits until `reader` has the turn, or helps, if it does not so already. `None` once nothing more is to be received.
    ///
    /// `sleep` returns once there is something to receive, and says whether there may be more.
    pub(super) fn take(
        &self,
        reader: ReaderId,
        sleep: impl Fn() -> io::Result<bool>,
    ) -> io::Result<Option<Role>> {
        let beat = self.beat.load(Ordering::Acquire);
        if self.holder.load(Ordering::Acquire) == reader.0 {
            // If it is taken away in this moment, the beat is the new holder's, who may be serving: nobody would see
            // that it takes long.
            let next = (beat | 1) + 1;
            let _ = self.beat.compare_exchange(beat, next, Ordering::Relaxed, Ordering::Relaxed);
            return Ok(Some(Role::Holder));
        }
        if self.place(reader).is_some() {
            return Ok(Some(Role::Helper));
        }
        let role = self.wait(reader, sleep)?;
        if role == Some(Role::Holder) {
            let beat = self.beat.load(Ordering::Relaxed);
            self.beat.store((beat | 1) + 1, Ordering::Relaxed);
        }
        Ok(role)
    }

    /// `reader` is about to answer what it received last. `is_ready`: whether there is something to receive.
    pub(super) fn answers(&self, reader: ReaderId, is_ready: impl Fn() -> bool) {
        self.demand.answers(reader, self.beat.load(Ordering::Relaxed), is_ready);
    }

    /// `reader` received something of `caller`, which was there already or was waited for, and serves it now.
    pub(super) fn serves(&self, reader: ReaderId, at_once: bool, caller: u32) {
        self.demand.receives(reader);
        if self.crowd.is_beyond_few(caller) {
            self.stops_helping(reader);
        }
        // One from whom the turn was taken while it received says nothing of its new holder, who waits.
        if self.holder.load(Ordering::Relaxed) == reader.0 {
            self.crowd.received(at_once);
            let beat = self.beat.load(Ordering::Relaxed);
            self.beat.store(beat | 1, Ordering::Relaxed);
        }
    }

    /// `reader` is about to wait: another gets the turn if that was worth it lately.
    pub(super) fn waits(&self, reader: ReaderId) {
        if self.demand.is_there() {
            self.pass(reader);
        } else if self.holder.load(Ordering::Relaxed) == reader.0 {
            self.demand.kept(reader);
        }
    }

    /// `reader` does not receive for now: another may have the turn, or help.
    pub(super) fn pass(&self, reader: ReaderId) {
        if self.holder.load(Ordering::Relaxed) == reader.0 {
            self.demand.passed(reader, self.beat.load(Ordering::Relaxed));
        }
        self.stops_helping(reader);
        if moves(&self.holder, reader.0, NOBODY) {
            // Under the lock: whoever is about to wait sees that it is free, or is woken.
            let _waits = self.free.lock();
            self.freed.notify_one();
        }
    }

    /// `reader` helps no more, since it found nothing.
    pub(super) fn leaves(&self, reader: ReaderId) {
        // In this order: nobody helps with what is gone.
        self.crowd.is_gone();
        self.stops_helping(reader);
    }

    /// `reader` serves what others cannot serve at the same time, so that nobody can help.
    pub(super) fn excludes(&self, reader: ReaderId) {
        self.crowd.is_disturbed();
        self.stops_helping(reader);
    }

    fn stops_helping(&self, reader: ReaderId) {
        if let Some(place) = self.place(reader) {
            // Nobody else takes it away.
            place.store(NOBODY, Ordering::Release);
        }
    }

    /// Where `reader` stands among the helpers, if it is one.
    fn place(&self, reader: ReaderId) -> Option<&AtomicU64> {
        self.helpers.iter().find(|helper| helper.load(Ordering::Relaxed) == reader.0)
    }

    /// Nothing more is to be received, by nobody.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let _waits = self.free.lock();
        self.freed.notify_all();
    }

    fn wait(
        &self,
        reader: ReaderId,
        sleep: impl Fn() -> io::Result<bool>,
    ) -> io::Result<Option<Role>> {
        if moves(&self.holder, NOBODY, reader.0) {
            return Ok(Some(Role::Holder));
        }
        let _deputy = self.deputy.lock();
        let mut last = None;
        while !self.ended.load(Ordering::Acquire) {
            let seen = Seen {
                holder: self.holder.load(Ordering::Acquire),
                beat: self.beat.load(Ordering::Relaxed),
            };
            match step(last, seen) {
                Step::Take if moves(&self.holder, seen.holder, reader.0) => {
                    if seen.holder != NOBODY {
                        self.demand.passed(ReaderId(seen.holder), seen.beat);
                    }
                    return Ok(Some(Role::Holder));
                }
                // Somebody was faster.
                Step::Take => last = None,
                // What comes is the holder's to receive; the deputy sees whether it gets beyond it.
                Step::Sleep if sleep()? => last = None,
                Step::Sleep => return Ok(None),
                Step::Tick(_) if self.crowd.is_there() && self.joins(reader) => {
                    return Ok(Some(Role::Helper));
                }
                Step::Tick(tick) => {
                    last = Some((seen, tick));
                    let mut waits = self.free.lock();
                    if self.holder.load(Ordering::Acquire) != NOBODY
                        && !self.ended.load(Ordering::Acquire)
                    {
                        self.freed.wait_for(&mut waits, tick);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes `reader` a helper, if there is room for one.
    fn joins(&self, reader: ReaderId) -> bool {
        self.helpers.iter().any(|helper| moves(helper, NOBODY, reader.0))
    }
}

fn moves(place: &AtomicU64, from: u64, to: u64) -> bool {
    place.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    /// Longer than anything here takes, on however busy a machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn never() -> io::Result<bool> {
        panic!("there is no reason to sleep")
    }

    /// A reader of its own thread that takes the turn and says so.
    fn taken<'s>(
        scope: &'s thread::Scope<'s, '_>,
        turns: &'s Turns,
        sleep: impl Fn() -> io::Result<bool> + Send + 's,
    ) -> (ReaderId, Receiver<Option<Role>>) {
        let (reader, (says, said)) = (ReaderId::new(), channel());
        scope.spawn(move || says.send(turns.take(reader, sleep).unwrap()).unwrap());
        (reader, said)
    }

    #[test]
    fn whoever_has_the_turn_keeps_it_until_it_is_passed_on() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        for _ in 0..3 {
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
            turns.serves(first, false, 7);
        }
        thread::scope(|scope| {
            turns.pass(first);
            let (second, said) = taken(scope, &turns, never);
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Some(Role::Holder));
            // It is not the first one's any more, so it cannot give it away.
            turns.pass(first);
            assert_eq!(turns.holder.load(Ordering::Relaxed), second.0);
        });
    }

    #[test]
    fn a_holder_that_serves_for_long_loses_the_turn_and_gets_it_back_in_time() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        turns.serves(first, false, 7);
        thread::scope(|scope| {
            let (second, said) = taken(scope, &turns, || Ok(true));
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Some(Role::Holder));
            turns.pass(second);
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        });
    }

    #[test]
    fn the_turn_is_passed_on_before_waiting_while_others_come_meanwhile() {
        let (turns, first, second) = (Turns::new(1, 0), ReaderId::new(), ReaderId::new());
        let wait_and_answer = |something_came| {
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
            turns.serves(first, false, 7);
            turns.waits(first);
            let passed = turns.holder.load(Ordering::Relaxed) == NOBODY;
            turns.answers(first, || something_came);
            passed
        };
        // A lone caller.
        for _ in 0..5 {
            assert!(!wait_and_answer(false));
        }
        // Once somebody had to wait, it is passed on, until that was in vain for a while.
        assert!(!wait_and_answer(true));
        assert_eq!((0..100).filter(|_| wait_and_answer(false)).count(), 16);
        // As long as it is not in vain, it goes on.
        assert!(!wait_and_answer(true));
        for _ in 0..100 {
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
            turns.serves(first, false, 7);
            turns.waits(first);
            assert_eq!(turns.take(second, never).unwrap(), Some(Role::Holder));
            turns.serves(second, false, 7);
            turns.answers(first, || panic!("it is known already"));
            turns.pass(second);
        }
    }

    #[test]
    fn who_receives_without_the_turn_says_nothing_of_its_holder() {
        let (turns, first, second) = (Turns::new(1, 0), ReaderId::new(), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        turns.serves(first, false, 7);
        turns.pass(first);
        assert_eq!(turns.take(second, never).unwrap(), Some(Role::Holder));
        let beat = turns.beat.load(Ordering::Relaxed);
        assert_eq!(beat & 1, 0, "it waits for requests");
        turns.serves(first, false, 7);
        assert_eq!(turns.beat.load(Ordering::Relaxed), beat);
    }

    #[test]
    fn who_finds_a_crowd_helps_until_it_finds_nothing() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        // What is there already each time, and so no crowd as long as something else comes between.
        for at_once in [[true; 7].as_slice(), &[false], &[true; 7]].concat() {
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
            turns.serves(first, at_once, 7);
        }
        assert!(!turns.crowd.is_there());
        turns.serves(first, true, 7);
        thread::scope(|scope| {
            let (second, said) = taken(scope, &turns, never);
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Some(Role::Helper));
            // It goes on without waiting, and says nothing of the holder's crowd.
            turns.serves(second, false, 7);
            assert_eq!(turns.take(second, never).unwrap(), Some(Role::Helper));
            assert!(turns.crowd.is_there());
            // There is room for one, so this one waits, until the second waits for a disk.
            let (third, said) = taken(scope, &turns, never);
            assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
            turns.pass(second);
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Some(Role::Helper));
            turns.leaves(third);
            assert!(!turns.crowd.is_there());
            let (_, said) = taken(scope, &turns, || Ok(false));
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), None);
        });
    }

    #[test]
    fn where_few_may_ask_while_another_helps_nobody_does_with_one_more() {
        let (turns, first) = (Turns::new(1, 2), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        let ask = |callers: &[u32]| {
            for caller in callers.repeat(100) {
                turns.serves(first, true, caller);
            }
            turns.crowd.is_there()
        };
        // What nobody waits for is nobody's.
        assert!(ask(&[8]) && ask(&[8, 9]) && ask(&[8, 0, 9, 0]) && ask(&[8, 8, 8, 9]));
        assert!(
            !ask(&[8, 9, 10]) && !ask(&[8, 8, 9, 9, 10, 10]) && !ask(&[1, 2, 3, 4, 5, 6, 7, 8])
        );
        turns.excludes(first);
        assert!(!ask(&[8, 9, 10]) && !ask(&[8, 9]), "it is not forgotten that there were changes");
        assert!((0..20).any(|_| ask(&[8, 9])));

        // Who helps already leaves it to the holder.
        let second = ReaderId::new();
        assert!(turns.joins(second));
        turns.serves(second, true, 8);
        assert!(turns.place(second).is_some());
        turns.serves(second, true, 10);
        assert!(turns.place(second).is_none() && !turns.crowd.is_there());
    }

    #[test]
    fn beside_changes_nobody_helps() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        let asks = |times: u32| (0..times).for_each(|_| turns.serves(first, true, 7));
        for _ in 0..3 {
            turns.excludes(first);
            asks(Crowd::CALM - 1);
            assert!(!turns.crowd.is_there());
        }
        // However long ago the last change was, a pause is not what it takes.
        turns.excludes(first);
        turns.serves(first, false, 7);
        asks(Crowd::CALM - 1);
        assert!(!turns.crowd.is_there());
        asks(1);
        assert!(turns.crowd.is_there());
    }

    #[test]
    fn on_one_cpu_nobody_helps() {
        let (turns, first) = (Turns::new(0, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        (0..100).for_each(|_| turns.serves(first, true, 7));
        assert!(!turns.joins(ReaderId::new()));
    }

    #[test]
    fn what_no_answer_is_due_for_teaches_nothing() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        turns.serves(first, false, 7);
        turns.pass(first);
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        turns.serves(first, false, 7);
        turns.answers(first, || panic!("it did not wait"));
        assert!(!turns.demand.is_there());
    }

    #[test]
    fn only_a_holder_that_serves_one_request_for_a_tick_loses_the_turn() {
        let seen = |beat| Seen { holder: 1, beat };
        assert_eq!(step(None, seen(5)), Step::Tick(TICK));
        assert_eq!(step(Some((seen(5), TICK)), seen(5)), Step::Take);
        // Another request, another holder, or none.
        assert_eq!(step(Some((seen(5), TICK)), seen(7)), Step::Tick(TICK));
        assert_eq!(step(Some((seen(5), TICK)), Seen { holder: 2, beat: 5 }), Step::Tick(TICK));
        assert_eq!(step(None, Seen { holder: NOBODY, beat: 4 }), Step::Take);
        // It waits: it is looked after less and less, and not at all in the end.
        let (mut last, mut ticks) = (None, Vec::new());
        while let Step::Tick(tick) = step(last, seen(4)) {
            ticks.push(tick);
            last = Some((seen(4), tick));
        }
        assert_eq!(ticks, [1, 2, 4, 8, 16].map(Duration::from_millis));
        assert_eq!(step(last, seen(4)), Step::Sleep);
        assert_eq!(step(last, seen(5)), Step::Tick(TICK));
    }

    #[test]
    fn the_deputy_of_a_holder_that_waits_sleeps_until_there_is_something() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        let (sleeps, slept) = channel();
        let (wakes, woken) = channel();
        let woken = Mutex::new(woken);
        thread::scope(|scope| {
            let (_, said) = taken(scope, &turns, || {
                sleeps.send(()).unwrap();
                Ok(woken.lock().recv_timeout(PATIENCE).unwrap())
            });
            slept.recv_timeout(PATIENCE).unwrap();
            // It came, and the holder serves it: for long.
            turns.serves(first, false, 7);
            wakes.send(true).unwrap();
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Some(Role::Holder));
        });
    }

    #[test]
    fn at_the_end_everybody_comes_back() {
        let (turns, first) = (Turns::new(1, 0), ReaderId::new());
        assert_eq!(turns.take(first, never).unwrap(), Some(Role::Holder));
        thread::scope(|scope| {
            let others: Vec<_> = (0..4).map(|_| taken(scope, &turns, || Ok(false)).1).collect();
            turns.end();
            for said in others {
                assert_eq!(said.recv_timeout(PATIENCE).unwrap(), None);
            }
        });
    }
}
