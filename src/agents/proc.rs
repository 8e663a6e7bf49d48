//! `/proc` read through descriptors held open, so that nothing resolves a path twice.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::store::event::Actor;

/// Longest text of one field that is recorded, in bytes.
pub(super) const TEXT_MAX: usize = 4096;

/// How much of a program's name is compared (`TASK_COMM_LEN`), in bytes.
const COMM_MAX: usize = 16;

/// The mounted procfs.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

/// It could not be looked at this time, such as where no descriptor was left; that says nothing of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unsure;

/// One thread's `stat`, open: reading it later fails once that thread is gone, even when its
/// number belongs to another one by then.
#[derive(Debug)]
pub(super) struct StatFile(File);

/// The memory of one program in one process, known by an open `pagemap`.
///
/// That file stands for the memory which the process had when it was opened. `exec` takes another, and the end
/// of the process ends it; from then on a read finds nothing. While the memory is in use, a read that is not
/// aligned is refused, before any page is looked at and without `mmap_lock` (`pagemap_read` of
/// `fs/proc/task_mmu.c`). So asking costs little more than a system call, and `stat` a dozen times that.
#[derive(Debug)]
pub(super) struct Memory(File);

impl Memory {
    /// Whether anybody still runs in it.
    pub(super) fn is_used(&self) -> bool {
        matches!(rustix::io::pread(&self.0, &mut [0_u8; 1], 0), Err(Errno::INVAL))
    }
}

/// One thread's name, open: reading it later fails once that thread is gone.
#[derive(Debug)]
pub(super) struct Thread(File);

impl Thread {
    /// Whether it is there.
    pub(super) fn is_there(&self) -> bool {
        self.0.read_at(&mut [0; COMM_MAX], 0).is_ok()
    }
}

/// What shows that a caller is still who it was when it was looked at: what it says of itself, and where that can be, its
/// memory.
///
/// Memory that is used no more is that of a program that is no more. But memory that is used need not be *its*: a process may
/// have made another one that shares it (`CLONE_VM`), as Wine and some sandboxes do, and taken a new program while that
/// stays. No file of `/proc` tells that at a small cost. So memory is believed for [`MEMORY_HOLDS`], which is about what an
/// `exec` takes, and then `stat` is asked again, which tells; whoever asks for much at once is still asked for little.
#[derive(Debug)]
pub(super) struct Evidence {
    stat: StatFile,
    before: Incarnation,
    memory: Option<Shown>,
}

/// Memory that showed a caller to be the same.
#[derive(Debug)]
struct Shown {
    memory: Memory,
    /// If it is not the first thread of its process, whose number lasts as long as that: the thread must be there.
    thread: Option<Thread>,
    /// When `stat` said so too.
    since: Instant,
}

/// For how long memory alone shows that a caller is the same.
const MEMORY_HOLDS: Duration = Duration::from_millis(1);

impl Evidence {
    /// Whether the program is no more, as far as its memory tells.
    pub(super) fn is_over(&self) -> bool {
        self.memory.as_ref().is_some_and(|shown| !shown.memory.is_used())
    }

    /// Whether it holds.
    pub(super) fn holds(&mut self) -> bool {
        let now = Instant::now();
        if let Some(Shown { memory, thread, since }) = &mut self.memory {
            if !memory.is_used() || !thread.as_ref().is_none_or(Thread::is_there) {
                return false;
            }
            if now.saturating_duration_since(*since) < MEMORY_HOLDS {
                return true;
            }
            *since = now;
        }
        self.stat.read().as_ref() == Some(&self.before)
    }
}

/// What one program in one process has of its own: where its code and its stack begin. Zeros where that is kept from us.
pub(super) type Places = [u64; 3];

/// What tells one program in one process from the next: an `exec` changes the name or the places,
/// a reused number changes the start time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Incarnation {
    comm: [u8; COMM_MAX],
    start_time: u64,
    places: Places,
    parent: u32,
}

impl Incarnation {
    /// Parses `/proc/PID/stat` (proc_pid_stat(5)). The name stands in parentheses and may hold any
    /// byte, so fields are counted from the last closing one.
    pub(super) fn parse(stat: &[u8]) -> Option<Self> {
        let open = stat.iter().position(|&byte| byte == b'(')?;
        let close = stat.iter().rposition(|&byte| byte == b')')?;
        let mut comm = [0; COMM_MAX];
        for (kept, &byte) in comm.iter_mut().zip(stat.get(open + 1..close)?) {
            *kept = byte;
        }
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        // `rest` starts with field 3, the state.
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let start_time = fields.nth(17)?.parse().ok()?;
        let startcode = fields.nth(3)?.parse().ok()?;
        let endcode = fields.next()?.parse().ok()?;
        let startstack = fields.next()?.parse().ok()?;
        Some(Self { comm, start_time, places: [startcode, endcode, startstack], parent })
    }

