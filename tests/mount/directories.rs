//! Directories: names, listings that survive changes, renames, deep paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{CWD, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::fixture::{Mount, errno, names, open};
use crate::{Outcome, tests};

tests![
    a_listing_under_concurrent_change_names_what_stayed_once,
    every_offset_of_a_listing_can_be_gone_back_to,
    names_of_any_bytes_up_to_255_work_and_longer_ones_are_refused,
    a_path_of_200_directories_works_and_is_removed,
    a_renamed_directory_stays_the_working_directory_of_who_is_in_it,
    a_rename_replaces_refuses_or_exchanges_as_asked,
    a_directory_cannot_move_into_itself_nor_over_one_with_names,
    dot_dot_and_link_counts_follow_a_moved_directory,
    syncing_a_directory_and_its_filesystem_succeeds,
    removing_a_tree_while_it_is_listed_leaves_nothing,
];

fn a_listing_under_concurrent_change_names_what_stayed_once() -> Outcome {
    let mount = Mount::fresh()?;
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    let stays = |n: usize| format!("stays-{n}");
    for n in 0..800 {
        File::create(directory.join(stays(n))).unwrap();
        File::create(directory.join(format!("goes-{n}"))).unwrap();
    }
    let handle = open(&directory, OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let mut seen = BTreeMap::<String, u32>::new();
    // Small pieces, so that changes fall between them.
    let mut room = [MaybeUninit::uninit(); 1024];
    let mut listing = RawDir::new(&handle, &mut room);
    let mut count = 0;
    while let Some(entry) = listing.next() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        *seen.entry(name).or_default() += 1;
        if count < 800 && count % 2 == 0 {
            fs::remove_file(directory.join(format!("goes-{count}"))).unwrap();
            File::create(directory.join(format!("comes-{count}"))).unwrap();
        }
        count += 1;
    }
    for n in 0..800 {
        assert_eq!(seen.get(&stays(n)), Some(&1), "{}", stays(n));
    }
    assert!(seen.values().all(|&times| times == 1), "a name came twice");
    Ok(())
}

fn every_offset_of_a_listing_can_be_gone_back_to() -> Outcome {
    let mount = Mount::fresh()?;
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    for n in 0..300 {
        File::create(directory.join(format!("name-{n}"))).unwrap();
    }
    let handle = open(&directory, OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let list_from = |offset: u64| {
        rustix::fs::seek(&handle, SeekFrom::Start(offset)).unwrap();
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut listing = RawDir::new(&handle, &mut room);
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry.unwrap();
            entries.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
        }
        entries
    };
    let all = list_from(0);
    assert_eq!(all.len(), 302);
    assert!(all.iter().all(|(_, next)| *next < 1 << 63), "negative to a reader");
    // The names before and after an offset may change; those that stay, stay behind it.
    fs::remove_file(directory.join("name-0")).unwrap();
    File::create(directory.join("another")).unwrap();
    let changed = |name: &OsStr| name == "name-0" || name == "another";
    let kept = |entries: &[(std::ffi::CString, u64)]| -> Vec<std::ffi::CString> {
        let names = entries.iter().map(|(name, _)| name.clone());
        names.filter(|name| !changed(OsStr::from_bytes(name.as_bytes()))).collect()
    };
    for at in (0..all.len()).step_by(17) {
        let (_, offset) = all[at];
        assert_eq!(kept(&list_from(offset)), kept(&all[at + 1..]), "after entry {at}");
    }
    Ok(())
}

