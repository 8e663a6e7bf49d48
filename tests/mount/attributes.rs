//! What stat(2) and its relatives say: times, counts, kinds, room.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::fixture::{Mount, bounded, chmod, errno, mode, program};
use crate::{Outcome, tests};

tests![
    times_keep_nanoseconds_before_1970_and_after_2038,
    the_time_of_birth_is_told_and_never_changes,
    writing_moves_the_times_that_posix_names,
    hard_links_are_counted_and_share_everything,
    a_symbolic_link_of_4095_bytes_is_kept_and_a_longer_one_refused,
    every_kind_of_node_can_be_made,
    a_fifo_and_a_socket_carry_data,
    statfs_tells_the_room_there_is_and_how_long_names_may_be,
    inode_numbers_are_below_2_to_the_53_and_never_used_again,
    modes_owners_and_sizes_are_there_after_a_restart,
];

fn set_times(path: &std::path::Path, time: Timespec) {
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn times_keep_nanoseconds_before_1970_and_after_2038() -> Outcome {
    let mount = Mount::fresh()?;
    let all = [
        (0, 0),
        (-1, 999_999_999),
        (-86_400 * 365 * 60, 123_456_789),
        ((1 << 31) + 5, 7),
        (1 << 32, 987_654_321),
        (7_258_118_400, 1),
    ];
    for (n, &(secs, nanos)) in all.iter().enumerate() {
        let path = mount.path(format!("{n}"));
        File::create(&path).unwrap();
        set_times(&path, Timespec { tv_sec: secs, tv_nsec: nanos });
    }
    let check = || {
        for (n, &(secs, nanos)) in all.iter().enumerate() {
            let found = fs::metadata(mount.path(format!("{n}"))).unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (secs, nanos));
            assert_eq!((found.atime(), found.atime_nsec()), (secs, nanos));
        }
    };
    check();
    mount.stop();
    mount.start(&[]);
    check();
    Ok(())
}

fn the_time_of_birth_is_told_and_never_changes() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    File::create(&path).unwrap();
    let born = || {
        let found =
            rustix::fs::statx(CWD, &path, AtFlags::empty(), StatxFlags::BTIME | StatxFlags::ALL);
        let found = found.unwrap();
        assert!(found.stx_mask & StatxFlags::BTIME.bits() != 0, "no time of birth");
        Duration::new(found.stx_btime.tv_sec as u64, found.stx_btime.tv_nsec)
    };
    let first = born();
    // Clocks of the kernel's ticks may be a little behind.
    assert!(first + Duration::from_secs(1) > before && first < before + Duration::from_secs(20));
    fs::write(&path, "later").unwrap();
    set_times(&path, Timespec { tv_sec: 5, tv_nsec: 0 });
    assert_eq!(born(), first);
    Ok(())
}

fn writing_moves_the_times_that_posix_names() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "x").unwrap();
    let times = || {
        let found = fs::metadata(&path).unwrap();
        ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()))
    };
    let parent = || {
        let found = fs::metadata(mount.path("")).unwrap();
        (found.mtime(), found.mtime_nsec())
    };
    let (first, top) = (times(), parent());
    std::thread::sleep(Duration::from_millis(10));
    chmod(&path, 0o600);
    let second = times();
    assert_eq!(second.0, first.0);
    assert!(second.1 > first.1);
    std::thread::sleep(Duration::from_millis(10));
    fs::write(&path, "y").unwrap();
    let third = times();
    assert!(third.0 > second.0 && third.1 > second.1);
    assert_eq!(parent(), top);
    std::thread::sleep(Duration::from_millis(10));
    fs::hard_link(&path, mount.path("link")).unwrap();
    assert!(parent() > top);
    assert!(times().1 > third.1);
    assert_eq!(times().0, third.0);
    Ok(())
}

fn hard_links_are_counted_and_share_everything() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("0"), "shared").unwrap();
    for n in 1..50 {
        fs::hard_link(mount.path("0"), mount.path(format!("{n}"))).unwrap();
    }
    let found = |n: &str| fs::metadata(mount.path(n)).unwrap();
    assert_eq!(found("49").nlink(), 50);
    assert_eq!(found("49").ino(), found("0").ino());
    chmod(&mount.path("7"), 0o604);
    assert_eq!(mode(&mount.path("31")), 0o604);
    for n in 0..49 {
        fs::remove_file(mount.path(format!("{n}"))).unwrap();
    }
    assert_eq!(found("49").nlink(), 1);
    assert_eq!(fs::read(mount.path("49")).unwrap(), b"shared");
    fs::create_dir(mount.path("directory")).unwrap();
    let linked = fs::hard_link(mount.path("directory"), mount.path("second"));
    assert_eq!(errno(linked), Some(Errno::PERM));
    Ok(())
}

