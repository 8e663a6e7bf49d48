//! FUSE as values: no IO, no clock, no `unsafe`.
