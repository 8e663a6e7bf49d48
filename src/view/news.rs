//! What the kernel must be told, in the order it came up.
//!
//! Whoever changes something that the kernel may have cached adds to the queue; one thread, which
//! answers no requests, takes from it and tells the kernel. So a handler never waits for the kernel,
//! which may itself be waiting for that handler's reply.

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
}

#[derive(Debug, Default)]
struct Queue {
    news: VecDeque<News>,
    stirred: bool,
    closed: bool,
}

impl NewsQueue {
    /// Adds `news`. Returns whether there was room, and somebody left to be told.
    pub fn push(&self, news: News) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed || queue.news.len() >= NEWS_MAX {
            return false;
        }
        queue.news.push_back(news);
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
        queue.news.push_back(news);
        self.changed.notify_one();
        true
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
        *self.queue.lock() = Queue::default();
    }

    /// The kernel is gone.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.news.clear();
        self.changed.notify_all();
        self.room.notify_all();
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
