//! `man`: the manual page, made from the same words as `--help`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, CliError};

/// Print the manual page (try: lighthouse-fuse man | man -l -)
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The page of one command; without it, the page of the program
    command: Option<String>,
}

pub(super) fn run(args: &ManArgs) -> Result<ExitCode, CliError> {
    let mut program = Cli::command();
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
            CliError::new(format!(
                "there is no command {name:?}; `lighthouse-fuse help` lists them"
            ))
        })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}
