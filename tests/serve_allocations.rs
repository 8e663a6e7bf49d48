//! Serving the commonest requests from memory allocates nothing, from decoding to the reply.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/kernel.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod kernel;
#[path = "common/stores.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod stores;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use counting::{Counting, allocations};
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

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what it is sent.
#[derive(Default)]
struct Sink(AtomicU64);

impl Transport for Sink {
    fn receive<'b>(&self, _: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        Ok(None)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        assert_eq!(reply.errno(), None);
        self.0.fetch_add(reply.chunks().map(|chunk| chunk.len() as u64).sum(), Ordering::Relaxed);
        Ok(Delivery::Taken)
    }

    fn send_notification(&self, _: &[IoSlice<'_>]) -> io::Result<Delivery> {
        Ok(Delivery::Unwanted)
    }
}

#[test]
fn getattr_lookup_and_read_of_a_warm_tree_allocate_nothing() {
    let (store, _dir) = stores::fresh();
    let agents = Agents::new(Arc::clone(&store));
    let view = View::new(Tree::new(store), agents, Options::default());
    let wire = Wire::default();
    let mut kernel = Kernel::connect(&wire, &view);
    let dir = kernel.walk("current").unwrap().node;
    let file = kernel.make(dir, b"file", &[7; 8192]).node;
    let handle = kernel.open(file, OpenFlags::RDONLY).unwrap().handle;
    let init = Init { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
    let init = kernel.encode(Op::Init(init));
    let requests = [
        ("GETATTR", kernel.encode(Op::GetAttr(GetAttr { node: file, handle: None }))),
        ("LOOKUP", kernel.encode(Op::Lookup(Lookup { parent: dir, name: name(b"file") }))),
        ("READ", kernel.encode(Kernel::read_op(file, handle, 0, 4096))),
    ];
    drop(kernel);
    let sink = Sink::default();
    let server = Server::new(&sink, &view, Config::default());
    let mut work = Work::default();
    let mut room = vec![0; server.connection().config().data_max()];
    let mut serve_one = |bytes: &[u8]| {
        let received = Received { frame: Frame::Whole(bytes), room: &mut room };
        if let Some(reply) = server.take(received, &mut work).reply {
            let _ = sink.send(&reply.out_of(&room)).unwrap();
        }
    };
    serve_one(&init);
    for (operation, bytes) in &requests {
        let mut serve = || {
            for _ in 0..100 {
                serve_one(bytes);
            }
        };
        serve();
        assert_eq!(allocations(serve), 0, "{operation} allocates");
    }
    assert!(sink.0.load(Ordering::Relaxed) > 200 * 4096);
}
