//! What does a mount cost, beside the least a server can do and beside the filesystem below?
//!
//! All are asked the same in turn, round after round in one run, so that what counts is the ratio between
//! medians:
//!
//! - `disk`: a directory of the filesystem that the store is on.
//! - `bare-N`, `bare-N-spin`: N threads that read `/dev/fuse` and write constants, with no decoding at all. What
//!   they need is the kernel's share; nobody on the same number of threads can be faster. `spin` reads for
//!   20 us without blocking before it sleeps.
//! - `bare-ring`: the same over io_uring, one pinned thread for each CPU. Needs the kernel to offer it: `echo Y >
//!   /sys/module/fuse/parameters/enable_uring`.
//! - `transport-spin`: the same constants through this crate's transport, decoder and encoder, on one thread.
//! - `ours-N-S`: the real server with `--transport dev --readers N --spin S`; `ours-ring`: with `--transport uring`.
//! - `ours-copied`, `ours-spliced`: over the device with `--splice-from 0` and `1`, for reads past the cache alone.
//! - those named in `BENCH_SERVERS`, separated by semicolons, each as `NAME DIRECTORY COMMAND`:
//!   the command line with `{store}` and `{at}` in it, and where in the mount to work.
//!
//! ```text
//! BENCH_SERVERS='fine current target/release/lighthouse-fuse mount {store} {at} --memory 1G' \
//!     cargo bench --bench mount -- getattr create
//! ```
//!
//! Where the kernel's tracing is there (tracefs), a round of its own counts the requests of one act, by operation.
//!
//! Words on the command line choose questions. `BENCH_ROUNDS` is how often each is asked (9), `BENCH_MIB` how
//! long the file is that is written and read whole (256), `BENCH_ONLY` the names of servers to ask, separated by
//! commas, rather than all. `--test` asks each once, at the smallest size.
//!
//! The servers are processes of their own, this program again for bare loops. What a lone client sees is
//! decided, on two idle CPUs, by waking the other CPU.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, AtFlags, StatxFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::types::{
    Attr, Entry, Errno as Refusal, FileHandle, NodeId, Opened, OpenedFlags,
};
use lighthouse_fuse::proto::{Dialect, Message, Op, Reply};
use lighthouse_fuse::sys;
use lighthouse_fuse::sys::fuse_ring::{Completed, Prepared};
use lighthouse_fuse::transport::dev_fuse::{DevFuse, Wait};
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::uring::Queues;
use lighthouse_fuse::transport::{Buffer, Frame, Transport, mount_table};

/// How much one READ or WRITE carries.
const BLOCK: usize = 4096;
const MAX_WRITE: u32 = 1 << 20;
/// How long a spinning reader reads without blocking.
const SPIN: Duration = Duration::from_micros(20);
/// How long a server has to come up.
const START: Duration = Duration::from_secs(20);
/// The servers made of this program.
const OWN: [&str; 6] =
    ["bare-1", "bare-2", "bare-1-spin", "bare-2-spin", "bare-ring", "transport-spin"];
/// Readers and spin, in microseconds, of the real server.
const OURS: [(u32, u32); 4] = [(1, 0), (2, 0), (1, 20), (2, 20)];
/// Those of ours that splice no reply to READ, and all.
const SPLICING: [(&str, u32); 2] = [(COPYING, 0), ("ours-spliced", 1)];
const COPYING: &str = "ours-copied";
/// How long the file is that lies in pieces.
const PIECED_MIB: u64 = 16;
/// How many files are walked.
const FILES: u64 = 10_000;

/// The real server.
const BINARY: &str = env!("CARGO_BIN_EXE_lighthouse-fuse");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, store, at] = arguments.as_slice()
        && OWN.contains(&mode.as_str())
    {
        return match serve(mode, Path::new(store), Path::new(at)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{mode}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root and /dev/fuse");
        return ExitCode::SUCCESS;
    }
    let smallest = arguments.iter().any(|argument| argument == "--test");
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let size = Size {
        rounds: if smallest { 1 } else { number("BENCH_ROUNDS", 9) },
        mib: if smallest { 1 } else { number("BENCH_MIB", 256) },
        // One in so many of what is asked otherwise.
        divisor: if smallest { 100 } else { 1 },
    };
    let wanted: Vec<&String> =
        arguments.iter().skip(1).filter(|word| !word.starts_with('-')).collect();
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let chosen = |name: &str| only.is_empty() || only.split(',').any(|word| word == name);
    let mut specs: Vec<Spec> = specs().into_iter().filter(|spec| chosen(&spec.name)).collect();
    if let Err(why) = Queues::prepare(MAX_WRITE as usize, None) {
        println!("SKIPPED: bare-ring, ours-ring: {why}");
        specs.retain(|spec| !spec.name.ends_with("-ring"));
    }
    let servers: Vec<Server> =
        std::iter::once(Server::disk()).chain(specs.iter().map(Spec::start)).collect();
    for question in QUESTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| question.name.contains(word.as_str())) {
            question.ask(&servers, &size);
        }
    }
    ExitCode::SUCCESS
}

