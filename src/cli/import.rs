//! `import`: a directory becomes part of the tree, with modes, owners, times, links and attributes; or what the Python
//! bridge left becomes part of a store, which is done in `bridge`.
//!
//! A file's modification time is set last. So a file whose size, times, mode and owner agree with
//! the source has been imported whole, and a second run passes it by: it continues where the first
//! was stopped, and adds nothing twice. What the source does not have is left alone.
//!
//! Bytes go through [`Tree::write`] like any other, so imported events say who imported them.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use rustix::fs::{SeekFrom, lgetxattr, llistxattr};

use crate::agents::Agents;
use crate::store::Origin;
use crate::store::event::{Ino, Seq, Timestamp};
use crate::store::index::Inode;
use crate::tree::operation::{Attributes, Caller, Operation, S_IFMT, TimeTo, WriteTo, XattrMust};
use crate::tree::{Refusal, Tree};

use super::progress::Progress;
use super::{CliError, bridge, flag, output, service, store};

/// Bytes of content read and written at a time.
const PIECE: usize = 1 << 20;
/// Directories below directories that are followed; deeper ones cannot be named by a path either.
const DEPTH_MAX: usize = 2048;
/// Share of the progress bar that every entry has, in bytes, beside its content.
const ENTRY_WEIGHT: u64 = 4096;

/// Import a directory, or the events of a Python bridge, into STORE
///
/// SOURCE is a directory of files; or the event log of a Python bridge (a directory of `events_*.log` and
/// `events_*.log.gz`, or one of them), its SQLite database, its snapshots, or the directory that holds these. Of a
/// bridge every event is kept as it was, and those about files make the tree and its past. SOURCE is only read.
/// The secrets of its log come from LIGHTHOUSE_EVENT_SECRET and from each --secret-file FILE. An import that was
/// stopped continues when it is run again.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The store; made if it does not exist. It must not be in service
    store: PathBuf,
    /// The directory whose content becomes the root of the tree, or what a bridge left
    source: PathBuf,
    /// Take SOURCE for a directory of files, whatever it looks like
    #[arg(long, env = "LIGHTHOUSE_FUSE_AS_FILES", value_parser = flag())]
    as_files: bool,
    #[command(flatten)]
    bridge: bridge::BridgeArgs,
    #[command(flatten)]
    how: store::OpenArgs,
}

