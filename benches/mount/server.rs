//! What is asked: servers, each a process of its own over a mount of its own, and the filesystem below them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::mount_table;
use rustix::fs::{IFlags, Mode, OFlags};

use crate::bare::BARE;
use crate::{BLOCK, acts, peers};

/// How long a server has to come up.
const START: Duration = Duration::from_secs(20);
/// Readers and spin, in microseconds, of the real server.
const OURS: [(u32, u32); 4] = [(1, 0), (4, 0), (1, 20), (4, 20)];
/// Those of ours that splice no reply to READ, and all.
const SPLICING: [(&str, u32); 2] = [(COPYING, 0), ("ours-spliced", 1)];
pub(crate) const COPYING: &str = "ours-copied";
/// The filesystem below.
pub(crate) const DISK: &str = "disk";

/// Over a directory of the filesystem below.
pub(crate) const PASSTHROUGH: &str = "passthrough_ll";
/// Where that filesystem keeps what was removed, see [`Server::remove_file`].
const REMOVED: &str = "removed";

/// The real server.
const BINARY: &str = env!("CARGO_BIN_EXE_lighthouse-fuse");

/// A server to be measured.
pub(crate) struct Spec {
    pub(crate) name: String,
    directory: String,
    /// A program and its arguments, with `{store}` and `{at}` in them.
    command: Vec<String>,
}

impl Spec {
    /// One that works in `directory` of its mount. `command` is split at spaces.
    pub(crate) fn new(name: &str, directory: &str, command: &str) -> Self {
        let command = command.split_whitespace().map(str::to_owned).collect();
        Self { name: name.into(), directory: directory.into(), command }
    }

    pub(crate) fn ours(name: &str, options: &str) -> Self {
        Self::new(name, "current", &format!("{BINARY} mount {{store}} {{at}} -q {options}"))
    }

    /// One that this program is itself.
    fn own(mode: &str) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        Self::new(mode, "", &format!("{} {mode} {{store}} {{at}}", this.display()))
    }
}

/// Those that show what each setting of ours costs.
pub(crate) fn variants() -> Vec<Spec> {
    let ours = OURS.iter().map(|(readers, spin)| {
        let options = format!("--transport dev --readers {readers} --spin {spin}");
        Spec::ours(&format!("ours-{readers}-{spin}"), &options)
    });
    let splicing = SPLICING
        .iter()
        .map(|(name, from)| Spec::ours(name, &format!("--transport dev --splice-from {from}")));
    let own = BARE.iter().chain(&peers::BUILT_IN).map(|mode| Spec::own(mode));
    own.chain(ours)
        .chain(std::iter::once(Spec::ours("ours-ring", "--transport uring")))
        .chain(splicing)
        .chain(named())
        .collect()
}

/// Ours with its defaults on each transport, the loops that are their floor, and the peers that are part of this program.
pub(crate) fn built() -> Vec<Spec> {
    let mut specs = vec![
        Spec::own("bare-1"),
        Spec::own("bare-ring"),
        Spec::ours("ours-dev", "--transport dev"),
        Spec::ours("ours-ring", "--transport uring"),
    ];
    specs.extend(peers::BUILT_IN.map(Spec::own));
    specs
}

/// Those and the peers that are installed.
pub(crate) fn compared(directory: &Path) -> Vec<Spec> {
    let mut specs = built();
    specs.extend(peers::external(directory));
    specs.extend(named());
    specs
}

/// Those of `BENCH_SERVERS`.
fn named() -> Vec<Spec> {
    let named = std::env::var("BENCH_SERVERS").unwrap_or_default();
    let lines = named.split(';').map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.splitn(3, char::is_whitespace);
            let (Some(name), Some(directory), Some(command)) =
                (words.next(), words.next(), words.next())
            else {
                panic!("BENCH_SERVERS: `{line}` is not NAME DIRECTORY COMMAND");
            };
            Spec::new(name, directory, command)
        })
        .collect()
}

