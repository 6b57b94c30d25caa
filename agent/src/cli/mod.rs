//! The command line of `umbra`: what it accepts, and which module carries it out.

mod commands;
mod output;
mod progress;
mod skip;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{FalseyValueParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::error::Result;

pub use output::Output;
pub use skip::{Share, SkipArg, SkipArgs};

/// Whole disks. Single files. One copy.
///
/// umbra shadows the disks of many computers into one vault and gives back whole disks, byte for
/// byte, or single files, from one stored copy.
#[derive(Debug, Parser)]
#[command(name = "umbra", version, propagate_version = true)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The vault: `umbra://HOST[:8407]` or `file:///DIR`.
    #[arg(long, global = true, env = "UMBRA_VAULT", value_name = "URL")]
    pub vault: Option<String>,
    /// Configuration file.
    #[arg(long, global = true, env = "UMBRA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The machine whose snapshots are meant.
    #[arg(long, global = true, env = "UMBRA_MACHINE", value_name = "NAME")]
    pub machine: Option<String>,
    /// The disk that is meant.
    #[arg(long, global = true, env = "UMBRA_DISK", value_name = "NAME")]
    pub disk: Option<String>,
    /// One JSON object a line on standard output; the last is the summary.
    #[arg(long, global = true, env = "UMBRA_JSON", value_parser = switch())]
    pub json: bool,
    /// Say less.
    #[arg(short, long, global = true, env = "UMBRA_QUIET", value_parser = switch())]
    pub quiet: bool,
    /// Show every warning, and what an error came from.
    #[arg(short, long, global = true, env = "UMBRA_VERBOSE", value_parser = switch())]
    pub verbose: bool,
    /// No progress bars.
    #[arg(long, global = true, env = "UMBRA_NO_PROGRESS", value_parser = switch())]
    pub no_progress: bool,
    /// Most bytes a second to send, for example 500K, 20M or 1G (powers of 1024).
    #[arg(long, global = true, env = "UMBRA_LIMIT_UPLOAD", value_name = "RATE", value_parser = rate)]
    pub limit_upload: Option<u64>,
    /// Most bytes a second to receive, for example 500K, 20M or 1G (powers of 1024).
    #[arg(long, global = true, env = "UMBRA_LIMIT_DOWNLOAD", value_name = "RATE", value_parser = rate)]
    pub limit_download: Option<u64>,
    /// Where tables of known chunks are kept.
    #[arg(long, global = true, env = "UMBRA_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How long to wait for a store that another command uses.
    #[arg(long, global = true, env = "UMBRA_WAIT", value_name = "SECONDS", default_value_t = 10)]
    pub wait: u64,
    /// Do everything except changing anything.
    #[arg(long, global = true, env = "UMBRA_DRY_RUN", value_parser = switch())]
    pub dry_run: bool,
    /// Answer ordinary questions with yes; never destroys a target.
    #[arg(long, global = true)]
    pub yes: bool,
}

/// What is kept of unallocated space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FreeArg {
    /// Leave out what the file systems say is free, where that is beyond doubt.
    Skip,
    /// Keep every byte of the disk.
    Keep,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an embedded store in a directory and remember it.
    Init(InitArgs),
    /// Introduce this machine to a vault with a one-time token, and remember the vault.
    Enroll(EnrollArgs),
    /// Show the whole job on a small disk: no root, no network, under 20 seconds.
    Demo(DemoArgs),
    /// List disks, partitions and file systems, and how far they can be parsed.
    Disks(DisksArgs),
    /// Make a snapshot of a disk.
    Backup(BackupArgs),
    /// List snapshots.
    Snapshots(SnapshotsArgs),
    /// Show what a snapshot holds.
    Show(SnapArgs),
    /// List the files of a snapshot.
    Ls(LsArgs),
    /// Write one file of a snapshot to standard output.
    Cat(CatArgs),
    /// Bring files back into a directory.
    Restore(RestoreArgs),
    /// Write a disk back, byte for byte.
    Recover(RecoverArgs),
    /// Read every chunk of a snapshot and check it.
    Verify(VerifyArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory.
    Man(ManArgs),
}

