//! FUSE over io_uring (Linux 6.14): one queue for each CPU, and `/dev/fuse` beside them.
//!
//! ```text
//!  CPU 0: caller ---> queue 0 ---> thread pinned to CPU 0 --+
//!  CPU 1: caller ---> queue 1 ---> thread pinned to CPU 1 --+--> the server
//!  FORGET, INTERRUPT, INIT ------> reader of /dev/fuse -----+
//!  notifications <---------------- write to /dev/fuse <----- the server
//! ```
//!
//! The kernel hands a request to the queue of the CPU its caller runs on. Where the thread of that queue is
//! on the same CPU, no other CPU has to be woken, and that is most of a round trip. A request arrives in three
//! parts, in memory of ours, and its reply is put into the same memory: what a READ or a listing answers is
//! made where the kernel looks for it.
//!
//! **Where callers stay.** So it is worth much that a caller is woken on the CPU that it asked on. Of two threads that take turns on
//! a CPU the scheduler leaves there the one that has had more of it than is due to it (a dequeue that is delayed, since Linux 6.12), and
//! wakes the other where it finds an idle CPU. The thread of a queue does more for a request than its caller for asking; so it
//! weighs more, where it may, and its caller stays. That tells nothing of callers in another task group, as those of another session
//! are (`sched_autogroup_enabled`, as most distributions have it) or of a control group with a share of the CPU: on two CPUs the
//! thread that one was moved from keeps its own from idling for a moment, and it stays on the other. In turn with the build before,
//! as ratios of medians:
//!
//! | | server in the callers' session | in another |
//! |---|--:|--:|
//! | getattr | 1.02 | 0.87 |
//! | a missing name | 1.02 | 0.61 |
//! | open and close | 1.04 | 0.57 |
//! | open, read 4 KiB, close | 1.02 | 0.63 |
//! | create, write 4 KiB, close | 0.73 to 0.82 | 0.96 |
//! | the same, to be read as well | 0.66 to 0.75 | 0.80 |
//! | rename | 0.68 to 0.73 | 0.99 |
//! | by two clients, and by eight | 0.88 to 1.07, 0.95 to 1.03 | 1.00 to 1.04, 0.98 to 1.05 |
//! | `tar x` | 0.90 | 0.46 |
//! | a script in Python | 0.92 | 0.62 |
//! | `git clone`, `cargo build`, `npm ci` | 0.98, 0.98, 1.01 | 0.95, 1.00, 0.96 |
//! | a script in sh, `rm -rf` | 1.00, 1.02 | 1.00, 1.06 |
//!
//! The kernel wants a queue with at least one entry for every CPU that could ever be there before it uses any.
//! So all that can fail here without a connection is done in [`Queues::prepare`], before INIT.
//!
//! How a queue ends (`fuse_uring_stop_queues`, `fuse_uring_cancel` of `fs/fuse/dev_uring.c`): unmounted or
//! aborted, every entry comes back with `ENOTCONN`. If the process is killed, its descriptor of the device goes,
//! and with the last descriptor the kernel aborts the connection: callers get `ECONNABORTED` or `ENOTCONN`. Where
//! somebody else holds one too, it does not, and requests that were in the ring are answered by nobody.
//!
//! Invariants: a request that was received is answered before the next is received from the same queue, with EIO
//! if nobody did; only the thread of a queue touches it.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use zerocopy::FromBytes;

use super::dev_fuse::DevFuse;
use super::turns::{ReaderId, Turn};
use super::waiting::Settling;
use super::{Buffer, Delivery, Frame, Lane, Received, SplicePipe, Transport, Wait};
use crate::proto::Reply;
use crate::proto::abi::fuse_in_header;
use crate::proto::types::{Errno, RequestId};
use crate::sys::fuse_ring::{Completed, Entry, FuseQueue, Prepared};
use crate::sys::process::{pin_to, weigh_more};

