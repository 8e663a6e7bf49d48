//! What is done in a directory to be measured, what must be there before, and what is taken away afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lighthouse_fuse::sys;
use rustix::fs::{Advice, AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::BLOCK;
use crate::constants::HIT;
use crate::laps::Laps;
use crate::server::Server;

/// The turn of one client.
pub(crate) struct Turn<'a> {
    /// Who is asked.
    pub(crate) server: &'a Server,
    pub(crate) client: u64,
    /// How often to do it, or how many MiB.
    pub(crate) count: u64,
    /// Never comes twice.
    pub(crate) number: u64,
}

impl Turn<'_> {
    /// The one file that every server has.
    fn the_file(&self) -> PathBuf {
        self.server.place().join("file")
    }

    /// A name that never was asked for before: it is in no cache.
    fn new_name(&self, kind: &str, n: u64) -> PathBuf {
        self.server.place().join(format!("{kind}-{}-{}-{n}", self.client, self.number))
    }

    fn each_new_name(&self, kind: &str) -> impl Iterator<Item = PathBuf> {
        (0..self.count).map(move |n| self.new_name(kind, n))
    }
}

pub(crate) fn getattr(laps: &mut Laps, turn: &Turn<'_>) {
    let file = File::open(turn.the_file()).expect("the file is there");
    laps.timed(turn.count, |_| {
        // Asked of the server whatever the kernel has in its cache.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        rustix::fs::statx(&file, "", flags, StatxFlags::MODE).expect("an open file has them");
    });
}

pub(crate) fn lookup_miss(laps: &mut Laps, turn: &Turn<'_>) {
    let names: Vec<PathBuf> = turn.each_new_name("missing").collect();
    laps.timed(turn.count, |n| {
        assert_eq!(rustix::fs::stat(&names[n as usize]).err(), Some(Errno::NOENT));
    });
}

pub(crate) fn miss_again(laps: &mut Laps, turn: &Turn<'_>) {
    let name = turn.new_name("missing", 0);
    laps.timed(turn.count, |_| {
        assert_eq!(rustix::fs::stat(&name).err(), Some(Errno::NOENT));
    });
}

/// Makes the files whose names `lookup_hit` looks up; the kernel must forget them in between.
pub(crate) fn make_hits(turn: &Turn<'_>) {
    // Who keeps nothing has them anyway.
    if turn.server.stores {
        for name in turn.each_new_name(HIT) {
            File::create(name).expect("a file can be made");
        }
    }
}

pub(crate) fn lookup_hit(laps: &mut Laps, turn: &Turn<'_>) {
    let names: Vec<PathBuf> = turn.each_new_name(HIT).collect();
    laps.timed(turn.count, |n| {
        rustix::fs::stat(&names[n as usize]).expect("it was made");
    });
}

pub(crate) fn remove_hits(turn: &Turn<'_>) {
    if turn.server.stores {
        remove(turn, HIT);
    }
}

/// The name of one of many files that are in `place` whatever is asked.
pub(crate) fn old_name(place: &Path, n: u64) -> PathBuf {
    place.join(format!("old-{n}"))
}

/// Those of this turn: spread over all, and none twice, for the kernel would answer by itself.
fn old_names(turn: &Turn<'_>) -> Vec<PathBuf> {
    // Has no divisor in common with a power of ten, so it meets all numbers below before it meets one again.
    const STEP: u64 = 617_033;
    let first = turn.number * turn.count;
    let numbers = (first..first + turn.count).map(|n| n * STEP % turn.server.amid);
    numbers.map(|n| old_name(turn.server.place(), n)).collect()
}

/// Of names that are there, made long ago; the kernel must forget them in between.
pub(crate) fn lookup_any(laps: &mut Laps, turn: &Turn<'_>) {
    let names = old_names(turn);
    laps.timed(turn.count, |n| {
        rustix::fs::stat(&names[n as usize]).expect("it was made");
    });
}

