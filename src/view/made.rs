//! Nodes that are in no tree: their bytes are computed.
//!
//! ```text
//!  Made --+-- Streams   streams.rs   what happened, as files that grow
//!         +-- Context   context.rs   packages made for a review
//!         +-- Shadow    shadows.rs   the present tree, each file as JSON about itself
//!         +-- Debug     debug.rs     what the server knows of itself
//!         +-- Agent     agent.rs     whom a process works for
//!
//!  node number   0xffff   2 ..         directories and files of which there is one each
//!                0xffff   2^47 + n     what `.agent` says to some, where nothing is opened
//!                0xfffd   N * 8 + k    `streams/from/@N`, and stream k of it
//!                0xfffe   inode        `shadows/` of it
//!                0xfffc   N * 8 + k    the package that event N made, and file k of it
//! ```
//!
//! A file has the size of its content and the owner of the tree's root, as the directories above the tree have; who
//! may not enter that may not read here. Nothing here can be changed ([`Refusal::ReadOnly`]), but for what `.agent` takes.
//!
//! Invariants: what is read through a handle is what there was when it was opened, whole; the only files that
//! grow are streams, and a byte of one never changes while it is open. The kernel keeps no content of these files and, where
//! it moves, no attributes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::proto::types::{
    Attr, Entry, FileHandle, NodeId, OpenFlags, Opened, OpenedFlags, Timestamp as Time,
};
use crate::tree::operation::{Attributes, S_IFDIR, S_IFMT, S_IFREG};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::agent::Lines;
use super::context::PackageFile;
use super::debug::DebugFile;
use super::handles::Open;
use super::history::history_mode;
use super::listing::{AFTER_DOTS, Filling, Listed};
use super::nodes::{Place, SYNTHETIC};
use super::shadows::Shadow;
use super::streams::{Reader, StreamName};
use super::{Asker, BLOCK_SIZE, Bytes, Found, ROOT_INO, Refusal, TreeRefusal, View, time};

/// The view of `streams/from/@N`.
const FROM: u16 = 0xfffd;
/// The view of `shadows/`.
const SHADOWS: u16 = 0xfffe;
/// The view of packages in `context/`.
const PACKAGES: u16 = 0xfffc;
/// Numbers below one of [`FROM`] or [`PACKAGES`]: a directory and its files.
const FROM_BITS: u32 = 3;
/// `streams/from/@N` goes this far: numbers of events are far below.
pub(super) const FROM_MAX: Seq = Seq(1 << (48 - FROM_BITS));

const STREAMS: u64 = 2;
const STREAMS_FROM: u64 = 3;
const CONTEXT: u64 = 4;
const DEBUG: u64 = 5;
const AGENT: u64 = 6;
const FIRST_STREAM: u64 = 16;
const FIRST_DEBUG: u64 = 32;
/// The upper half of the numbers of a view.
const FIRST_LINE: u64 = Lines::LIMIT;

/// Marks what `stat` shows as the inode numbers of all this, among those of the past: bit 51, which no number of
/// an event reaches.
const MADE_INO: u64 = 1 << 52 | 1 << 51;

/// A node that is in no tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Made {
    /// `streams/`
    Streams,
    /// `streams/from/`
    StreamsFrom,
    /// `streams/from/@N/`
    StreamsSince(Seq),
    /// A stream, from its usual beginning or from an event on.
    Stream(Option<Seq>, StreamName),
    /// `context/`
    Context,
    /// The directory of the package that an event made.
    Package(Seq),
    /// A file there.
    PackageFile(Seq, PackageFile),
    /// In `shadows/`: of an inode of the present.
    Shadow(Ino),
    /// `debug/`
    Debug,
    /// A file there.
    DebugFile(DebugFile),
    /// `.agent`
    Agent,
    /// What `.agent` says to some, where nothing is opened.
    AgentLine(u64),
}

