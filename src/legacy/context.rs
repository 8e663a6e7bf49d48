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
//! costs depends on how many packages there are, not on how long the log is. Whoever goes on looking reads what came since.
//!
//! Invariants: no two packages that are there have one id; nothing is there from its `expires_at` on. A package never
//! changes: its files are those of the tree right after the event that made it. In memory are the manifests of those that
//! are there, [`PACKAGES_MAX`] and [`MANIFESTS_MAX`] at most where nobody made more before there was a limit; what else was
//! put into a package is read from its event.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::native::{self, NewEvent, Told};
use super::time;
use crate::store::Origin;
use crate::store::log::Next;
use crate::store::record::Entry;
use crate::tree::{Refusal, Seq, Timestamp, Tree};

/// The last part of the ids of these events.
const NODE: &str = "context-package";
const CREATED: &str = "context_package_created";
const REMOVED: &str = "context_package_removed";

/// So many packages are there at most.
pub const PACKAGES_MAX: usize = 10_000;
/// So many bytes the texts of all manifests are at most, each with what it takes to be one.
pub const MANIFESTS_MAX: usize = 32 << 20;

/// One package, without what its `context_data` is: see [`Packages::context_data`].
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The event that made it.
    pub seq: Seq,
    /// When that was.
    pub created: Timestamp,
    /// From then on it is not there; `None` is never.
    pub expires: Option<Timestamp>,
    /// As in [`NewPackage`], like all that follows.
    pub package_id: String,
    /// The request it is for.
    pub request_id: String,
    /// What the agents it is for can do.
    pub agent_capabilities: Vec<String>,
    /// Paths of the project.
    pub files_involved: Vec<String>,
    /// ISO 8601.
    pub expires_at: Option<String>,
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
    /// There are [`PACKAGES_MAX`] already.
    TooMany,
    /// With its manifest those of all would take more than [`MANIFESTS_MAX`].
    TooLarge,
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
            Self::TooMany => write!(
                f,
                "there are {PACKAGES_MAX} context packages, which is the limit: remove some first, and give new ones an expires_at"
            ),
            Self::TooLarge => write!(
                f,
                "the manifests of all context packages would take more than {} MiB, which is the limit: remove some packages \
                 first, and give new ones an expires_at; what is no path belongs in context_data, which has no part in this",
                MANIFESTS_MAX >> 20
            ),
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
            "package_id": self.package_id,
            "request_id": self.request_id,
            "agent_capabilities": self.agent_capabilities,
            "files_involved": self.files_involved,
            // The bridge's are UTC and do not say so.
            "created_at": created.strip_suffix("+00:00").unwrap_or(&created),
            "expires_at": self.expires_at,
        })
    }

    fn is_there(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Bytes of memory its manifest takes.
    fn size(&self) -> usize {
        let one = |text: &str| size_of::<String>() + text.len();
        let all = |texts: &[String]| texts.iter().map(|text| one(text)).sum::<usize>();
        let expires_at = self.expires_at.as_deref().unwrap_or_default();
        one(&self.package_id)
            + one(&self.request_id)
            + one(expires_at)
            + all(&self.agent_capabilities)
            + all(&self.files_involved)
    }
}

/// The packages of a store. Any number of these may look at one store, but each reads for itself: keep one.
#[derive(Debug)]
pub struct Packages {
    tree: Tree,
    known: Mutex<Known>,
    /// [`PACKAGES_MAX`] and [`MANIFESTS_MAX`].
    limits: (usize, usize),
}

#[derive(Debug, Default)]
struct Known {
    /// How many events about packages were read.
    read: u64,
    live: BTreeMap<Seq, Arc<Package>>,
    /// The events by what they made.
    ids: BTreeMap<String, Seq>,
    /// Of all that are live.
    size: usize,
}

/// One at a time numbers an event, whichever [`Packages`] it does so through.
static NUMBERING: Mutex<()> = Mutex::new(());

impl Packages {
    /// Those of `tree`.
    #[must_use]
    pub fn new(tree: &Tree) -> Self {
        let limits = (PACKAGES_MAX, MANIFESTS_MAX);
        Self { tree: tree.clone(), known: Mutex::default(), limits }
    }

