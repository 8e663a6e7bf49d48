//! How long does one request take from its bytes to those of its reply, with no kernel in the way?
//!
//! decode, dispatch, the view, the tree and the store's index in memory, encode.

#[path = "../tests/common/kernel.rs"]
#[allow(dead_code, reason = "each user of the module uses what it needs")]
mod kernel;
#[path = "../tests/common/stores.rs"]
#[allow(dead_code, reason = "each user of the module uses what it needs")]
mod stores;

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel::{Kernel, Wire, name};
use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::Reply;
use lighthouse_fuse::proto::op::{GetAttr, Init, Lookup, Op};
use lighthouse_fuse::proto::types::OpenFlags;
use lighthouse_fuse::server::dispatch::Work;
use lighthouse_fuse::server::{Config, Server};
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, Received, Transport};
use lighthouse_fuse::tree::Tree;
use lighthouse_fuse::view::{Options, View};

/// Looks at every byte's place and keeps none.
struct Sink;

impl Transport for Sink {
    fn receive<'b>(&self, _: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        Ok(None)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        assert_eq!(reply.errno(), None);
        for chunk in reply.chunks() {
            black_box(chunk);
        }
        Ok(Delivery::Taken)
    }

    fn send_notification(&self, _: &[IoSlice<'_>]) -> io::Result<Delivery> {
        Ok(Delivery::Unwanted)
    }
}

fn serve(c: &mut Criterion) {
    let (store, _dir) = stores::fresh();
    let agents = Agents::new(Arc::clone(&store));
    let view = View::new(Tree::new(store), agents, Options::default());
    let wire = Wire::default();
    let mut kernel = Kernel::connect(&wire, &view);
    let dir = kernel.walk("current").expect("a fresh store answers").node;
    for number in 0..1000 {
        kernel.make(dir, format!("other-{number}").as_bytes(), b"content");
    }
    let file = kernel.make(dir, b"file", &[7; 65_536]).node;
    let handle = kernel.open(file, OpenFlags::RDWR).expect("a fresh store answers").handle;
    let at = kernel.last();
    let past = kernel.walk(&format!("history/@{at}")).expect("a fresh store answers").node;
    let past_file = kernel.look(past, b"file").expect("a fresh store answers").node;
    let init = Init { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
    let init = kernel.encode(Op::Init(init));
    let getattr = |node| Op::GetAttr(GetAttr { node, handle: None });
    let requests = [
        ("GETATTR", kernel.encode(getattr(file))),
        ("GETATTR in the past", kernel.encode(getattr(past_file))),
        ("LOOKUP", kernel.encode(Op::Lookup(Lookup { parent: dir, name: name(b"file") }))),
        ("READ 4 KiB", kernel.encode(Kernel::read_op(file, handle, 8192, 4096))),
        ("WRITE 4 KiB", kernel.encode(Kernel::write_op(file, handle, 8192, &[8; 4096]))),
        ("WRITE 100 B", kernel.encode(Kernel::write_op(file, handle, 8192, &[8; 100]))),
    ];
    drop(kernel);
    let server = Server::new(&Sink, &view, Config::default());
    let mut work = Work::default();
    let mut room = vec![0; server.connection().config().data_max()];
    let mut serve_one = |bytes: &[u8]| {
        let received = Received { frame: Frame::Whole(bytes), room: &mut room };
        if let Some(reply) = server.take(received, &mut work).reply {
            let _ = Sink.send(&reply.out_of(&room));
        }
    };
    serve_one(&init);
    let mut group = c.benchmark_group("serve");
    // Each WRITE stays in the store's log: seconds of them are gigabytes.
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    for (operation, bytes) in &requests {
        group.throughput(Throughput::Elements(1));
        group.bench_function(*operation, |b| {
            b.iter(|| serve_one(black_box(bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, serve);
criterion_main!(benches);
