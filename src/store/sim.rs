//! A disk that loses power on cue: the stand-in for [`Real`](super::disk::Real) in tests.
//!
//! It does what POSIX lets a disk do, and no less. Until `fdatasync` returns, any subset of the
//! writes to a file may survive a power cut, in any order, and each write sector by sector
//! (512 bytes). A name that was made, moved or removed is durable only once its directory was
//! synced; so is nothing else about it. After a failed `fdatasync` what it should have written may
//! be there or not, and no later one makes up for it, as on Linux.
//!
//! Invariants: every change is one step, counted from 0; the same seed cuts the same way.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, File, Lock, Space};

/// What a power cut may tear apart.
const SECTOR: usize = 512;

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A kind of step that [`SimDisk::fail`] can make fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Any of them.
    Any,
    /// `write_at`: half of the bytes are written before it fails.
    Write,
    /// `allocate`.
    Allocate,
    /// `sync_data`.
    Sync,
}

struct State {
    steps: u64,
    /// Steps until the power goes; everything fails from then on.
    power: u64,
    faults: Vec<Fault>,
    seed: u64,
    boot: u64,
    capacity: u64,
    next_file: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Changes of names that no `sync_dir` has made durable yet, oldest first.
    unsynced: Vec<NameChange>,
    locked: bool,
    /// What was taken out of the page cache: offset and length, in order.
    uncached: Vec<(u64, u64)>,
}

struct Fault {
    step: Step,
    /// How many matching steps still succeed.
    after: u64,
    /// How many fail then.
    times: u64,
    error: i32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Node {
    Directory,
    File(u64),
}

#[derive(Clone)]
enum NameChange {
    Made(String, Node),
    Removed(String),
    Moved(String, String, Node),
}

/// A file as programs see it, as the platter has it, and what lies between.
#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Pages without space behind them.
    holes: BTreeSet<u64>,
    /// Space that is set aside behind the end.
    aside: u64,
}

/// What is given back as one.
const PAGE: u64 = 4096;

#[derive(Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Length(u64),
}