impl Made {
    /// What a node number of the view `view` stands for.
    pub(super) fn of(view: u16, low: u64) -> Option<Self> {
        match (view, low) {
            (SYNTHETIC, STREAMS) => Some(Self::Streams),
            (SYNTHETIC, STREAMS_FROM) => Some(Self::StreamsFrom),
            (SYNTHETIC, CONTEXT) => Some(Self::Context),
            (SYNTHETIC, DEBUG) => Some(Self::Debug),
            (SYNTHETIC, AGENT) => Some(Self::Agent),
            (SYNTHETIC, FIRST_LINE..) => Some(Self::AgentLine(low - FIRST_LINE)),
            (SYNTHETIC, FIRST_DEBUG..) => {
                DebugFile::ALL.get(index(low - FIRST_DEBUG)?).map(|&file| Self::DebugFile(file))
            }
            (SYNTHETIC, FIRST_STREAM..) => {
                let name = StreamName::ALL.get(index(low - FIRST_STREAM)?);
                name.map(|&name| Self::Stream(None, name))
            }
            (FROM, _) => {
                let (since, file) = (Seq(low >> FROM_BITS), low & ((1 << FROM_BITS) - 1));
                match file.checked_sub(1) {
                    None => Some(Self::StreamsSince(since)),
                    Some(file) => {
                        let name = StreamName::ALL.get(index(file)?);
                        name.map(|&name| Self::Stream(Some(since), name))
                    }
                }
            }
            (SHADOWS, 2..) => Some(Self::Shadow(Ino(low))),
            (PACKAGES, _) => {
                let (made_by, file) = (Seq(low >> FROM_BITS), low & ((1 << FROM_BITS) - 1));
                match file.checked_sub(1) {
                    None => Some(Self::Package(made_by)),
                    Some(file) => {
                        let file = PackageFile::ALL.get(index(file)?);
                        file.map(|&file| Self::PackageFile(made_by, file))
                    }
                }
            }
            _ => None,
        }
    }

    /// View and number of the node.
    pub(super) const fn number(self) -> (u16, u64) {
        match self {
            Self::Streams => (SYNTHETIC, STREAMS),
            Self::StreamsFrom => (SYNTHETIC, STREAMS_FROM),
            Self::StreamsSince(since) => (FROM, since.0 << FROM_BITS),
            Self::Stream(None, name) => (SYNTHETIC, FIRST_STREAM + name as u64),
            Self::Stream(Some(since), name) => (FROM, since.0 << FROM_BITS | (name as u64 + 1)),
            Self::Context => (SYNTHETIC, CONTEXT),
            Self::Shadow(ino) => (SHADOWS, ino.0),
            Self::Package(by) => (PACKAGES, by.0 << FROM_BITS),
            Self::PackageFile(by, file) => (PACKAGES, by.0 << FROM_BITS | (file as u64 + 1)),
            Self::Debug => (SYNTHETIC, DEBUG),
            Self::Agent => (SYNTHETIC, AGENT),
            Self::AgentLine(number) => (SYNTHETIC, FIRST_LINE | number),
            Self::DebugFile(file) => (SYNTHETIC, FIRST_DEBUG + file as u64),
        }
    }

    /// What `stat` shows as the inode number.
    pub(super) fn ino(self) -> u64 {
        let (view, low) = self.number();
        // The lowest bits of the views that these have.
        MADE_INO | u64::from(view & 0b11) << 48 | low
    }

    /// Whether it is a directory; of shadows nobody asks that here.
    const fn is_directory(self) -> bool {
        match self {
            Self::Streams
            | Self::StreamsFrom
            | Self::StreamsSince(_)
            | Self::Context
            | Self::Package(_)
            | Self::Debug => true,
            Self::Stream(..)
            | Self::PackageFile(..)
            | Self::Shadow(_)
            | Self::DebugFile(_)
            | Self::Agent
            | Self::AgentLine(_) => false,
        }
    }

