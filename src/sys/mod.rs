//! Every `unsafe` block: what the operating system offers, behind safe signatures.
//!
//! What rustix already offers safely (reading, mounting, namespaces, polling) is called directly
//! by the layers above; here is what it does not have, or what needs more than one call to be safe.
//!
//! | file | offers |
//! |---|---|
//! | [`pages`] | buffers that start at a page boundary |
//! | [`fuse_device`] | the ioctls of `/dev/fuse` |
//! | [`fuse_ring`] | one queue of FUSE over io_uring, and its memory |
//! | [`descriptor`] | descriptors taken over by number, or sent over a unix socket |
//! | [`signals`] | signals as values that are read, not as handlers that interrupt |
//! | [`grammar`] | grammars of tree-sitter, which are C |
//! | [`blocking`] | what a thread sees to before it waits |
//! | [`process`] | children that start with a clean signal mask, namespaces, capabilities, CPUs |
#![allow(unsafe_code, reason = "this is the layer that holds it, one argued block at a time")]

pub mod blocking;
pub mod descriptor;
pub mod fuse_device;
pub mod fuse_ring;
pub mod grammar;
pub mod pages;
pub mod process;
pub mod signals;
