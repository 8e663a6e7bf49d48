//! What others change is told to the kernel: names, listings, attributes and pages that it keeps are old.
//!
//! Everything is told twice, a while apart: whoever answered a lookup when the change came may have given the
//! kernel what was true before it, after the kernel was told. The second time a name is only to be asked for again:
//! somebody may work in the directory that it leads to, or have a mount there, and would lose it with the name. (A READ
//! under way is no such case: the kernel waits for its pages before it drops them. Nor are attributes of nodes it knows:
//! it compares versions.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::proto::types::NodeId;
use crate::tree::watch::{Changed, Watcher};
use crate::tree::{Ino, Inode};

use super::news::News;
use super::nodes::{Place, Tense};
use super::{View, node};

/// How long an answer may be on its way that was found before a change.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long whoever made a change waits until the kernel was told. It takes what it is told at once, unless somebody holds
/// the directory or the page that it is about.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What is to be told once more.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<(Instant, News)>,
    /// The same, each once, with when it was told last.
    known: FxHashMap<News, Instant>,
}

impl Watcher for View {
    fn changed(&self, what: Changed<'_>) {
        let now = |ino| node(Tense::Now, ino).ok();
        let news = match what {
            Changed::Attributes(ino) => now(ino).map(News::Attributes),
            Changed::Content(ino) => now(ino).map(News::Content),
            Changed::Name { parent, name } => {
                now(parent).map(|parent| News::Name { parent, name: name.into() })
            }
        };
        // An inode number beyond what can be given out: no kernel knows it.
        let Some(news) = news else { return };
        if self.is_known(&news) {
            self.news.push_patiently(news.clone());
        }
        if let Changed::Content(ino) = what {
            self.resized.add(ino, |ino| now(ino).is_some_and(|node| self.nodes.knows(node)));
        }
        self.told.add(match news {
            News::Name { parent, name } => News::NameAgain { parent, name },
            other => other,
        });
        self.stir();
        if matches!(what, Changed::Attributes(Ino::ROOT)) {
            self.top_changed();
        }
    }

    fn settle(&self) {
        if !self.news.settle(TOLD_WITHIN) {
            tracing::debug!("the kernel has not heard of a change for {TOLD_WITHIN:?}; it will");
        }
    }

    fn keeps(&self, inode: &Inode) -> bool {
        if self.is_adopted() {
            return true;
        }
        self.kernel_keeps(inode.ino).unwrap_or(false)
    }

    fn before_write(&self, ino: Ino) {
        self.mark_all(self.drafts.take(ino).map(|actor| (ino, actor)).into_iter().collect());
    }
}

impl View {
    fn is_known(&self, news: &News) -> bool {
        let (&News::Attributes(node)
        | &News::Content(node)
        | &News::Name { parent: node, .. }
        | &News::NameAgain { parent: node, .. }) = news;
        node == NodeId::ROOT
            || matches!(Place::of(node), Some(Place::Tree(Tense::Now, Ino::ROOT)))
            // What an adopted kernel knows, it alone knows.
            || self.is_adopted()
            || self.nodes.knows(node)
    }

    /// Tells something now, and once more a while later. For a handler, which waits for no room: without any it is told then.
    pub(super) fn tell_twice(&self, news: News) {
        let _ = self.news.push(news.clone());
        self.told.add(news);
    }

    /// Tells what was told a while before `now` once more.
    pub(super) fn tell_again(&self, now: Instant) {
        while let Some(news) = self.told.next(now) {
            if self.is_known(&news) && !self.news.push(news.clone()) {
                // No room: at the next tick.
                self.told.add(news);
                break;
            }
        }
    }
}

/// Files that others changed: until the kernel asks how long one is, it takes O_APPEND to where the file ended before.
#[derive(Debug, Default)]
pub(super) struct Resized(Mutex<FxHashSet<Ino>>);

impl Resized {
    /// So many are no trouble to remember. Beyond, those that the kernel does not know any more are forgotten.
    const KEPT: usize = 1 << 12;

    fn add(&self, ino: Ino, is_known: impl Fn(Ino) -> bool) {
        let mut inos = self.0.lock();
        if inos.insert(ino) && inos.len() > Self::KEPT && inos.len().is_power_of_two() {
            inos.retain(|ino| is_known(*ino));
        }
    }

    pub(super) fn has(&self, ino: Ino) -> bool {
        self.0.lock().contains(&ino)
    }
}

impl Told {
    pub(super) fn add(&self, news: News) {
        let now = Instant::now();
        let mut waiting = self.0.lock();
        if waiting.known.insert(news.clone(), now).is_none() {
            waiting.order.push_back((now, news));
        }
    }

    fn next(&self, now: Instant) -> Option<News> {
        let mut waiting = self.0.lock();
        loop {
            let (since, _) = waiting.order.front()?;
            if now.saturating_duration_since(*since) < AGAIN_AFTER {
                return None;
            }
            let (since, news) = waiting.order.pop_front()?;
            match waiting.known.get(&news).copied() {
                // Told again meanwhile: that is when its time began.
                Some(last) if last > since => waiting.order.push_back((last, news)),
                _ => {
                    waiting.known.remove(&news);
                    return Some(news);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_due_once_more_and_not_at_once() {
        let told = Told::default();
        told.add(News::Content(NodeId::ROOT));
        told.add(News::Content(NodeId::ROOT));
        told.add(News::Attributes(NodeId::ROOT));
        let now = Instant::now();
        assert_eq!(told.next(now), None);
        let later = now + AGAIN_AFTER;
        // What was told twice may come behind what was told once since.
        let due: Vec<News> = std::iter::from_fn(|| told.next(later)).collect();
        assert_eq!(due.len(), 2, "{due:?}");
        for expected in [News::Content(NodeId::ROOT), News::Attributes(NodeId::ROOT)] {
            assert!(due.contains(&expected), "{due:?}");
        }
    }
}