/// How much is asked.
struct Size {
    rounds: u64,
    mib: u64,
    divisor: u64,
}

/// Whom a question can be asked.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// Everybody.
    All,
    /// Servers that keep what they are given; of ours, with its defaults.
    Stores,
    /// Ours, splicing every reply to READ or none.
    Splicing,
}

impl Of {
    fn is_asked(self, server: &Server) -> bool {
        match self {
            Self::All => !server.splices(),
            Self::Stores => server.stores && !server.splices(),
            Self::Splicing => server.splices(),
        }
    }
}

/// Something to do in a directory, and how often at once.
struct Question {
    name: &'static str,
    of: Of,
    /// How often it is done in one round, by each client.
    count: u64,
    clients: u64,
    /// What is counted in the answer: one of these times `count`, or bytes.
    unit: &'static str,
    /// Does it so often in that place, and tells how long that took; the last number never comes twice.
    act: fn(&Path, u64, u64) -> Duration,
    /// Takes away what `act` left, with the same arguments.
    undo: fn(&Path, u64, u64),
}

const QUESTIONS: &[Question] = &[
    question("getattr", 2000, 1, getattr),
    question("getattr, 4 clients", 1000, 4, getattr),
    question("lookup of a missing name", 1000, 1, lookup),
    question("read of 4 KiB past the cache", 2000, 1, read_direct),
    question("read of 4 KiB past the cache, 4 clients", 1000, 4, read_direct),
    question("open and close", 1000, 1, open_close),
    question("open and close, 4 clients", 500, 4, open_close),
    Question { undo: remove, ..question("create, write 4 KiB, close", 600, 1, create) },
    Question { undo: remove, ..question("create, write 4 KiB, close, 4 clients", 200, 4, create) },
    Question { of: Of::Stores, ..question("stat again", 5000, 1, stat) },
    Question { of: Of::Stores, ..question("walk and stat", FILES, 1, walk) },
    Question { of: Of::Stores, unit: "MiB", ..question("write, fsync", 0, 1, write) },
    Question { of: Of::Stores, unit: "MiB", ..question("read, cold", 0, 1, read_cold) },
    Question {
        of: Of::Stores,
        unit: "MiB",
        ..question("read, nothing cached", 0, 1, read_uncached)
    },
    Question { of: Of::Stores, unit: "MiB", ..question("read, warm", 0, 1, read_warm) },
    Question { of: Of::Stores, ..question("write 4 KiB anywhere, fsync", 100, 1, write_anywhere) },
    Question {
        of: Of::Stores,
        unit: "MiB of pieces",
        ..question("read in pieces, cold", PIECED_MIB, 1, read_pieces)
    },
    past_the_cache("read past the cache, 4 KiB", |place, count, _| past(place, count, 4)),
    past_the_cache("read past the cache, 16 KiB", |place, count, _| past(place, count, 16)),
    past_the_cache("read past the cache, 32 KiB", |place, count, _| past(place, count, 32)),
    past_the_cache("read past the cache, 64 KiB", |place, count, _| past(place, count, 64)),
    past_the_cache("read past the cache, 256 KiB", |place, count, _| past(place, count, 256)),
    past_the_cache("read past the cache, 1 MiB", |place, count, _| past(place, count, 1024)),
];

/// One request of one size, copied by the one server and spliced by the other.
const fn past_the_cache(name: &'static str, act: fn(&Path, u64, u64) -> Duration) -> Question {
    Question { of: Of::Splicing, ..question(name, 2000, 1, act) }
}

const fn question(
    name: &'static str,
    count: u64,
    clients: u64,
    act: fn(&Path, u64, u64) -> Duration,
) -> Question {
    Question { name, of: Of::All, count, clients, unit: "", act, undo: |_, _, _| () }
}

