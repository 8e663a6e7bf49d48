//! A disk on which nothing is written: what is changed stays in memory, over what is there, and goes with it.
//!
//! So a store can be opened that lies on a medium which cannot be written, or that nothing may happen to; and opening goes the
//! same way as always, with its marks in `super`, the seal at the end of the log, and whatever the index writes down.
//!
//! Invariants: no file or directory below is opened for writing, made, removed or renamed; its lock is taken, which
//! leaves no trace. At most [`KEPT_MAX`] bytes are kept: what needs more, such as an index that must be made anew, fails
//! as on a full disk.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use super::disk::{Disk, File, Lock, Real, Space};

/// Most bytes that are kept in memory.
pub const KEPT_MAX: usize = 256 << 20;
/// What is kept is kept in pieces of this many bytes.
const PAGE: usize = 4096;

/// See the module.
pub struct Overlay {
    below: Real,
    names: Mutex<FxHashMap<String, Named>>,
    directories: Mutex<Vec<String>>,
    kept: Arc<AtomicUsize>,
}

/// What a name that was used here means.
#[derive(Clone)]
enum Named {
    /// Nothing.
    Gone,
    File {
        /// The file that it began as, if it did as one.
        source: Option<String>,
        changes: Arc<RwLock<Changes>>,
    },
}

/// What is different from the file below.
#[derive(Debug, Default)]
struct Changes {
    /// `None`: as below.
    len: Option<u64>,
    /// From here on, what is below does not count.
    cut_at: Option<u64>,
    /// Whole pages, by number.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    /// Pages that read as zeros unless they are among those: from the first to before the last.
    holes: Vec<(u64, u64)>,
}

impl Overlay {
    /// Over the existing directory at `path`.
    ///
    /// # Errors
    ///
    /// What opening it says.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            below: Real::read_only(path)?,
            names: Mutex::default(),
            directories: Mutex::default(),
            kept: Arc::default(),
        })
    }

    fn layered(
        &self,
        source: Option<String>,
        changes: Arc<RwLock<Changes>>,
    ) -> io::Result<Arc<dyn File>> {
        let below = source.map(|source| self.below.open(&source, false)).transpose()?;
        Ok(Arc::new(Layered { below, changes, kept: Arc::clone(&self.kept) }))
    }

    /// What `path` means, if it is a file.
    fn found(&self, names: &FxHashMap<String, Named>, path: &str) -> io::Result<Named> {
        match names.get(path) {
            Some(Named::Gone) => Err(io::ErrorKind::NotFound.into()),
            Some(known) => Ok(known.clone()),
            None => {
                self.below.open(path, false)?;
                Ok(Named::File { source: Some(path.to_owned()), changes: Arc::default() })
            }
        }
    }
}

impl Disk for Overlay {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let mut names = self.names.lock();
        let found = match self.found(&names, path) {
            Err(err) if create && err.kind() == io::ErrorKind::NotFound => {
                Named::File { source: None, changes: Arc::default() }
            }
            other => other?,
        };
        names.insert(path.to_owned(), found.clone());
        drop(names);
        match found {
            Named::Gone => Err(io::ErrorKind::NotFound.into()),
            Named::File { source, changes } => self.layered(source, changes),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut found = match self.below.list(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                if !self.directories.lock().iter().any(|made| made == path) {
                    return Err(err);
                }
                Vec::new()
            }
            other => other?,
        };
        for (name, known) in &*self.names.lock() {
            let (directory, name) = name.rsplit_once('/').unwrap_or(("", name));
            if directory == path {
                found.retain(|there| there != name);
                if matches!(known, Named::File { .. }) {
                    found.push(name.to_owned());
                }
            }
        }
        Ok(found)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.directories.lock().push(path.to_owned());
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        self.found(&names, path)?;
        names.insert(path.to_owned(), Named::Gone);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        let moved = self.found(&names, from)?;
        names.insert(from.to_owned(), Named::Gone);
        names.insert(to.to_owned(), moved);
        Ok(())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.below.space()
    }

    fn boot(&self) -> io::Result<[u8; 16]> {
        self.below.boot()
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        self.below.lock(path)
    }
}

/// An open file.
struct Layered {
    below: Option<Arc<dyn File>>,
    changes: Arc<RwLock<Changes>>,
    kept: Arc<AtomicUsize>,
}

/// Pages from the one that `offset` is in, each with where in it a range of `len` bytes from there on lies.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let page = PAGE as u64;
    let end = offset.saturating_add(len as u64);
    let starts = std::iter::successors(Some(offset), move |at| Some((at / page + 1) * page));
    starts.take_while(move |&at| at < end).map(move |at| {
        // Both are within a page.
        let from = (at % page) as usize;
        let to = (end - at / page * page).min(page) as usize;
        (at / page, from..to)
    })
}