    /// All that are there at `now`, by id.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn list(&self, now: Timestamp) -> Result<Vec<Arc<Package>>, Refusal> {
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        let live = known.ids.values().filter_map(|seq| known.live.get(seq));
        Ok(live.filter(|package| package.is_there(now)).cloned().collect())
    }

    /// The one called `id`, if it is there at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn find(&self, id: &str, now: Timestamp) -> Result<Option<Arc<Package>>, Refusal> {
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        Ok(known.named(id, now).cloned())
    }

    /// The one that event `seq` made, if it is there at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn made_by(&self, seq: Seq, now: Timestamp) -> Result<Option<Arc<Package>>, Refusal> {
        let mut known = self.known.lock();
        self.catch_up(&mut known, now)?;
        Ok(known.live.get(&seq).filter(|package| package.is_there(now)).cloned())
    }

    /// What else was put into `package`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn context_data(&self, package: &Package) -> Result<Map<String, Value>, Refusal> {
        let (event, _) = self.read(package.seq)?.ok_or(Refusal::Stale)?;
        let data = event.data.get("context_data").and_then(Value::as_object);
        Ok(data.cloned().unwrap_or_default())
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
        known.forget(now);
        if known.named(&new.package_id, now).is_some() {
            return Err(PackageError::Taken);
        }
        let number = known.read + 1;
        let mut made = Package {
            seq: Seq::NOW,
            created: now,
            expires: new.expires_at.as_deref().and_then(expiry),
            package_id: new.package_id.clone(),
            request_id: new.request_id.clone(),
            agent_capabilities: new.agent_capabilities.clone(),
            files_involved: new.files_involved.clone(),
            expires_at: new.expires_at.clone(),
            number,
        };
        let (packages_max, manifests_max) = self.limits;
        if known.live.len() >= packages_max {
            return Err(PackageError::TooMany);
        }
        if known.size + made.size() > manifests_max {
            return Err(PackageError::TooLarge);
        }
        let mut data = Map::new();
        data.insert("package_id".to_owned(), new.package_id.clone().into());
        data.insert("request_id".to_owned(), new.request_id.clone().into());
        data.insert("agent_capabilities".to_owned(), new.agent_capabilities.clone().into());
        data.insert("files_involved".to_owned(), new.files_involved.clone().into());
        data.insert("context_data".to_owned(), new.context_data.clone().into());
        data.insert("expires_at".to_owned(), new.expires_at.clone().into());
        let told = self.keep(&known, origin, CREATED, &new.package_id, data, now)?;
        (made.seq, made.created) = (told.seq, told.logged);
        let made = Arc::new(made);
        known.read = number;
        if made.is_there(now) {
            known.insert(Arc::clone(&made));
        }
        Ok(made)
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
        if known.named(id, now).is_none() {
            return Ok(false);
        }
        let mut data = Map::new();
        data.insert("package_id".to_owned(), id.into());
        self.keep(&known, origin, REMOVED, id, data, now)?;
        known.read += 1;
        known.remove(id);
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
    ) -> Result<Told, Refusal> {
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
        native::keep_as(&self.tree, origin, &new, Some(event_id(number)))
    }

    /// Reads what was said of packages since, and forgets those that are not there any more where something was.
    fn catch_up(&self, known: &mut Known, now: Timestamp) -> Result<(), Refusal> {
        let read = known.read;
        self.read_on(known, now)?;
        if known.read != read {
            known.forget(now);
        }
        Ok(())
    }

    fn read_on(&self, known: &mut Known, now: Timestamp) -> Result<(), Refusal> {
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
                known.apply(number, (seq, logged), &event, now);
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
    /// The package `id`, if it is there at `now`.
    fn named(&self, id: &str, now: Timestamp) -> Option<&Arc<Package>> {
        self.live.get(self.ids.get(id)?).filter(|package| package.is_there(now))
    }

    fn insert(&mut self, package: Arc<Package>) {
        self.remove(&package.package_id);
        self.size += package.size();
        self.ids.insert(package.package_id.clone(), package.seq);
        self.live.insert(package.seq, package);
    }

    fn remove(&mut self, id: &str) {
        if let Some(package) = self.ids.remove(id).and_then(|seq| self.live.remove(&seq)) {
            self.size -= package.size();
        }
    }

    /// Lets go of what has expired.
    fn forget(&mut self, now: Timestamp) {
        let gone = self.live.values().filter(|package| !package.is_there(now));
        let gone: Vec<_> = gone.map(|package| package.package_id.clone()).collect();
        for id in gone {
            self.remove(&id);
        }
    }

    /// Takes in an event, unless what it made has expired.
    fn apply(
        &mut self,
        number: u64,
        (seq, created): (Seq, Timestamp),
        event: &super::event::Event,
        now: Timestamp,
    ) {
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
                let package = Package {
                    seq,
                    created,
                    expires: expires_at.as_deref().and_then(expiry),
                    package_id,
                    request_id: text("request_id").unwrap_or_default(),
                    agent_capabilities: texts("agent_capabilities"),
                    files_involved: texts("files_involved"),
                    expires_at,
                    number,
                };
                if package.is_there(now) {
                    self.insert(Arc::new(package));
                } else {
                    // Whatever had its id had expired when it was made.
                    self.remove(&package.package_id);
                }
            }
            Some(REMOVED) => self.remove(&package_id),
            _ => (),
        }
    }
}

