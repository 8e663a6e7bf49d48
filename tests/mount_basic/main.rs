//! Real mounts: mounting, unmounting, dead servers, private namespaces, both ways to send data.
//!
//! Has a `main` of its own: see `runner`. And servers run in processes of their own, which are this program
//! again (`serve`, `behind`, `run`, `umount`), for entering a namespace needs a process with one thread.
#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod behind;
mod constant;
mod fixture;
mod mounts;
#[path = "../common/open_device.rs"]
mod open_device;
#[path = "../common/runner.rs"]
mod runner;
mod runs;

use std::process::ExitCode;

pub(crate) use runner::{Outcome, Skipped};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => return fixture::serve_in_this_process(&arguments[1..]),
        Some("behind") => return behind::serve_in_this_process(&arguments[1..]),
        Some("run") => return fixture::run_in_this_process(&arguments[1..]),
        Some("umount") => return fixture::unmount_in_this_process(&arguments[1..]),
        _ => (),
    }
    runner::run("mount_basic", &arguments, &[behind::TESTS, mounts::TESTS, runs::TESTS])
}
