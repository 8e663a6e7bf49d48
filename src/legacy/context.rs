//! Context packages: what somebody put together for one review, kept as events.
//!
//! ```text
//!  event   id 1_0_context-package   custom, context_package_created   a   live_from 1
//!          id 2_0_context-package   custom, context_package_created   b   live_from 1
//!          id 3_0_context-package   custom, context_package_removed   a   live_from 2
//! ```
//!
//! Each event about packages has the next number in its id, by which the store finds it; so whoever begins looks for
//! the last one, and from there goes back only to the first package that was still there then (`live_from`). What it
//! costs depends on how many packages there are, not on how long the log is.
//!
//! Invariants: no two packages that are there have one id; nothing is there from its `expires_at` on. A package never
//! changes: its files are those of the tree right after the event that made it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::native::{self, NewEvent};
use super::time;
use crate::store::Origin;
use crate::store::log::Next;
use crate::store::record::Entry;
use crate::tree::{Refusal, Seq, Timestamp, Tree};

/// The last part of the ids of these events.
const NODE: &str = "context-package";
const CREATED: &str = "context_package_created";
const REMOVED: &str = "context_package_removed";

/// One package.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The event that made it.
    pub seq: Seq,
    /// When that was.
    pub created: Timestamp,
    /// From then on it is not there; `None` is never.
    pub expires: Option<Timestamp>,
    /// What it was made of.
    pub is: NewPackage,
    number: u64,
}

/// What a package is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewPackage {
    /// Its name below `context/`: 1 to 255 bytes without `/` and NUL, and not `.` or `..`.
    pub package_id: String,
    /// The request it is for; may be empty.
    pub request_id: String,
    /// What the agents it is for can do.
    pub agent_capabilities: Vec<String>,
    /// Paths of the project, from its root on.
    pub files_involved: Vec<String>,
    /// Whatever else belongs to it.
    pub context_data: Map<String, Value>,
    /// ISO 8601, without an offset in UTC; `None` is never.
    pub expires_at: Option<String>,
}

/// Why there is no new package.
#[derive(Debug)]
pub enum PackageError {
    /// The id is no name of a directory.
    Id,
    /// A package of this id is there.
    Taken,
    /// `expires_at` is no time.
    Expiry,
    /// The store's.
    Tree(Refusal),
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str(
                "package_id must be 1 to 255 bytes without `/` and NUL, and not `.` or `..`",
            ),
            Self::Taken => f.write_str("a package of this package_id is there: remove it first"),
            Self::Expiry => {
                f.write_str("expires_at must be an ISO 8601 time such as 2026-01-31T12:00:00Z")
            }
            Self::Tree(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for PackageError {}

impl From<Refusal> for PackageError {
    fn from(refusal: Refusal) -> Self {
        Self::Tree(refusal)
    }
}

impl Package {
    /// `manifest.json`.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let created = time::of(self.created).text;
        json!({
            "package_id": self.is.package_id,
            "request_id": self.is.request_id,
            "agent_capabilities": self.is.agent_capabilities,
            "files_involved": self.is.files_involved,
            // The bridge's are UTC and do not say so.
            "created_at": created.strip_suffix("+00:00").unwrap_or(&created),
            "expires_at": self.is.expires_at,
        })
    }

    fn is_there(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// The packages of a store. Any number of these may look at one store.
#[derive(Debug)]
pub struct Packages {
    tree: Tree,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How many events about packages were read.
    read: u64,
    live: BTreeMap<String, Arc<Package>>,
}

/// One at a time numbers an event, whichever [`Packages`] it does so through.
static NUMBERING: Mutex<()> = Mutex::new(());

impl Packages {
    /// Those of `tree`.
    #[must_use]
    pub fn new(tree: &Tree) -> Self {
        Self { tree: tree.clone(), known: Mutex::default() }
    }

    /// All that are there at `now`, by id.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn list(&self, now: Timestamp) -> Result<Vec<Arc<Package>>, Refusal> {
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        Ok(known.live.values().filter(|package| package.is_there(now)).cloned().collect())
    }

    /// The one called `id`, if it is there at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn find(&self, id: &str, now: Timestamp) -> Result<Option<Arc<Package>>, Refusal> {
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        Ok(known.live.get(id).filter(|package| package.is_there(now)).cloned())
    }

    /// The one that event `seq` made, if it is there at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn made_by(&self, seq: Seq, now: Timestamp) -> Result<Option<Arc<Package>>, Refusal> {
        Ok(self.list(now)?.into_iter().find(|package| package.seq == seq))
    }