impl SimDisk {
    /// An empty disk of `capacity` bytes whose power stays on.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let mut names = BTreeMap::new();
        names.insert(String::new(), Node::Directory);
        let state = State {
            steps: 0,
            power: u64::MAX,
            faults: Vec::new(),
            seed: 1,
            boot: 1,
            capacity,
            next_file: 1,
            files: BTreeMap::new(),
            durable: names.clone(),
            names,
            unsynced: Vec::new(),
            locked: false,
            uncached: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power goes after `steps` more steps: whatever is asked then fails with `EIO`.
    pub fn cut_after(&self, steps: u64) {
        let mut state = self.state.lock();
        state.power = state.steps.saturating_add(steps);
    }

    /// Makes `times` steps of this kind fail with `error` (an errno) after `after` more of them.
    pub fn fail(&self, step: Step, after: u64, times: u64, error: i32) {
        self.state.lock().faults.push(Fault { step, after, times, error });
    }

    /// What was taken out of the page cache of any file: offset and length, in order.
    #[must_use]
    pub fn uncached(&self) -> Vec<(u64, u64)> {
        self.state.lock().uncached.clone()
    }

    /// Forgets every fault that was asked for.
    pub fn mend(&self) {
        self.state.lock().faults.clear();
    }

    /// How many steps were taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Sets how many bytes fit.
    pub fn resize(&self, capacity: u64) {
        self.state.lock().capacity = capacity;
    }

    /// What a machine finds when the power is back; `seed` decides what was lost.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
        // Now and then nothing that was not synced survives, now and then all of it.
        let odds = [0, 1, 4, 7, 8][random.below(5)];
        let mut names = state.durable.clone();
        for change in &state.unsynced {
            if random.below(8) < odds {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for (&id, content) in &state.files {
            let durable = content.after_power_cut(&mut random, odds);
            files.insert(
                id,
                Content {
                    seen: durable.clone(),
                    durable,
                    pending: Vec::new(),
                    holes: content.holes.clone(),
                    aside: 0,
                },
            );
        }
        let state = State {
            steps: 0,
            power: u64::MAX,
            faults: Vec::new(),
            seed,
            boot: state.boot + 1,
            capacity: state.capacity,
            next_file: state.next_file,
            files,
            durable: names.clone(),
            names,
            unsynced: Vec::new(),
            locked: false,
            uncached: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What the next process finds when this one was killed, and memory was wanted for other things: pages that the kernel
    /// takes for written are read from the disk again, which after a failed sync may not have them.
    #[must_use]
    pub fn after_kill_without_cache(&self) -> Self {
        let after = self.after_kill();
        for content in after.state.lock().files.values_mut() {
            content.seen.clone_from(&content.durable);
            content.pending.iter().for_each(|change| change.apply(&mut content.seen));
        }
        after
    }

    /// What the next process finds when this one was killed: all that was written, synced or not.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state.lock();
        let state = State {
            steps: 0,
            power: u64::MAX,
            faults: Vec::new(),
            seed: state.seed,
            boot: state.boot,
            capacity: state.capacity,
            next_file: state.next_file,
            files: state.files.clone(),
            names: state.names.clone(),
            durable: state.durable.clone(),
            unsynced: state.unsynced.clone(),
            locked: false,
            uncached: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips one bit of the file at `path`; `false` if there is no such byte.
    pub fn flip(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.state.lock();
        let Some(&Node::File(id)) = state.names.get(path) else { return false };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(content) = state.files.get_mut(&id) else { return false };
        let Some(byte) = content.seen.get_mut(at) else { return false };
        *byte ^= 1 << (bit & 7);
        if let Some(byte) = content.durable.get_mut(at) {
            *byte ^= 1 << (bit & 7);
        }
        true
    }

    /// The bytes of the file at `path`, as a program sees them.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let Some(Node::File(id)) = state.names.get(path) else { return None };
        state.files.get(id).map(|content| content.seen.clone())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Made(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Removed(path) => {
                names.remove(path);
            }
            Self::Moved(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn touches(&self, directory: &str) -> bool {
        match self {
            Self::Made(path, _) | Self::Removed(path) => parent(path) == directory,
            Self::Moved(from, to, _) => parent(from) == directory || parent(to) == directory,
        }
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => put(bytes, *offset, data),
            Self::Zero(offset, len) => zero(bytes, *offset, *len),
            Self::Length(len) => set_len(bytes, to_usize(*len)),
        }
    }
}

impl Content {
    /// Space it takes: all of its length but for holes, whether written or set aside, and what is set aside behind that.
    fn allocated(&self) -> u64 {
        (self.seen.len() as u64).saturating_sub(self.holes.len() as u64 * PAGE) + self.aside
    }

    fn after_power_cut(&self, random: &mut Random, odds: usize) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut pending: Vec<&Pending> = self.pending.iter().collect();
        // In any order: the kernel writes back as it likes. Lengths keep theirs, as in any journal.
        for at in (1..pending.len()).rev() {
            let other = random.below(at + 1);
            if !matches!(pending[at], Pending::Length(_))
                && !matches!(pending[other], Pending::Length(_))
            {
                pending.swap(at, other);
            }
        }
        // A page holds the newest bytes whenever it is written back, so writes that overlap
        // cannot come out in the wrong order: a sector that survives has its last content.
        for change in pending {
            match change {
                Pending::Write(offset, data) => {
                    for (start, end) in sectors(*offset, data.len()) {
                        if random.below(8) < odds {
                            let newest = self.seen.get(start..end).unwrap_or_default();
                            put(&mut bytes, start as u64, newest);
                        }
                    }
                }
                other => {
                    if random.below(8) < odds {
                        other.apply(&mut bytes);
                    }
                }
            }
        }
        bytes
    }
}

/// The pieces of `offset..offset + len` between sector boundaries.
fn sectors(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = to_usize(offset);
    let end = at + len;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = at;
            at = ((at / SECTOR + 1) * SECTOR).min(end);
            (start, at)
        })
    })
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = to_usize(offset);
    let end = start + data.len();
    if bytes.len() < end {
        set_len(bytes, end);
    }
    bytes[start..end].copy_from_slice(data);
}

/// `resize`, by copying: a loop over bytes takes its time in a test build.
fn set_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.truncate(len);
    bytes.extend_from_slice(&vec![0; len - bytes.len()]);
}

