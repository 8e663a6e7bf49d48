//! `status`: how large a store is, how far back it reaches, and who serves it. Reads the log's end
//! and takes no lock, so it may be asked at any time.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::store::codec::Note;
use crate::store::disk::{Disk, Real};
use crate::store::event::{Seq, Timestamp};
use crate::store::log::{LogReader, Next};
use crate::store::record::Entry;
use crate::store::squeezed;
use crate::store::superblock::{State, Super};
use crate::transport::mount_table::{self, MountEntry};

use super::{CliError, flag, output, service, store};

/// Show the size of STORE, its history, its last event, and who serves it
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// The store
    store: PathBuf,
    /// Print one JSON object
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
}

/// What there is to say. Names are stable: scripts read them. Sizes are in bytes.
#[derive(Serialize)]
struct Status {
    store: String,
    format_version: u32,
    /// The last event.
    last: u64,
    last_time: Option<String>,
    /// The oldest event whose tree can be shown.
    horizon: u64,
    log_bytes: u64,
    content_bytes: u64,
    index_bytes: u64,
    /// Content of small writes that was taken out of the log, because history begins later.
    gone_bytes: u64,
    /// `closed`, `in service`, `not closed` (its server was killed), `sync failed`.
    state: &'static str,
    /// Process that has it open.
    served_by: Option<u32>,
    /// What requests come over, as far as this process sees: `io_uring` or `/dev/fuse`.
    served_over: Option<&'static str>,
    mounted_at: Vec<String>,
}

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, CliError> {
    let status = look(&args.store)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &status).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut line = |name: &str, value: String| writeln!(out, "{name:<11}{value}");
    line("store", status.store.clone())?;
    let server = match (status.served_by, status.state) {
        (Some(pid), _) => match status.served_over {
            Some(over) => format!("in service, by process {pid}, over {over}"),
            None => format!("in service, by process {pid}"),
        },
        (None, state) => state.to_owned(),
    };
    line("state", server)?;
    for place in &status.mounted_at {
        line("mounted at", place.clone())?;
    }
    let when = status.last_time.as_deref().unwrap_or("never");
    line("last event", format!("@{} at {when}", status.last))?;
    line("history", format!("from @{} to @{}", status.horizon, status.last))?;
    if status.gone_bytes > 0 {
        let gone = output::size(status.gone_bytes);
        line("given back", format!("{gone} of small writes before @{}", status.horizon))?;
    }
    let total = status.log_bytes + status.content_bytes + status.index_bytes;
    line(
        "size",
        format!(
            "{} (log {}, content {}, index {})",
            output::size(total),
            output::size(status.log_bytes),
            output::size(status.content_bytes),
            output::size(status.index_bytes)
        ),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn look(path: &Path) -> Result<Status, CliError> {
    let disk: Arc<dyn Disk> =
        Arc::new(Real::read_only(path).map_err(|err| store::failed(path, &store::missing(err)))?);
    let state = Super::read(&*disk).map_err(|err| store::failed(path, &err.into()))?;
    let unread =
        |err: io::Error| CliError::new(format!("cannot read the store {}: {err}", path.display()));
    let End { last, time, horizon, .. } = End::of(&disk, &state).map_err(unread)?;
    let holder = store::holder(path);
    Ok(Status {
        store: service::absolute(path)?.display().to_string(),
        format_version: state.version,
        last: last.0,
        last_time: (last != Seq::ZERO).then(|| output::time(time)),
        horizon: horizon.0.max(Seq::FIRST.0),
        log_bytes: allocated(&*disk, "log").map_err(unread)?,
        content_bytes: allocated(&*disk, "content").map_err(unread)?,
        index_bytes: allocated(&*disk, "index").map_err(unread)?,
        gone_bytes: squeezed::taken_out(&*disk).map_err(unread)?,
        state: match (state.state, holder) {
            (_, Some(_)) => "in service",
            (State::Closed, None) => "closed",
            (State::InService, None) => "not closed",
            (State::SyncFailed, None) => "sync failed",
        },
        served_by: holder.flatten(),
        served_over: holder.flatten().and_then(transport_of),
        mounted_at: mounts_of(&mount_table::read().unwrap_or_default(), path),
    })
}

/// Whether the store at `path` was closed with `last` as its last event, and has no label. No, if that cannot be told.
pub(super) fn is_closed_after(path: &Path, last: Seq) -> bool {
    let found = || -> Option<bool> {
        let disk: Arc<dyn Disk> = Arc::new(Real::read_only(path).ok()?);
        let state = Super::read(&*disk).ok().filter(|state| state.state == State::Closed)?;
        let end = End::of(&disk, &state).ok()?;
        // What came behind it may have begun in the segment before, which is not read.
        let is_known = end.segment_follows != last;
        Some(end.last == last && is_known && !end.has_label)
    };
    found().unwrap_or(false)
}

/// What the last segment of the log says.
struct End {
    /// The last event.
    last: Seq,
    /// Its time.
    time: Timestamp,
    horizon: Seq,
    /// The last event before the segment.
    segment_follows: Seq,
    /// Whether there is a label in the segment.
    has_label: bool,
}

impl End {
    fn of(disk: &Arc<dyn Disk>, state: &Super) -> io::Result<Self> {
        let mut reader = LogReader::before(Arc::clone(disk), state.store, Seq::NOW)?;
        let start = *reader.segment_start();
        let mut end = Self {
            last: start.seq,
            time: start.time,
            horizon: start.horizon,
            segment_follows: start.seq,
            has_label: false,
        };
        while let Next::Record(_, record) = reader.read()? {
            let stamp = record.stamp();
            if record.is_event() {
                (end.last, end.time) = (stamp.seq, stamp.time);
                continue;
            }
            match record.entry() {
                Some(Entry::Note(Note::Horizon { horizon, .. })) => end.horizon = horizon,
                Some(Entry::Note(Note::Label { .. })) => end.has_label = true,
                _ => (),
            }
        }
        Ok(end)
    }
}

/// What the files of a directory of the store take on the disk.
fn allocated(disk: &dyn Disk, directory: &str) -> io::Result<u64> {
    let names = match disk.list(directory) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut total = 0;
    for name in names {
        match disk.open(&format!("{directory}/{name}"), false) {
            Ok(file) => total += file.allocated()?,
            // Taken away since it was listed.
            Err(err) if err.kind() == io::ErrorKind::NotFound => (),
            Err(err) => return Err(err),
        }
    }
    Ok(total)
}

/// What the threads of a server read requests from: those that serve a queue of the ring are called so.
fn transport_of(server: u32) -> Option<&'static str> {
    let threads = std::fs::read_dir(format!("/proc/{server}/task")).ok()?;
    let names =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    let mut over = None;
    for name in names {
        if name.starts_with("ring-") {
            return Some("io_uring");
        }
        if name.starts_with("reader-") {
            over = Some("/dev/fuse");
        }
    }
    over
}

