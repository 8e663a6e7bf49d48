//! One queue of FUSE over io_uring: what is shared with the kernel, and the memory requests come in.
//!
//! ```text
//!  sqes      what is asked: register an entry; commit its reply and fetch the next request    128 bytes each
//!  cqes      which entry holds a request now, or why it never will again                       16 bytes each
//!  headers   [entries] fuse_uring_req_header: both headers, the fixed part, the lengths       288 bytes each
//!  payloads  [entries] what comes after the fixed part, either way                     `payload_len` bytes each
//! ```
//!
//! Each entry is in the kernel's hands from its registration, and from each commit, until it completes. Its
//! memory is written and read by the kernel during `io_uring_enter` of the queue's own thread only: with
//! `IORING_SETUP_DEFER_TASKRUN` what a completion needs (copying a request in) is run there and nowhere
//! else, and a reply is copied out while it is submitted (`fuse_uring_send_in_task`, `fuse_uring_commit` of
//! `fs/fuse/dev_uring.c`). So no entry changes while anybody can hold a reference into it, and once the ring
//! is closed its memory may be freed: the kernel pins none of it.
//!
//! Invariants: a [`Prepared`] ring is disabled and has nothing in flight; a [`FuseQueue`] never leaves the
//! thread that enabled it, which `IORING_SETUP_SINGLE_ISSUER` demands; memory of a queue is freed after its
//! ring is closed.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringFeatureFlags, IoringOp,
    IoringRegisterOp, IoringSetupFlags, io_uring_enter, io_uring_params, io_uring_register,
    io_uring_setup,
};
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::pages::{PAGE, PageBuffer};
use crate::proto::abi::{
    FUSE_IO_URING_CMD_COMMIT_AND_FETCH, FUSE_IO_URING_CMD_REGISTER, fuse_uring_cmd_req,
    fuse_uring_req_header,
};

/// Most entries of one queue.
pub const ENTRIES_MAX: usize = 1024;
/// A header's place is so long, so that it touches as few cache lines as can be.
const HEADER_STRIDE: usize = 320;
const _: () = assert!(size_of::<fuse_uring_req_header>() <= HEADER_STRIDE);
/// What completes when somebody asked the queue's thread to stop; no entry has this number.
const STOP: u64 = u64::MAX;
/// `POLLIN` of poll(2).
const POLL_IN: u32 = libc::POLLIN as u32;

/// A submission of 128 bytes: the fields of `struct io_uring_sqe` that are used here.
#[derive(Clone, Copy, FromZeros, Immutable, IntoBytes)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    /// `cmd_op` of a command; the lower half of `off`.
    cmd_op: u32,
    pad1: u32,
    addr: u64,
    len: u32,
    /// `uring_cmd_flags` of a command, `poll32_events` of a poll.
    op_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    splice_fd_in: i32,
    /// What `IORING_SETUP_SQE128` makes room for.
    cmd: [u8; 80],
}
const _: () = assert!(size_of::<Sqe>() == 128);

/// `struct io_uring_cqe`.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Cqe {
    user_data: u64,
    res: i32,
    flags: u32,
}
const _: () = assert!(size_of::<Cqe>() == 16);

