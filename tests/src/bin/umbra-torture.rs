//! Kills vaults for a while, and tells what came of it: one JSON object a line, as `cargo xtask torture` reads it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use umbra_tests::programs::Programs;
use umbra_tests::torture::trouble::{Trouble, points};
use umbra_tests::torture::{Campaign, Figures, faults};

/// Rounds on one store: then it is checked as a whole and a new one is made, so that a long run does not fill the disk.
const ROUNDS: u64 = 40;
/// How often figures are told.
const TELL: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), Some(Ok(seed)), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: umbra-torture SECONDS SEED   (use cargo xtask torture)");
        return ExitCode::from(2);
    };
    match run(Duration::from_secs(seconds), seed) {
        Ok(losses) => ExitCode::from(if losses { 4 } else { 0 }),
        Err(error) => {
            eprintln!("umbra-torture: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Figures of all campaigns, with the seeds they began with.
#[derive(Default)]
struct Run {
    figures: Figures,
    seeds: u64,
}

impl Run {
    fn tell(&self, kind: &str, now: &Figures, losses: u64) {
        let mut all = self.figures.clone();
        all.add(now);
        let told = json!({
            "type": kind,
            "kills": all.kills,
            "kills_at_points": all.at_points.values().sum::<u64>(),
            "points": all.at_points,
            "faults": all.faults,
            "objects_checked": all.objects,
            "bytes_compared": all.bytes,
            "snapshots_checked": all.snapshots,
            "seeds": self.seeds,
            "losses": losses,
        });
        println!("{told}");
    }
}

/// Runs campaigns until the time is over; true where something was lost.
fn run(limit: Duration, seed: u64) -> Result<bool> {
    let programs = Programs::find("umbra-torture").context("UMBRA_BIN_DIR names no programs")?;
    let library = faults::library();
    if let Err(error) = &library {
        eprintln!("umbra-torture: no faults below the vault on this machine: {error:#}");
    }
    let (begin, mut told) = (Instant::now(), Instant::now());
    let mut run = Run::default();
    while begin.elapsed() < limit {
        let seed = seed.wrapping_add(run.seeds);
        run.seeds += 1;
        let mut campaign = Campaign::new(&programs, seed)?;
        let points = points(campaign.home())?;
        let mut rounds = || {
            for _ in 0..ROUNDS {
                let noise = campaign.noise();
                let trouble = match (noise.below(4), &library) {
                    (0 | 1, _) | (3, Err(_)) => Trouble::kill(noise),
                    (3, Ok(library)) => Trouble::fault(noise, library),
                    _ => {
                        let number = noise.below(u64::try_from(points.len())?);
                        let point = points.get(usize::try_from(number)?).context("a point")?;
                        Trouble::at(point, noise)
                    }
                };
                campaign.round(&trouble).with_context(|| format!("after {trouble:?}"))?;
                if told.elapsed() > TELL {
                    told = Instant::now();
                    run.tell("status", &campaign.figures, 0);
                }
                if begin.elapsed() > limit {
                    break;
                }
            }
            campaign.finish()
        };
        if let Err(error) = rounds() {
            run.tell("summary", &campaign.figures, 1);
            let store = campaign.keep();
            eprintln!("umbra-torture: {error:#}");
            eprintln!("the store, as it was found: {}", store.display());
            eprintln!("again, as far as threads allow: umbra-torture {} {seed}", limit.as_secs());
            return Ok(true);
        }
        run.figures.add(&campaign.figures);
    }
    run.tell("summary", &Figures::default(), 0);
    Ok(false)
}