    /// The directory it is in; `None` is the mount's root.
    const fn above(self) -> Option<Self> {
        match self {
            Self::Streams
            | Self::Context
            | Self::Shadow(_)
            | Self::Debug
            | Self::Agent
            | Self::AgentLine(_) => None,
            Self::Package(_) => Some(Self::Context),
            Self::PackageFile(by, _) => Some(Self::Package(by)),
            Self::StreamsFrom | Self::Stream(None, _) => Some(Self::Streams),
            Self::StreamsSince(_) => Some(Self::StreamsFrom),
            Self::Stream(Some(since), _) => Some(Self::StreamsSince(since)),
            Self::DebugFile(_) => Some(Self::Debug),
        }
    }

    /// Whether the name may come to lead elsewhere, or nowhere.
    const fn name_moves(self) -> bool {
        matches!(self, Self::StreamsSince(_) | Self::Package(_) | Self::AgentLine(_))
    }
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}

/// What is computed, and by whom it is being read.
#[derive(Debug, Default)]
pub(super) struct Computed {
    /// By number of the handle.
    pinned: Mutex<FxHashMap<u64, Pinned>>,
    /// What was computed last for a file whose content moves.
    shown: Mutex<FxHashMap<u64, Shown>>,
}

/// What is read through a handle.
#[derive(Clone, Debug)]
pub(super) enum Pinned {
    /// Always this.
    Bytes(Arc<[u8]>),
    /// The same, shared by all who opened it as it is.
    Shadow(Arc<Shadow>),
    /// A file that grows.
    Stream(Arc<Reader>),
}

/// Content as it is shown for a moment, or as long as somebody reads it.
#[derive(Clone, Debug)]
struct Shown {
    bytes: Arc<[u8]>,
    computed: Instant,
    time: Timestamp,
    open: usize,
}

/// For so long a file is not computed anew: who looks at its attributes, opens and reads it meets one content.
const SHOWN_FOR: Duration = Duration::from_secs(1);

impl Computed {
    pub(super) fn clear(&self) {
        self.pinned.lock().clear();
        self.shown.lock().clear();
    }

    pub(super) fn pinned(&self, handle: FileHandle) -> Option<Pinned> {
        self.pinned.lock().get(&handle.0).cloned()
    }

    /// The content of `node`, computed anew unless it just was. Where somebody has it open, `stat` tells about what
    /// the last to open it reads; who opens it, with `opens`, gets it fresh.
    fn shown(
        &self,
        node: NodeId,
        opens: bool,
        compute: impl FnOnce() -> Result<Vec<u8>, Refusal>,
    ) -> Result<(Arc<[u8]>, Timestamp), Refusal> {
        let mut shown = self.shown.lock();
        let now_here = Instant::now();
        let open = match shown.get_mut(&node.get()) {
            Some(known)
                if now_here.saturating_duration_since(known.computed) < SHOWN_FOR
                    || (known.open > 0 && !opens) =>
            {
                known.open += usize::from(opens);
                return Ok((Arc::clone(&known.bytes), known.time));
            }
            Some(known) => known.open,
            None => 0,
        };
        let bytes: Arc<[u8]> = compute()?.into();
        let open = open + usize::from(opens);
        let time = Timestamp::now();
        let known = Shown { bytes: Arc::clone(&bytes), computed: now_here, time, open };
        shown.insert(node.get(), known);
        Ok((bytes, time))
    }

    /// What the clock alone brings about: content that nobody looks at any more is let go.
    pub(super) fn tick(&self, now: Instant) {
        self.shown.lock().retain(|_, known| {
            known.open > 0 || now.saturating_duration_since(known.computed) < SHOWN_FOR
        });
    }

    fn closed(&self, node: NodeId) {
        if let Some(known) = self.shown.lock().get_mut(&node.get()) {
            known.open = known.open.saturating_sub(1);
        }
    }
}

