//! What does a mount cost, beside the least a server can do, beside the filesystem below, and beside other servers?
//!
//! All are asked the same in turn, round after round in one run, in each round in another order, so that what counts is
//! the ratio between medians:
//!
//! - `disk`: a directory of the filesystem that the store is on, where nobody has removed anything: for minutes after it ext4
//!   is slow at making files there, which is not what anybody is to be compared with.
//! - `bare-N`, `bare-N-spin`: N threads that read `/dev/fuse` and write constants, with no decoding at all. What
//!   they need is the kernel's share; nobody on the same number of threads can be faster. `spin` reads for
//!   20 us without blocking before it sleeps.
//! - `bare-ring`: the same over io_uring, one pinned thread for each CPU. Needs the kernel to offer it: `echo Y >
//!   /sys/module/fuse/parameters/enable_uring`.
//! - `transport-spin`: the same constants through this crate's transport, decoder and encoder, on one thread.
//! - `ours-N-S`: the real server with `--transport dev --readers N --spin S`; `ours-ring`: with `--transport uring`;
//!   `ours-dev`: with `--transport dev` and defaults otherwise.
//! - `ours-copied`, `ours-spliced`: over the device with `--splice-from 0` and `1`, for reads past the cache alone.
//! - `polyfuse`, `fuser`, `fuse3`, `fusepy`, `passthrough_ll`: [`peers`] on the same work.
//! - those named in `BENCH_SERVERS`, separated by semicolons, each as `NAME DIRECTORY COMMAND`:
//!   the command line with `{store}` and `{at}` in it, and where in the mount to work (`.` for its root).
//!
//! ```text
//! BENCH_SERVERS='fine current target/release/lighthouse-fuse mount {store} {at} --memory 1G' \
//!     cargo bench --bench mount -- getattr create
//! ```
//!
//! # The comparison
//!
//! ```text
//! cargo bench --bench mount -- --peers            # within an hour
//! cargo bench --bench mount -- --peers --quick    # within ten minutes
//! ```
//!
//! asks everything of ours with its defaults, the loops, the disk and the peers, has whole commands run on them
//! (`git clone`, `tar x`, `cargo build`, `npm ci`, a formatter in Python, `rm -rf`), and writes a table and a drawing,
//! `comparison.md` and `comparison.svg`, into `target/bench/`; the table of README stands first in it, with how many times
//! as long ours takes. `--quick` asks each three times, with smaller files, and runs the commands on ours, the disk and
//! fuser. What the peers that are no Rust need is installed by `.ci/tools --peers`; what is not there is named and left
//! out.
//!
//! Each server leads a session of its own, as a daemon does, or what was started from another terminal: where
//! `sched_autogroup_enabled` is set, as most distributions have it, the scheduler shares CPUs out among sessions first, and places who
//! is woken by another rule than within one. For a lone caller this decides as much as the server does. `BENCH_SESSION=shared`
//! starts them in the session of the bench, as a `mount` that a script runs beside what uses it.
//!
//! Each answer comes with the percentiles of single operations, the server's CPU time for one, and how many requests the
//! kernel sent for one, where its tracing is there (tracefs): these are counted in a round of their own. CPU time comes in
//! the clock's ticks of mostly 10 ms, summed over the rounds: in few rounds of short ones it says little.
//!
//! Three kinds of rows compare different work, to our disadvantage. A birth time is a request (STATX) for each inode, for
//! no listing brings it; the others do not tell any, so their walks go without (ours do with `--no-birth-times`). The memory
//! servers of [`peers`] have nothing to make durable, and after one refusal the kernel asks them for no FSYNC. polyfuse and
//! fuser refuse OPEN as well, for a tree in memory has no use for it, and so an open file costs no request; ours is asked,
//! since who opened a file and when it was closed ends a version.
//!
//! New files are made to be written and not read (O_WRONLY), as `tar`, `git`, `cp`, `dd` and `npm` make them, which we have the
//! kernel write past its cache; one row, "create to read", has them made with O_RDWR.
//!
//! # The settings
//!
//! ```text
//! cargo bench --bench mount -- --sweep            # some minutes for each setting
//! ```
//!
//! asks ours alone, at several values of each setting beside the default, what that setting is there for, and writes
//! `sweep.md` and `sweep.svg`. Words choose settings.
//!
//! # Amid many files
//!
//! ```text
//! cargo bench --bench mount -- --grown
//! ```
//!
//! asks each of the disk, fuser and ours twice, in a directory of a thousand files and in one of a million, and writes
//! `grown.md` and `grown.svg`. What is looked up are names that were there before, spread over all; what is made, renamed and
//! removed is new. `BENCH_ONLY` chooses kinds.
//!
//! # Options
//!
//! Words on the command line choose questions; `commands` are the whole commands. `BENCH_ROUNDS` is how often each is
//! asked (9; 5 in the comparison), `BENCH_CREW` how many servers of each kind are asked what takes microseconds (1; 4 in the
//! comparison and the sweep, 2 in the quick one), `BENCH_MIB` how long the file is that is written and read whole (256), `BENCH_ONLY`
//! the names of servers to ask, separated by commas, rather than all. `--test` asks each once, at the smallest size.
//!
//! The servers are processes of their own, this program again for bare loops and most peers, all in a mount namespace of
//! their own, which ends with them: to look at a mount meanwhile, `nsenter --mount --target PID`.
//!
//! What a lone client sees is decided, on two idle CPUs, by waking the other CPU: so by where the scheduler has put the
//! server, which stays there. Hence several of each kind.

