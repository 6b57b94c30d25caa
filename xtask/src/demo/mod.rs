//! The demo: a Debian disk backed up, a second day, a second machine, files and disk back, a vault killed in between.
//!
//! It tells what it does as a transcript with times, checks every claim against programs that are not ours (cmp, diff,
//! debugfs, e2fsck, sgdisk), and fails when one does not hold.

mod checks;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::disks::{Content, Debian, Disk, System};
use crate::env::{BuildEnv, is_root};
use crate::programs::{Machine, User, Vault};
use crate::setup::{self, Purpose};
use crate::test;
use crate::transcript::{heading, mebibytes, percent, seconds, timed};

/// The demo's system.
const DEBIAN: Debian = Debian {
    archive_name: "debian-bookworm-1.tar.zst",
    packages: "nano,git,less,vim-tiny,openssh-client,procps,iproute2,python3-minimal,\
               linux-image-cloud-amd64",
    cost: "about a minute and 150 MB of downloads",
};

/// What `cargo xtask demo` can be told.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Takes some hundred files of this machine instead of a whole Debian system.
    #[arg(long)]
    small: bool,
    /// Leaves disks, store and restored files where they are.
    #[arg(long)]
    keep: bool,
    /// Takes the programs as they were built last.
    #[arg(long)]
    no_build: bool,
}

/// New bytes from files that a second machine with the same files may cost: one part in this many.
const SECOND_MACHINE_PARTS: u64 = 100;

/// The form for CI: small, and without setup and build, which CI has just done.
///
/// # Errors
/// When a step fails or a check does not hold.
pub(crate) fn run_small(env: &BuildEnv) -> Result<()> {
    show(env, &Options { small: true, ..Options::default() })
}

/// Installs what is missing, builds both programs, shows them.
///
/// # Errors
/// When a step fails or a check does not hold.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    println!(
        "This makes a Debian disk, backs it up over QUIC on loopback and gets everything back."
    );
    println!(
        "It needs no root, 6 GB of disk and, after the build, some minutes; beside the packages"
    );
    println!("to be installed, nothing outside the cache directory is touched.\n");
    setup::install(env, Purpose::Demo)?;
    if !options.no_build {
        test::build(env)?;
    }
    show(env, options)
}

fn show(env: &BuildEnv, options: &Options) -> Result<()> {
    let place = env.cache_dir.join(format!("demo/run-{}", std::process::id()));
    crate::env::make_world_readable_dir(&place)?;
    let begin = Instant::now();
    let shown = Demo { env, place: &place }.show(options.small);
    if options.keep {
        println!("\neverything is left in {}", place.display());
    } else if let Err(error) = std::fs::remove_dir_all(&place) {
        println!("warning: {} stays behind: {error}", place.display());
    }
    let seconds = begin.elapsed().as_secs();
    match shown {
        Ok(()) => {
            println!("\nVERDICT: everything came back as it was, {seconds} s in all");
            Ok(())
        }
        Err(error) => {
            println!("\nVERDICT: FAILED after {seconds} s: {error:#}");
            Err(error)
        }
    }
}

/// One run of the demo in a directory of its own.
struct Demo<'e> {
    env: &'e BuildEnv,
    place: &'e Path,
}

