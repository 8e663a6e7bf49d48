//! Locks of WebDAV clients, in memory.
//!
//! Those of `dav-server` (0.11) itself never end, and are of no more use once the root was locked and unlocked.
//!
//! Invariants: of two locks on one thing both are shared; one whose time is over is none, whoever asks; there are at
//! most [`LOCKS_MAX`]. What is locked is a path, whatever it leads to.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dav_server::davpath::DavPath;
use dav_server::ls::{DavLock, DavLockSystem, LsFuture};
use parking_lot::Mutex;
use xmltree::{Element, XMLNode};

use crate::api::events::uuid;

/// Most locks at a time; with as many, nothing more can be locked.
const LOCKS_MAX: usize = 1024;
/// How long one is held whose client does not say.
const LASTS: Duration = Duration::from_secs(600);
/// How long at most, until it is asked for again.
const LASTS_MAX: Duration = Duration::from_secs(3600);
/// So much of memory an owner's words about itself may take, in bytes; longer ones are not kept.
const OWNER_MAX: usize = 8 << 10;

/// Locks of all clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table(Vec<Held>);

#[derive(Clone, Debug)]
struct Held {
    lock: DavLock,
    ends: Instant,
}

fn names(path: &DavPath) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// Whether `path` is `above`, or lies below it.
fn is_within(path: &DavPath, above: &DavPath) -> bool {
    let mut path = names(path);
    names(above).all(|name| path.next() == Some(name))
}

fn covers(lock: &DavLock, path: &DavPath) -> bool {
    is_within(path, &lock.path) && (lock.deep || is_within(&lock.path, path))
}

/// How long a lock is held for which `wanted` is asked.
fn lasts(wanted: Option<Duration>) -> Duration {
    wanted.unwrap_or(LASTS).min(LASTS_MAX)
}

/// About what an element takes of memory, in bytes.
fn size(element: &Element) -> usize {
    let attributes = element.attributes.iter().map(|(name, value)| name.len() + value.len());
    let spaces = element.namespaces.iter().flat_map(|spaces| &spaces.0);
    let spaces = spaces.map(|(prefix, name)| prefix.len() + name.len());
    let children = element.children.iter().map(|child| match child {
        XMLNode::Element(element) => size(element),
        XMLNode::Comment(text) | XMLNode::CData(text) | XMLNode::Text(text) => text.len(),
        XMLNode::ProcessingInstruction(name, text) => {
            name.len() + text.as_ref().map_or(0, String::len)
        }
    });
    size_of::<Element>()
        + element.name.len()
        + attributes.chain(spaces).chain(children).sum::<usize>()
}

impl Table {
    /// The locks there are, those let go whose time is over.
    fn live(&mut self, now: Instant) -> &mut Vec<Held> {
        self.0.retain(|held| held.ends > now);
        &mut self.0
    }

    /// Makes `wanted` a lock, or tells one that is in its way.
    fn lock(&mut self, wanted: DavLock, now: Instant) -> Result<DavLock, DavLock> {
        let live = self.live(now);
        let in_the_way = live.iter().find(|Held { lock, .. }| {
            let both = covers(lock, &wanted.path) || covers(&wanted, &lock.path);
            both && !(lock.shared && wanted.shared)
        });
        let in_the_way = in_the_way.or_else(|| live.get(LOCKS_MAX - 1));
        if let Some(held) = in_the_way {
            return Err(held.lock.clone());
        }
        let lasts = lasts(wanted.timeout);
        let lock = DavLock { timeout: Some(lasts), ..wanted };
        live.push(Held { lock: lock.clone(), ends: now + lasts });
        Ok(lock)
    }

    /// The lock with `token` that covers `path`.
    fn find(&mut self, path: &DavPath, token: &str, now: Instant) -> Option<&mut Held> {
        self.live(now)
            .iter_mut()
            .find(|Held { lock, .. }| lock.token == token && covers(lock, path))
    }

    fn unlock(&mut self, path: &DavPath, token: &str, now: Instant) -> Result<(), ()> {
        self.find(path, token, now).ok_or(())?;
        self.0.retain(|held| held.lock.token != token);
        Ok(())
    }

