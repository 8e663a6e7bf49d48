//! Extended attributes: sizes, names, limits, and what may not be set.

use std::collections::BTreeSet;
use std::fs;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::fixture::{Mount, as_user, chmod};
use crate::{Outcome, tests};

tests![
    values_of_every_size_up_to_64_kib_come_back,
    what_is_too_large_or_has_no_room_is_refused,
    names_are_listed_and_removed,
    create_and_replace_are_kept_apart,
    symbolic_links_and_directories_take_what_ext4_lets_them,
    trusted_attributes_are_for_the_superuser,
    our_own_attributes_are_answered_and_neither_listed_nor_set,
];

fn value(path: &std::path::Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65_536];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(value)
}

fn values_of_every_size_up_to_64_kib_come_back() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    let sizes = [0_usize, 1, 255, 4095, 4096, 4097, 65_535, 65_536];
    for size in sizes {
        let bytes: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
        rustix::fs::setxattr(&path, "user.value", &bytes, XattrFlags::empty()).unwrap();
        assert!(value(&path, "user.value") == Ok(bytes), "{size}");
        assert_eq!(rustix::fs::getxattr_query(&path, "user.value"), Ok(size));
    }
    let mut small = [0; 10];
    assert_eq!(rustix::fs::getxattr(&path, "user.value", &mut small), Err(Errno::RANGE));
    mount.stop();
    mount.start(&[]);
    assert_eq!(value(&path, "user.value").unwrap().len(), 65_536);
    Ok(())
}

fn what_is_too_large_or_has_no_room_is_refused() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    let set = |name: &str, len: usize| {
        rustix::fs::setxattr(&path, name, &vec![1; len], XattrFlags::empty())
    };
    assert_eq!(set("user.value", 65_537), Err(Errno::TOOBIG));
    assert_eq!(set(&format!("user.{}", "n".repeat(250)), 1), Ok(()));
    assert_eq!(set(&format!("user.{}", "n".repeat(251)), 1), Err(Errno::RANGE));
    // The list of names must fit into 64 KiB, or nobody could read it: ENOSPC, as ext4 says.
    let full = (0..400).map(|n| set(&format!("user.{n:03}{}", "n".repeat(240)), 0));
    let refused: Vec<Errno> = full.filter_map(Result::err).collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|&errno| errno == Errno::NOSPC),
        "{refused:?}"
    );
    let mut list = vec![0; 65_536];
    rustix::fs::listxattr(&path, list.as_mut_slice()).expect("the names can be listed");
    Ok(())
}

fn names_are_listed_and_removed() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    for name in ["user.a", "trusted.b", "security.c"] {
        rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty()).unwrap();
    }
    let listed = || {
        let mut list = vec![0; 4096];
        let len = rustix::fs::listxattr(&path, list.as_mut_slice()).unwrap();
        let text = String::from_utf8(list[..len].to_vec()).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(listed(), ["security.c", "trusted.b", "user.a"].map(str::to_owned).into());
    rustix::fs::removexattr(&path, "user.a").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(listed().len(), 2);
    Ok(())
}

fn create_and_replace_are_kept_apart() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    let set = |flags| rustix::fs::setxattr(&path, "user.a", b"v", flags);
    assert_eq!(set(XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set(XattrFlags::CREATE), Ok(()));
    assert_eq!(set(XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set(XattrFlags::REPLACE), Ok(()));
    Ok(())
}

fn symbolic_links_and_directories_take_what_ext4_lets_them() -> Outcome {
    let mount = Mount::fresh()?;
    std::os::unix::fs::symlink("nowhere", mount.path("link")).unwrap();
    fs::create_dir(mount.path("directory")).unwrap();
    let set = |path: &str, name: &str| {
        rustix::fs::lsetxattr(mount.path(path), name, b"v", XattrFlags::empty())
    };
    assert_eq!(set("link", "user.a"), Err(Errno::PERM));
    assert_eq!(set("link", "trusted.a"), Ok(()));
    assert_eq!(set("directory", "user.a"), Ok(()));
    assert_eq!(value(&mount.path("link"), "trusted.a").unwrap(), b"v");
    Ok(())
}

fn trusted_attributes_are_for_the_superuser() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.commons().join("file");
    fs::write(&path, "").unwrap();
    chmod(&path, 0o666);
    rustix::fs::setxattr(&path, "trusted.a", b"v", XattrFlags::empty()).unwrap();
    as_user(crate::fixture::SOMEBODY, || {
        assert_eq!(value(&path, "trusted.a"), Err(Errno::NODATA));
        assert_eq!(rustix::fs::listxattr_query(&path), Ok(0));
        let set = |name| rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty());
        assert_eq!(set("trusted.b"), Err(Errno::PERM));
        assert_eq!(set("user.b"), Ok(()));
    });
    Ok(())
}

fn our_own_attributes_are_answered_and_neither_listed_nor_set() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    let seq = value(&path, "user.lighthouse.seq").unwrap();
    assert!(String::from_utf8(seq).unwrap().trim().parse::<u64>().unwrap() > 0);
    let set = rustix::fs::setxattr(&path, "user.lighthouse.seq", b"1", XattrFlags::empty());
    assert_eq!(set, Err(Errno::PERM));
    assert_eq!(rustix::fs::listxattr_query(&path), Ok(0));
    Ok(())
}
