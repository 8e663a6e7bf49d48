//! Each kind of server twice, in a directory of few files and in one of many: does what an operation costs grow with the tree?

use crate::questions::{Size, with_words};
use crate::report::Row;
use crate::server::{self, Crew, DISK};

/// How many files there are; the first is what the other is held against.
const FILES: [u64; 2] = [1_000, 1_000_000];
/// The peer is a tree in memory, so what the kernel does with names is all that grows there.
const KINDS: [&str; 4] = [DISK, "fuser", "ours-dev", "ours-ring"];
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

/// Starts one server for each size and asks both in turn; then the next kind.
pub(crate) fn ask(size: &Size, is_asked: impl Fn(&str) -> bool) -> Vec<(&'static str, Vec<Row>)> {
    let built = server::built();
    let asked = KINDS.into_iter().filter(|kind| is_asked(kind)).map(|kind| {
        println!("\n{kind}");
        let spec = built.iter().find(|spec| spec.name == kind);
        let crews = FILES.map(|files| {
            let files = (files / size.divisor).max(1);
            let crew = spec.map_or_else(Crew::disk, |spec| Crew::start(spec, 1));
            crew.called(&format!("{kind}, {files}")).amid(files)
        });
        (kind, with_words(&ASKED).flat_map(|question| question.ask(&crews, size, None)).collect())
    });
    asked.collect()
}
