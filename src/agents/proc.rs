//! `/proc` read through descriptors held open, so that nothing resolves a path twice.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use crate::store::event::Actor;
use crate::sys::process::is_process;

/// Longest text of one field that is recorded, in bytes.
pub(super) const TEXT_MAX: usize = 4096;

/// How much of a program's name is compared (`TASK_COMM_LEN`), in bytes.
const COMM_MAX: usize = 16;

/// The mounted procfs.
#[derive(Debug)]
pub(super) struct Proc {
    directory: OwnedFd,
    /// Whether its numbers are those that we have for processes.
    is_ours: bool,
}

/// It could not be looked at this time, such as where no descriptor was left; that says nothing of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unsure;

/// One thread's `stat`, open: reading it later fails once that thread is gone, even when its
/// number belongs to another one by then.
#[derive(Clone, Debug)]
pub(super) struct StatFile(Arc<File>);

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
    /// Of the process, where the thread is known by its name; else of the thread.
    stat: StatFile,
    before: Incarnation,
    /// If it is not the first thread of its process, whose number lasts as long as that: the thread must be there.
    thread: Option<Thread>,
    memory: Option<(Arc<Memory>, Belief)>,
}

/// Whether memory shows a caller to be the same.
#[derive(Clone, Copy, Debug)]
enum Belief {
    /// It is not known to be its own, for `stat` was asked so often only.
    NotYet(u32),
    /// It is, and `stat` said so then.
    Since(Instant),
}

/// For how long memory alone shows that a caller is the same.
const MEMORY_HOLDS: Duration = Duration::from_millis(1);
/// So often `stat` is asked before it is found out whose memory it is, which costs as much. Most processes change a file or
/// two, and end.
const ASKED_MAX: u32 = 3;

impl Evidence {
    /// Whether the program is no more, as far as its memory tells.
    pub(super) fn is_over(&self) -> bool {
        self.memory.as_ref().is_some_and(|(memory, _)| !memory.is_used())
    }

    /// The same for another thread of the process; `None` where it does not hold any more.
    pub(super) fn of_thread(&self, thread: Thread) -> Option<Self> {
        // Looked at after the thread was found: what it holds for is this process still.
        if self.is_over() || self.stat.read().as_ref() != Some(&self.before) {
            return None;
        }
        let memory = self.memory.as_ref().map(|(memory, belief)| (Arc::clone(memory), *belief));
        let (stat, before) = (self.stat.clone(), self.before.clone());
        Some(Self { stat, before, thread: Some(thread), memory })
    }

