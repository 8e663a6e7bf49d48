//! `debug/`: what the server knows of itself, in the Python bridge's words.
//!
//! | file | tells |
//! |---|---|
//! | `performance.json` | how many requests there were, how long they took, what the kernel holds |
//! | `cache_stats.json` | the same about caches alone |
//! | `health.json` | whether changes are taken, since when it runs |
//! | `operation_log.txt` | the last requests, the oldest first: time, operation, node, thread, errno, duration |
//!
//! The cache is the kernel's memory of what we told it. A miss is a request that asked us for a name, attributes, a
//! listing or content; a hit is one that was never sent, so there is none to count: `cache_hits` is 0 and
//! `cache_note` says why. Sizes are how many of each the kernel holds: nodes, open directories, open files, moments.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::meter::{OPCODES, Snapshot, Summary, Waiting};
use crate::proto::op::name;
use crate::tree::Timestamp;

use super::View;
use super::moment;

/// A file of `debug/`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum DebugFile {
    Performance,
    CacheStats,
    Health,
    OperationLog,
}

impl DebugFile {
    /// All, in the order in which they are listed.
    pub(super) const ALL: [Self; 4] =
        [Self::Performance, Self::CacheStats, Self::Health, Self::OperationLog];

    pub(super) const fn text(self) -> &'static [u8] {
        match self {
            Self::Performance => b"performance.json",
            Self::CacheStats => b"cache_stats.json",
            Self::Health => b"health.json",
            Self::OperationLog => b"operation_log.txt",
        }
    }

    pub(super) fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.text() == name)
    }
}

/// The bridge's name of an operation, or ours in its way, and those of the kernel's that it stands for.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("getattr", &["GETATTR", "STATX"]),
    ("readdir", &["READDIR", "READDIRPLUS"]),
    ("read", &["READ"]),
    ("write", &["WRITE"]),
    ("lookup", &["LOOKUP"]),
    ("open", &["OPEN", "OPENDIR"]),
    ("release", &["RELEASE", "RELEASEDIR"]),
    ("create", &["CREATE", "MKNOD", "MKDIR", "TMPFILE", "SYMLINK", "LINK"]),
    ("setattr", &["SETATTR"]),
    ("unlink", &["UNLINK", "RMDIR"]),
    ("rename", &["RENAME", "RENAME2"]),
    ("fsync", &["FSYNC", "FSYNCDIR"]),
    ("xattr", &["GETXATTR", "LISTXATTR", "SETXATTR", "REMOVEXATTR"]),
    ("poll", &["POLL"]),
];

/// What asks for something the kernel might have kept.
const ASKING: [&str; 6] = ["LOOKUP", "GETATTR", "STATX", "READ", "READDIR", "READDIRPLUS"];

impl View {
    /// Content of a file of `debug/`.
    pub(super) fn debug_content(&self, file: DebugFile) -> Vec<u8> {
        let json = match file {
            DebugFile::Performance => self.performance(),
            DebugFile::CacheStats => self.cache_stats(),
            DebugFile::Health => self.health(),
            DebugFile::OperationLog => return self.operation_log().into_bytes(),
        };
        let mut text = format!("{json:#}");
        text.push('\n');
        text.into_bytes()
    }

    fn together(&self, names: &[&str]) -> Summary {
        let mut together = Summary::default();
        for opcode in (0..).take(OPCODES).filter(|&opcode| names.contains(&name(opcode))) {
            together.merge(&self.meter.of(opcode));
        }
        together
    }

    fn misses(&self) -> u64 {
        self.together(&ASKING).count()
    }

    fn cache_sizes(&self, suffix: &str) -> Value {
        let held = self.held();
        let directories = self.handles.directories();
        let mut sizes = Map::new();
        for (name, size) in [
            ("attr_cache", held.nodes),
            ("dir_cache", directories),
            ("content_cache", held.open.saturating_sub(directories)),
            ("history_cache", held.moments),
        ] {
            sizes.insert(format!("{name}{suffix}"), size.into());
        }
        sizes.into()
    }