impl Spec {
    /// Starts the server and waits until it answers.
    pub(crate) fn start(&self) -> Server {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let root = directory.path().canonicalize().expect("it was just made");
        let (store, at) = (root.join("store"), root.join("mnt"));
        fs::create_dir(&store).expect("the directory is new");
        fs::create_dir(&at).expect("the directory is new");
        let fill = |word: &String| {
            word.replace("{store}", &store.display().to_string())
                .replace("{at}", &at.display().to_string())
        };
        let words: Vec<String> = self.command.iter().map(fill).collect();
        let (program, arguments) =
            words.split_first().unwrap_or_else(|| panic!("{}: no command", self.name));
        let mut command = Command::new(program);
        // If the bench is interrupted, no server stays behind.
        sys::process::die_with_parent(command.args(arguments));
        if !shares_session() {
            sys::process::start_session(&mut command);
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{}: {program}: {error}", self.name));
        let mut server = Server {
            name: self.name.clone(),
            stores: !BARE.contains(&self.name.as_str()),
            below: (self.name == PASSTHROUGH).then_some(store),
            amid: 0,
            inside: at.join(&self.directory),
            at,
            child: Some(child),
            directory,
        };
        let begin = Instant::now();
        while !server.is_up() {
            assert!(begin.elapsed() < START, "{} does not serve", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        server.furnish();
        server
    }
}

/// Whether servers are to be in the session of who asks them.
fn shares_session() -> bool {
    std::env::var_os("BENCH_SESSION").is_some_and(|session| session == "shared")
}

/// Has directories made in `directory` placed far from each other.
///
/// For minutes after a file was removed ext4 gives its inode to nobody, and looks at each such before it finds one for
/// a new file (`recently_deleted` in `fs/ext4/ialloc.c`): amid thousands of them making one takes 65 to 840 us, not 17.
/// It looks near the directory; so what is measured works where nobody has removed anything.
fn spread(directory: &Path) {
    let spread = || {
        let opened =
            rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let flags = rustix::fs::ioctl_getflags(&opened)?;
        rustix::fs::ioctl_setflags(&opened, flags | IFlags::TOPDIR)
    };
    // Other filesystems do not know it, and need it not.
    let _: rustix::io::Result<()> = spread();
}

/// Servers of one kind, each a process of its own over a mount of its own.
///
/// On which CPU the scheduler puts a server, and leaves it, decides a factor of 2 to 4 of what a lone client sees. So what takes
/// microseconds is asked of several, or it would say little of the kind.
pub(crate) struct Crew(Vec<Server>);

impl Crew {
    /// `count` of them; there is one filesystem below, however many are asked for.
    pub(crate) fn start(spec: &Spec, count: usize) -> Self {
        Self((0..count).map(|_| spec.start()).collect())
    }

    pub(crate) fn disk() -> Self {
        Self(vec![Server::disk()])
    }

    /// The same, called something else.
    pub(crate) fn called(mut self, name: &str) -> Self {
        self.0.iter_mut().for_each(|server| server.name = name.into());
        self
    }

    /// The same, with so many files where it works.
    pub(crate) fn amid(mut self, files: u64) -> Self {
        for server in &mut self.0 {
            let begin = Instant::now();
            for n in 0..files {
                let name = acts::old_name(&server.inside, n);
                fs::File::create_new(name).expect("a file can be made");
            }
            server.amid = files;
            println!("{}: made in {:.1} s", server.name, begin.elapsed().as_secs_f64());
        }
        // Nobody is to be asked while that is still on its way to the disk.
        rustix::fs::sync();
        self
    }

    /// The one that is asked what only one is asked.
    pub(crate) fn first(&self) -> &Server {
        self.0.first().expect("a crew is not empty")
    }

    /// The one whose turn it is.
    pub(crate) fn at(&self, turn: usize) -> &Server {
        self.0.get(turn % self.0.len()).unwrap_or_else(|| self.first())
    }
}

/// A server that answers, killed and unmounted at the end.
pub(crate) struct Server {
    pub(crate) name: String,
    /// Whether it keeps what it is given.
    pub(crate) stores: bool,
    /// Where its files are files of the filesystem below.
    below: Option<PathBuf>,
    /// Among how many files it works, of names that [`acts::old_name`] gives.
    pub(crate) amid: u64,
    at: PathBuf,
    inside: PathBuf,
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl Server {
    /// No server: the filesystem that stores are on.
    pub(crate) fn disk() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let at = directory.path().to_owned();
        let mut server = Self {
            name: DISK.into(),
            stores: true,
            below: Some(at.clone()),
            amid: 0,
            inside: at.clone(),
            at,
            child: None,
            directory,
        };
        server.furnish();
        server
    }

    /// Makes what is there whatever is asked.
    fn furnish(&mut self) {
        if let Some(below) = &self.below {
            spread(below);
            // Where a directory is placed is decided by its name, so that is another for each.
            let name = self.directory.path().file_name().unwrap_or_default().to_owned();
            self.inside.push(&name);
            fs::create_dir(&self.inside).expect("the directory is new");
            spread(&below.join(name));
            fs::create_dir(below.join(REMOVED)).expect("the directory is new");
        }
        let file = self.inside.join("file");
        fs::write(file, vec![7; BLOCK]).expect("a file can be written");
    }

    /// Takes away a file that was made to be measured.
    ///
    /// A file of the filesystem below stays until the end under another name: ext4 is slow at making files where others
    /// were removed lately, see [`spread`].
    pub(crate) fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        let names = path.strip_prefix(&self.at).ok().zip(path.file_name());
        if let Some((below, (inside, name))) = self.below.as_ref().zip(names) {
            // Not through the mount, whose server may have a descriptor for each file that the kernel knows.
            fs::hard_link(below.join(inside), below.join(REMOVED).join(name))?;
        }
        fs::remove_file(path)
    }

    /// As [`Server::remove_file`], a directory with all that is in it.
    pub(crate) fn remove_directory(&self, path: &Path) -> std::io::Result<()> {
        match (&self.below, &self.child, path.file_name()) {
            (Some(below), None, Some(name)) => fs::rename(path, below.join(REMOVED).join(name)),
            _ => fs::remove_dir_all(path),
        }
    }

    /// Whether it is this crate's server, or the filesystem below that it is compared with.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("ours") || self.name.starts_with(DISK)
    }

    /// Whether it is there for what splicing brings.
    pub(crate) fn splices(&self) -> bool {
        SPLICING.iter().any(|(name, _)| *name == self.name)
    }

    /// The bare loop with as many threads that receive at one time, of ours one.
    pub(crate) fn floor(&self) -> &'static str {
        match self.name.as_str() {
            "ours-1-20" | "ours-4-20" | "transport-spin" | "bare-1-spin" => "bare-1-spin",
            "bare-2-spin" => "bare-2-spin",
            "bare-2" => "bare-2",
            name if name.contains("ring") => "bare-ring",
            _ => "bare-1",
        }
    }

    /// Where in the mount to work.
    pub(crate) fn place(&self) -> &Path {
        &self.inside
    }

    /// The kernel's number of the connection; `None` for the filesystem below.
    pub(crate) fn connection(&self) -> Option<u32> {
        self.child.as_ref()?;
        Some(rustix::fs::minor(rustix::fs::stat(&self.at).ok()?.st_dev))
    }

    /// The CPU time of its process so far, of all threads, in the clock's ticks of mostly 10 ms; `None` for the
    /// filesystem below, which works in the client.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.as_ref()?.id())).ok()?;
        // The name before may contain anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).map_while(|n| n.parse::<u64>().ok()).sum();
        let per_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    fn is_up(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
        }
        let table = mount_table::read().expect("/proc is mounted");
        mount_table::topmost(&table, &self.at).is_some() && self.inside.is_dir()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = child.kill();
        let _ = child.wait();
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}
