//! Bytes of files: append-only, at offsets that never move.
//!
//! A long write takes a range of a content file under a short lock, and is written outside of it,
//! so writers do not wait for each other's bytes. Every extent begins on a page: its pages can move
//! to a pipe, and each can be given back as soon as it is dead, for no page holds bytes of two
//! extents. Shorter writes than a page are always in the log, so this wastes no more than a filesystem does.
//!
//! Invariants: space is set aside before it is written; an offset is never used twice, so what a
//! reader was told stays where it is until it is freed, and reads as zeros after that; nothing is
//! freed, and no segment of the log replaced, while a [`Pin`] is held.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustc_hash::FxHashMap;

use super::disk::{Disk, File, is_full};
use super::event::{FileId, INLINE_MAX, Location};
use super::segment::{open_segment, segment_path};
use super::superblock::Shape;

/// How many bytes one checksum covers.
pub const PIECE: usize = 64 << 10;

/// What the kernel moves and gives back as one.
pub(super) const PAGE: u64 = 4096;
const _: () =
    assert!(INLINE_MAX as u64 >= PAGE, "an extent shorter than a page wastes most of one");

/// From this length on an append counts as bulk: what copies, unpacks and downloads in large pieces.
const BULK: usize = 128 << 10;
/// So much bulk between two syncs is a stream, which leaves the page cache again.
pub(super) const STREAM: u64 = 8 << 20;

/// Files kept open for reading.
const OPEN_MAX: usize = 256;
/// Memory that the maps of squeezed segments among them may take.
const MEMORY_MAX: usize = 16 << 20;

/// Path of a content file in the store.
#[must_use]
pub fn content_path(number: u32) -> String {
    format!("content/{number:08}.dat")
}