impl View {
    /// The mode of what looks like `top`: who may enter may read, and nobody else.
    pub(super) fn made_mode(&self, made: Made, top: &Inode) -> Result<u32, Refusal> {
        const READ_AND_WRITE: u32 = 0o666;
        let entered = history_mode(top.mode) & !S_IFMT;
        Ok(match made {
            made if made.is_directory() => S_IFDIR | entered,
            Made::PackageFile(by, PackageFile::Files) => {
                S_IFREG | entered & READ_AND_WRITE & self.involved_mode(&*self.package(by)?, top)
            }
            _ => S_IFREG | entered & READ_AND_WRITE,
        })
    }

    fn made_file_attr(
        &self,
        made: Made,
        top: &Inode,
        size: u64,
        changed: Timestamp,
    ) -> Result<Attr, Refusal> {
        let changed = time(changed);
        Ok(Attr {
            ino: made.ino(),
            size,
            blocks: size.div_ceil(512),
            mode: self.made_mode(made, top)?,
            nlink: 1,
            ..self.made_base(top, changed)
        })
    }

    pub(super) fn made_base(&self, top: &Inode, changed: Time) -> Attr {
        Attr {
            ino: 0,
            size: 0,
            blocks: 0,
            atime: changed,
            mtime: changed,
            ctime: changed,
            btime: time(self.began),
            mode: 0,
            nlink: 0,
            uid: top.uid,
            gid: top.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
        }
    }

    fn made_directory_attr(&self, made: Made, top: &Inode) -> Attr {
        // Itself, its name, and the `..` of directories in it that are listed.
        let nlink = if made == Made::Streams { 3 } else { 2 };
        Attr {
            ino: made.ino(),
            mode: history_mode(top.mode) & !S_IFMT | S_IFDIR,
            nlink,
            ..self.made_base(top, time(self.began))
        }
    }

    /// Attributes of a computed node, and how long they hold.
    pub(super) fn made_attr(&self, made: Made) -> Result<(Attr, Duration), Refusal> {
        let top = self.top()?;
        Ok(match made {
            // These are told when the top changes.
            Made::Streams | Made::StreamsFrom | Made::Debug => {
                (self.made_directory_attr(made, &top), self.options.caching.attributes)
            }
            Made::StreamsSince(_) | Made::Context => {
                (self.made_directory_attr(made, &top), Duration::ZERO)
            }
            Made::Agent => (self.agent_attr(&top), Duration::ZERO),
            Made::AgentLine(number) => {
                let size = self.line(number)?.len() as u64;
                (Attr { size, blocks: size.div_ceil(512), ..self.agent_attr(&top) }, Duration::ZERO)
            }
            Made::Shadow(ino) => self.shadow_attr(ino)?,
            Made::Package(by) => {
                let created = time(self.package(by)?.created);
                let attr = self.made_directory_attr(made, &top);
                let attr = Attr { mtime: created, ctime: created, btime: created, ..attr };
                (attr, Duration::ZERO)
            }
            Made::PackageFile(by, file) => {
                let package = self.package(by)?;
                let compute = || self.package_content(&package, file);
                let (bytes, _) = self.computed.shown(node(made)?, false, compute)?;
                let size = bytes.len() as u64;
                (self.made_file_attr(made, &top, size, package.created)?, Duration::ZERO)
            }
            Made::Stream(since, name) => {
                let (size, changed) = self.stream_size(since, name)?;
                (self.made_file_attr(made, &top, size, changed)?, Duration::ZERO)
            }
            Made::DebugFile(file) => {
                let node = node(made)?;
                let (bytes, changed) =
                    self.computed.shown(node, false, || Ok(self.debug_content(file)))?;
                let size = bytes.len() as u64;
                (self.made_file_attr(made, &top, size, changed)?, Duration::ZERO)
            }
        })
    }

    /// A computed node as an answer that gives it out; whoever sends it counts the lookup.
    pub(super) fn made_entry(&self, made: Made) -> Result<Entry, Refusal> {
        let (attr, attr_valid) = self.made_attr(made)?;
        let entry_valid =
            if made.name_moves() { Duration::ZERO } else { self.options.caching.names };
        Ok(Entry { node: node(made)?, generation: 0, attr, entry_valid, attr_valid })
    }

