//! How many requests the kernel needs: a budget per action.
//!
//! Counted in the server's own log at `--log-level trace`, which has a line per request it was asked, written
//! before the answer. Releases follow a close some time later, so each action is waited for to be quiet.
//!
//! What others on this machine ask, who look into every mount there is, does not count: a line says who asked. A release
//! says nobody (the kernel sends it by itself), so others' are those that follow what they opened.
//!
//! What is cached asks nothing; each change asks what the kernel needs for it, and no more. Two requests are
//! there that look spare, and that nothing tried here has saved (Linux 6.18):
//!
//! - GETXATTR of `security.capability`, before the first write through the cache or truncation after attributes came. HANDLE_KILLPRIV_V2
//!   is on, else it would come before each. The kernel remembers that there is none in `S_NOSEC`, and
//!   every refresh of attributes clears that (`fuse_change_attributes_common`), the one of CREATE too. ENOSYS would
//!   stop it, and all extended attributes with it.
//! - GETATTR of a directory, at the next walk through it after a name in it changed: the kernel takes all its
//!   attributes for old, its mode too (`fuse_dir_changed`), and replies to changes of names carry none.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use rustix::fs::XattrFlags;

use crate::fixture::{Mount, chmod, names};
use crate::{Outcome, tests};

tests![
    repeated_stat_open_directories_links_and_reads_ask_nothing,
    a_missing_name_is_asked_for_once,
    a_new_file_written_and_closed_asks_for_each_step_once,
    a_new_file_that_is_only_written_asks_for_no_capability_and_is_read_once,
    many_new_files_in_one_directory_ask_for_its_attributes_once_each,
    a_second_write_through_the_same_handle_asks_for_the_write_alone,
    changes_of_names_ask_for_themselves_alone,
    changes_of_attributes_ask_for_themselves_alone,
    o_sync_waits_with_each_write,
    walking_a_tree_and_its_attributes_asks_for_listings_alone,
    the_past_is_cached_like_the_present,
    one_mebibyte_is_one_write,
    what_others_ask_does_not_count,
];

/// A mount whose requests are counted.
struct Counted {
    mount: Mount,
    /// Processes that ask for us.
    programs: RefCell<Vec<u32>>,
}

impl Counted {
    fn new() -> Result<Self, crate::Skipped> {
        let mount = Mount::with(&["--log-level", "trace"])?;
        // The first close is told that FLUSH is not needed, and no other asks.
        fs::write(mount.path("first"), "x").unwrap();
        fs::metadata(mount.path("first")).unwrap();
        fs::metadata(mount.path("")).unwrap();
        Ok(Self { mount, programs: RefCell::default() })
    }

    fn all(&self) -> Vec<String> {
        let field = |line: &str, name: &str| -> Option<String> {
            let value = line.rsplit_once(name)?.1.trim_start_matches('"');
            Some(value.split(['"', ' ']).next()?.to_owned())
        };
        let mut others_open = 0;
        let mut all = Vec::new();
        for line in self.mount.log().lines().filter(|line| line.contains("asked")) {
            // The last line may be half written.
            let Some(operation) = field(line, " operation=") else { continue };
            let pid: u32 = field(line, " pid=").unwrap().parse().unwrap();
            let by_others = match (pid, operation.as_str()) {
                (0, "RELEASE" | "RELEASEDIR") if others_open > 0 => {
                    others_open -= 1;
                    true
                }
                (0, _) => false,
                (_, "OPEN" | "OPENDIR" | "CREATE") if !self.asks_for_us(pid) => {
                    others_open += 1;
                    true
                }
                _ => !self.asks_for_us(pid),
            };
            if !by_others {
                all.push(operation);
            }
        }
        all
    }

    /// Whether a process is this one, or one it started and counts.
    fn asks_for_us(&self, pid: u32) -> bool {
        pid == std::process::id() || self.programs.borrow().contains(&pid)
    }

    /// All that was asked, once nothing comes any more.
    fn settled(&self) -> Vec<String> {
        loop {
            let before = self.all();
            std::thread::sleep(Duration::from_millis(30));
            if self.all().len() == before.len() {
                return before;
            }
        }
    }

    /// What `action` asked for, in order.
    fn of(&self, action: impl FnOnce(&Mount)) -> Vec<String> {
        let before = self.settled().len();
        action(&self.mount);
        self.settled().split_off(before)
    }

    /// Lets the kernel have the attributes of the top of the tree.
    fn refresh(&self) {
        fs::metadata(self.mount.path("")).unwrap();
    }

    /// Fails unless `action` asked for exactly that.
    fn exactly(&self, what: &str, budget: &[&str], action: impl FnOnce(&Mount)) {
        assert_eq!(self.of(action), budget, "{what}");
    }
}

