//! Mounts that everybody sees.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::unmount::{self, Detach, Mounted, UnmountError};

use crate::constant::{LARGE, TEXT, large_byte};
use crate::fixture::{
    Place, SOMEBODY, Server, as_somebody, needs_root_and_device, outside, unmount_place,
    within_deadline,
};
use crate::open_device::OpenDevice;
use crate::{Outcome, Skipped, tests};

tests![
    a_mount_shows_its_type_its_store_and_its_options,
    content_comes_through_whole_written_spliced_or_by_a_reader_that_spins,
    a_read_only_mount_refuses_changes_in_the_kernel,
    unmounting_ends_every_reader_and_the_server_exits_with_zero,
    a_busy_mount_names_who_uses_it_and_can_still_be_detached,
    a_dead_mount_of_the_same_store_is_replaced,
    a_dead_mount_of_another_store_is_left_alone,
    a_place_that_is_served_already_is_refused,
    a_hung_server_is_told_from_a_dead_one_and_can_be_cut_off,
    a_mount_of_somebody_else_is_never_unmounted,
    who_mounted_unmounts_its_own_mount_and_never_its_successor,
    of_two_mounts_at_one_place_the_lower_one_cannot_take_the_upper_one_away,
    a_mount_that_was_moved_with_its_parent_is_unmounted_where_it_is,
    read_ahead_can_be_raised_once_init_is_answered,
    a_device_mounted_by_somebody_else_is_served_by_number_and_by_socket,
    a_missing_mount_point_is_made_for_whoever_called_sudo,
    a_failed_mount_takes_away_the_directory_it_made,
    a_user_without_privilege_mounts_through_fusermount3,
    a_user_without_any_way_to_mount_is_told_what_would_help,
];

fn a_mount_shows_its_type_its_store_and_its_options() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.serve(&[]).ready();
    let entry = place.entry().unwrap();
    assert_eq!(entry.filesystem, "fuse.lighthouse");
    assert_eq!(Path::new(&entry.source), place.store);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.starts_with(&format!("{} ", entry.id))).unwrap();
    for option in ["noatime", "allow_other", "default_permissions", "user_id=0", "group_id=0"] {
        assert!(line.contains(option), "{option} is missing in {line}");
    }
    assert!(!line.contains("nodev") && !line.contains("nosuid"), "root's own mount: {line}");
    Ok(())
}

fn content_comes_through_whole_written_spliced_or_by_a_reader_that_spins() -> Outcome {
    needs_root_and_device()?;
    for options in [&[][..], &["--splice"], &["--spin-us", "50"]] {
        let place = Place::new();
        let _server = place.serve(options).ready();
        let listing = outside("ls", &[&place.at.join("current")]);
        assert_eq!(listing.stdout, b"large\nsmall\n");
        assert_eq!(outside("cat", &[&place.small()]).stdout, TEXT);
        let large = outside("cat", &[&place.at.join("current/large")]).stdout;
        assert_eq!(large.len(), LARGE, "{options:?}");
        let wrong = large.iter().enumerate().find(|&(at, &byte)| byte != large_byte(at));
        assert_eq!(wrong, None, "{options:?}");
        assert_eq!(outside("cat", &[&place.at.join("nothing")]).status.code(), Some(1));
    }
    Ok(())
}

fn a_read_only_mount_refuses_changes_in_the_kernel() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.serve(&["--read-only"]).ready();
    let output = outside("touch", &[&place.small()]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("Read-only file system"), "{words}");
    Ok(())
}

fn unmounting_ends_every_reader_and_the_server_exits_with_zero() -> Outcome {
    needs_root_and_device()?;
    for options in [&[][..], &["--spin-us", "20"]] {
        let place = Place::new();
        let mut server = place.serve(options).ready();
        unmount_place(&place, Detach::WhenUnused).unwrap();
        assert_eq!(server.end(), (Some(0), String::new()));
        assert_eq!(place.entry(), None);
        let again = unmount_place(&place, Detach::WhenUnused);
        assert!(matches!(again, Err(UnmountError::NotMounted(_))), "{again:?}");
    }
    Ok(())
}

