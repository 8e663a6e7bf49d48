//! Each kind of server twice, in a directory of few files and in one of many: does what an operation costs grow with the tree?

use crate::questions::{QUESTIONS, Size};
use crate::report::Row;
use crate::server::{Crew, DISK, Spec};

/// How many files there are; the first is what the other is held against.
const FILES: [u64; 2] = [1_000, 1_000_000];
/// The peer: a tree in memory, so what the kernel does with names is all that grows there.
const PEER: &str = "fuser";
/// Names of questions, or what several have in common.
const ASKED: [&str; 8] = [
    "getattr",
    "lookup of a missing name",
    "lookup of any name",
    "open and close",
    "change of any times",
    "create, write",
    "rename",
    "unlink",
];

const KINDS: [&str; 4] = [DISK, PEER, "ours-dev", "ours-ring"];

/// Starts one server for each size and asks both in turn; then the next kind.
pub(crate) fn ask(size: &Size, is_chosen: impl Fn(&str) -> bool) -> Vec<(&'static str, Vec<Row>)> {
    let asked = KINDS.into_iter().filter(|kind| is_chosen(kind)).map(|kind| {
        println!("\n{kind}");
        let crews = FILES.map(|files| {
            let files = (files / size.divisor).max(1);
            start(kind, &format!("{kind}, {files}")).amid(files)
        });
        let questions = QUESTIONS.iter().filter(|question| {
            ASKED.iter().any(|words| question.is_named(&[&(*words).to_owned()]))
        });
        (kind, questions.flat_map(|question| question.ask(&crews, size, None)).collect())
    });
    asked.collect()
}

fn start(kind: &str, name: &str) -> Crew {
    match kind {
        DISK => Crew::disk().called(name),
        PEER => Crew::start(&Spec::own(PEER), 1).called(name),
        "ours-ring" => Crew::start(&Spec::ours(name, "--transport uring"), 1),
        _ => Crew::start(&Spec::ours(name, "--transport dev"), 1),
    }
}