fn zero(bytes: &mut [u8], offset: u64, len: u64) {
    let start = to_usize(offset).min(bytes.len());
    let end = to_usize(offset.saturating_add(len)).min(bytes.len());
    bytes[start..end].fill(0);
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a simulated file fits in memory")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

impl State {
    /// Takes one step, or says why it fails.
    fn step(&mut self, kind: Step) -> io::Result<()> {
        if self.steps >= self.power {
            return Err(io::Error::from_raw_os_error(libc_eio()));
        }
        self.steps += 1;
        for fault in &mut self.faults {
            if fault.step == kind || fault.step == Step::Any {
                if fault.after > 0 {
                    fault.after -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    return Err(io::Error::from_raw_os_error(fault.error));
                }
            }
        }
        Ok(())
    }

    /// What files with a name take; others are not there any more, but for who has them open.
    fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|node| match node {
            Node::File(id) => self.files.get(id),
            Node::Directory => None,
        });
        named.map(Content::allocated).sum()
    }

    /// Refuses what does not fit any more: `more` is how many bytes a file grows.
    fn room(&self, more: u64) -> io::Result<()> {
        if self.used().saturating_add(more) > self.capacity {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        Ok(())
    }

    fn content(&mut self, id: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, id: u64, change: Pending) -> io::Result<()> {
        let content = self.content(id)?;
        if let Pending::Write(offset, bytes) = &change {
            let end = (offset + bytes.len() as u64).div_ceil(PAGE);
            content.holes.retain(|page| !(offset / PAGE..end).contains(page));
        }
        change.apply(&mut content.seen);
        content.pending.push(change);
        Ok(())
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

impl Disk for SimDisk {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let id = match state.names.get(path) {
            Some(Node::File(id)) => *id,
            Some(Node::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            None if create => {
                if state.names.get(parent(path)) != Some(&Node::Directory) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                state.step(Step::Any)?;
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, Content::default());
                state.name(NameChange::Made(path.to_owned(), Node::File(id)));
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if state.names.get(path) != Some(&Node::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = state.names.keys().filter(|name| !name.is_empty() && parent(name) == path);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.names.get(path) == Some(&Node::Directory) {
            return Ok(());
        }
        state.step(Step::Any)?;
        state.name(NameChange::Made(path.to_owned(), Node::Directory));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step(Step::Any)?;
        state.name(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(&node) = state.names.get(from) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.step(Step::Any)?;
        state.name(NameChange::Moved(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.step(Step::Any)?;
        let (now, later) =
            std::mem::take(&mut state.unsynced).into_iter().partition(|c| c.touches(path));
        state.unsynced = later;
        let now: Vec<NameChange> = now;
        for change in now {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        let available = state.capacity.saturating_sub(state.used());
        Ok(Space { total: state.capacity, available })
    }

    fn boot(&self) -> io::Result<[u8; 16]> {
        Ok(u128::from(self.state.lock().boot).to_be_bytes())
    }

    fn lock(&self, _path: &str) -> io::Result<Lock> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.locked, true) {
            return Ok(Lock::Busy { pid: Some(std::process::id()) });
        }
        Ok(Lock::Held(Box::new(Unlock(self.clone())) as Box<dyn Any + Send + Sync>))
    }
}

struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        if state.steps >= state.power {
            return Err(io::Error::from_raw_os_error(libc_eio()));
        }
        let seen = &state.content(self.id)?.seen;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(seen.len());
        let len = buffer.len().min(seen.len() - start);
        buffer[..len].copy_from_slice(&seen[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let end = offset.saturating_add(bytes.len() as u64);
        let grows = end.saturating_sub(state.content(self.id)?.seen.len() as u64);
        state.room(grows)?;
        let off = state.steps >= state.power;
        if let Err(err) = state.step(Step::Write) {
            // With the power gone nothing arrives any more; any other failure comes half way.
            if !off {
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
                state.change(self.id, Pending::Write(offset, half))?;
            }
            return Err(err);
        }
        state.change(self.id, Pending::Write(offset, bytes.to_vec()))
    }

    fn uncache(&self, offset: u64, len: u64) {
        self.disk.state.lock().uncached.push((offset, len));
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.step(Step::Allocate)?;
        let end = offset.saturating_add(len);
        let now = state.content(self.id)?.seen.len() as u64;
        if end > now {
            let aside = state.content(self.id)?.aside.min(end - now);
            state.room(end - now - aside)?;
            state.change(self.id, Pending::Length(end))?;
            state.content(self.id)?.aside -= aside;
        }
        let pages = offset / PAGE..end.div_ceil(PAGE);
        state.content(self.id)?.holes.retain(|page| !pages.contains(page));
        Ok(())
    }

    fn set_aside(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.step(Step::Allocate)?;
        let aside = state.content(self.id)?.aside;
        state.room(len.saturating_sub(aside))?;
        state.content(self.id)?.aside = aside.max(len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.step(Step::Any)?;
        let pages = offset.div_ceil(PAGE)..offset.saturating_add(len) / PAGE;
        let content = state.content(self.id)?;
        let last = content.seen.len() as u64 / PAGE;
        content.holes.extend(pages.start..pages.end.min(last));
        state.change(self.id, Pending::Zero(offset, len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let off = state.steps >= state.power;
        let result = state.step(Step::Sync);
        let seed = state.seed.wrapping_add(state.steps);
        let content = state.content(self.id)?;
        match result {
            Ok(()) => {
                // Not a copy of what is seen: what a failed sync lost stays lost.
                for change in std::mem::take(&mut content.pending) {
                    change.apply(&mut content.durable);
                }
            }
            Err(_) if off => (),
            // The pages are clean now as far as the kernel is concerned, on the disk or not.
            Err(_) => {
                content.durable = content.after_power_cut(&mut Random(seed), 4);
                content.pending.clear();
            }
        }
        result
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().content(self.id)?.seen.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().content(self.id)?.allocated())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.step(Step::Any)?;
        state.content(self.id)?.aside = 0;
        state.change(self.id, Pending::Length(len))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// SplitMix64: enough to decide what a power cut loses, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        to_usize(self.draw() % bound as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_every_power_cut() {
        for seed in 0..200 {
            let disk = SimDisk::new(1 << 20);
            let file = disk.open("a", true).unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync_data().unwrap();
            file.write_at(&[2; 2000], 1000).unwrap();
            let after = disk.after_power_cut(seed);
            let bytes = after.bytes("a").expect("its name was synced");
            assert_eq!(bytes[..1000], [1; 1000], "seed {seed}");
            assert!(bytes.iter().all(|byte| [0, 1, 2].contains(byte)), "seed {seed}");
        }
    }

    #[test]
    fn what_was_not_synced_survives_in_some_cuts_and_not_in_others() {
        let survivors = |seed| {
            let disk = SimDisk::new(1 << 20);
            let file = disk.open("a", true).unwrap();
            file.write_at(&[1; 1024], 0).unwrap();
            let after = disk.after_power_cut(seed);
            after.bytes("a").map(|bytes| bytes.iter().filter(|&&byte| byte == 1).count())
        };
        let seen: Vec<_> = (0..200).map(survivors).collect();
        for wanted in [None, Some(0), Some(512), Some(1024)] {
            assert!(seen.contains(&wanted), "{wanted:?} never happened");
        }
    }

    #[test]
    fn a_failed_sync_may_lose_bytes_for_good() {
        let lost = (0..100).any(|seed| {
            let disk = SimDisk::new(1 << 20);
            disk.state.lock().seed = seed;
            let file = disk.open("a", true).unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[1; 5120], 0).unwrap();
            disk.fail(Step::Sync, 0, 1, libc_eio());
            file.sync_data().unwrap_err();
            file.sync_data().unwrap();
            // A sync that had nothing left to write cannot bring back what the failed one lost.
            disk.after_power_cut(0).bytes("a") != Some(vec![1; 5120])
        });
        assert!(lost);
    }
}
