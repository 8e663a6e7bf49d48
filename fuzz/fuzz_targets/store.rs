//! One source for all readers of the store's files: the name of the binary says which it is.
#![no_main]

#[path = "../store_decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decoders::run(env!("CARGO_BIN_NAME"), bytes));
