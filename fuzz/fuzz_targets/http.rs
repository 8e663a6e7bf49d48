//! One source for all that is sent over HTTP: the name of the binary says what of a request the bytes are.
#![no_main]

#[path = "../http_requests.rs"]
mod requests;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| requests::run(env!("CARGO_BIN_NAME"), bytes));
