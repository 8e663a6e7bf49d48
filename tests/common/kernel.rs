//! A server without a kernel: requests go in as bytes, replies come out as bytes.
#![allow(clippy::unwrap_used, reason = "benches take it too, where a test's leave does not reach")]

use std::io::{self, IoSlice};
use std::sync::Mutex;

use lighthouse_fuse::proto::Reply;
use lighthouse_fuse::proto::abi::FUSE_URING_OP_IN_OUT_SZ;
use lighthouse_fuse::proto::answer::{Answer, Body};
use lighthouse_fuse::proto::connection::MINOR_MAX;
use lighthouse_fuse::proto::dirent;
use lighthouse_fuse::proto::message::{Dialect, Message};
use lighthouse_fuse::proto::op::{
    Create, Forget, GetAttr, GetXattr, Init, Lookup, MkDir, Op, Open, OpenDir, Read, ReadDir,
    ReadDirPlus, Release, Unlink, Write,
};
use lighthouse_fuse::proto::request::Request;
use lighthouse_fuse::proto::types::{
    Attr, Caller, Entry, Errno, FileHandle, Name, NodeId, OpenFlags, Opened, RequestId, XattrName,
};
use lighthouse_fuse::server::{Config, Server, dispatch::Work};
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, Received, Transport};
use lighthouse_fuse::view::View;

/// Takes what the server sends; has nothing to receive.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) sent: Mutex<Vec<Vec<u8>>>,
}

impl Transport for Wire {
    fn receive<'b>(&self, _: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        Ok(None)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        self.sent.lock().unwrap().push(reply.chunks().collect::<Vec<_>>().concat());
        Ok(Delivery::Taken)
    }

    fn send_notification(&self, _: &[IoSlice<'_>]) -> io::Result<Delivery> {
        Ok(Delivery::Unwanted)
    }
}

/// Who asks, unless a test says otherwise.
pub(crate) const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: 0 };

/// Name, inode number, and the node where one was given out.
pub(crate) type Listed = (Vec<u8>, u64, Option<Entry>);

/// Drives one connection.
pub(crate) struct Kernel<'s> {
    pub(crate) server: Server<'s>,
    wire: &'s Wire,
    work: Work,
    room: Vec<u8>,
    parts: bool,
    next: u64,
    pub(crate) caller: Caller,
}

pub(crate) fn name(bytes: &[u8]) -> Name<'_> {
    Name::new(bytes).unwrap()
}

impl<'s> Kernel<'s> {
    /// Connects to `view`, INIT and all.
    pub(crate) fn connect(wire: &'s Wire, view: &'s View) -> Self {
        view.connected().unwrap();
        let server = Server::new(wire, view, Config::default());
        let room = vec![0; server.connection().config().data_max()];
        let work = Work::default();
        let mut kernel = Self { server, wire, work, room, parts: false, next: 0, caller: CALLER };
        let init = Init { major: 7, minor: MINOR_MAX, max_readahead: 1 << 17, flags: u64::MAX };
        let reply = kernel.ask(Op::Init(init)).unwrap();
        assert_eq!(Body(&reply).init(MINOR_MAX).unwrap().major, 7);
        kernel
    }

    /// The bytes of `op`, as the next request.
    pub(crate) fn encode(&mut self, op: Op<'_>) -> Vec<u8> {
        self.next += 2;
        let request = Request { id: RequestId(self.next), caller: self.caller, op };
        request.encode(Dialect::NEWEST).bytes()
    }

    /// What `op` is answered with.
    pub(crate) fn ask(&mut self, op: Op<'_>) -> Result<Vec<u8>, Errno> {
        let bytes = self.encode(op);
        self.take(&bytes);
        let sent = std::mem::take(&mut *self.wire.sent.lock().unwrap());
        assert_eq!(sent.len(), 1, "one reply to {}", op.name());
        let answer = Answer::decode(&sent[0]).unwrap();
        assert_eq!(answer.id, RequestId(self.next));
        answer.result.map(|body| body.0.to_vec())
    }

