//! The command line as scripts rely on it: the program itself is run, and what it prints, its exit
//! codes and what it leaves behind are looked at.
//!
//! Has a `main` of its own, so that a test that cannot run here says so and is counted as skipped,
//! not as passed. As with every test program, words on the command line choose tests by name.
#![allow(clippy::unwrap_used, reason = "these are tests, without the attribute that says so")]

mod fixture;
mod importing;
mod mounting;
mod reading;
mod running;
mod watching;
mod words;

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
    let all = [
        words::TESTS,
        reading::TESTS,
        importing::TESTS,
        mounting::TESTS,
        running::TESTS,
        watching::TESTS,
    ];
    let all = all.into_iter().flatten();
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
    println!("\ncli: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}