fn names_of_any_bytes_up_to_255_work_and_longer_ones_are_refused() -> Outcome {
    let mount = Mount::fresh()?;
    let every: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
    let mut longest = every.clone();
    longest.push(b'x');
    let odd: [&[u8]; 9] =
        [&every, &longest, b"\xff\xfe", b" ", b"-rf", b"a\nb", b"...", b"*", &[b'n'; 255]];
    for name in odd {
        fs::write(mount.path(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut listed: Vec<Vec<u8>> = fs::read_dir(mount.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    listed.sort();
    let mut wanted: Vec<Vec<u8>> = odd.iter().map(|name| name.to_vec()).collect();
    wanted.sort();
    assert_eq!(listed, wanted);
    for name in odd {
        assert_eq!(fs::read(mount.path(OsStr::from_bytes(name))).unwrap(), name);
    }
    let long = mount.path("n".repeat(256));
    assert_eq!(errno(File::create(&long)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::metadata(&long)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::create_dir(&long)), Some(Errno::NAMETOOLONG));
    Ok(())
}

fn a_path_of_200_directories_works_and_is_removed() -> Outcome {
    let mount = Mount::fresh()?;
    // Step by step, since a path may be 4095 bytes at once.
    let start = std::env::current_dir().unwrap();
    std::env::set_current_dir(mount.path("")).unwrap();
    let name = "d".repeat(100);
    for _ in 0..200 {
        fs::create_dir(&name).unwrap();
        std::env::set_current_dir(&name).unwrap();
    }
    fs::write("leaf", "deep").unwrap();
    assert_eq!(fs::read_to_string("leaf").unwrap(), "deep");
    fs::remove_file("leaf").unwrap();
    for _ in 0..200 {
        std::env::set_current_dir("..").unwrap();
        fs::remove_dir(&name).unwrap();
    }
    std::env::set_current_dir(start).unwrap();
    assert_eq!(names(&mount.path("")), Vec::<String>::new());
    Ok(())
}

fn a_renamed_directory_stays_the_working_directory_of_who_is_in_it() -> Outcome {
    let mount = Mount::fresh()?;
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::create_dir(mount.path("c")).unwrap();
    std::env::set_current_dir(mount.path("a/b")).unwrap();
    fs::rename(mount.path("a"), mount.path("c/moved")).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), mount.path("c/moved/b"));
    fs::write("file", "here").unwrap();
    assert_eq!(fs::read_to_string(mount.path("c/moved/b/file")).unwrap(), "here");
    std::env::set_current_dir("/").unwrap();
    Ok(())
}

fn a_rename_replaces_refuses_or_exchanges_as_asked() -> Outcome {
    let mount = Mount::fresh()?;
    let (a, b) = (mount.path("a"), mount.path("b"));
    let rename = |flags| rustix::fs::renameat_with(CWD, &a, CWD, &b, flags);
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"b");
    assert_eq!(names(&mount.path("")), ["b"]);
    assert_eq!(rename(RenameFlags::EXCHANGE), Err(Errno::NOENT));
    // Two names of one file: nothing happens, and both stay.
    fs::hard_link(&b, &a).unwrap();
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(names(&mount.path("")), ["a", "b"]);
    Ok(())
}

fn a_directory_cannot_move_into_itself_nor_over_one_with_names() -> Outcome {
    let mount = Mount::fresh()?;
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::create_dir_all(mount.path("full/c")).unwrap();
    fs::create_dir(mount.path("empty")).unwrap();
    fs::write(mount.path("file"), "").unwrap();
    let rename = |from: &str, to: &str| errno(fs::rename(mount.path(from), mount.path(to)));
    assert_eq!(rename("a", "a/b/c"), Some(Errno::INVAL));
    assert_eq!(rename("a", "full"), Some(Errno::NOTEMPTY));
    assert_eq!(rename("a", "file"), Some(Errno::NOTDIR));
    assert_eq!(rename("file", "empty"), Some(Errno::ISDIR));
    assert_eq!(rename("a", "empty"), None);
    assert_eq!(names(&mount.path("")), ["empty", "file", "full"]);
    assert_eq!(names(&mount.path("empty")), ["b"]);
    Ok(())
}

fn dot_dot_and_link_counts_follow_a_moved_directory() -> Outcome {
    let mount = Mount::fresh()?;
    for name in ["a/moves", "b"] {
        fs::create_dir_all(mount.path(name)).unwrap();
    }
    let links = |name: &str| fs::metadata(mount.path(name)).unwrap().nlink();
    assert_eq!((links("a"), links("b"), links("a/moves")), (3, 2, 2));
    fs::rename(mount.path("a/moves"), mount.path("b/moves")).unwrap();
    assert_eq!((links("a"), links("b"), links("b/moves")), (2, 3, 2));
    let above = fs::metadata(mount.path("b/moves/..")).unwrap().ino();
    assert_eq!(above, fs::metadata(mount.path("b")).unwrap().ino());
    Ok(())
}

fn syncing_a_directory_and_its_filesystem_succeeds() -> Outcome {
    let mount = Mount::fresh()?;
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    let handle = File::open(&directory).unwrap();
    handle.sync_all().unwrap();
    handle.sync_data().unwrap();
    rustix::fs::syncfs(&handle).unwrap();
    File::open(mount.top("")).unwrap().sync_all().unwrap();
    Ok(())
}

fn removing_a_tree_while_it_is_listed_leaves_nothing() -> Outcome {
    let mount = Mount::fresh()?;
    let tree = mount.path("tree");
    for n in 0..500 {
        let directory: PathBuf = tree.join(format!("{}", n % 7));
        fs::create_dir_all(&directory).unwrap();
        File::create(directory.join(format!("{n}"))).unwrap();
    }
    crate::fixture::program("rm", &["-r".as_ref(), tree.as_os_str()]);
    assert_eq!(names(&mount.path("")), Vec::<String>::new());
    Ok(())
}