    pub(super) fn made_lookup(&self, made: Made, name: &[u8]) -> Result<Found, Refusal> {
        let found = match made {
            Made::Streams if name == b"from" => Some(Made::StreamsFrom),
            Made::Streams => StreamName::of(name).map(|name| Made::Stream(None, name)),
            Made::StreamsFrom => return self.streams_since(name),
            Made::StreamsSince(since) => {
                StreamName::of(name).map(|name| Made::Stream(Some(since), name))
            }
            Made::Context => return self.context_lookup(name),
            Made::Shadow(dir) => return self.shadow_lookup(dir, name),
            Made::Package(by) => PackageFile::of(name).map(|file| Made::PackageFile(by, file)),
            Made::Debug => DebugFile::of(name).map(Made::DebugFile),
            Made::Stream(..)
            | Made::PackageFile(..)
            | Made::DebugFile(_)
            | Made::Agent
            | Made::AgentLine(_) => return Err(TreeRefusal::NotADirectory.into()),
        };
        found
            .map_or(Ok(Found::Absent(self.options.caching.absent)), |made| self.give_out_made(made))
    }

    pub(super) fn give_out_made(&self, made: Made) -> Result<Found, Refusal> {
        let entry = self.made_entry(made)?;
        self.nodes.looked_up(entry.node, None);
        Ok(Found::Entry(entry))
    }

    pub(super) fn made_list(
        &self,
        made: Made,
        offset: u64,
        plus: bool,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        if let Made::Shadow(dir) = made {
            return self.shadow_list(dir, offset, plus, filling);
        }
        let above = made.above().map_or(ROOT_INO, Made::ino);
        if !filling.push_dots(offset, made.ino(), above, S_IFDIR) {
            return Ok(());
        }
        let packages = if made == Made::Context { self.context_names()? } else { Vec::new() };
        let names: Vec<(&[u8], Made)> = match made {
            Made::Streams => {
                let files = StreamName::ALL.map(|name| (name.text(), Made::Stream(None, name)));
                files.into_iter().chain([(&b"from"[..], Made::StreamsFrom)]).collect()
            }
            Made::StreamsSince(since) => {
                StreamName::ALL.map(|name| (name.text(), Made::Stream(Some(since), name))).to_vec()
            }
            Made::Context => packages.iter().map(|(name, made)| (&name[..], *made)).collect(),
            Made::Package(by) => {
                PackageFile::ALL.map(|file| (file.text(), Made::PackageFile(by, file))).to_vec()
            }
            Made::Debug => DebugFile::ALL.map(|file| (file.text(), Made::DebugFile(file))).to_vec(),
            // Every number is a name there.
            Made::StreamsFrom => Vec::new(),
            Made::Stream(..)
            | Made::PackageFile(..)
            | Made::Shadow(_)
            | Made::DebugFile(_)
            | Made::Agent
            | Made::AgentLine(_) => return Err(TreeRefusal::NotADirectory.into()),
        };
        for (number, (name, listed)) in (AFTER_DOTS + 1..).zip(names) {
            // Packages come and go meanwhile; everything else stays where it is.
            let next = match listed {
                Made::Package(by) => AFTER_DOTS + 1 + by.0,
                _ => number,
            };
            if next <= offset {
                continue;
            }
            let entry = if plus { Some(self.made_entry(listed)?) } else { None };
            let mode = if listed.is_directory() { S_IFDIR } else { S_IFREG };
            let listed = Listed { name, ino: listed.ino(), mode, next, entry: entry.as_ref() };
            if !filling.push(next, &listed) {
                break;
            }
        }
        Ok(())
    }

