//! Every decoder, as a function of any bytes: what the fuzz targets and the corpus test run.
//!
//! None may panic, and what was decoded must be the same after being encoded again.

use lighthouse_fuse::proto::abi::fuse_in_header;
use lighthouse_fuse::proto::answer::Answer;
use lighthouse_fuse::proto::extension::Extensions;
use lighthouse_fuse::proto::message::args_len;
use lighthouse_fuse::proto::request::Request;
use lighthouse_fuse::proto::types::RequestId;
use lighthouse_fuse::proto::{
    Action, Config, Connection, Dialect, Message, Op, dirent, notify, op,
};

/// Panics if its decoder does, or reads something else at the second time.
type Decoder = fn(&[u8]);

/// The targets that are no operation.
pub(crate) const OTHERS: [(&str, Decoder); 6] = [
    ("message", message),
    ("connection", connection),
    ("extensions", extensions),
    ("answer", answer),
    ("notice", notice),
    ("dirent", directory),
];

/// Runs the decoder of the target `name`: one of [`OTHERS`], or `op_` and an operation.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    if let Some((_, decoder)) = OTHERS.iter().find(|(other, _)| *other == name) {
        return decoder(bytes);
    }
    let opcode = opcodes().find(|(_, target)| name.strip_prefix("op_") == Some(target.as_str()));
    let (opcode, _) = opcode.unwrap_or_else(|| panic!("no decoder is called {name}"));
    operation(opcode, bytes);
}

/// Every operation and its target's name, without `op_`.
pub(crate) fn opcodes() -> impl Iterator<Item = (u32, String)> {
    let known = |&opcode: &u32| args_len(opcode, Dialect::NEWEST).is_some();
    (0..5000).filter(known).map(|opcode| (opcode, op::name(opcode).to_lowercase()))
}

/// Any bytes as a message from the device, and in parts as from the ring.
fn message(bytes: &[u8]) {
    for dialect in [Dialect::NEWEST, Dialect { minor: 31, setxattr_ext: false }] {
        let Ok(message) = Message::split(bytes, dialect) else { continue };
        let parts = Message::from_parts(message.header, message.args, message.payload, dialect);
        let decoded = Op::decode(&message);
        assert_eq!(parts.and_then(|parts| Op::decode(&parts)), decoded);
        if let Ok(op) = decoded {
            same_again(op, dialect);
        }
    }
}

/// Any body behind a header that says it is `opcode` and as long as it is.
fn operation(opcode: u32, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(size_of::<fuse_in_header>()), 0);
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
    message(&bytes);
}

/// Encodes `op` and decodes it again; follows its iterators to their end.
fn same_again(op: Op<'_>, dialect: Dialect) {
    let request = Request { id: RequestId(2), caller: Default::default(), op };
    let encoded = request.encode(dialect);
    assert_eq!(encoded.message().and_then(|message| Op::decode(&message)), Ok(op));
    match op {
        Op::BatchForget(batch) => drop(batch.items.iter().count()),
        Op::RemoveMapping(remove) => drop(remove.items.iter().count()),
        Op::Create(create) => walk(create.extensions),
        Op::TmpFile(create) => walk(create.extensions),
        Op::MkNod(create) => walk(create.extensions),
        Op::MkDir(create) => walk(create.extensions),
        Op::Symlink(create) => walk(create.extensions),
        _ => (),
    }
}

fn walk(extensions: Extensions<'_>) {
    let found = extensions.security_contexts().count() + extensions.supplementary_groups().count();
    assert!(found <= extensions.as_bytes().len());
}

/// Messages one after the other on one connection, each behind its length in two bytes.
fn connection(bytes: &[u8]) {
    let connection = Connection::new(Config { pending_max: 32, ..Config::default() });
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        let (message, after) = after.split_at(len);
        rest = after;
        match connection.receive(message) {
            Action::Send(reply) | Action::SendAndClose(reply) => {
                assert_ne!(reply.id().masked(), 0, "a reply to id 0 is a notification");
            }
            // Requests with an even id stay pending.
            Action::Serve(id, ..) if id.masked() & 2 != 0 => {
                assert!(connection.finish(id).is_some());
            }
            Action::Serve(..) | Action::Tell(..) | Action::Ignore(_) => (),
            Action::Close => assert!(connection.is_closed()),
        }
        assert!(connection.pending() <= 32);
    }
}

fn extensions(bytes: &[u8]) {
    if let Ok(extensions) = Extensions::new(bytes) {
        walk(extensions);
    }
}

fn answer(bytes: &[u8]) {
    let Ok(Answer { result: Ok(body), .. }) = Answer::decode(bytes) else { return };
    let _ = (body.empty(), body.data(64), body.entry(), body.created(), body.opened());
    let _ = (body.attr(), body.statx(), body.written(), body.copied_64(), body.statfs());
    let _ = (body.xattr_size(), body.lock(), body.bmap(), body.lseek(), body.ioctl());
    let _ = (body.poll(), body.init(45), body.init(12), body.init(4));
}

fn notice(bytes: &[u8]) {
    let mut nodes = Vec::new();
    if let Ok(notice) = notify::decode(bytes, |node| nodes.push(node)) {
        let notice = match notice {
            lighthouse_fuse::proto::Notice::Prune { .. } => {
                lighthouse_fuse::proto::Notice::Prune { nodes: &nodes }
            }
            notice => notice,
        };
        let message = notice.message();
        assert_eq!(message.chunks().map(<[u8]>::len).sum::<usize>(), message.len());
        assert_eq!(message.len(), bytes.len());
    }
}

fn directory(bytes: &[u8]) {
    for (plus, count) in [
        (false, dirent::entries(bytes).filter(Result::is_ok).count()),
        (true, dirent::entries_plus(bytes).filter(Result::is_ok).count()),
    ] {
        assert!(count * if plus { 152 } else { 24 } <= bytes.len());
    }
    // What was read fits a buffer of the same length.
    let mut room = vec![0; bytes.len()];
    let mut buffer = dirent::DirentBuffer::new(&mut room);
    let read: Vec<_> = dirent::entries(bytes).map_while(Result::ok).collect();
    for entry in &read {
        buffer.push(entry).expect("it came out of as much room");
    }
    let again: Vec<_> = dirent::entries(buffer.finish()).map_while(Result::ok).collect();
    assert_eq!(again, read);
}
