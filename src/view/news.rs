//! What the kernel must be told, in the order it came up.
//!
//! Whoever changes something that the kernel may have cached adds to the queue; one thread, which
//! answers no requests, takes from it and tells the kernel. So a handler never waits for the kernel,
//! which may itself be waiting for that handler's reply.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use crate::proto::types::NodeId;

/// Most that waits to be told.
const NEWS_MAX: usize = 1 << 16;

/// One thing to tell the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
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

/// The queue.
#[derive(Debug, Default)]
pub struct NewsQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    news: VecDeque<News>,
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

    /// Waits for the next; `None` once the queue is closed.
    pub fn next(&self) -> Option<News> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(news) = queue.news.pop_front() {
                return Some(news);
            }
            self.changed.wait(&mut queue);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_in_order_until_the_queue_is_closed() {
        let queue = NewsQueue::default();
        let name = News::Name { parent: NodeId::ROOT, name: b"x"[..].into() };
        assert!(queue.push(News::Attributes(NodeId::ROOT)));
        assert!(queue.push(name.clone()));
        assert_eq!(queue.next(), Some(News::Attributes(NodeId::ROOT)));
        assert_eq!(queue.next(), Some(name.clone()));
        queue.close();
        assert_eq!(queue.next(), None);
        assert!(!queue.push(name));
    }

    #[test]
    fn closing_wakes_whoever_waits() {
        let queue = NewsQueue::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            queue.close();
            assert_eq!(waits.join().unwrap(), None);
        });
    }
}
