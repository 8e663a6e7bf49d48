//! A filesystem for tests of the kernel in memory: everything in a map, wired straight to `proto`.
//!
//! It is as plain as can be, so that what a test sees is the kernel's doing. A test bends it through the
//! fields of [`Fs`], or answers an operation itself through [`Fs::script`].

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(missing_docs, unreachable_pub, reason = "a module of tests is read, not linked")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::dirent::{Dirent, DirentBuffer};
use lighthouse_fuse::proto::message::{Dialect, Message};
use lighthouse_fuse::proto::notify::Notice;
use lighthouse_fuse::proto::op::{Op, SetAttr, SetTime, Whence};
use lighthouse_fuse::proto::reply::Reply;
use lighthouse_fuse::proto::types::{
    Attr, Caller, Entry, Errno, FileHandle, Name, NodeId, Opened, OpenedFlags, RequestId, Statfs,
    Timestamp,
};
use lighthouse_fuse::transport::memory::{self, Kernel, Memory, Options};
use parking_lot::Mutex;

/// The flags the filesystem asks for unless a test says otherwise.
pub const FLAGS: u64 = FUSE_ASYNC_READ
    | FUSE_BIG_WRITES
    | FUSE_INIT_EXT
    | FUSE_MAX_PAGES
    | FUSE_PARALLEL_DIROPS
    | FUSE_DO_READDIRPLUS
    | FUSE_READDIRPLUS_AUTO
    | FUSE_EXPLICIT_INVAL_DATA
    | FUSE_HANDLE_KILLPRIV_V2
    | FUSE_HAS_EXPIRE_ONLY
    | FUSE_HAS_RESEND
    | FUSE_SETXATTR_EXT;

const S_IFDIR: u32 = 0o040_000;
const S_IFMT: u32 = 0o170_000;

/// One inode.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub attr: Attr,
    pub data: Vec<u8>,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub parent: u64,
}

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub opcode: u32,
    pub unique: u64,
    pub caller: Caller,
    pub text: String,
}

/// A test's own answer to an operation: the bytes to send, or `None` for the usual answer.
pub type Script = Box<dyn FnMut(&Seen, &Op<'_>, &Memory) -> Option<Vec<u8>> + Send>;

/// The filesystem.
pub struct Fs {
    pub nodes: BTreeMap<u64, Node>,
    pub lookups: BTreeMap<u64, u64>,
    pub handles: BTreeMap<u64, u64>,
    pub entry_valid: Duration,
    pub attr_valid: Duration,
    pub negative_valid: Option<Duration>,
    pub opened: OpenedFlags,
    pub opened_dir: OpenedFlags,
    pub flags: u64,
    pub unserved: BTreeSet<u32>,
    pub seen: Vec<Seen>,
    pub script: Option<Script>,
    pub interrupted: BTreeSet<u64>,
    dialect: Dialect,
    next: u64,
    now: i64,
}

impl Default for Fs {
    fn default() -> Self {
        let root = Node {
            attr: Attr {
                ino: 1,
                mode: S_IFDIR | 0o755,
                nlink: 2,
                blksize: 4096,
                ..Attr::default()
            },
            parent: 1,
            ..Node::default()
        };
        Self {
            nodes: BTreeMap::from([(1, root)]),
            lookups: BTreeMap::new(),
            handles: BTreeMap::new(),
            entry_valid: Duration::from_secs(1000),
            attr_valid: Duration::from_secs(1000),
            negative_valid: Some(Duration::from_secs(1000)),
            opened: OpenedFlags::KEEP_CACHE,
            opened_dir: OpenedFlags::KEEP_CACHE | OpenedFlags::CACHE_DIR,
            flags: FLAGS,
            unserved: BTreeSet::new(),
            seen: Vec::new(),
            script: None,
            interrupted: BTreeSet::new(),
            dialect: Dialect::NEWEST,
            next: 2,
            now: 1_000_000,
        }
    }
}

/// A mounted filesystem and the thread that serves it.
pub struct Mounted {
    pub kernel: Option<Kernel>,
    pub memory: Memory,
    pub fs: Arc<Mutex<Fs>>,
    server: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Mounts `fs`.
    pub fn new(options: Options, fs: Fs) -> Self {
        let (kernel, memory) = memory::pair(options);
        let fs = Arc::new(Mutex::new(fs));
        let server = serve(memory.clone(), Arc::clone(&fs));
        kernel.mount().expect("INIT is answered");
        kernel.take_counts();
        fs.lock().seen.clear();
        Self { kernel: Some(kernel), memory, fs, server: Some(server) }
    }

    /// Mounts with everything as usual.
    pub fn plain() -> Self {
        Self::new(Options::default(), Fs::default())
    }

    /// Mounts as usual, but for what `bend` changes.
    pub fn bent(bend: impl FnOnce(&mut Fs)) -> Self {
        let mut fs = Fs::default();
        bend(&mut fs);
        Self::new(Options::default(), fs)
    }

    pub fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("mounted until unmount")
    }

    /// Sends a notification, as a thread of its own would.
    pub fn tell(&self, notice: &Notice<'_>) -> Result<(), Errno> {
        tell(&self.memory, notice)
    }

    /// Dies without answering, and lets a new server go on with the same connection.
    pub fn restart(&mut self) {
        self.memory = self.kernel().crash();
        if let Some(server) = self.server.take() {
            server.join().expect("the old server ends");
        }
        self.server = Some(serve(self.memory.clone(), Arc::clone(&self.fs)));
    }

    /// Unmounts, and checks both sides: no violation, no lookup left on either.
    #[track_caller]
    pub fn unmount(mut self) {
        self.kernel.take().expect("mounted until unmount").unmount();
        if let Some(server) = self.server.take() {
            server.join().expect("the server ends without a panic");
        }
        let fs = self.fs.lock();
        let left: Vec<_> = fs.lookups.iter().filter(|(_, count)| **count != 0).collect();
        assert!(left.is_empty(), "lookups the server still counts: {left:?}");
        assert!(fs.handles.is_empty(), "handles that were never released: {:?}", fs.handles);
    }
}