fn a_busy_mount_names_who_uses_it_and_can_still_be_detached() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.serve(&[]).ready();
    let mut reader =
        reader_started(Command::new("tail").args(["-f", "-s", "60"]).arg(place.small()));
    let users = within_deadline(|| match unmount_place(&place, Detach::WhenUnused) {
        Err(UnmountError::Busy { users, .. }) if !users.is_empty() => Some(users),
        Err(UnmountError::Busy { .. }) => None,
        other => panic!("a busy mount was expected: {other:?}"),
    });
    assert!(users.iter().any(|user| user.pid == reader.id() && user.name == "tail"), "{users:?}");
    unmount_place(&place, Detach::Lazily).unwrap();
    assert_eq!(place.entry(), None);
    reader.kill().unwrap();
    reader.wait().unwrap();
    // The last user is gone, so the connection ends.
    assert_eq!(server.end().0, Some(0));
    Ok(())
}

/// Starts a program that keeps a file open, and waits until it has read it.
fn reader_started(command: &mut Command) -> std::process::Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = vec![0; TEXT.len()];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!(text, TEXT);
    child
}

fn a_dead_mount_of_the_same_store_is_replaced() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut first = place.serve(&[]).ready();
    // Attributes in the kernel's cache outlive the server, and must not make it look alive.
    outside("stat", &[&place.at, &place.small()]);
    let dead = place.entry().unwrap();
    first.kill();
    assert_eq!(outside("cat", &[&place.small()]).status.code(), Some(1));
    assert_eq!(place.entry().unwrap().id, dead.id);
    let _second = place.serve(&[]).ready();
    assert_eq!(outside("cat", &[&place.small()]).stdout, TEXT);
    let table = lighthouse_fuse::transport::mount_table::read().unwrap();
    assert_eq!(table.iter().filter(|entry| entry.mountpoint == place.at).count(), 1);
    Ok(())
}

fn a_dead_mount_of_another_store_is_left_alone() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.serve(&[]).ready().kill();
    let dead = place.entry().unwrap();
    let other = place.store.with_file_name("other");
    fs::create_dir(&other).unwrap();
    let answer = mount::check(&place.at, &other, false).unwrap_err();
    assert!(answer.to_string().contains("dead mount of another store"), "{answer}");
    assert_eq!(place.entry().unwrap(), dead);
    Ok(())
}

fn a_place_that_is_served_already_is_refused() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.serve(&[]).ready();
    let before = place.entry();
    let mut second = place.serve(&[]);
    assert!(second.said.contains("is already served at"), "{}", second.said);
    assert_eq!(second.end(), (Some(1), String::new()), "one line, and exit code 1");
    assert_eq!(place.entry(), before);
    Ok(())
}

fn a_hung_server_is_told_from_a_dead_one_and_can_be_cut_off() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _hung = place.serve(&["--hang"]).ready();
    let answer = mount::check(&place.at, &place.store, false).unwrap_err();
    assert!(answer.to_string().contains("does not answer"), "{answer}");
    let mut waiting =
        Command::new("stat").arg(place.small()).stderr(Stdio::piped()).spawn().unwrap();
    unmount::abort(place.entry().unwrap().minor).unwrap();
    let status = within_deadline(|| waiting.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let _second = place.serve(&[]).ready();
    assert_eq!(outside("cat", &[&place.small()]).stdout, TEXT);
    Ok(())
}

fn a_mount_of_somebody_else_is_never_unmounted() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    rustix::mount::mount("none", &place.at, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    let theirs = place.entry().unwrap();
    for detach in [Detach::WhenUnused, Detach::Lazily] {
        let answer = unmount_place(&place, detach).unwrap_err();
        assert!(matches!(answer, UnmountError::NotOurs { .. }), "{answer}");
    }
    // It can be mounted upon, though, and comes to light again.
    let mut server = place.serve(&[]).ready();
    assert_eq!(outside("cat", &[&place.small()]).stdout, TEXT);
    unmount_place(&place, Detach::WhenUnused).unwrap();
    assert_eq!(server.end().0, Some(0));
    assert_eq!(place.entry().unwrap(), theirs);
    Ok(())
}

