//! inotify(7): changes through the mount are seen by whoever watches.

use std::fs;
use std::mem::MaybeUninit;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::fixture::Mount;
use crate::{Outcome, tests};

tests![a_watcher_sees_making_writing_moving_and_removing];

fn a_watcher_sees_making_writing_moving_and_removing() -> Outcome {
    let mount = Mount::fresh()?;
    let watcher = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watcher, mount.path(""), WatchFlags::ALL_EVENTS).unwrap();
    fs::write(mount.path("file"), "text").unwrap();
    fs::rename(mount.path("file"), mount.path("moved")).unwrap();
    fs::remove_file(mount.path("moved")).unwrap();
    fs::create_dir(mount.path("directory")).unwrap();
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watcher, &mut room);
    let mut seen = Vec::new();
    loop {
        match events.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                seen.push((event.events(), name.unwrap_or_default()));
            }
            Err(Errno::AGAIN) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let wanted = [
        (ReadFlags::CREATE, "file"),
        (ReadFlags::OPEN, "file"),
        (ReadFlags::MODIFY, "file"),
        (ReadFlags::CLOSE_WRITE, "file"),
        (ReadFlags::MOVED_FROM, "file"),
        (ReadFlags::MOVED_TO, "moved"),
        (ReadFlags::DELETE, "moved"),
        (ReadFlags::CREATE | ReadFlags::ISDIR, "directory"),
    ];
    let mut rest = seen.iter();
    for (events, name) in wanted {
        assert!(
            rest.any(|(seen, of)| *seen == events && of == name),
            "{events:?} of {name} is not, in this order, among {seen:?}"
        );
    }
    Ok(())
}