/// Where the kernel says whether it offers the ring.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// Where it says which CPUs could ever be there.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
/// Most bytes that all payloads of a connection take, where each queue gets more than one entry.
pub const BUDGET: usize = 32 << 20;
/// Most entries of a queue, unless more are asked for. One thread serves them, so more only let the kernel put
/// requests there that wait for it: 1, 4 and 16 measure the same, with one client and with four.
pub const DEPTH_MAX: usize = 4;

/// By so many nice levels the thread of a queue weighs more than others of its process: 2.4 times as much. With one level renaming gained
/// nothing, with ten eight clients took up to 1.6 of the time.
const WEIGHS_MORE: i32 = 4;

/// Why there is no ring here.
#[derive(Debug)]
pub enum Unavailable {
    /// The kernel has no FUSE over io_uring.
    TooOld,
    /// The kernel has it, and it is switched off.
    SwitchedOff,
    /// The CPUs cannot be counted.
    Cpus(io::Error),
    /// io_uring itself is not to be had.
    Refused(io::Error),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld => f.write_str("this kernel has no FUSE over io_uring; Linux 6.14 has it"),
            Self::SwitchedOff => {
                write!(f, "FUSE over io_uring is switched off; as root: echo Y > {PARAMETER}")
            }
            Self::Cpus(error) => write!(f, "cannot count CPUs: {POSSIBLE}: {error}"),
            Self::Refused(error) => {
                write!(f, "io_uring cannot be used: {error}")?;
                f.write_str(match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
                        "; a container's seccomp filter refuses io_uring_setup, or the sysctl \
                         kernel.io_uring_disabled does"
                    }
                    Some(libc::ENOMEM) => "; raise the limit of locked memory (ulimit -l)",
                    Some(libc::EMFILE | libc::ENFILE) => {
                        "; it takes a descriptor per CPU: raise the limit (ulimit -n)"
                    }
                    _ => "",
                })
            }
        }
    }
}

impl std::error::Error for Unavailable {}

/// Queues for every CPU, not yet known to a connection.
#[derive(Debug)]
pub struct Queues {
    prepared: Vec<Prepared>,
    depth: usize,
}

impl Queues {
    /// Makes all that a ring needs before a connection agrees on it, for requests and replies with up to
    /// `data_max` bytes of data; `depth` entries each, or as many as [`BUDGET`] and [`DEPTH_MAX`] allow.
    ///
    /// # Errors
    ///
    /// Why there is no ring here. Whether the kernel offers it is known for sure only at INIT.
    pub fn prepare(data_max: usize, depth: Option<usize>) -> Result<Self, Unavailable> {
        offered(Path::new(PARAMETER))?;
        let cpus = std::fs::read_to_string(POSSIBLE).map_err(Unavailable::Cpus)?;
        let cpus = count(&cpus)
            .ok_or_else(|| Unavailable::Cpus(io::Error::other(format!("{cpus:?} is no list"))))?;
        let depth =
            depth.unwrap_or_else(|| (BUDGET / (cpus * data_max.max(1))).clamp(1, DEPTH_MAX));
        let prepared: Result<_, _> = (0..cpus).map(|_| Prepared::new(depth, data_max)).collect();
        Ok(Self { prepared: prepared.map_err(Unavailable::Refused)?, depth })
    }

    /// How many queues, and how many entries each has.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.prepared.len(), self.depth)
    }
}

/// Whether the module's parameter allows the ring. Where it cannot be seen, INIT tells.
fn offered(parameter: &Path) -> Result<(), Unavailable> {
    match std::fs::read_to_string(parameter) {
        Ok(value) if value.trim() == "N" => Err(Unavailable::SwitchedOff),
        Ok(_) => Ok(()),
        // Without the directory there is no sysfs here, or none that shows it.
        Err(_) if parameter.parent().is_some_and(Path::is_dir) => Err(Unavailable::TooOld),
        Err(_) => Ok(()),
    }
}

/// How many CPUs a list such as `0-3,8` names.
fn count(list: &str) -> Option<usize> {
    let mut count = 0_usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?)?.checked_add(1)?;
    }
    (count <= usize::from(u16::MAX)).then_some(count)
}