    /// Whether it holds; `proc` is where it was seen.
    pub(super) fn holds(&mut self, proc: &Proc) -> bool {
        let now = Instant::now();
        if !self.thread.as_ref().is_none_or(Thread::is_there) || self.is_over() {
            return false;
        }
        if let Some((_, Belief::Since(since))) = self.memory
            && now.saturating_duration_since(since) < MEMORY_HOLDS
        {
            return true;
        }
        let holds = self.stat.read().as_ref() == Some(&self.before);
        self.memory = self.memory.take().and_then(|(memory, belief)| {
            let belief = match belief {
                Belief::NotYet(asked) if asked < ASKED_MAX => Belief::NotYet(asked + 1),
                Belief::NotYet(_) if !proc.has_memory_of_its_own(&self.before) => return None,
                Belief::NotYet(_) | Belief::Since(_) => Belief::Since(now),
            };
            Some((memory, belief))
        });
        holds
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

/// What was seen of a thread, and of the process it is in.
#[derive(Debug)]
pub(super) struct SeenIn {
    pid: u32,
    thread: (StatFile, Incarnation),
    /// Of the first thread, if it is another one.
    process: Option<(StatFile, Incarnation)>,
}

impl SeenIn {
    /// Of the process of thread `tid`, which this is about.
    pub(super) fn of_process(&self, tid: u32) -> Option<&(StatFile, Incarnation)> {
        if self.pid == tid { Some(&self.thread) } else { self.process.as_ref() }
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
        let directory = openat(CWD, path, flags, Mode::empty()).ok()?;
        let own = readlinkat(&directory, "self", Vec::new()).ok();
        let is_ours = own.is_some_and(|own| own.to_bytes() == getpid().to_string().as_bytes());
        Some(Self { directory, is_ours })
    }

    /// Opens `stat` of process or thread `pid`.
    pub(super) fn stat_file(&self, pid: u32) -> Option<StatFile> {
        self.stat_shown(pid).ok().flatten()
    }

    /// The same; `None` where it is gone, or kept from us.
    pub(super) fn stat_shown(&self, pid: u32) -> Result<Option<StatFile>, Unsure> {
        shown(self.file(pid, "stat").map(|file| StatFile(Arc::new(file))))
    }

    /// Opens the memory of the process that thread `tid` belongs to; `None` where the kernel keeps that from us.
    pub(super) fn memory(&self, tid: u32) -> Option<Memory> {
        self.file(tid, "pagemap").ok().map(Memory)
    }

    /// Whether `tid` is the number of a process, rather than of another thread of one or of nobody; `None` where that does
    /// not show at once.
    pub(super) fn is_process(&self, tid: u32) -> Option<bool> {
        let tid = i32::try_from(tid).ok().and_then(Pid::from_raw).filter(|_| self.is_ours)?;
        is_process(tid)
    }

    /// The process that thread `tid` belongs to, which [is one itself](Proc::is_process) or not; `None` where it is gone, or
    /// kept from us.
    fn process_of(&self, tid: u32, is_process: Option<bool>) -> Result<Option<u32>, Unsure> {
        if is_process == Some(true) {
            return Ok(Some(tid));
        }
        let status = self.shown(tid, "status", TEXT_MAX)?;
        Ok(status.and_then(|status| number_in(&status, "Tgid:")))
    }

    /// Thread `tid`, if it is one of process `pid`.
    pub(super) fn thread(&self, pid: u32, tid: u32) -> Option<Thread> {
        self.at(format!("{pid}/task/{tid}/comm")).ok().map(Thread)
    }

    /// How to see later that thread `tid` of the process of `seen` is still who it is. `memory` was opened before
    /// `seen` was read.
    pub(super) fn evidence(&self, tid: u32, memory: Option<Memory>, seen: SeenIn) -> Evidence {
        let SeenIn { pid, thread: (own_stat, own), process } = seen;
        let named = (tid != pid).then(|| self.file(tid, "comm").ok().map(Thread));
        let thread = named.flatten();
        // Where its first thread has ended, a process shows no places.
        let process = process.filter(|(_, process)| process.places == own.places);
        let (stat, before) = process.filter(|_| thread.is_some()).unwrap_or((own_stat, own));
        let memory = memory.map(|memory| (Arc::new(memory), Belief::NotYet(0)));
        Evidence { stat, before, thread, memory }
    }

    /// Whether the memory of a process is no other's, as far as shows now that it is `process`.
    ///
    /// A child of `vfork` runs in the memory of its parent, which stays in use when the child takes another.
    fn has_memory_of_its_own(&self, process: &Incarnation) -> bool {
        let parent = self.stat_file(process.parent).and_then(|stat| stat.read());
        // Zeros are what is shown to whom its places are none of his business.
        parent.is_some_and(|parent| !parent.places.contains(&0) && parent.places != process.places)
    }

    /// Fills in what can be read of thread `tid`, which [is a process](Proc::is_process) or not, and of its process, without
    /// the process's `mmap_lock`, or some of it. Whether all could be looked at, and what shows of them.
    pub(super) fn describe(
        &self,
        tid: u32,
        is_process: Option<bool>,
        (stat, incarnation): (StatFile, Incarnation),
        actor: &mut Actor,
    ) -> (Result<(), Unsure>, SeenIn) {
        let process = self.process_of(tid, is_process);
        actor.pid = process.unwrap_or_default().unwrap_or(tid);
        let stat_of_process = match actor.pid == tid {
            true => Ok(None),
            false => self.stat_shown(actor.pid),
        };
        let sure = stat_of_process.as_ref().map(drop).map_err(|unsure| *unsure);
        let first = stat_of_process.ok().flatten();
        let first = first.and_then(|stat| stat.read().map(|now| (stat, now)));
        // A thread's start is not its process's.
        let started = match actor.pid == tid {
            true => Some(&incarnation),
            false => first.as_ref().map(|(_, first)| first),
        };
        actor.start_time = started.map_or(0, Incarnation::start_time);
        let exe = format!("{}/exe", actor.pid);
        actor.exe = readlinkat(&self.directory, exe, Vec::new())
            .map_or_else(|_| Vec::new(), |path| path.into_bytes());
        actor.exe.truncate(TEXT_MAX);
        let cgroup = self.cgroup(actor.pid);
        actor.cgroup = cgroup.as_ref().cloned().unwrap_or_default();
        let all = process.and(sure).and(cgroup).map(drop);
        (all, SeenIn { pid: actor.pid, thread: (stat, incarnation), process: first })
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
        let mut text = Vec::with_capacity(max);
        while text.len() < text.capacity() {
            let (room, at) = (text.capacity() - text.len(), text.len() as u64);
            // These files fill what they are given, or end: to ask again would have them written anew, for nothing.
            if rustix::io::pread(&file, spare_capacity(&mut text), at)? < room {
                break;
            }
        }
        text.truncate(max);
        Ok(text)
    }

    fn file(&self, pid: u32, name: &str) -> Result<File, Errno> {
        self.at(format!("{pid}/{name}"))
    }

    fn at(&self, path: String) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&self.directory, path, flags, Mode::empty()).map(File::from)
    }

    /// The process a thread belongs to: requests carry thread ids.
    pub(super) fn thread_group(&self, tid: u32) -> Option<u32> {
        self.process_of(tid, self.is_process(tid)).ok().flatten()
    }

