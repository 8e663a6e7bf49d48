//! Each setting of caching and requests alone: it may cost or save requests, and changes nothing that anybody sees.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use lighthouse_fuse::proto::abi::FUSE_OPEN;
use rustix::io::Errno;
use serde_json::Value;

use crate::fixture::{Mount, errno, names, shell};
use crate::{Outcome, tests};

tests![
    each_setting_alone_changes_nothing_that_anybody_sees,
    without_open_a_read_only_mount_reads_all_the_same_and_is_asked_once,
];

const SETTINGS: &[&[&str]] = &[
    &[],
    &["--lifetime", "0"],
    &["--lifetime", "1"],
    &["--attribute-lifetime", "0"],
    &["--absent-lifetime", "0"],
    &["--no-keep-cache"],
    &["--no-cache-dir"],
    &["--readdirplus", "always"],
    &["--readdirplus", "never"],
    &["--no-birth-times"],
    &["--no-direct-writes"],
    &["--no-parallel-dirops"],
    &["--max-write", "4"],
    &["--max-write", "64"],
    &["--max-write", "16384"],
    &["--max-background", "1"],
    &["--max-background", "1000"],
    &["--read-ahead", "0"],
    &["--splice-from", "0"],
    &["--splice-from", "1"],
    &["--readers", "1"],
    &["--readers", "8"],
    &["--spin", "0"],
    &["--spin", "200"],
    &["--no-shared-cpu"],
];

/// More names than one READDIRPLUS brings.
const FILES: usize = 300;

fn each_setting_alone_changes_nothing_that_anybody_sees() -> Outcome {
    let mount = Mount::with(SETTINGS[0])?;
    for (number, setting) in SETTINGS.iter().enumerate() {
        if number > 0 {
            mount.stop();
            mount.start(setting);
        }
        let directory = mount.path(format!("{number}"));
        work(&directory, setting);
        // What an earlier setting left is as it was.
        assert_eq!(names(&mount.path("0")), names(&directory), "{setting:?}");
    }
    Ok(())
}

fn work(directory: &std::path::Path, setting: &[&str]) {
    fs::create_dir(directory).unwrap();
    let path = |name: &str| directory.join(name);
    for n in 0..FILES {
        assert_eq!(errno(fs::metadata(path(&n.to_string()))), Some(Errno::NOENT), "{setting:?}");
        fs::write(path(&n.to_string()), n.to_string()).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(names(directory).len(), FILES, "{setting:?}");
        for n in 0..FILES {
            let metadata = fs::metadata(path(&n.to_string())).unwrap();
            assert_eq!(metadata.len(), n.to_string().len() as u64, "{setting:?}");
        }
    }
    for n in 0..FILES / 2 {
        fs::rename(path(&n.to_string()), path(&format!("moved-{n}"))).unwrap();
        fs::remove_file(path(&(FILES - 1 - n).to_string())).unwrap();
    }
    let left = names(directory);
    assert_eq!(left.len(), FILES / 2, "{setting:?}");
    assert!(left.iter().all(|name| name.starts_with("moved-")), "{setting:?}");

    // In pieces that no request fits, and from another name.
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
    let file = File::create_new(path("large")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    fs::hard_link(path("large"), path("other")).unwrap();
    assert_eq!(fs::read(path("other")).unwrap(), bytes, "{setting:?}");
    assert_eq!(fs::metadata(path("other")).unwrap().nlink(), 2, "{setting:?}");
    file.write_all_at(b"changed", 1_000_000).unwrap();
    let mut some = [0; 7];
    let mut other = File::open(path("other")).unwrap();
    other.read_exact_at(&mut some, 1_000_000).unwrap();
    assert_eq!(&some, b"changed", "{setting:?}");
    file.set_len(10).unwrap();
    let mut all = Vec::new();
    other.read_to_end(&mut all).unwrap();
    assert_eq!(all, bytes[..10], "{setting:?}");
    fs::OpenOptions::new().append(true).open(path("other")).unwrap().write_all(b"+").unwrap();
    assert_eq!(fs::metadata(path("large")).unwrap().len(), 11, "{setting:?}");
    file.sync_all().unwrap();
    fs::remove_file(path("large")).unwrap();
    assert_eq!(fs::metadata(path("other")).unwrap().nlink(), 1, "{setting:?}");
}

fn without_open_a_read_only_mount_reads_all_the_same_and_is_asked_once() -> Outcome {
    let mount = Mount::fresh()?;
    for n in 0..20 {
        fs::write(mount.path(n.to_string()), n.to_string()).unwrap();
    }
    fs::copy("/bin/true", mount.path("program")).unwrap();
    mount.stop();
    mount.start(&["--read-only", "--no-open"]);
    for _ in 0..2 {
        for n in 0..20 {
            assert_eq!(fs::read_to_string(mount.path(n.to_string())).unwrap(), n.to_string());
        }
    }
    assert_eq!(shell(&mount.path(""), "./program && cat 1 2 && tail -c 1 12"), "122");
    let seq = mount.seq();
    assert_eq!(fs::read_to_string(mount.past(seq, "7")).unwrap(), "7");
    assert_eq!(errno(fs::write(mount.path("7"), "8")), Some(Errno::ROFS));
    assert_eq!(asked(&mount, FUSE_OPEN), 1);
    Ok(())
}

/// How often the server answered `opcode`.
fn asked(mount: &Mount, opcode: u32) -> u64 {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(mount.top(""), "user.lighthouse.meter", &mut value).unwrap();
    let meter: Value = serde_json::from_slice(&value[..len]).unwrap();
    let operations = meter["operations"].as_array().unwrap();
    let operation = operations.iter().find(|operation| operation[0] == opcode).unwrap();
    let buckets = operation[1]["buckets"].as_array().unwrap();
    buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum()
}