/// A connection over the ring.
#[derive(Debug)]
pub struct Uring {
    device: DevFuse,
    /// Readable once all threads are to end.
    stop: OwnedFd,
    /// Those whose threads have not come for them.
    queues: Mutex<Vec<Option<Prepared>>>,
    settling: Settling,
    /// Threads of queues weigh more than others.
    weighs_more: bool,
}

impl Uring {
    /// Takes over a device that is mounted and has not answered INIT. `wait` is how its readers wait, should
    /// INIT not agree on the ring.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, or whatever `fcntl(2)` says.
    pub fn new(device: OwnedFd, queues: Queues, wait: Wait) -> io::Result<Self> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let device = DevFuse::with_stop(device, wait, stop.try_clone()?)?;
        let queues = Mutex::new(queues.prepared.into_iter().map(Some).collect());
        let weighs_more = matches!(wait, Wait::SpinBeside(_));
        Ok(Self { device, stop, queues, settling: Settling::new(wait), weighs_more })
    }
}

impl Transport for Uring {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        self.device.receive(buffer)
    }

    fn answers(&self, reader: ReaderId) {
        self.device.answers(reader);
    }

    fn turn(&self, reader: ReaderId) -> Option<Turn> {
        self.device.turn(reader)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        self.device.send(reply)
    }

    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        self.device.send_notification(chunks)
    }

    fn can_splice(&self) -> bool {
        self.device.can_splice()
    }

    fn send_filled(&self, pipe: &mut SplicePipe) -> io::Result<Delivery> {
        self.device.send_filled(pipe)
    }

    fn lanes(&self) -> usize {
        self.queues.lock().len()
    }

    fn lane(&self, number: usize) -> io::Result<Box<dyn Lane + '_>> {
        let prepared = self.queues.lock().get_mut(number).and_then(Option::take);
        let prepared = prepared.ok_or(io::ErrorKind::NotFound)?;
        let pinned = pin_to(number);
        if let Err(error) = &pinned {
            // One that is not there, or not for us: nobody may ever ask on it, but its queue must be there.
            tracing::debug!(cpu = number, %error, "the thread of this CPU's queue runs anywhere");
        }
        if self.weighs_more
            && let Err(error) = weigh_more(WEIGHS_MORE)
        {
            tracing::debug!(%error, "the thread of a queue weighs as others do");
        }
        let number = u16::try_from(number).map_err(|_| io::ErrorKind::NotFound)?;
        let entries = prepared.entries();
        let queue = prepared.register(self.device.as_fd(), number, self.stop.as_fd())?;
        let settling = pinned.is_ok().then_some(&self.settling);
        Ok(Box::new(UringLane { queue, number, entries, current: None, settling, moved: false }))
    }

    fn stop(&self) {
        // Fails only where the number in it would overflow, and then it is readable already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

/// One queue, served by the thread that has it.
#[derive(Debug)]
struct UringLane<'t> {
    queue: FuseQueue<'t>,
    /// Its number, which is its CPU's.
    number: u16,
    /// How many entries the kernel may still use.
    entries: usize,
    /// The request that waits for its reply.
    current: Option<Current>,
    /// `None` where the thread may run anywhere.
    settling: Option<&'t Settling>,
    /// Who asked last asked on another CPU before.
    moved: bool,
}

/// A request, and the entry it is in.
#[derive(Clone, Copy, Debug)]
struct Current {
    entry: usize,
    id: RequestId,
    /// How long its payload is: the room begins after it.
    payload: usize,
}

impl UringLane<'_> {
    /// The next entry that holds a request.
    fn next(&mut self) -> io::Result<Option<usize>> {
        while self.entries > 0 {
            match self.queue.completed() {
                Some(Completed::Request(entry)) => {
                    // What is answered must not wait for what comes now.
                    if self.queue.has_commits() {
                        self.queue.submit()?;
                    }
                    return Ok(Some(entry));
                }
                Some(Completed::Gone(_)) => self.entries -= 1,
                Some(Completed::Stop) => return Ok(None),
                None if std::mem::take(&mut self.moved) => self.keep_cpu()?,
                None => self.queue.wait()?,
            }
        }
        Ok(None)
    }

    /// Keeps this CPU from idling for a while, so that a caller stays where it was moved to; ends once something completes.
    fn keep_cpu(&mut self) -> io::Result<()> {
        let Some(mut keep) = self.settling.and_then(Settling::keep) else { return Ok(()) };
        // What was answered is handed over first: that is what wakes the caller.
        self.queue.submit()?;
        while !self.queue.has_completed() && keep.goes_on() {
            self.queue.submit()?;
        }
        Ok(())
    }
}

