//! Memory that starts at a page boundary.
//!
//! The kernel copies a FUSE message into (and a reply out of) whole pages at a time when both
//! sides start at a page boundary, and `splice` moves pages only then.
//!
//! Invariants: the length is a whole number of [`PAGE`]s and never changes; every byte is
//! initialised.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

/// The alignment of a [`PageBuffer`] in bytes: the page size of x86-64, and a divisor of every
/// page size Linux has elsewhere.
pub const PAGE: usize = 4096;

/// Memory of its own mapping, aligned to [`PAGE`].
///
/// Memory the owner never touches is never backed by the kernel: a large buffer costs what was
/// used of it. An allocator does not promise that: for so large an alignment it writes the zeros.
pub struct PageBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and is reached by the rules for `&` and `&mut` only.
unsafe impl Send for PageBuffer {}
// SAFETY: as above; `&PageBuffer` gives out nothing but `&[u8]`.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// Makes a zeroed buffer of at least `bytes` bytes, rounded up to whole pages; at least one.
    ///
    /// # Errors
    ///
    /// Fails with [`io::ErrorKind::OutOfMemory`] if there is no room for it.
    pub fn with_at_least(bytes: usize) -> io::Result<Self> {
        let len = bytes.max(1).checked_next_multiple_of(PAGE);
        let len = len.filter(|&len| len <= isize::MAX.unsigned_abs());
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: no address is asked for, so nothing that is mapped already is touched, and the mapping
        // is reached through the value made of it only.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Every byte of the buffer.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped and zeroed at first, are at most `isize::MAX`, and live as long
        // as `self`, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Every byte of the buffer, to be written to.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: this is the whole of one mapping, made by `with_at_least`, and every reference into it
        // borrowed `self`.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "a mapping of ours can be unmapped");
    }
}

impl std::fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuffer({} bytes)", self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_at_a_page_and_is_whole_pages_long() {
        for (asked, given) in
            [(0, PAGE), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (1 << 20, 1 << 20)]
        {
            let mut buffer = PageBuffer::with_at_least(asked).unwrap();
            assert_eq!(buffer.bytes_mut().as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.bytes().len(), given);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn what_is_not_touched_takes_no_memory() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
        };
        let before = resident();
        let mut buffer = PageBuffer::with_at_least(1 << 30).unwrap();
        buffer.bytes_mut()[1 << 29] = 1;
        // Other tests run meanwhile, and use less than that.
        assert!(resident() < before + (1 << 29));
    }

    #[test]
    fn more_than_an_address_space_is_an_error_and_no_abort() {
        assert!(PageBuffer::with_at_least(usize::MAX).is_err());
    }
}
