//! A recorded connection, asked again: the same requests to a server of our own, in the order in which they came,
//! and whether it answers alike.
//!
//! ```text
//!  recording --request--> numbers put in --> Server --> answer --+
//!      |                        ^                                +--> alike? which numbers
//!      +--reply----------------------------------------------- --+    stand for which
//! ```
//!
//! Nodes and handles have other numbers in another store, so each request is taken apart, gets the numbers that stand for
//! those of the recording, and is put together again. A number that no answer told (a listing may come in
//! another order) is found by its name. Offsets in listings are translated entry by entry; where one is unknown, the
//! request is left out and counted.
//!
//! What is compared: whether a request was refused and with what; how many bytes were written; the bytes of
//! files and links below `current/`. Not compared: numbers, times, and listings as such. Requests that were under way
//! at one time may have been done in another order than they came in, and then answers may differ rightly.
//!
//! Callers are asked for without their process: it is another one by now.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::meter::Snapshot;
use crate::proto::Dialect;
use crate::proto::abi::{
    FUSE_NO_OPENDIR_SUPPORT, FUSE_SETXATTR_EXT, fuse_forget_one, fuse_init_out,
};
use crate::proto::answer::{Answer, Body};
use crate::proto::connection::MINOR_MAX;
use crate::proto::dirent;
use crate::proto::message::Message;
use crate::proto::op::{BatchForget, ForgetList, Lookup, Op};
use crate::proto::request::Request;
use crate::proto::types::{Caller, Errno, FileHandle, Name, NodeId, RequestId};
use crate::server::dispatch::Work;
use crate::server::{Config, Server};
use crate::transport::recording::{Kind, Record, Records};
use crate::transport::{Buffer, Delivery, Frame, Received, Transport};
use crate::view::View;
use crate::view::news::Next;

/// How many differences are told one by one.
const TOLD_MAX: usize = 20;
/// What one READ brings at most: the most that `--max-write` asks for.
const DATA_MAX: usize = 16 << 20;
/// How deep a path may be that a number is found by.
const DEPTH_MAX: usize = 4096;

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were asked again.
    pub asked: u64,
    /// Those that could not be, for what they name is not known.
    pub left_out: u64,
    /// Answers that were compared.
    pub compared: u64,
    /// Answers that differ.
    pub different: u64,
    /// The first of them, each in words.
    pub differences: Vec<String>,
    /// How long the server took, by operation.
    pub measured: Snapshot,
}