fn repeated_stat_open_directories_links_and_reads_ask_nothing() -> Outcome {
    let counted = Counted::new()?;
    let path = |name: &str| counted.mount.path(name);
    fs::create_dir(path("directory")).unwrap();
    for n in 0..20 {
        fs::write(path(&format!("directory/{n}")), vec![1; 10_000]).unwrap();
    }
    std::os::unix::fs::symlink("directory/0", path("link")).unwrap();
    let stat = |_: &Mount| assert!(fs::metadata(path("directory/0")).unwrap().is_file());
    stat(&counted.mount);
    counted.exactly("stat", &[], stat);
    let link = |_: &Mount| drop(fs::read_link(path("link")).unwrap());
    link(&counted.mount);
    counted.exactly("readlink", &[], link);
    let open = File::open(path("directory/0")).unwrap();
    let read = |_: &Mount| {
        let mut bytes = vec![0; 10_000];
        open.read_exact_at(&mut bytes, 0).unwrap();
    };
    read(&counted.mount);
    counted.exactly("a cached read", &[], read);
    let whole = |_: &Mount| drop(fs::read(path("directory/0")).unwrap());
    whole(&counted.mount);
    counted.exactly("open, read and close", &["OPEN", "RELEASE"], whole);
    let list = |_: &Mount| assert_eq!(names(&path("directory")).len(), 20);
    list(&counted.mount);
    list(&counted.mount);
    counted.exactly("a cached listing", &[], list);
    Ok(())
}

fn a_missing_name_is_asked_for_once() -> Outcome {
    let counted = Counted::new()?;
    let missing = |mount: &Mount| assert!(!mount.path("missing").exists());
    counted.exactly("the first time", &["LOOKUP"], missing);
    counted.exactly("again", &[], missing);
    fs::write(counted.mount.path("missing"), "").unwrap();
    assert!(counted.mount.path("missing").exists());
    fs::remove_file(counted.mount.path("missing")).unwrap();
    Ok(())
}

fn a_new_file_written_and_closed_asks_for_each_step_once() -> Outcome {
    let counted = Counted::new()?;
    let steps = ["LOOKUP", "CREATE", "GETXATTR", "WRITE", "RELEASE"];
    for n in 0..3 {
        counted.refresh();
        counted.exactly("create, write, close", &steps, |mount| {
            let mut file = File::create_new(mount.path(format!("new-{n}"))).unwrap();
            file.write_all(&[1; 4096]).unwrap();
        });
    }
    Ok(())
}

fn a_new_file_that_is_only_written_asks_for_no_capability_and_is_read_once() -> Outcome {
    let counted = Counted::new()?;
    let mut create = OpenOptions::new();
    create.write(true).create_new(true);
    let written = ["LOOKUP", "CREATE", "WRITE", "WRITE", "RELEASE"];
    for n in 0..3 {
        let path = counted.mount.path(format!("new-{n}"));
        counted.refresh();
        counted.exactly("create, write, close", &written, |_| {
            let mut file = create.open(&path).unwrap();
            file.write_all(&[1; 4096]).unwrap();
            file.write_all(&[2; 100]).unwrap();
        });
        // What has read it has it in the cache.
        let read = |_: &Mount| assert_eq!(fs::read(&path).unwrap().len(), 4196);
        assert!(counted.of(read).contains(&"READ".to_owned()));
        // After a READ the kernel asks for the time of that.
        counted.of(read);
        counted.exactly("read again", &["OPEN", "RELEASE"], read);
    }
    counted.refresh();
    let synced = ["LOOKUP", "CREATE", "WRITE", "RELEASE"];
    counted.exactly("a new file with O_SYNC", &synced, |mount| {
        let mut file =
            create.clone().custom_flags(libc::O_SYNC).open(mount.path("synced")).unwrap();
        file.write_all(&[1; 4096]).unwrap();
    });
    counted.refresh();
    let logged = ["LOOKUP", "CREATE", "GETXATTR", "WRITE", "RELEASE"];
    counted.exactly("a new log", &logged, |mount| {
        let mut file = create.clone().append(true).open(mount.path("log")).unwrap();
        file.write_all(&[1; 4096]).unwrap();
    });
    Ok(())
}

fn many_new_files_in_one_directory_ask_for_its_attributes_once_each() -> Outcome {
    let counted = Counted::new()?;
    let asked = counted.of(|mount| {
        for n in 0..100 {
            fs::write(mount.path(format!("{n}")), [1; 4096]).unwrap();
        }
    });
    assert!(asked.len() <= 500, "{} requests for 100 files", asked.len());
    assert!(!asked.iter().any(|name| name == "FLUSH"), "closing asks to flush");
    Ok(())
}

fn a_second_write_through_the_same_handle_asks_for_the_write_alone() -> Outcome {
    let counted = Counted::new()?;
    let mut file = File::create_new(counted.mount.path("file")).unwrap();
    file.write_all(b"first").unwrap();
    counted.exactly("three writes", &["WRITE"; 3], |_| {
        for _ in 0..3 {
            file.write_all(b"more").unwrap();
        }
    });
    Ok(())
}

