//! Who may do what, and what a change takes away: set-id bits, capabilities, umask, ACLs, sticky
//! directories.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::fixture::{ANOTHER, Mount, SOMEBODY, as_user, chmod, errno, mode, open, program, shell};
use crate::{Outcome, tests};

tests![
    every_change_by_a_user_takes_set_id_bits_away,
    a_write_to_a_new_file_takes_set_id_bits_away_at_once,
    a_write_by_the_superuser_keeps_set_id_bits_and_takes_the_capability,
    a_chown_takes_set_id_bits_and_capabilities_away,
    a_umask_applies_and_a_default_acl_takes_its_place,
    a_default_acl_is_inherited_by_files_and_directories,
    an_acl_lets_one_more_user_in_and_its_mask_keeps_step_with_the_mode,
    in_a_sticky_directory_only_owners_remove_and_rename,
    a_set_group_id_directory_hands_its_group_on,
    modes_are_checked_for_reading_writing_and_searching,
    device_nodes_are_for_the_superuser,
    owners_alone_change_modes_and_times,
];

/// A file of `SOMEBODY` with that mode, 8 KiB long, and if asked with a capability.
fn victim(directory: &Path, name: &str, mode: u32, capability: bool) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, vec![1; 8192]).unwrap();
    chown(&path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    chmod(&path, mode);
    if capability {
        // Version 2, effective, CAP_NET_RAW permitted.
        let mut value = [0; 20];
        value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
        value[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
        rustix::fs::setxattr(&path, "security.capability", &value, XattrFlags::empty()).unwrap();
    }
    path
}

fn has_capability(path: &Path) -> bool {
    rustix::fs::getxattr_query(path, "security.capability").is_ok()
}

fn every_change_by_a_user_takes_set_id_bits_away() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    type Change = (&'static str, fn(&File));
    let changes: [Change; 5] = [
        ("write", |file| {
            file.write_all_at(b"x", 0).unwrap();
        }),
        ("truncate", |file| file.set_len(100).unwrap()),
        ("allocate", |file| {
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 20_000).unwrap();
        }),
        ("punch", |file| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, 0, 4096).unwrap();
        }),
        ("copy", |file| {
            let (mut from, mut to) = (0, 4096);
            rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), 4096).unwrap();
        }),
    ];
    for (name, change) in changes {
        for capability in [false, true] {
            let path = victim(&commons, &format!("{name}-{capability}"), 0o6777, capability);
            as_user(ANOTHER, || {
                change(&OpenOptions::new().read(true).write(true).open(&path).unwrap());
            });
            assert_eq!(mode(&path), 0o777, "{name}");
            assert!(!has_capability(&path), "{name} keeps the capability");
        }
    }
    // Without execution by the group the bit means locking, and stays for who is not in the group.
    let path = victim(&commons, "open", 0o6777, false);
    as_user(ANOTHER, || OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(mode(&path), 0o777, "open with O_TRUNC");
    Ok(())
}

fn a_write_to_a_new_file_takes_set_id_bits_away_at_once() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    // Some are written past the cache, of which the kernel itself looks at no bits.
    for how in [OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::APPEND] {
        let path = commons.join(format!("{how:?}"));
        as_user(SOMEBODY, || {
            let file = open(&path, how | OFlags::CREATE | OFlags::EXCL, 0o700).unwrap();
            file.write_all_at(b"before", 0).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o4755)).unwrap();
            assert_eq!(mode(&path), 0o4755, "{how:?}");
            file.write_all_at(b"after", 0).unwrap();
            assert_eq!(mode(&path), 0o755, "{how:?}");
        });
    }
    Ok(())
}

fn a_write_by_the_superuser_keeps_set_id_bits_and_takes_the_capability() -> Outcome {
    let mount = Mount::fresh()?;
    let path = victim(&mount.commons(), "file", 0o6755, true);
    assert!(has_capability(&path));
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
    assert_eq!(mode(&path), 0o6755);
    assert!(!has_capability(&path));
    Ok(())
}

fn a_chown_takes_set_id_bits_and_capabilities_away() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    let path = victim(&commons, "file", 0o6755, true);
    chown(&path, Some(ANOTHER), None).unwrap();
    assert_eq!(mode(&path), 0o755);
    assert!(!has_capability(&path));
    let path = victim(&commons, "own", 0o6755, false);
    as_user(SOMEBODY, || chown(&path, None, Some(SOMEBODY)).unwrap());
    assert_eq!(mode(&path), 0o755);
    let given = as_user(SOMEBODY, || errno(chown(&path, Some(ANOTHER), None)));
    assert_eq!(given, Some(Errno::PERM));
    Ok(())
}

fn make(path: &Path, mode: u32) -> u32 {
    use rustix::fs::OFlags;
    drop(open(path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, mode).unwrap());
    self::mode(path)
}

fn a_umask_applies_and_a_default_acl_takes_its_place() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    assert_eq!(make(&commons.join("file"), 0o666), 0o600);
    fs::create_dir(commons.join("directory")).unwrap();
    assert_eq!(mode(&commons.join("directory")), 0o700);
    let fifo = commons.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    assert_eq!(mode(&fifo), 0o600);
    shell(&commons, "mkdir acl && setfacl -d -m u::rwx,g::rx,o::r acl");
    assert_eq!(make(&commons.join("acl/file"), 0o666), 0o644);
    assert_eq!(make(&commons.join("acl/less"), 0o640), 0o640);
    fs::create_dir(commons.join("acl/directory")).unwrap();
    assert_eq!(mode(&commons.join("acl/directory")), 0o754);
    Ok(())
}