fn a_symbolic_link_of_4095_bytes_is_kept_and_a_longer_one_refused() -> Outcome {
    let mount = Mount::fresh()?;
    let longest = "t".repeat(4095);
    symlink(&longest, mount.path("link")).unwrap();
    assert_eq!(fs::read_link(mount.path("link")).unwrap().to_str(), Some(longest.as_str()));
    assert_eq!(fs::symlink_metadata(mount.path("link")).unwrap().len(), 4095);
    assert_eq!(errno(symlink("t".repeat(4096), mount.path("longer"))), Some(Errno::NAMETOOLONG));
    symlink("loop", mount.path("loop")).unwrap();
    assert_eq!(errno(fs::read(mount.path("loop"))), Some(Errno::LOOP));
    Ok(())
}

fn every_kind_of_node_can_be_made() -> Outcome {
    let mount = Mount::fresh()?;
    rustix::process::umask(Mode::empty());
    let device = rustix::fs::makedev(259, 70_000);
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("char", FileType::CharacterDevice, device),
        ("block", FileType::BlockDevice, device),
        ("file", FileType::RegularFile, 0),
    ];
    for (name, kind, device) in kinds {
        rustix::fs::mknodat(CWD, mount.path(name), kind, Mode::from_raw_mode(0o640), device)
            .unwrap();
        let found = rustix::fs::lstat(mount.path(name)).unwrap();
        assert_eq!(FileType::from_raw_mode(found.st_mode), kind, "{name}");
        assert_eq!(found.st_mode & 0o7777, 0o640);
        assert_eq!(found.st_rdev, device, "{name}");
    }
    let listed = fs::read_dir(mount.path("")).unwrap().map(|entry| entry.unwrap());
    for entry in listed {
        let kind = entry.file_type().unwrap();
        match entry.file_name().to_str().unwrap() {
            "fifo" => assert!(kind.is_fifo()),
            "socket" => assert!(kind.is_socket()),
            "char" => assert!(kind.is_char_device()),
            "block" => assert!(kind.is_block_device()),
            _ => assert!(kind.is_file()),
        }
    }
    Ok(())
}

fn a_fifo_and_a_socket_carry_data() -> Outcome {
    let mount = Mount::fresh()?;
    let said = crate::fixture::shell(
        &mount.path(""),
        "mkfifo fifo && (echo through > fifo &) && cat fifo",
    );
    assert_eq!(said, "through\n");
    let listener = std::os::unix::net::UnixListener::bind(mount.path("socket")).unwrap();
    let sent = std::os::unix::net::UnixStream::connect(mount.path("socket")).unwrap();
    listener.accept().unwrap();
    drop(sent);
    Ok(())
}

fn statfs_tells_the_room_there_is_and_how_long_names_may_be() -> Outcome {
    let mount = Mount::fresh()?;
    let ours = rustix::fs::statvfs(mount.path("")).unwrap();
    let below = rustix::fs::statvfs(mount.top("").parent().unwrap()).unwrap();
    assert_eq!(ours.f_namemax, 255);
    assert!(ours.f_blocks > 0 && ours.f_bfree > 0 && ours.f_bavail <= ours.f_bfree);
    // Not more than there is below, and no made-up number.
    let (here, there) = (ours.f_bavail * ours.f_frsize, below.f_bavail * below.f_frsize);
    assert!(here <= there + (64 << 20) && here >= there / 4, "{here} of {there}");
    let files = ours.f_files - ours.f_ffree;
    for n in 0..10 {
        File::create(mount.path(format!("{n}"))).unwrap();
    }
    let after = rustix::fs::statvfs(mount.path("")).unwrap();
    assert_eq!(after.f_files - after.f_ffree, files + 10);
    program("df", &[mount.path("").as_os_str()]);
    Ok(())
}

fn inode_numbers_are_below_2_to_the_53_and_never_used_again() -> Outcome {
    let mount = Mount::fresh()?;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        fs::write(mount.path("file"), "x").unwrap();
        let ino = fs::metadata(mount.path("file")).unwrap().ino();
        assert!(ino < 1 << 53);
        assert!(seen.insert(ino), "{ino} was used again");
        fs::remove_file(mount.path("file")).unwrap();
    }
    Ok(())
}

fn modes_owners_and_sizes_are_there_after_a_restart() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), vec![1; 12_345]).unwrap();
    std::os::unix::fs::chown(mount.path("file"), Some(12), Some(34)).unwrap();
    chmod(&mount.path("file"), 0o4751);
    fs::create_dir(mount.path("directory")).unwrap();
    chmod(&mount.path("directory"), 0o3770);
    let line = "stat -c '%n %a %u %g %s %Y %i %h' file directory";
    let stats =
        || bounded(std::process::Command::new("sh").args(["-c", line]).current_dir(mount.path("")));
    let before = stats().stdout;
    assert!(String::from_utf8_lossy(&before).starts_with("file 4751 12 34 12345"));
    mount.stop();
    mount.start(&[]);
    assert_eq!(stats().stdout, before);
    Ok(())
}