/// Memory shared with the kernel, unmapped when dropped.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn of(ring: &OwnedFd, len: usize, offset: u64) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so nothing that is mapped already is touched, and the
        // mapping is reached through the value made of it only.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, ring, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The address of a `T` at `offset`.
    ///
    /// # Panics
    ///
    /// If it is not all inside, or not aligned: both are laid out by the kernel and checked when the
    /// ring is made.
    fn at<T>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "{offset} of {}", self.len);
        // SAFETY: `offset` is inside the mapping, as just seen.
        let place = unsafe { self.start.add(offset) }.cast::<T>();
        assert!(place.is_aligned(), "{offset}");
        place
    }

    /// A number that kernel and process both read and write.
    fn number(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: `at` checks that four aligned bytes are there; they are mapped while `self` lives,
        // any bits are a number, and both sides access them atomically.
        unsafe { self.at::<AtomicU32>(offset as usize).as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole of one mapping, made by `of`, and every reference into it borrows
        // `self`.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// Where things are in the shared memory.
#[derive(Clone, Copy)]
struct Layout {
    sq_head: u32,
    sq_tail: u32,
    sq_entries: u32,
    cq_head: u32,
    cq_tail: u32,
    cq_entries: u32,
    cqes: u32,
}

/// A queue with all its memory, not yet known to any connection. May be sent to the thread that is to
/// serve it.
pub struct Prepared {
    // In the order in which they must be dropped: the ring before its memory.
    ring: OwnedFd,
    shared: Mapping,
    sqes: Mapping,
    headers: PageBuffer,
    payloads: PageBuffer,
    /// Where the two parts of each entry are, as the kernel reads it.
    segments: Box<[[libc::iovec; 2]]>,
    layout: Layout,
    entries: usize,
    payload_len: usize,
}

// SAFETY: nothing in it is bound to a thread: the ring is disabled, so it has no submitter yet, and the
// mappings, and what the pointers lead to, are reached through this value only.
unsafe impl Send for Prepared {}

impl Prepared {
    /// A queue of `entries` requests at one time, each with up to `payload_len` bytes after its fixed part.
    ///
    /// Memory of payloads that were never so long costs nothing.
    ///
    /// # Errors
    ///
    /// `ENOSYS`, `EPERM` or `EINVAL` where io_uring is not there, not allowed (a seccomp filter, or the
    /// sysctl `kernel.io_uring_disabled`), or older than Linux 6.6; `ENOMEM` where memory that may be
    /// locked is used up; `EMFILE`.
    pub fn new(entries: usize, payload_len: usize) -> io::Result<Self> {
        let payload_len = payload_len.next_multiple_of(PAGE);
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        if entries == 0 || entries > ENTRIES_MAX {
            return Err(invalid());
        }
        let bytes = entries.checked_mul(payload_len).ok_or_else(invalid)?;
        let headers = PageBuffer::with_at_least(entries * HEADER_STRIDE)?;
        let payloads = PageBuffer::with_at_least(bytes)?;
        let mut params = io_uring_params::default();
        params.flags = IoringSetupFlags::SQE128
            | IoringSetupFlags::R_DISABLED
            | IoringSetupFlags::SINGLE_ISSUER
            | IoringSetupFlags::DEFER_TASKRUN
            | IoringSetupFlags::NO_SQARRAY
            | IoringSetupFlags::SUBMIT_ALL;
        // One more for the poll that stops the thread.
        let wanted = u32::try_from(entries + 1).map_err(|_| invalid())?;
        // SAFETY: `ATTACH_WQ`, which is what makes it unsafe, is not asked for.
        let ring = unsafe { io_uring_setup(wanted, &mut params) }?;
        if !params.features.contains(IoringFeatureFlags::SINGLE_MMAP) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let layout = Layout {
            sq_head: params.sq_off.head,
            sq_tail: params.sq_off.tail,
            sq_entries: params.sq_entries,
            cq_head: params.cq_off.head,
            cq_tail: params.cq_off.tail,
            cq_entries: params.cq_entries,
            cqes: params.cq_off.cqes,
        };
        let cqes = layout.cq_entries as usize * size_of::<Cqe>();
        let shared = Mapping::of(&ring, layout.cqes as usize + cqes, IORING_OFF_SQ_RING)?;
        let sqes = layout.sq_entries as usize * size_of::<Sqe>();
        let sqes = Mapping::of(&ring, sqes, IORING_OFF_SQES)?;
        let segments = Box::default();
        Ok(Self { ring, shared, sqes, headers, payloads, segments, layout, entries, payload_len })
    }

    /// How many requests it holds at one time.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Makes this the queue number `queue` of the connection of `device`, served by the calling thread, and
    /// hands all its entries to the kernel. Once `stop` is readable, the thread is told.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says to the registration of the first entry: `EOPNOTSUPP` if the module
    /// parameter `enable_uring` is off, `EINVAL` if there is no such queue or payloads are too short for
    /// what INIT agreed on, `ENOTCONN` if the connection has ended.
    pub fn register<'d>(
        self,
        device: BorrowedFd<'d>,
        queue: u16,
        stop: BorrowedFd<'d>,
    ) -> io::Result<FuseQueue<'d>> {
        // SAFETY: this operation takes no argument.
        unsafe {
            io_uring_register(
                &self.ring,
                IoringRegisterOp::RegisterEnableRings,
                std::ptr::null(),
                0,
            )
        }?;
        let tail = self.shared.number(self.layout.sq_tail).load(Ordering::Relaxed);
        let entries = self.entries;
        let mut queue = FuseQueue { parts: self, device, queue, tail, thread: PhantomData };
        queue.push(Sqe {
            opcode: IoringOp::PollAdd as u8,
            fd: stop.as_raw_fd(),
            op_flags: POLL_IN,
            user_data: STOP,
            ..Sqe::new_zeroed()
        });
        // Kept as long as the ring: before INIT is answered, the kernel puts a registration off.
        let segments: Box<[_]> = (0..entries).map(|number| queue.segments(number)).collect();
        queue.parts.segments = segments;
        for number in 0..entries {
            let segments = &queue.parts.segments[number];
            queue.push(Sqe {
                cmd_op: FUSE_IO_URING_CMD_REGISTER,
                addr: segments.as_ptr().addr() as u64,
                len: segments.len() as u32,
                ..queue.command(number, 0)
            });
        }
        queue.submit()?;
        // What was refused completes at once, and is looked at here; requests may come as soon.
        match queue.refused() {
            Some(errno) => Err(errno.into()),
            None => Ok(queue),
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({} entries of {} bytes)", self.entries, self.payload_len)
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Completed {
    /// It holds a request, and waits for [`FuseQueue::commit`].
    Request(usize),
    /// The kernel will not use it again: the connection ended, or its reply belonged to no request.
    Gone(usize),
    /// Somebody asked the thread to stop.
    Stop,
}

/// One entry, in our hands.
#[derive(Debug)]
pub struct Entry<'q> {
    /// Both headers, the fixed part and the lengths.
    pub header: &'q mut fuse_uring_req_header,
    /// All the room for what comes after the fixed part of a request, or after the header of a reply.
    pub payload: &'q mut [u8],
}

/// A queue that a connection sends its requests to, served by the thread that has it.
pub struct FuseQueue<'d> {
    parts: Prepared,
    device: BorrowedFd<'d>,
    queue: u16,
    /// Number of submissions made; the kernel is told with the next [`FuseQueue::submit`].
    tail: u32,
    /// `Prepared` may be sent to another thread; this may not.
    thread: PhantomData<*const ()>,
}

impl FuseQueue<'_> {
    /// Hands what was committed to the kernel, without waiting.
    ///
    /// # Errors
    ///
    /// Whatever io_uring_enter(2) says: the ring cannot be used any more.
    pub fn submit(&mut self) -> io::Result<()> {
        // With no event to wait for, this still runs what completions need.
        self.enter(0)
    }

    /// Hands what was committed to the kernel, and waits until at least one entry completes.
    ///
    /// # Errors
    ///
    /// Whatever io_uring_enter(2) says: the ring cannot be used any more.
    pub fn wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, complete: u32) -> io::Result<()> {
        let Prepared { ring, shared, layout, .. } = &self.parts;
        shared.number(layout.sq_tail).store(self.tail, Ordering::Release);
        loop {
            let taken = shared.number(layout.sq_head).load(Ordering::Acquire);
            let new = self.tail.wrapping_sub(taken);
            // SAFETY: what is submitted was made by `push`: polls, and commands of FUSE, which access the
            // memory of entries. That is alive as long as the ring, and `&mut self` shows that nobody
            // else looks at it now. `EXT_ARG` and `EXT_ARG_REG` are not used.
            let entered =
                unsafe { io_uring_enter(ring, new, complete, IoringEnterFlags::GETEVENTS) };
            match entered {
                // One may end before all is taken: a signal came, or something completed.
                Ok(submitted) if submitted < new => (),
                Ok(_) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether something was committed that the kernel was not told of.
    #[must_use]
    pub fn has_commits(&self) -> bool {
        let taken = self.parts.shared.number(self.parts.layout.sq_head).load(Ordering::Acquire);
        taken != self.tail
    }

    /// Whether an entry has completed. Does not wait.
    #[must_use]
    pub fn has_completed(&self) -> bool {
        let Prepared { shared, layout, .. } = &self.parts;
        let head = shared.number(layout.cq_head).load(Ordering::Relaxed);
        head != shared.number(layout.cq_tail).load(Ordering::Acquire)
    }

    /// The next entry that completed, if one has. Does not wait.
    pub fn completed(&mut self) -> Option<Completed> {
        let (user_data, res) = self.completion()?;
        if user_data == STOP {
            return Some(Completed::Stop);
        }
        // Every other number was given by `command`.
        let number = usize::try_from(user_data).ok().filter(|&n| n < self.parts.entries)?;
        Some(if res == 0 { Completed::Request(number) } else { Completed::Gone(number) })
    }

    fn completion(&mut self) -> Option<(u64, i32)> {
        if !self.has_completed() {
            return None;
        }
        let Prepared { shared, layout, .. } = &self.parts;
        let head = shared.number(layout.cq_head).load(Ordering::Relaxed);
        let slot = (head & (layout.cq_entries - 1)) as usize;
        let place = shared.at::<Cqe>(layout.cqes as usize + slot * size_of::<Cqe>());
        // SAFETY: the place is inside the mapping, as `at` checks; the kernel wrote it before it moved
        // the tail, and writes it again only once the head has moved past it.
        let Cqe { user_data, res, .. } = unsafe { place.read() };
        shared.number(layout.cq_head).store(head.wrapping_add(1), Ordering::Release);
        Some((user_data, res))
    }

    /// Why the first entry was refused, if it was. Looks at completions without taking them.
    fn refused(&self) -> Option<Errno> {
        let Prepared { shared, layout, .. } = &self.parts;
        let head = shared.number(layout.cq_head).load(Ordering::Relaxed);
        let tail = shared.number(layout.cq_tail).load(Ordering::Acquire);
        (0..tail.wrapping_sub(head)).find_map(|n| {
            let slot = (head.wrapping_add(n) & (layout.cq_entries - 1)) as usize;
            let place = shared.at::<Cqe>(layout.cqes as usize + slot * size_of::<Cqe>());
            // SAFETY: as in `completion`.
            let Cqe { user_data, res, .. } = unsafe { place.read() };
            (user_data == 0 && res < 0).then(|| Errno::from_raw_os_error(res.saturating_neg()))
        })
    }

    /// The entry with that number.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn entry(&mut self, number: usize) -> Entry<'_> {
        let Prepared { headers, payloads, payload_len, entries, .. } = &mut self.parts;
        assert!(number < *entries, "{number} of {entries}");
        let (_, header) = headers.bytes_mut().split_at_mut(number * HEADER_STRIDE);
        let (header, _) = fuse_uring_req_header::mut_from_prefix(header)
            .expect("a header's place is long enough, and aligned to 64 bytes");
        let payload = &mut payloads.bytes_mut()[number * *payload_len..][..*payload_len];
        Entry { header, payload }
    }

    /// Asks the kernel to take the reply that the entry holds, and to put the next request there, once
    /// [`FuseQueue::submit`] or [`FuseQueue::wait`] is called.
    ///
    /// # Errors
    ///
    /// As [`FuseQueue::submit`].
    pub fn commit(&mut self, number: usize) -> io::Result<()> {
        let taken = self.parts.shared.number(self.parts.layout.sq_head).load(Ordering::Acquire);
        if self.tail.wrapping_sub(taken) == self.parts.layout.sq_entries {
            self.submit()?;
        }
        let commit_id = self.entry(number).header.ring_ent_in_out.commit_id;
        let sqe =
            Sqe { cmd_op: FUSE_IO_URING_CMD_COMMIT_AND_FETCH, ..self.command(number, commit_id) };
        self.push(sqe);
        Ok(())
    }

    fn command(&self, number: usize, commit_id: u64) -> Sqe {
        let request = fuse_uring_cmd_req { flags: 0, commit_id, qid: self.queue, padding: [0; 6] };
        let mut cmd = [0; 80];
        let (place, _) = cmd.split_at_mut(size_of::<fuse_uring_cmd_req>());
        place.copy_from_slice(request.as_bytes());
        Sqe {
            opcode: IoringOp::UringCmd as u8,
            fd: self.device.as_raw_fd(),
            user_data: number as u64,
            cmd,
            ..Sqe::new_zeroed()
        }
    }

    /// Where the kernel finds the memory of an entry.
    fn segments(&mut self, number: usize) -> [libc::iovec; 2] {
        let Entry { header, payload } = self.entry(number);
        let header = header.as_mut_bytes();
        [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() },
        ]
    }

    /// Adds a submission. There is room: one for each entry and the poll, and [`FuseQueue::commit`] looks.
    fn push(&mut self, sqe: Sqe) {
        let Prepared { sqes, layout, .. } = &self.parts;
        let slot = (self.tail & (layout.sq_entries - 1)) as usize;
        let place = sqes.at::<Sqe>(slot * size_of::<Sqe>());
        // SAFETY: the place is inside the mapping, as `at` checks, and the kernel does not look at it
        // before the tail moves past it.
        unsafe { place.write(sqe) };
        self.tail = self.tail.wrapping_add(1);
    }
}

impl std::fmt::Debug for FuseQueue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FuseQueue({}, {:?})", self.queue, self.parts)
    }
}