/// A mount made by this process, which nobody looks at: INIT is never answered.
fn mounted_here(place: &Place) -> (OwnedFd, Mounted) {
    let point = mount::check(&place.at, &place.store, false).unwrap().prepare().unwrap();
    point.mount(&MountOptions::new(place.store.clone())).unwrap()
}

fn who_mounted_unmounts_its_own_mount_and_never_its_successor() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    // More than once: the kernel gives the numbers of what is gone to whatever comes next.
    for _ in 0..3 {
        let (device, gone) = mounted_here(&place);
        unmount_place(&place, Detach::Lazily).unwrap();
        drop(device);
        let (_device, successor) = mounted_here(&place);
        let entry = place.entry().unwrap();
        for detach in [Detach::WhenUnused, Detach::Lazily] {
            let answer = gone.unmount(detach).unwrap_err();
            assert!(matches!(answer, UnmountError::NotMounted(_)), "{answer}");
            assert_eq!(place.entry().as_ref(), Some(&entry));
        }
        successor.unmount(Detach::WhenUnused).unwrap();
        assert_eq!(place.entry(), None);
    }
    Ok(())
}

fn of_two_mounts_at_one_place_the_lower_one_cannot_take_the_upper_one_away() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    // Both found the place empty before either of them mounted.
    let [lower, upper] =
        [(), ()].map(|()| mount::check(&place.at, &place.store, false).unwrap().prepare().unwrap());
    let options = MountOptions::new(place.store.clone());
    let (_lower_device, lower) = lower.mount(&options).unwrap();
    let (_upper_device, upper) = upper.mount(&options).unwrap();
    assert_ne!(lower.connection(), upper.connection());
    let seen = place.entry().unwrap();
    assert_eq!(Some(seen.minor), upper.connection());
    for detach in [Detach::WhenUnused, Detach::Lazily] {
        let answer = lower.unmount(detach).unwrap_err();
        assert!(matches!(answer, UnmountError::Covered(_)), "{answer}");
        assert_eq!(place.entry().as_ref(), Some(&seen));
    }
    upper.unmount(Detach::WhenUnused).unwrap();
    lower.unmount(Detach::WhenUnused).unwrap();
    assert_eq!(place.entry(), None);
    Ok(())
}

fn a_mount_that_was_moved_with_its_parent_is_unmounted_where_it_is() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let root = place.store.parent().unwrap();
    let (before, after) = (root.join("before"), root.join("after"));
    fs::create_dir(&before).unwrap();
    let point = mount::check(&before.join("at"), &place.store, false).unwrap().prepare().unwrap();
    let (_device, mounted) = point.mount(&MountOptions::new(place.store.clone())).unwrap();
    fs::rename(&before, &after).unwrap();
    mounted.unmount(Detach::WhenUnused).unwrap();
    let table = lighthouse_fuse::transport::mount_table::read().unwrap();
    assert!(!table.iter().any(|entry| entry.mountpoint.starts_with(root)), "{table:?}");
    Ok(())
}

fn read_ahead_can_be_raised_once_init_is_answered() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.serve(&["--read-ahead"]).ready();
    let entry = place.entry().unwrap();
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", entry.major, entry.minor);
    assert_eq!(fs::read_to_string(path).unwrap().trim(), "4096");
    Ok(())
}

fn a_device_mounted_by_somebody_else_is_served_by_number_and_by_socket() -> Outcome {
    needs_root_and_device()?;
    for by_socket in [false, true] {
        let place = Place::new();
        let options = MountOptions::new(place.store.clone());
        let point = mount::check(&place.at, &place.store, false).unwrap().prepare().unwrap();
        let (device, mounted) = point.mount(&options).unwrap();
        let mut server = if by_socket {
            let path = place.store.with_file_name("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let sender = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                sys::descriptor::send(&stream, std::os::fd::AsFd::as_fd(&device)).unwrap();
            });
            let server = place.serve(&["--socket", path.to_str().unwrap()]).ready();
            sender.join().unwrap();
            server
        } else {
            let mut command = place.command(&["--descriptor", "/dev/fd/0"]);
            command.stdin(device);
            Server::start(command).ready()
        };
        assert_eq!(outside("cat", &[&place.small()]).stdout, TEXT);
        mounted.unmount(Detach::WhenUnused).unwrap();
        assert_eq!(server.end().0, Some(0));
    }
    Ok(())
}

