//! Opening and closing a store as every command does it, and what is said when that fails.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use crate::store::disk::{Disk, Real, noted_pid};
use crate::store::event::Timestamp;
use crate::store::log::LogReader;
use crate::store::superblock::{Super, SuperError};
use crate::store::{CreateOptions, Durability, OpenError, OpenOptions, Store};
use crate::sys::signals::Signals;
use crate::transport::mount::Owner;
use crate::tree::Refusal;

use super::{CliError, flight, output, service};

/// How the store is kept.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(super) struct OpenArgs {
    /// When the disk is waited for
    #[arg(long, value_name = "WHEN", default_value = "fsync", env = "LIGHTHOUSE_FUSE_DURABILITY")]
    durability: When,
    /// How often new events are made durable though nobody asks, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000,
          env = "LIGHTHOUSE_FUSE_SYNC_INTERVAL",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    sync_interval: u64,
    /// Memory for the index, as 256M or 2G; without it, an eighth of what this process may have
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "LIGHTHOUSE_FUSE_MEMORY")]
    memory: Option<u64>,
    /// Disk space history may take, as 20G; without it, twice what is live and at least 10 GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "LIGHTHOUSE_FUSE_HISTORY")]
    history: Option<u64>,
}

/// When the disk is waited for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    /// Before every reply
    Always,
    /// For fsync and O_SYNC; everything else a second later
    Fsync,
    /// Never: a power cut loses what fsync promised
    Async,
}

impl OpenArgs {
    fn options(&self, read_only: bool) -> OpenOptions {
        OpenOptions {
            durability: match self.durability {
                When::Always => Durability::Always,
                When::Fsync => Durability::Fsync,
                When::Async => Durability::Async,
            },
            sync_interval: Some(Duration::from_millis(self.sync_interval)),
            memory: usize::try_from(self.memory.unwrap_or_else(default_memory))
                .unwrap_or(usize::MAX),
            read_only,
            history: self.history,
        }
    }
}

/// An eighth of what the cgroup or the machine gives, and at least 64 MiB.
fn default_memory() -> u64 {
    /// Where cgroup v2 and v1 say how much memory may be used, as seen from inside.
    const LIMITS: [&str; 2] =
        ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let machine = rustix::system::sysinfo();
    let all = u64::from(machine.mem_unit).saturating_mul(machine.totalram);
    let limit = LIMITS
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(all, u64::min);
    (limit / 8).max(64 << 20)
}

/// A size such as `4096`, `64K`, `512MiB`, `10G`, in binary units.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: give bytes, or a number with K, M, G or T");
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Opens the store at `path`, or makes one whose tree starts with the owner and mode of `like`.
pub(super) fn open_or_create(
    path: &Path,
    args: &OpenArgs,
    like: &Metadata,
) -> Result<Arc<Store>, CliError> {
    let owner = Owner { uid: like.uid(), gid: like.gid(), mode: like.mode() & 0o7777 };
    open_or_make(path, args, owner, false)
}

/// As [`open_or_create`], for who knows the owner.
pub(super) fn open_or_make(
    path: &Path,
    args: &OpenArgs,
    owner: Owner,
    read_only: bool,
) -> Result<Arc<Store>, CliError> {
    open_or_begin(path, args, owner, read_only, None)
}

/// As [`open_or_make`], for who imports a past: a store that is made begins at `begins`.
pub(super) fn open_or_begin(
    path: &Path,
    args: &OpenArgs,
    owner: Owner,
    read_only: bool,
    begins: Option<Timestamp>,
) -> Result<Arc<Store>, CliError> {
    let create = CreateOptions {
        mode: owner.mode,
        uid: owner.uid,
        gid: owner.gid,
        begins,
        ..CreateOptions::default()
    };
    let options = args.options(read_only);
    let store = Store::open_or_create(path, &create, &options).map_err(|err| failed(path, &err))?;
    if matches!(args.durability, When::Async) {
        output::say(format_args!("--durability async: a power cut loses what fsync has promised"));
    }
    let opening = store.opening();
    match &opening.cut {
        Some(cut) if read_only => output::say(format_args!(
            "{}: {} bytes behind the last whole event are left out; opened without --read-only they are cut off",
            path.display(),
            cut.bytes
        )),
        Some(cut) => output::say(format_args!(
            "{}: {} bytes behind the last whole event were cut off and kept in {}/lost",
            path.display(),
            cut.bytes,
            path.display()
        )),
        None => (),
    }
    if let Some(damage) = &opening.damage {
        output::say(format_args!(
            "{store}: damaged at {damage}: serving what is before it, read-only; `lighthouse-fuse verify {store}` \
             lists all damage, and with the files it names restored from a backup the store is whole again",
            store = path.display()
        ));
    }
    tracing::info!(replayed = opening.replayed, stop = ?opening.stop, "opened the store");
    Ok(Arc::new(store))
}

/// Checks what can be told of a store without changing anything: that it is none yet, or one that
/// this program can open and nobody else has open.
pub(super) fn check(path: &Path) -> Result<(), CliError> {
    let disk = match Real::read_only(path) {
        Ok(disk) => disk,
        Err(err) => match missing(err) {
            OpenError::Missing => return check_parent(path),
            err => return Err(failed(path, &err)),
        },
    };
    match Super::read(&disk) {
        Ok(_) => match holder(path) {
            None => Ok(()),
            Some(pid) => Err(failed(path, &OpenError::Locked { pid })),
        },
        Err(SuperError::Missing) => check_empty(path),
        Err(err) => Err(failed(path, &err.into())),
    }
}

