//! The command line as scripts rely on it: the program itself is run, and what it prints, its exit
//! codes and what it leaves behind are looked at.
//!
//! Has a `main` of its own: see `runner`.
#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod fixture;
mod importing;
mod mounting;
#[path = "../common/open_device.rs"]
mod open_device;
mod reading;
#[path = "../common/runner.rs"]
mod runner;
mod running;
mod watching;
mod words;

use std::process::ExitCode;

pub(crate) use runner::{Outcome, Skipped};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = [
        words::TESTS,
        reading::TESTS,
        importing::TESTS,
        mounting::TESTS,
        running::TESTS,
        watching::TESTS,
    ];
    runner::run("cli", &arguments, &all)
}
