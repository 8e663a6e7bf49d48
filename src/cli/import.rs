//! `import`: a directory becomes part of the tree, with modes, owners, times, links and attributes; or what the Python
//! bridge left becomes part of a store, which is done in `bridge`.
//!
//! A file's modification time is set last. So a file whose size, times, mode and owner agree with
//! the source has been imported whole, and a second run passes it by: it continues where the first
//! was stopped, and adds nothing twice. What the source does not have is left alone, but for rights: nobody
//! gets more than mode and access control list of the source give, whatever a directory of the tree hands down.
//!
//! What is read is what was looked at: a file that somebody puts in the place of another meanwhile is looked at again, and
//! so is one that changes while it is read. If that does not end, it does not get the source's time.
//!
//! What cannot be read, or has no place in the tree, is left out and named, and the rest is taken.
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
use rustix::fs::{Dir, Mode, OFlags, SeekFrom, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::agents::Agents;
use crate::store::Origin;
use crate::store::event::{Ino, Seq, Timestamp};
use crate::store::index::Inode;
use crate::tree::acl;
use crate::tree::operation::{Attributes, Caller, Operation, S_IFMT, TimeTo, WriteTo, XattrMust};
use crate::tree::{Refusal, Tree};

use super::progress::Progress;
use super::{CliError, bridge, flag, output, service, store};

/// Bytes of content read and written at a time.
const PIECE: usize = 1 << 20;
/// Directories below directories that are followed; deeper ones cannot be named by a path either.
const DEPTH_MAX: usize = 2048;
/// How often an entry is looked at again that is not what it was a moment ago.
const LOOKS_MAX: usize = 8;
/// How often a file is read that changes while it is read: each time is a version of it.
const READS_MAX: usize = 3;
/// How many entries that are left out are named.
const NAMED_MAX: u64 = 20;
/// Share of the progress bar that every entry has, in bytes, beside its content.
const ENTRY_WEIGHT: u64 = 4096;

/// Import a directory, or the events of a Python bridge, into STORE
///
/// SOURCE is a directory of files; or the event log of a Python bridge (a directory of `events_*.log` and
/// `events_*.log.gz`, or one of them), its SQLite database, its snapshots, or the directory that holds these. Of a
/// bridge every event is kept as it was, and those about files make the tree and its past. SOURCE is only read.
/// The secrets of its log come from LIGHTHOUSE_EVENT_SECRET and from each --secret-file FILE. An import that was
/// stopped continues when it is run again. A file that cannot be read, changes all the time or has no place in the tree is
/// named and left out; the rest is imported, and the exit code is 1.
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
            // A store beside the log is not read, and that is where `serve` has it.
            refuse_source_inside(&args.store, source)?;
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
    drop(std::fs::read_dir(source).map_err(cannot_read)?);
    let total = weigh(source, &root, &stop);
    let opened = store::open_or_create(&args.store, &args.how, &root)?;
    let progress = Progress::new("importing", total, quiet);
    let say = |line: &str| output::say(format_args!("{}", output::one_line(line)));
    let (result, counts) =
        into_tree(&Tree::new(Arc::clone(&opened)), (source, &root), &stop, progress, &say);
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
    if counts.left_out > 0 {
        return Err(CliError::new(format!(
            "{} of {} were left out, or taken in part: mend what is said of each, and `lighthouse-fuse import {} {}` \
             takes the rest",
            entries(counts.left_out),
            source.display(),
            args.store.display(),
            source.display()
        )));
    }
    Ok(ExitCode::SUCCESS)
}

