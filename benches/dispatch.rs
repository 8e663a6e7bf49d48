//! How many requests a second can one thread decode, and how many replies encode, with no kernel in
//! the way? And does it allocate?

#[path = "../tests/common/counting.rs"]
mod counting;
#[path = "../tests/common/samples.rs"]
mod samples;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

use counting::{Counting, allocations};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{Action, Config, Connection, Dialect, Message, Op, Reply};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A sample of each operation, as bytes.
fn requests() -> BTreeMap<&'static str, Vec<u8>> {
    samples::ops()
        .into_iter()
        .map(|op| (op.name(), samples::request(8, op).encode(Dialect::NEWEST).bytes()))
        .collect()
}

/// From the bytes of a read to an operation.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, bytes) in requests() {
        let decode = || {
            let message = Message::split(black_box(&bytes), Dialect::NEWEST).expect("a sample");
            black_box(Op::decode(&message).expect("a sample"));
        };
        assert_eq!(allocations(decode), 0, "{name} allocates");
        group.bench_function(name, |b| b.iter(decode));
    }
    group.finish();
}

type Make<'a> = &'a dyn Fn() -> Reply<'a>;

/// From a value to slices for writev(2).
fn encode(c: &mut Criterion) {
    let to = RequestId(8);
    let (attr, entry) = (attr(), entry());
    let data = vec![0x5a; 4096];
    let halves: [&[u8]; 2] = [&data[..2048], &data[2048..]];
    let replies: [(&str, Make<'_>); 7] = [
        ("error", &|| Reply::error(to, Errno::ENOENT)),
        ("attr", &|| Reply::attr(to, &attr, FOREVER)),
        ("entry", &|| Reply::entry(to, &entry)),
        ("created", &|| Reply::created(to, &entry, &Opened::default())),
        ("statx", &|| Reply::statx(to, &attr, FOREVER)),
        ("data", &|| Reply::data(to, &data)),
        ("data_chunks", &|| Reply::data_chunks(to, &halves)),
    ];
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    for (name, reply) in replies {
        let encode = || {
            let reply = reply();
            let mut slices = [IoSlice::new(&[]); 4];
            black_box(reply.io_slices(&mut slices).expect("4 slices are enough"));
        };
        assert_eq!(allocations(encode), 0, "{name} allocates");
        group.bench_function(name, |b| b.iter(encode));
    }
    group.finish();
}

/// From the bytes of a read to slices for the reply, through a connection: all but the view.
fn serve(c: &mut Criterion) {
    let connection = Connection::new(Config::default());
    let requests = requests();
    let Action::Send(_) = connection.receive(&requests["INIT"]) else { panic!("INIT is answered") };
    let (attr, entry) = (attr(), entry());
    let data = vec![0x5a; 4096];
    let mut group = c.benchmark_group("serve");
    group.throughput(Throughput::Elements(1));
    for name in ["GETATTR", "LOOKUP", "READ", "WRITE"] {
        let bytes = &requests[name];
        let serve = || {
            let Action::Serve(id, _, op) = connection.receive(black_box(bytes)) else {
                panic!("{name} is served")
            };
            let reply = match op {
                Op::GetAttr(_) => Reply::attr(id, &attr, FOREVER),
                Op::Lookup(_) => Reply::entry(id, &entry),
                Op::Write(_) => Reply::written(id, 4096),
                _ => Reply::data(id, &data),
            };
            let reply = connection.finish_with(reply).expect("one reply is due");
            let mut slices = [IoSlice::new(&[]); 4];
            black_box(reply.io_slices(&mut slices).expect("4 slices are enough"));
        };
        assert_eq!(allocations(serve), 0, "{name} allocates");
        group.bench_function(name, |b| b.iter(serve));
    }
    group.finish();
}

fn attr() -> Attr {
    Attr { ino: 7, size: 4096, blocks: 8, mode: 0o100_644, nlink: 1, ..Attr::default() }
}

fn entry() -> Entry {
    let node = NodeId::new(7).expect("not 0");
    let valid = Duration::from_secs(1);
    Entry { node, generation: 0, attr: attr(), entry_valid: valid, attr_valid: valid }
}

criterion_group!(benches, decode, encode, serve);
criterion_main!(benches);