/// Why there was no replay.
#[derive(Debug)]
pub enum ReplayError {
    /// The recording cannot be read, or is none.
    Read(io::Error),
    /// It does not begin with INIT: what was agreed on is not known.
    NoBeginning,
    /// The store cannot be served.
    Serve(String),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::NoBeginning => f.write_str("it does not begin where a mount begins"),
            Self::Serve(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The handle through which the kernel lists a directory that it does not have opened.
const UNOPENED: FileHandle = FileHandle(0);

fn flags(out: &fuse_init_out) -> u64 {
    u64::from(out.flags) | u64::from(out.flags2) << 32
}

/// Whether the recorded server had directories listed that were not opened ([`View::lists_unopened`]), as INIT tells, which is
/// answered first of all. The view that is to answer alike must do the same.
///
/// # Errors
///
/// Whatever reading says.
pub fn lists_unopened(records: &mut Records<impl Read>) -> io::Result<bool> {
    while let Some(record) = records.read()? {
        let Kind::Reply = record.kind else { continue };
        let answer = Answer::decode(&record.message).ok();
        // A kernel that knows the flag takes the reply in full.
        let out = answer.and_then(|answer| answer.result.ok()?.init(MINOR_MAX).ok());
        return Ok(out.is_some_and(|out| flags(&out) & FUSE_NO_OPENDIR_SUPPORT != 0));
    }
    Ok(false)
}

/// Asks `view` all that `records` holds.
///
/// # Errors
///
/// [`ReplayError`]. That answers differ is none.
pub fn replay(
    records: &mut Records<impl Read>,
    view: &View,
    config: Config,
) -> Result<Report, ReplayError> {
    view.connected().map_err(|refusal| {
        ReplayError::Serve(format!("the store cannot be served: {refusal:?}"))
    })?;
    let nowhere = Nowhere;
    let server = Server::new(&nowhere, view, config);
    // Whatever the recorded mount agreed on; what is not used costs nothing.
    let room = vec![0; server.connection().config().data_max().max(DATA_MAX)];
    let mut replay = Replay {
        server,
        view,
        work: Work::default(),
        room,
        next: 0,
        recorded: Dialect::NEWEST,
        begun: false,
        nodes: [(NodeId::ROOT, NodeId::ROOT)].into_iter().collect(),
        names: FxHashMap::default(),
        handles: FxHashMap::default(),
        offsets: FxHashMap::default(),
        waiting: FxHashMap::default(),
        report: Report::default(),
    };
    while let Some(record) = records.read()? {
        replay.take(&record)?;
    }
    view.news().close();
    let Replay { mut report, .. } = replay;
    report.measured = view.measured();
    Ok(report)
}

/// Nobody is behind it: answers are looked at where they are made.
struct Nowhere;

impl Transport for Nowhere {
    fn receive<'b>(&self, _: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        Ok(None)
    }

    fn send(&self, _: &crate::proto::Reply<'_>) -> io::Result<Delivery> {
        Ok(Delivery::Taken)
    }

    fn send_notification(&self, _: &[IoSlice<'_>]) -> io::Result<Delivery> {
        Ok(Delivery::Unwanted)
    }
}

/// A request of which the recorded answer is still to come.
struct Waiting {
    request: Vec<u8>,
    /// What our server answered.
    answer: Vec<u8>,
}

struct Replay<'v> {
    server: Server<'v>,
    view: &'v View,
    work: Work,
    room: Vec<u8>,
    /// Number of the last request to our server.
    next: u64,
    /// In which form the recorded messages are.
    recorded: Dialect,
    begun: bool,
    /// Which of our nodes stands for which of the recording's.
    nodes: FxHashMap<NodeId, NodeId>,
    /// Where a node of the recording was last told to be.
    names: FxHashMap<NodeId, (NodeId, Box<[u8]>)>,
    handles: FxHashMap<FileHandle, FileHandle>,
    /// Offsets in the listing of a directory of the recording, which a handle of it reads.
    offsets: FxHashMap<(NodeId, FileHandle, u64), u64>,
    waiting: FxHashMap<u64, Waiting>,
    report: Report,
}

impl Replay<'_> {
    fn take(&mut self, record: &Record) -> Result<(), ReplayError> {
        match record.kind {
            Kind::Request => self.request(&record.message),
            Kind::Reply => {
                self.reply(&record.message);
                Ok(())
            }
            // Ours come by themselves.
            Kind::Notification => Ok(()),
        }
    }

    fn request(&mut self, recorded: &[u8]) -> Result<(), ReplayError> {
        let message = Message::split(recorded, self.recorded);
        let Some((message, op)) = message.ok().and_then(|message| {
            let op = Op::decode(&message).ok()?;
            Some((message, op))
        }) else {
            // The server did not understand it either.
            self.report.left_out += 1;
            return Ok(());
        };
        if !self.begun && !matches!(op, Op::Init(_)) {
            return Err(ReplayError::NoBeginning);
        }
        self.begun = true;
        let mut forgotten = Vec::new();
        let Some(op) = self.translated(op, &mut forgotten) else {
            self.report.left_out += 1;
            return Ok(());
        };
        let caller = Caller { pid: 0, ..message.caller() };
        let answer = self.ask(caller, op);
        self.report.asked += 1;
        if let Some(answer) = answer {
            let waiting = Waiting { request: recorded.to_vec(), answer };
            self.waiting.insert(message.header.unique, waiting);
        }
        Ok(())
    }

    /// Asks our server; `None` where no reply is due.
    fn ask(&mut self, caller: Caller, op: Op<'_>) -> Option<Vec<u8>> {
        // Odd numbers mark something else.
        self.next += 2;
        let dialect = self.server.connection().limits().map_or(Dialect::NEWEST, |l| l.dialect);
        let request = Request { id: RequestId(self.next), caller, op }.encode(dialect).bytes();
        let received = Received { frame: Frame::Whole(&request), room: &mut self.room };
        let reply = self.server.take(received, &mut self.work).reply;
        let answer =
            reply.map(|reply| reply.out_of(&self.room).chunks().collect::<Vec<_>>().concat());
        // Nobody else takes them, and whoever makes them waits for room.
        while let Next::News(_) | Next::Stirred = self.view.news().next(Duration::ZERO) {}
        answer
    }

