//! `replay`: asks again what a mount was asked for while it was recorded.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::agents::Agents;
use crate::proto::op::name;
use crate::replay::{Report, lists_unopened, replay};
use crate::server::Config;
use crate::transport::mount::Owner;
use crate::transport::recording::Records;
use crate::tree::Tree;
use crate::view::{Options, View};

use super::output::{Latency, us};
use super::{CliError, flag, service, store};

/// Ask again what RECORDING holds, and compare the answers
///
/// A server of STORE is asked, without a kernel. RECORDING is what --record of `mount`, `run` and `serve` wrote. STORE
/// is changed by it: give a copy of what was served at the beginning of the recording, or the name of a store to be
/// made if that was a new one. Shows how long each operation took within the server. Exit code 1 if an answer differs.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// The recording
    recording: PathBuf,
    /// The store; made if it does not exist
    store: PathBuf,
    /// Serve streams/, context/, shadows/ and debug/ too, as the recorded server did
    #[arg(long, env = "LIGHTHOUSE_FUSE_SECTIONS", value_parser = flag())]
    sections: bool,
    /// Print one JSON object
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
    #[command(flatten)]
    store_args: store::OpenArgs,
}

/// What came of it. Names are stable: scripts read them.
#[derive(Serialize)]
struct Result<'r> {
    asked: u64,
    left_out: u64,
    compared: u64,
    different: u64,
    differences: &'r [String],
    operations: Vec<Operation>,
}

#[derive(Serialize)]
struct Operation {
    name: &'static str,
    count: u64,
    mean_us: f64,
    #[serde(flatten)]
    took: Latency,
}

pub(super) fn run(args: &ReplayArgs) -> std::result::Result<ExitCode, CliError> {
    let recording = args.recording.display();
    let unreadable = |err| CliError::new(format!("cannot read the recording {recording}: {err}"));
    let open = || Records::open(&args.recording).map_err(unreadable);
    let no_opendir = lists_unopened(&mut open()?).map_err(unreadable)?;
    let mut records = open()?;
    let source = service::absolute(&args.store)?;
    store::check(&source)?;
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode: 0o755,
    };
    let opened = store::open_or_make(&source, &args.store_args, owner, false)?;
    let report = {
        let tree = Tree::new(Arc::clone(&opened));
        let agents = Agents::new(Arc::clone(&opened));
        let options = Options { sections: args.sections, no_opendir, ..Options::default() };
        replay(&mut records, &View::new(tree, agents, options), Config::default())
            .map_err(|err| CliError::new(format!("cannot replay {recording}: {err}")))?
    };
    store::close(&opened)?;
    show(&report, args.json)?;
    if report.different == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new(format!(
        "{} of {} answers differ from those in {recording}",
        report.different, report.compared
    )))
}

fn show(report: &Report, json: bool) -> io::Result<()> {
    let operations = report.measured.operations.iter().map(|(opcode, summary)| Operation {
        name: name(*opcode),
        count: summary.count(),
        mean_us: us(summary.mean_ns()),
        took: summary.into(),
    });
    let Report { asked, left_out, compared, different, ref differences, .. } = *report;
    let operations = operations.collect();
    let result = Result { asked, left_out, compared, different, differences, operations };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &result)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "{asked} requests, {left_out} left out; {compared} answers compared, {different} differ\n"
    )?;
    writeln!(
        out,
        "{:<16} {:>9} {:>11} {:>11} {:>11} {:>11}",
        "OPERATION", "COUNT", "MEAN us", "P50 us", "P99 us", "MAX us"
    )?;
    for line in &result.operations {
        let took = &line.took;
        writeln!(
            out,
            "{:<16} {:>9} {:>11.1} {:>11.1} {:>11.1} {:>11.1}",
            line.name, line.count, line.mean_us, took.p50_us, took.p99_us, took.max_us
        )?;
    }
    for difference in differences {
        writeln!(out, "{difference}")?;
    }
    out.flush()
}
