//! FUSE as values: no IO, no clock, no `unsafe`.
//!
//! ```text
//! bytes --message--> Message --op--> Op      what is asked, checked once
//! Reply, Notice <------------------ values   what is answered or started, as chunks to send
//! ```
//!
//! [`abi`] holds the kernel's structs; `connection` the state machine that ties the rest together.
//! Decoding allocates nothing, whatever the bytes.

pub mod abi;
pub mod answer;
pub mod connection;
pub mod decode;
pub mod dirent;
pub mod extension;
pub mod flags;
pub mod message;
pub mod notify;
pub mod op;
mod pending;
pub mod reply;
pub mod request;
pub mod types;

pub use connection::{Action, Config, Connection, Limits};
pub use decode::DecodeError;
pub use message::{Dialect, Message};
pub use notify::Notice;
pub use op::Op;
pub use reply::Reply;
