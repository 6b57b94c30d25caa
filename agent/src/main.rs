//! `umbra`: the agent, client and rescue tool.

use std::process::ExitCode;

use umbra_agent::cli::{self, Output};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match cli::read(&arguments) {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
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
