//! `umount`: ends a mount of ours, and never needs another program to do it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::transport::unmount::{self, Detach};

use super::CliError;

/// Unmount MOUNTPOINT; its server then writes what is left to the disk and ends
///
/// A mount in use is left alone, and who uses it is named.
#[derive(Debug, clap::Args)]
pub(super) struct UmountArgs {
    /// Where a store is mounted
    mountpoint: PathBuf,
    /// Detach now; whoever still uses the mount keeps it until done
    #[arg(long)]
    lazy: bool,
}

pub(super) fn run(args: &UmountArgs) -> Result<ExitCode, CliError> {
    let detach = if args.lazy { Detach::Lazily } else { Detach::WhenUnused };
    unmount::unmount(&args.mountpoint, detach).map_err(|err| CliError::new(err.to_string()))?;
    Ok(ExitCode::SUCCESS)
}