impl Question {
    fn ask(&self, servers: &[Server], size: &Size) {
        let count = match self.unit {
            "MiB" => size.mib,
            "MiB of pieces" => self.count,
            _ => (self.count / size.divisor).max(1),
        };
        let servers: Vec<&Server> =
            servers.iter().filter(|server| self.of.is_asked(server)).collect();
        let mut took = vec![Vec::new(); servers.len()];
        // The first round is for caches of every kind, and counts only where it is the only one.
        for round in 0..=size.rounds {
            for (server, took) in servers.iter().zip(&mut took) {
                let begin = Instant::now();
                let of_one = std::thread::scope(|scope| {
                    let clients: Vec<_> = (0..self.clients)
                        .map(|client| {
                            let place = server.place();
                            let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
                            scope.spawn(move || {
                                let place = place.join(format!("client-{client}"));
                                let time = (self.act)(&place, count, number);
                                (self.undo)(&place, count, number);
                                time
                            })
                        })
                        .collect();
                    let times = clients.into_iter().map(|client| client.join());
                    times.map(|time| time.expect("a client works")).max().unwrap_or_default()
                });
                let all = if self.clients == 1 { of_one } else { of_one.min(begin.elapsed()) };
                if round > 0 {
                    took.push(all.as_secs_f64() / (count * self.clients) as f64);
                }
            }
        }
        println!("\n{}", self.name);
        let counter = if self.of == Of::All { Counter::new() } else { None };
        let requests: Vec<String> = servers
            .iter()
            .map(|server| counter.as_ref().map(|counter| self.count_requests(counter, server)))
            .map(Option::unwrap_or_default)
            .collect();
        let medians: Vec<f64> = took.into_iter().map(median).collect();
        let of = |name: &str| {
            let at = servers.iter().position(|server| server.name == name)?;
            medians.get(at).copied()
        };
        for ((server, median), requests) in servers.iter().zip(&medians).zip(&requests) {
            let against = |name: &str| {
                of(name).map(|other| format!("{:6.2}x {name}", median / other)).unwrap_or_default()
            };
            let what = match self.unit {
                "MiB" | "MiB of pieces" => format!("{:9.0} MiB/s", 1.0 / median),
                _ => format!("{:9.2} us", median * 1e6),
            };
            println!(
                "  {:16} {what} {} {} {} {}{requests}",
                server.name,
                against("bare-1"),
                against(server.floor()),
                against("disk"),
                against(COPYING)
            );
        }
    }
}

impl Question {
    /// What the kernel asks of `server` for one act, as text; empty where it asks nothing.
    fn count_requests(&self, counter: &Counter, server: &Server) -> String {
        let Some(connection) = server.connection() else { return String::new() };
        let place = server.place().join("client-0");
        let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let counted = counter.during(connection, || {
            (self.act)(&place, COUNTED, number);
        });
        (self.undo)(&place, COUNTED, number);
        let each = |count: u64| count as f64 / COUNTED as f64;
        // What comes once and not each time is none of the act's own.
        let own = counted.iter().filter(|(_, count)| each(*count) >= 0.5);
        let (names, sum) = own.fold((String::new(), 0.0), |(names, sum), (name, count)| {
            (format!("{names} {name}"), sum + each(*count))
        });
        if names.is_empty() { names } else { format!("  {sum:.1} requests:{names}") }
    }
}

/// How often something is done to count its requests.
const COUNTED: u64 = 20;

/// The kernel's own trace of what it sends, in a ring buffer of ours.
struct Counter {
    tracefs: PathBuf,
    instance: PathBuf,
    /// Whether it was mounted here.
    mounted: Option<tempfile::TempDir>,
}

impl Counter {
    /// `None` where this kernel does not trace FUSE (before Linux 6.11), or not for us.
    fn new() -> Option<Self> {
        let mut tracefs = PathBuf::from("/sys/kernel/tracing");
        let mut mounted = None;
        if !tracefs.join("instances").exists() {
            let directory = tempfile::tempdir().ok()?;
            tracefs = directory.path().to_owned();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tracefs", &tracefs, "tracefs", flags, None).ok()?;
            mounted = Some(directory);
        }
        let instance = tracefs.join(format!("instances/lighthouse-bench-{}", std::process::id()));
        let made = fs::create_dir(&instance).is_ok();
        let counter = Self { tracefs, instance, mounted };
        (made && counter.event().exists()).then_some(counter)
    }

    fn event(&self) -> PathBuf {
        self.instance.join("events/fuse/fuse_request_send/enable")
    }

