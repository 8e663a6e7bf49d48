//! The `lighthouse-fuse` command: parse arguments, run one command, turn its result into an exit code.

fn main() {}