/// `umbra init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// file:///DIR, or the directory itself.
    pub url: String,
    /// The user that the store is to belong to, for a store that root makes for somebody else.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
}

/// `umbra enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The token that `umbra-vault agent token` printed; `-` reads it from standard input.
    #[arg(env = "UMBRA_TOKEN", hide_env_values = true)]
    pub token: String,
}

/// `umbra demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the demo's files in this directory instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// `umbra disks`.
#[derive(Debug, Args)]
pub struct DisksArgs {
    /// Devices or image files; without any, the disks of this system.
    pub sources: Vec<PathBuf>,
}

/// `umbra backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Block devices, raw image files, or `-` for standard input (disk order, no files).
    #[arg(required = true)]
    pub sources: Vec<PathBuf>,
    /// A label of the snapshot; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// What to do with unallocated space; `skip` unless the source is read with
    /// --inconsistent-ok, `keep` then.
    #[arg(long, value_enum)]
    pub free: Option<FreeArg>,
    /// Keep everything in disk order; no files.
    #[arg(long)]
    pub no_parse: bool,
    /// What is not read again.
    #[command(flatten)]
    pub skip: SkipArgs,
    /// Read a source that is mounted read-write; the snapshot is marked fuzzy for ever.
    #[arg(long)]
    pub inconsistent_ok: bool,
}

/// `umbra snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Only snapshots with this tag.
    #[arg(long)]
    pub tag: Option<String>,
    /// Only snapshots from this time on (RFC 3339 or a date).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only snapshots up to this time (RFC 3339; a date means its end).
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only the newest N.
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Snapshots of all machines.
    #[arg(long)]
    pub all_machines: bool,
}

/// A command that takes one snapshot.
#[derive(Debug, Args)]
pub struct SnapArgs {
    /// latest, latest~N, 4 or more digits of the id, or MACHINE/DISK@TIME.
    pub snapshot: String,
}

/// `umbra ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// SNAP or SNAP:PATH.
    pub target: OsString,
    /// Owner, times, extended attributes.
    #[arg(short)]
    pub long: bool,
    /// Directories below, too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Where on the disk each file lies.
    #[arg(long)]
    pub extents: bool,
}

/// `umbra cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// SNAP:PATH.
    pub target: OsString,
}

/// When `restore` writes over what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OverwriteArg {
    /// An existing different file stays and is named.
    #[default]
    Never,
    /// Where size or modification time differ.
    IfChanged,
    /// In any case.
    Always,
}

/// `umbra restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// SNAP or SNAP:PATH; several paths of one snapshot may be given.
    #[arg(required = true)]
    pub targets: Vec<OsString>,
    /// The directory to write into.
    #[arg(long, value_name = "DIR")]
    pub target: PathBuf,
    /// Read more paths from this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<PathBuf>,
    /// Leave out the directories above each path.
    #[arg(long)]
    pub strip: bool,
    /// When to write over what is there.
    #[arg(long, value_enum, default_value_t)]
    pub overwrite: OverwriteArg,
    /// Only paths that match one of these patterns.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out paths that match one of these patterns.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Exit 3 where an ordinary user could not set owners, device nodes or attributes.
    #[arg(long)]
    pub strict: bool,
}

/// `umbra recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The snapshot.
    pub snapshot: String,
    /// The file or block device to write.
    #[arg(long, value_name = "FILE|DEVICE")]
    pub to: PathBuf,
    /// Do not read the target back.
    #[arg(long)]
    pub no_verify: bool,
    /// Print targets and sizes; write nothing.
    #[arg(long)]
    pub plan: bool,
    /// Names the existing file or the device whose content may be destroyed.
    #[arg(long, value_name = "TARGET")]
    pub yes_destroy: Option<PathBuf>,
}

/// `umbra verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The snapshot.
    pub snapshot: String,
    /// Check references only.
    #[arg(long)]
    pub quick: bool,
    /// Check every file against its own hash, too.
    #[arg(long)]
    pub deep: bool,
    /// Compare with a disk image or device.
    #[arg(long, value_name = "FILE|DEVICE")]
    pub against: Option<PathBuf>,
}