    /// Operations of the requests that go over `connection` while `act` runs, and how many of each.
    fn during(&self, connection: u32, act: impl FnOnce()) -> Vec<(String, u64)> {
        let trace = self.instance.join("trace");
        let set = |path: &Path, to: &str| fs::write(path, to).expect("tracing can be set");
        set(&trace, "");
        set(&self.event(), "1");
        act();
        // RELEASE is sent when nobody waits for it any more.
        std::thread::sleep(Duration::from_millis(20));
        set(&self.event(), "0");
        let text = fs::read_to_string(&trace).expect("a trace can be read");
        let ours = format!("connection {connection} ");
        let mut counts: Vec<(String, u64)> = Vec::new();
        for line in text.lines().filter(|line| line.contains(&ours)) {
            let Some((_, rest)) = line.split_once("(FUSE_") else { continue };
            let Some((name, _)) = rest.split_once(')') else { continue };
            match counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name.to_owned(), 1)),
            }
        }
        counts
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if self.mounted.is_some() {
            let _ = rustix::mount::unmount(&self.tracefs, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Numbers names that never come twice.
static UNIQUE: AtomicU64 = AtomicU64::new(0);

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long `act` takes so many times.
fn timed(count: u64, mut act: impl FnMut(u64)) -> Duration {
    let begin = Instant::now();
    (0..count).for_each(&mut act);
    begin.elapsed()
}

/// The one file that every server has, beside the directory of a client.
fn the_file(place: &Path) -> PathBuf {
    place.with_file_name("file")
}

fn getattr(place: &Path, count: u64, _: u64) -> Duration {
    let file = File::open(the_file(place)).expect("the file is there");
    timed(count, |_| {
        // Asked of the server whatever the kernel has in its cache.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        rustix::fs::statx(&file, "", flags, StatxFlags::MODE).expect("an open file has them");
    })
}

fn lookup(place: &Path, count: u64, number: u64) -> Duration {
    timed(count, |n| {
        // A name never asked for before: in no cache.
        let name = place.with_file_name(format!("missing-{number}-{n}"));
        assert_eq!(rustix::fs::stat(&name).err(), Some(Errno::NOENT));
    })
}

fn read_direct(place: &Path, count: u64, _: u64) -> Duration {
    // Past the page cache, or the kernel would answer.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(the_file(place));
    let file = file.expect("the file is there");
    // Direct reads of a disk need memory as aligned as its blocks.
    let mut block = sys::pages::PageBuffer::with_at_least(BLOCK).expect("there is memory");
    timed(count, |_| {
        file.read_exact_at(block.bytes_mut(), 0).expect("a block is there");
    })
}

fn open_close(place: &Path, count: u64, _: u64) -> Duration {
    let path = the_file(place);
    timed(count, |_| drop(File::open(&path).expect("the file is there")))
}

fn create(place: &Path, count: u64, number: u64) -> Duration {
    let block = vec![7; BLOCK];
    timed(count, |n| {
        let mut file = File::create_new(created(place, number, n)).expect("the name is new");
        file.write_all(&block).expect("a block can be written");
    })
}

fn remove(place: &Path, count: u64, number: u64) {
    for n in 0..count {
        fs::remove_file(created(place, number, n)).expect("the file was just made");
    }
}

/// What `create` makes.
fn created(place: &Path, number: u64, n: u64) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{number}-{n}"));
    place.with_file_name(name)
}

fn stat(place: &Path, count: u64, _: u64) -> Duration {
    let path = the_file(place);
    timed(count, |_| assert!(fs::metadata(&path).expect("the file is there").is_file()))
}

fn walk(place: &Path, count: u64, _: u64) -> Duration {
    let tree = place.with_file_name("tree");
    if !tree.exists() {
        for n in 0..count {
            let directory = tree.join(format!("{}", n % 100));
            fs::create_dir_all(&directory).expect("a directory can be made");
            File::create(directory.join(format!("{n}"))).expect("a file can be made");
        }
    }
    let begin = Instant::now();
    let mut found = 0;
    for directory in fs::read_dir(&tree).expect("it was made") {
        for entry in fs::read_dir(directory.expect("a name").path()).expect("a directory") {
            found += u64::from(entry.expect("a name").metadata().is_ok());
        }
    }
    assert_eq!(found, count);
    begin.elapsed()
}

fn write(place: &Path, mib: u64, number: u64) -> Duration {
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (u64::from(n) * 31 + number) as u8).collect();
    let path = place.with_file_name("large");
    let _ = fs::remove_file(&path);
    let begin = Instant::now();
    let mut file = File::create_new(path).expect("the name is free");
    (0..mib).for_each(|_| file.write_all(&bytes).expect("there is room"));
    file.sync_all().expect("it reaches the disk");
    begin.elapsed()
}

/// Reads the large file whole, after `forget` has seen to what is cached.
fn read_large(place: &Path, mib: u64, forget: impl FnOnce(&File)) -> Duration {
    let path = place.with_file_name("large");
    if !path.exists() {
        write(place, mib, 0);
    }
    let file = File::open(&path).expect("it was written");
    forget(&file);
    whole(file, mib)
}

/// Without the pages of the mount. A server may have read the bytes before; the disk must read them again.
fn read_cold(place: &Path, mib: u64, _: u64) -> Duration {
    read_large(place, mib, |file| {
        rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("advice is taken");
    })
}

