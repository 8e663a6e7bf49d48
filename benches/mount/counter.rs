//! How many requests does the kernel send? Its own trace tells, where it has one for FUSE.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How ring buffers of ours are called, before the number of who made it.
const INSTANCE: &str = "lighthouse-bench-";

/// The kernel's own trace of what it sends, in a ring buffer of ours.
pub(crate) struct Counter {
    tracefs: PathBuf,
    instance: PathBuf,
    /// Whether it was mounted here.
    mounted: Option<tempfile::TempDir>,
}

impl Counter {
    /// `None` where this kernel does not trace FUSE (before Linux 6.11), or not for us.
    pub(crate) fn new() -> Option<Self> {
        let mut tracefs = PathBuf::from("/sys/kernel/tracing");
        let mut mounted = None;
        if !tracefs.join("instances").exists() {
            let directory = tempfile::tempdir().ok()?;
            tracefs = directory.path().to_owned();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tracefs", &tracefs, "tracefs", flags, None).ok()?;
            mounted = Some(directory);
        }
        let instances = tracefs.join("instances");
        remove_dead(&instances);
        let instance = instances.join(format!("{INSTANCE}{}", std::process::id()));
        let made = fs::create_dir(&instance).is_ok();
        let counter = Self { tracefs, instance, mounted };
        // A walk of all files sends more than fits otherwise.
        let _ = fs::write(counter.instance.join("buffer_size_kb"), "16384");
        (made && counter.event().exists()).then_some(counter)
    }

    fn event(&self) -> PathBuf {
        self.instance.join("events/fuse/fuse_request_send/enable")
    }

    /// The requests that go over `connection` while `act` does something `count` times.
    pub(crate) fn during(&self, connection: u32, count: u64, act: impl FnOnce()) -> Counted {
        let trace = self.instance.join("trace");
        let set = |path: &Path, to: &str| fs::write(path, to).expect("tracing can be set");
        set(&trace, "");
        set(&self.event(), "1");
        act();
        // RELEASE is sent when nobody waits for it any more.
        std::thread::sleep(Duration::from_millis(20));
        set(&self.event(), "0");
        let text = fs::read_to_string(&trace).expect("a trace can be read");
        let ours = format!("connection {connection} ");
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for line in text.lines().filter(|line| line.contains(&ours)) {
            let Some((_, rest)) = line.split_once("(FUSE_") else { continue };
            let Some((name, _)) = rest.split_once(')') else { continue };
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        // What comes once in all, or ever so seldom, is none of the operation's own.
        let own =
            counts.iter().filter(|(_, sent)| (*sent > 1 || count == 1) && *sent * 200 >= count);
        own.fold(Counted::default(), |mut all, (name, sent)| {
            all.each += *sent as f64 / count as f64;
            all.names = format!("{} {name}", all.names);
            all
        })
    }
}

/// Removes the ring buffers of those that were interrupted: each holds 16 MiB a CPU until someone does.
fn remove_dead(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(maker) = name.to_str().and_then(|name| name.strip_prefix(INSTANCE)) else {
            continue;
        };
        if !Path::new("/proc").join(maker).exists() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Requests for one operation.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) each: f64,
    /// Their names, with a space before each.
    pub(crate) names: String,
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if self.mounted.is_some() {
            let _ = rustix::mount::unmount(&self.tracefs, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
