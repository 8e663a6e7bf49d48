//! What the kernel must be told, in the order it came up.
//!
//! Whoever changes something that the kernel may have cached adds to the queue; one thread, which
//! answers no requests, takes from it and tells the kernel. So a handler never waits for the kernel,
//! which may itself be waiting for that handler's reply. Whoever changes something beside the kernel is no handler, and waits
//! until it has been told ([`NewsQueue::settle`]): who then hears of the change must not find what was there before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::proto::types::NodeId;

/// Most that waits to be told.
const NEWS_MAX: usize = 1 << 16;

/// One thing to tell the kernel.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum News {
    /// Attributes of a node changed.
    Attributes(NodeId),
    /// Content of a node, or the listing of a directory, changed; so did its attributes.
    Content(NodeId),
    /// A name no longer leads where it did.
    Name {
        /// Directory of the name.
        parent: NodeId,
        /// The name.
        name: Box<[u8]>,
    },
    /// The same, told a while after the change: the kernel may have looked the name up since, and somebody be at work there.
    NameAgain {
        /// Directory of the name.
        parent: NodeId,
        /// The name.
        name: Box<[u8]>,
    },
}

/// What waiting for news came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// This is to be told.
    News(News),
    /// Who waits for a stream may have something to read.
    Stirred,
    /// There was none for so long.
    Nothing,
    /// Nobody is left to be told.
    Closed,
}

/// The queue.
#[derive(Debug, Default)]
pub struct NewsQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// There is room again, or nobody left to be told.
    room: Condvar,
    /// More was told, or nobody is left to be told.
    told: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    news: VecDeque<News>,
    stirred: bool,
    closed: bool,
    /// A kernel listens, and somebody tells it.
    listening: bool,
    /// How many came up, and how many of them were told, since this began.
    pushed: u64,
    told: u64,
}

impl Queue {
    fn push(&mut self, news: News) {
        self.news.push_back(news);
        self.pushed += 1;
    }
}

impl NewsQueue {
    /// Adds `news`. Returns whether there was room, and somebody left to be told.
    pub fn push(&self, news: News) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed || queue.news.len() >= NEWS_MAX {
            return false;
        }
        queue.push(news);
        self.changed.notify_one();
        true
    }

    /// Wakes the thread that tells the kernel, once for all that comes up until it looks.
    pub(super) fn stir(&self) {
        let mut queue = self.queue.lock();
        if !queue.stirred {
            queue.stirred = true;
            self.changed.notify_one();
        }
    }

    /// As [`NewsQueue::push`], but waits for room. Not for a thread that answers requests: the one that tells
    /// the kernel may be waiting for it.
    pub fn push_patiently(&self, news: News) -> bool {
        let mut queue = self.queue.lock();
        while !queue.closed && queue.news.len() >= NEWS_MAX {
            self.room.wait(&mut queue);
        }
        if queue.closed {
            return false;
        }
        queue.push(news);
        self.changed.notify_one();
        true
    }

    /// Waits until all that has come up so far was told, at most `patience`. Whether it was, or there is nobody to be
    /// told. As [`NewsQueue::push_patiently`], not for a thread that answers requests.
    pub fn settle(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.queue.lock();
        let last = queue.pushed;
        while queue.listening && !queue.closed && queue.told < last {
            if self.told.wait_until(&mut queue, until).timed_out() {
                return queue.told >= last;
            }
        }
        true
    }

    /// What [`NewsQueue::next`] gave was told.
    pub fn told(&self) {
        self.queue.lock().told += 1;
        self.told.notify_all();
    }

    /// Waits for the next, at most `patience`.
    pub fn next(&self, patience: Duration) -> Next {
        let until = Instant::now() + patience;
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return Next::Closed;
            }
            if let Some(news) = queue.news.pop_front() {
                if queue.news.len() + 1 >= NEWS_MAX {
                    self.room.notify_all();
                }
                return Next::News(news);
            }
            if std::mem::take(&mut queue.stirred) {
                return Next::Stirred;
            }
            if self.changed.wait_until(&mut queue, until).timed_out() {
                return if queue.closed { Next::Closed } else { Next::Nothing };
            }
        }
    }

    /// A kernel begins to listen: what was for an earlier one is dropped.
    pub fn open(&self) {
        let mut queue = self.queue.lock();
        let pushed = queue.pushed;
        *queue = Queue { listening: true, pushed, told: pushed, ..Queue::default() };
        self.told.notify_all();
    }

    /// The kernel is gone.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.news.clear();
        self.changed.notify_all();
        self.room.notify_all();
        self.told.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn news_come_in_order_until_the_queue_is_closed() {
        let queue = NewsQueue::default();
        let name = News::Name { parent: NodeId::ROOT, name: b"x"[..].into() };
        assert!(queue.push(News::Attributes(NodeId::ROOT)));
        assert!(queue.push(name.clone()));
        assert_eq!(queue.next(LONG), Next::News(News::Attributes(NodeId::ROOT)));
        assert_eq!(queue.next(LONG), Next::News(name.clone()));
        assert_eq!(queue.next(Duration::from_millis(1)), Next::Nothing);
        queue.close();
        assert_eq!(queue.next(LONG), Next::Closed);
        assert!(!queue.push(name));
    }

    #[test]
    fn who_waits_until_all_was_told_waits_for_all_that_came_before_and_for_no_more() {
        let queue = NewsQueue::default();
        queue.push(News::Attributes(NodeId::ROOT));
        assert!(queue.settle(LONG), "nobody listens yet");
        queue.open();
        assert!(queue.settle(LONG), "nothing came up since");
        queue.push(News::Attributes(NodeId::ROOT));
        queue.push(News::Content(NodeId::ROOT));
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| queue.settle(LONG));
            for _ in 0..2 {
                assert!(matches!(queue.next(LONG), Next::News(_)));
                assert!(!queue.settle(Duration::from_millis(1)), "it was taken, and not told yet");
                queue.told();
            }
            assert!(settled.join().unwrap());
            queue.push(News::Attributes(NodeId::ROOT));
            let settled = scope.spawn(|| queue.settle(LONG));
            std::thread::sleep(Duration::from_millis(20));
            queue.close();
            assert!(settled.join().unwrap(), "nobody is left to be told");
        });
        assert!(queue.settle(LONG));
    }

    #[test]
    fn closing_wakes_whoever_waits() {
        let queue = NewsQueue::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next(LONG));
            std::thread::sleep(Duration::from_millis(20));
            queue.close();
            assert_eq!(waits.join().unwrap(), Next::Closed);
        });
    }
}
