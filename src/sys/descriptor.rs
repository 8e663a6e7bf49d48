//! Descriptors that come from outside: inherited under a number, or sent over a unix socket.
//!
//! Invariant: every descriptor returned here is close-on-exec, so that no child of ours keeps a
//! connection alive after we are gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Takes a copy of the descriptor that this process inherited as `number`.
///
/// The inherited one stays open, since somebody else may count on its number, but is made
/// close-on-exec as well.
///
/// # Errors
///
/// `EBADF` if nothing is open under that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `F_DUPFD_CLOEXEC` takes integers only and touches no memory of ours.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `copy` was just made by `fcntl`, so it is open and nobody else owns it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    // SAFETY: `F_SETFD` takes integers only and touches no memory of ours.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(copy)
}

/// Sends `descriptor` over `socket`, with one byte so that there is something to read.
///
/// # Errors
///
/// Whatever `sendmsg(2)` says; `EPIPE` (and no signal) if nobody reads.
pub fn send(socket: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    assert!(fits, "the space was made for one descriptor");
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for one message on `socket` and takes the descriptor it carries.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`] if the other side closed without sending a message,
/// [`io::ErrorKind::InvalidData`] if the message carried no descriptor or more than one,
/// otherwise what `recvmsg(2)` says.
pub fn receive(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut byte = [0_u8; 1];
    let socket = socket.as_fd();
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        let iov = &mut [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(socket, iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut received = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            received.extend(descriptors);
        }
    }
    if message.bytes == 0 && received.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match (received.pop(), received.is_empty()) {
        (Some(descriptor), true) if !message.flags.contains(ReturnFlags::CTRUNC) => Ok(descriptor),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message does not carry exactly one descriptor",
        )),
    }
}

/// The process at the other end of `socket`, as it was when it connected or began to listen; `None` if
/// it has no number in our process namespace.
///
/// # Errors
///
/// Whatever `getsockopt(2)` says: `socket` is no unix socket.
pub fn peer_pid(socket: impl AsFd) -> io::Result<Option<u32>> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of_val(&peer)).map_err(io::Error::other)?;
    // SAFETY: `getsockopt` writes at most `len` bytes through its fourth pointer, which leads to
    // a `ucred` of ours of that size, and one `socklen_t` through its fifth; it keeps neither.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // 0 is a process of a namespace that cannot be seen from here.
    Ok(u32::try_from(peer.pid).ok().filter(|&pid| pid != 0))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::io::FdFlags;

    use super::*;

    #[test]
    fn a_descriptor_that_was_sent_is_the_same_file_and_close_on_exec() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&theirs, writer.as_fd()).unwrap();
        drop(writer);
        let received = receive(&ours).unwrap();
        assert!(rustix::io::fcntl_getfd(&received).unwrap().contains(FdFlags::CLOEXEC));
        File::from(received).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_socket_that_closes_or_says_something_else_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(receive(&ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"no descriptor").unwrap();
        assert_eq!(receive(&ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn who_is_at_the_other_end_is_known_by_number() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer_pid(&ours).unwrap(), Some(std::process::id()));
        assert!(peer_pid(File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn an_inherited_number_is_copied_and_one_that_is_not_open_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let copy = inherited(file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        for descriptor in [copy.as_fd(), file.as_fd()] {
            assert!(rustix::io::fcntl_getfd(descriptor).unwrap().contains(FdFlags::CLOEXEC));
        }
        assert_eq!(inherited(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
