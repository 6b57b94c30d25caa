//! What befalls a vault while writers are at work.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::faults::{self, Fault};
use super::{ENDING, Figures};
use crate::images::Noise;
use crate::programs::Home;
use crate::vault::Vault;

/// The signal that nothing can handle.
const SIGKILL: i32 = 9;

/// How long writers work until a point is passed, and until calls have failed.
const WORK: Duration = Duration::from_millis(350);

/// What befalls a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is killed after so long.
    Kill {
        /// When.
        after: Duration,
    },
    /// It is told to end, and killed while it does.
    KillEnding {
        /// When it is told.
        after: Duration,
        /// When it is killed.
        then: Duration,
    },
    /// It kills itself when it passes a point for the so manieth time: at its opening, at work, or when it is told to end.
    Point {
        /// The point.
        name: String,
        /// How often it passes it, this time included.
        count: u64,
        /// It has to make its index anew before.
        without_index: bool,
    },
    /// Calls of the system fail.
    Fault {
        /// Which.
        fault: Fault,
        /// The library that lets them.
        library: PathBuf,
        /// It is killed in the end, or told to end.
        kill: bool,
    },
    /// Somebody else fills the file system while writers are at work; in the end it is killed, or told to end.
    Fill {
        /// What it is filled with: a new file beside the store.
        file: PathBuf,
        /// When.
        after: Duration,
        /// How long the writers go on.
        then: Duration,
        /// It is killed in the end.
        kill: bool,
    },
    /// Nothing; it works for so long and is told to end.
    End {
        /// When.
        after: Duration,
    },
}

/// The points that this vault knows.
///
/// # Errors
/// When it tells none.
pub fn points(home: &Home) -> Result<Vec<String>> {
    let mut command = home.vault();
    let told = command.arg("status").env("UMBRA_FAILPOINT", "which?").output()?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let is_name = |line: &&str| line.contains('-') && !line.contains([' ', ':']);
    let names: Vec<String> = told.lines().filter(is_name).map(str::to_owned).collect();
    ensure!(names.len() > 10, "the vault names no fail points: {told}");
    Ok(names)
}

impl Trouble {
    /// A kill at a random moment; one in six while the vault ends in order.
    pub fn kill(noise: &mut Noise) -> Self {
        let after = Duration::from_millis(40 + noise.below(500));
        match noise.below(6) {
            0 => Self::KillEnding { after, then: Duration::from_micros(noise.below(60_000)) },
            _ => Self::Kill { after },
        }
    }

    /// A kill at a point.
    pub fn at(point: &str, noise: &mut Noise) -> Self {
        let count = match point {
            "record-appended" => up_to_power(noise, 11),
            point if point.starts_with("group") => up_to_power(noise, 6),
            point if point.starts_with("open") || point.starts_with("end") => 1,
            point if point.starts_with("rebuild") => 1,
            _ => up_to_power(noise, 4),
        };
        let without_index = point.starts_with("rebuild")
            || ((point.starts_with("adopt") || point.starts_with("open")) && noise.below(3) == 0);
        Self::Point { name: point.to_owned(), count, without_index }
    }

    /// Random calls that fail.
    pub fn fault(noise: &mut Noise, library: &Path) -> Self {
        let fault = Fault::random(noise);
        Self::Fault { fault, library: library.to_owned(), kill: noise.below(2) == 0 }
    }

    /// True where a vault must be started for it.
    pub(super) fn needs_own_vault(&self) -> bool {
        matches!(self, Self::Point { .. } | Self::Fault { .. })
    }

    /// True where writers may outlive it.
    pub(super) fn is_kill(&self) -> bool {
        matches!(self, Self::Kill { .. })
    }

    /// Puts it into the command of the vault.
    pub(super) fn arm(&self, command: &mut Command, store: &Path) {
        match self {
            Self::Kill { .. } | Self::KillEnding { .. } | Self::End { .. } | Self::Fill { .. } => {}
            Self::Point { name, count, without_index } => {
                command.env("UMBRA_FAILPOINT", format!("{name}:{count}"));
                if *without_index {
                    // Where it cannot be removed it is made anew by nobody, and the round is one without that.
                    let _ = std::fs::remove_dir_all(store.join("index"));
                }
            }
            Self::Fault { fault, library, .. } => fault.arm(command, store, library),
        }
    }

