//! The corpus of what the store reads and a disk may have damaged, read without a fuzzer: every file as it is, and
//! changed in many ways.
//!
//! `LIGHTHOUSE_FUSE_WRITE_SEEDS=1 cargo test --test store_corpus` makes it anew.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "common/byte_model.rs"]
mod byte_model;
#[path = "common/changes.rs"]
mod changes;
#[path = "common/corpus.rs"]
mod corpus;
#[path = "../fuzz/store_decoders.rs"]
mod decoders;
#[path = "common/seeds.rs"]
mod seeds;

use lighthouse_fuse::store::sim::SimDisk;

/// How many changed forms of each file are read.
const CHANGES: usize = 400;

#[test]
fn whatever_a_squeezed_segment_has_become_is_refused_or_read() {
    if std::env::var_os("LIGHTHOUSE_FUSE_WRITE_SEEDS").is_some() {
        write_squeezed();
    }
    corpus::run(decoders::TARGETS.map(|(target, _)| target), 4, CHANGES, decoders::run);
}

fn write_squeezed() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = byte_model::worn(&disk);
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    let directory = corpus::directory("store_squeezed");
    std::fs::create_dir_all(&directory).unwrap();
    for (number, (_, bytes)) in byte_model::squeezed(&disk).into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number}")), bytes).unwrap();
    }
}
