//! Development automation: one place that says how the workspace is set up, built, tested, shown and judged.
//!
//! `cargo xtask ci` is the only definition of green. Everything is built with one profile, one feature selection and one
//! target directory (see `env`), so that RocksDB is compiled once for all of it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod ci;
mod demo;
mod diff_walk;
mod disks;
mod dist;
mod env;
mod fuzz;
mod process;
mod programs;
mod setup;
mod test;
mod tidy;
mod torture;
mod transcript;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::env::BuildEnv;

/// Development automation for umbra.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building, testing and the demo need (Debian packages, one Python module).
    Setup,
    /// Backs up, lists, restores and recovers a Debian disk in front of you, with times.
    Demo(demo::Options),
    /// Measures umbra, restic, borg, casync and partclone on the same disks; writes the tables.
    Bench(bench::Options),
    /// Builds both programs and runs every test; says what was skipped and why.
    Test(test::Options),
    /// Runs everything that has to be green, each stage against its time budget.
    Ci(ci::Options),
    /// Runs the fuzz targets: the committed inputs, or libFuzzer for a while.
    Fuzz(fuzz::Options),
    /// Compares our walk of an image's ext file systems with the kernel's mount of a copy.
    DiffWalk(diff_walk::Options),
    /// Makes the tarball and the Debian packages; `--check` runs them in fresh Debian systems.
    Dist(dist::Options),
    /// Kills vaults and lets their disks fail for a while; nothing that was acknowledged may be lost.
    Torture(torture::Options),
    /// Checks the rules that the compiler does not: crate edges, file lengths, leftovers, pages.
    Tidy,
    /// Formats the whole workspace (`--check` only tells).
    Fmt {
        /// Changes nothing and fails where something would change.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    // Builds nothing, and says itself what it needs of the machine.
    if let Command::DiffWalk(options) = &command {
        return diff_walk::run(options);
    }
    let env = BuildEnv::find()?;
    let done = match command {
        Command::DiffWalk(_) => Ok(()),
        Command::Setup => setup::install(&env, setup::Purpose::Everything),
        Command::Demo(options) => demo::run(&env, &options),
        Command::Bench(options) => bench::run(&env, &options),
        Command::Test(options) => test::run(&env, &options),
        Command::Ci(options) => ci::run(&env, &options),
        Command::Fuzz(options) => fuzz::run(&env, &options),
        Command::Dist(options) => dist::run(&env, &options),
        Command::Torture(options) => torture::run(&env, &options),
        Command::Tidy => tidy::run(&env),
        Command::Fmt { check } => ci::format(&env, check),
    };
    done.map(|()| ExitCode::SUCCESS)
}
