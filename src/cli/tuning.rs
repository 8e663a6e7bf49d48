//! What the kernel may keep, and how much it asks at a time: options whose defaults were measured.
//!
//! `cargo bench --bench mount -- --sweep` shows what each is worth. None changes what anybody sees.

use std::time::Duration;

use crate::proto::connection::{self, ReadDirPlus};
use crate::view::Caching;

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
    /// Ask for a directory's names each time it is listed
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_CACHE_DIR", value_parser = super::flag())]
    no_cache_dir: bool,
    /// When listings bring attributes, which saves a request for each name that is looked at
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Plus::Auto, env = "LIGHTHOUSE_FUSE_READDIRPLUS")]
    readdirplus: Plus,
    /// Do not tell birth times. They come with no listing and no lookup, so each is a request; programs written in Rust ask
    /// for them wherever they look at a file, most others do not
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_BIRTH_TIMES", value_parser = super::flag())]
    pub(super) no_birth_times: bool,
    /// Let lookups and listings in one directory wait for each other
    #[arg(long, env = "LIGHTHOUSE_FUSE_NO_PARALLEL_DIROPS", value_parser = super::flag())]
    no_parallel_dirops: bool,
    /// The most that one request reads or writes, in KiB; more than 1024 takes a larger fs.fuse.max_pages_limit
    #[arg(long, value_name = "KIB", default_value_t = 1024, env = "LIGHTHOUSE_FUSE_MAX_WRITE",
          value_parser = clap::value_parser!(u32).range(4..=16_384))]
    max_write: u32,
    /// Requests that nobody waits for (reading ahead, writing back) under way at one time
    #[arg(long, value_name = "N", default_value_t = 64, env = "LIGHTHOUSE_FUSE_MAX_BACKGROUND",
          value_parser = clap::value_parser!(u16).range(1..))]
    max_background: u16,
    /// How far the kernel reads ahead, in KiB; more than 128 takes root and a /sys that can be written
    #[arg(long, value_name = "KIB", default_value_t = 2048, env = "LIGHTHOUSE_FUSE_READ_AHEAD",
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
        connection::Config {
            max_write: self.max_write.saturating_mul(1024),
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
