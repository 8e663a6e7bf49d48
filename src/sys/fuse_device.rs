//! The ioctls of `/dev/fuse`, numbers as in `include/uapi/linux/fuse.h`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `_IOR(FUSE_DEV_IOC_MAGIC, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
/// `_IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map)`.
const FUSE_DEV_IOC_BACKING_OPEN: libc::Ioctl = 0x4010_e501;
/// `_IOW(FUSE_DEV_IOC_MAGIC, 2, uint32_t)`.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// `struct fuse_backing_map`: a file the kernel is to read and write itself.
#[repr(C)]
struct fuse_backing_map {
    fd: i32,
    flags: u32,
    padding: u64,
}
const _: () = assert!(size_of::<fuse_backing_map>() == 16);

/// A file the kernel was given to read and write itself, by the number it answered.
///
/// Valid for the connection it was opened on until [`close_backing`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BackingId(pub u32);

/// Binds `device`, freshly opened and bound to nothing, to the connection of `source` (since
/// Linux 4.2).
///
/// Each such descriptor has a queue of its own for requests that were read from it. Closing it
/// while one of them is unanswered gives that caller `ECONNABORTED`.
///
/// # Errors
///
/// `EINVAL` if `source` belongs to no connection or `device` already does, `ENOTTY` before 4.2.
pub fn clone_into(device: impl AsFd, source: BorrowedFd<'_>) -> io::Result<()> {
    let source = source.as_raw_fd().cast_unsigned();
    // SAFETY: `FUSE_DEV_IOC_CLONE` reads one `u32` through its pointer and keeps no copy of the
    // pointer, and `&source` points to one. The device is borrowed, so it is open.
    let answer =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) };
    checked(answer).map(drop)
}

/// Hands `file` to the kernel for passthrough on the connection of `device` (since Linux 6.9).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` in the first user namespace or if INIT did not negotiate
/// passthrough, `ELOOP` if `file` is on a filesystem stacked too deep, `EOPNOTSUPP` if its
/// filesystem cannot read and write by iterator, `ENOTTY` before 6.9.
pub fn open_backing(device: impl AsFd, file: BorrowedFd<'_>) -> io::Result<BackingId> {
    let map = fuse_backing_map { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: `FUSE_DEV_IOC_BACKING_OPEN` reads one `fuse_backing_map` through its pointer and
    // keeps no copy of the pointer; `&map` points to one. Both descriptors are borrowed, so open.
    let answer = unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_BACKING_OPEN, &raw const map)
    };
    checked(answer).map(BackingId)
}

/// Takes back what [`open_backing`] gave. Files that are open with it stay usable.
///
/// # Errors
///
/// `ENOENT` if the connection knows no such number.
pub fn close_backing(device: impl AsFd, backing: BackingId) -> io::Result<()> {
    // SAFETY: `FUSE_DEV_IOC_BACKING_CLOSE` reads one `u32` through its pointer and keeps no copy
    // of the pointer, and `&backing.0` points to one. The device is borrowed, so it is open.
    let answer = unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const backing.0)
    };
    checked(answer).map(drop)
}

fn checked(answer: libc::c_int) -> io::Result<u32> {
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_fuse_device_refuses_every_request() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for answer in [
            clone_into(&file, file.as_fd()),
            open_backing(&file, file.as_fd()).map(drop),
            close_backing(&file, BackingId(1)),
        ] {
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
    }
}
