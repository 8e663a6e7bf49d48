//! The corpus of the fuzz targets, run without a fuzzer: every file as it is, and changed in many
//! ways.
//!
//! `LIGHTHOUSE_FUSE_WRITE_SEEDS=1 cargo test --test wire_corpus` adds the files that are missing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/corpus.rs"]
mod corpus;
#[path = "../fuzz/decoders.rs"]
mod decoders;
#[path = "common/samples.rs"]
mod samples;
#[path = "common/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use lighthouse_fuse::proto::dirent::{Dirent, DirentBuffer};
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{Dialect, Notice, Reply};

/// How many changed forms of each file are run.
const CHANGES: usize = 60;

fn targets() -> Vec<String> {
    let operations = decoders::opcodes().map(|(_, name)| format!("op_{name}"));
    decoders::OTHERS.iter().map(|&(name, _)| name.to_owned()).chain(operations).collect()
}

/// What each target is started with: target and file to content.
fn seed_files() -> BTreeMap<(String, String), Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut add = |target: &str, bytes: Vec<u8>| {
        let number = (0..).find(|n| !seeds.contains_key(&(target.to_owned(), format!("seed-{n}"))));
        seeds.insert((target.to_owned(), format!("seed-{}", number.unwrap_or(0))), bytes);
    };
    let mut conversation = Vec::new();
    let mut converse = |bytes: &[u8]| {
        conversation.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        conversation.extend(bytes);
    };
    let encode = |op, id| samples::request(id, op).encode(Dialect::NEWEST).bytes();
    let ops = samples::ops();
    let init = *ops.iter().find(|op| op.name() == "INIT").unwrap();
    converse(&encode(init, 2));
    for (id, op) in (4..).step_by(2).zip(ops) {
        let bytes = encode(op, id);
        if matches!(op.name(), "LOOKUP" | "CREATE" | "INTERRUPT" | "BATCH_FORGET" | "DESTROY") {
            converse(&bytes);
        }
        add(&format!("op_{}", op.name().to_lowercase()), bytes);
    }
    add("message", encode(init, 2));
    add("connection", conversation);
    let unanswerable = encode(init, 0);
    let len = u16::try_from(unanswerable.len()).unwrap().to_le_bytes();
    add("connection", [&len[..], &unanswerable].concat());
    add("extensions", samples::extension_bytes());

    let node = NodeId::ROOT;
    let name = Name::new(b"name").unwrap();
    let attr = Attr { mode: 0o100_644, ..Attr::default() };
    let valid = Duration::from_secs(1);
    let entry = Entry { node, generation: 0, attr, entry_valid: valid, attr_valid: valid };
    let opened = Opened::default();
    let to = RequestId(2);
    for reply in [
        Reply::error(to, Errno::ENOENT),
        Reply::created(to, &entry, &opened),
        Reply::statx(to, &attr, valid),
        Reply::ioctl(to, 0, b"data"),
    ] {
        add("answer", reply.chunks().collect::<Vec<_>>().concat());
    }
    for notice in [
        Notice::InvalEntry { parent: node, name },
        Notice::Store { node, offset: 0, data: b"data" },
        Notice::Delete { parent: node, child: node, name },
        Notice::Prune { nodes: &[node, node] },
    ] {
        add("notice", notice.message().chunks().collect::<Vec<_>>().concat());
    }
    let dirent = Dirent { ino: 1, next_offset: 1, mode: 0o040_755, name };
    for plus in [false, true] {
        let mut room = [0; 512];
        let mut buffer = DirentBuffer::new(&mut room);
        for _ in 0..2 {
            let pushed =
                if plus { buffer.push_plus(&dirent, Some(&entry)) } else { buffer.push(&dirent) };
            pushed.unwrap();
        }
        add("dirent", buffer.finish().to_vec());
    }
    seeds
}

#[test]
fn every_target_has_its_seeds() {
    let write = std::env::var_os("LIGHTHOUSE_FUSE_WRITE_SEEDS").is_some();
    for ((target, file), bytes) in seed_files() {
        let path = corpus::directory(&target).join(&file);
        if write && !path.exists() {
            fs::create_dir_all(corpus::directory(&target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        assert_eq!(found, bytes, "{} is not what its sample encodes", path.display());
    }
    for target in targets() {
        assert!(corpus::directory(&target).is_dir(), "{target} has no corpus");
    }
}

#[test]
fn no_file_of_the_corpus_panics_its_decoder_however_it_is_changed() {
    corpus::run(targets(), 1, CHANGES, decoders::run);
}
