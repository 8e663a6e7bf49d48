//! Real mounts: mounting, unmounting, dead servers, private namespaces, both ways to send data.
//!
//! Has a `main` of its own, for two reasons. Servers run in processes of their own, which are this
//! program again (`serve`, `run`, `umount`), and entering a namespace needs a process with one thread. And a
//! test that cannot run here says so and is counted as skipped, not as passed.
//!
//! As with every test program, words on the command line choose tests by name.
#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod constant;
mod fixture;
mod mounts;
mod runs;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// What a test returns when it could not be run here, with the reason.
pub(crate) struct Skipped(pub(crate) String);

/// The outcome of a test that did not panic.
pub(crate) type Outcome = Result<(), Skipped>;

/// A test and its name.
pub(crate) type Test = (&'static str, fn() -> Outcome);

/// Lists tests by the names of their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn() -> $crate::Outcome)),*] };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => return fixture::serve_in_this_process(&arguments[1..]),
        Some("run") => return fixture::run_in_this_process(&arguments[1..]),
        Some("umount") => return fixture::unmount_in_this_process(&arguments[1..]),
        _ => (),
    }
    let all = mounts::TESTS.iter().chain(runs::TESTS);
    if arguments.iter().any(|argument| argument == "--list") {
        all.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    for (name, test) in all {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(Err(Skipped(reason))) => {
                println!("test {name} ... SKIPPED: {reason}");
                skipped += 1;
            }
            Err(panic) => {
                println!("test {name} ... FAILED: {}", words_of(&*panic));
                failed += 1;
            }
        }
    }
    println!("\nmount_basic: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}
