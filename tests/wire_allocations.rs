//! Decoding, serving and replying allocate nothing, whatever the operation.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/counting.rs"]
mod counting;
#[path = "common/samples.rs"]
mod samples;

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

use counting::{Counting, allocations};
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{Action, Config, Connection, Dialect, Message, Notice, Op, Reply};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_allocation_is_counted() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn decoding_allocates_nothing() {
    for op in samples::ops() {
        let bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
        let count = allocations(|| {
            let message = Message::split(black_box(&bytes), Dialect::NEWEST).unwrap();
            match black_box(Op::decode(&message).unwrap()) {
                Op::BatchForget(batch) => drop(black_box(batch.items.iter().count())),
                Op::RemoveMapping(remove) => drop(black_box(remove.items.iter().count())),
                Op::Create(create) => {
                    black_box(create.extensions.security_contexts().count());
                    black_box(create.extensions.supplementary_groups().count());
                }
                _ => (),
            }
        });
        assert_eq!(count, 0, "{}", op.name());
    }
}

#[test]
fn refusing_allocates_nothing() {
    for op in samples::ops() {
        let mut bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
        bytes.truncate(41.min(bytes.len() - 1));
        let connection = running();
        let count = allocations(|| {
            black_box(connection.receive(black_box(&bytes)));
        });
        assert_eq!(count, 0, "{}", op.name());
    }
}

#[test]
fn serving_and_replying_allocate_nothing() {
    let connection = running();
    let attr = Attr { mode: 0o100_644, ..Attr::default() };
    let valid = Duration::from_secs(1);
    let node = NodeId::ROOT;
    let entry = Entry { node, generation: 0, attr, entry_valid: valid, attr_valid: valid };
    let chunks: [&[u8]; 2] = [b"some", b"data"];
    for op in samples::ops() {
        let bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
        let count = allocations(|| {
            let Action::Serve(id, ..) = connection.receive(black_box(&bytes)) else { return };
            for reply in [
                Reply::error(id, Errno::ENOENT),
                Reply::attr(id, &attr, valid),
                Reply::created(id, &entry, &Opened::default()),
                Reply::statx(id, &attr, valid),
                Reply::data_chunks(id, &chunks),
            ] {
                let mut slices = [IoSlice::new(&[]); 4];
                black_box(reply.io_slices(&mut slices).unwrap());
            }
            connection.finish(id).unwrap();
        });
        assert_eq!(count, 0, "{}", op.name());
    }
}

#[test]
fn a_notice_allocates_nothing() {
    let name = Name::new(b"name").unwrap();
    let count = allocations(|| {
        let message = black_box(Notice::InvalEntry { parent: NodeId::ROOT, name }).message();
        black_box(message.io_slices());
    });
    assert_eq!(count, 0);
}

fn running() -> Connection {
    let connection = Connection::new(Config::default());
    let init = samples::ops().into_iter().find(|op| matches!(op, Op::Init(_))).unwrap();
    let bytes = samples::request(2, init).encode(Dialect::NEWEST).bytes();
    assert!(matches!(connection.receive(&bytes), Action::Send(_)));
    connection
}