fn expiry(text: &str) -> Option<Timestamp> {
    time::parse(text).map(|stamp| stamp.time)
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
        list.iter().map(|package| package.package_id.clone()).collect()
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
    fn what_else_is_in_a_package_is_read_when_it_is_asked_for() {
        let tree = tree();
        let packages = Packages::new(&tree);
        let context_data = Map::from_iter([("why".to_owned(), "x".repeat(1 << 20).into())]);
        let is = NewPackage { context_data: context_data.clone(), ..new("a") };
        let made = packages.make(Origin::default(), &is, NOW).unwrap();
        packages.make(Origin::default(), &new("b"), NOW).unwrap();
        let fresh = Packages::new(&tree);
        let found = fresh.find("a", NOW).unwrap().unwrap();
        assert_eq!(found, made);
        for packages in [&packages, &fresh] {
            assert!(packages.known.lock().size < 1 << 10);
            assert_eq!(packages.context_data(&found).unwrap(), context_data);
        }
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let tree = tree();
        let packages = Packages { limits: (3, usize::MAX), ..Packages::new(&tree) };
        let make = |packages: &Packages, is: &NewPackage, now| {
            packages.make(Origin::default(), is, now).map(|made| made.package_id.clone())
        };
        let expires_at = Some("2023-11-14T22:13:21Z".to_owned());
        make(&packages, &NewPackage { expires_at, ..new("short") }, NOW).unwrap();
        for id in ["a", "b"] {
            make(&packages, &new(id), NOW).unwrap();
        }
        let fresh = Packages { limits: (3, usize::MAX), ..Packages::new(&tree) };
        for packages in [&packages, &fresh] {
            let refused = make(packages, &new("c"), NOW).unwrap_err();
            assert!(matches!(refused, PackageError::TooMany));
            assert!(
                refused.to_string().contains("10000") && refused.to_string().contains("remove")
            );
        }
        let later = Timestamp(NOW.0 + 1_000_000_000);
        make(&packages, &new("c"), later).unwrap();
        assert!(make(&fresh, &new("d"), later).is_err(), "whoever makes them");
        assert!(fresh.remove(Origin::default(), "a", later).unwrap());
        make(&packages, &new("d"), later).unwrap();
        assert_eq!(ids(&Packages::new(&tree), later), ["b", "c", "d"]);
    }

    #[test]
    fn their_manifests_do_not_take_more_than_so_much() {
        let tree = tree();
        let packages = Packages { limits: (usize::MAX, 4 << 10), ..Packages::new(&tree) };
        let large = |id: &str, count| {
            let files_involved = vec![String::new(); count];
            NewPackage { files_involved, ..new(id) }
        };
        packages.make(Origin::default(), &large("a", 100), NOW).unwrap();
        let refused = packages.make(Origin::default(), &large("b", 100), NOW).unwrap_err();
        assert!(matches!(refused, PackageError::TooLarge));
        assert!(refused.to_string().contains("32 MiB"), "{refused}");
        let context_data = Map::from_iter([("k".to_owned(), "x".repeat(8 << 10).into())]);
        let is = NewPackage { context_data, ..large("b", 10) };
        packages.make(Origin::default(), &is, NOW).unwrap();
        assert!(packages.remove(Origin::default(), "a", NOW).unwrap());
        packages.make(Origin::default(), &large("c", 100), NOW).unwrap();
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
