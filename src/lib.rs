//! An event store served as a filesystem, over the kernel's own FUSE protocol.
//!
//! A store is a log of events; what people see is derived from it. `current/` of a mount is the tree
//! after the last event, `history/@N/` the whole tree after event N. There is no libfuse: we speak to
//! `/dev/fuse` ourselves.
//!
//! # The way of a request
//!
//! ```text
//!  kernel --> transport --> proto --> server --> view --> tree --> store
//!             bytes in,     bytes     one        now or   which    log, content,
//!             bytes out     as values answer     at @N    event    index
//! ```
//!
//! | layer | knows | must not know |
//! |---|---|---|
//! | [`sys`] | system calls, each `unsafe` block | what they are for |
//! | [`transport`] | whole messages; mounting | what they say |
//! | [`proto`] | the wire, up to ABI 7.45; negotiation | files, threads, time |
//! | [`server`] | which question a message is, which errno a refusal | how it is answered |
//! | [`view`] | node numbers, handles, lifetimes; one file for each directory of the mount | what a change means |
//! | [`syntax`] | definitions in source text | where the text is from |
//! | [`meter`] | how long requests took, and which came last | what they asked |
//! | [`tree`] | POSIX: which event an operation causes, or why none does | node numbers, the wire |
//! | [`agents`] | who is behind a request | what they ask |
//! | [`legacy`] | the Python bridge's events, as it wrote them and as we tell ours in its words | HTTP, mounts |
//! | [`store`] | events, in order, durable; every question at any sequence | that there is FUSE |
//! | [`api`] | HTTP: the tree and its events for whoever has no mount; enters at `tree` | the mount |
//! | [`replay`] | a recorded connection, asked again of a server | how it was recorded |
//! | [`cli`] | the commands | |
//!
//! Which layer may name which is a table in `tests/tidy.rs`, and kept.
//!
//! # What always holds
//!
//! - **The log is the truth.** Content is written first; then, under one lock: decide, one `pwrite` at the
//!   end of the log, apply; then the reply. So what anyone can see is in the log, in order.
//! - **One way for now and then.** Every question about a tree takes a sequence, and `current/` asks with
//!   [`Seq::NOW`](store::event::Seq::NOW). There is no replay and no snapshot behind `history/`.
//! - **An inode's number is the sequence of the event that made it**, so it is never reused. Sequences
//!   begin at 2: 1 is `FUSE_ROOT_ID`, the mount's own root, which belongs to no tree.
//! - **Extents are versioned, not superseded.** Each write adds a piece keyed by (inode, chunk, sequence); a
//!   reader lays older under newer until a merged base. So a small write costs a constant, whatever the
//!   file, and reading the past costs what reading the present costs.
//! - **Content begins on a page**, however short it is: what lies beside it can then be given back whole when
//!   history is.
//! - **A handler never waits for the kernel.** Notifications go through one queue and one thread.
//!
//! # As a library
//!
//! [`proto`], [`transport`] and [`server`] serve FUSE without libfuse. [`transport::memory`] is a kernel
//! for tests: it drives the same decoder and server with a seeded schedule.

pub mod sys;

pub mod transport;

pub mod proto;

pub mod server;

pub mod syntax;

pub mod meter;

pub mod view;

pub mod tree;

pub mod agents;

pub mod legacy;

pub mod store;

pub mod api;

pub mod replay;

pub mod cli;