/// Sends a notification.
pub fn tell(memory: &Memory, notice: &Notice<'_>) -> Result<(), Errno> {
    let message = notice.message();
    let bytes: Vec<u8> = message.chunks().flatten().copied().collect();
    memory.write(&bytes)
}

/// The bytes of a reply.
pub fn bytes(reply: &Reply<'_>) -> Vec<u8> {
    reply.chunks().flatten().copied().collect()
}

fn serve(memory: Memory, fs: Arc<Mutex<Fs>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 2 << 20];
        while let Ok(Some(len)) = memory.read(&mut buffer) {
            let answer = fs.lock().take(&buffer[..len], &memory);
            if let Some(answer) = answer {
                // Refusals are the kernel's to record.
                let _ = memory.write(&answer);
            }
        }
    })
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("ids of this filesystem begin at 1")
}

impl Fs {
    fn take(&mut self, message: &[u8], memory: &Memory) -> Option<Vec<u8>> {
        let message =
            Message::split(message, self.dialect).expect("the kernel's half sends whole messages");
        let id = message.id();
        let op = match Op::decode(&message) {
            Ok(op) => op,
            Err(err) => return Some(bytes(&Reply::error(id, err.errno()))),
        };
        let seen = Seen {
            opcode: message.header.opcode,
            unique: message.header.unique,
            caller: message.caller(),
            text: format!("{op:?}"),
        };
        self.seen.push(seen.clone());
        if let Some(mut script) = self.script.take() {
            let answer = script(&seen, &op, memory);
            self.script.get_or_insert(script);
            if answer.is_some() {
                return answer.filter(|answer| !answer.is_empty());
            }
        }
        if self.unserved.contains(&seen.opcode) {
            return Some(bytes(&Reply::error(id, Errno::ENOSYS)));
        }
        match self.answer(id, message.caller(), &op) {
            Ok(answer) => answer,
            Err(errno) => Some(bytes(&Reply::error(id, errno))),
        }
    }

    /// Makes a file in `parent` behind the kernel's back.
    pub fn plant(&mut self, parent: u64, name: &str, mode: u32, data: &[u8]) -> u64 {
        let id = self.new_node(parent, mode, Caller::default());
        let node = self.nodes.get_mut(&id).unwrap();
        node.data = data.to_vec();
        node.attr.size = data.len() as u64;
        self.nodes.get_mut(&parent).unwrap().names.insert(name.into(), id);
        self.touch(parent);
        id
    }

