//! The corpus of what is sent over HTTP, sent without a fuzzer: every file as it is, and changed in many ways.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "common/corpus.rs"]
mod corpus;
#[path = "../fuzz/http_requests.rs"]
mod requests;
#[path = "common/seeds.rs"]
mod seeds;

/// How many changed forms of each file are sent.
const CHANGES: usize = 25;

#[test]
fn nothing_that_is_sent_over_http_is_answered_with_500_or_without_a_reason() {
    let targets = requests::TARGETS.map(|(target, _)| target);
    corpus::run(targets, 4, CHANGES, requests::run);
}