    /// Makes a package.
    ///
    /// # Errors
    ///
    /// See [`PackageError`].
    pub fn make(
        &self,
        origin: Origin,
        new: &NewPackage,
        now: Timestamp,
    ) -> Result<Arc<Package>, PackageError> {
        let id = new.package_id.as_bytes();
        if !(1..=255).contains(&id.len())
            || id.iter().any(|byte| matches!(byte, 0 | b'/'))
            || matches!(id, b"." | b"..")
        {
            return Err(PackageError::Id);
        }
        if new.expires_at.as_deref().is_some_and(|text| time::parse(text).is_none()) {
            return Err(PackageError::Expiry);
        }
        let _numbering = NUMBERING.lock();
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        if known.live.get(&new.package_id).is_some_and(|package| package.is_there(now)) {
            return Err(PackageError::Taken);
        }
        let mut data = Map::new();
        data.insert("package_id".to_owned(), new.package_id.clone().into());
        data.insert("request_id".to_owned(), new.request_id.clone().into());
        data.insert("agent_capabilities".to_owned(), new.agent_capabilities.clone().into());
        data.insert("files_involved".to_owned(), new.files_involved.clone().into());
        data.insert("context_data".to_owned(), new.context_data.clone().into());
        data.insert("expires_at".to_owned(), new.expires_at.clone().into());
        self.keep(&known, origin, CREATED, &new.package_id, data, now)?;
        // It is told of even where it has expired already.
        self.read_on(&mut known)?;
        let made = known.live.get(&new.package_id).cloned();
        known.forget(now);
        made.ok_or(PackageError::Tree(Refusal::Stale))
    }

    /// Takes the package `id` away. Whether it was there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn remove(&self, origin: Origin, id: &str, now: Timestamp) -> Result<bool, Refusal> {
        let _numbering = NUMBERING.lock();
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        if known.live.get(id).is_none_or(|package| !package.is_there(now)) {
            return Ok(false);
        }
        let mut data = Map::new();
        data.insert("package_id".to_owned(), id.into());
        self.keep(&known, origin, REMOVED, id, data, now)?;
        self.catch_up(&mut known, now)?;
        Ok(true)
    }

    fn keep(
        &self,
        known: &Known,
        origin: Origin,
        operation: &str,
        id: &str,
        data: Map<String, Value>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let number = known.read + 1;
        let there = known.live.values().filter(|package| package.is_there(now));
        let live_from = there.map(|package| package.number).min().unwrap_or(number);
        let mut metadata = Map::new();
        metadata.insert("operation".to_owned(), operation.into());
        metadata.insert("live_from".to_owned(), live_from.into());
        let new = NewEvent {
            kind: "custom",
            aggregate_id: id.to_owned(),
            aggregate_type: "context_package".to_owned(),
            source_agent: None,
            source_component: "http_server".to_owned(),
            data,
            metadata,
        };
        native::keep_as(&self.tree, origin, &new, Some(event_id(number))).map(drop)
    }

    /// Reads what was said of packages since, and forgets those that are not there any more where something was.
    fn catch_up(&self, known: &mut Known, now: Timestamp) -> Result<(), Refusal> {
        let read = known.read;
        self.read_on(known)?;
        if known.read != read {
            known.forget(now);
        }
        Ok(())
    }

    fn read_on(&self, known: &mut Known) -> Result<(), Refusal> {
        let mut last = known.read;
        // Twice as far each time, then back: nobody knows how many there are.
        let mut step = 1;
        while self.event_at(last + step)?.is_some() {
            last += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if self.event_at(last + step)?.is_some() {
                last += step;
            }
        }
        if last == known.read {
            return Ok(());
        }
        let mut next = known.read + 1;
        if known.read == 0
            && let Some(seq) = self.event_at(last)?
            && let Some((event, _)) = self.read(seq)?
        {
            let live_from = event.metadata.get("live_from").and_then(Value::as_u64);
            next = live_from.unwrap_or(1).clamp(1, last);
        }
        for number in next..=last {
            if let Some(seq) = self.event_at(number)?
                && let Some((event, logged)) = self.read(seq)?
            {
                known.apply(number, seq, logged, &event);
            }
        }
        known.read = last;
        Ok(())
    }

    fn event_at(&self, number: u64) -> Result<Option<Seq>, Refusal> {
        Ok(self.tree.store().foreign(event_id(number).as_bytes(), None)?)
    }

    fn read(&self, seq: Seq) -> Result<Option<(super::event::Event, Timestamp)>, Refusal> {
        let mut reader = self.tree.store().log_from(seq).map_err(Refusal::Io)?;
        loop {
            let Next::Record(_, record) = reader.read().map_err(Refusal::Io)? else {
                return Ok(None);
            };
            if let Some(Entry::Event(logged)) = record.entry() {
                let event = native::foreign(&self.tree, &logged).map_err(Refusal::Io)?;
                let same = logged.seq == seq;
                return Ok(event.filter(|_| same).map(|event| (event, logged.time)));
            }
        }
    }
}

impl Known {
    /// Lets go of what has expired.
    fn forget(&mut self, now: Timestamp) {
        self.live.retain(|_, package| package.is_there(now));
    }

