//! Real mounts of the real program: what programs may expect of `current/` and `history/`, and how few
//! requests the kernel needs for it.
//!
//! Has a `main` of its own. Each test runs in a process of its own (this program again), with a fresh
//! store and mount, because it may change its umask and its user, hold locks, or hang: whoever takes
//! longer than [`DEADLINE`] has its connection aborted, is killed, and has failed. What else it is for: see `runner`.
//!
//! All run over `/dev/fuse`, and once more over io_uring where the kernel offers it (`echo Y >
//! /sys/module/fuse/parameters/enable_uring`): these have ` on the ring` after their names. What the mount's
//! variable says, `LIGHTHOUSE_FUSE_TRANSPORT=dev` or `uring`, runs them that way alone.
#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod agents;
mod attributes;
mod content;
mod directories;
mod fixture;
mod history;
mod locks;
mod mapped;
mod mapping;
mod notify;
mod opens;
mod privileges;
mod requests;
mod rights;
mod ring;
#[path = "../common/runner.rs"]
mod runner;
mod sections;
mod settings;
mod shared_cpu;
mod unlinked;
mod xattrs;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

pub(crate) use runner::{Outcome, Skipped};

use runner::{Ended, Tally, Test, Wanted};

/// How long one test may take before it counts as hung.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a test's process exits with if it could not run here.
const SKIPPED: u8 = 77;

const ALL: &[&[Test]] = &[
    opens::TESTS,
    unlinked::TESTS,
    content::TESTS,
    mapped::TESTS,
    directories::TESTS,
    attributes::TESTS,
    xattrs::TESTS,
    privileges::TESTS,
    locks::TESTS,
    notify::TESTS,
    history::TESTS,
    requests::TESTS,
    rights::TESTS,
    agents::TESTS,
    sections::TESTS,
    settings::TESTS,
];

/// Those that choose for themselves what they run over.
const CHOOSING: &[&[Test]] = &[ring::TESTS, shared_cpu::TESTS];
/// The variable of `mount` that says what requests come over.
const TRANSPORT: &str = "LIGHTHOUSE_FUSE_TRANSPORT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = || ALL.iter().chain(CHOOSING).flat_map(|tests| tests.iter());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--one", name] => {
            let (_, test) = all().find(|(known, _)| known == name).expect("a name of ours");
            return match test() {
                Ok(()) => ExitCode::SUCCESS,
                Err(Skipped(reason)) => {
                    println!("{reason}");
                    ExitCode::from(SKIPPED)
                }
            };
        }
        ["--hold-lock", how, path] => return locks::hold(how, Path::new(path)),
        _ => (),
    }
    let wanted = Wanted::new(&arguments);
    if wanted.listed(all()) {
        return ExitCode::SUCCESS;
    }
    let transports = match std::env::var(TRANSPORT) {
        Ok(only) => vec![only],
        Err(_) => vec!["dev".to_owned(), "uring".to_owned()],
    };
    let mut tally = Tally::default();
    for transport in transports {
        let on_ring = transport == "uring";
        let anywhere = ALL.iter().flat_map(|tests| tests.iter()).count();
        let tests = all().take(if on_ring { anywhere } else { usize::MAX });
        let chosen = tests.map(|(name, _)| *name).filter(|name| wanted.takes(name));
        if on_ring && let Err(Skipped(reason)) = fixture::needs_ring() {
            tally.skip(chosen.count(), "tests on the ring", &reason);
            continue;
        }
        for test in chosen {
            let name = if on_ring { format!("{test} on the ring") } else { test.to_owned() };
            tally.add(&name, run(test, &transport));
        }
    }
    tally.end("mount")
}

/// Runs one test in a process of its own, and cleans up behind it however it ended.
fn run(name: &str, transport: &str) -> Ended {
    let place = fixture::Place::new();
    let said = place.root().join("said");
    let to = std::fs::File::create(&said).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--one", name])
        .env(fixture::PLACE, place.root())
        .env(TRANSPORT, transport)
        .stdout(to.try_clone().unwrap())
        .stderr(to)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > DEADLINE && !hung {
            hung = true;
            // In this order: whoever waits for a server cannot be killed.
            place.abort();
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let words = std::fs::read_to_string(&said).unwrap().trim().to_owned();
    let log = std::fs::read_to_string(place.store().join("server.log")).unwrap_or_default();
    match status.code() {
        _ if hung => Ended::Failed(format!("not done after {DEADLINE:?}\n{words}\n{log}")),
        Some(0) => Ended::Passed,
        Some(code) if code == i32::from(SKIPPED) => Ended::Skipped(words),
        _ => {
            let log: Vec<&str> = log.lines().filter(|line| !line.contains("TRACE")).collect();
            Ended::Failed(format!("{status}\n{words}\n{}", log.join("\n")))
        }
    }
}
