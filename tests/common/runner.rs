//! Runs tests from a `main` of its own, so that one that cannot run here says so and is counted as skipped, not as
//! passed.
//!
//! As with every test program, words on the command line choose tests by name, and `--list` names them all.
#![allow(dead_code, reason = "one program runs each test in a process of its own")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// What a test returns when it could not be run here, with the reason.
pub(crate) struct Skipped(pub(crate) String);

/// The outcome of a test that did not panic.
pub(crate) type Outcome = Result<(), Skipped>;

/// A test and its name.
pub(crate) type Test = (&'static str, fn() -> Outcome);

/// Lists the tests of a file by the names of their functions, as its `TESTS`.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::runner::Test] =
            &[$((stringify!($name), $name as fn() -> $crate::runner::Outcome)),*];
    };
}

/// What the command line asks for.
pub(crate) struct Wanted {
    words: Vec<String>,
    list: bool,
}

impl Wanted {
    pub(crate) fn new(arguments: &[String]) -> Self {
        let words = arguments.iter().filter(|argument| !argument.starts_with('-')).cloned();
        let list = arguments.iter().any(|argument| argument == "--list");
        Self { words: words.collect(), list }
    }

    /// Names all there are, if that is all that is asked for. Whether it was.
    pub(crate) fn listed<'t>(&self, tests: impl IntoIterator<Item = &'t Test>) -> bool {
        if self.list {
            tests.into_iter().for_each(|(name, _)| println!("{name}: test"));
        }
        self.list
    }

    /// Whether a test of this name is to run.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

/// How a test ended.
pub(crate) enum Ended {
    Passed,
    Skipped(String),
    Failed(String),
}

/// What has been run so far. Says of each test how it ended.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, name: &str, ended: Ended) {
        match ended {
            Ended::Passed => {
                println!("test {name} ... ok");
                self.passed += 1;
            }
            Ended::Skipped(reason) => {
                println!("test {name} ... SKIPPED: {reason}");
                self.skipped += 1;
            }
            Ended::Failed(words) => {
                println!("test {name} ... FAILED: {words}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Several that cannot run here for one reason.
    pub(crate) fn skip(&mut self, count: usize, what: &str, reason: &str) {
        println!("{count} {what} ... SKIPPED: {reason}");
        self.skipped += count;
    }

    /// Says how many there were of each, and what the program ends with.
    pub(crate) fn end(self, program: &str) -> ExitCode {
        let Self { passed, skipped, failed } = self;
        println!("\n{program}: {passed} passed; {} failed; {skipped} skipped", failed.len());
        failed.iter().for_each(|name| println!("  failed: {name}"));
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs those of `files` that the command line asks for, one after the other in this process.
pub(crate) fn run(program: &str, arguments: &[String], files: &[&[Test]]) -> ExitCode {
    let wanted = Wanted::new(arguments);
    let all = || files.iter().copied().flatten();
    if wanted.listed(all()) {
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    for (name, test) in all().filter(|(name, _)| wanted.takes(name)) {
        let ended = match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => Ended::Passed,
            Ok(Err(Skipped(reason))) => Ended::Skipped(reason),
            Err(panic) => Ended::Failed(words_of(&*panic).to_owned()),
        };
        tally.add(name, ended);
    }
    tally.end(program)
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}