/// Numbers of all content files, sorted.
pub(super) fn content_numbers(disk: &dyn Disk) -> io::Result<Vec<u32>> {
    let names = disk.list("content")?;
    let mut numbers: Vec<u32> =
        names.iter().filter_map(|name| name.strip_suffix(".dat")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Appends the CRC-32C of each piece of `bytes`, little-endian.
pub fn piece_crcs(bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(PIECE) {
        out.extend_from_slice(&crc32c::crc32c(piece).to_le_bytes());
    }
}

/// Reads and writes the bytes of files.
pub struct Content {
    disk: Arc<dyn Disk>,
    shape: Shape,
    cursor: Mutex<Cursor>,
    /// Files with bytes that no `sync` has seen; a few at most, for each is a gigabyte.
    dirty: Mutex<Vec<Dirty>>,
    /// Where streams lie that are on the disk since, or that no file has any more.
    streamed: Mutex<Vec<Stretches>>,
    /// There were streams that stay in the page cache as long as a file has them.
    keeps_streams: AtomicBool,
    /// Bytes appended since a `sync` last began.
    unsynced: AtomicU64,
    open: Mutex<FxHashMap<FileId, Arc<dyn File>>>,
    /// Shared by readers, exclusive for the moment of giving space back.
    punching: RwLock<()>,
    /// Bytes that were freed since the start.
    freed: AtomicU64,
    /// Space that each file takes which nothing is appended to any more, until some of it is given back.
    settled: Mutex<FxHashMap<u32, u64>>,
}

/// While this is held, no content is given back that was there when it was taken.
pub struct Pin<'c> {
    _guard: RwLockReadGuard<'c, ()>,
}

/// A file and ranges of it.
type Stretches = (Arc<dyn File>, Vec<Range<u64>>);

/// A file with bytes that no `sync` has seen.
struct Dirty {
    number: u32,
    file: Arc<dyn File>,
    /// Where its bulk lies.
    bulk: Vec<Range<u64>>,
}

/// Where the next bytes go.
struct Cursor {
    number: u32,
    /// Opened at the first write.
    file: Option<Arc<dyn File>>,
    next: u64,
    /// Space is set aside up to here.
    allocated: u64,
}

impl Content {
    /// Goes on writing at `offset` of file `number`; nothing behind it was ever used.
    pub fn new(disk: Arc<dyn Disk>, shape: Shape, number: u32, offset: u64) -> Self {
        Self {
            disk,
            shape,
            cursor: Mutex::new(Cursor { number, file: None, next: offset, allocated: offset }),
            dirty: Mutex::default(),
            streamed: Mutex::default(),
            keeps_streams: AtomicBool::new(false),
            unsynced: AtomicU64::new(0),
            open: Mutex::new(FxHashMap::default()),
            punching: RwLock::new(()),
            freed: AtomicU64::new(0),
            settled: Mutex::default(),
        }
    }

    /// Where the next bytes would go.
    pub fn end(&self) -> (u32, u64) {
        let cursor = self.cursor.lock();
        (cursor.number, cursor.next)
    }

    /// Stores `bytes` and returns where. They are on the disk after the next [`sync`](Self::sync), and stay in the page
    /// cache if they are `only_here` in memory, however many.
    ///
    /// A failure uses up the range it was given, which nothing refers to; `StorageFull` means that
    /// no space could be set aside and uses up nothing.
    pub fn append(&self, bytes: &[u8], only_here: bool) -> io::Result<Location> {
        let (number, file, offset) = self.reserve(bytes.len() as u64)?;
        if let Err(err) = file.write_at(bytes, offset) {
            // What arrived is in nobody's way; giving its space back is a courtesy.
            let _ = punch_pages(&*file, offset, bytes.len() as u64);
            return Err(err);
        }
        self.unsynced.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let bulk = bytes.len() >= BULK;
        if bulk && only_here {
            self.keeps_streams.store(true, Ordering::Relaxed);
        }
        let leaves = bulk && !only_here;
        self.wants_sync(number, file, offset, leaves.then_some(bytes.len() as u64));
        Ok(Location { file: FileId::Content(number), offset })
    }

    /// Bytes from `offset` on are to be synced; those of a stream, of which there are `bulk`, leave the page cache then.
    fn wants_sync(&self, number: u32, file: Arc<dyn File>, offset: u64, bulk: Option<u64>) {
        let mut dirty = self.dirty.lock();
        let known = dirty.iter().position(|dirty| dirty.number == number).unwrap_or_else(|| {
            dirty.push(Dirty { number, file, bulk: Vec::new() });
            dirty.len() - 1
        });
        let (Some(len), Some(Dirty { bulk: stretches, .. })) = (bulk, dirty.get_mut(known)) else {
            return;
        };
        let end = offset + len;
        match stretches.last_mut() {
            Some(last) if last.end.next_multiple_of(PAGE) == offset => last.end = end,
            _ => stretches.push(offset..end),
        }
    }

    /// Whether an append of `len` bytes would find no space: tries to set it aside.
    pub fn lacks_room(&self, len: u64) -> bool {
        let mut cursor = self.cursor.lock();
        if cursor.next.next_multiple_of(PAGE).saturating_add(len) <= cursor.allocated {
            return false;
        }
        self.make_room(&mut cursor, len).is_err_and(|err| is_full(&err))
    }

    fn reserve(&self, len: u64) -> io::Result<(u32, Arc<dyn File>, u64)> {
        let mut cursor = self.cursor.lock();
        let (file, offset) = self.make_room(&mut cursor, len)?;
        cursor.next = offset + len;
        Ok((cursor.number, file, offset))
    }

    /// Sees to it that `len` bytes fit at the offset it returns; takes nothing yet.
    fn make_room(&self, cursor: &mut Cursor, len: u64) -> io::Result<(Arc<dyn File>, u64)> {
        let next = cursor.next.next_multiple_of(PAGE);
        if cursor.next > 0 && next.saturating_add(len) > self.shape.content_len {
            // The space set aside behind the last extent is of no more use.
            if let Some(file) = &cursor.file {
                let _ = punch_pages(&**file, cursor.next, cursor.allocated - cursor.next);
            }
            let number = cursor.number.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
            *cursor = Cursor { number, file: None, next: 0, allocated: 0 };
        }
        let file = match &cursor.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = self.disk.open(&content_path(cursor.number), true)?;
                self.disk.sync_dir("content")?;
                cursor.file = Some(Arc::clone(&file));
                file
            }
        };
        let offset = cursor.next.next_multiple_of(PAGE);
        let end = offset.saturating_add(len);
        if end > cursor.allocated {
            let step = self.shape.content_step.max(PAGE);
            let least = end.next_multiple_of(PAGE);
            let wanted = end.next_multiple_of(step).min(self.shape.content_len.max(least));
            let from = cursor.allocated;
            cursor.allocated = match file.allocate(from, wanted - from) {
                Ok(()) => wanted,
                // The last bytes of a disk are for whoever needs just as many.
                Err(err) if is_full(&err) => {
                    file.allocate(from, least - from)?;
                    least
                }
                Err(err) => return Err(err),
            };
        }
        Ok((file, offset))
    }

    /// Fills `buffer` with the bytes at `location`, in a content file or in the log. What is not
    /// there any more, or never was, reads as zeros.
    pub fn read_at(&self, location: Location, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.file(location.file)?;
        let len = file.read_at(buffer, location.offset)?;
        if let Some(rest) = buffer.get_mut(len..) {
            rest.fill(0);
        }
        Ok(())
    }

    /// The open file behind `id`, for reading and splicing.
    pub fn file(&self, id: FileId) -> io::Result<Arc<dyn File>> {
        // Held while it is opened, so that none that was replaced meanwhile comes to be known.
        let mut open = self.open.lock();
        if let Some(file) = open.get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = match id {
            FileId::Log(number) => open_segment(&*self.disk, number)?,
            FileId::Content(number) => self.disk.open(&content_path(number), false)?,
        };
        let memory = open.values().map(|file| file.memory()).sum::<usize>() + file.memory();
        if open.len() >= OPEN_MAX || file.memory() > 0 && memory > MEMORY_MAX {
            open.clear();
        }
        open.insert(id, Arc::clone(&file));
        Ok(file)
    }

    /// Lets `path` take the place of a log segment that says the same to every tree that can be
    /// shown. Waits until every [`Pin`] that is held now is dropped.
    pub(super) fn replace_segment(&self, path: &str, number: u32) -> io::Result<()> {
        let _alone = self.punching.write();
        let mut open = self.open.lock();
        self.disk.rename(path, &segment_path(number))?;
        open.remove(&FileId::Log(number));
        Ok(())
    }

    /// Keeps everything that is there in its place until the pin is dropped. May be taken again
    /// by who holds one.
    pub fn pin(&self) -> Pin<'_> {
        Pin { _guard: self.punching.read_recursive() }
    }

    /// Gives back the whole pages inside a range of a content file; they read as zeros from then
    /// on. Waits until every [`Pin`] that is held now is dropped.
    pub fn free(&self, number: u32, offset: u64, len: u64) -> io::Result<()> {
        let file = self.file(FileId::Content(number))?;
        let _alone = self.punching.write();
        let pages = punch_pages(&*file, offset, len)?;
        self.freed.fetch_add(pages, Ordering::Relaxed);
        self.unsettle(number);
        Ok(())
    }

    /// Gives back an extent that nothing refers to, or ever did; so nobody can be reading it.
    pub fn discard(&self, location: Location, len: u64) {
        if let Ok(file) = self.file(location.file) {
            // Its space is lost if this fails, and nothing else.
            let _ = punch_pages(&*file, location.offset, len.next_multiple_of(PAGE));
        }
        if let FileId::Content(number) = location.file {
            self.unsettle(number);
        }
    }

    /// Space in a file was given back. Not before it was: whoever counts meanwhile may count it still.
    fn unsettle(&self, number: u32) {
        self.settled.lock().remove(&number);
    }

    /// Bytes given back since the start.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// Bytes of space that all content files take.
    pub fn allocated(&self) -> io::Result<u64> {
        let current = self.end().0;
        let mut settled = self.settled.lock();
        let mut sum = 0;
        for number in content_numbers(&*self.disk)? {
            sum += match settled.get(&number) {
                Some(&known) => known,
                None => {
                    let space = self.file(FileId::Content(number))?.allocated()?;
                    if number < current {
                        settled.insert(number, space);
                    }
                    space
                }
            };
        }
        Ok(sum)
    }

    /// Bytes appended since a [`sync`](Self::sync) last began.
    pub fn unsynced(&self) -> u64 {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// Makes all that was appended before the call durable.
    pub fn sync(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for Dirty { file, bulk, .. } in dirty {
            file.sync_data()?;
            if bulk.iter().map(|range| range.end - range.start).sum::<u64>() >= STREAM {
                self.streamed.lock().push((file, bulk));
            }
        }
        Ok(())
    }

    /// Whether streams are kept in the page cache that a file may cease to have.
    pub(super) fn keeps_streams(&self) -> bool {
        self.keeps_streams.load(Ordering::Relaxed)
    }

    /// No file has what lies at `location` any more: it leaves the page cache with the next streams, if it is much. Returns
    /// whether it is.
    pub(super) fn leave(&self, location: Location, len: u64) -> bool {
        let FileId::Content(_) = location.file else { return false };
        let much = len >= BULK as u64;
        if much && let Ok(file) = self.file(location.file) {
            let stretch = location.offset..location.offset.saturating_add(len);
            self.streamed.lock().push((file, vec![stretch]));
        }
        much
    }

    /// Takes streams that are on the disk out of the page cache: the mount's own has them, and kept
    /// here as well they take the memory twice, of the machine or of the server's cgroup, and push out what others
    /// need. What is written in small pieces stays: a build that is mounted anew for each run finds its files in memory.
    pub fn uncache_streams(&self) {
        let streamed = std::mem::take(&mut *self.streamed.lock());
        for (file, bulk) in streamed {
            bulk.iter().for_each(|range| file.uncache(range.start, range.end - range.start));
        }
    }
}

