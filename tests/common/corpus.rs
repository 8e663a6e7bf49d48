//! The corpus of fuzz targets, run without a fuzzer: every file as it is, and changed in many ways.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use lighthouse_fuse::store::sim::Random;

use crate::seeds;

/// The directory with the files of `target`.
pub(crate) fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Runs each target on its files, and on so many changed forms of each. The fuzzer must know the target, and begin
/// with `least` files.
pub(crate) fn run<T: AsRef<str>>(
    targets: impl IntoIterator<Item = T>,
    least: usize,
    changes: usize,
    run: impl Fn(&str, &[u8]),
) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let mut random = Random(seeds::of([1]).next().unwrap());
    for target in targets {
        let target = target.as_ref();
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        let files = files(target);
        assert!(files.len() >= least, "{target} has only {} files to begin with", files.len());
        for good in files {
            run_one(target, &good, &run);
            for _ in 0..changes {
                run_one(target, &changed(&good, &mut random), &run);
            }
        }
    }
}

/// The files of a target, in the same order in every run.
fn files(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(directory(target)).unwrap_or_else(|err| panic!("{target}: {err}"));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn run_one(target: &str, bytes: &[u8], run: &impl Fn(&str, &[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(target, bytes))) {
        eprintln!("{target} fails on {:?}", bytes.escape_ascii().to_string());
        resume_unwind(panic);
    }
}

/// `bytes` with some of them set, taken away, doubled or put in: anywhere, or where headers are.
fn changed(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    /// Bytes that mean something to the one or other format.
    const TELLING: [u8; 6] = [0, 0xff, b'/', b'%', b'"', b'\n'];
    /// So far a header reaches, and the first words of a text.
    const FRONT: [usize; 3] = [1, 16, 120];
    /// No file grows beyond this by being doubled.
    const LEN_MAX: usize = 64 << 10;
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let reach = match random.below(6) {
            front @ 0..=2 => FRONT[front].min(bytes.len()),
            _ => bytes.len(),
        };
        let at = random.below(reach.max(1)).min(bytes.len());
        let any = random.draw().to_le_bytes()[0];
        match random.below(6) {
            0 => bytes.truncate(at),
            1 if bytes.len() < LEN_MAX => bytes.extend_from_within(at..),
            2 => bytes.insert(at, any),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            kind => {
                let byte = if kind == 4 { any } else { TELLING[random.below(TELLING.len())] };
                let len = random.below(8);
                bytes.iter_mut().skip(at).take(len).for_each(|old| *old = byte);
            }
        }
    }
    bytes
}