/// So many files and directories, in words.
pub(super) fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Makes `tree` hold what a directory holds, until `stop` is asked. What is left out is told to `say`.
pub(super) fn into_tree(
    tree: &Tree,
    (source, root): (&Path, &Metadata),
    stop: &store::Stop,
    progress: Progress,
    say: &dyn Fn(&str),
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
        say,
        counts: Counts::default(),
    };
    let unread = |err| Stopped::Source(source.to_owned(), err);
    // A link to the root is followed, and not taken for it: its attributes are others.
    let result = source.canonicalize().map_err(unread).and_then(|source| {
        let names = names(&source, OFlags::NOFOLLOW, root).map_err(unread)?.ok_or_else(|| {
            unread(io::Error::other("it was replaced meanwhile; import it again"))
        })?;
        import.directory(&source, root, names, Ino::ROOT, 0)
    });
    if let Some(more) = import.counts.left_out.checked_sub(NAMED_MAX).filter(|&more| more > 0) {
        say(&format!("and {} more", entries(more)));
    }
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
            other => other.reason(),
        })
    }

    fn reason(&self) -> String {
        match self {
            Self::Asked => "stopped before the end".to_owned(),
            Self::Source(path, err) => failed(path, err).to_string(),
            Self::Refused(path, Refusal::NotEmpty) => format!(
                "cannot import {}: where it belongs the tree has a directory that is not empty; move that away, and \
                 import once more",
                path.display()
            ),
            Self::Refused(path, refusal) => {
                format!("cannot import {}: {}", path.display(), store::explain(refusal))
            }
            Self::TooDeep(path) => {
                format!("cannot import {}: more than {DEPTH_MAX} directories deep", path.display())
            }
        }
    }

    /// Whether it is the matter of one entry, and others may be taken all the same.
    fn is_of_one_entry(&self) -> bool {
        match self {
            Self::Asked => false,
            Self::Source(..) | Self::TooDeep(_) => true,
            Self::Refused(_, refusal) => !matches!(
                refusal,
                Refusal::NoSpace | Refusal::ReadOnly(_) | Refusal::Io(_) | Refusal::Damaged(_)
            ),
        }
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Looked {
    /// It is in the tree.
    Taken,
    /// It is no more what it was when it was looked at.
    Replaced,
    /// It changed while it was read; what was read is in the tree, without the source's time.
    Changed,
}

fn failed(path: &Path, err: &io::Error) -> CliError {
    CliError::new(format!("cannot read {}: {err}", path.display()))
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) changed: u64,
    pub(super) same: u64,
    pub(super) bytes: u64,
    /// What was left out, or taken in part.
    pub(super) left_out: u64,
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
    say: &'s dyn Fn(&str),
    counts: Counts,
}

