//! Files that lost their last name while open: they live until the last close, and no longer.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::fixture::{Mount, names, until};
use crate::{Outcome, tests};

tests![
    an_unlinked_open_file_keeps_its_data_until_the_last_close,
    a_file_replaced_by_rename_stays_readable_through_its_handle,
    after_a_crash_unlinked_files_are_gone_and_everything_else_is_there,
    a_directory_removed_while_it_is_the_working_directory_takes_no_new_names,
    an_executable_is_unlinked_while_it_runs,
];

fn an_unlinked_open_file_keeps_its_data_until_the_last_close() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, vec![3; 200_000]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let second = file.try_clone().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    fs::write(&path, "another").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    second.write_all_at(&[4; 10], 100_000).unwrap();
    let mut bytes = vec![0; 20];
    second.read_exact_at(&mut bytes, 99_995).unwrap();
    assert_eq!(bytes[..5], [3; 5]);
    assert_eq!(bytes[5..15], [4; 10]);
    drop(second);
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    Ok(())
}

fn a_file_replaced_by_rename_stays_readable_through_its_handle() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("old"), "old content").unwrap();
    let old = File::open(mount.path("old")).unwrap();
    fs::write(mount.path("new"), "new").unwrap();
    fs::rename(mount.path("new"), mount.path("old")).unwrap();
    let mut bytes = [0; 11];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old content");
    assert_eq!(fs::read_to_string(mount.path("old")).unwrap(), "new");
    Ok(())
}

fn after_a_crash_unlinked_files_are_gone_and_everything_else_is_there() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("stays"), "answered").unwrap();
    fs::write(mount.path("goes"), vec![1; 1 << 20]).unwrap();
    let goes = File::open(mount.path("goes")).unwrap();
    fs::remove_file(mount.path("goes")).unwrap();
    fs::create_dir(mount.path("directory")).unwrap();
    let before = mount.seq();
    mount.crash();
    drop(goes);
    mount.start(&[]);
    assert_eq!(names(&mount.path("")), ["directory", "stays"]);
    assert_eq!(fs::read_to_string(mount.path("stays")).unwrap(), "answered");
    // Its end is an event, so the number of the last event tells that it was ended, once.
    assert_eq!(mount.seq(), before + 1);
    mount.stop();
    mount.start(&[]);
    assert_eq!(mount.seq(), before + 1);
    assert_eq!(fs::read(mount.past(before, "stays")).unwrap(), b"answered");
    Ok(())
}

fn a_directory_removed_while_it_is_the_working_directory_takes_no_new_names() -> Outcome {
    let mount = Mount::fresh()?;
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    std::env::set_current_dir(&directory).unwrap();
    fs::remove_dir(&directory).unwrap();
    assert_eq!(File::create("file").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(fs::read_dir(".").map(Iterator::count).unwrap_or(0), 0);
    std::env::set_current_dir("/").unwrap();
    Ok(())
}

fn an_executable_is_unlinked_while_it_runs() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("sleeper");
    fs::copy("/bin/sleep", &path).unwrap();
    let mut child = std::process::Command::new(&path).arg("30").spawn().unwrap();
    fs::remove_file(&path).unwrap();
    // Its pages come from a file without a name.
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of the file is an event", || {
        let before = mount.seq();
        std::thread::sleep(std::time::Duration::from_millis(5));
        mount.seq() == before
    });
    assert_eq!(names(&mount.path("")), Vec::<String>::new());
    Ok(())
}
