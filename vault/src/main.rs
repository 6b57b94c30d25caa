//! The program `umbra-vault`.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbra_vault::cli::main()
}
