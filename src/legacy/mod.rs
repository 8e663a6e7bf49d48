//! The Python bridge's events: as it wrote them, and ours in its words.
//!
//! The bridge kept its events in a log of its own and told them as JSON. [`event`] is one of them; [`log`], [`sqlite`]
//! and [`snapshots`] read what it left on a disk, and [`import`] makes a store of that: every event is kept word for
//! word, and those about files make the tree and its past. [`native`] goes the other way and tells what
//! happened in a store as the bridge would have: what `streams/` prints and HTTP answers.

pub mod context;
pub mod event;
pub mod import;
pub mod log;
pub mod native;
pub mod snapshots;
pub mod sqlite;

mod apply;
mod msgpack;
mod time;
