//! `run`: one command in a mount that only it sees. Needs no privilege where user namespaces work.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::transport::mount::{self, MountOptions, Owner};
use crate::transport::namespace::{self, Job};
use crate::tree::Tree;

use super::service::{self, Mounter, Service, ServiceArgs};
use super::{CliError, output, store};

/// How long processes that the command left behind may stay in the mount.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the server has to finish once the mount is gone.
const FINISH: Duration = Duration::from_secs(10);

/// Run COMMAND in the tree of STORE, in a mount that nobody else sees; no root needed
///
/// The command starts in current/. Its exit code is passed on.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The store; made if it does not exist
    store: PathBuf,
    /// What to run, after `--`
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    store_args: store::OpenArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

pub(super) fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    args.service.check()?;
    let source = service::absolute(&args.store)?;
    let said = |err: &dyn std::fmt::Display| CliError::new(err.to_string());
    store::check(&source)?;
    // Nobody makes sessions here that could be looked up.
    let callers = service::Callers::without_sessions(&args.service)?;
    let namespace = namespace::enter().map_err(|err| said(&err))?;
    let directory = Directory::make()?;
    let site = mount::check(&directory.0, &source, false).map_err(|err| said(&err))?;
    let point = site.prepare().map_err(|err| said(&err))?;
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode: 0o755,
    };
    let job = Job { command: &args.command, directory: Path::new("current"), patience: PATIENCE };
    let options = MountOptions::new(source.clone());
    let mut opened = None;
    let mut refused = None;
    let finished = namespace.run(point, &options, &job, |device, mounted| {
        // After mounting, so that where there is no mount nothing is made on the disk.
        let made = store::open_or_make(&source, &args.store_args, owner, false);
        let made = made.map_err(|err| io::Error::other(refused.insert(err).to_string()))?;
        let opened = opened.insert(made);
        let tree = Tree::new(Arc::clone(opened));
        let shown = args.service.options(false);
        let mut service = Service::start(device, Mounter::We, tree, callers, shown, &args.service)?;
        service.record_to(&source);
        if let Err(err) = mounted.raise_read_ahead(args.service.tuning.read_ahead) {
            tracing::debug!("read-ahead stays as it is: {err}");
        }
        Ok(service)
    });
    let result = match finished {
        Err(_) if let Some(err) = refused => Err(err),
        Ok(finished) => {
            // Those that are left lose the mount when we end: there is nothing to wait for.
            let finish = match finished.left_behind {
                Some(left) => {
                    output::say(format_args!("the command left processes behind: {left}"));
                    Duration::ZERO
                }
                None => FINISH,
            };
            finished.server.join(finish);
            Ok(ExitCode::from(finished.exit_code))
        }
        Err(err) => {
            let code = err.exit_code();
            if code == 1 {
                Err(said(&err))
            } else {
                output::say(format_args!("lighthouse-fuse: {err}"));
                Ok(ExitCode::from(code))
            }
        }
    };
    // The command's end is what was asked for; what goes wrong after it is said all the same.
    opened.map_or(Ok(()), |opened| store::close(&opened))?;
    result
}

/// A fresh directory to mount on, taken away at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> Result<Self, CliError> {
        namespace::scratch_directory().map(Self).map_err(|err| {
            CliError::new(format!(
                "cannot make a directory to mount on below {}: {err}",
                std::env::temp_dir().display()
            ))
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_dir(&self.0) {
            tracing::debug!("{} stays: {err}", self.0.display());
        }
    }
}