mod acts;
mod bare;
mod commands;
mod constants;
mod counter;
mod grown;
mod laps;
mod peers;
mod questions;
mod report;
mod server;
mod sweep;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::uring::Queues;
use rustix::mount::MountPropagationFlags;

use counter::Counter;
use questions::{QUESTIONS, Size};
use report::Row;
use server::{Crew, DISK};
use sweep::Setting;

/// How much one READ or WRITE carries.
const BLOCK: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let served = peers::hand_over().or_else(|| serve(&arguments));
    match served {
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("{}: {error}", arguments.get(1).map_or("", String::as_str));
            return ExitCode::FAILURE;
        }
        None => (),
    }
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root and /dev/fuse");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = keep_mounts() {
        eprintln!("no mount namespace of its own: {error}");
        return ExitCode::FAILURE;
    }
    match Run::new(&arguments).all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Moves this program, and with it all that it starts, to where what they mount ends with the last of them, however they
/// end: nobody is left to unmount after ^C, and who clears away the temporary directories would do it through the mounts.
fn keep_mounts() -> std::io::Result<()> {
    sys::process::unshare_mounts(false)?;
    let ours = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", ours)?)
}

/// Where this program was started as one of the servers, being it.
fn serve(arguments: &[String]) -> Option<Result<(), Box<dyn std::error::Error>>> {
    let [_, mode, store, at] = arguments else { return None };
    let (store, at) = (Path::new(store), Path::new(at));
    if bare::BARE.contains(&mode.as_str()) {
        return Some(bare::serve(mode, store, at));
    }
    peers::BUILT_IN.contains(&mode.as_str()).then(|| peers::serve(mode, at).map_err(Into::into))
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Task {
    /// The servers that show where the time of a request goes.
    Variants,
    /// `--peers`: ours beside others, and whole commands.
    Comparison,
    /// `--sweep`: each setting beside its default.
    Sweep,
    /// `--grown`: amid few files and amid many.
    Grown,
}

/// What is to be done.
struct Run {
    task: Task,
    words: Vec<String>,
    only: String,
    quick: bool,
    smallest: bool,
    size: Size,
}

impl Run {
    fn new(arguments: &[String]) -> Self {
        let has = |option: &str| arguments.iter().any(|argument| argument == option);
        let (quick, smallest) = (has("--quick"), has("--test"));
        let named =
            [("--sweep", Task::Sweep), ("--grown", Task::Grown), ("--peers", Task::Comparison)];
        let task = named.into_iter().find(|(option, _)| has(option));
        let task = task.map_or(Task::Variants, |(_, task)| task);
        let number = |name: &str, otherwise: u64| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
        };
        let full = Size {
            rounds: number("BENCH_ROUNDS", if task == Task::Variants { 9 } else { 5 }),
            mib: number("BENCH_MIB", 256),
            files: if task == Task::Comparison { 100_000 } else { 10_000 },
            divisor: 1,
            crew: number(
                "BENCH_CREW",
                match task {
                    Task::Comparison | Task::Sweep => 4,
                    Task::Variants | Task::Grown => 1,
                },
            ) as usize,
            clients: &[1, 2, 8],
        };
        let size = match (smallest, quick) {
            (true, _) => {
                Size { rounds: 1, mib: 1, files: 200, divisor: 100, crew: 2, clients: &[1, 2] }
            }
            (_, true) => Size {
                rounds: number("BENCH_ROUNDS", 3),
                mib: number("BENCH_MIB", 64),
                files: 10_000,
                crew: number("BENCH_CREW", 2) as usize,
                clients: &[1, 8],
                ..full
            },
            _ => full,
        };
        let words = arguments.iter().skip(1).filter(|word| !word.starts_with('-'));
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        Self { task, words: words.cloned().collect(), only, quick, smallest, size }
    }

    fn all(&self) -> std::io::Result<()> {
        let (directory, before) = (bench_directory()?, conditions());
        match self.task {
            Task::Sweep => self.sweep(&directory, before),
            Task::Grown => self.grown(&directory, before),
            Task::Variants | Task::Comparison => self.ask(&directory, before),
        }
    }

    fn ask(&self, directory: &Path, before: Vec<String>) -> std::io::Result<()> {
        let begin = Instant::now();
        let compares = self.task == Task::Comparison;
        let crews = self.crews(directory);
        let counter = Counter::new();
        let words: Vec<&String> = self.words.iter().collect();
        let mut rows: Vec<Row> = Vec::new();
        for question in QUESTIONS.iter().filter(|question| question.is_named(&words)) {
            rows.extend(question.ask(&crews, &self.size, counter.as_ref()));
        }
        if compares && (words.is_empty() || words.iter().any(|word| *word == "commands")) {
            let stores = crews.iter().map(Crew::first).filter(|server| server.stores);
            let asked = stores.filter(|server| !self.quick || is_quick(&server.name));
            let rounds = match (self.smallest, self.quick) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 3,
            };
            rows.extend(commands::ask(&asked.collect::<Vec<_>>(), rounds));
        }
        if compares {
            report::write(directory, &rows, &self.ended(before, begin))?;
        }
        Ok(())
    }

    fn sweep(&self, directory: &Path, before: Vec<String>) -> std::io::Result<()> {
        let begin = Instant::now();
        let named = |setting: &&Setting| {
            self.words.is_empty() || self.words.iter().any(|word| setting.name.contains(&**word))
        };
        let asked = sweep::SETTINGS.iter().filter(named);
        let settings: Vec<_> =
            asked.map(|setting| (setting.name, setting.ask(&self.size))).collect();
        let named = ("sweep", "Settings, each beside its default in the same run");
        report::write_beside_the_first(directory, named, &settings, &self.ended(before, begin))
    }

    fn grown(&self, directory: &Path, before: Vec<String>) -> std::io::Result<()> {
        let begin = Instant::now();
        let kinds = grown::ask(&self.size, |name| self.is_asked(name));
        let named = ("grown", "Each kind of server amid few files and amid many, in the same run");
        report::write_beside_the_first(directory, named, &kinds, &self.ended(before, begin))
    }

    /// Whether `server` was chosen, and the kernel offers what it needs; says so if it does not.
    fn is_asked(&self, server: &str) -> bool {
        (self.only.is_empty() || self.only.split(',').any(|word| word == server))
            && (!server.ends_with("-ring") || has_ring(server))
    }

    /// `lines`, and how it ended.
    fn ended(&self, mut lines: Vec<String>, begin: Instant) -> Vec<String> {
        lines.push(format!("load average at the end: {}", load()));
        lines.push(format!(
            "{} rounds of {} servers of each kind, {} MiB, {} files walked; {} s in all",
            self.size.rounds,
            self.size.crew,
            self.size.mib,
            self.size.files,
            begin.elapsed().as_secs()
        ));
        lines
    }

    fn crews(&self, directory: &Path) -> Vec<Crew> {
        let mut specs = match self.task {
            Task::Comparison => server::compared(directory),
            _ => server::variants(),
        };
        specs.retain(|spec| self.is_asked(&spec.name));
        let started = specs.iter().map(|spec| Crew::start(spec, self.size.crew));
        std::iter::once(Crew::disk()).chain(started).collect()
    }
}

fn has_ring(server: &str) -> bool {
    let prepared = Queues::prepare(constants::MAX_WRITE as usize, None);
    prepared.inspect_err(|why| println!("SKIPPED: {server}: {why}")).is_ok()
}

/// Whether the commands of `--quick` are run on it.
fn is_quick(name: &str) -> bool {
    name == DISK || name == "fuser" || name.starts_with("ours")
}

/// `target/bench/`, beside the directory of the profile that this program was built in.
fn bench_directory() -> std::io::Result<PathBuf> {
    let binary = Path::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
    let target = binary.ancestors().nth(2).unwrap_or(binary);
    let directory = target.join("bench");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// On what it was measured, as lines of text.
fn conditions() -> Vec<String> {
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        format!("Linux {}, {cpus} CPUs", uname.release().to_string_lossy()),
        format!("load average at the beginning: {}", load()),
    ]
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