    /// The real user of a process.
    pub(super) fn real_user(&self, pid: u32) -> Option<u32> {
        number_in(&self.read(pid, "status")?, "Uid:")
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

    fn read(proc: &Proc, tid: u32) -> (StatFile, Incarnation) {
        let stat = proc.stat_file(tid).unwrap();
        let now = stat.read().unwrap();
        (stat, now)
    }

    /// Evidence for thread `tid`, as it is made for who asks the first time.
    fn evidence_of(proc: &Proc, tid: u32) -> Evidence {
        let memory = proc.memory(tid);
        let is_process = proc.is_process(tid);
        let (described, seen) =
            proc.describe(tid, is_process, read(proc, tid), &mut Actor::default());
        described.unwrap();
        proc.evidence(tid, memory, seen)
    }

    #[test]
    fn this_process_is_found_by_any_of_its_threads() {
        let proc = Proc::open().unwrap();
        let pid = std::process::id();
        assert_eq!(proc.is_process(pid), Some(true));
        assert_eq!(proc.is_process(i32::MAX.unsigned_abs()), Some(false));
        assert_eq!(proc.is_process(0), None);
        let tid = std::thread::spawn(move || {
            let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let proc = Proc::open().unwrap();
            assert_eq!(proc.is_process(tid), Some(false));
            let mut actor = Actor::default();
            let (described, seen) = proc.describe(tid, Some(false), read(&proc, tid), &mut actor);
            described.unwrap();
            assert_eq!(seen.process.unwrap().1.start_time(), actor.start_time);
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
        let evidence = evidence_of(&Proc::open().unwrap(), pid);
        (child, pid, evidence)
    }

    /// Whether `evidence`, which holds, comes to hold by memory.
    fn believes(evidence: &mut Evidence) -> bool {
        let proc = Proc::open().unwrap();
        for _ in 0..=ASKED_MAX {
            assert!(
                evidence
                    .memory
                    .as_ref()
                    .is_none_or(|(_, belief)| matches!(belief, Belief::NotYet(_)))
            );
            assert!(evidence.holds(&proc));
        }
        matches!(evidence.memory, Some((_, Belief::Since(_))))
    }

    /// Waits until `evidence` does not hold any more, and leaves the CPU to who must do something for that.
    fn until_gone(evidence: &mut Evidence) {
        let started = Instant::now();
        while evidence.holds(&Proc::open().unwrap()) {
            assert!(started.elapsed() < Duration::from_secs(60), "it still holds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_is_another_after_exec_even_of_itself() {
        let commands = "echo $$; read line; exec sh -c 'read line'";
        let (mut child, pid, mut evidence) = evidence_for("sh", commands);
        assert!(believes(&mut evidence) || !rustix::process::geteuid().is_root());
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
        assert!(!believes(&mut evidence), "{evidence:?}");
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
        assert!(believes(&mut evidence) || !rustix::process::geteuid().is_root());
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        until_gone(&mut evidence);
        assert_eq!(child.try_wait().unwrap(), None, "process {pid} goes on");
        assert!(!evidence.is_over(), "its memory is the helper's: else this shows nothing");
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// A thread that ends with what is returned beside its number.
    fn thread() -> (u32, impl FnOnce()) {
        let (told, tid) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            told.send(u32::try_from(tid).unwrap()).unwrap();
            let _ = ended.recv();
        });
        let end = move || {
            drop(end);
            thread.join().unwrap();
        };
        (tid.recv().unwrap(), end)
    }

    #[test]
    fn a_thread_that_ended_is_nobody_though_its_process_lives() {
        let proc = Proc::open().unwrap();
        let (tid, end) = thread();
        let mut evidence = evidence_of(&proc, tid);
        assert!(evidence.thread.is_some() && believes(&mut evidence), "{evidence:?}");
        end();
        until_gone(&mut evidence);
    }

    #[test]
    fn what_shows_one_thread_shows_the_others_of_its_process_also_once_it_has_ended() {
        let proc = Proc::open().unwrap();
        let own = std::process::id();
        let ((first, end_first), (second, end_second)) = (thread(), thread());
        let evidence = evidence_of(&proc, first);
        end_first();
        let mut of_second = evidence.of_thread(proc.thread(own, second).unwrap()).unwrap();
        assert!(of_second.holds(&proc));
        assert!(proc.thread(own, first).is_none());
        let (mut child, pid, mut of_child) = evidence_for("sh", "echo $$; read line; exec sleep 0");
        assert!(proc.thread(pid, second).is_none() && proc.thread(own, pid).is_none());
        drop(child.stdin.take());
        until_gone(&mut of_child);
        let any = proc.thread(own, second).unwrap();
        assert!(of_child.of_thread(any).is_none(), "that program is no more");
        child.wait().unwrap();
        end_second();
        until_gone(&mut of_second);
    }

    #[test]
    fn the_cgroup_is_the_unified_path_or_the_first_that_says_something() {
        assert_eq!(cgroup_of(b"9:name=systemd:/\n0::/user.slice/a:b\n"), b"/user.slice/a:b");
        assert_eq!(cgroup_of(b"8:pids:/\n4:memory:/docker/1f\n0::/\n"), b"/docker/1f");
        assert_eq!(cgroup_of(b"0::/\n"), b"/");
        assert_eq!(cgroup_of(b""), b"");
    }
}
