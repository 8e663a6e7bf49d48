//! `verify`: does the disk still hold what was written to it?

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::store::disk::{Disk, Real};
use crate::store::verify;

use super::progress::Progress;
use super::{CliError, flag, output, store};

/// The exit code where something is damaged.
const DAMAGED: u8 = 3;

/// Check every checksum of STORE and its hash chain; say what is damaged, and where
///
/// Changes nothing, and may run while the store is served. Exits with 3 if something is damaged.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The store
    store: PathBuf,
    /// Print the result as one JSON object
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
}

#[derive(Serialize)]
struct Checked {
    damaged: Vec<Damaged>,
    events: u64,
    seals: u64,
    log_bytes: u64,
    content_bytes: u64,
    freed_bytes: u64,
    gone_bytes: u64,
    unchecked_bytes: u64,
}

#[derive(Serialize)]
struct Damaged {
    file: String,
    offset: u64,
    what: &'static str,
}

pub(super) fn run(args: &VerifyArgs, quiet: bool) -> Result<ExitCode, CliError> {
    let path = &args.store;
    let disk: Arc<dyn Disk> =
        Arc::new(Real::read_only(path).map_err(|err| store::failed(path, &store::missing(err)))?);
    let mut progress: Option<Progress> = None;
    let mut looked_at = 0;
    let report = verify::verify(&disk, &mut |done, total| {
        let bar = progress.get_or_insert_with(|| Progress::new("verifying", total, quiet));
        bar.advance(done.saturating_sub(looked_at));
        looked_at = done;
    });
    if let Some(progress) = progress {
        progress.finish();
    }
    let report = report.map_err(|err| store::failed(path, &err))?;
    let damaged: Vec<Damaged> = report
        .findings
        .into_iter()
        .map(|found| Damaged { file: found.file, offset: found.offset, what: found.what })
        .collect();
    let code = if damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) };
    let result = Checked {
        damaged,
        events: report.events,
        seals: report.seals,
        log_bytes: report.log_bytes,
        content_bytes: report.content_bytes,
        freed_bytes: report.freed_bytes,
        gone_bytes: report.gone_bytes,
        unchecked_bytes: report.unchecked_bytes,
    };
    match print(args, &result, quiet) {
        // What was found is found, whether or not somebody read it to the end.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        printed => Ok(printed.map(|()| code)?),
    }
}

fn print(args: &VerifyArgs, result: &Checked, quiet: bool) -> io::Result<()> {
    let path = &args.store;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, result)?;
        return writeln!(out);
    }
    for damaged in &result.damaged {
        let file = path.join(&damaged.file);
        writeln!(out, "{}: byte {}: {}", file.display(), damaged.offset, damaged.what)?;
    }
    if !quiet {
        writeln!(
            out,
            "{}: {} events, {} of log and {} of content checked, {} damaged",
            path.display(),
            result.events,
            output::size(result.log_bytes),
            output::size(result.content_bytes),
            result.damaged.len(),
        )?;
        if result.unchecked_bytes > 0 {
            let unchecked = output::size(result.unchecked_bytes);
            writeln!(out, "{unchecked} could not be checked: what was beside it was given back")?;
        }
    }
    Ok(())
}