    fn refresh(
        &mut self,
        path: &DavPath,
        token: &str,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<DavLock, ()> {
        let held = self.find(path, token, now).ok_or(())?;
        let lasts = lasts(timeout);
        held.ends = now + lasts;
        held.lock.timeout = Some(lasts);
        Ok(held.lock.clone())
    }

    /// A lock that keeps `who`, showing `tokens`, from changing `path`, with `deep` also all below it.
    fn keeps_out(
        &mut self,
        path: &DavPath,
        who: Option<&str>,
        deep: bool,
        tokens: &[String],
        now: Instant,
    ) -> Option<DavLock> {
        let live = &*self.live(now);
        let is_theirs =
            |lock: &DavLock| tokens.contains(&lock.token) && lock.principal.as_deref() == who;
        // Of shared locks on a thing, one is enough.
        let is_open = |lock: &DavLock| {
            let thing = if is_within(&lock.path, path) { &*lock.path } else { path };
            live.iter().any(|Held { lock: held, .. }| {
                is_theirs(held) && covers(held, thing) && (lock.shared || held.token == lock.token)
            })
        };
        let mut on_it = live
            .iter()
            .map(|held| &held.lock)
            .filter(|lock| covers(lock, path) || deep && is_within(&lock.path, path));
        on_it.find(|lock| !is_open(lock)).cloned()
    }

    fn on(&mut self, path: &DavPath, now: Instant) -> Vec<DavLock> {
        let live = self.live(now).iter().map(|held| &held.lock);
        live.filter(|lock| covers(lock, path)).cloned().collect()
    }

    /// Lets go of all at `path` and below, which is gone.
    fn delete(&mut self, path: &DavPath) {
        self.0.retain(|held| !is_within(&held.lock.path, path));
    }
}

/// A lock that nobody has.
fn nobodys(path: &DavPath) -> DavLock {
    DavLock {
        token: String::new(),
        path: Box::new(path.clone()),
        principal: None,
        owner: None,
        timeout_at: None,
        timeout: None,
        shared: false,
        deep: false,
    }
}

impl DavLockSystem for Locks {
    fn lock(
        &self,
        path: &DavPath,
        principal: Option<&str>,
        owner: Option<&Element>,
        timeout: Option<Duration>,
        shared: bool,
        deep: bool,
    ) -> LsFuture<'_, Result<DavLock, DavLock>> {
        let owner = owner.filter(|owner| size(owner) <= OWNER_MAX);
        let wanted = DavLock {
            principal: principal.map(str::to_owned),
            owner: owner.map(|owner| Box::new(owner.clone())),
            timeout,
            shared,
            deep,
            ..nobodys(path)
        };
        let locked = match uuid() {
            Ok(uuid) => {
                let wanted = DavLock { token: format!("urn:uuid:{uuid}"), ..wanted };
                self.0.lock().lock(wanted, Instant::now())
            }
            Err(problem) => {
                tracing::error!(problem = %problem.words(), "nothing can be locked");
                Err(wanted)
            }
        };
        Box::pin(ready(locked))
    }