    fn apply(&mut self, number: u64, seq: Seq, created: Timestamp, event: &super::event::Event) {
        let text = |key: &str| event.datum(key).map(str::to_owned);
        let texts = |key: &str| -> Vec<String> {
            let list = event.data.get(key).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let Some(package_id) = text("package_id") else { return };
        match event.metadata.get("operation").and_then(Value::as_str) {
            Some(CREATED) => {
                let expires_at = text("expires_at");
                let expires = expires_at.as_deref().and_then(time::parse).map(|stamp| stamp.time);
                let is = NewPackage {
                    package_id: package_id.clone(),
                    request_id: text("request_id").unwrap_or_default(),
                    agent_capabilities: texts("agent_capabilities"),
                    files_involved: texts("files_involved"),
                    context_data: event
                        .data
                        .get("context_data")
                        .and_then(Value::as_object)
                        .cloned()
                        .unwrap_or_default(),
                    expires_at,
                };
                let package = Package { seq, created, expires, is, number };
                self.live.insert(package_id, Arc::new(package));
            }
            Some(REMOVED) => drop(self.live.remove(&package_id)),
            _ => (),
        }
    }
}

fn event_id(number: u64) -> String {
    format!("{number}_0_{NODE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::SimDisk;
    use crate::store::{CreateOptions, OpenOptions, Store};

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn tree() -> Tree {
        let open = OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() };
        let disk = Arc::new(SimDisk::new(1 << 30));
        let store = Store::create_on(disk, &CreateOptions::default(), &open).unwrap();
        Tree::new(Arc::new(store))
    }

    fn new(id: &str) -> NewPackage {
        NewPackage {
            package_id: id.to_owned(),
            request_id: "r".to_owned(),
            ..NewPackage::default()
        }
    }

    fn ids(packages: &Packages, now: Timestamp) -> Vec<String> {
        let list = packages.list(now).unwrap();
        list.iter().map(|package| package.is.package_id.clone()).collect()
    }

    #[test]
    fn packages_are_there_until_they_are_removed_for_whoever_looks() {
        let tree = tree();
        let (one, other) = (Packages::new(&tree), Packages::new(&tree));
        for id in ["b", "a", "c"] {
            one.make(Origin::default(), &new(id), NOW).unwrap();
        }
        assert_eq!(ids(&other, NOW), ["a", "b", "c"]);
        assert!(other.remove(Origin::default(), "b", NOW).unwrap());
        assert!(!one.remove(Origin::default(), "b", NOW).unwrap());
        assert_eq!(ids(&one, NOW), ["a", "c"]);
        let taken = one.make(Origin::default(), &new("a"), NOW);
        assert!(matches!(taken, Err(PackageError::Taken)));
        one.make(Origin::default(), &new("b"), NOW).unwrap();
        assert_eq!(ids(&Packages::new(&tree), NOW), ["a", "b", "c"]);
    }

    #[test]
    fn who_begins_reads_from_the_first_that_is_there() {
        let tree = tree();
        let packages = Packages::new(&tree);
        for number in 0..20 {
            let id = number.to_string();
            packages.make(Origin::default(), &new(&id), NOW).unwrap();
            packages.remove(Origin::default(), &id, NOW).unwrap();
        }
        packages.make(Origin::default(), &new("last"), NOW).unwrap();
        let fresh = Packages::new(&tree);
        assert_eq!(ids(&fresh, NOW), ["last"]);
        let found = fresh.find("last", NOW).unwrap().unwrap();
        assert_eq!(fresh.made_by(found.seq, NOW).unwrap(), Some(Arc::clone(&found)));
        assert_eq!(found.manifest()["request_id"], "r");
    }

    #[test]
    fn a_package_is_gone_when_it_expires_and_its_id_is_free() {
        let tree = tree();
        let packages = Packages::new(&tree);
        let expires_at = Some("2023-11-14T22:13:21".to_owned());
        let is = NewPackage { expires_at, ..new("short") };
        packages.make(Origin::default(), &is, NOW).unwrap();
        assert_eq!(ids(&packages, NOW), ["short"]);
        let later = Timestamp(NOW.0 + 1_000_000_000);
        assert_eq!(ids(&packages, later), [""; 0]);
        packages.make(Origin::default(), &new("short"), later).unwrap();
        assert_eq!(ids(&packages, later), ["short"]);
    }

    #[test]
    fn what_expired_is_forgotten_and_the_last_day_there_is_never_comes() {
        let tree = tree();
        let (packages, other) = (Packages::new(&tree), Packages::new(&tree));
        let made = |id, expires_at: &str, now| {
            let expires_at = Some(expires_at.to_owned());
            packages.make(Origin::default(), &NewPackage { expires_at, ..new(id) }, now).unwrap()
        };
        made("short", "2023-11-14T22:13:21Z", NOW);
        assert_eq!(ids(&other, NOW), ["short"]);
        let later = Timestamp(NOW.0 + 1_000_000_000);
        made("past", "1970-01-01T00:00:00Z", later);
        made("ever", "9999-12-31T23:59:59Z", later);
        assert_eq!(ids(&other, later), ["ever"]);
        for packages in [packages, other] {
            assert_eq!(packages.known.lock().live.len(), 1);
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let tree = tree();
        let packages = Packages::new(&tree);
        for id in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
            let refused = packages.make(Origin::default(), &new(id), NOW);
            assert!(matches!(refused, Err(PackageError::Id)), "{id:?}");
        }
        let is = NewPackage { expires_at: Some("soon".to_owned()), ..new("a") };
        let refused = packages.make(Origin::default(), &is, NOW);
        assert!(matches!(refused, Err(PackageError::Expiry)));
    }
}
