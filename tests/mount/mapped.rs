//! Mapped files, and programs run from the mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

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