impl Lane for UringLane<'_> {
    fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        if let Some(Current { id, .. }) = self.current {
            let _ = self.send(&Reply::error(id, Errno::EIO))?;
        }
        let Some(number) = self.next()? else { return Ok(None) };
        let Entry { header, payload } = self.queue.entry(number);
        let (to, _) = fuse_in_header::read_from_prefix(&header.in_out)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let len = usize::try_from(header.ring_ent_in_out.payload_sz).unwrap_or(usize::MAX);
        let len = len.min(payload.len());
        self.moved = self.settling.is_some_and(|settling| settling.asks(self.number, to.pid));
        self.current = Some(Current { entry: number, id: RequestId(to.unique), payload: len });
        let (payload, room) = payload.split_at_mut(len);
        Ok(Some(Received {
            frame: Frame::Parts { header: to, args: &header.op_in, payload },
            room,
        }))
    }

    fn send(&mut self, reply: &Reply<'_>) -> io::Result<Delivery> {
        let Some(Current { entry, payload: begin, .. }) = self.current.take() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no request waits for a reply",
            ));
        };
        let Entry { header, payload } = self.queue.entry(entry);
        let (to, _) = header.in_out.split_at_mut(reply.header().len());
        to.copy_from_slice(reply.header());
        let put = match put(reply, payload, begin) {
            Some(len) => len,
            // Longer than the kernel may have asked for.
            None => {
                to.copy_from_slice(Reply::error(reply.id(), Errno::EIO).header());
                0
            }
        };
        header.ring_ent_in_out.payload_sz = put;
        self.queue.commit(entry)?;
        Ok(Delivery::Taken)
    }
}

impl Drop for UringLane<'_> {
    fn drop(&mut self) {
        // The last reply, if nothing was received after it; an error means that nobody waits for it.
        if self.queue.has_commits()
            && let Err(error) = self.queue.submit()
        {
            tracing::debug!(%error, "the last reply of a queue was lost");
        }
    }
}