/// Without any page of any filesystem, so that all must read from the disk.
fn read_uncached(place: &Path, mib: u64, _: u64) -> Duration {
    read_large(place, mib, |_| {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "1").expect("we are root");
    })
}

fn read_warm(place: &Path, mib: u64, _: u64) -> Duration {
    let path = place.with_file_name("large");
    if !path.exists() {
        write(place, mib, 0);
    }
    let open = || File::open(&path).expect("it was written");
    whole(open(), mib);
    whole(open(), mib)
}

/// Writes pages of the large file at random, each followed by fsync.
fn write_anywhere(place: &Path, count: u64, number: u64) -> Duration {
    const MIB: u64 = 16;
    let path = place.with_file_name("anywhere");
    if !path.exists() {
        fs::write(&path, vec![7; (MIB << 20) as usize]).expect("there is room");
    }
    let file = OpenOptions::new().write(true).open(&path).expect("it was written");
    file.sync_all().expect("it reaches the disk");
    timed(count, |n| {
        let page = scattered(number.wrapping_mul(count) + n) % (MIB << 20 >> 12);
        file.write_all_at(&[n as u8; BLOCK], page * BLOCK as u64).expect("there is room");
        file.sync_all().expect("it reaches the disk");
    })
}

/// A different number for each, in no order.
const fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Reads a file of which most pages were written again, one by one.
fn read_pieces(place: &Path, mib: u64, _: u64) -> Duration {
    let path = place.with_file_name("pieces");
    fs::write(&path, vec![7; (mib << 20) as usize]).expect("there is room");
    // Anew each time: a server may put together what is left alone.
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("it was written");
    for n in 0..mib << 20 >> 12 {
        let page = scattered(n) % (mib << 20 >> 12);
        file.write_all_at(&[n as u8; BLOCK], page * BLOCK as u64).expect("there is room");
    }
    file.sync_all().expect("it reaches the disk");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("advice is taken");
    whole(file, mib)
}

/// Reads of so many KiB that no cache of the kernel answers.
fn past(place: &Path, count: u64, kib: usize) -> Duration {
    const MIB: u64 = 4;
    let path = place.with_file_name("past");
    if !path.exists() {
        fs::write(&path, vec![7; (MIB << 20) as usize]).expect("there is room");
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(&path).expect("it was written");
    let mut block = sys::pages::PageBuffer::with_at_least(kib << 10).expect("there is memory");
    timed(count, |n| {
        let at = n * ((kib as u64) << 10);
        file.read_exact_at(block.bytes_mut(), at % (MIB << 20)).expect("it is so long");
    })
}

fn whole(mut file: File, mib: u64) -> Duration {
    let mut piece = vec![0; 128 << 10];
    timed(mib * 8, |_| file.read_exact(&mut piece).expect("it is so long"))
}

/// A server to be measured.
struct Spec {
    name: String,
    directory: String,
    /// A program and its arguments, with `{store}` and `{at}` in them.
    command: Vec<String>,
}

fn specs() -> Vec<Spec> {
    let this = std::env::current_exe().expect("this program has a path");
    let own = OWN.iter().map(|&mode| Spec {
        name: mode.to_owned(),
        directory: String::new(),
        command: vec![this.display().to_string(), mode.into(), "{store}".into(), "{at}".into()],
    });
    let server = |name: &str, options: &str| Spec {
        name: format!("ours-{name}"),
        directory: "current".into(),
        command: format!("{BINARY} mount {{store}} {{at}} -q {options}")
            .split(' ')
            .map(str::to_owned)
            .collect(),
    };
    let ours = OURS.iter().map(|(readers, spin)| {
        let options = format!("--transport dev --readers {readers} --spin {spin}");
        server(&format!("{readers}-{spin}"), &options)
    });
    let ours = ours.chain(std::iter::once(server("ring", "--transport uring")));
    let splicing = SPLICING.iter().map(|(name, from)| Spec {
        name: (*name).to_owned(),
        directory: "current".into(),
        command: format!("{BINARY} mount {{store}} {{at}} -q --transport dev --splice-from {from}")
            .split(' ')
            .map(str::to_owned)
            .collect(),
    });
    let named = std::env::var("BENCH_SERVERS").unwrap_or_default();
    let named = named.split(';').filter(|line| !line.trim().is_empty()).map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(name), Some(directory)) = (words.next(), words.next()) else {
            panic!("BENCH_SERVERS: `{line}` is not NAME DIRECTORY COMMAND");
        };
        Spec { name, directory, command: words.collect() }
    });
    own.chain(ours).chain(splicing).chain(named).collect()
}

