//! `history/@N`: what was, equal to what it was, and not to be changed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;

use crate::fixture::{Mount, chmod, errno, names};
use crate::{Outcome, tests};

tests![
    every_moment_shows_the_tree_as_it_was_then_also_after_a_crash,
    nothing_below_history_can_be_changed,
    moments_are_compared_and_copied_by_ordinary_programs,
    one_directory_under_two_moments_keeps_both_working_directories,
    a_moment_that_is_not_there_yet_is_no_file_and_is_there_later,
    a_label_given_again_at_once_leads_somewhere_while_somebody_is_in_it,
    a_read_only_mount_refuses_changes_and_shows_everything,
];

/// Mode, owner, size, links, time and content.
type Node = (u32, u32, u64, u64, i64, Vec<u8>);

/// Everything below `top`, by path.
fn tree(top: &Path) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let is = fs::symlink_metadata(&path).unwrap();
            let content = match is.file_type() {
                kind if kind.is_dir() => {
                    waiting.push(path.clone());
                    Vec::new()
                }
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => fs::read(&path).unwrap(),
            };
            let name = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
            let of = (is.mode(), is.uid(), is.size(), is.nlink(), is.mtime_nsec(), content);
            found.insert(name, of);
        }
    }
    found
}

fn every_moment_shows_the_tree_as_it_was_then_also_after_a_crash() -> Outcome {
    let mount = Mount::fresh()?;
    let path = |name: &str| mount.path(name);
    type Change<'a> = Box<dyn Fn() + 'a>;
    let changes: Vec<Change<'_>> = vec![
        Box::new(|| fs::create_dir_all(path("a/b")).unwrap()),
        Box::new(|| fs::write(path("a/b/file"), vec![1; 100_000]).unwrap()),
        Box::new(|| fs::hard_link(path("a/b/file"), path("linked")).unwrap()),
        Box::new(|| {
            let file = OpenOptions::new().write(true).open(path("linked")).unwrap();
            file.write_all_at(&[2; 5000], 50_000).unwrap();
        }),
        Box::new(|| chmod(&path("linked"), 0o600)),
        Box::new(|| fs::rename(path("a"), path("c")).unwrap()),
        Box::new(|| std::os::unix::fs::symlink("c/b/file", path("soft")).unwrap()),
        Box::new(|| File::options().write(true).open(path("soft")).unwrap().set_len(10).unwrap()),
        Box::new(|| fs::remove_file(path("linked")).unwrap()),
        Box::new(|| fs::write(path("soft"), "new").unwrap()),
        Box::new(|| fs::remove_dir_all(path("c")).unwrap()),
    ];
    let mut moments = vec![(mount.seq(), tree(&path("")))];
    for change in changes {
        change();
        moments.push((mount.seq(), tree(&path(""))));
    }
    let check = || {
        for (seq, was) in &moments {
            assert!(tree(&mount.past(*seq, "")) == *was, "@{seq} is not what it was");
        }
    };
    check();
    mount.crash();
    mount.start(&[]);
    check();
    Ok(())
}

fn moments_are_compared_and_copied_by_ordinary_programs() -> Outcome {
    let mount = Mount::fresh()?;
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/b/c/file"), "one").unwrap();
    fs::write(mount.path("same"), "same").unwrap();
    let before = mount.seq();
    fs::write(mount.path("a/b/c/file"), "two").unwrap();
    let after = mount.seq();
    let (past, now) = (mount.past(before, ""), mount.past(after, ""));
    // Of none of the directories on the way anything but what is below has changed.
    let diff = Command::new("diff").arg("-r").args([&past, &now]).output().unwrap();
    let said = String::from_utf8_lossy(&diff.stdout);
    assert_eq!(diff.status.code(), Some(1), "{diff:?}");
    assert!(said.contains("< one") && said.contains("> two"), "{said}");
    assert!(!said.contains("same"), "{said}");
    let copies = tempfile::tempdir().unwrap();
    let copied =
        Command::new("cp").arg("-a").args([&past, &now]).arg(copies.path()).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    for (seq, content) in [(before, "one"), (after, "two")] {
        let file = copies.path().join(format!("@{seq}/a/b/c/file"));
        assert_eq!(fs::read_to_string(file).unwrap(), content);
    }
    // A file that was left alone is one and the same, and no directory is.
    let number = |top: &Path, name: &str| fs::metadata(top.join(name)).unwrap().ino();
    assert_eq!(number(&past, "same"), number(&now, "same"));
    for name in ["", "a", "a/b", "a/b/c"] {
        assert_ne!(number(&past, name), number(&now, name), "{name}");
        assert_eq!(number(&past, name), number(&past, name));
        assert!(number(&past, name) < 1 << 53);
    }
    Ok(())
}