    fn new_node(&mut self, parent: u64, mode: u32, caller: Caller) -> u64 {
        let id = self.next;
        self.next += 1;
        self.now += 1;
        let time = Timestamp::new(self.now, 0);
        let attr = Attr {
            ino: id,
            mode,
            nlink: if mode & S_IFMT == S_IFDIR { 2 } else { 1 },
            uid: caller.uid,
            gid: caller.gid,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Attr::default()
        };
        self.nodes.insert(id, Node { attr, parent, ..Node::default() });
        id
    }

    fn touch(&mut self, id: u64) {
        self.now += 1;
        let now = Timestamp::new(self.now, 0);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.attr.mtime = now;
            node.attr.ctime = now;
        }
    }

    fn of(&mut self, id: NodeId) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id.get()).ok_or(Errno::ESTALE)
    }

    fn child(&mut self, parent: NodeId, name: Name<'_>) -> Result<u64, Errno> {
        self.of(parent)?.names.get(name.as_bytes()).copied().ok_or(Errno::ENOENT)
    }

    /// An entry as it is sent, which counts a lookup.
    fn entered(&mut self, id: u64) -> Entry {
        *self.lookups.entry(id).or_default() += 1;
        self.entry_of(id)
    }

    pub fn entry_of(&self, id: u64) -> Entry {
        Entry {
            node: node(id),
            generation: 0,
            attr: self.nodes[&id].attr,
            entry_valid: self.entry_valid,
            attr_valid: self.attr_valid,
        }
    }

    fn make(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        mode: u32,
        caller: Caller,
    ) -> Result<u64, Errno> {
        if self.of(parent)?.names.contains_key(name.as_bytes()) {
            return Err(Errno::EEXIST);
        }
        let id = self.new_node(parent.get(), mode, caller);
        self.of(parent)?.names.insert(name.as_bytes().to_vec(), id);
        self.touch(parent.get());
        Ok(id)
    }

    fn open(&mut self, id: u64, flags: OpenedFlags) -> Opened {
        let handle = self.next;
        self.next += 1;
        self.handles.insert(handle, id);
        Opened { handle: FileHandle(handle), flags, backing_id: 0 }
    }

    fn drop_name(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.attr.nlink = node.attr.nlink.saturating_sub(1);
            if node.attr.mode & S_IFMT == S_IFDIR {
                node.attr.nlink = 0;
            }
        }
        self.touch(id);
        self.collect(id);
    }

    fn collect(&mut self, id: u64) {
        let unused = self.nodes.get(&id).is_some_and(|node| node.attr.nlink == 0)
            && self.lookups.get(&id).copied().unwrap_or(0) == 0
            && !self.handles.values().any(|open| *open == id);
        if unused {
            self.nodes.remove(&id);
        }
    }

    fn forget(&mut self, id: u64, count: u64) {
        let left = self.lookups.entry(id).or_default();
        *left = left.checked_sub(count).expect("no more is forgotten than was looked up");
        self.collect(id);
    }

    fn rename(
        &mut self,
        from: (NodeId, Name<'_>),
        to: (NodeId, Name<'_>),
        flags: u32,
    ) -> Result<(), Errno> {
        let moved = self.child(from.0, from.1)?;
        let replaced = self.child(to.0, to.1).ok();
        if flags & 1 != 0 && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & 2 != 0 {
            let other = replaced.ok_or(Errno::ENOENT)?;
            self.of(from.0)?.names.insert(from.1.as_bytes().to_vec(), other);
            self.nodes.get_mut(&other).unwrap().parent = from.0.get();
        } else {
            if let Some(old) = replaced {
                let dir = self.nodes[&old].attr.mode & S_IFMT == S_IFDIR;
                if dir && !self.nodes[&old].names.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
            }
            self.of(from.0)?.names.remove(from.1.as_bytes());
        }
        self.of(to.0)?.names.insert(to.1.as_bytes().to_vec(), moved);
        self.nodes.get_mut(&moved).unwrap().parent = to.0.get();
        self.touch(from.0.get());
        self.touch(to.0.get());
        if let Some(old) = replaced.filter(|_| flags & 2 == 0) {
            self.drop_name(old);
        }
        Ok(())
    }

    fn set_attr(&mut self, set: &SetAttr) -> Result<(), Errno> {
        self.touch_ctime(set.node);
        let now = Timestamp::new(self.now, 0);
        let at = |time| match time {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        let node = self.of(set.node)?;
        if let Some(mode) = set.mode {
            node.attr.mode = node.attr.mode & S_IFMT | mode & 0o7777;
        }
        node.attr.uid = set.uid.unwrap_or(node.attr.uid);
        node.attr.gid = set.gid.unwrap_or(node.attr.gid);
        if let Some(size) = set.size {
            node.data.resize(usize::try_from(size).map_err(|_| Errno::EFBIG)?, 0);
            node.attr.size = size;
            node.attr.mtime = now;
        }
        node.attr.atime = set.atime.map_or(node.attr.atime, at);
        node.attr.mtime = set.mtime.map_or(node.attr.mtime, at);
        if set.kill_suidgid || set.uid.is_some() || set.gid.is_some() {
            node.attr.mode &= !0o6000;
        }
        Ok(())
    }

    fn touch_ctime(&mut self, id: NodeId) {
        self.now += 1;
        let now = Timestamp::new(self.now, 0);
        if let Some(node) = self.nodes.get_mut(&id.get()) {
            node.attr.ctime = now;
        }
    }

    fn list(&mut self, dir: NodeId, offset: u64, size: u32, plus: bool) -> Result<Vec<u8>, Errno> {
        let parent = self.of(dir)?.parent;
        let mut all = vec![(b".".to_vec(), dir.get()), (b"..".to_vec(), parent)];
        all.extend(self.of(dir)?.names.iter().map(|(name, id)| (name.clone(), *id)));
        let mut room = vec![0; size as usize];
        let mut buffer = DirentBuffer::new(&mut room);
        let mut sent = Vec::new();
        for (number, (name, id)) in all.iter().enumerate().skip(usize::try_from(offset).unwrap()) {
            let entry = self.entry_of(*id);
            let dirent = Dirent {
                ino: *id,
                next_offset: number as u64 + 1,
                mode: entry.attr.mode,
                name: Name::new(name).unwrap(),
            };
            let dots = name == b"." || name == b"..";
            let pushed = if plus {
                buffer.push_plus(&dirent, Some(&entry).filter(|_| !dots))
            } else {
                buffer.push(&dirent)
            };
            if pushed.is_err() {
                break;
            }
            if plus && !dots {
                sent.push(*id);
            }
        }
        let listed = buffer.finish().to_vec();
        for id in sent {
            *self.lookups.entry(id).or_default() += 1;
        }
        Ok(listed)
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn answer(
        &mut self,
        id: RequestId,
        caller: Caller,
        op: &Op<'_>,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let attr_valid = self.attr_valid;
        let done = || Ok(Some(bytes(&Reply::empty(id))));
        let entry = |entry: Entry| Ok(Some(bytes(&Reply::entry(id, &entry))));
        match *op {
            Op::Init(init) => {
                let flags = self.flags & init.flags;
                self.dialect = Dialect {
                    minor: init.minor.min(FUSE_KERNEL_MINOR_VERSION),
                    setxattr_ext: flags & FUSE_SETXATTR_EXT != 0,
                };
                let out = fuse_init_out {
                    major: 7,
                    minor: self.dialect.minor,
                    max_readahead: init.max_readahead,
                    flags: (flags & u64::from(u32::MAX)) as u32,
                    max_background: 16,
                    congestion_threshold: 12,
                    max_write: 1 << 20,
                    time_gran: 1,
                    max_pages: 256,
                    map_alignment: 0,
                    flags2: (flags >> 32) as u32,
                    max_stack_depth: 0,
                    request_timeout: 0,
                    unused: [0; 11],
                };
                Ok(Some(bytes(&Reply::init(id, &out, self.dialect.minor))))
            }
            Op::Destroy(_) => done(),
            Op::Forget(forget) => {
                self.forget(forget.node.get(), forget.lookups);
                Ok(None)
            }
            Op::BatchForget(batch) => {
                for forget in batch.items.iter() {
                    self.forget(forget.node.get(), forget.lookups);
                }
                Ok(None)
            }
            Op::Interrupt(interrupt) => {
                self.interrupted.insert(interrupt.target.masked());
                Ok(None)
            }
            Op::NotifyReply(_) => Ok(None),
            Op::Lookup(lookup) => match self.child(lookup.parent, lookup.name) {
                Ok(found) => entry(self.entered(found)),
                Err(Errno::ENOENT) => match self.negative_valid {
                    Some(valid) => Ok(Some(bytes(&Reply::negative_entry(id, valid)))),
                    None => Err(Errno::ENOENT),
                },
                Err(errno) => Err(errno),
            },
            Op::GetAttr(get) => {
                let attr = self.of(get.node)?.attr;
                Ok(Some(bytes(&Reply::attr(id, &attr, attr_valid))))
            }
            Op::Statx(get) => {
                let attr = self.of(get.node)?.attr;
                Ok(Some(bytes(&Reply::statx(id, &attr, attr_valid))))
            }
            Op::SetAttr(set) => {
                self.set_attr(&set)?;
                let attr = self.of(set.node)?.attr;
                Ok(Some(bytes(&Reply::attr(id, &attr, attr_valid))))
            }
            Op::MkNod(make) => {
                let made = self.make(make.parent, make.name, make.mode, caller)?;
                entry(self.entered(made))
            }
            Op::MkDir(make) => {
                let made = self.make(make.parent, make.name, S_IFDIR | make.mode, caller)?;
                entry(self.entered(made))
            }
            Op::Symlink(make) => {
                let made = self.make(make.parent, make.name, 0o120_777, caller)?;
                let node = self.nodes.get_mut(&made).unwrap();
                node.data = make.target.to_vec();
                node.attr.size = make.target.len() as u64;
                entry(self.entered(made))
            }
            Op::ReadLink(read) => {
                let data = self.of(read.node)?.data.clone();
                Ok(Some(bytes(&Reply::data(id, &data))))
            }
            Op::Link(link) => {
                if self.child(link.new_parent, link.new_name).is_ok() {
                    return Err(Errno::EEXIST);
                }
                let linked = link.node.get();
                self.of(link.new_parent)?.names.insert(link.new_name.as_bytes().to_vec(), linked);
                self.touch(link.new_parent.get());
                self.of(link.node)?.attr.nlink += 1;
                entry(self.entered(linked))
            }
            Op::Unlink(unlink) => {
                let gone = self.child(unlink.parent, unlink.name)?;
                self.of(unlink.parent)?.names.remove(unlink.name.as_bytes());
                self.touch(unlink.parent.get());
                self.drop_name(gone);
                done()
            }
            Op::RmDir(remove) => {
                let gone = self.child(remove.parent, remove.name)?;
                if !self.nodes[&gone].names.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                self.of(remove.parent)?.names.remove(remove.name.as_bytes());
                self.touch(remove.parent.get());
                self.drop_name(gone);
                done()
            }
            Op::Rename(op) => {
                self.rename((op.parent, op.name), (op.new_parent, op.new_name), 0)?;
                done()
            }
            Op::Rename2(op) => {
                self.rename((op.parent, op.name), (op.new_parent, op.new_name), op.flags)?;
                done()
            }
            Op::Create(create) => {
                let made = self.make(create.parent, create.name, create.mode, caller)?;
                let opened = self.open(made, self.opened);
                let entry = self.entered(made);
                Ok(Some(bytes(&Reply::created(id, &entry, &opened))))
            }
            Op::TmpFile(create) => {
                let made = self.new_node(create.parent.get(), create.mode, caller);
                self.nodes.get_mut(&made).unwrap().attr.nlink = 0;
                let opened = self.open(made, self.opened);
                let entry = self.entered(made);
                Ok(Some(bytes(&Reply::created(id, &entry, &opened))))
            }
            Op::Open(open) => {
                if open.flags.truncates() {
                    let node = self.of(open.node)?;
                    node.data.clear();
                    node.attr.size = 0;
                }
                let opened = self.open(open.node.get(), self.opened);
                Ok(Some(bytes(&Reply::opened(id, &opened))))
            }
            Op::OpenDir(open) => {
                let opened = self.open(open.node.get(), self.opened_dir);
                Ok(Some(bytes(&Reply::opened(id, &opened))))
            }
            Op::Release(release) => {
                let open = self.handles.remove(&release.handle.0);
                assert_eq!(open, Some(release.node.get()), "released what is not open");
                self.collect(release.node.get());
                done()
            }
            Op::ReleaseDir(release) => {
                let open = self.handles.remove(&release.handle.0);
                assert_eq!(open, Some(release.node.get()), "released what is not open");
                self.collect(release.node.get());
                done()
            }
            Op::Read(read) => {
                let node = self.of(read.node)?;
                let start = usize::try_from(read.offset).unwrap().min(node.data.len());
                let end = (start + read.size as usize).min(node.data.len());
                let data = node.data[start..end].to_vec();
                Ok(Some(bytes(&Reply::data(id, &data))))
            }
            Op::Write(write) => {
                self.touch(write.node.get());
                let node = self.of(write.node)?;
                let start = usize::try_from(write.offset).unwrap();
                let end = start + write.data.len();
                if node.data.len() < end {
                    node.data.resize(end, 0);
                }
                node.data[start..end].copy_from_slice(write.data);
                node.attr.size = node.data.len() as u64;
                if write.kill_suidgid {
                    node.attr.mode &= !0o6000;
                }
                let size = u32::try_from(write.data.len()).unwrap();
                Ok(Some(bytes(&Reply::written(id, size))))
            }
            Op::Fallocate(allocate) => {
                self.touch(allocate.node.get());
                let node = self.of(allocate.node)?;
                let start = usize::try_from(allocate.offset).unwrap();
                let end = start + usize::try_from(allocate.length).unwrap();
                if allocate.mode & 1 == 0 && node.data.len() < end {
                    node.data.resize(end, 0);
                }
                if allocate.mode & 2 != 0 {
                    let end = end.min(node.data.len());
                    node.data[start.min(end)..end].fill(0);
                }
                node.attr.size = node.data.len() as u64;
                done()
            }
            Op::LSeek(seek) => {
                let size = self.of(seek.node)?.attr.size;
                let offset = u64::try_from(seek.offset).map_err(|_| Errno::ENXIO)?;
                if offset >= size {
                    return Err(Errno::ENXIO);
                }
                let to = if seek.whence == Whence::Data { offset } else { size };
                Ok(Some(bytes(&Reply::lseek(id, to))))
            }
            Op::CopyFileRange64(copy) => {
                let source = self.of(copy.node)?.data.clone();
                let start = usize::try_from(copy.offset).unwrap().min(source.len());
                let end = (start + usize::try_from(copy.len).unwrap()).min(source.len());
                self.touch(copy.new_node.get());
                let target = self.of(copy.new_node)?;
                let at = usize::try_from(copy.new_offset).unwrap();
                let data = &source[start..end];
                if target.data.len() < at + data.len() {
                    target.data.resize(at + data.len(), 0);
                }
                target.data[at..at + data.len()].copy_from_slice(data);
                target.attr.size = target.data.len() as u64;
                Ok(Some(bytes(&Reply::copied_64(id, data.len() as u64))))
            }
            Op::ReadDir(read) => {
                let listed = self.list(read.node, read.offset, read.size, false)?;
                Ok(Some(bytes(&Reply::data(id, &listed))))
            }
            Op::ReadDirPlus(read) => {
                let listed = self.list(read.node, read.offset, read.size, true)?;
                Ok(Some(bytes(&Reply::data(id, &listed))))
            }
            Op::SetXattr(set) => {
                self.touch_ctime(set.node);
                let name = set.name.as_bytes().to_vec();
                let node = self.of(set.node)?;
                match (set.flags, node.xattrs.contains_key(&name)) {
                    (1, true) => return Err(Errno::EEXIST),
                    (2, false) => return Err(Errno::ENODATA),
                    _ => {}
                }
                node.xattrs.insert(name, set.value.to_vec());
                done()
            }
            Op::GetXattr(get) => {
                let node = self.of(get.node)?;
                let value = node.xattrs.get(get.name.as_bytes()).cloned().ok_or(Errno::ENODATA)?;
                sized(id, &value, get.size)
            }
            Op::ListXattr(list) => {
                let node = self.of(list.node)?;
                let names: Vec<u8> =
                    node.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect();
                sized(id, &names, list.size)
            }
            Op::RemoveXattr(remove) => {
                let node = self.of(remove.node)?;
                node.xattrs.remove(remove.name.as_bytes()).ok_or(Errno::ENODATA)?;
                done()
            }
            Op::StatFs(_) => {
                let totals = Statfs { blocks: 100, bfree: 50, namelen: 255, ..Statfs::default() };
                Ok(Some(bytes(&Reply::statfs(id, &totals))))
            }
            Op::Flush(_) | Op::FSync(_) | Op::FSyncDir(_) | Op::Access(_) => done(),
            _ => Err(Errno::ENOSYS),
        }
    }
}

fn sized(id: RequestId, value: &[u8], size: u32) -> Result<Option<Vec<u8>>, Errno> {
    let len = u32::try_from(value.len()).unwrap();
    if size == 0 {
        return Ok(Some(bytes(&Reply::xattr_size(id, len))));
    }
    if len > size {
        return Err(Errno::ERANGE);
    }
    Ok(Some(bytes(&Reply::data(id, value))))
}
