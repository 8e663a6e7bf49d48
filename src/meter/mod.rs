//! What a server measures about itself: how long each operation took, and what it did last.
//!
//! The server writes, once for each request; `debug/` of a mount reads, as may any command. So it lies below
//! both, and knows operations by their number alone.
//!
//! ```text
//!  reader 1 --> lane 1: a histogram per operation, the last requests --+
//!  reader 2 --> lane 2: ...                                            +--> Meter::of, Meter::last
//!  reader n --> lane n: ...                                            |
//! ```
//!
//! Invariants: writing takes no lock and allocates nothing; each reader writes to memory of its own, so none waits
//! for another's. What is read while requests come in is exact for each number and of no one moment together.

mod flight;
mod histogram;
mod recorder;
mod snapshot;
mod stamped;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use flight::InFlight;
use flight::Place;
use histogram::Histogram;
pub use histogram::Summary;
pub use recorder::Entry;
use recorder::Ring;
pub use snapshot::{JSON_MAX, Snapshot, Waiting};

/// Operations are numbered below this, but for CUSE_INIT, which is never served; what is not is not measured.
pub const OPCODES: usize = 64;
/// Memory of its own has each of so many readers; more share.
const LANES: usize = 8;
/// What so many readers are at is known; more are not seen.
const PLACES: usize = 256;

/// All that is measured.
pub struct Meter {
    /// Made with the first reader that has it.
    lanes: [OnceLock<Lane>; LANES],
    /// What each reader is at.
    places: Box<[Place]>,
    /// How many readers there are.
    readers: AtomicUsize,
    /// Where times are counted from.
    began: Instant,
    /// The same by the clock on the wall, in nanoseconds since 1970.
    began_ns: u64,
}

struct Lane {
    histograms: Box<[Histogram]>,
    refused: AtomicU64,
    ring: Ring,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            histograms: (0..OPCODES).map(|_| Histogram::default()).collect(),
            refused: AtomicU64::new(0),
            ring: Ring::default(),
        }
    }
}

/// Which memory a reader writes to.
#[derive(Clone, Copy, Debug)]
pub struct LaneId {
    /// Histograms and the last requests.
    lane: usize,
    /// What it is at.
    place: usize,
}

/// One request, answered.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What was asked, by number.
    pub opcode: u32,
    /// About which node.
    pub node: u64,
    /// The thread that asked; 0 is unknown.
    pub pid: u32,
    /// What it was refused with; 0 if it was not.
    pub errno: u16,
}

impl Default for Meter {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            lanes: std::array::from_fn(|_| OnceLock::new()),
            places: (0..PLACES).map(|_| Place::default()).collect(),
            readers: AtomicUsize::new(0),
            began: Instant::now(),
            began_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("total", &self.total()).finish_non_exhaustive()
    }
}