impl Spec {
    /// Starts the server and waits until it answers.
    fn start(&self) -> Server {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let root = directory.path().canonicalize().expect("it was just made");
        let (store, at) = (root.join("store"), root.join("mnt"));
        fs::create_dir(&store).expect("the directory is new");
        fs::create_dir(&at).expect("the directory is new");
        let fill = |word: &String| {
            word.replace("{store}", &store.display().to_string())
                .replace("{at}", &at.display().to_string())
        };
        let words: Vec<String> = self.command.iter().map(fill).collect();
        let (program, arguments) =
            words.split_first().unwrap_or_else(|| panic!("{}: no command", self.name));
        let mut command = Command::new(program);
        // If the bench is interrupted, no server stays behind.
        let child = sys::process::die_with_parent(command.args(arguments))
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {program}: {error}", self.name));
        let mut server = Server {
            name: self.name.clone(),
            stores: !OWN.contains(&self.name.as_str()),
            inside: at.join(&self.directory),
            at,
            child: Some(child),
            _directory: directory,
        };
        let begin = Instant::now();
        while !server.is_up() {
            assert!(begin.elapsed() < START, "{} does not serve", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        let file = server.place().join("file");
        fs::write(file, vec![7; BLOCK]).expect("a file can be written");
        server
    }
}

/// A server that answers, killed and unmounted at the end.
struct Server {
    name: String,
    /// Whether it keeps what it is given.
    stores: bool,
    at: PathBuf,
    inside: PathBuf,
    child: Option<Child>,
    _directory: tempfile::TempDir,
}

impl Server {
    /// No server: the filesystem that stores are on.
    fn disk() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let at = directory.path().to_owned();
        fs::write(at.join("file"), vec![7; BLOCK]).expect("a file can be written");
        let inside = at.clone();
        Self { name: "disk".into(), stores: true, at, inside, child: None, _directory: directory }
    }

    /// Whether it is there for what splicing brings.
    fn splices(&self) -> bool {
        SPLICING.iter().any(|(name, _)| *name == self.name)
    }

    /// The bare loop with the same readers.
    fn floor(&self) -> &'static str {
        match self.name.as_str() {
            "ours-1-20" | "transport-spin" | "bare-1-spin" => "bare-1-spin",
            "ours-2-20" | "bare-2-spin" => "bare-2-spin",
            "ours-2-0" | "bare-2" => "bare-2",
            name if name.contains("ring") => "bare-ring",
            _ => "bare-1",
        }
    }

    /// Where in the mount to work.
    fn place(&self) -> PathBuf {
        self.inside.clone()
    }

    /// The kernel's number of the connection; `None` for the filesystem below.
    fn connection(&self) -> Option<u32> {
        self.child.as_ref()?;
        Some(rustix::fs::minor(rustix::fs::stat(&self.at).ok()?.st_dev))
    }

    fn is_up(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
        }
        let table = mount_table::read().expect("/proc is mounted");
        mount_table::topmost(&table, &self.at).is_some() && self.inside.is_dir()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = child.kill();
        let _ = child.wait();
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Serves constants at `at` until unmounted.
fn serve(mode: &str, store: &Path, at: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = MountOptions::new(store.to_owned());
    let point = mount::check(at, store, false)?.prepare()?;
    let (device, _) = point.mount(&options)?;
    let wait = if mode.ends_with("-spin") { Wait::Spin(SPIN) } else { Wait::Block };
    let device = DevFuse::new(device, wait)?;
    if !mode.starts_with("bare") {
        return Ok(transported(&device)?);
    }
    if wait != Wait::Block {
        let flags = rustix::fs::fcntl_getfl(&device)? | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&device, flags)?;
    }
    // As fair as can be: several readers share nothing but the numbers they give out.
    let next = AtomicU64::new(FILE);
    // Never written to: whoever wants these to end unmounts.
    let (stop, _writer) = io::pipe()?;
    std::thread::scope(|scope| {
        if mode == "bare-ring" {
            bare_init(&device)?;
            let cpus = std::thread::available_parallelism()?.get();
            for cpu in 0..cpus {
                let (device, next, stop) = (device.as_fd(), &next, stop.try_clone()?);
                scope.spawn(move || {
                    bare_queue(device, cpu as u16, next, stop.as_fd())
                        .unwrap_or_else(|error| eprintln!("queue {cpu}: {error}"));
                });
            }
        }
        if mode.contains('2') {
            scope.spawn(|| bare(&device, wait, &next));
        }
        bare(&device, wait, &next)
    })?;
    Ok(())
}

