//! An append-only log of events and what is derived from it; never heard of FUSE.
