//! Bytes of files: holes, allocation, references instead of copies, interrupted calls.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::fixture::{Mount, errno};
use crate::{Outcome, tests};

tests![
    a_sparse_file_of_1_tib_takes_almost_no_room_and_reads_as_zeros,
    data_and_holes_are_found_by_seeking,
    a_shorter_file_that_grows_again_has_zeros_where_it_was_cut,
    fallocate_sets_room_aside_with_and_without_growing,
    a_punched_hole_reads_as_zeros_and_gives_room_back,
    zeroing_a_range_keeps_or_grows_the_size,
    collapsing_and_inserting_ranges_is_refused,
    copy_file_range_copies_between_files_and_within_one,
    a_write_beyond_the_largest_offset_is_refused,
    reads_of_any_size_give_what_was_written,
    interrupted_writes_lose_and_double_nothing,
    interrupted_reads_lose_and_double_nothing,
];

fn made(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn bytes(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn a_sparse_file_of_1_tib_takes_almost_no_room_and_reads_as_zeros() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("sparse"));
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    assert!(file.metadata().unwrap().blocks() * 512 <= 1 << 20);
    assert_eq!(bytes(&file, 1 << 39, 100_000), vec![0; 100_000]);
    assert_eq!(bytes(&file, (1 << 40) - 5, 5), b"\0\0end");
    file.set_len(10).unwrap();
    assert_eq!(bytes(&file, 0, 10), [0; 10]);
    Ok(())
}

fn data_and_holes_are_found_by_seeking() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.set_len(10 << 20).unwrap();
    file.write_all_at(&[1; 65_536], 1 << 20).unwrap();
    file.write_all_at(&[1; 65_536], 5 << 20).unwrap();
    let data = |from| rustix::fs::seek(&file, SeekFrom::Data(from));
    let hole = |from| rustix::fs::seek(&file, SeekFrom::Hole(from));
    assert_eq!(data(0), Ok(1 << 20));
    assert_eq!(data((1 << 20) + 10), Ok((1 << 20) + 10));
    assert_eq!(hole(0), Ok(0));
    assert_eq!(hole(1 << 20), Ok((1 << 20) + 65_536));
    assert_eq!(data(2 << 20), Ok(5 << 20));
    assert_eq!(data(6 << 20), Err(Errno::NXIO));
    // The end of a file is a hole.
    assert_eq!(hole(6 << 20), Ok(6 << 20));
    assert_eq!(hole(10 << 20), Err(Errno::NXIO));
    Ok(())
}

fn a_shorter_file_that_grows_again_has_zeros_where_it_was_cut() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.write_all_at(&[9; 10_000], 0).unwrap();
    file.set_len(5001).unwrap();
    file.set_len(10_000).unwrap();
    assert_eq!(bytes(&file, 5000, 5000), [&[9][..], &[0; 4999]].concat());
    Ok(())
}

fn fallocate_sets_room_aside_with_and_without_growing() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.write_all_at(b"head", 0).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert_eq!(bytes(&file, 0, 8), b"head\0\0\0\0");
    Ok(())
}

fn a_punched_hole_reads_as_zeros_and_gives_room_back() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.write_all_at(&vec![5; 4 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let before = file.metadata().unwrap().blocks();
    // In the cache of the kernel, so that a stale page would show.
    assert_eq!(bytes(&file, 1 << 20, 4096), [5; 4096]);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 1 << 20, 2 << 20).unwrap();
    assert_eq!(bytes(&file, (1 << 20) - 1, 3), [5, 0, 0]);
    assert_eq!(bytes(&file, (3 << 20) - 2, 3), [0, 0, 5]);
    assert_eq!(file.metadata().unwrap().len(), 4 << 20);
    assert!(file.metadata().unwrap().blocks() < before);
    Ok(())
}

fn zeroing_a_range_keeps_or_grows_the_size() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.write_all_at(&[5; 10_000], 0).unwrap();
    let zero = FallocateFlags::ZERO_RANGE;
    rustix::fs::fallocate(&file, zero | FallocateFlags::KEEP_SIZE, 5000, 10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    assert_eq!(bytes(&file, 4999, 3), [5, 0, 0]);
    rustix::fs::fallocate(&file, zero, 0, 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);
    assert_eq!(bytes(&file, 0, 20_000), vec![0; 20_000]);
    Ok(())
}

fn collapsing_and_inserting_ranges_is_refused() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    file.set_len(1 << 20).unwrap();
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(rustix::fs::fallocate(&file, flags, 4096, 4096), Err(Errno::OPNOTSUPP));
    }
    Ok(())
}