/// Answers INIT such that what follows comes over the ring.
fn bare_init(device: &DevFuse) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let length = rustix::io::read(device, buffer.bytes_mut())?;
    let (header, _) = fuse_in_header::read_from_prefix(&buffer.bytes_mut()[..length])
        .map_err(|_| io::ErrorKind::InvalidData)?;
    assert_eq!(header.opcode, FUSE_INIT);
    let out = fuse_init_out {
        flags: INIT.flags | FUSE_INIT_EXT as u32,
        flags2: (FUSE_OVER_IO_URING >> 32) as u32,
        ..INIT
    };
    let head = fuse_out_header {
        len: (size_of::<fuse_out_header>() + size_of::<fuse_init_out>()) as u32,
        error: 0,
        unique: header.unique,
    };
    let reply = [io::IoSlice::new(head.as_bytes()), io::IoSlice::new(out.as_bytes())];
    rustix::io::writev(device, &reply)?;
    Ok(())
}

/// One queue of the ring, and its thread.
fn bare_queue(
    device: BorrowedFd<'_>,
    cpu: u16,
    next: &AtomicU64,
    stop: BorrowedFd<'_>,
) -> io::Result<()> {
    sys::process::pin_to(cpu.into())?;
    let mut constants = Constants::new(next);
    let mut queue = Prepared::new(8, MAX_WRITE as usize)?.register(device, cpu, stop)?;
    loop {
        let number = match queue.completed() {
            Some(Completed::Request(number)) => number,
            Some(Completed::Gone(_) | Completed::Stop) => return Ok(()),
            None => {
                queue.wait()?;
                continue;
            }
        };
        let sys::fuse_ring::Entry { header, payload } = queue.entry(number);
        let (to, _) = fuse_in_header::read_from_prefix(&header.in_out)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let body = header.ring_ent_in_out.payload_sz as usize;
        let (error, part) = constants.answer(&to, &payload[..body]).unwrap_or((-libc::EIO, &[]));
        let head = fuse_out_header {
            len: (size_of::<fuse_out_header>() + part.len()) as u32,
            error,
            unique: to.unique,
        };
        header.in_out[..size_of::<fuse_out_header>()].copy_from_slice(head.as_bytes());
        payload[..part.len()].copy_from_slice(part);
        header.ring_ent_in_out.payload_sz = part.len() as u32;
        queue.commit(number)?;
    }
}

/// The agreement on INIT that asks for as little as possible.
const INIT: fuse_init_out = fuse_init_out {
    major: FUSE_KERNEL_VERSION,
    minor: FUSE_KERNEL_MINOR_VERSION,
    max_readahead: 1 << 17,
    flags: (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS) as u32,
    max_background: 16,
    congestion_threshold: 12,
    max_write: MAX_WRITE,
    time_gran: 1,
    max_pages: 256,
    map_alignment: 0,
    flags2: 0,
    max_stack_depth: 0,
    request_timeout: 0,
    unused: [0; 11],
};

/// The number of the one file that is there; those that are made get the numbers after it.
const FILE: u64 = 2;
/// How long everything may be cached.
const VALID: Duration = Duration::from_secs(3600);

fn attr(node: u64) -> Attr {
    let root = node == FUSE_ROOT_ID;
    Attr {
        ino: node,
        size: if root { 0 } else { BLOCK as u64 },
        mode: if root { 0o040_755 } else { 0o100_644 },
        nlink: 1,
        blksize: 4096,
        ..Attr::default()
    }
}

/// Answers made before the first request comes, but for what changes.
struct Constants<'n> {
    next: &'n AtomicU64,
    block: [u8; BLOCK],
    created: Vec<u8>,
    found: Vec<u8>,
    opened: Vec<u8>,
    attrs: [Vec<u8>; 2],
    written: Vec<u8>,
}

impl<'n> Constants<'n> {
    fn new(next: &'n AtomicU64) -> Self {
        let out = |part: &Reply<'_>| part.fixed_part().to_vec();
        let id = lighthouse_fuse::proto::types::RequestId(0);
        let opened = Opened { handle: FileHandle(0), flags: OpenedFlags(0), backing_id: 0 };
        let entry = |node| Entry {
            node: NodeId::new(node).expect("above 0"),
            generation: 0,
            attr: attr(node),
            entry_valid: VALID,
            attr_valid: VALID,
        };
        Self {
            next,
            block: [7; BLOCK],
            created: out(&Reply::created(id, &entry(FILE), &opened)),
            found: out(&Reply::entry(id, &entry(FILE))),
            opened: out(&Reply::opened(id, &opened)),
            attrs: [FUSE_ROOT_ID, FILE].map(|node| out(&Reply::attr(id, &attr(node), VALID))),
            written: out(&Reply::written(id, BLOCK as u32)),
        }
    }