    fn performance(&self) -> Value {
        let all = self.meter.all();
        let mut times = Map::new();
        for (name, operations) in OPERATIONS {
            let summary = self.together(operations);
            // The bridge's four are always there.
            if summary.count() > 0 || matches!(*name, "getattr" | "readdir" | "read" | "write") {
                times.insert((*name).to_owned(), operation(&summary));
            }
        }
        json!({
            "performance_stats": {
                "total_operations": all.count(),
                "refused_operations": self.meter.refused(),
                "cache_hits": 0,
                "cache_misses": self.misses(),
                "cache_note": HITS_UNSEEN,
                "avg_response_time_ms": ms(all.mean_ns()),
            },
            "operation_times": times,
            "cache_performance": self.cache_sizes("_size"),
        })
    }

    fn cache_stats(&self) -> Value {
        json!({
            "cache_sizes": self.cache_sizes(""),
            "cache_performance": {
                "hits": 0,
                "misses": self.misses(),
                "hit_rate_percent": 0.0,
                "note": HITS_UNSEEN,
            },
        })
    }

    fn health(&self) -> Value {
        let all = self.meter.all();
        let refusal = self.tree.store().refusal();
        json!({
            "status": if refusal.is_some() { "read_only" } else { "healthy" },
            "reason": refusal,
            "uptime_seconds": self.meter.uptime().as_secs_f64(),
            "total_operations": all.count(),
            "avg_response_time_ms": ms(all.mean_ns()),
            "cache_hit_rate": 0.0,
            "cache_note": HITS_UNSEEN,
            "active_streams": super::streams::StreamName::ALL.len(),
            "context_packages": self.context_packages(),
            "last_sequence": self.tree.last().0,
        })
    }

    /// What the server measured until now, and who waits for what.
    pub fn measured(&self) -> Snapshot {
        self.meter.snapshot(|pid| self.agents.name_of(pid))
    }

    /// Who waits for what, the longest first.
    pub fn waiting(&self) -> Vec<Waiting> {
        self.meter.waiting(|pid| self.agents.name_of(pid))
    }

    /// What is being answered and what was last, for whoever looks into why the server hangs. Asks no store and waits
    /// for nobody.
    pub fn flight_record(&self) -> String {
        let mut text = String::from("being answered, the oldest first:\n");
        for Waiting { age_ns, opcode, node, pid, command } in self.waiting() {
            let (name, age) = (name(opcode), us(age_ns));
            let _ = writeln!(text, "{name} node={node:#x} pid={pid} ({command:?}) us={age:.1}");
        }
        text.push_str("\nanswered, the oldest first:\n");
        text.push_str(&self.operation_log());
        text
    }

    fn operation_log(&self) -> String {
        let mut text = String::new();
        for entry in self.meter.last() {
            let ns = i64::try_from(entry.answered_ns).unwrap_or(i64::MAX);
            let stamp = moment::stamp(Timestamp(ns));
            let second = stamp.split_last().map_or(&b""[..], |(_, second)| second);
            let second = String::from_utf8_lossy(second);
            let micros = entry.answered_ns % 1_000_000_000 / 1000;
            let took = us(entry.took_ns);
            let name = name(entry.opcode);
            // A String takes all.
            let _ = writeln!(
                text,
                "{second}.{micros:06}Z {name} node={:#x} pid={} errno={} us={took:.1}",
                entry.node, entry.pid, entry.errno,
            );
        }
        text
    }
}

/// Why there is no count of hits.
const HITS_UNSEEN: &str =
    "the kernel answers hits itself and does not tell; misses are requests that reached us";

fn operation(summary: &Summary) -> Value {
    json!({
        "avg_ms": ms(summary.mean_ns()),
        "count": summary.count(),
        "p50_ms": ms(summary.within_ns(50.0)),
        "p95_ms": ms(summary.within_ns(95.0)),
        "p99_ms": ms(summary.within_ns(99.0)),
        "max_ms": ms(summary.longest_ns()),
    })
}

/// Nanoseconds as milliseconds.
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Nanoseconds as microseconds.
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