pub(super) fn run(args: &ImportArgs, quiet: bool) -> Result<ExitCode, CliError> {
    let source = &args.source;
    let cannot_read = |err: io::Error| failed(source, &err);
    if !args.as_files {
        let parts = crate::legacy::import::recognise(source).map_err(cannot_read)?;
        if !parts.is_empty() {
            refuse_nesting(&args.store, source)?;
            return bridge::run(&args.store, source, &parts, &args.bridge, &args.how, quiet);
        }
    }
    let root = std::fs::metadata(source).map_err(cannot_read)?;
    if !root.is_dir() {
        return Err(CliError::new(format!(
            "{} is not a directory; name one to import, or what a Python bridge left",
            source.display()
        )));
    }
    refuse_nesting(&args.store, source)?;
    store::check(&args.store)?;
    let stop = store::stop_on_signals()?;
    let total = weigh(source, &root, &stop).map_err(cannot_read)?;
    let opened = store::open_or_create(&args.store, &args.how, &root)?;
    let progress = Progress::new("importing", total, quiet);
    let (result, counts) =
        into_tree(&Tree::new(Arc::clone(&opened)), (source, &root), &stop, progress);
    let closed = store::close(&opened);
    result.map_err(|stopped| stopped.into_error(&args.store, source))?;
    closed?;
    if !quiet {
        output::say(format_args!(
            "imported {} into {}: {} new or changed ({}), {} as they were",
            source.display(),
            args.store.display(),
            counts.changed,
            output::size(counts.bytes),
            counts.same
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes `tree` hold what a directory holds, until `stop` is asked.
pub(super) fn into_tree(
    tree: &Tree,
    (source, root): (&Path, &Metadata),
    stop: &store::Stop,
    progress: Progress,
) -> (Result<(), Stopped>, Counts) {
    let agents = Agents::new(Arc::clone(tree.store()));
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let actor = agents.actor(uid, gid, std::process::id(), false);
    let mut import = Import {
        tree: tree.clone(),
        origin: Origin { actor, unique: 0 },
        links: FxHashMap::default(),
        claimed: FxHashMap::default(),
        buffer: vec![0; PIECE],
        progress,
        stop,
        counts: Counts::default(),
    };
    let result = import.directory(source, root, Ino::ROOT, 0);
    let Import { progress, counts, .. } = import;
    progress.finish();
    (result, counts)
}

/// Why an import ended early.
pub(super) enum Stopped {
    /// A signal asked for it.
    Asked,
    /// The source could not be read.
    Source(PathBuf, io::Error),
    /// The tree did not take it.
    Refused(PathBuf, Refusal),
    /// A directory is too deep.
    TooDeep(PathBuf),
}

impl Stopped {
    pub(super) fn into_error(self, store: &Path, source: &Path) -> CliError {
        CliError::new(match self {
            Self::Asked => format!(
                "stopped before the end; `lighthouse-fuse import {} {}` continues",
                store.display(),
                source.display()
            ),
            Self::Source(path, err) => return failed(&path, &err),
            Self::Refused(path, refusal) => {
                format!("cannot import {}: {}", path.display(), store::explain(&refusal))
            }
            Self::TooDeep(path) => {
                format!("cannot import {}: more than {DEPTH_MAX} directories deep", path.display())
            }
        })
    }
}

fn failed(path: &Path, err: &io::Error) -> CliError {
    CliError::new(format!("cannot read {}: {err}", path.display()))
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) changed: u64,
    pub(super) same: u64,
    pub(super) bytes: u64,
}

struct Import<'s> {
    tree: Tree,
    origin: Origin,
    /// Imported files that have several names, by device and inode in the source.
    links: FxHashMap<(u64, u64), Ino>,
    /// The same, seen from the tree.
    claimed: FxHashMap<Ino, (u64, u64)>,
    buffer: Vec<u8>,
    progress: Progress,
    stop: &'s store::Stop,
    counts: Counts,
}

impl Import<'_> {
    /// Makes `into` hold what the directory at `path` holds, then gives it the directory's attributes:
    /// last, since filling it moves its times.
    fn directory(
        &mut self,
        path: &Path,
        meta: &Metadata,
        into: Ino,
        depth: usize,
    ) -> Result<(), Stopped> {
        if depth > DEPTH_MAX {
            return Err(Stopped::TooDeep(path.to_owned()));
        }
        for name in names(path).map_err(|err| Stopped::Source(path.to_owned(), err))? {
            if self.stop.asked() {
                return Err(Stopped::Asked);
            }
            let child = path.join(OsStr::from_bytes(&name));
            let meta = match std::fs::symlink_metadata(&child) {
                Ok(meta) => meta,
                // It went away since it was listed: as if it had never been there.
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) => return Err(Stopped::Source(child, err)),
            };
            self.entry(&child, &meta, into, &name, depth)?;
            self.progress.advance(ENTRY_WEIGHT);
        }
        self.attributes(path, meta, into)
    }

    /// Makes `name` in `parent` what `path` is.
    fn entry(
        &mut self,
        path: &Path,
        meta: &Metadata,
        parent: Ino,
        name: &[u8],
        depth: usize,
    ) -> Result<(), Stopped> {
        let refused = |refusal| Stopped::Refused(path.to_owned(), refusal);
        let there = match self.tree.lookup(parent, name, Seq::NOW) {
            Ok(inode) => Some(inode),
            Err(Refusal::NotFound) => None,
            Err(refusal) => return Err(refused(refusal)),
        };
        let key = (meta.dev(), meta.ino());
        let several = meta.nlink() > 1 && !meta.is_dir();
        if several && let Some(&ino) = self.links.get(&key) {
            if there.is_some_and(|inode| inode.ino == ino) {
                self.counts.same += 1;
                return Ok(());
            }
            if let Some(inode) = there {
                self.remove(parent, name, &inode).map_err(refused)?;
            }
            self.perform(&Operation::Link { ino, parent, name }).map_err(refused)?;
            self.counts.changed += 1;
            return Ok(());
        }
        let kind = meta.mode() & S_IFMT;
        let target = match meta.is_symlink() {
            true => std::fs::read_link(path)
                .map_err(|err| Stopped::Source(path.to_owned(), err))?
                .into_os_string()
                .into_encoded_bytes(),
            false => Vec::new(),
        };
        let fits = |inode: &Inode| {
            inode.mode & S_IFMT == kind
                && (!meta.is_symlink()
                    || self.tree.target(inode.ino, Seq::NOW).is_ok_and(|found| found == target))
                && (!is_device(meta) || inode.rdev == meta.rdev())
                // Names that are one file in the tree and several in the source come apart.
                && (several || meta.is_dir() || inode.nlink == 1)
                && self.claimed.get(&inode.ino).is_none_or(|&by| by == key)
        };
        let (ino, new) = match there {
            Some(inode) if fits(&inode) => (inode.ino, false),
            other => {
                if let Some(inode) = other {
                    self.remove(parent, name, &inode).map_err(refused)?;
                }
                let operation = match meta.is_symlink() {
                    true => Operation::Symlink { parent, name, target: &target, security: None },
                    false => Operation::Make {
                        parent,
                        name,
                        mode: meta.mode(),
                        rdev: if is_device(meta) { meta.rdev() } else { 0 },
                        exclusive: true,
                        security: None,
                    },
                };
                // Owned from the start: one event less.
                let caller = Caller { uid: meta.uid(), gid: meta.gid(), ..self.caller() };
                let made = self.tree.perform(&caller, &operation).map_err(refused)?;
                let inode = made.inode.ok_or_else(|| refused(Refusal::Stale))?;
                (inode.ino, true)
            }
        };
        if several {
            self.links.insert(key, ino);
            self.claimed.insert(ino, key);
        }
        if meta.is_dir() {
            return self.directory(path, meta, ino, depth + 1);
        }
        let whole = !new && {
            let inode = self.tree.inode(ino, Seq::NOW).map_err(refused)?;
            inode.size == meta.size() && inode.mtime == modified(meta)
        };
        if meta.is_file() && !whole {
            self.content(path, meta, ino)?;
        } else {
            self.progress.advance(content_weight(meta));
        }
        self.attributes(path, meta, ino)?;
        if new || !whole {
            self.counts.changed += 1;
        } else {
            self.counts.same += 1;
        }
        Ok(())
    }

    /// Replaces the content of `ino` with that of the file at `path`; holes stay holes.
    fn content(&mut self, path: &Path, meta: &Metadata, ino: Ino) -> Result<(), Stopped> {
        let unread = |err| Stopped::Source(path.to_owned(), err);
        let refused = |refusal| Stopped::Refused(path.to_owned(), refusal);
        let file = File::open(path).map_err(unread)?;
        let there = self.tree.inode(ino, Seq::NOW).map_err(refused)?;
        if there.size > 0 {
            self.size(ino, 0).map_err(refused)?;
        }
        let caller = self.caller();
        let mut weight_left = content_weight(meta);
        // Most files have no holes to ask for.
        let sparse = meta.blocks().saturating_mul(512) < meta.size();
        let mut offset = 0;
        while offset < meta.size() {
            let mut wanted = PIECE;
            if sparse {
                offset = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
                    Ok(data) => data,
                    // No data from here on; or a filesystem that cannot tell: then all is data.
                    Err(rustix::io::Errno::NXIO) => break,
                    Err(_) => offset,
                };
                // Up to the next hole at most, or a part of it would be imported as zeros.
                if let Ok(hole) = rustix::fs::seek(&file, SeekFrom::Hole(offset)) {
                    wanted = usize::try_from(hole.saturating_sub(offset)).unwrap_or(PIECE);
                }
            }
            let piece = self.buffer.get_mut(..wanted.min(PIECE)).unwrap_or_default();
            let len = file.read_at(piece, offset).map_err(unread)?;
            let Some(piece) = self.buffer.get(..len).filter(|piece| !piece.is_empty()) else {
                break;
            };
            self.tree
                .write(&caller, ino, WriteTo::Offset(offset), piece, false)
                .map_err(refused)?;
            offset += len as u64;
            self.counts.bytes += len as u64;
            let shown = (len as u64).min(weight_left);
            weight_left -= shown;
            self.progress.advance(shown);
            if self.stop.asked() {
                return Err(Stopped::Asked);
            }
        }
        self.progress.advance(weight_left);
        if self.tree.inode(ino, Seq::NOW).map_err(refused)?.size != meta.size() {
            self.size(ino, meta.size()).map_err(refused)?;
        }
        // As when whoever wrote a file closes it; of an empty one there is nothing to tell but that it was made.
        if there.size > 0 || meta.size() > 0 {
            self.tree.version_ends(ino, self.origin.actor).map_err(refused)?;
        }
        Ok(())
    }

    fn size(&self, ino: Ino, size: u64) -> Result<(), Refusal> {
        let set = Attributes { size: Some(size), ..Attributes::default() };
        self.perform(&Operation::SetAttributes { ino, set }).map(drop)
    }

    /// Gives `ino` the extended attributes, owner, mode and times that `path` has, times last.
    fn attributes(&self, path: &Path, meta: &Metadata, ino: Ino) -> Result<(), Stopped> {
        let refused = |refusal| Stopped::Refused(path.to_owned(), refusal);
        for (name, value) in xattrs(path).map_err(|err| Stopped::Source(path.to_owned(), err))? {
            match self.tree.xattr(ino, &name, Seq::NOW) {
                Ok(there) if there == value => continue,
                // Not a namespace we have (another filesystem's own): nothing to carry over.
                Err(Refusal::NotSupported) => continue,
                _ => (),
            }
            let operation = Operation::SetXattr {
                ino,
                name: &name,
                value: &value,
                must: XattrMust::Be,
                kill_sgid: false,
            };
            match self.perform(&operation) {
                Ok(_) | Err(Refusal::NotSupported) => (),
                Err(refusal) => return Err(refused(refusal)),
            }
        }
        let inode = self.tree.inode(ino, Seq::NOW).map_err(refused)?;
        let (atime, mtime) = (accessed(meta), modified(meta));
        let mode = meta.mode();
        let owner_differs = (inode.uid, inode.gid) != (meta.uid(), meta.gid());
        let mode_differs = inode.mode != mode && !meta.is_symlink();
        if owner_differs {
            let set = Attributes {
                uid: Some(meta.uid()),
                gid: Some(meta.gid()),
                ..Attributes::default()
            };
            self.perform(&Operation::SetAttributes { ino, set }).map_err(refused)?;
        }
        // A change of owner takes set-id bits away, so the mode comes after it.
        if mode_differs || owner_differs || inode.mtime != mtime {
            let set = Attributes {
                mode: (!meta.is_symlink()).then_some(mode),
                atime: Some(TimeTo::At(atime)),
                mtime: Some(TimeTo::At(mtime)),
                ..Attributes::default()
            };
            self.perform(&Operation::SetAttributes { ino, set }).map_err(refused)?;
        }
        Ok(())
    }

    /// Takes away what stands where something of another type is to be.
    fn remove(&self, parent: Ino, name: &[u8], inode: &Inode) -> Result<(), Refusal> {
        let operation = match inode.mode & S_IFMT == crate::tree::operation::S_IFDIR {
            true => Operation::Rmdir { parent, name },
            false => Operation::Unlink { parent, name },
        };
        self.perform(&operation)?;
        // Nothing here holds it open: it ends at once.
        self.perform(&Operation::End { ino: inode.ino }).map(drop)
    }

    fn perform(&self, operation: &Operation<'_>) -> Result<crate::tree::Outcome, Refusal> {
        self.tree.perform(&self.caller(), operation)
    }

    fn caller(&self) -> Caller<'static> {
        Caller { origin: self.origin, ..Caller::default() }
    }
}