impl Layered {
    fn len_of(&self, changes: &Changes) -> io::Result<u64> {
        match (changes.len, &self.below) {
            (Some(len), _) => Ok(len),
            (None, Some(below)) => below.len(),
            (None, None) => Ok(0),
        }
    }

    /// Fills `buffer`, which lies in one page, as if nothing of that had been kept.
    fn read_below(&self, changes: &Changes, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let page = offset / PAGE as u64;
        let hole = changes.holes.iter().any(|&(from, to)| (from..to).contains(&page));
        let mut filled = 0;
        if let Some(below) = self.below.as_ref().filter(|_| !hole) {
            let counts = changes.cut_at.unwrap_or(u64::MAX).saturating_sub(offset);
            let counts = usize::try_from(counts).unwrap_or(usize::MAX).min(buffer.len());
            filled = below.read_at(buffer.get_mut(..counts).unwrap_or_default(), offset)?;
        }
        buffer.get_mut(filled..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// Puts `bytes` into one page, from `from` on.
    fn put(&self, changes: &mut Changes, page: u64, from: usize, bytes: &[u8]) -> io::Result<()> {
        if !changes.pages.contains_key(&page) {
            if self.kept.fetch_add(PAGE, Ordering::Relaxed) >= KEPT_MAX {
                self.kept.fetch_sub(PAGE, Ordering::Relaxed);
                let why = "more than 256 MiB would have to be kept in memory; open the store once for writing";
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            let mut new = Box::new([0; PAGE]);
            self.read_below(changes, &mut *new, page * PAGE as u64)?;
            changes.pages.insert(page, new);
        }
        let there =
            changes.pages.get_mut(&page).and_then(|there| there.get_mut(from..from + bytes.len()));
        there.into_iter().for_each(|there| there.copy_from_slice(bytes));
        Ok(())
    }

    fn forget(&self, changes: &mut Changes, from: u64, to: u64) {
        let before = changes.pages.len();
        changes.pages.retain(|page, _| !(from..to).contains(page));
        self.kept.fetch_sub((before - changes.pages.len()) * PAGE, Ordering::Relaxed);
    }
}

impl File for Layered {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let changes = self.changes.read();
        let left = self.len_of(&changes)?.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        if changes.pages.is_empty() && changes.holes.is_empty() && changes.cut_at.is_none() {
            let filled = match &self.below {
                Some(below) => below.read_at(buffer, offset)?,
                None => 0,
            };
            buffer.get_mut(filled..).unwrap_or_default().fill(0);
            return Ok(len);
        }
        let mut rest = buffer;
        for (page, range) in pages(offset, len) {
            let (here, after) = rest.split_at_mut(range.len().min(rest.len()));
            match changes.pages.get(&page).and_then(|there| there.get(range.clone())) {
                Some(there) => here.copy_from_slice(there),
                None => self.read_below(&changes, here, page * PAGE as u64 + range.start as u64)?,
            }
            rest = after;
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut changes = self.changes.write();
        let len = self.len_of(&changes)?;
        let mut rest = bytes;
        for (page, range) in pages(offset, bytes.len()) {
            let (here, after) = rest.split_at(range.len().min(rest.len()));
            self.put(&mut changes, page, range.start, here)?;
            rest = after;
        }
        changes.len = Some(len.max(offset.saturating_add(bytes.len() as u64)));
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut changes = self.changes.write();
        let before = self.len_of(&changes)?;
        changes.len = Some(before.max(offset.saturating_add(len)));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let page = PAGE as u64;
        let mut changes = self.changes.write();
        let end = offset.saturating_add(len).min(self.len_of(&changes)?);
        let (first, last) = (offset.div_ceil(page), end / page);
        // What is not a whole page is written as zeros.
        let zeros = |changes: &mut Changes, from: u64, to: u64| -> io::Result<()> {
            let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
            pages(from, len).try_for_each(|(page, range)| {
                self.put(
                    changes,
                    page,
                    range.start,
                    [0; PAGE].get(..range.len()).unwrap_or_default(),
                )
            })
        };
        if first >= last {
            return zeros(&mut changes, offset, end);
        }
        zeros(&mut changes, offset, first * page)?;
        zeros(&mut changes, last * page, end)?;
        self.forget(&mut changes, first, last);
        changes.holes.push((first, last));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.len_of(&self.changes.read())
    }

    fn allocated(&self) -> io::Result<u64> {
        let below = self.below.as_ref().map_or(Ok(0), |below| below.allocated())?;
        Ok(below.saturating_add((self.changes.read().pages.len() * PAGE) as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes.write();
        if len < self.len_of(&changes)? {
            let page = PAGE as u64;
            let end = len.next_multiple_of(page);
            // The rest of the last page reads as zeros, should the file grow again.
            if len < end && changes.pages.contains_key(&(len / page)) {
                let zeros = [0; PAGE];
                let from = usize::try_from(len % page).unwrap_or(0);
                self.put(&mut changes, len / page, from, zeros.get(from..).unwrap_or_default())?;
            }
            self.forget(&mut changes, end / page, u64::MAX);
            changes.cut_at = Some(changes.cut_at.map_or(len, |cut| cut.min(len)));
        }
        changes.len = Some(len);
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        let changes = self.changes.read();
        let as_below = changes.pages.is_empty()
            && changes.holes.is_empty()
            && changes.cut_at.is_none()
            && changes.len.is_none();
        self.below.as_ref().filter(|_| as_below)?.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Overlay) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Real::new(dir.path()).unwrap();
        disk.create_dir("d").unwrap();
        disk.open("d/one", true).unwrap().write_at(&[1; 10_000], 0).unwrap();
        disk.open("d/two", true).unwrap().write_at(b"two", 0).unwrap();
        let overlay = Overlay::new(dir.path()).unwrap();
        (dir, overlay)
    }

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    #[test]
    fn what_is_changed_is_seen_here_and_not_below() {
        let (dir, disk) = directory();
        let file = disk.open("d/one", false).unwrap();
        assert!(file.as_fd().is_some(), "as it lies there");
        file.write_at(&[2; 5000], 4000).unwrap();
        file.write_at(b"end", 12_000).unwrap();
        assert!(file.as_fd().is_none());
        let again = disk.open("d/one", false).unwrap();
        let mut bytes = vec![9; 20_000];
        assert_eq!(again.read_at(&mut bytes, 0).unwrap(), 12_003);
        let expected = [&[1; 4000][..], &[2; 5000], &[1; 1000], &[0; 2000], b"end"].concat();
        assert!(bytes[..12_003] == expected);
        disk.rename("d/one", "d/new").unwrap();
        disk.remove("d/two").unwrap();
        disk.open("d/three", true).unwrap().write_at(b"three", 0).unwrap();
        assert_eq!(sorted(disk.list("d").unwrap()), ["new", "three"]);
        assert_eq!(disk.open("d/new", false).unwrap().len().unwrap(), 12_003);
        for gone in ["d/one", "d/two", "none"] {
            let error = disk.open(gone, false).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{gone}");
        }
        assert!(disk.list("made").is_err());
        disk.create_dir("made").unwrap();
        assert_eq!(disk.list("made").unwrap(), [""; 0]);
        assert_eq!(std::fs::read(dir.path().join("d/one")).unwrap(), [1; 10_000]);
        assert_eq!(std::fs::read(dir.path().join("d/two")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_does_to_a_file_what_a_disk_does() {
        // The same steps on both, whatever they are.
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..40 {
            let (dir, overlay) = directory();
            let real = Real::new(dir.path()).unwrap();
            let there = overlay.open("d/one", false).unwrap();
            let twin = real.open("d/twin", true).unwrap();
            twin.write_at(&[1; 10_000], 0).unwrap();
            for step in 0..30 {
                let (offset, len) = (random(20_000), random(9000));
                let kind = random(4);
                for file in [&there, &twin] {
                    match kind {
                        0 => file.write_at(&vec![step; usize::try_from(len).unwrap()], offset),
                        1 => file.punch(offset, len + 1),
                        2 => file.set_len(offset),
                        _ => file.allocate(offset, len + 1),
                    }
                    .unwrap();
                }
                assert_eq!(there.len().unwrap(), twin.len().unwrap(), "round {round}, step {step}");
                let (mut here, mut other) = (vec![3; 40_000], vec![3; 40_000]);
                let from = random(12_000);
                assert_eq!(
                    there.read_at(&mut here, from).unwrap(),
                    twin.read_at(&mut other, from).unwrap()
                );
                assert!(here == other, "round {round}, step {step}: {kind} at {offset}, {len}");
            }
        }
    }

    #[test]
    fn more_than_may_be_kept_is_refused_and_what_is_cut_off_makes_room() {
        let (_dir, disk) = directory();
        let file = disk.open("large", true).unwrap();
        let piece = vec![1; 1 << 20];
        for n in 0..KEPT_MAX as u64 >> 20 {
            file.write_at(&piece, n << 20).unwrap();
        }
        let full = file.write_at(b"x", KEPT_MAX as u64).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        file.set_len(100).unwrap();
        file.write_at(&piece, 0).unwrap();
    }
}