    pub(crate) fn tell(&mut self, op: Op<'_>) {
        let bytes = self.encode(op);
        self.take(&bytes);
        assert!(self.wire.sent.lock().unwrap().is_empty(), "no reply to {}", op.name());
    }

    /// From now on requests come in three parts, as on the ring.
    pub(crate) fn in_parts(&mut self) {
        self.parts = true;
    }

    /// Hands over bytes made by [`Kernel::encode`]; the reply goes to the wire.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let mut op_in = [0; FUSE_URING_OP_IN_OUT_SZ];
        let message = self.parts.then(|| Message::split(bytes, Dialect::NEWEST).ok()).flatten();
        // Of INIT, which never comes that way, all is fixed.
        let message = message.filter(|message| message.args.len() <= op_in.len());
        let frame = match &message {
            None => Frame::Whole(bytes),
            Some(message) => {
                op_in[..message.args.len()].copy_from_slice(message.args);
                Frame::Parts { header: message.header, args: &op_in, payload: message.payload }
            }
        };
        let received = Received { frame, room: &mut self.room };
        if let Some(reply) = self.server.take(received, &mut self.work).reply {
            let _ = self.wire.send(&reply.out_of(&self.room)).unwrap();
        }
    }

    pub(crate) fn look(&mut self, parent: NodeId, at: &[u8]) -> Result<Entry, Errno> {
        let reply = self.ask(Op::Lookup(Lookup { parent, name: name(at) }))?;
        Body(&reply).entry().unwrap().map_err(|_| Errno::ENOENT)
    }

    /// Follows `path` from the mount's root.
    pub(crate) fn walk(&mut self, path: &str) -> Result<Entry, Errno> {
        let mut parts = path.split('/');
        let mut entry = self.look(NodeId::ROOT, parts.next().unwrap().as_bytes())?;
        for part in parts {
            entry = self.look(entry.node, part.as_bytes())?;
        }
        Ok(entry)
    }

    pub(crate) fn forget(&mut self, node: NodeId, lookups: u64) {
        self.tell(Op::Forget(Forget { node, lookups }));
    }

    pub(crate) fn attr(&mut self, node: NodeId) -> Result<Attr, Errno> {
        let reply = self.ask(Op::GetAttr(GetAttr { node, handle: None }))?;
        Ok(Body(&reply).attr().unwrap().0)
    }

    pub(crate) fn create(
        &mut self,
        parent: NodeId,
        at: &[u8],
    ) -> Result<(Entry, FileHandle), Errno> {
        let reply = self.ask(Op::Create(Create {
            parent,
            name: name(at),
            mode: 0o100_644,
            umask: 0o022,
            flags: OpenFlags(OpenFlags::RDWR | OpenFlags::CREAT),
            kill_suidgid: false,
            extensions: Default::default(),
        }))?;
        let (entry, opened) = Body(&reply).created().unwrap();
        Ok((entry, opened.handle))
    }

    pub(crate) fn mkdir(&mut self, parent: NodeId, at: &[u8]) -> Result<Entry, Errno> {
        let reply = self.ask(Op::MkDir(MkDir {
            parent,
            name: name(at),
            mode: 0o755,
            umask: 0o022,
            extensions: Default::default(),
        }))?;
        Ok(Body(&reply).entry().unwrap().unwrap())
    }

    pub(crate) fn unlink(&mut self, parent: NodeId, at: &[u8]) -> Result<(), Errno> {
        self.ask(Op::Unlink(Unlink { parent, name: name(at) })).map(drop)
    }

    pub(crate) fn open(&mut self, node: NodeId, flags: u32) -> Result<Opened, Errno> {
        let flags = OpenFlags(flags);
        let reply = self.ask(Op::Open(Open { node, flags, kill_suidgid: false }))?;
        Ok(Body(&reply).opened().unwrap())
    }

    pub(crate) fn release(&mut self, node: NodeId, handle: FileHandle) -> Result<(), Errno> {
        let release = Release {
            node,
            handle,
            flags: OpenFlags(OpenFlags::RDWR),
            lock_owner: Default::default(),
            flush: false,
            flock_unlock: false,
        };
        self.ask(Op::Release(release)).map(drop)
    }

    pub(crate) fn write_op<'d>(
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        data: &'d [u8],
    ) -> Op<'d> {
        Op::Write(Write {
            node,
            handle,
            offset,
            data,
            flags: OpenFlags(OpenFlags::RDWR),
            lock_owner: None,
            from_cache: false,
            kill_suidgid: false,
        })
    }

    pub(crate) fn write(
        &mut self,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, Errno> {
        let reply = self.ask(Self::write_op(node, handle, offset, data))?;
        Ok(Body(&reply).written().unwrap())
    }

    pub(crate) fn read_op(node: NodeId, handle: FileHandle, offset: u64, size: u32) -> Op<'static> {
        let flags = OpenFlags(OpenFlags::RDONLY);
        Op::Read(Read { node, handle, offset, size, flags, lock_owner: None })
    }

    pub(crate) fn read(
        &mut self,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, Errno> {
        self.ask(Self::read_op(node, handle, offset, size))
    }

    /// Opens, reads and closes the file at `path`.
    pub(crate) fn content(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        let entry = self.walk(path)?;
        let handle = self.open(entry.node, OpenFlags::RDONLY)?.handle;
        let content = self.read(entry.node, handle, 0, 1 << 20)?;
        self.release(entry.node, handle)?;
        Ok(content)
    }

    /// Makes the file `at` in `parent` with `content`, and lets go of it.
    pub(crate) fn make(&mut self, parent: NodeId, at: &[u8], content: &[u8]) -> Entry {
        let (entry, handle) = self.create(parent, at).unwrap();
        if !content.is_empty() {
            self.write(entry.node, handle, 0, content).unwrap();
        }
        self.release(entry.node, handle).unwrap();
        entry
    }

    pub(crate) fn xattr(&mut self, node: NodeId, at: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = XattrName::new(at).unwrap();
        self.ask(Op::GetXattr(GetXattr { node, name, size: 4096 }))
    }

    /// The last event, as `current` tells it.
    pub(crate) fn last(&mut self) -> u64 {
        let current = self.walk("current").unwrap().node;
        let seq = self.xattr(current, b"user.lighthouse.seq").unwrap();
        String::from_utf8(seq).unwrap().parse().unwrap()
    }

    pub(crate) fn open_directory(&mut self, node: NodeId) -> Result<Opened, Errno> {
        let reply = self.ask(Op::OpenDir(OpenDir { node, flags: OpenFlags::default() }))?;
        Ok(Body(&reply).opened().unwrap())
    }

    /// Lists `node` in replies of `size` bytes: name, inode number, and with `plus` the entry.
    pub(crate) fn list(
        &mut self,
        node: NodeId,
        size: u32,
        plus: bool,
    ) -> Result<Vec<Listed>, Errno> {
        let handle = self.open_directory(node)?.handle;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let page = self.ask(if plus {
                Op::ReadDirPlus(ReadDirPlus { node, handle, offset, size })
            } else {
                Op::ReadDir(ReadDir { node, handle, offset, size })
            })?;
            if page.is_empty() {
                return Ok(names);
            }
            if plus {
                for entry in dirent::entries_plus(&page) {
                    let (entry, dirent) = entry.unwrap();
                    offset = dirent.next_offset;
                    names.push((dirent.name.as_bytes().to_vec(), dirent.ino, entry));
                }
            } else {
                for dirent in dirent::entries(&page) {
                    let dirent = dirent.unwrap();
                    offset = dirent.next_offset;
                    names.push((dirent.name.as_bytes().to_vec(), dirent.ino, None));
                }
            }
        }
    }
}
