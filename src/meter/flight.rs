//! Requests that are being answered: one place for each reader.

use super::Request;
use super::stamped::Stamped;

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InFlight {
    /// How long it has been so, in nanoseconds.
    pub age_ns: u64,
    /// What is asked, by number.
    pub opcode: u32,
    /// About which node.
    pub node: u64,
    /// The thread that asks; 0 is unknown.
    pub pid: u32,
}

/// What one reader is at: stamped with when the request came, in nanoseconds after the meter began, and one. Node; pid
/// 32, opcode 32.
#[derive(Debug, Default)]
pub(super) struct Place(Stamped<2>);

impl Place {
    /// `request` came `since_ns` after the meter began.
    pub(super) fn begin(&self, since_ns: u64, request: &Request) {
        let rest = u64::from(request.pid) << 32 | u64::from(request.opcode);
        self.0.set(since_ns.saturating_add(1), [request.node, rest]);
    }

    /// It is answered.
    pub(super) fn end(&self) {
        self.0.clear();
    }

    /// What is there, `now_ns` after the meter began.
    pub(super) fn read(&self, now_ns: u64) -> Option<InFlight> {
        let (since, [node, rest]) = self.0.get()?;
        Some(InFlight {
            age_ns: now_ns.saturating_sub(since - 1),
            opcode: rest as u32,
            node,
            pid: (rest >> 32) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_request_is_there_until_it_is_answered() {
        let place = Place::default();
        assert_eq!(place.read(9), None);
        place.begin(0, &Request { opcode: 16, node: 7, pid: u32::MAX, errno: 0 });
        let told = InFlight { age_ns: 9, opcode: 16, node: 7, pid: u32::MAX };
        assert_eq!(place.read(9), Some(told));
        place.end();
        assert_eq!(place.read(9), None);
    }

    #[test]
    fn who_reads_while_it_changes_meets_whole_requests_only() {
        let place = Place::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000u32 {
                    let node = u64::from(n);
                    place.begin(node, &Request { opcode: n & 63, node, pid: n, errno: 0 });
                    place.end();
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let Some(told) = place.read(200_000) else { continue };
                assert_eq!((200_000 - told.age_ns, u64::from(told.pid)), (told.node, told.node));
                assert_eq!(told.opcode, told.pid & 63);
            }
        });
    }
}