    fn unlock(&self, path: &DavPath, token: &str) -> LsFuture<'_, Result<(), ()>> {
        Box::pin(ready(self.0.lock().unlock(path, token, Instant::now())))
    }

    fn refresh(
        &self,
        path: &DavPath,
        token: &str,
        timeout: Option<Duration>,
    ) -> LsFuture<'_, Result<DavLock, ()>> {
        Box::pin(ready(self.0.lock().refresh(path, token, timeout, Instant::now())))
    }

    fn check(
        &self,
        path: &DavPath,
        principal: Option<&str>,
        ignore_principal: bool,
        deep: bool,
        submitted_tokens: &[String],
    ) -> LsFuture<'_, Result<(), DavLock>> {
        let (now, mut table) = (Instant::now(), self.0.lock());
        let refused = if ignore_principal {
            // It is a condition that asks so: whether there is a lock with this token.
            let has = |token: &String| table.find(path, token, now).is_some();
            (!submitted_tokens.iter().any(has)).then(|| nobodys(path))
        } else {
            table.keeps_out(path, principal, deep, submitted_tokens, now)
        };
        Box::pin(ready(refused.map_or(Ok(()), Err)))
    }

    fn discover(&self, path: &DavPath) -> LsFuture<'_, Vec<DavLock>> {
        Box::pin(ready(self.0.lock().on(path, Instant::now())))
    }

    fn delete(&self, path: &DavPath) -> LsFuture<'_, Result<(), ()>> {
        self.0.lock().delete(path);
        Box::pin(ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> DavPath {
        DavPath::new(text).unwrap()
    }

    fn wanted(at: &str, token: &str) -> DavLock {
        let principal = Some("a".to_owned());
        DavLock { token: token.to_owned(), principal, ..nobodys(&path(at)) }
    }

    /// Whether `who`, showing `tokens`, may change what is at `at`.
    fn may(table: &mut Table, at: &str, (who, tokens): (&str, &[&str]), now: Instant) -> bool {
        let tokens: Vec<_> = tokens.iter().map(|&token| token.to_owned()).collect();
        table.keeps_out(&path(at), Some(who), false, &tokens, now).is_none()
    }

    #[test]
    fn a_lock_ends_by_itself() {
        let (mut table, now) = (Table::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let asked = [None, Some(1), Some(1_000_000)];
        for (asked, held) in asked.into_iter().zip([600, 1, 3600]) {
            let timeout = asked.map(Duration::from_secs);
            let lock = table.lock(DavLock { timeout, ..wanted("/f", "t") }, now).unwrap();
            assert_eq!(lock.timeout, Some(Duration::from_secs(held)));
            assert!(!may(&mut table, "/f", ("b", &[]), after(held - 1)));
            assert!(may(&mut table, "/f", ("b", &[]), after(held)));
            assert!(table.unlock(&path("/f"), "t", after(held)).is_err());
            assert!(table.refresh(&path("/f"), "t", None, after(held)).is_err());
        }
        table.lock(wanted("/f", "t"), now).unwrap();
        let refreshed = table.refresh(&path("/f"), "t", None, after(500)).unwrap();
        assert_eq!(refreshed.timeout, Some(LASTS));
        assert!(table.refresh(&path("/f"), "u", None, after(500)).is_err());
        assert_eq!(table.on(&path("/f"), after(1099)).len(), 1);
        assert!(table.on(&path("/f"), after(1100)).is_empty());
    }

    #[test]
    fn a_deep_lock_covers_what_is_below() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.lock(DavLock { deep: true, ..wanted("/d/", "t") }, now).unwrap();
        for (at, covered) in
            [("/d", true), ("/d/e/f", true), ("/", false), ("/dd", false), ("/e/d", false)]
        {
            assert_eq!(may(&mut table, at, ("b", &[]), now), !covered, "{at}");
            assert!(may(&mut table, at, ("a", &["t"]), now), "{at}");
            assert_eq!(table.lock(wanted(at, "u"), now).is_err(), covered, "{at}");
            let _ = table.unlock(&path(at), "u", now);
        }
        assert!(table.keeps_out(&path("/"), Some("b"), true, &[], now).is_some());
        assert!(table.lock(DavLock { deep: true, ..wanted("/", "u") }, now).is_err());
        // Who has the token, but is somebody else, has not locked it.
        assert!(!may(&mut table, "/d", ("b", &["t"]), now));
        table.delete(&path("/d/e"));
        assert!(!may(&mut table, "/d/e", ("b", &[]), now));
        table.delete(&path("/"));
        assert!(may(&mut table, "/d/e", ("b", &[]), now));
    }

    #[test]
    fn a_lock_that_is_not_deep_covers_one_thing() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.lock(wanted("/d", "t"), now).unwrap();
        assert!(!may(&mut table, "/d/", ("b", &[]), now));
        assert!(may(&mut table, "/d/f", ("b", &[]), now));
        table.lock(wanted("/d/f", "u"), now).unwrap();
        assert!(table.lock(DavLock { deep: true, ..wanted("/d", "v") }, now).is_err());
    }

    #[test]
    fn shared_locks_go_together() {
        let (mut table, now) = (Table::default(), Instant::now());
        let shared = |token| DavLock { shared: true, deep: true, ..wanted("/d", token) };
        table.lock(shared("t"), now).unwrap();
        table.lock(shared("u"), now).unwrap();
        assert!(table.lock(wanted("/d/f", "v"), now).is_err());
        assert!(!may(&mut table, "/d/f", ("a", &[]), now));
        assert!(may(&mut table, "/d/f", ("a", &["u"]), now));
        table.unlock(&path("/d"), "t", now).unwrap();
        table.unlock(&path("/d/f"), "u", now).unwrap();
        table.lock(wanted("/d/f", "v"), now).unwrap();
        assert!(table.lock(shared("t"), now).is_err());
    }

    #[test]
    fn a_wrong_token_unlocks_nothing_and_the_root_can_be_unlocked() {
        let (mut table, now) = (Table::default(), Instant::now());
        for _ in 0..2 {
            table.lock(DavLock { deep: true, ..wanted("/", "t") }, now).unwrap();
            assert!(!may(&mut table, "/d/f", ("b", &[]), now));
            assert!(table.unlock(&path("/"), "u", now).is_err());
            assert!(!may(&mut table, "/", ("b", &[]), now));
            table.unlock(&path("/"), "t", now).unwrap();
            assert!(may(&mut table, "/", ("b", &[]), now));
        }
        table.lock(wanted("/f", "t"), now).unwrap();
        assert!(table.unlock(&path("/g"), "t", now).is_err());
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let (mut table, now) = (Table::default(), Instant::now());
        for n in 0..LOCKS_MAX {
            table.lock(wanted(&format!("/{n}"), &format!("t{n}")), now).unwrap();
        }
        assert!(table.lock(wanted("/more", "t"), now).is_err());
        table.unlock(&path("/7"), "t7", now).unwrap();
        table.lock(wanted("/more", "t"), now).unwrap();
    }

    #[test]
    fn long_words_of_an_owner_are_not_counted_short() {
        let long = "x".repeat(OWNER_MAX + 1);
        let read = |text: &str| Element::parse(text.as_bytes()).unwrap();
        assert!(size(&read("<owner><href>http://somebody/</href></owner>")) <= OWNER_MAX);
        for text in [
            format!("<owner>{long}</owner>"),
            format!("<owner a='{long}'/>"),
            format!("<owner xmlns:a='{long}'/>"),
            format!("<owner>{}</owner>", "<a/>".repeat(OWNER_MAX / 100)),
        ] {
            assert!(size(&read(&text)) > OWNER_MAX);
        }
    }
}
