//! How long does one request take from a program through the kernel to a server and back?
//!
//! Every server is asked the same, in one run, so that what counts is the ratio between them:
//!
//! - `bare`: one thread that reads `/dev/fuse` and writes constants, with no decoding at all. What
//!   it needs is the kernel's share; nobody on the same number of threads can be faster.
//! - `bare-spin`: the same, reading for 20 us without blocking before it sleeps.
//! - `transport`, `transport-spin`: the same constants through this crate's transport, decoder and
//!   encoder.
//! - those named in `BENCH_SERVERS`, separated by semicolons, each as `NAME DIRECTORY COMMAND`:
//!   the command line with `{store}` and `{at}` in it, and where in the mount to work.
//!
//! ```text
//! BENCH_SERVERS='ours current target/release/lighthouse-fuse mount {store} {at}' \
//!     cargo bench --bench mount
//! ```
//!
//! The servers are processes of their own, this program again for the first four. The figures are
//! those of a lone client, which on two idle CPUs are decided by waking the other CPU.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::types::{
    Attr, Entry, Errno as Refusal, FileHandle, NodeId, Opened, OpenedFlags,
};
use lighthouse_fuse::proto::{Dialect, Message, Op, Reply};
use lighthouse_fuse::sys;
use lighthouse_fuse::transport::dev_fuse::{DevFuse, Wait};
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::{Buffer, Frame, Transport, mount_table};

/// How much one READ or WRITE carries.
const BLOCK: usize = 4096;
const MAX_WRITE: u32 = 1 << 20;
/// How long a spinning reader reads without blocking.
const SPIN: Duration = Duration::from_micros(20);
/// How long a server has to come up.
const START: Duration = Duration::from_secs(20);
/// How many files are made before they are removed again.
const BATCH: u64 = 1000;
/// The servers made of this program.
const OWN: [&str; 4] = ["bare", "bare-spin", "transport", "transport-spin"];

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
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let servers: Vec<Server> = specs().iter().map(Spec::start).collect();
    round_trip(&mut criterion, &servers, "getattr", |place| {
        let file = File::open(place.join("file")).expect("the file is there");
        move |_| {
            // Asked of the server whatever the kernel has in its cache.
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
            rustix::fs::statx(&file, "", flags, StatxFlags::MODE).expect("an open file has them");
        }
    });
    round_trip(&mut criterion, &servers, "lookup", |place| {
        move |n| {
            // A name never asked for before: in no cache.
            let name = place.join(format!("missing-{n}"));
            assert_eq!(rustix::fs::stat(&name).err(), Some(Errno::NOENT));
        }
    });
    round_trip(&mut criterion, &servers, "read-4k", |place| {
        // Past the page cache, or the kernel would answer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(place.join("file"))
            .expect("the file is there");
        let mut block = vec![0; BLOCK];
        move |_| file.read_exact_at(&mut block, 0).expect("a block is there")
    });
    round_trip(&mut criterion, &servers, "open-close", |place| {
        let path = place.join("file");
        move |_| drop(File::open(&path).expect("the file is there"))
    });
    create(&mut criterion, &servers);
    criterion.final_summary();
    ExitCode::SUCCESS
}

/// Measures `prepare`'s closure on every server, called with a number that never comes twice.
fn round_trip<F: FnMut(u64)>(
    criterion: &mut Criterion,
    servers: &[Server],
    name: &str,
    prepare: impl Fn(PathBuf) -> F,
) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    for server in servers {
        let mut ask = prepare(server.place());
        group.bench_function(&server.name, |bencher| {
            bencher.iter(|| {
                number += 1;
                ask(number);
            });
        });
    }
    group.finish();
}