    /// The errno and what follows the header; `None` where no answer is due. `body` is looked at for LOOKUP only.
    fn answer(&mut self, header: &fuse_in_header, body: &[u8]) -> Option<(i32, &[u8])> {
        Some(match header.opcode {
            FUSE_INIT => (0, INIT.as_bytes()),
            FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT => return None,
            FUSE_LOOKUP if body == b"file\0" => (0, &self.found),
            FUSE_LOOKUP => (-libc::ENOENT, &[]),
            FUSE_GETATTR => (0, &self.attrs[usize::from(header.nodeid != FUSE_ROOT_ID)]),
            FUSE_SETATTR => (0, &self.attrs[1]),
            FUSE_OPEN | FUSE_OPENDIR => (0, &self.opened),
            FUSE_READ => (0, &self.block),
            FUSE_CREATE => {
                let node = self.next.fetch_add(1, Ordering::Relaxed) + 1;
                // The node number comes first.
                self.created[..8].copy_from_slice(&node.to_ne_bytes());
                (0, &self.created)
            }
            FUSE_WRITE => (0, &self.written),
            FUSE_UNLINK | FUSE_RELEASE | FUSE_RELEASEDIR => (0, &[]),
            _ => (-libc::ENOSYS, &[]),
        })
    }
}

/// Reads and writes `/dev/fuse`, and knows of each request its header only.
fn bare(device: &DevFuse, wait: Wait, next: &AtomicU64) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let mut constants = Constants::new(next);
    loop {
        let bytes = buffer.bytes_mut();
        let Some(length) = read(device, bytes, wait)? else { return Ok(()) };
        let (header, body) = fuse_in_header::read_from_prefix(&bytes[..length])
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let Some((error, part)) = constants.answer(&header, body) else { continue };
        let head = fuse_out_header {
            len: (size_of::<fuse_out_header>() + part.len()) as u32,
            error,
            unique: header.unique,
        };
        let reply = [io::IoSlice::new(head.as_bytes()), io::IoSlice::new(part)];
        match rustix::io::writev(device, &reply) {
            Ok(_) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One read of the device; `None` at the end.
fn read(device: &DevFuse, bytes: &mut [u8], wait: Wait) -> io::Result<Option<usize>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut until = None;
    loop {
        match rustix::io::read(device, &mut *bytes) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::NOENT | Errno::INTR) => (),
            Err(Errno::NODEV) => return Ok(None),
            Err(Errno::AGAIN) => {
                let Wait::Spin(time) = wait else { continue };
                if Instant::now() >= *until.get_or_insert_with(|| Instant::now() + time) {
                    poll(&mut [PollFd::new(device, PollFlags::IN)], None)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The same constants, through transport, decoder and encoder.
fn transported(device: &DevFuse) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let block = [7; BLOCK];
    let mut next = FILE;
    while let Some(frame) = device.receive(&mut buffer)? {
        let Frame::Whole(bytes) = frame else { return Err(io::ErrorKind::InvalidData.into()) };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
        let message = Message::split(bytes, Dialect::NEWEST).map_err(invalid)?;
        let id = message.id();
        let opened = Opened { handle: FileHandle(0), flags: OpenedFlags(0), backing_id: 0 };
        let entry = |node| Entry {
            node: NodeId::new(node).expect("above 0"),
            generation: 0,
            attr: attr(node),
            entry_valid: VALID,
            attr_valid: VALID,
        };
        let reply = match Op::decode(&message).map_err(invalid)? {
            Op::Init(init) => Reply::init(id, &INIT, init.minor),
            Op::Forget(_) | Op::BatchForget(_) | Op::Interrupt(_) => continue,
            Op::Lookup(lookup) if lookup.name.as_bytes() == b"file" => {
                Reply::entry(id, &entry(FILE))
            }
            Op::Lookup(_) => Reply::error(id, Refusal::ENOENT),
            Op::GetAttr(getattr) => Reply::attr(id, &attr(getattr.node.get()), VALID),
            Op::SetAttr(setattr) => Reply::attr(id, &attr(setattr.node.get()), VALID),
            Op::Open(_) | Op::OpenDir(_) => Reply::opened(id, &opened),
            Op::Read(_) => Reply::data(id, &block),
            Op::Create(_) => {
                next += 1;
                Reply::created(id, &entry(next), &opened)
            }
            Op::Write(write) => Reply::written(id, write.data.len() as u32),
            Op::Unlink(_) | Op::Release(_) | Op::ReleaseDir(_) => Reply::empty(id),
            _ => Reply::error(id, Refusal::ENOSYS),
        };
        let _ = device.send(&reply)?;
    }
    Ok(())
}