fn nothing_below_history_can_be_changed() -> Outcome {
    let mount = Mount::fresh()?;
    fs::create_dir(mount.path("directory")).unwrap();
    fs::write(mount.path("file"), "then").unwrap();
    let seq = mount.seq();
    let past = |name: &str| mount.past(seq, name);
    let refused = [
        errno(File::create(past("new"))),
        errno(OpenOptions::new().write(true).open(past("file"))),
        errno(OpenOptions::new().write(true).truncate(true).open(past("file"))),
        errno(fs::create_dir(past("new"))),
        errno(fs::remove_file(past("file"))),
        errno(fs::remove_dir(past("directory"))),
        errno(fs::rename(past("file"), past("other"))),
        errno(fs::hard_link(past("file"), past("other"))),
        errno(std::os::unix::fs::symlink("x", past("new"))),
        errno(std::os::unix::fs::chown(past("file"), Some(1), Some(1))),
        errno(fs::set_permissions(past("file"), std::os::unix::fs::PermissionsExt::from_mode(0o0))),
        rustix::fs::setxattr(past("file"), "user.a", b"v", rustix::fs::XattrFlags::empty()).err(),
        errno(File::create(mount.top("history/new"))),
        errno(File::create(mount.top("new"))),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused, Some(Errno::ROFS), "change {n}");
    }
    let moved = errno(fs::rename(past("file"), mount.path("back")));
    assert!(matches!(moved, Some(Errno::ROFS | Errno::XDEV)), "{moved:?}");
    assert_eq!(mount.seq(), seq);
    assert_eq!(fs::read_to_string(past("file")).unwrap(), "then");
    // But everything can be brought back.
    fs::copy(past("file"), mount.path("back")).unwrap();
    Ok(())
}

fn one_directory_under_two_moments_keeps_both_working_directories() -> Outcome {
    let mount = Mount::fresh()?;
    fs::create_dir(mount.path("directory")).unwrap();
    fs::write(mount.path("directory/first"), "").unwrap();
    let one = mount.seq();
    fs::write(mount.path("directory/second"), "").unwrap();
    let two = mount.seq();
    std::env::set_current_dir(mount.past(one, "directory")).unwrap();
    let here = File::open(mount.past(two, "directory")).unwrap();
    assert_eq!(names(&mount.past(two, "directory")), ["first", "second"]);
    assert_eq!(names(&mount.path("directory")), ["first", "second"]);
    assert_eq!(std::env::current_dir().unwrap(), mount.past(one, "directory"));
    assert_eq!(names(Path::new(".")), ["first"]);
    let by = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&here));
    assert_eq!(fs::read_link(by).unwrap(), mount.past(two, "directory"));
    std::env::set_current_dir("/").unwrap();
    Ok(())
}

fn a_moment_that_is_not_there_yet_is_no_file_and_is_there_later() -> Outcome {
    let mount = Mount::fresh()?;
    let next = mount.seq() + 1;
    let path = mount.past(next, "");
    assert_eq!(errno(fs::metadata(&path)), Some(Errno::NOENT));
    fs::create_dir(mount.path("directory")).unwrap();
    assert_eq!(names(&path), ["directory"]);
    assert_eq!(errno(fs::metadata(mount.top("history/nonsense"))), Some(Errno::NOENT));
    Ok(())
}

fn a_label_given_again_at_once_leads_somewhere_while_somebody_is_in_it() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), "").unwrap();
    let label = mount.top("history/v1");
    fs::create_dir(&label).unwrap();
    let inside = File::open(&label).unwrap();
    assert_eq!(names(&label), ["file"]);
    fs::remove_dir(&label).unwrap();
    fs::create_dir(&label).unwrap();
    assert_eq!(names(&label), ["file"]);
    assert_eq!(fs::metadata(label.join("file")).unwrap().len(), 0);
    drop(inside);
    Ok(())
}

fn a_read_only_mount_refuses_changes_and_shows_everything() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), "kept").unwrap();
    let seq = mount.seq();
    mount.stop();
    mount.start(&["--read-only"]);
    assert_eq!(errno(File::create(mount.path("new"))), Some(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(mount.path("file"))), Some(Errno::ROFS));
    let mut text = String::new();
    File::open(mount.path("file")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept");
    assert_eq!(fs::read_to_string(mount.past(seq, "file")).unwrap(), "kept");
    Ok(())
}
