//! Running other programs: loud failures, printed command lines.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The command line as a person would type it (without quoting).
pub(crate) fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Prints the command line, runs it with our output and fails when it fails.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", command_line(command));
    run_quietly(command)
}

/// As [`run`], without printing the command line.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; its standard error is part of the message.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = command_line(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}", output.status, said.trim_end());
    }
    Ok(output.stdout)
}
