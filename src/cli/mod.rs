//! The commands, one file each: a documented struct of arguments and a `run`.
//!
//! Exit codes: 0; 1 failed, with one line on standard error that names the thing and the mend;
//! 2 wrong usage; 3 `verify` found damage; `run` passes on its command's. A closed pipe ends quietly.

mod bridge;
mod completions;
mod first_start;
mod flight;
mod hand_over;
mod health;
mod import;
mod label;
mod log;
mod man;
mod mount;
mod output;
mod place;
mod progress;
mod replay;
mod run;
mod serve;
mod service;
mod status;
mod store;
mod top;
mod tuning;
mod umount;
mod verify;

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand, ValueEnum};

use crate::sys::signals;

/// How a flag's variable is read: empty, 0, `false`, `no` and `off` leave it off, all else sets it.
fn flag() -> FalseyValueParser {
    FalseyValueParser::new()
}

/// What every command's end means.
const EXIT_CODES: &str = "Exit codes: 0; 1 failed, and one line on standard error says what, and \
    how to mend it; 2 wrong usage; 3 `verify` found damage; `run` passes on its command's.";

/// What a failed command says: one line that names the thing and the mend.
#[derive(Debug)]
pub struct CliError {
    line: String,
    /// Whether arguments or variables were wrong, and not what they name.
    is_usage: bool,
    /// Whether whoever read our output went away: nothing is said then.
    pipe_closed: bool,
}

impl CliError {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), is_usage: false, pipe_closed: false }
    }

    /// Arguments or variables that do not fit: what is wrong with them, and the mend.
    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self { is_usage: true, ..Self::new(line) }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Failures to write what was asked for, to standard output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self {
            pipe_closed: error.kind() == io::ErrorKind::BrokenPipe,
            ..Self::new(format!("cannot write to standard output: {error}"))
        }
    }
}

/// Mount a project whose every change is an event, and whose past is a directory
///
/// People work in MOUNTPOINT/current with ordinary tools; MOUNTPOINT/history/@N is the whole tree as
/// it was after event N. Every option may also be given as the variable that its help names; a flag
/// is off there if it is empty, 0, false, no or off.
#[derive(Debug, Parser)]
#[command(
    name = "lighthouse-fuse",
    version,
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true,
    after_long_help = EXIT_CODES
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    talk: Talk,
}

/// How much the program says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
struct Talk {
    /// Say only what went wrong
    #[arg(long, short, global = true, env = "LIGHTHOUSE_FUSE_QUIET", value_parser = flag())]
    quiet: bool,
    /// Least important messages to log, on standard error; `warn` without it, and what LIGHTHOUSE_LOG_LEVEL says for `serve`
    #[arg(long, global = true, value_name = "LEVEL", env = "LIGHTHOUSE_FUSE_LOG_LEVEL")]
    log_level: Option<LogLevel>,
}

/// Importance of a message in the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level that the Python bridge's variable names; `info` where it names none.
    fn of_bridge() -> Self {
        let name = std::env::var("LIGHTHOUSE_LOG_LEVEL").unwrap_or_default();
        match name.to_ascii_uppercase().as_str() {
            "CRITICAL" | "FATAL" | "ERROR" => Self::Error,
            "WARNING" | "WARN" => Self::Warn,
            "DEBUG" => Self::Debug,
            "TRACE" | "NOTSET" => Self::Trace,
            _ => Self::Info,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
    Serve(Box<serve::ServeArgs>),
    HandOver(hand_over::HandOverArgs),
    Umount(umount::UmountArgs),
    Run(run::RunArgs),
    Import(import::ImportArgs),
    Log(log::LogArgs),
    Label(label::LabelArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Replay(replay::ReplayArgs),
    Health(health::HealthArgs),
    Verify(verify::VerifyArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Parses the command line, runs the command and says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever started us may ignore the ends of children, which passes on to us.
    signals::heed_children();
    let cli = Cli::parse();
    start_log(cli.talk.log_level.unwrap_or_else(|| match cli.command {
        Command::Serve(_) => LogLevel::of_bridge(),
        _ => LogLevel::Warn,
    }));
    match run(&cli) {
        Ok(code) => code,
        Err(CliError { pipe_closed: true, .. }) => ExitCode::SUCCESS,
        Err(err) => {
            output::say(format_args!("lighthouse-fuse: {}", output::one_line(&err.line)));
            if err.is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, CliError> {
    let quiet = cli.talk.quiet;
    match &cli.command {
        Command::Mount(args) => mount::run(args, quiet),
        Command::Serve(args) => serve::run(args, quiet),
        Command::HandOver(args) => hand_over::run(args, quiet),
        Command::Umount(args) => umount::run(args),
        Command::Run(args) => run::run(args),
        Command::Import(args) => import::run(args, quiet),
        Command::Log(args) => log::run(args),
        Command::Label(args) => label::run(args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Health(args) => health::run(args),
        Command::Verify(args) => verify::run(args, quiet),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        // Colours are for people: a log file is read by programs too.
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // Whoever listened went away; complaining to the same place would panic.
        .log_internal_errors(false)
        .init();
}
