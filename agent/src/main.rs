//! `umbra`: the agent, client and rescue tool.

use std::process::ExitCode;

use clap::Parser;
use umbra_agent::cli::{self, Cli, Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let global = &cli.global;
    let output = Output { json: global.json, quiet: global.quiet, verbose: global.verbose };
    match cli::run(&cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
