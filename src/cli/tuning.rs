//! What the kernel may keep, and how much it asks at a time: options whose defaults were measured.
//!
//! `cargo bench --bench mount -- --sweep` shows what each is worth. None changes what anybody sees.

use std::time::Duration;

use crate::proto::connection::{self, ReadDirPlus};
use crate::view::Caching;

use super::output;

/// When listings bring attributes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Plus {
    /// At the start of a directory, and on from there while somebody looks at attributes
    Auto,
    /// Always: walks of large directories are faster, plain listings of them slower, and the kernel gets to know every name
    Always,
    /// Never: each name that is looked at is a request
    Never,
}

/// The most that one request reads or writes unless it is said, in KiB.
const MAX_WRITE: u32 = 1024;
/// How many pages the kernel puts into one request at most.
const PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";
/// The same before that could be set (Linux 6.13).
const PAGES: u32 = 256;

/// The most and the least that a request may carry, in KiB.
const MAX_WRITES: std::ops::RangeInclusive<u32> = 4..=16_384;

/// KiB; of the numbers that would be too many, those of whole KiB as bytes.
fn kib_or_bytes(text: &str) -> Result<u32, String> {
    let number: u32 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let kib = if number > *MAX_WRITES.end() && number.is_multiple_of(1024) {
        number / 1024
    } else {
        number
    };
    let (least, most) = (MAX_WRITES.start(), MAX_WRITES.end());
    let refused = || format!("it is to be from {least} to {most} KiB");
    MAX_WRITES.contains(&kib).then_some(kib).ok_or_else(refused)
}

/// What of `asked` KiB for one request the kernel will ever use, in bytes, and what to say where that is less: each reader
/// has a buffer of that length. `limit` is what [`PAGES_LIMIT`] holds, if it is there.
fn clamped(asked: u32, limit: Option<&str>, page: u32) -> (u32, Option<String>) {
    let pages = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(PAGES);
    let (wanted, most) = (asked.saturating_mul(1024), page.saturating_mul(pages));
    let complaint = (wanted > most && asked != MAX_WRITE).then(|| {
        let (most, pages) = (most / 1024, wanted.div_ceil(page));
        match limit {
            Some(_) => format!(
                "--max-write {asked}: the kernel takes {most} at most; `sysctl -w fs.fuse.max_pages_limit={pages}`, \
                 as root and before mounting, raises that"
            ),
            None => format!(
                "--max-write {asked}: this kernel takes {most} at most; since Linux 6.13 fs.fuse.max_pages_limit raises that"
            ),
        }
    });
    (wanted.min(most), complaint)
}

/// What the kernel may keep, and how much it asks at a time.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Caching and requests")]
pub(super) struct TuningArgs {
    /// How long the kernel may keep names and attributes without asking again, in seconds. It is told of every change,
    /// so this is no matter of what people see
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 86_400,
        env = "LIGHTHOUSE_FUSE_LIFETIME"
    )]
    lifetime: u32,
    /// The same for attributes alone; without it as --lifetime
    #[arg(long, value_name = "SECONDS", env = "LIGHTHOUSE_FUSE_ATTRIBUTE_LIFETIME")]
    attribute_lifetime: Option<u32>,
    /// The same for names that do not exist; without it as --lifetime
    #[arg(long, value_name = "SECONDS", env = "LIGHTHOUSE_FUSE_ABSENT_LIFETIME")]
    absent_lifetime: Option<u32>,
    /// Read a file anew each time it is opened
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_KEEP_CACHE", value_parser = super::flag())]
    no_keep_cache: bool,
    /// Ask for a directory's names each time it is listed, and have each opened. Else the kernel lists what it has kept without
    /// a request, unless --sections or --list-times show what comes and goes by itself: then it opens the directory
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_CACHE_DIR", value_parser = super::flag())]
    no_cache_dir: bool,
    /// When listings bring attributes, which saves a request for each name that is looked at
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Plus::Auto, env = "LIGHTHOUSE_FUSE_READDIRPLUS")]
    readdirplus: Plus,
    /// Do not tell birth times. They come with no listing and no lookup, so each is a request; programs written in Rust ask
    /// for them wherever they look at a file, most others do not
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_BIRTH_TIMES", value_parser = super::flag())]
    pub(super) no_birth_times: bool,
    /// Have the kernel keep the pages of new files while they are written. Else who makes a file to write it and no more hands over
    /// his own memory (Linux 6.6): no copy, no pages to find, and one request less; who reads it then is the first to
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_DIRECT_WRITES", value_parser = super::flag())]
    pub(super) no_direct_writes: bool,
    /// Let lookups and listings in one directory wait for each other
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_PARALLEL_DIROPS", value_parser = super::flag())]
    no_parallel_dirops: bool,
    /// The most that one request reads or writes, in KiB; more than 1024 takes a larger fs.fuse.max_pages_limit (Linux 6.13),
    /// else it is 1024. A number too large for KiB is one of bytes, as scripts of the Python bridge have it
    #[arg(long, value_name = "KIB", default_value_t = MAX_WRITE, env = "LIGHTHOUSE_FUSE_MAX_WRITE",
          value_parser = kib_or_bytes)]
    max_write: u32,
    /// Requests that nobody waits for (reading ahead, writing back) under way at one time
    #[arg(long, value_name = "N", default_value_t = 64, env = "LIGHTHOUSE_FUSE_MAX_BACKGROUND",
          value_parser = clap::value_parser!(u16).range(1..))]
    max_background: u16,
    /// How far the kernel reads ahead, in KiB; more than 128 takes root and a /sys that can be written
    #[arg(long, value_name = "KIB", default_value_t = 512, env = "LIGHTHOUSE_FUSE_READ_AHEAD",
          value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(super) read_ahead: u32,
}