    /// A vault ended before it served.
    pub(super) fn ended(
        &self,
        status: ExitStatus,
        said: &str,
        store: &Path,
        figures: &mut Figures,
    ) -> Result<()> {
        match self {
            Self::Point { name, .. } if status.signal() == Some(SIGKILL) => {
                figures.kills += 1;
                *figures.at_points.entry(name.clone()).or_default() += 1;
                Ok(())
            }
            Self::Fault { .. } => {
                figures.faults += faults::take_count(store);
                ensure!(status.code().is_some(), "PANIC: the vault ended with {status}: {said}");
                Ok(())
            }
            _ => bail!("LOST: the store cannot be opened ({status}): {said}"),
        }
    }

    /// Lets it happen; the vault is gone afterwards.
    pub(super) fn happen(
        &self,
        mut vault: Vault,
        store: &Path,
        figures: &mut Figures,
    ) -> Result<()> {
        match self {
            Self::Kill { after } => {
                if let Some(status) = vault.ended_within(*after)? {
                    bail!("the vault ended by itself: {status}");
                }
                vault.kill()?;
                figures.kills += 1;
            }
            Self::KillEnding { after, then } => {
                std::thread::sleep(*after);
                vault.terminate()?;
                std::thread::sleep(*then);
                vault.send_kill();
                let status = ended(&mut vault)?;
                figures.kills += u64::from(status.signal() == Some(SIGKILL));
            }
            Self::Point { name, .. } => {
                if vault.ended_within(WORK)?.is_none() {
                    vault.terminate()?;
                }
                let status = ended(&mut vault)?;
                if status.signal() == Some(SIGKILL) {
                    figures.kills += 1;
                    *figures.at_points.entry(name.clone()).or_default() += 1;
                } else {
                    ensure!(status.success(), "the vault ended with {status}");
                }
            }
            Self::Fault { kill, .. } => {
                if vault.ended_within(WORK)?.is_none() {
                    match kill {
                        true => vault.send_kill(),
                        false => vault.terminate()?,
                    }
                }
                let status = ended(&mut vault)?;
                let killed = status.signal() == Some(SIGKILL);
                ensure!(killed || status.code().is_some(), "PANIC: the vault ended with {status}");
                figures.kills += u64::from(killed);
                figures.faults += faults::take_count(store);
            }
            Self::Fill { file, after, then, kill } => {
                std::thread::sleep(*after);
                fill(file)?;
                let early = vault.ended_within(*then)?;
                ensure!(early.is_none(), "a full disk ends the vault: {early:?}");
                match kill {
                    true => vault.send_kill(),
                    false => vault.terminate()?,
                }
                let status = ended(&mut vault)?;
                let killed = status.signal() == Some(SIGKILL);
                ensure!(killed || status.code().is_some(), "PANIC: the vault ended with {status}");
                figures.kills += u64::from(killed);
            }
            Self::End { after } => {
                std::thread::sleep(*after);
                vault.terminate()?;
                let status = ended(&mut vault)?;
                ensure!(status.success(), "the vault ended with {status}");
            }
        }
        Ok(())
    }
}

/// Writes to a file until its file system is full to the last byte.
///
/// # Errors
/// When anything else goes wrong.
pub fn fill(file: &Path) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(file)?;
    let noise = Noise::new(1).bytes(1 << 20);
    let mut len = noise.len();
    while len > 0 {
        match file.write(noise.get(..len).unwrap_or_default()) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => len /= 2,
            Err(error) => return Err(error).context("filling a file system"),
        }
    }
    // What was written may have been promised room that is not there yet.
    file.sync_all().context("filling a file system")
}

/// A number from 1 on, small ones as likely as large ones.
pub(super) fn up_to_power(noise: &mut Noise, power: u64) -> u64 {
    let exponent = noise.below(power);
    1 + noise.below(1 << exponent)
}

fn ended(vault: &mut Vault) -> Result<ExitStatus> {
    vault.ended_within(ENDING)?.context("HANGS: the vault does not end")
}
