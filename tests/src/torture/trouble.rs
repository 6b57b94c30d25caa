//! What befalls a vault while writers are at work.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{ENDING, Figures};
use crate::images::Noise;
use crate::vault::Vault;

/// The signal that nothing can handle.
const SIGKILL: i32 = 9;

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

    /// True where a vault must be started for it.
    pub(super) fn needs_own_vault(&self) -> bool {
        match self {
            Self::Kill { .. } | Self::KillEnding { .. } => false,
        }
    }

    /// True where writers may outlive it.
    pub(super) fn is_kill(&self) -> bool {
        matches!(self, Self::Kill { .. })
    }

    /// Puts it into the command of the vault.
    pub(super) fn arm(&self, _command: &mut Command) {}

    /// A vault ended before it served.
    pub(super) fn ended(
        &self,
        status: ExitStatus,
        said: &str,
        _figures: &mut Figures,
    ) -> Result<()> {
        bail!("LOST: the store cannot be opened ({status}): {said}")
    }

    /// Lets it happen; the vault is gone afterwards.
    pub(super) fn happen(&self, mut vault: Vault, figures: &mut Figures) -> Result<()> {
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
                figures.kills += u64::from(is_killed(vault)?);
            }
        }
        Ok(())
    }
}

/// Kills a vault; false where it had ended before.
fn is_killed(mut vault: Vault) -> Result<bool> {
    vault.send_kill();
    let status = vault.ended_within(ENDING)?.context("HANGS: a killed vault does not end")?;
    Ok(status.signal() == Some(SIGKILL))
}
