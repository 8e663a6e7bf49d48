//! `umount`: ends a mount of ours, and never needs another program to do it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::transport::mount_table;
use crate::transport::unmount::{self, Detach};

use super::{CliError, flag, store};

/// How long the server has to close the store, so that whoever comes next finds it closed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it did.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Unmount MOUNTPOINT; its server writes what is left to the disk and ends
///
/// A mount in use is left alone, and who uses it is named.
#[derive(Debug, clap::Args)]
pub(super) struct UmountArgs {
    /// Where a store is mounted
    mountpoint: PathBuf,
    /// Detach now; whoever still uses the mount keeps it until done
    #[arg(long, env = "LIGHTHOUSE_FUSE_LAZY", value_parser = flag())]
    lazy: bool,
}

pub(super) fn run(args: &UmountArgs) -> Result<ExitCode, CliError> {
    let detach = if args.lazy { Detach::Lazily } else { Detach::WhenUnused };
    let server = server_at(&args.mountpoint);
    unmount::unmount(&args.mountpoint, detach).map_err(|err| CliError::new(err.to_string()))?;
    if let Some((store, pid)) = server
        && !args.lazy
    {
        let started = Instant::now();
        while store::holder(&store) == Some(pid) && started.elapsed() < PATIENCE {
            thread::sleep(LOOK_EVERY);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The store that is mounted at `mountpoint`, and the process that has it open, as far as both can be
/// told from here.
fn server_at(mountpoint: &Path) -> Option<(PathBuf, Option<u32>)> {
    let absolute = std::path::absolute(mountpoint).ok()?;
    // Its parent alone may be asked: the mount may be hung.
    let path = absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?);
    let table = mount_table::read().ok()?;
    let entry = mount_table::topmost(&table, &path).filter(|entry| entry.is_ours())?;
    let store = PathBuf::from(&entry.source);
    let pid = store::holder(&store)?;
    Some((store, pid))
}
