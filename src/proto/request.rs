//! Requests the other way round: from values to the bytes a kernel would send.
//!
//! A stand-in for the kernel, the tests and the fuzz corpus are made with it; the server never is.
//!
//! Invariants: `Op::decode` of what [`Request::encode`] makes is the `Op` that went in.

use zerocopy::{Immutable, IntoBytes};

use super::abi::fuse_in_header;
use super::decode::DecodeError;
use super::extension::Extensions;
use super::message::{Dialect, Message};
use super::op::Op;
use super::types::{Caller, RequestId};

/// One request of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the reply will be tied to; for NOTIFY_REPLY the number of the notification.
    pub id: RequestId,
    /// Who asks.
    pub caller: Caller,
    /// What is asked.
    pub op: Op<'a>,
}

/// The bytes of a request, in the parts that the ring keeps apart.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The header, with all lengths filled in.
    pub header: fuse_in_header,
    /// The fixed part.
    pub args: Vec<u8>,
    /// Names, data and extensions.
    pub payload: Vec<u8>,
    dialect: Dialect,
}

impl Request<'_> {
    /// The bytes, in the form that `dialect` says.
    ///
    /// # Panics
    ///
    /// If the request is longer than a message can be: 4 GiB, or 512 KiB of extensions.
    pub fn encode(&self, dialect: Dialect) -> Encoded {
        let mut body = Body::new(dialect);
        self.op.encode(&mut body);
        let Body { node, args, mut payload, extensions, .. } = body;
        payload.extend_from_slice(&extensions);
        let len = size_of::<fuse_in_header>() + args.len() + payload.len();
        let header = fuse_in_header {
            len: u32::try_from(len).expect("a message is shorter than 4 GiB"),
            opcode: self.op.opcode(),
            unique: self.id.0,
            nodeid: node,
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            total_extlen: u16::try_from(extensions.len() / 8)
                .expect("extensions are shorter than 512 KiB"),
            padding: 0,
        };
        Encoded { header, args, payload, dialect }
    }
}

impl Encoded {
    /// The request in one piece, as a read of `/dev/fuse` returns it.
    pub fn bytes(&self) -> Vec<u8> {
        [self.header.as_bytes(), &self.args, &self.payload].concat()
    }

    /// The request in parts, as the ring delivers it.
    ///
    /// # Errors
    ///
    /// Those of [`Message::from_parts`], if parts were changed since they were made.
    pub fn message(&self) -> Result<Message<'_>, DecodeError> {
        Message::from_parts(self.header, &self.args, &self.payload, self.dialect)
    }
}

/// What an operation puts together when it is encoded.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) dialect: Dialect,
    /// The header's node id; 0 unless set.
    pub(super) node: u64,
    args: Vec<u8>,
    payload: Vec<u8>,
    extensions: Vec<u8>,
}

impl Body {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, node: 0, args: Vec::new(), payload: Vec::new(), extensions: Vec::new() }
    }

    pub(super) fn args(&mut self, args: &(impl IntoBytes + Immutable)) {
        self.args.extend_from_slice(args.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
    }

    pub(super) fn c_string(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
        self.payload.push(0);
    }

    pub(super) fn extensions(&mut self, extensions: Extensions<'_>) {
        self.extensions.extend_from_slice(extensions.as_bytes());
    }

    /// The length of data as the wire has it.
    pub(super) fn len_u32(bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).expect("data of a message is shorter than 4 GiB")
    }
}