/// Measures create, write of one block, and close; files are removed between the measurements.
fn create(criterion: &mut Criterion, servers: &[Server]) {
    let mut group = criterion.benchmark_group("create-write-4k-close");
    group.throughput(Throughput::Elements(1));
    let block = vec![7; BLOCK];
    let mut number = 0;
    for server in servers {
        let place = server.place();
        group.bench_function(&server.name, |bencher| {
            bencher.iter_custom(|count| {
                let mut took = Duration::ZERO;
                for start in (0..count).step_by(BATCH as usize) {
                    let names: Vec<PathBuf> = (start..count.min(start + BATCH))
                        .map(|_| {
                            number += 1;
                            place.join(format!("new-{number}"))
                        })
                        .collect();
                    let begin = Instant::now();
                    for name in &names {
                        let mut file = File::create_new(name).expect("the name is new");
                        file.write_all(&block).expect("a block can be written");
                    }
                    took += begin.elapsed();
                    for name in &names {
                        std::fs::remove_file(name).expect("the file was just made");
                    }
                }
                took
            });
        });
    }
    group.finish();
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
    let named = std::env::var("BENCH_SERVERS").unwrap_or_default();
    let named = named.split(';').filter(|line| !line.trim().is_empty()).map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(name), Some(directory)) = (words.next(), words.next()) else {
            panic!("BENCH_SERVERS: `{line}` is not NAME DIRECTORY COMMAND");
        };
        Spec { name, directory, command: words.collect() }
    });
    own.chain(named).collect()
}

impl Spec {
    /// Starts the server and waits until it answers.
    fn start(&self) -> Server {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let root = directory.path().canonicalize().expect("it was just made");
        let (store, at) = (root.join("store"), root.join("mnt"));
        std::fs::create_dir(&store).expect("the directory is new");
        std::fs::create_dir(&at).expect("the directory is new");
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
            inside: at.join(&self.directory),
            at,
            child,
            _directory: directory,
        };
        let begin = Instant::now();
        while !server.is_up() {
            assert!(begin.elapsed() < START, "{} does not serve", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        let file = server.place().join("file");
        std::fs::write(file, vec![7; BLOCK]).expect("a file can be written");
        server
    }
}

/// A server that answers, killed and unmounted at the end.
struct Server {
    name: String,
    at: PathBuf,
    inside: PathBuf,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Where in the mount to work.
    fn place(&self) -> PathBuf {
        self.inside.clone()
    }

    fn is_up(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
        let table = mount_table::read().expect("/proc is mounted");
        mount_table::topmost(&table, &self.at).is_some() && self.inside.is_dir()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    if mode.starts_with("bare") { Ok(bare(&device, wait)?) } else { Ok(transported(&device)?) }
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

/// Reads and writes `/dev/fuse`, and knows of each request its header only.
fn bare(device: &DevFuse, wait: Wait) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let block = [7; BLOCK];
    let mut next = FILE;
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
    // Everything that does not change is made before the first request comes.
    let mut created = out(&Reply::created(id, &entry(FILE), &opened));
    let found = out(&Reply::entry(id, &entry(FILE)));
    let opened = out(&Reply::opened(id, &opened));
    let attrs = [FUSE_ROOT_ID, FILE].map(|node| out(&Reply::attr(id, &attr(node), VALID)));
    let written = out(&Reply::written(id, BLOCK as u32));
    loop {
        let bytes = buffer.bytes_mut();
        let Some(length) = read(device, bytes, wait)? else { return Ok(()) };
        let (header, body) = fuse_in_header::read_from_prefix(&bytes[..length])
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let (error, part): (i32, &[u8]) = match header.opcode {
            FUSE_INIT => (0, INIT.as_bytes()),
            FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT => continue,
            FUSE_LOOKUP if body == b"file\0" => (0, &found),
            FUSE_LOOKUP => (-libc::ENOENT, &[]),
            FUSE_GETATTR => (0, &attrs[usize::from(header.nodeid != FUSE_ROOT_ID)]),
            FUSE_SETATTR => (0, &attrs[1]),
            FUSE_OPEN | FUSE_OPENDIR => (0, &opened),
            FUSE_READ => (0, &block),
            FUSE_CREATE => {
                next += 1;
                // The node number comes first.
                created[..8].copy_from_slice(&next.to_ne_bytes());
                (0, &created)
            }
            FUSE_WRITE => (0, &written),
            FUSE_UNLINK | FUSE_RELEASE | FUSE_RELEASEDIR => (0, &[]),
            _ => (-libc::ENOSYS, &[]),
        };
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