    /// The name, as the kernel keeps it.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.comm).trim_end_matches('\0').to_owned()
    }

    /// Where the program lies.
    pub(super) fn places(&self) -> Places {
        self.places
    }

    /// The parent process.
    pub(super) fn parent(&self) -> u32 {
        self.parent
    }

    /// Start of the thread, in clock ticks since boot.
    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }
}

impl StatFile {
    /// What the thread is now; `None` once it is gone.
    pub(super) fn read(&self) -> Option<Incarnation> {
        let mut buffer = [0; 1024];
        let len = self.0.read_at(&mut buffer, 0).ok()?;
        Incarnation::parse(buffer.get(..len)?)
    }
}

impl Proc {
    /// Opens `/proc`; `None` where there is none.
    pub(super) fn open() -> Option<Self> {
        Self::open_at(Path::new("/proc"))
    }

    /// Opens what looks like `/proc`.
    pub(super) fn open_at(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).ok().map(Self)
    }

    /// Opens `stat` of process or thread `pid`.
    pub(super) fn stat_file(&self, pid: u32) -> Option<StatFile> {
        self.file(pid, "stat").ok().map(StatFile)
    }

    /// The same; `None` where it is gone, or kept from us.
    pub(super) fn stat_shown(&self, pid: u32) -> Result<Option<StatFile>, Unsure> {
        shown(self.file(pid, "stat").map(StatFile))
    }

    /// Opens the memory of the process that thread `tid` belongs to; `None` where the kernel keeps that from us.
    pub(super) fn memory(&self, tid: u32) -> Option<Memory> {
        self.file(tid, "pagemap").ok().map(Memory)
    }

    /// How to see later that thread `tid` of process `pid` is still who it is. `memory` was opened before
    /// `incarnation` was read.
    pub(super) fn evidence(
        &self,
        (tid, pid): (u32, u32),
        memory: Option<Memory>,
        stat: StatFile,
        incarnation: Incarnation,
    ) -> Evidence {
        let thread = || match tid == pid {
            true => Some(None),
            false => self.file(tid, "comm").ok().map(|comm| Some(Thread(comm))),
        };
        // A child of `vfork` runs in the memory of its parent, which stays in use when the child takes another.
        let parent = || self.stat_file(incarnation.parent)?.read();
        // Zeros are what is shown to whom its places are none of his business.
        let own = || {
            parent().is_some_and(|parent| {
                !parent.places.contains(&0) && parent.places != incarnation.places
            })
        };
        let memory = memory.filter(|memory| memory.is_used() && own());
        let since = Instant::now();
        let memory =
            memory.and_then(|memory| thread().map(|thread| Shown { memory, thread, since }));
        Evidence { stat, before: incarnation, memory }
    }

    /// Fills in what can be read without the process's `mmap_lock`, or some of it.
    pub(super) fn describe(
        &self,
        tid: u32,
        incarnation: &Incarnation,
        actor: &mut Actor,
    ) -> Result<(), Unsure> {
        let process = self
            .shown(tid, "status", TEXT_MAX)
            .map(|status| status.and_then(|status| number_in(&status, "Tgid:")));
        actor.pid = process.unwrap_or_default().unwrap_or(tid);
        // A thread's start is not its process's.
        let started = match actor.pid == tid {
            true => Ok(Some(incarnation.start_time())),
            false => self
                .stat_shown(actor.pid)
                .map(|stat| stat.and_then(|stat| stat.read()).map(|process| process.start_time())),
        };
        actor.start_time = started.unwrap_or_default().unwrap_or_default();
        let exe = format!("{}/exe", actor.pid);
        actor.exe = readlinkat(&self.0, exe, Vec::new())
            .map_or_else(|_| Vec::new(), |path| path.into_bytes());
        actor.exe.truncate(TEXT_MAX);
        let cgroup = self.cgroup(actor.pid);
        actor.cgroup = cgroup.as_ref().cloned().unwrap_or_default();
        process.and(started).and(cgroup).map(drop)
    }

    /// The cgroup that a process is in now; nothing where it is gone, or that is kept from us. Waits for nobody.
    pub(super) fn cgroup(&self, pid: u32) -> Result<Vec<u8>, Unsure> {
        let text = self.shown(pid, "cgroup", TEXT_MAX)?;
        Ok(text.map_or_else(Vec::new, |text| cgroup_of(&text)))
    }

    /// Reads at most [`TEXT_MAX`] bytes of a file below `/proc/PID`.
    pub(super) fn read(&self, pid: u32, name: &str) -> Option<Vec<u8>> {
        self.text(pid, name, TEXT_MAX).ok()
    }

    /// Reads at most `max` bytes of one; `None` where the process is gone, or that is kept from us.
    pub(super) fn shown(
        &self,
        pid: u32,
        name: &str,
        max: usize,
    ) -> Result<Option<Vec<u8>>, Unsure> {
        shown(self.text(pid, name, max))
    }

    fn text(&self, pid: u32, name: &str, max: usize) -> Result<Vec<u8>, Errno> {
        let file = self.file(pid, name)?;
        let mut text = vec![0; max];
        let mut len = 0;
        while let Some(rest) = text.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file, rest, len as u64)? {
                0 => break,
                more => len += more,
            }
        }
        text.truncate(len);
        Ok(text)
    }

    fn file(&self, pid: u32, name: &str) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&self.0, format!("{pid}/{name}"), flags, Mode::empty()).map(File::from)
    }

    /// The process a thread belongs to: requests carry thread ids.
    pub(super) fn thread_group(&self, tid: u32) -> Option<u32> {
        self.status(tid, "Tgid:")
    }

    /// The real user of a process.
    pub(super) fn real_user(&self, pid: u32) -> Option<u32> {
        self.status(pid, "Uid:")
    }

    /// The first number of a line in `status`.
    fn status(&self, pid: u32, name: &str) -> Option<u32> {
        number_in(&self.read(pid, "status")?, name)
    }
}