/// Whether a process has the store at `path` open, and which, where that is known.
pub(super) fn holder(path: &Path) -> Option<Option<u32>> {
    let mut lock = std::fs::File::open(path.join("LOCK")).ok()?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let read = lock.read_to_string(&mut text);
            Some(read.ok().and_then(|_| noted_pid(text.as_bytes())))
        }
        _ => None,
    }
}

fn check_parent(path: &Path) -> Result<(), CliError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if parent.is_dir() {
        return Ok(());
    }
    Err(CliError::new(format!(
        "cannot make STORE {}: {} is no directory; make it first",
        path.display(),
        parent.display()
    )))
}

/// A store is never made among files of something else.
fn check_empty(path: &Path) -> Result<(), CliError> {
    let mut entries = std::fs::read_dir(path).map_err(|err| failed(path, &OpenError::Io(err)))?;
    // What a first start that was cut short, or our own lock, leaves behind.
    let ours = ["LOCK", "super.new", "log", "content", "index", "lost", "server.log", flight::FILE];
    match entries.find(|entry| {
        entry.as_ref().is_ok_and(|entry| !ours.iter().any(|name| entry.file_name() == *name))
    }) {
        None => Ok(()),
        Some(_) => Err(CliError::new(format!(
            "{} is no store and not empty; choose another directory for STORE",
            path.display()
        ))),
    }
}

/// What to say when a store could not be opened.
pub(super) fn failed(path: &Path, err: &OpenError) -> CliError {
    let store = path.display();
    CliError::new(match err {
        OpenError::Missing => format!(
            "there is no store at {store}; name another, or make one with `lighthouse-fuse mount \
             {store} MOUNTPOINT`"
        ),
        OpenError::Io(err) if err.kind() == std::io::ErrorKind::NotADirectory => {
            format!("{store} is no directory; name another for STORE")
        }
        OpenError::Locked { pid: Some(pid) } => format!(
            "{store} is served by process {pid}; work through its mount, or unmount it first"
        ),
        OpenError::Locked { pid: None } => {
            format!(
                "{store} is served by another process; work through its mount, or unmount it first"
            )
        }
        err => format!("cannot open the store {store}: {err}"),
    })
}

/// Why a directory of a store could not be opened.
pub(super) fn missing(err: std::io::Error) -> OpenError {
    match err.kind() {
        std::io::ErrorKind::NotFound => OpenError::Missing,
        _ => OpenError::Io(err),
    }
}

/// Makes everything durable and lets go of the store.
pub(super) fn close(store: &Store) -> Result<(), CliError> {
    store.close().map_err(|err| CliError::new(format!("cannot close the store: {err}")))
}

/// A refusal of the tree, in words.
pub(super) fn explain(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoSpace => "the disk under the store is full".to_owned(),
        Refusal::ReadOnly(why) => format!("the store takes no changes: {why}"),
        Refusal::Io(err) => format!("the disk under the store failed: {err}"),
        Refusal::Damaged(what) => what.clone(),
        other => other.to_string(),
    }
}

/// Reads the log of the store at `path` from its first event on, in service or not.
pub(super) fn log_reader(path: &Path) -> Result<LogReader, CliError> {
    let disk: Arc<dyn Disk> =
        Arc::new(Real::read_only(path).map_err(|err| failed(path, &missing(err)))?);
    let state = Super::read(&*disk).map_err(|err| failed(path, &err.into()))?;
    // Where it last ended for sure, or further on.
    LogReader::at_segment(disk, state.store, 1)
        .map(|reader| reader.reaching(state.checkpoint.position))
        .map_err(|err| CliError::new(format!("cannot read the log of {}: {err}", path.display())))
}

/// How often it is looked whether a signal came.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether a signal asked to stop.
#[derive(Debug)]
pub(super) struct Stop {
    signals: Signals,
    asked: std::cell::Cell<bool>,
    looked: std::cell::Cell<Instant>,
}

/// From here on SIGINT and SIGTERM ask instead of killing. To be called before any thread starts.
pub(super) fn stop_on_signals() -> Result<Stop, CliError> {
    let signals = Signals::block(&[Signal::INT, Signal::TERM])
        .map_err(|err| CliError::new(format!("cannot wait for signals: {err}")))?;
    Ok(Stop::new(signals))
}

impl Stop {
    /// Looks among `signals`, of which SIGINT and SIGTERM ask.
    pub(super) fn new(signals: Signals) -> Self {
        Self { signals, asked: false.into(), looked: Instant::now().into() }
    }

    /// The signals, for whoever goes on with them, and whether one asked to stop.
    pub(super) fn into_signals(self) -> (Signals, bool) {
        (self.signals, self.asked.get())
    }

    /// Whether one came so far. Costs a system call only now and then, so it may be asked often.
    pub(super) fn asked(&self) -> bool {
        if self.looked.get().elapsed() < LOOK_EVERY {
            return self.asked.get();
        }
        self.looked.set(Instant::now());
        // Long work may be all that process 1 of a container does for a while.
        service::reap();
        while let Ok(Some(arrival)) = self.signals.next(Some(Duration::ZERO)) {
            if service::stops(arrival.signal) {
                self.asked.set(true);
            }
        }
        self.asked.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(64 << 10));
        assert_eq!(parse_size("3GiB"), Ok(3 << 30));
        for bad in ["", "G", "1.5G", "-1", "1X", "99999999999999999999", "16777217T", "ä"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}
