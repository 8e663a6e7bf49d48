//! `import` of what a Python bridge left: its secrets, how far it is, and what came of it.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::legacy::import::{self, ImportError, Options, Part, Report};
use crate::legacy::log::Secrets;
use crate::transport::mount::Owner;
use crate::tree::Tree;

use super::progress::Progress;
use super::{CliError, first_start, flag, output, store};

/// Where the secret of a log is, besides files: the variable that the bridge itself took it from.
pub(super) const SECRET: &str = "LIGHTHOUSE_EVENT_SECRET";
/// How many findings are shown; the rest is in `--json`.
const SHOWN_MAX: usize = 20;

/// How the events of a bridge are imported.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Events of a Python bridge")]
pub(super) struct BridgeArgs {
    /// A file with a secret under which the log was signed; may be given several times
    #[arg(long, value_name = "FILE", env = "LIGHTHOUSE_FUSE_SECRET_FILE")]
    secret_file: Vec<PathBuf>,
    /// Take records that no secret vouches for too; `log` shows them as unverified
    #[arg(long, env = "LIGHTHOUSE_FUSE_UNVERIFIED", value_parser = flag())]
    unverified: bool,
    /// Let only events of this aggregate change the tree; all are kept
    #[arg(long, value_name = "ID", env = "LIGHTHOUSE_FUSE_AGGREGATE")]
    aggregate: Option<String>,
    /// Print what came of it as one JSON object
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
}

pub(super) fn run(
    path: &Path,
    source: &Path,
    parts: &[Part],
    args: &BridgeArgs,
    how: &store::OpenArgs,
    quiet: bool,
) -> Result<ExitCode, CliError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = Options {
        secrets: secrets(&args.secret_file, std::env::var_os(SECRET).as_deref())?,
        unverified: args.unverified,
        aggregate: args.aggregate.clone(),
        uid,
        gid,
    };
    store::check(path)?;
    let stop = store::stop_on_signals()?;
    let begins = import::first_time(parts, &options);
    let owner = Owner { uid, gid, mode: 0o755 };
    let opened = store::open_or_begin(path, how, owner, false, begins)?;
    let tree = Tree::new(Arc::clone(&opened));
    let result = import_events(&tree, parts, &options, &stop, quiet, |_, _| ());
    let closed = store::close(&opened);
    let report = match result {
        Ok(report) => report,
        Err(ImportError::Stopped(report)) => {
            tell(source, path, &report, args, quiet)?;
            return Err(CliError::new(format!(
                "stopped before the end; `lighthouse-fuse import {} {}` continues",
                path.display(),
                source.display()
            )));
        }
        Err(ImportError::Store(refusal)) => {
            let why = store::explain(&refusal);
            return Err(CliError::new(format!("cannot import {}: {why}", source.display())));
        }
    };
    closed?;
    if report.unverifiable == 0 && parts.iter().any(|part| matches!(part, Part::Log(..))) {
        first_start::nothing_is_left_out(path);
    }
    tell(source, path, &report, args, quiet)?;
    Ok(ExitCode::SUCCESS)
}

/// Imports `parts` with a progress bar until `stop` is asked for; `tell` hears how many bytes are read, and of how many.
pub(super) fn import_events(
    tree: &Tree,
    parts: &[Part],
    options: &Options,
    stop: &store::Stop,
    quiet: bool,
    tell: impl Fn(u64, u64),
) -> Result<Report, ImportError> {
    let mut shown = None;
    let mut done = 0;
    let result = import::import(tree, parts, options, &mut |progress| {
        let bar = shown.get_or_insert_with(|| Progress::new("importing", progress.total, quiet));
        bar.advance(progress.done.saturating_sub(done));
        done = done.max(progress.done);
        tell(progress.done, progress.total);
        if stop.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(bar) = shown {
        bar.finish();
    }
    result
}

/// The secrets that are known. A line end at the end of a file is not part of what is in it.
pub(super) fn secrets(files: &[PathBuf], variable: Option<&OsStr>) -> Result<Secrets, CliError> {
    let mut secrets = Secrets::default();
    if let Some(secret) = variable.filter(|secret| !secret.is_empty()) {
        secrets.add(secret.as_bytes());
    }
    for file in files {
        let read = std::fs::read(file).map_err(|err| {
            CliError::new(format!("cannot read the secret in {}: {err}", file.display()))
        })?;
        let secret = read.strip_suffix(b"\n").unwrap_or(&read);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.is_empty() {
            return Err(CliError::new(format!("{} holds no secret", file.display())));
        }
        secrets.add(secret);
    }
    Ok(secrets)
}

/// Says what came of it.
fn tell(
    source: &Path,
    store: &Path,
    report: &Report,
    args: &BridgeArgs,
    quiet: bool,
) -> Result<(), CliError> {
    if args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, report).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if quiet {
        return Ok(());
    }
    for finding in report.findings.iter().take(SHOWN_MAX) {
        output::say(format_args!("{}: {}", finding.outcome.word(), finding.at));
    }
    let all = report.damaged + report.unverifiable + report.refused + report.not_applied;
    let more = all.saturating_sub(SHOWN_MAX.min(report.findings.len()) as u64);
    if more > 0 {
        output::say(format_args!("and {more} more findings; --json lists them"));
    }
    if report.unverifiable > 0 {
        output::say(format_args!(
            "no known secret vouches for {} records: give theirs with --secret-file or {SECRET}, or take \
             them with --unverified",
            report.unverifiable
        ));
    }
    if let Some(snapshots) = &report.snapshots {
        output::say(format_args!(
            "{} snapshots are good, {} have no checksum; they hold nothing that the log lacks, and are not used",
            snapshots.good, snapshots.unvouched
        ));
    }
    output::say(format_args!(
        "imported {} into {}: {} events are new ({} changed the tree, {} contradict it, {} are unverified), {} were \
         there; {} unverifiable, {} refused, {} damaged places",
        source.display(),
        store.display(),
        report.imported,
        report.applied,
        report.not_applied,
        report.unverified,
        report.known,
        report.unverifiable,
        report.refused,
        report.damaged,
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_is_in_its_file_without_the_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, b"\r\n").unwrap();
        assert!(secrets(std::slice::from_ref(&file), None).is_err());
        std::fs::write(&file, b" key \r\n").unwrap();
        assert!(!secrets(std::slice::from_ref(&file), None).unwrap().is_empty());
        assert!(secrets(&[dir.path().join("none")], None).is_err());
        assert!(secrets(&[], Some(OsStr::new(""))).unwrap().is_empty());
        assert!(!secrets(&[], Some(OsStr::new("key"))).unwrap().is_empty());
    }
}