impl Import<'_> {
    /// Makes `into` hold the `names` of the directory at `path`, then gives it the directory's attributes:
    /// last, since filling it moves its times.
    fn directory(
        &mut self,
        path: &Path,
        meta: &Metadata,
        names: Vec<Vec<u8>>,
        into: Ino,
        depth: usize,
    ) -> Result<(), Stopped> {
        if depth > DEPTH_MAX {
            return Err(Stopped::TooDeep(path.to_owned()));
        }
        for name in names {
            let child = path.join(OsStr::from_bytes(&name));
            match self.look(&child, into, &name, depth) {
                Ok(()) => (),
                Err(stopped) if stopped.is_of_one_entry() => self.leave_out(&stopped.reason()),
                Err(stopped) => return Err(stopped),
            }
            self.progress.advance(ENTRY_WEIGHT);
        }
        self.attributes(path, meta, into, true)
    }

    /// Makes `name` in `parent` what `path` is, as often as that is something else meanwhile.
    fn look(&mut self, path: &Path, parent: Ino, name: &[u8], depth: usize) -> Result<(), Stopped> {
        let (mut replaced, mut changed) = (0, 0);
        loop {
            if self.stop.asked() {
                return Err(Stopped::Asked);
            }
            let meta = match std::fs::symlink_metadata(path) {
                Ok(meta) => meta,
                // It went away since it was listed: as if it had never been there.
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(err) => return Err(Stopped::Source(path.to_owned(), err)),
            };
            match self.entry(path, &meta, parent, name, depth)? {
                Looked::Taken => return Ok(()),
                Looked::Replaced => replaced += 1,
                Looked::Changed => changed += 1,
            }
            if replaced == LOOKS_MAX {
                self.leave_out(&format!(
                    "left out {}: it is replaced again and again; import once more when it stays",
                    path.display()
                ));
                return Ok(());
            }
            if changed == READS_MAX {
                self.leave_out(&format!(
                    "{} changes again and again; what was read of it is there, import once more when it stays",
                    path.display()
                ));
                return Ok(());
            }
        }
    }

    /// One entry more is not there, or not whole.
    fn leave_out(&mut self, why: &str) {
        self.counts.left_out += 1;
        if self.counts.left_out <= NAMED_MAX {
            (self.say)(why);
        }
    }

    /// Makes `name` in `parent` what `path` is. Does nothing and says so if that is no more what `meta` tells of.
    fn entry(
        &mut self,
        path: &Path,
        meta: &Metadata,
        parent: Ino,
        name: &[u8],
        depth: usize,
    ) -> Result<Looked, Stopped> {
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
                return Ok(Looked::Taken);
            }
            if let Some(inode) = there {
                self.remove(parent, name, &inode).map_err(refused)?;
            }
            self.perform(&Operation::Link { ino, parent, name }).map_err(refused)?;
            self.counts.changed += 1;
            return Ok(Looked::Taken);
        }
        let kind = meta.mode() & S_IFMT;
        let unread = |err| Stopped::Source(path.to_owned(), err);
        let target = match meta.is_symlink().then(|| std::fs::read_link(path)) {
            None => Vec::new(),
            Some(Ok(target)) => target.into_os_string().into_encoded_bytes(),
            // No link any more, or gone.
            Some(Err(err))
                if matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) =>
            {
                return Ok(Looked::Replaced);
            }
            Some(Err(err)) => return Err(unread(err)),
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
        let fitting = there.filter(|inode| fits(inode));
        let whole = fitting
            .as_ref()
            .is_some_and(|inode| inode.size == meta.size() && inode.mtime == modified(meta));
        // Before anything is made that it might turn out not to be.
        let mut listed = Vec::new();
        let mut file = None;
        if meta.is_dir() {
            match names(path, OFlags::NOFOLLOW, meta).map_err(unread)? {
                Some(names) => listed = names,
                None => return Ok(Looked::Replaced),
            }
        } else if meta.is_file() && !whole {
            file = open_same(path, OFlags::NOFOLLOW, meta).map_err(unread)?;
            if file.is_none() {
                return Ok(Looked::Replaced);
            }
        }
        let ino = match fitting {
            Some(inode) => inode.ino,
            None => {
                if let Some(inode) = there {
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
                self.keep_nothing_handed_down(parent, inode.ino).map_err(refused)?;
                inode.ino
            }
        };
        if several {
            self.links.insert(key, ino);
            self.claimed.insert(ino, key);
        }
        if meta.is_dir() {
            self.directory(path, meta, listed, ino, depth + 1)?;
            return Ok(Looked::Taken);
        }
        let mut as_it_was = true;
        match file {
            Some(file) => {
                self.content(path, &file, meta, ino)?;
                let now = file.metadata().map_err(unread)?;
                as_it_was = state_of(&now) == state_of(meta);
            }
            None => self.progress.advance(content_weight(meta)),
        }
        self.attributes(path, meta, ino, as_it_was)?;
        if !as_it_was {
            // Or its next look would be taken for another name of it.
            self.links.remove(&key);
            return Ok(Looked::Changed);
        }
        if whole {
            self.counts.same += 1;
        } else {
            self.counts.changed += 1;
        }
        Ok(Looked::Taken)
    }

    /// Takes from `ino`, just made in `parent`, the access control lists that come with that. A new directory
    /// would hand them down to what is made in it.
    fn keep_nothing_handed_down(&self, parent: Ino, ino: Ino) -> Result<(), Refusal> {
        match self.tree.xattr(parent, acl::DEFAULT, Seq::NOW) {
            Ok(_) => (),
            Err(Refusal::NoData) => return Ok(()),
            Err(refusal) => return Err(refusal),
        }
        for name in [acl::ACCESS, acl::DEFAULT] {
            if self.tree.xattr(ino, name, Seq::NOW).is_ok() {
                self.perform(&Operation::RemoveXattr { ino, name })?;
            }
        }
        Ok(())
    }

    /// Replaces the content of `ino` with that of `file`, opened at `path`; holes stay holes.
    fn content(
        &mut self,
        path: &Path,
        file: &File,
        meta: &Metadata,
        ino: Ino,
    ) -> Result<(), Stopped> {
        let unread = |err| Stopped::Source(path.to_owned(), err);
        let refused = |refusal| Stopped::Refused(path.to_owned(), refusal);
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
                offset = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                    Ok(data) => data,
                    // No data from here on; or a filesystem that cannot tell: then all is data.
                    Err(Errno::NXIO) => break,
                    Err(_) => offset,
                };
                // Up to the next hole at most, or a part of it would be imported as zeros.
                if let Ok(hole) = rustix::fs::seek(file, SeekFrom::Hole(offset)) {
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

    /// Gives `ino` the owner, extended attributes, mode and times that `path` has. A change of owner takes set-id bits
    /// and capabilities away, so it comes first; an access control list brings a mode, so that comes later; and
    /// times last, if they are `with_times`.
    fn attributes(
        &self,
        path: &Path,
        meta: &Metadata,
        ino: Ino,
        with_times: bool,
    ) -> Result<(), Stopped> {
        let refused = |refusal| Stopped::Refused(path.to_owned(), refusal);
        let inode = self.tree.inode(ino, Seq::NOW).map_err(refused)?;
        let owner_differs = (inode.uid, inode.gid) != (meta.uid(), meta.gid());
        if owner_differs {
            let set = Attributes {
                uid: Some(meta.uid()),
                gid: Some(meta.gid()),
                ..Attributes::default()
            };
            self.perform(&Operation::SetAttributes { ino, set }).map_err(refused)?;
        }
        let found = xattrs(path).map_err(|err| Stopped::Source(path.to_owned(), err))?;
        let listed = found.iter().any(|(name, _)| name == acl::ACCESS);
        // It would give rights that the source does not.
        if !listed && self.tree.xattr(ino, acl::ACCESS, Seq::NOW).is_ok() {
            let operation = Operation::RemoveXattr { ino, name: acl::ACCESS };
            self.perform(&operation).map_err(refused)?;
        }
        for (name, value) in found {
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
                must: XattrMust::Any,
                kill_sgid: false,
            };
            match self.perform(&operation) {
                // Names that are ours are no attributes here.
                Ok(_) | Err(Refusal::NotSupported | Refusal::NotPermitted) => (),
                Err(refusal) => return Err(refused(refusal)),
            }
        }
        let inode = self.tree.inode(ino, Seq::NOW).map_err(refused)?;
        let (atime, mtime) = (accessed(meta), modified(meta));
        let mode = meta.mode();
        let mode_differs = inode.mode != mode && !meta.is_symlink();
        if mode_differs || owner_differs || with_times && inode.mtime != mtime {
            let set = Attributes {
                mode: (!meta.is_symlink()).then_some(mode),
                atime: with_times.then_some(TimeTo::At(atime)),
                mtime: with_times.then_some(TimeTo::At(mtime)),
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

/// Opens what is at `path` if it is still the file or directory that `meta` tells of; never waits for anybody.
fn open_same(path: &Path, flags: OFlags, meta: &Metadata) -> io::Result<Option<File>> {
    // Without NONBLOCK a FIFO would wait for a writer. To regular files and directories it means nothing.
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        // Gone, a link, a socket or a device without a driver: it was neither.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            return Ok(None);
        }
        Err(err) => return Err(err.into()),
    };
    let found = file.metadata()?;
    let identity = |meta: &Metadata| (meta.dev(), meta.ino(), meta.mode() & S_IFMT);
    Ok((identity(&found) == identity(meta)).then_some(file))
}

/// Names in the directory at `path`, sorted, so that a second run meets them in the same order; `None` if it is no
/// more the one that `meta` tells of.
fn names(path: &Path, flags: OFlags, meta: &Metadata) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(directory) = open_same(path, flags | OFlags::DIRECTORY, meta)? else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// What differs once the content of a file was changed, whoever sets its times back.
fn state_of(meta: &Metadata) -> (u64, i64, i64, i64, i64) {
    (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

fn is_device(meta: &Metadata) -> bool {
    meta.file_type().is_block_device() || meta.file_type().is_char_device()
}

/// Share of the progress bar that a file's content has, in bytes.
fn content_weight(meta: &Metadata) -> u64 {
    if meta.is_file() { meta.size().min(meta.blocks().saturating_mul(512)) } else { 0 }
}

/// The weight of all that is below `path`, for the progress bar. What cannot be read weighs nothing: the import says so.
pub(super) fn weigh(path: &Path, meta: &Metadata, stop: &store::Stop) -> u64 {
    let mut total = 0;
    let mut rest = vec![(path.to_owned(), meta.clone())];
    while let Some((path, meta)) = rest.pop() {
        if stop.asked() {
            break;
        }
        total += ENTRY_WEIGHT + content_weight(&meta);
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            rest.extend(entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))));
        }
    }
    total
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
    refuse_source_inside(store, source)?;
    let (store, source) = places(store, source)?;
    if store.starts_with(&source) { Err(nested(&store, &source)) } else { Ok(()) }
}

