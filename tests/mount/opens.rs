//! Opening: what the flags of open(2) promise.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::io::Errno;

use crate::fixture::{Mount, errno, open, shell};
use crate::{Outcome, tests};

tests![
    a_shell_redirection_over_a_longer_file_leaves_the_new_text_alone,
    o_trunc_cuts_a_file_and_a_read_through_an_older_handle_sees_it,
    o_append_puts_every_write_at_the_end_from_several_processes,
    o_excl_makes_a_file_once_however_many_try,
    o_sync_and_o_dsync_write_like_any_other,
    o_direct_reads_and_writes_what_the_cache_has,
    a_file_without_a_name_gets_one_by_linkat,
    a_file_without_a_name_opened_with_o_excl_can_get_none,
    o_directory_o_nofollow_and_o_path_are_kept,
    a_thousand_opens_at_once_from_eight_threads_all_succeed,
    writing_through_a_handle_for_reading_is_refused,
    a_program_that_runs_is_not_cut_even_by_an_open_for_reading,
];

fn a_shell_redirection_over_a_longer_file_leaves_the_new_text_alone() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), "a longer text than the next").unwrap();
    shell(&mount.path(""), "echo short > file");
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "short\n");
    assert_eq!(fs::metadata(mount.path("file")).unwrap().len(), 6);
    Ok(())
}

fn o_trunc_cuts_a_file_and_a_read_through_an_older_handle_sees_it() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let mut older = File::open(&path).unwrap();
    let mut bytes = vec![0; 10];
    older.read_exact(&mut bytes).unwrap();
    let cut = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    assert_eq!(cut.metadata().unwrap().len(), 0);
    assert_eq!(older.read(&mut bytes).unwrap(), 0);
    // What is behind a hole is no rest of the old content.
    cut.write_all_at(b"x", 50_000).unwrap();
    let mut whole = vec![1; 50_000];
    older.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole.iter().all(|&byte| byte == 0));
    Ok(())
}

fn o_append_puts_every_write_at_the_end_from_several_processes() -> Outcome {
    let mount = Mount::fresh()?;
    let line = "for i in $(seq 50); do echo \"line $0 $i\" >> log; done";
    let all = (1..=4).map(|n| format!("sh -c '{line}' {n} & ")).collect::<String>() + "wait";
    shell(&mount.path(""), &all);
    let text = fs::read_to_string(mount.path("log")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 200, "lines were lost or torn");
    Ok(())
}

fn o_excl_makes_a_file_once_however_many_try() -> Outcome {
    let mount = Mount::fresh()?;
    for round in 0..20 {
        let path = mount.path(format!("lock-{round}"));
        let made = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..4).map(|_| scope.spawn(|| File::create_new(&path).is_ok())).collect();
            tries.into_iter().map(|one| one.join().unwrap()).filter(|&made| made).count()
        });
        assert_eq!(made, 1);
        assert_eq!(errno(File::create_new(&path)), Some(Errno::EXIST));
    }
    Ok(())
}

fn o_sync_and_o_dsync_write_like_any_other() -> Outcome {
    let mount = Mount::fresh()?;
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let path = mount.path(name);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).custom_flags(flag).open(&path).unwrap();
        for _ in 0..3 {
            file.write_all(b"kept").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"keptkeptkept");
    }
    Ok(())
}

fn o_direct_reads_and_writes_what_the_cache_has() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("file");
    fs::write(&path, vec![1; 16_384]).unwrap();
    let cached = File::open(&path).unwrap();
    let mut block = vec![0; 4096];
    cached.read_exact_at(&mut block, 4096).unwrap();
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    direct.write_all_at(&[2; 4096], 4096).unwrap();
    cached.read_exact_at(&mut block, 4096).unwrap();
    assert_eq!(block, [2; 4096], "the cache kept what was overwritten past it");
    direct.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(block, [1; 4096]);
    Ok(())
}