/// Where the store at `path` is mounted, as `table` says. A bind mount of a part is not the store.
fn mounts_of(table: &[MountEntry], path: &Path) -> Vec<String> {
    let Ok(store) = path.canonicalize() else { return Vec::new() };
    let whole = table.iter().filter(|mount| mount.is_ours() && mount.root == "/");
    let its = whole.filter(|mount| Path::new(&mount.source) == store);
    its.map(|mount| mount.mountpoint.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::superblock::Shape;
    use crate::store::{CreateOptions, OpenOptions, Store};

    #[test]
    fn a_store_is_mounted_where_all_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().canonicalize().unwrap();
        let store = store.display();
        let table = mount_table::parse(
            format!(
                "2 1 0:41 / /a rw - fuse.lighthouse {store} rw\n\
                 3 1 0:42 / /b rw - fuse.lighthouse /other rw\n\
                 4 1 0:41 /current /c rw - fuse.lighthouse {store} rw\n\
                 5 1 0:41 / /d rw - fuse.lighthouse {store} rw\n"
            )
            .as_bytes(),
        );
        assert_eq!(mounts_of(&table, dir.path()), ["/a", "/d"]);
    }

    #[test]
    fn a_store_is_as_it_was_only_if_the_end_of_its_log_says_so() {
        // More notes than a segment holds.
        let many = |store: &Store| (0..500).for_each(|_| store.begin_connection([7; 16]).unwrap());
        let label = |store: &Store| assert_eq!(store.label(b"kept", None).unwrap(), Seq::FIRST);
        let is_as_it_was = |work: &dyn Fn(&Store)| {
            let dir = tempfile::tempdir().unwrap();
            let shape = Shape { segment_len: 8192, content_len: 1 << 20, content_step: 128 << 10 };
            let create = CreateOptions { shape, ..CreateOptions::default() };
            let store = Store::create(dir.path(), &create, &OpenOptions::default()).unwrap();
            work(&store);
            store.close().unwrap();
            is_closed_after(dir.path(), Seq::FIRST)
        };
        assert!(is_as_it_was(&|_: &Store| ()));
        assert!(!is_as_it_was(&label));
        assert!(!is_as_it_was(&|store: &Store| {
            label(store);
            many(store);
        }));
        // Nobody has read whether there was one.
        assert!(!is_as_it_was(&many));
    }
}
