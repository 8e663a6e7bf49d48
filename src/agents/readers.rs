//! Threads that read of processes what may hang in the kernel.
//!
//! Nothing can call one back that waits for a lock there. So there are several, who asks waits no longer than it wants to, and
//! while all hang nothing more is looked up.
//!
//! A short command is over within a millisecond, and where there are few CPUs it waits for whoever asks about it. So one
//! thread is woken for a question, if there is one that waits. With a thread made for each, and all that can be asked read
//! each time, `cp` took 1.35 ms, of 1.0 where nobody asks (14 processes below the first, two CPUs).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::sys::process::be_as_the_first_thread;

use super::proc::Proc;

/// Questions that may wait; what comes beyond is dropped, and the actor stays as it is.
const QUEUE_MAX: usize = 1024;
/// Threads that read at once. Where all of them hang nothing more is looked up until one returns; while one does not, who
/// comes waits for it.
const READERS_MAX: usize = 8;
/// A read that takes longer hangs: nobody waits for it.
pub(super) const DEADLINE: Duration = Duration::from_millis(500);
/// A thread that was asked nothing for so long ends.
const IDLE: Duration = Duration::from_secs(1);

/// Those of this process.
pub(super) static READERS: Readers = Readers::new();

/// Threads that read what may hang.
pub(super) struct Readers {
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
pub(super) struct TooSlow;

impl Readers {
    const fn new() -> Self {
        let readers = [Reader::Missing; READERS_MAX];
        let queue = Mutex::new(Queue { questions: VecDeque::new(), readers });
        Self { queue, more: Condvar::new() }
    }

    /// Has `question` asked of `/proc` once a thread is free; never waits. It is dropped where too many wait already, and
    /// where there can be no thread.
    pub(super) fn ask(&'static self, question: impl FnOnce(&Proc) + Send + 'static) {
        self.put(Box::new(question), VecDeque::push_back);
    }

    fn put(&'static self, question: Question, place: fn(&mut VecDeque<Question>, Question)) {
        let mut queue = self.queue.lock();
        if queue.questions.len() >= QUEUE_MAX {
            return;
        }
        place(&mut queue.questions, question);
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
    pub(super) fn answer<T: Send + 'static>(
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
        self.put(question, VecDeque::push_front);
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
        // Whoever asked may be pinned to a CPU, which its own caller needs.
        if let Err(error) = be_as_the_first_thread() {
            tracing::debug!(%error, "a thread runs where the one that started it may");
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

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