fn a_file_without_a_name_gets_one_by_linkat() -> Outcome {
    let mount = Mount::fresh()?;
    let file = open(&mount.path(""), OFlags::TMPFILE | OFlags::RDWR, 0o640).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 0);
    assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 0);
    let by = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, by, CWD, mount.path("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 1);
    assert_eq!(fs::read(mount.path("named")).unwrap(), b"content");
    Ok(())
}

fn a_file_without_a_name_opened_with_o_excl_can_get_none() -> Outcome {
    let mount = Mount::fresh()?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL;
    let file = open(&mount.path(""), flags, 0o600).unwrap();
    let by = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let linked = rustix::fs::linkat(CWD, by, CWD, mount.path("named"), AtFlags::SYMLINK_FOLLOW);
    assert_eq!(linked, Err(Errno::NOENT));
    Ok(())
}

fn o_directory_o_nofollow_and_o_path_are_kept() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), "x").unwrap();
    std::os::unix::fs::symlink("file", mount.path("link")).unwrap();
    let refused = |name: &str, flags| open(&mount.path(name), flags, 0).err();
    assert_eq!(refused("file", OFlags::DIRECTORY | OFlags::RDONLY), Some(Errno::NOTDIR));
    assert_eq!(refused("link", OFlags::NOFOLLOW | OFlags::RDONLY), Some(Errno::LOOP));
    assert_eq!(refused("", OFlags::RDWR), Some(Errno::ISDIR));
    let path_only = open(&mount.path("link"), OFlags::PATH | OFlags::NOFOLLOW, 0).unwrap();
    assert!(rustix::fs::fstat(&path_only).unwrap().st_mode & 0o170_000 == 0o120_000);
    Ok(())
}

fn a_thousand_opens_at_once_from_eight_threads_all_succeed() -> Outcome {
    let mount = Mount::fresh()?;
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) },
    )
    .unwrap();
    let held: Vec<File> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let mount = &mount;
                scope.spawn(move || {
                    (0..125)
                        .map(|n| {
                            let path = mount.path(format!("{thread}-{n}"));
                            let mut options = OpenOptions::new();
                            options.read(true).write(true).create_new(true);
                            let mut file = options.open(path).unwrap();
                            write!(file, "{thread}-{n}").unwrap();
                            file
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(held.len(), 1000);
    let mut texts: Vec<String> = held
        .iter()
        .map(|file| {
            let mut bytes = [0; 16];
            let len = file.read_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        })
        .collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 1000, "two handles share a file");
    Ok(())
}

fn writing_through_a_handle_for_reading_is_refused() -> Outcome {
    let mount = Mount::fresh()?;
    fs::write(mount.path("file"), "x").unwrap();
    let file = File::open(mount.path("file")).unwrap();
    assert_eq!(errno(file.write_at(b"y", 0)), Some(Errno::BADF));
    assert_eq!(errno(file.set_len(0)), Some(Errno::INVAL));
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"x");
    Ok(())
}

fn a_program_that_runs_is_not_cut_even_by_an_open_for_reading() -> Outcome {
    let mount = Mount::fresh()?;
    let path = mount.path("program");
    let name = path.to_str().unwrap();
    shell(&mount.path(""), &format!("cp -L \"$(command -v sleep)\" {name}"));
    let whole = fs::read(&path).unwrap();
    let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(open(&path, flags, 0).map(drop), Err(Errno::TXTBSY), "{flags:?}");
    }
    assert!(running.try_wait().unwrap().is_none(), "it still runs");
    assert!(fs::read(&path).unwrap() == whole, "the program is as it was");
    running.kill().unwrap();
    running.wait().unwrap();
    // Its last RELEASE comes a little after its end.
    let ends = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(refused) = open(&path, OFlags::RDONLY | OFlags::TRUNC, 0) {
        assert_eq!(refused, Errno::TXTBSY);
        assert!(std::time::Instant::now() < ends, "no longer a running program");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    Ok(())
}
