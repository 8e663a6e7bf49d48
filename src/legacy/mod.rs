//! The Python bridge's events: as it wrote them, and ours in its words.
//!
//! The bridge kept its events in a log of its own and told them as JSON. [`event`] is one of them,
//! [`native`] tells what happened in a store as the bridge would have: what `streams/` prints and HTTP answers.

pub mod context;
pub mod event;
pub mod native;

mod msgpack;
mod time;