/// The first number of a line in `status`.
fn number_in(status: &[u8], name: &str) -> Option<u32> {
    let mut lines = status.split(|&byte| byte == b'\n');
    let line = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// What there is; `None` where the process is gone, or that is kept from us, which stays so.
fn shown<T>(looked: Result<T, Errno>) -> Result<Option<T>, Unsure> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(_) => Err(Unsure),
    }
}

/// The path in the unified hierarchy (`0::PATH`), else that of the first hierarchy that has one.
fn cgroup_of(text: &[u8]) -> Vec<u8> {
    let path = |line: &[u8]| line.splitn(3, |&byte| byte == b':').nth(2).map(<[u8]>::to_vec);
    let lines = || text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines()
        .find(|line| line.starts_with(b"0::") && *line != b"0::/")
        .and_then(path)
        .or_else(|| lines().filter_map(path).find(|path| path != b"/"))
        .unwrap_or_else(|| lines().find_map(path).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = b"42 (a) S (b) R 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9000 1 2 3 100 200 300 0 0\n";
        let incarnation = Incarnation::parse(stat).unwrap();
        assert_eq!(&incarnation.comm, b"a) S (b\0\0\0\0\0\0\0\0\0");
        assert_eq!(incarnation.parent(), 7);
        assert_eq!(incarnation.start_time(), 9000);
        assert_eq!(incarnation.places, [100, 200, 300]);
    }

    #[test]
    fn cut_or_foreign_text_is_nobody() {
        for stat in [&b""[..], b"1 (x", b"1 (x) S", b"1 (x) S a b c", b")("] {
            assert_eq!(Incarnation::parse(stat), None);
        }
    }

    #[test]
    fn this_process_is_found_by_any_of_its_threads() {
        let proc = Proc::open().unwrap();
        let pid = std::process::id();
        let tid = std::thread::spawn(move || {
            let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let proc = Proc::open().unwrap();
            let incarnation = proc.stat_file(tid).unwrap().read().unwrap();
            let mut actor = Actor::default();
            proc.describe(tid, &incarnation, &mut actor).unwrap();
            actor
        });
        let actor = tid.join().unwrap();
        assert_eq!(actor.pid, pid);
        assert_eq!(actor.start_time, proc.stat_file(pid).unwrap().read().unwrap().start_time());
        assert_eq!(
            actor.exe,
            std::env::current_exe().unwrap().into_os_string().into_encoded_bytes()
        );
    }

    #[test]
    fn an_ended_process_is_nobody_even_through_an_open_file() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stat = Proc::open().unwrap().stat_file(child.id()).unwrap();
        assert!(stat.read().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stat.read(), None);
    }

    /// A process of an interpreter that does `commands` and prints its number, and the evidence for it.
    fn evidence_for(interpreter: &str, commands: &str) -> (std::process::Child, u32, Evidence) {
        let mut child = std::process::Command::new(interpreter)
            .args(["-c", commands])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        let proc = Proc::open().unwrap();
        let memory = proc.memory(pid);
        let stat = proc.stat_file(pid).unwrap();
        let incarnation = stat.read().unwrap();
        let evidence = proc.evidence((pid, pid), memory, stat, incarnation);
        (child, pid, evidence)
    }

    /// Waits until `evidence` does not hold any more, and leaves the CPU to who must do something for that.
    fn until_gone(evidence: &mut Evidence) {
        let started = Instant::now();
        while evidence.holds() {
            assert!(started.elapsed() < Duration::from_secs(60), "it still holds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_is_another_after_exec_even_of_itself() {
        let commands = "echo $$; read line; exec sh -c 'read line'";
        let (mut child, pid, mut evidence) = evidence_for("sh", commands);
        assert!(evidence.memory.is_some() || !rustix::process::geteuid().is_root());
        assert!(evidence.holds());
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        until_gone(&mut evidence);
        assert_eq!(child.try_wait().unwrap(), None, "process {pid} goes on");
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_child_that_may_share_its_parents_memory_is_known_by_what_it_says() {
        // What runs in the background has nothing to read, but for what was opened before.
        let commands = "exec 3<&0; (sh -c 'echo $PPID'; read line <&3; exec sleep 0) & wait";
        let (mut child, _, mut evidence) = evidence_for("sh", commands);
        assert!(evidence.memory.is_none(), "{evidence:?}");
        assert!(evidence.holds());
        drop(child.stdin.take());
        until_gone(&mut evidence);
        child.wait().unwrap();
    }

    #[test]
    fn a_program_is_another_after_exec_though_another_process_keeps_its_memory() {
        // A helper in the same memory, on a stack of its own, that only waits; then another program.
        let commands = "import ctypes, os, sys\n\
                        libc = ctypes.CDLL(None)\n\
                        stack = ctypes.create_string_buffer(1 << 16)\n\
                        top = ctypes.c_void_p((ctypes.addressof(stack) + (1 << 16)) & ~15)\n\
                        CLONE_VM, SIGCHLD = 0x100, 17\n\
                        helper = libc.clone(libc.pause, top, CLONE_VM | SIGCHLD, None)\n\
                        print(os.getpid(), flush=True)\n\
                        sys.stdin.readline()\n\
                        os.execvp('sh', ['sh', '-c', f'read line; kill -9 {helper}'])\n";
        if std::process::Command::new("python3").arg("--version").output().is_err() {
            eprintln!("SKIPPED: python3 is missing");
            return;
        }
        let (mut child, pid, mut evidence) = evidence_for("python3", commands);
        assert!(evidence.memory.is_some() || !rustix::process::geteuid().is_root());
        assert!(evidence.holds());
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        until_gone(&mut evidence);
        assert_eq!(child.try_wait().unwrap(), None, "process {pid} goes on");
        if let Some(shown) = &evidence.memory {
            assert!(shown.memory.is_used(), "by the helper: else this shows nothing");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_that_ended_is_nobody_though_its_process_lives() {
        let proc = Proc::open().unwrap();
        let (told, tid) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            told.send(u32::try_from(tid).unwrap()).unwrap();
            let _ = ended.recv();
        });
        let tid = tid.recv().unwrap();
        let (memory, stat) = (proc.memory(tid), proc.stat_file(tid).unwrap());
        let incarnation = stat.read().unwrap();
        let mut evidence = proc.evidence((tid, std::process::id()), memory, stat, incarnation);
        let thread_is_known = evidence.memory.as_ref().is_some_and(|shown| shown.thread.is_some());
        assert!(thread_is_known, "{evidence:?}");
        assert!(evidence.holds());
        drop(end);
        thread.join().unwrap();
        until_gone(&mut evidence);
    }

    #[test]
    fn the_cgroup_is_the_unified_path_or_the_first_that_says_something() {
        assert_eq!(cgroup_of(b"9:name=systemd:/\n0::/user.slice/a:b\n"), b"/user.slice/a:b");
        assert_eq!(cgroup_of(b"8:pids:/\n4:memory:/docker/1f\n0::/\n"), b"/docker/1f");
        assert_eq!(cgroup_of(b"0::/\n"), b"/");
        assert_eq!(cgroup_of(b""), b"");
    }
}
