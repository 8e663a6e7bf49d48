//! Mapped files, and programs run from the mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::MapFlags;

use crate::fixture::{Mount, chmod, errno, program};
use crate::mapping::Mapping;
use crate::{Outcome, tests};

tests![
    a_store_through_a_shared_mapping_is_there_after_close_and_a_crash,
    a_store_through_a_mapping_shows_to_read_at_once_and_a_write_to_the_mapping,
    msync_makes_an_event_that_history_shows,
    a_private_mapping_changes_nothing,
    a_program_on_the_mount_runs_and_cannot_be_written_meanwhile,
    a_library_on_the_mount_is_mapped_and_executed,
    what_is_written_to_a_new_file_shows_however_it_is_read,
];

fn file(path: &Path, len: usize) -> File {
    fs::write(path, vec![b'.'; len]).unwrap();
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn a_store_through_a_shared_mapping_is_there_after_close_and_a_crash() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    let open = file(&path, 10_000);
    let mapping = Mapping::new(&open, 8192, MapFlags::SHARED);
    mapping.store(b"through the mapping");
    drop(mapping);
    // Closing writes mapped pages back, though nobody asks us to flush.
    drop(open);
    mount.crash();
    mount.start(&[]);
    let text = fs::read(&path).unwrap();
    assert_eq!(&text[..20], b"through the mapping.");
    assert_eq!(text.len(), 10_000);
    Ok(())
}

fn a_store_through_a_mapping_shows_to_read_at_once_and_a_write_to_the_mapping() -> Outcome {
    let mount = Mount::fresh()?;
    let open = file(&mount.path("file"), 4096);
    let mapping = Mapping::new(&open, 4096, MapFlags::SHARED);
    mapping.store(b"stored");
    assert_eq!(&fs::read(mount.path("file")).unwrap()[..7], b"stored.");
    open.write_all_at(b"WRITTEN", 0).unwrap();
    assert_eq!(mapping.load(8), b"WRITTEN.");
    Ok(())
}

fn msync_makes_an_event_that_history_shows() -> Outcome {
    let mount = Mount::fresh()?;
    let open = file(&mount.path("file"), 4096);
    let before = mount.seq();
    let mapping = Mapping::new(&open, 4096, MapFlags::SHARED);
    mapping.store(b"synced");
    mapping.sync();
    let after = mount.seq();
    assert!(after > before);
    assert_eq!(&fs::read(mount.past(before, "file")).unwrap()[..7], b".......");
    assert_eq!(&fs::read(mount.past(after, "file")).unwrap()[..7], b"synced.");
    Ok(())
}

fn a_private_mapping_changes_nothing() -> Outcome {
    let mount = Mount::fresh()?;
    let open = file(&mount.path("file"), 4096);
    let mapping = Mapping::new(&open, 4096, MapFlags::PRIVATE);
    mapping.store(b"mine");
    assert_eq!(mapping.load(5), b"mine.");
    drop(mapping);
    drop(open);
    assert_eq!(&fs::read(mount.path("file")).unwrap()[..5], b".....");
    Ok(())
}

fn a_program_on_the_mount_runs_and_cannot_be_written_meanwhile() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("sleep");
    fs::copy("/bin/sleep", &path).unwrap();
    program(path.to_str().unwrap(), &["0".as_ref()]);
    let mut child = std::process::Command::new(&path).arg("30").spawn().unwrap();
    let refused = errno(OpenOptions::new().write(true).open(&path));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(refused, Some(rustix::io::Errno::TXTBSY));
    let script = mount.path("script");
    fs::write(&script, "#!/bin/sh\necho ran\n").unwrap();
    chmod(&script, 0o755);
    assert_eq!(program(script.to_str().unwrap(), &[]), "ran\n");
    Ok(())
}

fn a_library_on_the_mount_is_mapped_and_executed() -> Outcome {
    let mount = Mount::fresh()?;
    // The C library, found through the mappings of this process.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.ends_with("/libc.so.6"));
    let Some(library) = library else {
        return Err(crate::Skipped("these tests are linked without a shared C library".into()));
    };
    fs::copy(library, mount.path("libc.so.6")).unwrap();
    let output = crate::fixture::bounded(
        std::process::Command::new("env")
            .arg(format!("LD_LIBRARY_PATH={}", mount.path("").display()))
            .args(["grep", "-o", "-m1", "/mnt/current/libc.so.6", "/proc/self/maps"]),
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "/mnt/current/libc.so.6");
    Ok(())
}

/// What stands at each offset of a file that `grow` has written.
fn stands_at(offset: usize) -> u8 {
    u8::try_from(offset % 251).unwrap() + 1
}

/// Writes `len` bytes in pieces of odd lengths, and tells after each how far it is.
fn grow(file: &File, len: usize, written: &AtomicUsize) {
    let content: Vec<u8> = (0..len).map(stands_at).collect();
    let mut at = 0;
    for step in 0.. {
        let until = len.min(at + 1 + step * 977 % 5000);
        file.write_all_at(&content[at..until], at as u64).unwrap();
        at = until;
        written.store(at, Ordering::Release);
        if at == len {
            return;
        }
    }
}

/// A new file that is only written passes the page cache, and who maps it meanwhile fills that: readers of each kind, all the
/// time, of the pages that are being written above all.
fn what_is_written_to_a_new_file_shows_however_it_is_read() -> Outcome {
    const LEN: usize = 4 << 20;
    let mount = Mount::fresh()?;
    let path = mount.path("grows");
    let written = AtomicUsize::new(0);
    let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    let right = |bytes: &[u8], from: usize, how: &str| {
        let wrong = bytes.iter().zip(from..).find(|(byte, at)| **byte != stands_at(*at));
        assert!(wrong.is_none(), "{how}: at {wrong:?} of {} bytes from {from}", bytes.len());
    };
    let is_right = |bytes: &[u8], from: usize| {
        bytes.iter().zip(from..).all(|(byte, at)| *byte == stands_at(at))
    };
    // The last pages of what is there.
    let window = || {
        let until = written.load(Ordering::Acquire);
        (until.saturating_sub(10_000), until)
    };
    let reads = |how: &'static str, read: &dyn Fn(usize, usize) -> Vec<u8>| loop {
        let (from, until) = window();
        right(&read(from, until), from, how);
        if until == LEN {
            return;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open = File::open(&path).unwrap();
            reads("read", &|from, until| {
                let mut bytes = vec![0; until - from];
                open.read_exact_at(&mut bytes, from as u64).unwrap();
                bytes
            });
        });
        scope.spawn(|| {
            reads("opened anew", &|from, until| fs::read(&path).unwrap()[from..until].to_vec());
        });
        for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
            let path = &path;
            scope.spawn(move || {
                let open = File::open(path).unwrap();
                let mapping = Mapping::to_read(&open, LEN, flags);
                // The kernel may have to be told first that a page is old.
                reads("mapped", &|from, until| {
                    let mut bytes = mapping.load_from(from, until);
                    let begin = Instant::now();
                    while !is_right(&bytes, from) && begin.elapsed() < Duration::from_secs(1) {
                        bytes = mapping.load_from(from, until);
                    }
                    bytes
                });
            });
        }
        grow(&file, LEN, &written);
    });
    drop(file);
    right(&fs::read(&path).unwrap(), 0, "after the close");
    Ok(())
}