    /// Opens a computed file, which can only be read, but for `.agent`.
    pub(super) fn made_open(
        &self,
        asker: &Asker<'_>,
        made: Made,
        flags: OpenFlags,
    ) -> Result<Opened, Refusal> {
        if made.is_directory() {
            return Err(TreeRefusal::IsADirectory.into());
        }
        // `.agent` is cut to nothing by a shell before it writes, which changes nothing.
        if (flags.writes() || flags.truncates()) && made != Made::Agent {
            return Err(Refusal::ReadOnly);
        }
        let node = node(made)?;
        let pinned = match made {
            Made::Stream(since, name) => Pinned::Stream(Arc::new(self.stream_reader(since, name)?)),
            Made::DebugFile(file) => {
                let shown = self.computed.shown(node, true, || Ok(self.debug_content(file)))?;
                Pinned::Bytes(shown.0)
            }
            Made::PackageFile(by, file) => {
                let package = self.package(by)?;
                let compute = || self.package_content(&package, file);
                Pinned::Bytes(self.computed.shown(node, true, compute)?.0)
            }
            Made::Shadow(ino) => match self.tree.inode(ino, Seq::NOW)?.mode & S_IFMT {
                S_IFDIR => return Err(TreeRefusal::IsADirectory.into()),
                S_IFREG => Pinned::Shadow(self.shadow_opened(ino)?),
                _ => return Err(TreeRefusal::Invalid.into()),
            },
            Made::Agent if flags.reads() => Pinned::Bytes(self.agent_line(asker).into()),
            Made::Agent => Pinned::Bytes(Arc::default()),
            Made::AgentLine(number) => Pinned::Bytes(self.line(number)?),
            Made::Streams
            | Made::StreamsFrom
            | Made::StreamsSince(_)
            | Made::Context
            | Made::Package(_)
            | Made::Debug => return Err(TreeRefusal::IsADirectory.into()),
        };
        let handle = self.handles.open(node, Open::file(flags, None));
        self.computed.pinned.lock().insert(handle.0, pinned);
        // Past the kernel's cache, which would keep the size it was told of first.
        Ok(Opened { handle, flags: OpenedFlags::DIRECT_IO, backing_id: 0 })
    }

    /// Writes through an open computed file; `.agent` alone takes anything.
    pub(super) fn made_write(
        &self,
        asker: &Asker<'_>,
        made: Made,
        handle: FileHandle,
        bytes: &Bytes<'_>,
    ) -> Result<u64, Refusal> {
        if made != Made::Agent {
            return Err(Refusal::ReadOnly);
        }
        if !self.file(handle, node(made)?)?.writes() {
            return Err(Refusal::BadHandle);
        }
        self.agent_claim(asker, bytes)
    }

    /// Sets attributes of a computed file: `.agent` alone can be cut.
    pub(super) fn made_set_attributes(
        &self,
        made: Made,
        set: &Attributes,
    ) -> Result<(Attr, Duration), Refusal> {
        match (made, set) {
            (Made::Agent, Attributes { mode: None, uid: None, gid: None, size: Some(_), .. }) => {
                self.made_attr(made)
            }
            _ => Err(Refusal::ReadOnly),
        }
    }

    pub(super) fn made_close(&self, node: NodeId, handle: FileHandle) {
        let pinned = self.computed.pinned.lock().remove(&handle.0);
        match pinned {
            Some(Pinned::Stream(_)) => self.streams.closed(handle),
            Some(Pinned::Bytes(_)) => self.computed.closed(node),
            Some(Pinned::Shadow(_)) | None => (),
        }
    }

    /// What `handle` reads, or whoever reads without having opened. Stale for a handle that another process gave out:
    /// what it was to read died with that.
    fn made_pinned(&self, made: Made, handle: FileHandle) -> Result<Pinned, Refusal> {
        match made {
            Made::AgentLine(number) => self.line(number).map(Pinned::Bytes),
            _ => self.computed.pinned(handle).ok_or(Refusal::Tree(TreeRefusal::Stale)),
        }
    }