/// The kernel knows the name, so that this is the change alone.
pub(crate) fn change_any(laps: &mut Laps, turn: &Turn<'_>) {
    let names = old_names(turn);
    for name in &names {
        rustix::fs::stat(name).expect("it was made");
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    laps.timed(turn.count, |n| {
        let name = &names[n as usize];
        rustix::fs::utimensat(CWD, name, &times, AtFlags::empty()).expect("it was made");
    });
}

pub(crate) fn read_direct(laps: &mut Laps, turn: &Turn<'_>) {
    // Past the page cache, or the kernel would answer.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(turn.the_file());
    let file = file.expect("the file is there");
    // Direct reads of a disk need memory as aligned as its blocks.
    let mut block = sys::pages::PageBuffer::with_at_least(BLOCK).expect("there is memory");
    laps.timed(turn.count, |_| {
        file.read_exact_at(block.bytes_mut(), 0).expect("a block is there");
    });
}

pub(crate) fn open_close(laps: &mut Laps, turn: &Turn<'_>) {
    let path = turn.the_file();
    laps.timed(turn.count, |_| drop(File::open(&path).expect("the file is there")));
}

pub(crate) fn open_read_close(laps: &mut Laps, turn: &Turn<'_>) {
    let path = turn.the_file();
    let mut block = vec![0; BLOCK];
    laps.timed(turn.count, |_| {
        let mut file = File::open(&path).expect("the file is there");
        file.read_exact(&mut block).expect("a block is there");
    });
}

/// A new file to be written and not read (O_WRONLY), as `tar`, `git`, `cp`, `dd` and `npm` make them.
fn only_written(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

pub(crate) fn create(laps: &mut Laps, turn: &Turn<'_>) {
    make_and_write(laps, turn, only_written);
}

/// The same with files that can be read through the same handle (O_RDWR), as databases and linkers make them.
pub(crate) fn create_to_read(laps: &mut Laps, turn: &Turn<'_>) {
    make_and_write(laps, turn, File::create_new);
}

fn make_and_write(laps: &mut Laps, turn: &Turn<'_>, make: impl Fn(PathBuf) -> io::Result<File>) {
    let block = vec![7; BLOCK];
    laps.timed(turn.count, |n| {
        let mut file = make(turn.new_name("new", n)).expect("the name is new");
        file.write_all(&block).expect("a block can be written");
    });
}

/// Makes what is renamed or removed.
pub(crate) fn make_new(turn: &Turn<'_>) {
    for name in turn.each_new_name("new") {
        File::create_new(name).expect("the name is new");
    }
}

pub(crate) fn remove_new(turn: &Turn<'_>) {
    remove(turn, "new");
}

fn remove(turn: &Turn<'_>, kind: &str) {
    for name in turn.each_new_name(kind) {
        turn.server.remove_file(&name).expect("the file was just made");
    }
}

pub(crate) fn unlink(laps: &mut Laps, turn: &Turn<'_>) {
    laps.timed(turn.count, |n| {
        fs::remove_file(turn.new_name("new", n)).expect("the file was just made");
    });
}

pub(crate) fn rename(laps: &mut Laps, turn: &Turn<'_>) {
    laps.timed(turn.count, |n| {
        fs::rename(turn.new_name("new", n), turn.new_name("renamed", n)).expect("it was made");
    });
}

pub(crate) fn remove_renamed(turn: &Turn<'_>) {
    remove(turn, "renamed");
}

pub(crate) fn stat(laps: &mut Laps, turn: &Turn<'_>) {
    let path = turn.the_file();
    laps.timed(turn.count, |_| {
        assert!(fs::metadata(&path).expect("the file is there").is_file());
    });
}

/// Of two sizes, as they are measured.
pub(crate) const FEW: u64 = 100;
pub(crate) const MANY: u64 = 10_000;

pub(crate) fn make_few(turn: &Turn<'_>) {
    fill(turn, FEW);
}

pub(crate) fn make_many(turn: &Turn<'_>) {
    fill(turn, MANY);
}

fn fill(turn: &Turn<'_>, names: u64) {
    let directory = turn.server.place().join(format!("list-{names}"));
    if directory.exists() {
        return;
    }
    fs::create_dir(&directory).expect("a directory can be made");
    for n in 0..names {
        File::create_new(directory.join(format!("{n}"))).expect("the name is new");
    }
}

pub(crate) fn list_few(laps: &mut Laps, turn: &Turn<'_>) {
    list(laps, turn, FEW);
}

pub(crate) fn list_many(laps: &mut Laps, turn: &Turn<'_>) {
    list(laps, turn, MANY);
}

fn list(laps: &mut Laps, turn: &Turn<'_>, names: u64) {
    let directory = turn.server.place().join(format!("list-{names}"));
    laps.timed(turn.count, |_| {
        let found = fs::read_dir(&directory).expect("it was made").filter(Result::is_ok).count();
        assert_eq!(found as u64, names);
    });
}

/// A tree of so many files, a hundred in each directory.
pub(crate) fn make_tree(turn: &Turn<'_>) {
    let (begun, tree) = (turn.server.place().join("tree-begun"), turn.server.place().join("tree"));
    if tree.exists() {
        return;
    }
    let made = (0..turn.count).try_for_each(|n| {
        let directory = begun.join(format!("{}", n / 100));
        if n % 100 == 0 {
            fs::create_dir_all(&directory)?;
        }
        File::create_new(directory.join(format!("{n}"))).map(drop)
    });
    if let Err(error) = made {
        // What was left would take what other questions need.
        let _ = fs::remove_dir_all(&begun);
        panic!("a tree of {} files cannot be made: {error}", turn.count);
    }
    fs::rename(&begun, &tree).expect("nothing else is called so");
}

/// As find(1), du(1) and git do, by stat(2).
pub(crate) fn walk(laps: &mut Laps, turn: &Turn<'_>) {
    walk_with(laps, turn, |entry| rustix::fs::lstat(entry.path()).is_ok());
}

/// As programs written in Rust do: by statx(2), which asks for the birth time too.
pub(crate) fn walk_for_birth_times(laps: &mut Laps, turn: &Turn<'_>) {
    walk_with(laps, turn, |entry| entry.metadata().is_ok());
}

fn walk_with(laps: &mut Laps, turn: &Turn<'_>, is_there: impl Fn(&fs::DirEntry) -> bool) {
    let mut found = 0;
    laps.start();
    for directory in fs::read_dir(turn.server.place().join("tree")).expect("it was made") {
        for entry in fs::read_dir(directory.expect("a name").path()).expect("a directory") {
            found += u64::from(is_there(&entry.expect("a name")));
            laps.lap();
        }
    }
    assert_eq!(found, turn.count);
}

pub(crate) fn write_large(laps: &mut Laps, turn: &Turn<'_>) {
    write(laps, turn).sync_all().expect("it reaches the disk");
    laps.lap();
}

/// The same, and nobody waits for the disk.
pub(crate) fn write_unsynced(laps: &mut Laps, turn: &Turn<'_>) {
    drop(write(laps, turn));
    laps.lap();
}

/// A large file anew, a MiB at a time.
fn write(laps: &mut Laps, turn: &Turn<'_>) -> File {
    let bytes: Vec<u8> =
        (0..1 << 20).map(|n: u32| (u64::from(n) * 31 + turn.number) as u8).collect();
    let path = turn.server.place().join("large");
    let _ = fs::remove_file(&path);
    laps.start();
    let mut file = only_written(path).expect("the name is free");
    laps.timed(turn.count, |_| file.write_all(&bytes).expect("there is room"));
    file
}

/// Makes the large file, if it is not there yet.
pub(crate) fn make_large(turn: &Turn<'_>) {
    if !turn.server.place().join("large").exists() {
        write_large(&mut Laps::new(), turn);
    }
}

fn large(turn: &Turn<'_>) -> File {
    File::open(turn.server.place().join("large")).expect("it was written")
}

fn forget_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("advice is taken");
}

/// Without the pages of the mount. A server may have read the bytes before; the disk must read them again.
pub(crate) fn read_cold(laps: &mut Laps, turn: &Turn<'_>) {
    let file = large(turn);
    forget_pages(&file);
    whole(laps, file, turn.count);
}

/// Without any page of any filesystem, so that all must read from the disk.
pub(crate) fn read_uncached(laps: &mut Laps, turn: &Turn<'_>) {
    let file = large(turn);
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1").expect("we are root");
    whole(laps, file, turn.count);
}

pub(crate) fn read_warm(laps: &mut Laps, turn: &Turn<'_>) {
    whole(&mut Laps::new(), large(turn), turn.count);
    whole(laps, large(turn), turn.count);
}

fn whole(laps: &mut Laps, mut file: File, mib: u64) {
    let mut piece = vec![0; 128 << 10];
    laps.timed(mib * 8, |_| file.read_exact(&mut piece).expect("it is so long"));
}

/// How long the file is that is read and written at random.
const ANYWHERE_MIB: u64 = 16;

pub(crate) fn make_anywhere(turn: &Turn<'_>) {
    let path = turn.server.place().join("anywhere");
    if !path.exists() {
        fs::write(&path, vec![7; (ANYWHERE_MIB << 20) as usize]).expect("there is room");
    }
    File::open(&path).and_then(|file| file.sync_all()).expect("it reaches the disk");
}

/// Where in it.
fn anywhere(turn: &Turn<'_>, n: u64) -> u64 {
    let page = scattered(turn.number.wrapping_mul(turn.count) + n) % (ANYWHERE_MIB << 20 >> 12);
    page * BLOCK as u64
}

/// Reads pages of it at random that the kernel has not.
pub(crate) fn read_anywhere(laps: &mut Laps, turn: &Turn<'_>) {
    let file = File::open(turn.server.place().join("anywhere")).expect("it was written");
    rustix::fs::fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
    forget_pages(&file);
    let mut block = vec![0; BLOCK];
    laps.timed(turn.count, |n| {
        file.read_exact_at(&mut block, anywhere(turn, n)).expect("it is so long");
    });
}

/// Writes pages of it at random, each followed by fsync.
pub(crate) fn write_anywhere(laps: &mut Laps, turn: &Turn<'_>) {
    let path = turn.server.place().join("anywhere");
    let file = OpenOptions::new().write(true).open(&path).expect("it was written");
    laps.timed(turn.count, |n| {
        file.write_all_at(&[n as u8; BLOCK], anywhere(turn, n)).expect("there is room");
        file.sync_all().expect("it reaches the disk");
    });
}

/// fsync alone, of 4 KiB at the end of a file.
pub(crate) fn fsync(laps: &mut Laps, turn: &Turn<'_>) {
    let path = turn.server.place().join(format!("appended-{}", turn.client));
    let _ = fs::remove_file(&path);
    let mut file = File::create_new(&path).expect("the name is free");
    for n in 0..turn.count {
        file.write_all(&[n as u8; BLOCK]).expect("there is room");
        laps.start();
        file.sync_all().expect("it reaches the disk");
        laps.lap();
    }
}

/// A different number for each, in no order.
const fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Writes most pages of a file again, one by one.
pub(crate) fn make_pieces(turn: &Turn<'_>) {
    let path = turn.server.place().join("pieces");
    fs::write(&path, vec![7; (turn.count << 20) as usize]).expect("there is room");
    // Anew each time: a server may put together what is left alone.
    let file = OpenOptions::new().write(true).open(&path).expect("it was written");
    for n in 0..turn.count << 20 >> 12 {
        let page = scattered(n) % (turn.count << 20 >> 12);
        file.write_all_at(&[n as u8; BLOCK], page * BLOCK as u64).expect("there is room");
    }
    file.sync_all().expect("it reaches the disk");
}

pub(crate) fn read_pieces(laps: &mut Laps, turn: &Turn<'_>) {
    let file = File::open(turn.server.place().join("pieces")).expect("it was written");
    forget_pages(&file);
    whole(laps, file, turn.count);
}

/// How long the file is that is read past the cache.
const PAST_MIB: u64 = 4;

pub(crate) fn make_past(turn: &Turn<'_>) {
    let path = turn.server.place().join("past");
    if !path.exists() {
        fs::write(&path, vec![7; (PAST_MIB << 20) as usize]).expect("there is room");
    }
}

/// Reads of so many KiB that no cache of the kernel answers.
pub(crate) fn read_past<const KIB: usize>(laps: &mut Laps, turn: &Turn<'_>) {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).custom_flags(libc::O_DIRECT).open(turn.server.place().join("past"));
    let file = file.expect("it was written");
    let mut block = sys::pages::PageBuffer::with_at_least(KIB << 10).expect("there is memory");
    laps.timed(turn.count, |n| {
        let at = n * ((KIB as u64) << 10);
        file.read_exact_at(block.bytes_mut(), at % (PAST_MIB << 20)).expect("it is so long");
    });
}
