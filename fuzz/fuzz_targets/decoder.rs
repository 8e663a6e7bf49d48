//! One source for all targets: the name of the binary says which decoder it is.
#![no_main]

#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decoders::run(env!("CARGO_BIN_NAME"), bytes));
