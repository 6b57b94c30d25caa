//! Crashes of the real vault under eight writers: nothing that it acknowledged is lost.

use anyhow::{Context, Result, ensure};
use umbra_tests::programs::Programs;
use umbra_tests::torture::faults::{CALLS, ERRORS, Fault, PARTS};
use umbra_tests::torture::trouble::{Trouble, points};
use umbra_tests::torture::{Campaign, Figures, faults};
use umbra_tests::{is_full, skip};

fn seed() -> u64 {
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed} (UMBRA_TEST_SEED)");
    seed
}

/// Runs rounds on one store; where something is lost, the store stays and is named.
fn run(
    mut campaign: Campaign,
    rounds: &mut dyn FnMut(&mut Campaign) -> Result<()>,
) -> Result<Figures> {
    let done = rounds(&mut campaign).and_then(|()| campaign.finish());
    println!("{:?}", campaign.figures);
    match done {
        Ok(()) => Ok(campaign.figures),
        Err(error) => {
            let store = campaign.keep();
            Err(error).with_context(|| format!("the store is kept: {}", store.display()))
        }
    }
}

fn round(campaign: &mut Campaign, trouble: &Trouble) -> Result<()> {
    campaign.round(trouble).with_context(|| format!("after {trouble:?}"))
}

#[test]
fn a_vault_that_is_killed_at_random_moments_loses_nothing() -> Result<()> {
    let test = "torture::a_vault_that_is_killed_at_random_moments_loses_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let kills = if is_full() { 110 } else { 20 };
    run(Campaign::new(&programs, seed())?, &mut |campaign| {
        while campaign.figures.kills < kills {
            let trouble = Trouble::kill(campaign.noise());
            round(campaign, &trouble)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// In full each point two times and more; else each second one.
#[test]
fn a_vault_that_is_killed_at_named_points_loses_nothing() -> Result<()> {
    let test = "torture::a_vault_that_is_killed_at_named_points_loses_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let kills = if is_full() { 110 } else { 20 };
    let figures = run(Campaign::new(&programs, seed())?, &mut |campaign| {
        let points = points(campaign.home())?;
        let first = campaign.noise().below(2);
        let chosen = (first..).zip(points.iter().cycle());
        let chosen = chosen.filter(|(number, _)| is_full() || number % 2 == 0);
        for (_, point) in chosen.take(300) {
            if campaign.figures.kills >= kills {
                break;
            }
            let trouble = Trouble::at(point, campaign.noise());
            round(campaign, &trouble)?;
        }
        Ok(())
    })?;
    ensure!(figures.kills >= kills, "only {} kills", figures.kills);
    Ok(())
}

/// In full each call in each part, failing at its first, second and seventh time, for ever, and now and then.
#[test]
fn a_vault_whose_disk_fails_loses_nothing() -> Result<()> {
    let test = "torture::a_vault_whose_disk_fails_loses_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let library = match faults::library() {
        Ok(library) => library,
        Err(error) => {
            skip(test, &format!("no faults can be put below a program here: {error:#}"));
            return Ok(());
        }
    };
    let mut all = Vec::new();
    for part in PARTS {
        for call in CALLS {
            for error in ERRORS {
                if error == "short" && call != "write" {
                    continue;
                }
                for (when, count) in [("at", 1), ("at", 2), ("at", 7), ("from", 4), ("one-in", 9)] {
                    all.push(Fault { part, call, error, when, count, seed: 1 });
                }
            }
        }
    }
    let figures = run(Campaign::new(&programs, seed())?, &mut |campaign| {
        let sample = if is_full() { all.len() } else { 8 };
        let step = all.len() / sample;
        let first = usize::try_from(campaign.noise().below(u64::try_from(step)?))?;
        for fault in all.iter().skip(first).step_by(step) {
            let (fault, library) = (fault.clone(), library.clone());
            let kill = campaign.noise().below(2) == 0;
            round(campaign, &Trouble::Fault { fault, library, kill })?;
        }
        Ok(())
    })?;
    ensure!(figures.faults > 0, "no call failed");
    Ok(())
}