    /// Our node for one of the recording's.
    fn node(&mut self, old: NodeId) -> Option<NodeId> {
        let mut path: Vec<(NodeId, Box<[u8]>)> = Vec::new();
        let mut at = old;
        // Up to a node that is known, and down again by names.
        while !self.nodes.contains_key(&at) {
            if path.len() == DEPTH_MAX {
                return None;
            }
            let (parent, name) = self.names.get(&at)?.clone();
            path.push((at, name));
            at = parent;
        }
        let mut new = *self.nodes.get(&at)?;
        while let Some((node, name)) = path.pop() {
            let lookup = Lookup { parent: new, name: Name::new(&name).ok()? };
            let answer = self.ask(Caller::default(), Op::Lookup(lookup))?;
            new = Answer::decode(&answer).ok()?.result.ok()?.entry().ok()?.ok()?.node;
            self.nodes.insert(node, new);
        }
        Some(new)
    }

    /// `op` with our numbers; `None` if one of them is not known, or it makes no sense to ask.
    fn translated<'o>(
        &mut self,
        op: Op<'o>,
        forgotten: &'o mut Vec<fuse_forget_one>,
    ) -> Option<Op<'o>> {
        let mut op = op;
        match &mut op {
            Op::Init(_) | Op::Destroy(_) => (),
            // Of requests that are over, and of notifications that we did not send.
            Op::Interrupt(_) | Op::NotifyReply(_) | Op::CuseInit(_) => return None,
            Op::SetupMapping(_) | Op::RemoveMapping(_) => return None,
            Op::BatchForget(BatchForget { items }) => {
                for forget in items.iter() {
                    // One that was never given out here cannot be given back.
                    let Some(&node) = self.nodes.get(&forget.node) else { continue };
                    forgotten.push(fuse_forget_one { nodeid: node.get(), nlookup: forget.lookups });
                }
                *items = ForgetList::new(forgotten);
            }
            Op::Forget(op) => op.node = *self.nodes.get(&op.node)?,
            Op::Lookup(op) => op.parent = self.node(op.parent)?,
            Op::Symlink(op) => op.parent = self.node(op.parent)?,
            Op::MkNod(op) => op.parent = self.node(op.parent)?,
            Op::MkDir(op) => op.parent = self.node(op.parent)?,
            Op::Unlink(op) => op.parent = self.node(op.parent)?,
            Op::RmDir(op) => op.parent = self.node(op.parent)?,
            Op::Create(op) => op.parent = self.node(op.parent)?,
            Op::TmpFile(op) => op.parent = self.node(op.parent)?,
            Op::Rename(op) => {
                (op.parent, op.new_parent) = (self.node(op.parent)?, self.node(op.new_parent)?);
            }
            Op::Rename2(op) => {
                (op.parent, op.new_parent) = (self.node(op.parent)?, self.node(op.new_parent)?);
            }
            Op::Link(op) => {
                (op.node, op.new_parent) = (self.node(op.node)?, self.node(op.new_parent)?);
            }
            Op::ReadLink(op) => op.node = self.node(op.node)?,
            Op::Open(op) => op.node = self.node(op.node)?,
            Op::OpenDir(op) => op.node = self.node(op.node)?,
            Op::StatFs(op) => op.node = self.node(op.node)?,
            Op::SetXattr(op) => op.node = self.node(op.node)?,
            Op::GetXattr(op) => op.node = self.node(op.node)?,
            Op::ListXattr(op) => op.node = self.node(op.node)?,
            Op::RemoveXattr(op) => op.node = self.node(op.node)?,
            Op::Access(op) => op.node = self.node(op.node)?,
            Op::BMap(op) => op.node = self.node(op.node)?,
            Op::SyncFs(op) => op.node = self.node(op.node)?,
            Op::GetAttr(op) => {
                (op.node, op.handle) = (self.node(op.node)?, self.handle_if_any(op.handle)?);
            }
            Op::SetAttr(op) => {
                (op.node, op.handle) = (self.node(op.node)?, self.handle_if_any(op.handle)?);
            }
            Op::Statx(op) => {
                (op.node, op.handle) = (self.node(op.node)?, self.handle_if_any(op.handle)?);
            }
            Op::Read(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Write(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Flush(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::FSync(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::FSyncDir(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Ioctl(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Poll(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Fallocate(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::LSeek(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::GetLk(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::SetLk(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::SetLkW(op) => (op.node, op.handle) = self.open(op.node, op.handle)?,
            Op::Release(op) => {
                let old = op.handle;
                (op.node, op.handle) = self.open(op.node, op.handle)?;
                self.handles.remove(&old);
            }
            Op::ReleaseDir(op) => {
                let old = op.handle;
                (op.node, op.handle) = self.open(op.node, op.handle)?;
                self.handles.remove(&old);
                self.offsets.retain(|(_, handle, _), _| *handle != old);
            }
            Op::ReadDir(op) => {
                op.offset = self.offset(op.node, op.handle, op.offset)?;
                (op.node, op.handle) = self.open(op.node, op.handle)?;
            }
            Op::ReadDirPlus(op) => {
                op.offset = self.offset(op.node, op.handle, op.offset)?;
                (op.node, op.handle) = self.open(op.node, op.handle)?;
            }
            Op::CopyFileRange(op) => {
                (op.node, op.handle) = self.open(op.node, op.handle)?;
                (op.new_node, op.new_handle) = self.open(op.new_node, op.new_handle)?;
            }
            Op::CopyFileRange64(op) => {
                (op.node, op.handle) = self.open(op.node, op.handle)?;
                (op.new_node, op.new_handle) = self.open(op.new_node, op.new_handle)?;
            }
        }
        Some(op)
    }

    fn open(&mut self, node: NodeId, handle: FileHandle) -> Option<(NodeId, FileHandle)> {
        Some((self.node(node)?, *self.handles.get(&handle)?))
    }

    fn handle_if_any(&self, handle: Option<FileHandle>) -> Option<Option<FileHandle>> {
        match handle {
            Some(handle) => self.handles.get(&handle).copied().map(Some),
            None => Some(None),
        }
    }

    fn offset(&self, directory: NodeId, handle: FileHandle, offset: u64) -> Option<u64> {
        if offset == 0 { Some(0) } else { self.offsets.get(&(directory, handle, offset)).copied() }
    }

    /// Compares what the recording answered with what our server did, and learns which numbers mean the same.
    fn reply(&mut self, recorded: &[u8]) {
        let Ok(old) = Answer::decode(recorded) else { return };
        let Some(Waiting { request, answer }) = self.waiting.remove(&old.id.0) else { return };
        let (Ok(new), Ok(message)) =
            (Answer::decode(&answer), Message::split(&request, self.recorded))
        else {
            return;
        };
        let Ok(op) = Op::decode(&message) else { return };
        self.report.compared += 1;
        match (old.result, new.result) {
            (Ok(old), Ok(new)) => {
                if let Some(what) = self.learn(op, old, new) {
                    self.differs(op, &what);
                }
            }
            (Err(old), Err(new)) if old == new => (),
            (old, new) => {
                let word = |result: Result<Body<'_>, Errno>| match result {
                    Ok(_) => "done".to_owned(),
                    Err(errno) => format!("refused with {errno:?}"),
                };
                self.differs(op, &format!("was {}, now is {}", word(old), word(new)));
            }
        }
    }

    fn differs(&mut self, op: Op<'_>, what: &str) {
        self.report.different += 1;
        if self.report.differences.len() < TOLD_MAX {
            let number = self.report.compared;
            self.report.differences.push(format!("answer {number}, to {}: {what}", op.name()));
        }
    }

    /// Both answered; what differs, if anything.
    fn learn(&mut self, op: Op<'_>, old: Body<'_>, new: Body<'_>) -> Option<String> {
        match op {
            Op::Init(init) => {
                let out = old.init(init.minor).ok()?;
                let flags = flags(&out);
                if flags & FUSE_NO_OPENDIR_SUPPORT != 0 {
                    self.handles.insert(UNOPENED, UNOPENED);
                }
                self.recorded = Dialect {
                    minor: out.minor.min(init.minor),
                    setxattr_ext: flags & FUSE_SETXATTR_EXT != 0,
                };
            }
            Op::Lookup(Lookup { parent, name }) => {
                return self.entry(Some((parent, name)), old, new);
            }
            Op::MkNod(op) => return self.entry(Some((op.parent, op.name)), old, new),
            Op::MkDir(op) => return self.entry(Some((op.parent, op.name)), old, new),
            Op::Symlink(op) => return self.entry(Some((op.parent, op.name)), old, new),
            Op::Link(op) => return self.entry(Some((op.new_parent, op.new_name)), old, new),
            Op::Create(op) => self.created(Some((op.parent, op.name)), old, new),
            Op::TmpFile(_) => self.created(None, old, new),
            Op::Open(_) | Op::OpenDir(_) => {
                let (old, new) = (old.opened().ok()?, new.opened().ok()?);
                self.handles.insert(old.handle, new.handle);
            }
            Op::Write(_) | Op::CopyFileRange(_) if old.written() != new.written() => {
                return Some(format!("was {:?} bytes, now is {:?}", old.written(), new.written()));
            }
            Op::Read(op) if old.0 != new.0 && self.is_present(op.node) => {
                let (from, was, is) = (op.offset, old.0.len(), new.0.len());
                return Some(format!("other bytes from {from} on: were {was}, now are {is}"));
            }
            Op::ReadLink(op) if old.0 != new.0 && self.is_present(op.node) => {
                return Some("another target".to_owned());
            }
            Op::ReadDir(op) => {
                let list = |body: Body<'_>| {
                    dirent::entries(body.0)
                        .filter_map(Result::ok)
                        .map(|entry| (entry.name.as_bytes().to_vec(), entry.next_offset, None))
                        .collect()
                };
                self.listed(op.node, op.handle, list(old), list(new));
            }
            Op::ReadDirPlus(op) => {
                let list = |body: Body<'_>| {
                    dirent::entries_plus(body.0)
                        .filter_map(Result::ok)
                        .map(|(entry, dirent)| {
                            let node = entry.map(|entry| entry.node);
                            (dirent.name.as_bytes().to_vec(), dirent.next_offset, node)
                        })
                        .collect()
                };
                self.listed(op.node, op.handle, list(old), list(new));
            }
            _ => (),
        }
        None
    }

    fn entry(
        &mut self,
        at: Option<(NodeId, Name<'_>)>,
        old: Body<'_>,
        new: Body<'_>,
    ) -> Option<String> {
        match (old.entry().ok()?, new.entry().ok()?) {
            (Ok(old), Ok(new)) => {
                self.is_at(old.node, at, Some(new.node));
                None
            }
            (Err(_), Err(_)) => None,
            (Ok(_), Err(_)) => Some("was there, now is not".to_owned()),
            (Err(_), Ok(_)) => Some("was not there, now is".to_owned()),
        }
    }

    fn created(&mut self, at: Option<(NodeId, Name<'_>)>, old: Body<'_>, new: Body<'_>) {
        let (Ok((old, opened)), Ok((new, ours))) = (old.created(), new.created()) else { return };
        self.is_at(old.node, at, Some(new.node));
        self.handles.insert(opened.handle, ours.handle);
    }

    fn is_at(&mut self, old: NodeId, at: Option<(NodeId, Name<'_>)>, new: Option<NodeId>) {
        if let Some((parent, name)) = at {
            self.names.insert(old, (parent, name.as_bytes().into()));
        }
        if let Some(new) = new {
            self.nodes.insert(old, new);
        }
    }

    fn listed(
        &mut self,
        directory: NodeId,
        handle: FileHandle,
        old: Vec<(Vec<u8>, u64, Option<NodeId>)>,
        new: Vec<(Vec<u8>, u64, Option<NodeId>)>,
    ) {
        if let (Some((_, from, _)), Some((_, to, _))) = (old.last(), new.last()) {
            self.offsets.insert((directory, handle, *from), *to);
        }
        let ours: FxHashMap<Vec<u8>, (u64, Option<NodeId>)> =
            new.into_iter().map(|(name, offset, node)| (name, (offset, node))).collect();
        for (name, offset, node) in old {
            let ours = ours.get(&name);
            if let Some(&(to, _)) = ours {
                self.offsets.entry((directory, handle, offset)).or_insert(to);
            }
            let (Some(node), Ok(name)) = (node, Name::new(&name)) else { continue };
            let new = ours.and_then(|&(_, new)| new);
            self.is_at(node, Some((directory, name)), new);
        }
    }

    /// Whether a node of the recording was below `current/`: what else there is tells of the server itself.
    fn is_present(&self, node: NodeId) -> bool {
        let mut at = node;
        for _ in 0..DEPTH_MAX {
            match self.names.get(&at) {
                Some((NodeId::ROOT, name)) => return **name == *b"current",
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        false
    }
}
