//! Requests that are being served: each gets exactly one reply.
//!
//! A table of fixed size without locks. A slot holds the id as the kernel last sent it; bit 0,
//! which ids of requests never have set, marks one that was interrupted.
//!
//! ```text
//!             insert                     remove: the reply may go out, once
//!   (free) --------> id --------------------------------------------------> (free)
//!                    | interrupt: id | 1        resend: id | 1 << 63
//! ```
//!
//! Invariants: an id is in at most one slot of the [`PROBES`] that its hash leads to, and
//! [`remove`] gives it out at most once, whichever threads ask.
//!
//! [`remove`]: Pending::remove

use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::FUSE_UNIQUE_RESEND;
use super::types::RequestId;

/// How many slots an id may be in.
const PROBES: usize = 32;
const INTERRUPTED: u64 = 1;
const FREE: u64 = 0;

#[derive(Debug)]
pub(super) struct Pending {
    slots: Box<[AtomicU64]>,
}

/// What came of putting a request into the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Inserted {
    /// It is to be served.
    New,
    /// It is being served already: the kernel sent it again.
    Already,
    /// Its slots are taken.
    Full,
}

impl Pending {
    /// Room for `capacity` requests, rounded up to a power of two of at least 32.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(PROBES, 1 << 20).next_power_of_two();
        Self { slots: (0..capacity).map(|_| AtomicU64::new(FREE)).collect() }
    }

    /// The slots that `id` may be in.
    fn slots(&self, id: RequestId) -> impl Iterator<Item = &AtomicU64> {
        let bits = self.slots.len().trailing_zeros();
        // Ids grow evenly, so a product with an odd constant spreads them evenly over its top bits.
        let hash = (id.masked() >> 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits);
        // Less than the number of slots, which is a usize.
        let (before, from) = self.slots.split_at(hash as usize);
        from.iter().chain(before).take(PROBES)
    }

    fn is(slot: u64, id: RequestId) -> bool {
        slot != FREE && RequestId(slot & !INTERRUPTED).masked() == id.masked()
    }

    pub(super) fn insert(&self, id: RequestId) -> Inserted {
        // Only a request that is sent again can be there already, so only then is it worth a look.
        if id.is_resent() && self.mark(id, FUSE_UNIQUE_RESEND) {
            return Inserted::Already;
        }
        for slot in self.slots(id) {
            let free = slot.load(Ordering::Relaxed) == FREE;
            let took =
                || slot.compare_exchange(FREE, id.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if free && took() {
                return Inserted::New;
            }
        }
        Inserted::Full
    }

    /// Takes `id` out, and returns it as the kernel last sent it. `None` if it was taken out
    /// before.
    pub(super) fn remove(&self, id: RequestId) -> Option<RequestId> {
        self.slots(id).find_map(|slot| {
            let mut seen = slot.load(Ordering::Acquire);
            while Self::is(seen, id) {
                match slot.compare_exchange(seen, FREE, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return Some(RequestId(seen & !INTERRUPTED)),
                    Err(now) => seen = now,
                }
            }
            None
        })
    }

    /// Marks `id` as interrupted. False if it is not being served.
    pub(super) fn interrupt(&self, id: RequestId) -> bool {
        self.mark(id, INTERRUPTED)
    }

    fn mark(&self, id: RequestId, mark: u64) -> bool {
        self.slots(id).any(|slot| {
            let set = |seen| Self::is(seen, id).then_some(seen | mark);
            slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok()
        })
    }

    pub(super) fn is_interrupted(&self, id: RequestId) -> bool {
        self.slots(id).any(|slot| {
            let seen = slot.load(Ordering::Acquire);
            Self::is(seen, id) && seen & INTERRUPTED != 0
        })
    }

    pub(super) fn count(&self) -> usize {
        self.slots.iter().filter(|slot| slot.load(Ordering::Relaxed) != FREE).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn an_id_is_given_out_once() {
        let pending = Pending::new(64);
        assert_eq!(pending.insert(RequestId(2)), Inserted::New);
        assert_eq!(pending.remove(RequestId(2)), Some(RequestId(2)));
        assert_eq!(pending.remove(RequestId(2)), None);
    }

    #[test]
    fn a_request_sent_again_is_not_served_twice_and_is_answered_under_its_new_id() {
        let pending = Pending::new(64);
        let again = RequestId(2 | FUSE_UNIQUE_RESEND);
        assert_eq!(pending.insert(RequestId(2)), Inserted::New);
        assert!(pending.interrupt(RequestId(2)));
        assert_eq!(pending.insert(again), Inserted::Already);
        assert!(pending.is_interrupted(again));
        assert_eq!(pending.remove(RequestId(2)), Some(again));
        assert_eq!(pending.count(), 0);
    }

    #[test]
    fn a_request_sent_again_to_a_new_server_is_served() {
        let pending = Pending::new(64);
        let again = RequestId(2 | FUSE_UNIQUE_RESEND);
        assert_eq!(pending.insert(again), Inserted::New);
        assert_eq!(pending.remove(again), Some(again));
    }

    #[test]
    fn only_what_is_being_served_can_be_interrupted() {
        let pending = Pending::new(64);
        assert!(!pending.interrupt(RequestId(4)));
        pending.insert(RequestId(4));
        assert!(!pending.is_interrupted(RequestId(4)));
        assert!(pending.interrupt(RequestId(4)));
        assert!(pending.is_interrupted(RequestId(4)));
        pending.remove(RequestId(4));
        assert!(!pending.is_interrupted(RequestId(4)));
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let pending = Pending::new(32);
        let ids: Vec<_> = (1..=32).map(|id| RequestId(id * 2)).collect();
        assert!(ids.iter().all(|&id| pending.insert(id) == Inserted::New));
        assert_eq!(pending.insert(RequestId(1000)), Inserted::Full);
        assert_eq!(pending.remove(ids[7]), Some(ids[7]));
        assert_eq!(pending.insert(RequestId(1000)), Inserted::New);
    }

    #[test]
    fn threads_that_finish_the_same_requests_finish_each_once() {
        let pending = Pending::new(1024);
        let finished = AtomicUsize::new(0);
        for id in 1..=500 {
            assert_eq!(pending.insert(RequestId(id * 2)), Inserted::New);
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in 1..=500 {
                        pending.interrupt(RequestId(id * 2));
                        if pending.remove(RequestId(id * 2)).is_some() {
                            finished.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(finished.into_inner(), 500);
        assert_eq!(pending.count(), 0);
    }
}
