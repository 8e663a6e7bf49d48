//! The `lighthouse-fuse` command: parse arguments, run one command, turn its result into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lighthouse_fuse::cli::main()
}