fn refuse_source_inside(store: &Path, source: &Path) -> Result<(), CliError> {
    let (store, source) = places(store, source)?;
    if source.starts_with(&store) { Err(nested(&store, &source)) } else { Ok(()) }
}

/// Where the store and the source really are.
fn places(store: &Path, source: &Path) -> Result<(PathBuf, PathBuf), CliError> {
    let source = source.canonicalize().map_err(|err| failed(source, &err))?;
    Ok((service::absolute(store)?, source))
}

fn nested(store: &Path, source: &Path) -> CliError {
    CliError::new(format!(
        "STORE {} and SOURCE {} lie inside each other; choose a store outside",
        store.display(),
        source.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_took_the_place_of_a_file_is_not_read_and_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let other = directory.path().join("other");
        std::fs::write(&other, "secret").unwrap();
        let place: [&dyn Fn(); 5] = [
            &|| std::os::unix::fs::symlink(&other, &path).unwrap(),
            &|| std::fs::write(&path, "another").unwrap(),
            &|| std::fs::create_dir(&path).unwrap(),
            &|| {
                let mode = Mode::RWXU;
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
            &|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        ];
        let kept = directory.path().join("kept");
        for put in place {
            std::fs::write(&path, "file").unwrap();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            assert!(open_same(&path, OFlags::NOFOLLOW, &meta).unwrap().is_some());
            // Its number is not free for another yet.
            std::fs::rename(&path, &kept).unwrap();
            assert!(open_same(&path, OFlags::NOFOLLOW, &meta).unwrap().is_none());
            put();
            assert!(open_same(&path, OFlags::NOFOLLOW, &meta).unwrap().is_none());
            match path.is_dir() {
                true => std::fs::remove_dir(&path).unwrap(),
                false => std::fs::remove_file(&path).unwrap(),
            }
        }
    }

    #[test]
    fn what_took_the_place_of_a_directory_is_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("directory");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("b"), "").unwrap();
        std::fs::write(path.join("a"), "").unwrap();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let listed = || names(&path, OFlags::NOFOLLOW, &meta).unwrap();
        assert_eq!(listed(), Some(vec![b"a".to_vec(), b"b".to_vec()]));
        let moved = root.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(listed(), None);
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        assert_eq!(listed(), None);
    }

    fn tree(at: &Path) -> Tree {
        use crate::store::{CreateOptions, OpenOptions, Store};
        let made = Store::create(at, &CreateOptions::default(), &OpenOptions::default()).unwrap();
        Tree::new(Arc::new(made))
    }

    /// Imports `source`, and calls `meanwhile` whenever some of it is done. What came of it, and what was said.
    fn imported(
        tree: &Tree,
        source: &Path,
        meanwhile: impl Fn() + 'static,
    ) -> (Counts, Vec<String>) {
        let signals = crate::sys::signals::Signals::block(&[]).unwrap();
        let stop = store::Stop::new(signals);
        let progress = Progress::new("importing", 0, true).telling(move |_, _| meanwhile());
        let said = std::cell::RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let meta = std::fs::metadata(source).unwrap();
        let (result, counts) = into_tree(tree, (source, &meta), &stop, progress, &say);
        assert!(result.is_ok());
        (counts, said.into_inner())
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_taken_torn() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let path = source.join("file");
        std::fs::write(&path, "begun").unwrap();
        let appends = |always: bool| {
            let (path, appended) = (path.clone(), std::cell::Cell::new(false));
            move || {
                if !appended.replace(true) || always {
                    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(b", and more").unwrap();
                }
            }
        };
        let tree = tree(&root.path().join("store"));
        let same = || {
            let inode = tree.lookup(Ino::ROOT, b"file", Seq::NOW).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            inode.size == meta.size() && inode.mtime == modified(&meta)
        };
        let (counts, said) = imported(&tree, &source, appends(false));
        assert_eq!((counts.left_out, counts.changed), (0, 1), "{said:?}");
        assert!(same());
        std::fs::write(&path, "anew").unwrap();
        let (counts, said) = imported(&tree, &source, appends(true));
        assert_eq!((counts.left_out, counts.changed), (1, 0), "{said:?}");
        assert!(said[0].contains("file changes again and again"), "{said:?}");
        assert!(!same());
        let (counts, said) = imported(&tree, &source, || ());
        assert_eq!((counts.left_out, counts.changed), (0, 1), "{said:?}");
        assert!(same());
    }

    #[test]
    fn where_a_directory_was_that_is_not_empty_no_file_comes_and_the_rest_does() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("source");
        let path = source.join("a");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("in"), "").unwrap();
        let tree = tree(&root.path().join("store"));
        imported(&tree, &source, || ());
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::write(source.join("b"), "").unwrap();
        let (counts, said) = imported(&tree, &source, || ());
        assert_eq!((counts.left_out, said.len()), (1, 1), "{said:?}");
        assert!(said[0].contains("/a: ") && said[0].contains("not empty"), "{said:?}");
        assert!(tree.lookup(Ino::ROOT, b"b", Seq::NOW).is_ok());
    }

    #[test]
    fn attributes_are_those_of_the_directory_behind_a_link_but_for_names_that_are_ours() {
        let root = tempfile::tempdir().unwrap();
        let (source, link) = (root.path().join("source"), root.path().join("link"));
        std::fs::create_dir(&source).unwrap();
        std::os::unix::fs::symlink(&source, &link).unwrap();
        for name in ["user.note", "user.lighthouse.seq"] {
            let flags = rustix::fs::XattrFlags::empty();
            if rustix::fs::setxattr(&source, name, b"x", flags).is_err() {
                eprintln!("SKIPPED: no attributes can be set here");
                return;
            }
        }
        let tree = tree(&root.path().join("store"));
        let (counts, said) = imported(&tree, &link, || ());
        assert_eq!(counts.left_out, 0, "{said:?}");
        assert_eq!(tree.xattr(Ino::ROOT, b"user.note", Seq::NOW).unwrap(), b"x");
        assert!(tree.xattr(Ino::ROOT, b"user.lighthouse.seq", Seq::NOW).is_err());
    }
}
