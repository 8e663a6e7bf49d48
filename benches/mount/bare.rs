//! Servers without a filesystem: what they need is the kernel's share, and that of this crate's lower layers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::types::Errno as Refusal;
use lighthouse_fuse::proto::{Dialect, Message, Op, Reply};
use lighthouse_fuse::sys;
use lighthouse_fuse::sys::fuse_ring::{Completed, Prepared};
use lighthouse_fuse::transport::dev_fuse::DevFuse;
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::{Buffer, Frame, Transport, Wait};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::BLOCK;
use crate::constants::{Constants, FILE, INIT, MAX_WRITE, OPENED, VALID, attr, entry, is_there};

/// How long a spinning reader reads without blocking.
const SPIN: Duration = Duration::from_micros(20);
/// What the command line calls them.
pub(crate) const BARE: [&str; 6] =
    ["bare-1", "bare-2", "bare-1-spin", "bare-2-spin", "bare-ring", "transport-spin"];

/// Serves constants at `at` until unmounted.
pub(crate) fn serve(mode: &str, store: &Path, at: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = MountOptions::new(store.to_owned());
    let point = mount::check(at, store, false)?.prepare()?;
    let (device, _) = point.mount(&options)?;
    let wait = if mode.ends_with("-spin") { Wait::Spin(SPIN) } else { Wait::Block };
    let device = DevFuse::new(device, wait)?;
    if !mode.starts_with("bare") {
        return Ok(transported(&device)?);
    }
    // The transport's device never blocks; these read it themselves.
    let mut flags = rustix::fs::fcntl_getfl(&device)?;
    flags.set(rustix::fs::OFlags::NONBLOCK, wait != Wait::Block);
    rustix::fs::fcntl_setfl(&device, flags)?;
    // As fair as can be: several readers share nothing but the numbers they give out.
    let next = AtomicU64::new(FILE);
    // Never written to: whoever wants these to end unmounts.
    let (stop, _writer) = io::pipe()?;
    std::thread::scope(|scope| {
        if mode == "bare-ring" {
            bare_init(&device)?;
            let cpus = std::thread::available_parallelism()?.get();
            for cpu in 0..cpus {
                let (device, next, stop) = (device.as_fd(), &next, stop.try_clone()?);
                scope.spawn(move || {
                    bare_queue(device, cpu as u16, next, stop.as_fd())
                        .unwrap_or_else(|error| eprintln!("queue {cpu}: {error}"));
                });
            }
        }
        if mode.contains('2') {
            scope.spawn(|| bare(&device, wait, &next));
        }
        bare(&device, wait, &next)
    })?;
    Ok(())
}

/// Answers INIT such that what follows comes over the ring.
fn bare_init(device: &DevFuse) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let length = rustix::io::read(device, buffer.bytes_mut())?;
    let (header, _) = fuse_in_header::read_from_prefix(&buffer.bytes_mut()[..length])
        .map_err(|_| io::ErrorKind::InvalidData)?;
    assert_eq!(header.opcode, FUSE_INIT);
    let out = fuse_init_out {
        flags: INIT.flags | FUSE_INIT_EXT as u32,
        flags2: (FUSE_OVER_IO_URING >> 32) as u32,
        ..INIT
    };
    let head = fuse_out_header {
        len: (size_of::<fuse_out_header>() + size_of::<fuse_init_out>()) as u32,
        error: 0,
        unique: header.unique,
    };
    let reply = [io::IoSlice::new(head.as_bytes()), io::IoSlice::new(out.as_bytes())];
    rustix::io::writev(device, &reply)?;
    Ok(())
}