/// Punches the whole pages in a range; returns how many bytes that were.
fn punch_pages(file: &dyn File, offset: u64, len: u64) -> io::Result<u64> {
    let (start, end) = pages_inside(offset, len);
    if start < end {
        file.punch(start, end - start)?;
    }
    Ok(end.saturating_sub(start))
}

/// From the first whole page of a range to the end of its last; empty if `start >= end`.
pub(super) fn pages_inside(offset: u64, len: u64) -> (u64, u64) {
    let end = offset.saturating_add(len);
    (offset.div_ceil(PAGE).saturating_mul(PAGE), end / PAGE * PAGE)
}

#[cfg(test)]
mod tests {
    use super::super::sim::{SimDisk, Step};
    use super::*;

    fn content(disk: &SimDisk) -> Content {
        disk.create_dir("content").unwrap();
        let shape = Shape { segment_len: 8192, content_len: 1 << 20, content_step: 128 << 10 };
        Content::new(Arc::new(disk.clone()), shape, 1, 0)
    }

    fn read(content: &Content, location: Location, len: usize) -> Vec<u8> {
        let mut buffer = vec![9; len];
        content.read_at(location, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn every_extent_begins_on_a_page() {
        let disk = SimDisk::new(1 << 30);
        let content = content(&disk);
        let short = content.append(&[1; 5000], false).unwrap();
        let next = content.append(&[2; 5000], false).unwrap();
        let long = content.append(&[3; PIECE], false).unwrap();
        assert_eq!((short.offset, next.offset, long.offset), (0, 8192, 16384));
        assert_eq!(read(&content, next, 5000), [2; 5000]);
        assert_eq!(read(&content, long, PIECE), [3; PIECE]);
    }

    #[test]
    fn a_file_that_is_full_is_followed_by_another() {
        let disk = SimDisk::new(1 << 30);
        let content = content(&disk);
        let places: Vec<_> =
            (0..10).map(|n| content.append(&[n; 300_000], false).unwrap()).collect();
        assert!(places.iter().any(|place| place.file == FileId::Content(4)));
        for (n, place) in (0..).zip(&places) {
            assert_eq!(read(&content, *place, 300_000), [n; 300_000]);
        }
        let huge = content.append(&[7; 3 << 20], false).unwrap();
        assert_eq!(huge.offset, 0);
    }

    #[test]
    fn a_full_disk_takes_nothing_away_and_the_last_bytes_can_be_used() {
        let disk = SimDisk::new(100 << 10);
        let content = content(&disk);
        let err = content.append(&[1; 200 << 10], false).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::StorageFull);
        assert_eq!(content.end(), (1, 0));
        content.append(&[1; 90 << 10], false).unwrap();
    }

    #[test]
    fn a_failed_write_uses_up_its_range_and_nothing_else() {
        let disk = SimDisk::new(1 << 30);
        let content = content(&disk);
        content.append(&[1; 5000], false).unwrap();
        disk.fail(Step::Write, 0, 1, 5);
        content.append(&[2; 5000], false).unwrap_err();
        let place = content.append(&[3; 5000], false).unwrap();
        assert_eq!(place.offset, 16_384);
        assert_eq!(read(&content, Location { offset: 0, ..place }, 5000), [1; 5000]);
    }

    #[test]
    fn a_stream_leaves_the_page_cache_once_it_is_on_the_disk() {
        let disk = SimDisk::new(1 << 30);
        disk.create_dir("content").unwrap();
        let shape = Shape { segment_len: 8192, content_len: 1 << 29, content_step: 16 << 20 };
        let content = Content::new(Arc::new(disk.clone()), shape, 1, 0);
        let (page, piece) = (vec![1; 8192], vec![2; 1 << 20]);
        // Much of it, and none in large pieces.
        let append = |bytes: &[u8]| content.append(bytes, false).unwrap().offset;
        for _ in 0..STREAM / 4096 {
            append(&page);
        }
        let sync = || {
            content.sync().unwrap();
            content.uncache_streams();
        };
        sync();
        append(&piece);
        // Large pieces, and few of them.
        sync();
        let start = append(&piece);
        append(&page);
        for _ in 0..STREAM >> 20 {
            append(&piece);
        }
        content.uncache_streams();
        assert_eq!(disk.uncached(), [], "what is not on the disk yet stays in memory");
        sync();
        let left = [(start, 1 << 20), (start + (1 << 20) + 8192, STREAM)];
        assert_eq!(disk.uncached(), left);
        // What nobody else has in memory.
        let kept = content.append(&piece, true).unwrap();
        for _ in 0..STREAM >> 20 {
            content.append(&piece, true).unwrap();
        }
        sync();
        assert_eq!(disk.uncached(), left);
        // Until no file has it.
        let page = content.append(&page, true).unwrap();
        assert!(content.keeps_streams() && !content.leave(page, 8192));
        assert!(content.leave(kept, STREAM));
        sync();
        assert_eq!(disk.uncached().last(), Some(&(kept.offset, STREAM)));
    }

    #[test]
    fn freeing_gives_back_whole_pages_and_waits_for_readers() {
        let disk = SimDisk::new(1 << 30);
        let content = content(&disk);
        let place = content.append(&[1; PIECE], false).unwrap();
        let pin = content.pin();
        std::thread::scope(|scope| {
            let freeing = scope.spawn(|| content.free(1, 100, 10_000).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!freeing.is_finished());
            let _again = content.pin();
            assert_eq!(read(&content, place, PIECE), [1; PIECE]);
            drop(pin);
        });
        let mut expected = [1; PIECE];
        expected[4096..8192].fill(0);
        assert_eq!(read(&content, place, PIECE), expected);
        assert_eq!(content.freed(), 4096);
    }
}