/// Names in the directory at `path`, sorted, so that a second run meets them in the same order.
fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut names = std::fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().into_encoded_bytes()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn is_device(meta: &Metadata) -> bool {
    meta.file_type().is_block_device() || meta.file_type().is_char_device()
}

/// Share of the progress bar that a file's content has, in bytes.
fn content_weight(meta: &Metadata) -> u64 {
    if meta.is_file() { meta.size().min(meta.blocks().saturating_mul(512)) } else { 0 }
}

/// The weight of all that is below `path`, for the progress bar.
pub(super) fn weigh(path: &Path, meta: &Metadata, stop: &store::Stop) -> io::Result<u64> {
    let mut total = 0;
    let mut rest = vec![(path.to_owned(), meta.clone())];
    while let Some((path, meta)) = rest.pop() {
        if stop.asked() {
            break;
        }
        total += ENTRY_WEIGHT + content_weight(&meta);
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                match entry.metadata() {
                    Ok(meta) => rest.push((entry.path(), meta)),
                    Err(err) if err.kind() == io::ErrorKind::NotFound => (),
                    Err(err) => return Err(err),
                }
            }
        }
    }
    Ok(total)
}

fn modified(meta: &Metadata) -> Timestamp {
    time(meta.mtime(), meta.mtime_nsec())
}

