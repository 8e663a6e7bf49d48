//! HTTP as programs meet it: the real program serves, and what it answers is looked at byte by byte.

#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod client;
mod dav;
mod events;
mod files;
mod life;
mod limits;
mod malformed;
mod mounted;
mod processes;
mod replay;
mod rights;
mod sessions;
mod upstream;