/// One queue of the ring, and its thread.
fn bare_queue(
    device: BorrowedFd<'_>,
    cpu: u16,
    next: &AtomicU64,
    stop: BorrowedFd<'_>,
) -> io::Result<()> {
    sys::process::pin_to(cpu.into())?;
    let mut constants = Constants::new(next);
    let mut queue = Prepared::new(8, MAX_WRITE as usize)?.register(device, cpu, stop)?;
    loop {
        let number = match queue.completed() {
            Some(Completed::Request(number)) => number,
            Some(Completed::Gone(_) | Completed::Stop) => return Ok(()),
            None => {
                queue.wait()?;
                continue;
            }
        };
        let sys::fuse_ring::Entry { header, payload } = queue.entry(number);
        let (to, _) = fuse_in_header::read_from_prefix(&header.in_out)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let body = header.ring_ent_in_out.payload_sz as usize;
        let (error, part) = constants.answer(&to, &payload[..body]).unwrap_or((-libc::EIO, &[]));
        let head = fuse_out_header {
            len: (size_of::<fuse_out_header>() + part.len()) as u32,
            error,
            unique: to.unique,
        };
        header.in_out[..size_of::<fuse_out_header>()].copy_from_slice(head.as_bytes());
        payload[..part.len()].copy_from_slice(part);
        header.ring_ent_in_out.payload_sz = part.len() as u32;
        queue.commit(number)?;
    }
}
/// Reads and writes `/dev/fuse`, and knows of each request its header only.
fn bare(device: &DevFuse, wait: Wait, next: &AtomicU64) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let mut constants = Constants::new(next);
    loop {
        let bytes = buffer.bytes_mut();
        let Some(length) = read(device, bytes, wait)? else { return Ok(()) };
        let (header, body) = fuse_in_header::read_from_prefix(&bytes[..length])
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let Some((error, part)) = constants.answer(&header, body) else { continue };
        let head = fuse_out_header {
            len: (size_of::<fuse_out_header>() + part.len()) as u32,
            error,
            unique: header.unique,
        };
        let reply = [io::IoSlice::new(head.as_bytes()), io::IoSlice::new(part)];
        match rustix::io::writev(device, &reply) {
            Ok(_) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One read of the device; `None` at the end.
fn read(device: &DevFuse, bytes: &mut [u8], wait: Wait) -> io::Result<Option<usize>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut until = None;
    loop {
        match rustix::io::read(device, &mut *bytes) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::NOENT | Errno::INTR) => (),
            Err(Errno::NODEV) => return Ok(None),
            Err(Errno::AGAIN) => {
                let Wait::Spin(time) = wait else { continue };
                if Instant::now() >= *until.get_or_insert_with(|| Instant::now() + time) {
                    poll(&mut [PollFd::new(device, PollFlags::IN)], None)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The same constants, through transport, decoder and encoder.
fn transported(device: &DevFuse) -> io::Result<()> {
    let mut buffer = Buffer::for_writes(MAX_WRITE)?;
    let block = [7; BLOCK];
    let mut next = FILE;
    while let Some(frame) = device.receive(&mut buffer)? {
        let Frame::Whole(bytes) = frame else { return Err(io::ErrorKind::InvalidData.into()) };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
        let message = Message::split(bytes, Dialect::NEWEST).map_err(invalid)?;
        let id = message.id();
        let reply = match Op::decode(&message).map_err(invalid)? {
            Op::Init(init) => Reply::init(id, &INIT, init.minor),
            Op::Forget(_) | Op::BatchForget(_) | Op::Interrupt(_) => continue,
            Op::Lookup(lookup) if is_there(lookup.name.as_bytes()) => {
                Reply::entry(id, &entry(FILE))
            }
            Op::Lookup(_) => Reply::error(id, Refusal::ENOENT),
            Op::GetAttr(getattr) => Reply::attr(id, &attr(getattr.node.get()), VALID),
            Op::SetAttr(setattr) => Reply::attr(id, &attr(setattr.node.get()), VALID),
            Op::Open(_) | Op::OpenDir(_) => Reply::opened(id, &OPENED),
            Op::Read(_) => Reply::data(id, &block),
            Op::Create(_) => {
                next += 1;
                Reply::created(id, &entry(next), &OPENED)
            }
            Op::Write(write) => Reply::written(id, write.data.len() as u32),
            Op::Unlink(_) | Op::Rename(_) | Op::Release(_) | Op::ReleaseDir(_) => Reply::empty(id),
            _ => Reply::error(id, Refusal::ENOSYS),
        };
        let _ = device.send(&reply)?;
    }
    Ok(())
}
