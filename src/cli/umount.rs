//! `umount`: ends a mount of ours, and never needs another program to do it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::transport::mount_table;
use crate::transport::unmount::{self, Detach};

use super::{CliError, store};

/// How long a server may take to write what is left to the disk.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Unmount MOUNTPOINT and wait until its server has let go of the store
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
    let store = source(&args.mountpoint);
    unmount::unmount(&args.mountpoint, detach).map_err(|err| CliError::new(err.to_string()))?;
    if !args.lazy
        && let Some(store) = store
    {
        await_close(&store)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The store behind a mount of ours, as the table of mounts says.
fn source(mountpoint: &Path) -> Option<PathBuf> {
    let parent = mountpoint.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
    let path = mountpoint.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
    let table = mount_table::read().ok()?;
    let mount = mount_table::topmost(&table, &path).filter(|mount| mount.is_ours())?;
    Some(PathBuf::from(&mount.source))
}

/// Waits until nobody has `store` open, so that whoever comes next finds it closed.
fn await_close(store: &Path) -> Result<(), CliError> {
    let started = Instant::now();
    while let Some(pid) = store::holder(store) {
        if started.elapsed() > CLOSED_WITHIN {
            let who = pid.map_or_else(|| "its server".to_owned(), |pid| format!("process {pid}"));
            return Err(CliError::new(format!(
                "unmounted, but {who} still has the store {} open; wait for it, or look into its log",
                store.display()
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
