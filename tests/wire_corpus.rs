//! The corpus of the fuzz targets, run without a fuzzer: every file as it is, and changed in many
//! ways.
//!
//! `LIGHTHOUSE_FUSE_WRITE_SEEDS=1 cargo test --test wire_corpus` adds the files that are missing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../fuzz/decoders.rs"]
mod decoders;
#[path = "common/samples.rs"]
mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighthouse_fuse::proto::dirent::{Dirent, DirentBuffer};
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{Dialect, Notice, Reply};

/// How many changed forms of each file are run.
const CHANGES: usize = 60;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn targets() -> Vec<String> {
    let operations = decoders::opcodes().map(|(_, name)| format!("op_{name}"));
    decoders::OTHERS.iter().map(|&(name, _)| name.to_owned()).chain(operations).collect()
}

/// The files of a target, in the same order in every run.
fn files(target: &str) -> Vec<Vec<u8>> {
    let directory = corpus().join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|err| panic!("{target}: {err}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// What each target is started with: target and file to content.
fn seeds() -> BTreeMap<(String, String), Vec<u8>> {
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
    for ((target, file), bytes) in seeds() {
        let path = corpus().join(&target).join(&file);
        if write && !path.exists() {
            fs::create_dir_all(corpus().join(&target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        assert_eq!(found, bytes, "{} is not what its sample encodes", path.display());
    }
    for target in targets() {
        assert!(corpus().join(&target).is_dir(), "{target} has no corpus");
    }
}

#[test]
fn every_target_is_built_by_the_fuzzer() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    for target in targets() {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is missing");
    }
}

#[test]
fn no_file_of_the_corpus_panics_its_decoder() {
    let mut count = 0;
    for target in targets() {
        for bytes in files(&target) {
            decoders::run(&target, &bytes);
            count += 1;
        }
    }
    assert!(count >= targets().len());
}

#[test]
fn no_changed_file_of_the_corpus_panics_its_decoder() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for target in targets() {
        for bytes in files(&target) {
            for _ in 0..CHANGES {
                let changed = random.change(&bytes);
                let run = || decoders::run(&target, &changed);
                if std::panic::catch_unwind(run).is_err() {
                    panic!("{target} panics on {:02x?}", changed);
                }
            }
        }
    }
}

/// A xorshift generator: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// `bytes` with some of them set, cut off, doubled or repeated.
    fn change(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => bytes.insert(at, self.below(256) as u8),
                kind => {
                    let byte = [0, 0xff, b'/', self.below(256) as u8][kind % 4];
                    let len = self.below(8);
                    bytes.iter_mut().skip(at).take(len).for_each(|old| *old = byte);
                }
            }
        }
        bytes
    }
}