fn a_missing_mount_point_is_made_for_whoever_called_sudo() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    fs::remove_dir(&place.at).unwrap();
    let mut command = place.command(&[]);
    command.env("SUDO_UID", SOMEBODY.to_string()).env("SUDO_GID", "7");
    let _server = Server::start(command).ready();
    unmount_place(&place, Detach::WhenUnused).unwrap();
    let made = fs::metadata(&place.at).unwrap();
    let owner =
        (std::os::unix::fs::MetadataExt::uid(&made), std::os::unix::fs::MetadataExt::gid(&made));
    assert_eq!(owner, (SOMEBODY, 7));
    Ok(())
}

fn a_failed_mount_takes_away_the_directory_it_made() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let missing = place.at.with_file_name("missing");
    // Longer than a page: no way to mount takes such a source.
    let mut options = MountOptions::new("/x".repeat(3000).into());
    options.helper = None;
    let point = mount::check(&missing, &place.store, false).unwrap().prepare().unwrap();
    assert!(missing.is_dir());
    let answer = point.mount(&options);
    assert!(answer.is_err());
    assert!(!missing.exists());
    Ok(())
}

fn a_user_without_privilege_mounts_through_fusermount3() -> Outcome {
    needs_root_and_device()?;
    let Ok(helper) = fs::metadata("/usr/bin/fusermount3") else {
        return Err(Skipped("fusermount3 is not installed".into()));
    };
    if std::os::unix::fs::PermissionsExt::mode(&helper.permissions()) & 0o4000 == 0 {
        return Err(Skipped("fusermount3 is not set-user-id".into()));
    }
    // The program opens the device with its caller's rights.
    let _open = OpenDevice::for_all();
    let place = Place::new();
    place.give_to(SOMEBODY);
    let mut command = place.command(&["--private"]);
    let mut server = Server::start_as(as_somebody(&mut command)).ready();
    let entry = place.entry().unwrap();
    assert!(entry.is_ours());
    assert_eq!(Path::new(&entry.source), place.store);
    let mut cat = Command::new("cat");
    let output = as_somebody(&mut cat).arg(place.small()).output().unwrap();
    assert_eq!(output.stdout, TEXT);
    // And lets go of it the same way, but not while somebody uses it.
    let mut tail = Command::new("tail");
    as_somebody(&mut tail).args(["-f", "-s", "60"]).arg(place.small());
    let mut reader = reader_started(&mut tail);
    let umount = |options: &[&str]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        as_somebody(&mut command).arg("umount").arg(&place.at).args(options).output().unwrap()
    };
    let words = String::from_utf8(umount(&[]).stderr).unwrap();
    assert!(words.contains(&format!("tail (pid {})", reader.id())), "{words}");
    assert!(place.entry().is_some());
    assert_eq!(umount(&["--lazy"]).status.code(), Some(0));
    assert_eq!(place.entry(), None);
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert_eq!(server.end(), (Some(0), String::new()));
    Ok(())
}

fn a_user_without_any_way_to_mount_is_told_what_would_help() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.give_to(SOMEBODY);
    let refusal = |options: &[&str]| {
        let mut command = place.command(options);
        let mut server = Server::start_as(as_somebody(&mut command));
        assert_eq!(server.end(), (Some(1), String::new()), "one line, and exit code 1");
        server.said.clone()
    };
    let open = OpenDevice::for_all();
    let line = refusal(&["--no-helper"]);
    assert!(line.contains("sudo") && line.contains("lighthouse-fuse run"), "{line}");
    let line = refusal(&[]);
    let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let helper = fs::metadata("/usr/bin/fusermount3").is_ok();
    if helper && !allowed.lines().any(|line| line.trim() == "user_allow_other") {
        assert!(line.contains("add user_allow_other to /etc/fuse.conf"), "{line}");
    }
    drop(open);
    if std::os::unix::fs::PermissionsExt::mode(&fs::metadata("/dev/fuse").unwrap().permissions())
        & 0o6
        == 0
    {
        let line = refusal(&["--no-helper"]);
        assert!(line.starts_with("/dev/fuse cannot be opened"), "{line}");
    }
    assert_eq!(place.entry(), None);
    Ok(())
}
