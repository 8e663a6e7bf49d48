//! `streams/` and `debug/` as real programs meet them: `cat` ends, `tail` and poll(2) follow, walks end.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{ANOTHER, Mount, SOMEBODY, as_user, bounded, errno, names, shell, until};
use crate::{Outcome, tests};

tests![
    walks_over_the_whole_mount_are_right_and_end,
    tail_follows_a_stream_by_descriptor_and_by_name,
    poll_waits_until_there_is_more_and_any_number_of_readers_get_it,
    nothing_in_a_section_can_be_written_and_other_names_are_not_there,
    an_access_control_list_holds_in_every_section,
];

const CHANGES: &str = "streams/file_changes";

fn walks_over_the_whole_mount_are_right_and_end() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/needle"), "a needle in here\n").unwrap();
    let top = mount.top("");
    assert_eq!(names(&top), ["context", "current", "debug", "history", "shadows", "streams"]);
    let found = shell(&top, "find . | sort");
    for path in
        ["./current/d/needle", "./streams/file_changes", "./streams/from", "./debug/health.json"]
    {
        assert!(found.lines().any(|line| line == path), "{path} in {found}");
    }
    let hits = shell(&top, "grep -rl needle . | sort");
    assert!(hits.contains("./current/d/needle\n") && hits.contains("./streams/file_changes\n"));
    assert!(shell(&top, "ls -lR .").contains("operation_log.txt"));
    shell(&top, "du -s . && df . && tar cf /dev/null .");
    for file in [CHANGES, "debug/performance.json", "debug/operation_log.txt"] {
        let path = mount.top(file);
        let counted = shell(&top, &format!("cat {file} | wc -c"));
        let size = fs::metadata(&path).unwrap().size();
        let read = fs::read(&path).unwrap().len() as u64;
        // What a file of debug/ tells changes between any two of these; a stream that nobody feeds does not.
        if file == CHANGES {
            assert_eq!((counted.trim(), read), (&*size.to_string(), size));
            assert_eq!(shell(&top, &format!("wc -c < {file}")).trim(), size.to_string());
        }
        assert!(read > 0 && size > 0, "{file}");
    }
    let mut open = File::open(mount.top("debug/health.json")).unwrap();
    let size = open.metadata().unwrap().size();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, size, "as long as it was said to be");
    assert!(text.contains("\"healthy\""));
    Ok(())
}

fn tail_follows_a_stream_by_descriptor_and_by_name() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    fs::write(mount.path("before"), "x").unwrap();
    for how in ["-f", "-F"] {
        let out = mount.top("..").join(format!("out{how}"));
        let mut tail = Command::new("timeout")
            .args(["20", "tail", "-n", "+1", "-s", "0.05", how])
            .arg(mount.top(CHANGES))
            .stdout(Stdio::from(File::create(&out).unwrap()))
            .spawn()
            .unwrap();
        let told = || fs::read_to_string(&out).unwrap();
        until("what was before is told", || told().contains("\"/before\""));
        let name = format!("after{how}");
        fs::write(mount.path(&name), "x").unwrap();
        until("what comes is told", || told().contains(&format!("\"/{name}\"")));
        // Killed, it could not pass that on, and `tail` would keep the mount from ending.
        let timeout = Pid::from_child(&tail);
        kill_process(timeout, Signal::TERM).unwrap();
        tail.wait().unwrap();
        let whole = fs::read_to_string(mount.top(CHANGES)).unwrap();
        assert!(whole.starts_with(&told()), "no event twice, none left out");
    }
    Ok(())
}

fn poll_waits_until_there_is_more_and_any_number_of_readers_get_it() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    let ready = |file: &File, ms: u64| {
        let mut polled = [PollFd::new(file, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_millis(ms)).unwrap();
        poll(&mut polled, Some(&patience)).unwrap() == 1
    };
    let mut readers: Vec<File> = (0..3).map(|_| File::open(mount.top(CHANGES)).unwrap()).collect();
    for reader in &mut readers {
        let mut told = String::new();
        reader.read_to_string(&mut told).unwrap();
        assert!(!ready(reader, 0), "read to the end");
    }
    assert!(!ready(&readers[0], 200), "nothing happens");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = readers
            .iter_mut()
            .map(|reader| {
                scope.spawn(move || {
                    assert!(ready(reader, 15_000), "woken");
                    let mut told = String::new();
                    reader.read_to_string(&mut told).unwrap();
                    told
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        fs::create_dir(mount.path("new")).unwrap();
        for told in waiting {
            let told = told.join().unwrap();
            assert_eq!(told.lines().count(), 1, "{told}");
            assert!(told.contains("directory_created"));
        }
    });
    let plain = File::open(mount.top("debug/health.json")).unwrap();
    assert!(ready(&plain, 0), "other files are always ready");
    Ok(())
}

fn nothing_in_a_section_can_be_written_and_other_names_are_not_there() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    for name in ["streams/x", "debug/x", "streams/from/@2/x", "x"] {
        let path = mount.top(name);
        assert_eq!(errno(fs::metadata(&path)), Some(Errno::NOENT), "{name}");
        assert_eq!(errno(fs::write(&path, "x")), Some(Errno::ROFS), "{name}");
        assert_eq!(errno(fs::create_dir(&path)), Some(Errno::ROFS), "{name}");
    }
    for name in [CHANGES, "debug/health.json"] {
        let path = mount.top(name);
        assert_eq!(errno(fs::write(&path, "x")), Some(Errno::ROFS), "{name}");
        assert_eq!(errno(fs::remove_file(&path)), Some(Errno::ROFS), "{name}");
    }
    let output = bounded(Command::new("cp").arg(mount.top(CHANGES)).arg(mount.path("copy")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn an_access_control_list_holds_in_every_section() -> Outcome {
    let mount = Mount::with(&["--sections"])?;
    let top = mount.top("");
    let list = |path: &str, list: &str| {
        shell(&top, &format!("chgrp {ANOTHER} {path} && setfacl -m {list} {path}"));
    };
    let reads = |id, path: &str| as_user(id, || errno(fs::read(mount.top(path))));
    fs::write(mount.path("file"), "secret").unwrap();
    shell(&top, "chmod 755 current && chmod 640 current/file");
    list("current/file", &format!("u:{SOMEBODY}:r,g::---"));
    for path in ["current/file", "shadows/file"] {
        assert_eq!(reads(ANOTHER, path), Some(Errno::ACCESS), "{path}");
        assert_eq!(reads(SOMEBODY, path), None, "{path}");
    }
    // Whoever may enter the tree alone may also go there.
    shell(&top, "chmod 700 current");
    list("current", &format!("u:{SOMEBODY}:rx,g::---"));
    let lists = |id, path: &str| as_user(id, || errno(fs::read_dir(mount.top(path))));
    for path in ["", "current", "history", "shadows", "streams", "debug", "context"] {
        until(path, || lists(ANOTHER, path) == Some(Errno::ACCESS));
        until(path, || lists(SOMEBODY, path).is_none());
    }
    assert_eq!(reads(SOMEBODY, CHANGES), None);
    assert_eq!(reads(ANOTHER, CHANGES), Some(Errno::ACCESS));
    shell(&top, "setfacl -b current && chmod 750 current");
    for path in ["", "current", "history", "shadows", "streams", "debug", "context"] {
        until(path, || lists(ANOTHER, path).is_none());
        until(path, || lists(SOMEBODY, path) == Some(Errno::ACCESS));
    }
    Ok(())
}