/// Puts what follows the header of `reply` at the beginning of `payload`, where its room starts at `begin`;
/// how many bytes that are. `None` if it does not fit.
fn put(reply: &Reply<'_>, payload: &mut [u8], begin: usize) -> Option<u32> {
    if let Some(len) = reply.in_room() {
        payload.get(..len)?;
        let end = begin.checked_add(len).filter(|&end| end <= payload.len())?;
        // In place already, unless the request brought a payload; those with an answer in the room bring none.
        if begin > 0 {
            payload.copy_within(begin..end, 0);
        }
        return u32::try_from(len).ok();
    }
    let mut at = 0_usize;
    for part in std::iter::once(reply.fixed_part()).chain(reply.data_parts()) {
        let end = at.checked_add(part.len())?;
        payload.get_mut(at..end)?.copy_from_slice(part);
        at = end;
    }
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::proto::types::{Attr, RequestId};

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, cpus) in [("0\n", 1), ("0-1\n", 2), ("0-3,8", 5), ("0,2,4-5", 4)] {
            assert_eq!(count(list), Some(cpus), "{list}");
        }
        for list in ["", "x", "3-1", "0-", "0-99999999"] {
            assert_eq!(count(list), None, "{list}");
        }
    }

    #[test]
    fn the_parameter_says_whether_there_is_a_ring() {
        let directory = tempfile::tempdir().unwrap();
        let parameter = directory.path().join("enable_uring");
        assert!(matches!(offered(&parameter), Err(Unavailable::TooOld)));
        fs::write(&parameter, "N\n").unwrap();
        assert!(matches!(offered(&parameter), Err(Unavailable::SwitchedOff)));
        fs::write(&parameter, "Y\n").unwrap();
        assert!(offered(&parameter).is_ok());
        assert!(offered(&directory.path().join("no/sysfs/here")).is_ok());
    }

    #[test]
    fn why_there_is_no_ring_names_what_mends_it() {
        let refused = |errno| Unavailable::Refused(io::Error::from_raw_os_error(errno)).to_string();
        assert!(refused(libc::EPERM).contains("seccomp"));
        assert!(refused(libc::ENOMEM).contains("ulimit -l"));
        assert!(refused(libc::EMFILE).contains("ulimit -n"));
        assert!(Unavailable::SwitchedOff.to_string().contains("echo Y"));
    }

    #[test]
    fn a_reply_is_put_where_the_kernel_looks_for_it() {
        let id = RequestId(8);
        let mut payload = [1; 4096];
        let attr = Reply::attr(id, &Attr::default(), std::time::Duration::ZERO);
        assert_eq!(put(&attr, &mut payload, 0), Some(104));
        assert_eq!(payload[..104], *attr.fixed_part());
        assert_eq!(put(&Reply::data(id, b"value"), &mut payload, 9), Some(5));
        assert_eq!(payload[..5], *b"value");
        assert_eq!(put(&Reply::empty(id), &mut payload, 0), Some(0));
        let errno = Reply::error(id, Errno::EIO);
        assert_eq!(put(&errno, &mut payload, 0), Some(0));
    }

    #[test]
    fn data_in_the_room_stays_where_it_is_or_moves_to_the_front() {
        let id = RequestId(8);
        let mut payload: Vec<u8> = (0..=255).collect();
        assert_eq!(put(&Reply::data_in_room(id, 100), &mut payload, 0), Some(100));
        assert_eq!(payload, (0..=255).collect::<Vec<u8>>());
        assert_eq!(put(&Reply::data_in_room(id, 100), &mut payload, 50), Some(100));
        assert_eq!(payload[..100], (50..150).collect::<Vec<u8>>());
    }

    #[test]
    fn a_reply_that_does_not_fit_is_not_put() {
        let id = RequestId(8);
        let mut payload = [0; 64];
        assert_eq!(put(&Reply::data(id, &[1; 65]), &mut payload, 0), None);
        assert_eq!(put(&Reply::data_in_room(id, 65), &mut payload, 0), None);
        assert_eq!(put(&Reply::data_in_room(id, 32), &mut payload, 33), None);
        assert_eq!(put(&Reply::data_in_room(id, 1 << 30), &mut payload, 33), None);
    }

    #[test]
    fn what_is_no_fuse_device_refuses_a_queue() {
        let prepared = match Prepared::new(2, 1 << 20) {
            Ok(prepared) => prepared,
            Err(error) => {
                eprintln!("SKIPPED: io_uring is not to be had here: {error}");
                return;
            }
        };
        let file = tempfile::tempfile().unwrap();
        let (stop, _writer) = io::pipe().unwrap();
        let refused = prepared.register(file.as_fd(), 0, stop.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_ring_that_is_given_up_frees_everything() {
        let before = fs::read_dir("/proc/self/fd").unwrap().count();
        for _ in 0..100 {
            match Prepared::new(16, 1 << 20) {
                Ok(prepared) => drop(prepared),
                Err(error) => return eprintln!("SKIPPED: no io_uring here: {error}"),
            }
        }
        let after = fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests open files meanwhile, but not a hundred.
        assert!(after < before + 50, "{before} descriptors, then {after}");
    }

    #[test]
    fn who_is_stopped_receives_nothing_more() {
        let (ours, _kernels) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let queues = Queues { prepared: Vec::new(), depth: 1 };
        let ours: OwnedFd = ours;
        let ring = Uring::new(ours, queues, Wait::Block).unwrap();
        assert_eq!(ring.lanes(), 0);
        assert_eq!(ring.lane(0).map(drop).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut buffer = Buffer::for_writes(4096).unwrap();
                ring.receive(&mut buffer).unwrap().is_none()
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            ring.stop();
            assert!(reader.join().unwrap());
        });
    }
}
