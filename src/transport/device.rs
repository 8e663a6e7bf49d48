//! `/dev/fuse`: opened here, or opened and mounted by somebody else and handed over.
//!
//! The kernel names the processes in requests by their numbers in the process namespace of whoever
//! mounted: [`names_our_processes`] tells whether that is ours. Of a device that was inherited
//! nobody can tell, so it is taken to be.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::mount::MountError;
use crate::sys;

/// The device through which the kernel speaks FUSE.
pub const DEVICE: &str = "/dev/fuse";
/// Its device number: major 10 (misc), minor 229 (`FUSE_MINOR` in `linux/miscdevice.h`).
const DEVICE_NUMBER: (u32, u32) = (10, 229);

/// Opens `/dev/fuse`, to be mounted. In a user namespace it must be opened there, after `unshare`.
///
/// # Errors
///
/// [`MountError::DeviceMissing`], [`MountError::DeviceRefused`].
pub fn open() -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(DEVICE, flags, Mode::empty()) {
        Ok(device) => Ok(device),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(MountError::DeviceMissing),
        // EPERM: the device cgroup of a container.
        Err(error @ (Errno::ACCESS | Errno::PERM)) => Err(MountError::DeviceRefused(error.into())),
        Err(error) => Err(MountError::io("open", Path::new(DEVICE), error)),
    }
}

/// Takes the device that was inherited, if `mountpoint` is of the form `/dev/fd/N`: whoever
/// started us has opened `/dev/fuse` and mounted it.
///
/// # Errors
///
/// [`MountError::NotADevice`] if it is of that form and no open `/dev/fuse`.
pub fn inherited(mountpoint: &Path) -> Result<Option<OwnedFd>, MountError> {
    let Ok(number) = mountpoint.strip_prefix("/dev/fd") else { return Ok(None) };
    let what = || MountError::NotADevice(mountpoint.display().to_string());
    let number = number.to_str().and_then(|number| number.parse().ok()).ok_or_else(what)?;
    let device = sys::descriptor::inherited(number).map_err(|_| what())?;
    if is_device(&device) { Ok(Some(device)) } else { Err(what()) }
}

/// A device that another process mounted and handed over.
#[derive(Debug)]
pub struct HandedOver {
    /// The device.
    pub device: OwnedFd,
    /// To whoever mounted: that nothing more comes over it says that the mount is to end.
    pub stream: UnixStream,
}

impl HandedOver {
    /// Takes the device from whoever listens on the unix socket `socket`: it has opened `/dev/fuse`
    /// and mounted it, and sends the descriptor with one byte.
    ///
    /// # Errors
    ///
    /// [`MountError::Io`] if nobody listens or answers within `timeout`,
    /// [`MountError::NotADevice`] if what came is no open `/dev/fuse`.
    pub fn take(socket: &Path, timeout: Duration) -> Result<Self, MountError> {
        let failed = |error| MountError::io("take a descriptor from", socket, error);
        let stream = connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(timeout)).map_err(failed)?;
        let device = sys::descriptor::receive(&stream).map_err(failed)?;
        match is_device(&device) {
            true => Ok(Self { device, stream }),
            false => Err(MountError::NotADevice(format!("what came from {}", socket.display()))),
        }
    }

    /// Sends `device` to whoever connected as `stream`. Our copy is closed, so that the connection ends with theirs.
    ///
    /// From then on [`peer`] says what became of them.
    ///
    /// # Errors
    ///
    /// Whatever `sendmsg(2)` says: they are gone.
    pub fn offer(stream: &UnixStream, device: OwnedFd) -> io::Result<()> {
        let sent = sys::descriptor::send(stream, device.as_fd());
        drop(device);
        sent
    }
}

/// Connects, and does not wait where too many do already (`EAGAIN`).
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What became of the process at the other end of a stream over which a device was handed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// It goes on.
    There,
    /// It wants the mount to end, and is there until then.
    Done,
    /// It is gone.
    Gone,
}

/// See [`Peer`]. Waits for nothing.
#[must_use]
pub fn peer(stream: &UnixStream) -> Peer {
    let mut looked = [PollFd::new(stream, PollFlags::RDHUP)];
    match rustix::event::poll(&mut looked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) | Err(Errno::INTR) => Peer::There,
        Ok(_) if looked.iter().all(|fd| !fd.revents().contains(PollFlags::HUP)) => Peer::Done,
        _ => Peer::Gone,
    }
}

/// Whether the numbers by which the kernel names processes in requests are ours, where whoever
/// mounted is at the other end of `stream`: they are those of the process namespace it is in.
///
/// `false` where it cannot be told: a number of another namespace may be that of any process here.
#[must_use]
pub fn names_our_processes(stream: &UnixStream) -> bool {
    let Ok(Some(pid)) = sys::descriptor::peer_pid(stream) else { return false };
    // Each has one number for every namespace from that of this `/proc` down to its own: if it is
    // but one, it is in that of `/proc`.
    let is_in_that_of_proc = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.split_whitespace().count() == 1)
    };
    // Asked last: as long as it is there, its number was no other process's.
    is_in_that_of_proc("self") && is_in_that_of_proc(&pid.to_string()) && peer(stream) != Peer::Gone
}

fn is_device(descriptor: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(descriptor) else { return false };
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    FileType::from_raw_mode(stat.st_mode).is_char_device() && number == DEVICE_NUMBER
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_descriptor_that_is_no_device_is_refused() {
        let file = fs::File::open("/dev/null").unwrap();
        let path = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        assert!(matches!(inherited(&path), Err(MountError::NotADevice(_))));
        for path in ["/dev/fd/x", "/dev/fd/999999", "/dev/fd"] {
            assert!(matches!(inherited(Path::new(path)), Err(MountError::NotADevice(_))));
        }
        assert!(inherited(Path::new("/mnt")).unwrap().is_none());
    }

    #[test]
    fn a_device_comes_over_a_socket_only_if_it_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let timeout = Duration::from_secs(5);
        assert!(matches!(HandedOver::take(&path, timeout), Err(MountError::Io { .. })));

        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let sender = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let file = fs::File::open("/dev/null").unwrap();
            HandedOver::offer(&stream, file.into()).unwrap();
        });
        let answer = HandedOver::take(&path, timeout);
        assert!(matches!(answer, Err(MountError::NotADevice(_))));
        sender.join().unwrap();
    }

    #[test]
    fn who_is_done_is_told_from_who_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer(&ours), Peer::There);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peer(&ours), Peer::Done);
        drop(theirs);
        assert_eq!(peer(&ours), Peer::Gone);
    }

    #[test]
    fn who_is_in_our_process_namespace_is_believed_while_it_is_there() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(names_our_processes(&ours));
        drop(theirs);
        assert!(!names_our_processes(&ours));
    }
}