impl Demo<'_> {
    fn show(&self, small: bool) -> Result<()> {
        heading("Two machines with the same system");
        let content = if small { Content::SomeFiles } else { Content::Debian(&DEBIAN) };
        let system = System::prepare(self.env, self.place, content)?;
        let laptop_disk = timed("laptop.img: GPT, swap, ext4", || system.first_disk("laptop.img"))?;
        let desktop_disk =
            timed("desktop.img: the same files in another order on a fragmented disk", || {
                system.fragmented_disk("desktop.img")
            })?;
        println!("    {}", checks::fragmentation(self.env, &desktop_disk)?);
        if is_root() {
            println!("every umbra command below runs as an ordinary user (uid 65534)");
        }

        heading("A vault, two machines enrolled");
        let vault = Vault::create(self.env, self.place)?;
        let laptop = Machine::enroll(self.env, self.place, &vault, "laptop", User::Ordinary)?;
        let desktop = Machine::enroll(self.env, self.place, &vault, "desktop", User::Ordinary)?;

        heading("First backup");
        let first = back_up(&laptop, &laptop_disk)?;
        heading("The next day");
        timed("the laptop is used: files changed, added, removed", || {
            system.next_day(&laptop_disk)
        })?;
        let second = back_up(&laptop, &laptop_disk)?;
        ensure!(
            number(&second, "bytes_new")? < number(&first, "bytes_new")? / 2,
            "the second backup brought more than half of the first one"
        );
        heading("The second machine");
        self.second_machine_is_cheap(&desktop, &desktop_disk, &first)?;

        heading("Files, as an ordinary user");
        let snapshot = text(&second, "snapshot")?;
        checks::files(self.env, self.place, &laptop, snapshot, &laptop_disk, system.sample_dir())?;
        heading("The disks, byte for byte");
        self.disk_comes_back(&laptop, &second, &laptop_disk)?;
        heading("The vault is killed in the middle");
        self.survives_a_killed_vault(vault, &system, &laptop, &laptop_disk)
    }

    fn second_machine_is_cheap(
        &self,
        desktop: &Machine<'_>,
        disk: &Disk,
        first: &Value,
    ) -> Result<()> {
        let backup = back_up(desktop, disk)?;
        let (new, all) = (number(&backup, "bytes_new_files")?, number(&backup, "bytes_files")?);
        ensure!(
            all >= number(first, "bytes_files")? / 100 * 95,
            "the desktop lacks files of the laptop: nothing would be shown"
        );
        println!(
            "    new bytes from files: {new} of {all} ({:.3} %; at most 1 % is allowed)",
            percent(new, all)
        );
        ensure!(new <= all / SECOND_MACHINE_PARTS, "the second machine's files cost too much");
        self.disk_comes_back(desktop, &backup, disk)
    }

    fn disk_comes_back(&self, machine: &Machine<'_>, backup: &Value, disk: &Disk) -> Result<()> {
        let back = machine.home.join("recovered.img");
        let (summary, took) = machine.recover(text(backup, "snapshot")?, &back)?;
        println!(
            "    {} written, verified: {}, {}",
            mebibytes(number(&summary, "bytes_written")?),
            summary["verified"],
            seconds(took)
        );
        ensure!(
            summary["image_hash"] == backup["image_hash"],
            "the image hashes of backup and recover differ"
        );
        checks::recovered(self.env, disk, &back)?;
        std::fs::remove_file(&back)?;
        Ok(())
    }

    fn survives_a_killed_vault(
        &self,
        vault: Vault<'_>,
        system: &System<'_>,
        laptop: &Machine<'_>,
        disk: &Disk,
    ) -> Result<()> {
        timed("the laptop gets new files that do not compress", || system.add_noise(disk))?;
        let running = laptop.start_backup(disk)?;
        vault.wait_until_it_grows(system.noise_bytes() / 3)?;
        let vault = vault.kill_and_serve_again()?;
        let cut = running.wait()?;
        match cut {
            Some(0) => println!("    the agent waited for the vault and finished by itself"),
            code => {
                println!("    the agent ended with exit code {code:?}: the backup is run again")
            }
        }
        let again = back_up(laptop, disk)?;
        if cut == Some(0) {
            ensure!(
                number(&again, "bytes_new_files")? == 0,
                "a finished backup left file content behind"
            );
        }
        self.disk_comes_back(laptop, &again, disk)?;
        vault.end();
        Ok(())
    }
}

/// Backs a disk up and tells what it cost.
fn back_up(machine: &Machine<'_>, disk: &Disk) -> Result<Value> {
    let (summary, took) = machine.back_up(disk)?;
    println!(
        "    {} of disk, {} files with {}; new {}, stored {}, sent {}; {}",
        mebibytes(number(&summary, "bytes_total")?),
        summary["files"],
        mebibytes(number(&summary, "bytes_files")?),
        mebibytes(number(&summary, "bytes_new")?),
        mebibytes(number(&summary, "bytes_stored")?),
        mebibytes(number(&summary, "bytes_sent")?),
        seconds(took)
    );
    let said = text(&summary, "snapshot")?;
    println!("    snapshot {}", said.get(..16).unwrap_or(said));
    Ok(summary)
}

fn number(summary: &Value, field: &str) -> Result<u64> {
    match summary[field].as_u64() {
        Some(number) => Ok(number),
        None => bail!("no number {field:?} in {summary}"),
    }
}

fn text<'s>(summary: &'s Value, field: &str) -> Result<&'s str> {
    summary[field].as_str().with_context(|| format!("no text {field:?} in {summary}"))
}
