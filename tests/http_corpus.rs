//! The corpus of what is sent over HTTP, sent without a fuzzer: every file as it is, and changed in many ways.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../fuzz/http_requests.rs"]
mod requests;

use std::path::{Path, PathBuf};

/// How many changed forms of each file are sent.
const CHANGES: usize = 25;

#[test]
fn nothing_that_is_sent_over_http_is_answered_with_500_or_without_a_reason() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let manifest = std::fs::read_to_string(corpus.parent().unwrap().join("Cargo.toml")).unwrap();
    let seed: u64 = match std::env::var("LIGHTHOUSE_FUSE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => 0x5eed_0123_4567_89ab,
    };
    println!("LIGHTHOUSE_FUSE_SEED={seed}");
    let mut state = seed | 1;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    for (target, _) in requests::TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        let files = std::fs::read_dir(corpus.join(target)).unwrap();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 4, "{target} has only {} files to begin with", files.len());
        for file in files {
            let good = std::fs::read(&file).unwrap();
            requests::run(target, &good);
            for _ in 0..CHANGES {
                let mut bytes = good.clone();
                for _ in 0..=below(4) {
                    let at = below(bytes.len());
                    match below(6) {
                        0 => bytes.truncate(at),
                        1 if bytes.len() < 4096 => bytes.extend_from_within(at..),
                        2 => bytes.insert(at.min(bytes.len()), below(256) as u8),
                        // Another place for the same bytes.
                        3 if !bytes.is_empty() => bytes[0] = below(256) as u8,
                        kind => {
                            let byte = [0, 0xff, b'/', b'%', b'"', below(256) as u8][kind % 6];
                            let len = below(4);
                            bytes.iter_mut().skip(at).take(len).for_each(|old| *old = byte);
                        }
                    }
                }
                requests::run(target, &bytes);
            }
        }
    }
}