impl TuningArgs {
    /// What the kernel may keep.
    pub(super) fn caching(&self) -> Caching {
        let seconds = |own: Option<u32>| Duration::from_secs(own.unwrap_or(self.lifetime).into());
        Caching {
            names: seconds(None),
            attributes: seconds(self.attribute_lifetime),
            absent: seconds(self.absent_lifetime),
            pages: !self.no_keep_cache,
            listings: !self.no_cache_dir,
        }
    }

    /// What is asked for at INIT: `otherwise`, where nothing here is said of it.
    pub(super) fn connection(&self, otherwise: connection::Config) -> connection::Config {
        let limit = std::fs::read_to_string(PAGES_LIMIT).ok();
        let page = otherwise.page_size.max(4096);
        let (max_write, complaint) = clamped(self.max_write, limit.as_deref(), page);
        if let Some(complaint) = complaint {
            output::say(format_args!("{complaint}"));
        }
        connection::Config {
            max_write,
            max_readahead: self.read_ahead.saturating_mul(1024),
            max_background: self.max_background,
            // As the kernel has it: three quarters.
            congestion_threshold: (self.max_background / 4 * 3).max(1),
            readdirplus: match self.readdirplus {
                Plus::Auto => ReadDirPlus::Adaptive,
                Plus::Always => ReadDirPlus::Always,
                Plus::Never => ReadDirPlus::Never,
            },
            parallel_dirops: !self.no_parallel_dirops,
            ..otherwise
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_carries_is_given_in_kib_or_as_the_bridge_had_it_in_bytes() {
        for (text, kib) in [("4", 4), ("1024", 1024), ("16384", 16_384), ("131072", 128)] {
            assert_eq!(kib_or_bytes(text), Ok(kib), "{text}");
        }
        assert_eq!(kib_or_bytes("16777216"), Ok(16_384));
        for text in ["", "x", "-1", "0", "3", "16385", "17826816", "4294967296"] {
            assert!(kib_or_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn more_than_the_kernel_takes_is_not_asked_for_and_the_mend_is_named() {
        let (bytes, said) = clamped(16_384, Some("256\n"), 4096);
        assert_eq!(bytes, 1 << 20);
        let said = said.unwrap();
        assert!(said.contains("takes 1024 at most"), "{said}");
        assert!(said.contains("sysctl -w fs.fuse.max_pages_limit=4096"), "{said}");
        assert_eq!(clamped(16_384, Some("4096\n"), 4096), (16 << 20, None));
        assert_eq!(clamped(4, Some("256\n"), 4096), (4096, None));
        let (bytes, said) = clamped(2048, None, 4096);
        assert_eq!(bytes, 1 << 20);
        assert!(said.unwrap().contains("6.13"));
        // Nobody asked for it.
        assert_eq!(clamped(MAX_WRITE, Some("64\n"), 4096), (256 << 10, None));
    }
}