fn accessed(meta: &Metadata) -> Timestamp {
    time(meta.atime(), meta.atime_nsec())
}

fn time(seconds: i64, nanoseconds: i64) -> Timestamp {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
    TimeTo::from_parts(seconds, nanoseconds).at(Timestamp(0))
}

/// Extended attributes of what `path` itself is, without following it.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use rustix::io::Errno;
    /// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
    const MAX: usize = 64 << 10;
    // Few have many names: room for them all is made only where it is needed.
    let mut list = vec![0; 256];
    let mut listed = llistxattr(path, &mut list);
    if listed == Err(Errno::RANGE) {
        list.resize(MAX, 0);
        listed = llistxattr(path, &mut list);
    }
    match listed {
        Ok(len) => list.truncate(len),
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        Err(err) => return Err(err.into()),
    }
    let mut found = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX];
        match lgetxattr(path, name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                found.push((name.to_vec(), value));
            }
            // Gone since it was listed, or not for us to read.
            Err(Errno::NODATA | Errno::NOENT | Errno::PERM | Errno::ACCESS) => (),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(found)
}

/// A store inside what is imported would grow while it is read, and the reverse is no better.
fn refuse_nesting(store: &Path, source: &Path) -> Result<(), CliError> {
    let source = source.canonicalize().map_err(|err| failed(source, &err))?;
    let store = service::absolute(store)?;
    if store.starts_with(&source) || source.starts_with(&store) {
        return Err(CliError::new(format!(
            "STORE {} and SOURCE {} lie inside each other; choose a store outside",
            store.display(),
            source.display()
        )));
    }
    Ok(())
}