fn changes_of_names_ask_for_themselves_alone() -> Outcome {
    let counted = Counted::new()?;
    counted.refresh();
    counted.exactly("mkdir", &["LOOKUP", "MKDIR"], |mount| {
        fs::create_dir(mount.path("directory")).unwrap();
    });
    counted.refresh();
    counted.exactly("symlink", &["LOOKUP", "SYMLINK"], |mount| {
        std::os::unix::fs::symlink("x", mount.path("symlink")).unwrap();
    });
    counted.refresh();
    counted.exactly("link", &["LOOKUP", "LINK"], |mount| {
        fs::hard_link(mount.path("first"), mount.path("linked")).unwrap();
    });
    counted.refresh();
    counted.exactly("rename", &["LOOKUP", "RENAME"], |mount| {
        fs::rename(mount.path("linked"), mount.path("renamed")).unwrap();
    });
    counted.refresh();
    counted.exactly("unlink", &["UNLINK"], |mount| {
        fs::remove_file(mount.path("renamed")).unwrap();
    });
    counted.refresh();
    counted.exactly("rmdir", &["RMDIR"], |mount| {
        fs::remove_dir(mount.path("directory")).unwrap();
    });
    Ok(())
}

fn changes_of_attributes_ask_for_themselves_alone() -> Outcome {
    let counted = Counted::new()?;
    counted.exactly("chmod", &["SETATTR"], |mount| chmod(&mount.path("first"), 0o600));
    counted.exactly("truncate", &["OPEN", "GETXATTR", "SETATTR", "RELEASE"], |mount| {
        OpenOptions::new().write(true).open(mount.path("first")).unwrap().set_len(5).unwrap();
    });
    counted.exactly("`>` over a file", &["OPEN", "GETXATTR", "RELEASE"], |mount| {
        drop(File::create(mount.path("first")).unwrap());
    });
    counted.exactly("setxattr", &["SETXATTR"], |mount| {
        rustix::fs::setxattr(mount.path("first"), "user.a", b"v", XattrFlags::empty()).unwrap();
    });
    Ok(())
}

fn o_sync_waits_with_each_write() -> Outcome {
    let counted = Counted::new()?;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_SYNC);
    let mut file = options.open(counted.mount.path("first")).unwrap();
    file.write_all(b"x").unwrap();
    counted.exactly("a write with O_SYNC", &["WRITE", "FSYNC"], |_| file.write_all(b"y").unwrap());
    Ok(())
}

fn walking_a_tree_and_its_attributes_asks_for_listings_alone() -> Outcome {
    let counted = Counted::new()?;
    for n in 0..3000 {
        let directory = counted.mount.path(format!("tree/{}", n % 10));
        fs::create_dir_all(&directory).unwrap();
        File::create(directory.join(format!("{n}"))).unwrap();
    }
    // Nothing of it is cached after a restart.
    counted.mount.stop();
    counted.mount.start(&["--log-level", "trace"]);
    let asked = counted.of(|mount| {
        let mut find = std::process::Command::new("find");
        let mut find = find.arg(mount.path("tree")).args(["-printf", "%s"]);
        find = find.stdout(std::process::Stdio::null());
        let mut find = find.spawn().unwrap();
        counted.programs.borrow_mut().push(find.id());
        assert!(find.wait().unwrap().success());
    });
    let lookups =
        asked.iter().filter(|name| matches!(name.as_str(), "LOOKUP" | "GETATTR" | "STATX"));
    // A tenth of one request per file; and no request for each.
    assert!(asked.len() < 400, "{} requests for 3,000 files: {asked:?}", asked.len());
    assert!(lookups.count() < 200, "{asked:?}");
    Ok(())
}

fn the_past_is_cached_like_the_present() -> Outcome {
    let counted = Counted::new()?;
    fs::create_dir(counted.mount.path("directory")).unwrap();
    fs::write(counted.mount.path("directory/file"), vec![1; 10_000]).unwrap();
    let past = counted.mount.past(counted.mount.seq(), "directory/file");
    let mut open = File::open(&past).unwrap();
    open.read_to_end(&mut Vec::new()).unwrap();
    fs::metadata(&past).unwrap();
    counted.exactly("stat in the past", &[], |_| assert!(fs::metadata(&past).unwrap().is_file()));
    counted.exactly("a cached read of the past", &[], |_| {
        let mut bytes = vec![0; 10_000];
        open.read_exact_at(&mut bytes, 0).unwrap();
    });
    Ok(())
}

fn one_mebibyte_is_one_write() -> Outcome {
    let counted = Counted::new()?;
    let bytes = vec![1; 1 << 20];
    let file = File::create_new(counted.mount.path("large")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    counted.exactly("1 MiB", &["WRITE"], |_| file.write_all_at(&bytes, 0).unwrap());
    Ok(())
}

fn what_others_ask_does_not_count() -> Outcome {
    let counted = Counted::new()?;
    counted.exactly("chmod, while others look around and write", &["SETATTR"], |mount| {
        let line = "ls -l . .. nothing; cat first; echo more >> first";
        crate::fixture::shell(&mount.path(""), line);
        chmod(&mount.path("first"), 0o600);
        crate::fixture::shell(&mount.path(""), line);
    });
    Ok(())
}