    pub(super) fn made_read(
        &self,
        made: Made,
        handle: FileHandle,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Refusal> {
        let pinned = self.made_pinned(made, handle)?;
        let bytes = match &pinned {
            Pinned::Bytes(bytes) => &bytes[..],
            Pinned::Shadow(shadow) => shadow.bytes(),
            Pinned::Stream(reader) => return Ok(reader.read(offset, buffer)?),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = bytes.get(from..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        let (filled, _) = buffer.split_at_mut(len);
        filled.copy_from_slice(rest.get(..len).unwrap_or_default());
        Ok(len)
    }

    /// As [`View::seek`]: there are no holes.
    pub(super) fn made_seek(
        &self,
        made: Made,
        handle: FileHandle,
        offset: u64,
        hole: bool,
    ) -> Result<u64, Refusal> {
        let size = match self.made_pinned(made, handle)? {
            Pinned::Bytes(bytes) => bytes.len() as u64,
            Pinned::Shadow(shadow) => shadow.bytes().len() as u64,
            Pinned::Stream(reader) => reader.size()?,
        };
        match offset < size {
            true if hole => Ok(size),
            true => Ok(offset),
            false => Err(Refusal::NothingThere),
        }
    }
}

/// The node of `made`.
pub(super) fn node(made: Made) -> Result<NodeId, Refusal> {
    Place::Made(made).node().ok_or(Refusal::Tree(TreeRefusal::Stale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Made> {
        let mut all =
            vec![Made::Streams, Made::StreamsFrom, Made::Context, Made::Debug, Made::Agent];
        all.extend([0, 1, Lines::LIMIT - 1].map(Made::AgentLine));
        all.extend(DebugFile::ALL.map(Made::DebugFile));
        all.extend([2, 3, (1 << 48) - 1].map(|ino| Made::Shadow(Ino(ino))));
        for since in [Seq(0), Seq(2), Seq(77), Seq(FROM_MAX.0 - 1)] {
            all.push(Made::StreamsSince(since));
            all.push(Made::Package(since));
            all.extend(PackageFile::ALL.map(|file| Made::PackageFile(since, file)));
            all.extend(StreamName::ALL.map(|name| Made::Stream(Some(since), name)));
        }
        all.extend(StreamName::ALL.map(|name| Made::Stream(None, name)));
        all
    }

    #[test]
    fn nodes_and_numbers_go_both_ways_and_no_two_are_equal() {
        let mut nodes = std::collections::HashSet::new();
        let mut inos = std::collections::HashSet::new();
        for made in all() {
            let node = node(made).unwrap();
            assert_eq!(Place::of(node), Some(Place::Made(made)));
            assert!(nodes.insert(node) && inos.insert(made.ino()), "{made:?}");
            assert!(made.ino() < 1 << 53, "{made:?}: exact in a double");
        }
    }

    #[test]
    fn content_stays_while_it_is_open_and_is_fresh_for_who_opens() {
        let computed = Computed::default();
        let node = NodeId::ROOT;
        let (one, _) = computed.shown(node, true, || Ok(b"one".to_vec())).unwrap();
        let old = Instant::now().checked_sub(SHOWN_FOR * 2).unwrap();
        computed.shown.lock().get_mut(&node.get()).unwrap().computed = old;
        let same = computed.shown(node, false, || Ok(b"two".to_vec())).unwrap().0;
        assert_eq!(same, one);
        let fresh = computed.shown(node, true, || Ok(b"three".to_vec())).unwrap().0;
        assert_eq!(&*fresh, b"three");
        computed.closed(node);
        computed.closed(node);
        computed.shown.lock().get_mut(&node.get()).unwrap().computed = old;
        assert_eq!(&*computed.shown(node, false, || Ok(b"four".to_vec())).unwrap().0, b"four");
        computed.tick(Instant::now());
        assert_eq!(computed.shown.lock().len(), 1);
        computed.tick(Instant::now() + SHOWN_FOR);
        assert_eq!(computed.shown.lock().len(), 0);
    }
}
