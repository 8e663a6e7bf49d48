//! What a meter knows, on its way to another process: as JSON, in an extended attribute.

use serde::{Deserialize, Serialize};

use super::Summary;

/// As many bytes of JSON as a value of an extended attribute may have (`XATTR_SIZE_MAX` of limits.h).
pub const JSON_MAX: usize = 65_536;

/// All that is told of one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// How long the server has been measuring, in nanoseconds.
    pub uptime_ns: u64,
    /// How many requests were answered with an errno.
    pub refused: u64,
    /// What was asked, by number, and how long it took; what never was is not there.
    pub operations: Vec<(u32, Summary)>,
    /// What is being answered, the oldest first.
    pub in_flight: Vec<Waiting>,
}

/// A request that is not answered yet, and who waits for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Waiting {
    /// How long, in nanoseconds.
    pub age_ns: u64,
    /// For what, by number.
    pub opcode: u32,
    /// About which node.
    pub node: u64,
    /// The thread that waits, as the server sees it; 0 is unknown.
    pub pid: u32,
    /// Its name; empty if unknown.
    pub command: String,
}

impl Snapshot {
    /// As JSON. Where that would be longer than [`JSON_MAX`], with coarser times.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        if json.len() <= JSON_MAX {
            return json;
        }
        let mut coarse = self.clone();
        coarse.operations.iter_mut().for_each(|(_, summary)| summary.coarse());
        serde_json::to_vec(&coarse).unwrap_or_default()
    }

    /// How long requests of `opcode` took.
    #[must_use]
    pub fn of(&self, opcode: u32) -> Summary {
        let found = self.operations.iter().find(|(number, _)| *number == opcode);
        found.map(|(_, summary)| summary.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::meter::{Meter, OPCODES, Request};

    #[test]
    fn a_snapshot_comes_back_as_it_was_sent() {
        let meter = Meter::default();
        let lane = meter.lane();
        for opcode in [3, 3, 15] {
            let request = Request { opcode, node: 1, pid: 2, errno: 0 };
            meter.answered(lane, Instant::now(), &request);
        }
        let mut snapshot = meter.snapshot(|_| String::new());
        let (age_ns, command) = (5, "a \"b\"\u{1b}".to_owned());
        snapshot.in_flight.push(Waiting { age_ns, opcode: 16, node: 9, pid: 4, command });
        let back: Snapshot = serde_json::from_slice(&snapshot.to_json()).unwrap();
        assert_eq!(back, snapshot);
        assert_eq!((back.of(3).count(), back.of(15).count(), back.of(1).count()), (2, 1, 0));
    }

    #[test]
    fn the_fullest_of_all_fits_into_an_attribute() {
        let meter = Meter::default();
        let lane = meter.lane();
        for opcode in 0..OPCODES as u32 {
            for bucket in 0..280 {
                // Times in every bucket: 8 steps for each of 35 powers of two.
                let ns = (8 + bucket % 8) << (bucket / 8);
                // From now on each time: what the loop itself takes on a busy machine would be the shortest there is.
                let now = Instant::now();
                let since = now.checked_sub(Duration::from_nanos(ns)).unwrap_or(now);
                meter.answered(lane, since, &Request { opcode, node: 1, pid: 2, errno: 0 });
            }
        }
        let snapshot = meter.snapshot(|_| String::new());
        assert!(serde_json::to_vec(&snapshot).unwrap().len() > JSON_MAX, "full enough to matter");
        let json = snapshot.to_json();
        assert!(json.len() <= JSON_MAX, "{}", json.len());
        let back: Snapshot = serde_json::from_slice(&json).unwrap();
        assert_eq!(back.of(3).count(), snapshot.of(3).count());
        assert!(back.of(3).within_ns(50.0) >= snapshot.of(3).within_ns(50.0));
    }
}
