//! An allocator that counts what the present thread allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// To be the `#[global_allocator]` of a test or bench.
pub(crate) struct Counting;

// SAFETY: every call is passed on to `System` as it came, and `System` keeps the contract. Counting
// allocates nothing: the cell needs neither a lazy start nor a destructor.
#[expect(unsafe_code, reason = "an allocator is an unsafe trait; this one only counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: `layout` is the caller's, who keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this `layout`, as the caller warrants.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How many allocations `run` makes on this thread.
pub(crate) fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}