/// `umbra completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// `umbra man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory to write into.
    pub dir: PathBuf,
}

/// How the environment switches an option on: anything but nothing, 0, no, off and false.
fn switch() -> FalseyValueParser {
    FalseyValueParser::new()
}

/// Tells whether the environment asks for JSON, where the command line could not be read.
fn json_by_environment() -> bool {
    let value = std::env::var_os("UMBRA_JSON").unwrap_or_default();
    switch().parse_ref(&Cli::command(), None, &value).unwrap_or(false)
}

/// Reads a rate in bytes a second.
fn rate(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1_u64 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err("use a number with K, M or G behind it".into()),
    };
    let rate = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    rate.filter(|rate| *rate > 0).ok_or_else(|| "use a number above 0, such as 20M".into())
}

/// Carries out a command line.
///
/// # Errors
/// Whatever the command could not do; the exit code is [`crate::Error::exit_code`].
pub fn run(cli: &Cli, output: &Output) -> Result<()> {
    match &cli.command {
        Command::Init(args) => commands::init::run(&cli.global, args, output),
        Command::Enroll(args) => commands::enroll::run(&cli.global, args, output),
        Command::Demo(args) => commands::demo::run(&cli.global, args, output),
        Command::Disks(args) => commands::disks::run(&cli.global, args, output),
        Command::Backup(args) => commands::backup::run(&cli.global, args, output),
        Command::Snapshots(args) => commands::snapshots::run(&cli.global, args, output),
        Command::Show(args) => commands::show::run(&cli.global, args, output),
        Command::Ls(args) => commands::ls::run(&cli.global, args, output),
        Command::Cat(args) => commands::cat::run(&cli.global, args, output),
        Command::Restore(args) => commands::restore::run(&cli.global, args, output),
        Command::Recover(args) => commands::recover::run(&cli.global, args, output),
        Command::Verify(args) => commands::verify::run(&cli.global, args, output),
        Command::Completions(args) => commands::housekeeping::completions(args),
        Command::Man(args) => commands::housekeeping::man(&cli.global, args, output),
    }
}

/// Reads the command line of this process; where it cannot be read, says why and returns the exit
/// code, with `--json` in an object too.
///
/// # Errors
/// The exit code of the process: 2 for a wrong command line, 0 where help was asked for.
pub fn read(arguments: &[OsString]) -> std::result::Result<Cli, u8> {
    Cli::try_parse_from(arguments).map_err(|error| {
        let mut asked = arguments.iter().take_while(|argument| *argument != "--");
        let json = asked.any(|argument| argument == "--json") || json_by_environment();
        if error.use_stderr() && json {
            let text = error.to_string();
            let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let output = Output { json: true, quiet: false, verbose: false };
            output.failed(message, 2);
        }
        // Where neither stream takes it, the exit code still tells.
        let _ = error.print();
        u8::try_from(error.exit_code()).unwrap_or(2)
    })
}

/// Returns the definition of the command line, for completions and manual pages.
pub fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn a_wrong_command_line_is_usage() {
        let read = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            super::read(&words).map(|cli| cli.global.json)
        };
        assert!(read("umbra --json snapshots").unwrap());
        for bad in ["umbra snapshots --nope", "umbra --json show", "umbra nosuch"] {
            assert_eq!(read(bad).unwrap_err(), 2, "{bad}");
        }
        assert_eq!(read("umbra --version").unwrap_err(), 0);
    }

    #[test]
    fn the_environment_switches_on_and_off() {
        let parse = |text: &str| {
            switch().parse_ref(&definition(), None, std::ffi::OsStr::new(text)).unwrap()
        };
        for (text, expected) in
            [("1", true), ("true", true), ("yes", true), ("", false), ("0", false), ("off", false)]
        {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn rates_are_read() {
        let read = ["512", "20M", "1GiB", "3k"].map(|text| rate(text).unwrap());
        assert_eq!(read, [512, 20 << 20, 1 << 30, 3072]);
        for bad in ["", "M", "0", "-1", "1T", "99999999999999999999G"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