fn copy_file_range_copies_between_files_and_within_one() -> Outcome {
    let mount = Mount::fresh()?;
    let source = made(&mount.path("source"));
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    source.write_all_at(&content, 0).unwrap();
    let target = made(&mount.path("target"));
    target.write_all_at(&[9; 100], 0).unwrap();
    assert_eq!(bytes(&target, 0, 100), [9; 100]);
    let copy = |from: u64, to: &File, at: u64, len: usize| {
        let (mut from, mut at) = (from, at);
        rustix::fs::copy_file_range(&source, Some(&mut from), to, Some(&mut at), len)
    };
    assert_eq!(copy(1001, &target, 50, 3_000_001), Ok(3_000_001));
    assert_eq!(bytes(&target, 0, 50), [9; 50]);
    assert!(bytes(&target, 50, 3_000_001) == content[1001..3_001_002]);
    // What is past the end is not there to copy.
    assert_eq!(copy(3_999_990, &target, 0, 100), Ok(10));
    assert_eq!(copy(5_000_000, &target, 0, 100), Ok(0));
    assert_eq!(copy(0, &source, 4_000_000, 1000), Ok(1000));
    assert!(bytes(&source, 4_000_000, 1000) == content[..1000]);
    assert_eq!(copy(0, &source, 500, 1000), Err(Errno::INVAL));
    // Later writes to the one do not show in the other.
    source.write_all_at(&[0xab; 4096], 1001).unwrap();
    assert!(bytes(&target, 60, 1000) == content[1011..2011]);
    Ok(())
}

fn a_write_beyond_the_largest_offset_is_refused() -> Outcome {
    let mount = Mount::fresh()?;
    let file = made(&mount.path("file"));
    let refused = errno(file.write_at(b"xy", i64::MAX as u64 - 1));
    assert!(matches!(refused, Some(Errno::INVAL | Errno::FBIG | Errno::OVERFLOW)), "{refused:?}");
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.set_len(1).unwrap();
    assert_eq!(bytes(&file, 0, 1), [0]);
    Ok(())
}

/// Runs `dd`, which prints a line at each SIGUSR1, under a rain of them.
fn reads_of_any_size_give_what_was_written() -> Outcome {
    let mount = Mount::fresh()?;
    let mut content: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = mount.path("file");
    fs::write(&path, &content).unwrap();
    let before = (mount.seq(), content.clone());
    let file = made(&path);
    for (offset, len) in [(1 << 20, 4096), (1_500_000, 100), (2_000_003, 70_000)] {
        file.write_all_at(&vec![7; len], offset as u64).unwrap();
        content[offset..offset + len].fill(7);
    }
    let past = mount.past(before.0, "file");
    for (path, content) in [(path, &content), (past, &before.1)] {
        // Past the cache each read is a request of just that size, wherever its bytes lie.
        let direct =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        for size in [4096, 32 << 10, 36 << 10, 128 << 10, 1 << 20] {
            for from in (0..content.len()).step_by(size) {
                let until = (from + size).min(content.len());
                let read = bytes(&direct, from as u64, until - from);
                assert!(read == content[from..until], "{size} bytes from {from} on");
            }
        }
        assert!(fs::read(&path).unwrap() == *content, "through the cache");
    }
    Ok(())
}

fn interrupted(from: &Path, to: &Path) {
    let mut dd = Command::new("dd")
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .args(["bs=256k", "iflag=fullblock"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&dd);
    // Until it has its handler: before that the signal would end it.
    let usr1 = 1_u64 << (libc::SIGUSR1 - 1);
    crate::fixture::until("dd handles the signal", || {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        let status = status.unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        caught.is_none_or(|mask| u64::from_str_radix(mask, 16).unwrap_or(0) & usr1 != 0)
    });
    while dd.try_wait().unwrap().is_none() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(dd.wait().unwrap().success());
}

fn outside(mount: &Mount) -> std::path::PathBuf {
    mount.top("").parent().unwrap().join("outside")
}

fn interrupted_writes_lose_and_double_nothing() -> Outcome {
    let mount = Mount::fresh()?;
    let content: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(outside(&mount), &content).unwrap();
    interrupted(&outside(&mount), &mount.path("file"));
    assert!(fs::read(mount.path("file")).unwrap() == content);
    Ok(())
}

fn interrupted_reads_lose_and_double_nothing() -> Outcome {
    let mount = Mount::fresh()?;
    let content: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(mount.path("file"), &content).unwrap();
    // The pages that writing left are dropped with the inode.
    mount.stop();
    mount.start(&[]);
    interrupted(&mount.path("file"), &outside(&mount));
    assert!(fs::read(outside(&mount)).unwrap() == content);
    Ok(())
}