impl Meter {
    /// Memory for one more reader.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        let place = self.readers.fetch_add(1, Ordering::Relaxed);
        let lane = place % LANES;
        if let Some(lane) = self.lanes.get(lane) {
            lane.get_or_init(Lane::default);
        }
        LaneId { lane, place }
    }

    /// `request` was received at `since`, and is about to be answered.
    pub fn received(&self, lane: LaneId, since: Instant, request: &Request) {
        if let Some(place) = self.places.get(lane.place) {
            place.begin(nanos(since.saturating_duration_since(self.began)), request);
        }
    }

    /// `request`, which was received at `since`, is answered.
    pub fn answered(&self, lane: LaneId, since: Instant, request: &Request) {
        let now = Instant::now();
        if let Some(place) = self.places.get(lane.place) {
            place.end();
        }
        let took_ns = nanos(now.saturating_duration_since(since));
        let Some(lane) = self.lanes.get(lane.lane).and_then(OnceLock::get) else { return };
        let histogram = usize::try_from(request.opcode).ok().and_then(|n| lane.histograms.get(n));
        if let Some(histogram) = histogram {
            histogram.add(took_ns);
        }
        if request.errno != 0 {
            lane.refused.fetch_add(1, Ordering::Relaxed);
        }
        lane.ring.push(nanos(now.saturating_duration_since(self.began)), took_ns, request);
    }

    /// How long requests of `opcode` took.
    #[must_use]
    pub fn of(&self, opcode: u32) -> Summary {
        let mut summary = Summary::default();
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            let histogram = usize::try_from(opcode).ok().and_then(|n| lane.histograms.get(n));
            if let Some(histogram) = histogram {
                summary.add(histogram);
            }
        }
        summary
    }

    /// How long requests took, whatever was asked.
    #[must_use]
    pub fn all(&self) -> Summary {
        let mut summary = Summary::default();
        let lanes = self.lanes.iter().filter_map(OnceLock::get);
        for histogram in lanes.flat_map(|lane| &lane.histograms) {
            summary.add(histogram);
        }
        summary
    }

    /// How many requests were answered.
    #[must_use]
    pub fn total(&self) -> u64 {
        let lanes = self.lanes.iter().filter_map(OnceLock::get);
        lanes.flat_map(|lane| &lane.histograms).map(Histogram::count).sum()
    }

    /// How many of them with an errno.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let lanes = self.lanes.iter().filter_map(OnceLock::get);
        lanes.map(|lane| lane.refused.load(Ordering::Relaxed)).sum()
    }

    /// The last requests, the oldest first; some thousand at most.
    #[must_use]
    pub fn last(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            lane.ring.read(self.began_ns, &mut entries);
        }
        entries.sort_by_key(|entry| entry.answered_ns);
        entries
    }

    /// What is being answered, the oldest first.
    #[must_use]
    pub fn in_flight(&self) -> Vec<InFlight> {
        let now_ns = nanos(self.began.elapsed());
        let mut all: Vec<_> = self.places.iter().filter_map(|place| place.read(now_ns)).collect();
        all.sort_by_key(|request| std::cmp::Reverse(request.age_ns));
        all
    }

    /// What is being answered, the oldest first, with the names that `name_of` knows of threads.
    pub fn waiting(&self, name_of: impl Fn(u32) -> String) -> Vec<Waiting> {
        let named = |request| {
            let InFlight { age_ns, opcode, node, pid } = request;
            Waiting { age_ns, opcode, node, pid, command: name_of(pid) }
        };
        self.in_flight().into_iter().map(named).collect()
    }

    /// All that is known now, with the names that `name_of` knows of threads.
    pub fn snapshot(&self, name_of: impl Fn(u32) -> String) -> Snapshot {
        let operations = (0..).take(OPCODES).map(|opcode| (opcode, self.of(opcode)));
        Snapshot {
            uptime_ns: nanos(self.uptime()),
            refused: self.refused(),
            operations: operations.filter(|(_, summary)| summary.count() > 0).collect(),
            in_flight: self.waiting(name_of),
        }
    }

    /// How long it has been measuring.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Good for 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, errno: u16) -> Request {
        Request { opcode, node: 7, pid: 99, errno }
    }

    #[test]
    fn what_is_being_answered_is_told_the_oldest_first_by_every_reader() {
        let meter = Meter::default();
        let lanes: Vec<LaneId> = (0..LANES + 2).map(|_| meter.lane()).collect();
        let now = Instant::now();
        for (opcode, lane) in (0..).zip(&lanes) {
            meter.received(*lane, now + Duration::from_nanos(opcode), &request(opcode as u32, 0));
        }
        let told: Vec<u32> = meter.in_flight().iter().map(|request| request.opcode).collect();
        assert_eq!(told, (0..LANES as u32 + 2).collect::<Vec<_>>());
        for lane in &lanes[1..] {
            meter.answered(*lane, now, &request(3, 0));
        }
        assert_eq!(meter.snapshot(|_| String::new()).in_flight.len(), 1);
        assert_eq!(meter.of(3).count(), LANES as u64 + 1);
    }

    #[test]
    fn every_request_is_counted_once_by_whichever_reader() {
        let meter = Meter::default();
        std::thread::scope(|scope| {
            for _ in 0..LANES + 2 {
                scope.spawn(|| {
                    let lane = meter.lane();
                    for round in 0..500 {
                        meter.answered(lane, Instant::now(), &request(round % 3, 0));
                    }
                });
            }
        });
        assert_eq!(meter.total(), 500 * (LANES as u64 + 2));
        assert_eq!((0..3).map(|opcode| meter.of(opcode).count()).sum::<u64>(), meter.total());
        assert_eq!(meter.all().count(), meter.total());
        assert_eq!(meter.refused(), 0);
    }

    #[test]
    fn the_last_requests_are_told_in_order_with_what_became_of_them() {
        let meter = Meter::default();
        let (one, other) = (meter.lane(), meter.lane());
        meter.answered(one, Instant::now(), &request(3, 0));
        meter.answered(other, Instant::now(), &request(15, 2));
        let last = meter.last();
        let told: Vec<_> = last.iter().map(|e| (e.opcode, e.node, e.pid, e.errno)).collect();
        assert_eq!(told, [(3, 7, 99, 0), (15, 7, 99, 2)]);
        assert_eq!(meter.refused(), 1);
        assert!(last.first().unwrap().answered_ns >= meter.began_ns);
    }

    #[test]
    fn an_operation_without_a_number_here_is_recorded_and_not_timed() {
        let meter = Meter::default();
        meter.answered(meter.lane(), Instant::now(), &request(4096, 38));
        assert_eq!((meter.total(), meter.last().len()), (0, 1));
    }
}