fn a_default_acl_is_inherited_by_files_and_directories() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    shell(&commons, &format!("mkdir top && setfacl -d -m u:{SOMEBODY}:rwx,g::r,o::- top"));
    shell(&commons, "mkdir -p top/below/deeper && touch top/below/deeper/file");
    let deeper = shell(&commons, "getfacl -nc top/below/deeper");
    assert!(deeper.contains(&format!("default:user:{SOMEBODY}:rwx")), "{deeper}");
    let file = shell(&commons, "getfacl -nc top/below/deeper/file");
    assert!(file.contains(&format!("user:{SOMEBODY}:rwx\t#effective:rw-")), "{file}");
    assert_eq!(mode(&commons.join("top/below/deeper/file")), 0o660);
    Ok(())
}

fn an_acl_lets_one_more_user_in_and_its_mask_keeps_step_with_the_mode() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.commons().join("file");
    fs::write(&path, "secret").unwrap();
    chmod(&path, 0o600);
    let read = || as_user(SOMEBODY, || errno(fs::read(&path)));
    assert_eq!(read(), Some(Errno::ACCESS));
    program("setfacl", &["-m".as_ref(), format!("u:{SOMEBODY}:r").as_ref(), path.as_os_str()]);
    assert_eq!(read(), None);
    assert_eq!(as_user(ANOTHER, || errno(fs::read(&path))), Some(Errno::ACCESS));
    assert_eq!(mode(&path), 0o640, "the mask shows as the mode of the group");
    chmod(&path, 0o600);
    assert_eq!(read(), Some(Errno::ACCESS), "chmod changes the mask");
    Ok(())
}

fn in_a_sticky_directory_only_owners_remove_and_rename() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    chmod(&commons, 0o1777);
    as_user(SOMEBODY, || fs::write(commons.join("file"), "mine").unwrap());
    as_user(ANOTHER, || {
        let file = commons.join("file");
        assert_eq!(errno(fs::remove_file(&file)), Some(Errno::PERM));
        assert_eq!(errno(fs::rename(&file, commons.join("other"))), Some(Errno::PERM));
        fs::write(commons.join("own"), "").unwrap();
        assert_eq!(errno(fs::rename(commons.join("own"), &file)), Some(Errno::PERM));
    });
    as_user(SOMEBODY, || fs::remove_file(commons.join("file")).unwrap());
    Ok(())
}

fn a_set_group_id_directory_hands_its_group_on() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    let directory = commons.join("shared");
    fs::create_dir(&directory).unwrap();
    chown(&directory, None, Some(4711)).unwrap();
    chmod(&directory, 0o2777);
    as_user(SOMEBODY, || {
        fs::write(directory.join("file"), "").unwrap();
        fs::create_dir(directory.join("below")).unwrap();
    });
    assert_eq!(fs::metadata(directory.join("file")).unwrap().gid(), 4711);
    let below = fs::metadata(directory.join("below")).unwrap();
    assert_eq!((below.gid(), below.mode() & 0o2000), (4711, 0o2000));
    Ok(())
}

fn modes_are_checked_for_reading_writing_and_searching() -> Outcome {
    let mount = Mount::fresh()?;
    let commons = mount.commons();
    fs::create_dir(commons.join("closed")).unwrap();
    fs::write(commons.join("closed/file"), "x").unwrap();
    chmod(&commons.join("closed/file"), 0o666);
    chmod(&commons.join("closed"), 0o700);
    fs::write(commons.join("readable"), "x").unwrap();
    chmod(&commons.join("readable"), 0o644);
    as_user(SOMEBODY, || {
        assert_eq!(errno(fs::read(commons.join("closed/file"))), Some(Errno::ACCESS));
        assert_eq!(errno(fs::read_dir(commons.join("closed"))), Some(Errno::ACCESS));
        assert_eq!(fs::read(commons.join("readable")).unwrap(), b"x");
        let write = OpenOptions::new().write(true).open(commons.join("readable"));
        assert_eq!(errno(write), Some(Errno::ACCESS));
    });
    Ok(())
}

fn device_nodes_are_for_the_superuser() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.commons().join("null");
    let make = || {
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3))
    };
    assert_eq!(as_user(SOMEBODY, make), Err(Errno::PERM));
    assert_eq!(make(), Ok(()));
    Ok(())
}

fn owners_alone_change_modes_and_times() -> Outcome {
    let mount = Mount::fresh()?;
    let path = victim(&mount.commons(), "file", 0o666, false);
    let (chmod_by, touch_by) = (
        |id| as_user(id, || rustix::fs::chmod(&path, Mode::from_raw_mode(0o600)).err()),
        |id| {
            as_user(id, || {
                let time = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).err()
            })
        },
    );
    assert_eq!(chmod_by(ANOTHER), Some(Errno::PERM));
    assert_eq!(touch_by(ANOTHER), Some(Errno::PERM));
    assert_eq!((chmod_by(SOMEBODY), touch_by(SOMEBODY)), (None, None));
    Ok(())
}
