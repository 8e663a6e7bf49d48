//! Shared and private mappings of files, as safe values.

use std::fs::File;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A mapping of the first bytes of a file.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of `file`, to be read and written.
    #[expect(unsafe_code, reason = "mmap(2)")]
    pub(crate) fn new(file: &File, len: usize, flags: MapFlags) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null address the kernel chooses a place where nothing else is mapped.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, flags, file, 0) };
        Self { start: NonNull::new(start.unwrap().cast()).unwrap(), len }
    }

    /// Maps `len` bytes of `file`, to be read.
    #[expect(unsafe_code, reason = "mmap(2)")]
    pub(crate) fn to_read(file: &File, len: usize, flags: MapFlags) -> Self {
        // SAFETY: with a null address the kernel chooses a place where nothing else is mapped.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, flags, file, 0) };
        Self { start: NonNull::new(start.unwrap().cast()).unwrap(), len }
    }

    /// Stores bytes at the start.
    #[expect(unsafe_code, reason = "memory that a file is behind")]
    pub(crate) fn store(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: the mapping is at least as long and writable, and no reference to it exists.
        unsafe { self.start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The first `len` bytes as they are now.
    pub(crate) fn load(&self, len: usize) -> Vec<u8> {
        self.load_from(0, len)
    }

    /// The bytes from `from` up to `until` as they are now.
    #[expect(unsafe_code, reason = "memory that a file is behind")]
    pub(crate) fn load_from(&self, from: usize, until: usize) -> Vec<u8> {
        assert!(from <= until && until <= self.len);
        let mut bytes = vec![0_u8; until - from];
        let to = NonNull::from(bytes.as_mut_slice()).cast();
        // SAFETY: the mapping is at least as long.
        let start = unsafe { self.start.add(from) };
        // SAFETY: so much of it is readable, and no reference to it exists.
        unsafe { start.copy_to_nonoverlapping(to, until - from) };
        bytes
    }

    #[expect(unsafe_code, reason = "msync(2)")]
    pub(crate) fn sync(&self) {
        // SAFETY: the range is that of the mapping.
        unsafe { rustix::mm::msync(self.start.as_ptr().cast(), self.len, MsyncFlags::SYNC) }
            .unwrap();
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap(2)")]
    fn drop(&mut self) {
        // SAFETY: the range is that of the mapping, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
