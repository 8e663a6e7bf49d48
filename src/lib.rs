//! An event store served as a filesystem, over the kernel's own FUSE protocol.

pub mod agents;
pub mod cli;
pub mod proto;
pub mod server;
pub mod store;
pub mod sys;
pub mod transport;
pub mod tree;
pub mod view;
