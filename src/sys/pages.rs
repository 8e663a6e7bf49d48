//! Memory that starts at a page boundary.
//!
//! The kernel copies a FUSE message into (and a reply out of) whole pages at a time when both
//! sides start at a page boundary, and `splice` moves pages only then.
//!
//! Invariants: the length is a whole number of [`PAGE`]s and never changes; every byte is
//! initialised.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The alignment of a [`PageBuffer`] in bytes: the page size of x86-64, and a divisor of every
/// page size Linux has elsewhere.
pub const PAGE: usize = 4096;

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Bytes on the heap, aligned to [`PAGE`].
///
/// Memory the owner never touches is never backed by the kernel: a large buffer costs what was
/// used of it.
pub struct PageBuffer(Vec<Page>);

impl PageBuffer {
    /// Makes a zeroed buffer of at least `bytes` bytes, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// Fails with [`std::io::ErrorKind::OutOfMemory`] if the allocator has no such block.
    pub fn with_at_least(bytes: usize) -> std::io::Result<Self> {
        match Page::new_vec_zeroed(bytes.div_ceil(PAGE)) {
            Ok(pages) => Ok(Self(pages)),
            Err(_) => Err(std::io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Every byte of the buffer.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    /// Every byte of the buffer, to be written to.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
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
        for (asked, given) in [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (1 << 20, 1 << 20)] {
            let mut buffer = PageBuffer::with_at_least(asked).unwrap();
            assert_eq!(buffer.bytes_mut().as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.bytes().len(), given);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn more_than_an_address_space_is_an_error_and_no_abort() {
        assert!(PageBuffer::with_at_least(usize::MAX).is_err());
    }
}
