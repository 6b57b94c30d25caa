//! Crashes of the real vault under eight writers: nothing that it acknowledged is lost.

use anyhow::{Context, Result};
use umbra_tests::is_full;
use umbra_tests::programs::Programs;
use umbra_tests::torture::trouble::Trouble;
use umbra_tests::torture::{Campaign, Figures};

fn seed() -> u64 {
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed} (UMBRA_TEST_SEED)");
    seed
}

fn tell(figures: &Figures) {
    println!("{figures:?}");
}

/// Runs rounds on one store; where something is lost, the store stays and is named.
fn run(
    mut campaign: Campaign,
    rounds: &mut dyn FnMut(&mut Campaign) -> Result<()>,
) -> Result<Figures> {
    match rounds(&mut campaign).and_then(|()| campaign.finish()) {
        Ok(()) => Ok(campaign.figures),
        Err(error) => {
            tell(&campaign.figures);
            let store = campaign.keep();
            Err(error).with_context(|| format!("the store is kept: {}", store.display()))
        }
    }
}

#[test]
fn a_vault_that_is_killed_at_random_moments_loses_nothing() -> Result<()> {
    let test = "torture::a_vault_that_is_killed_at_random_moments_loses_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let kills = if is_full() { 110 } else { 20 };
    let figures = run(Campaign::new(&programs, seed())?, &mut |campaign| {
        for _ in 0..kills {
            let trouble = Trouble::kill(campaign.noise());
            campaign.round(&trouble)?;
        }
        Ok(())
    })?;
    tell(&figures);
    Ok(())
}
