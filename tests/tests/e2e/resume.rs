//! A backup that was cut in the middle goes on where it was: the same snapshot, and hardly a byte sent twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, Running, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::proxy::Proxy;
use umbra_tests::vault::Vault;
use umbra_tests::{is_full, must};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);
/// What a cut may cost beside 2 %: bytes in flight and not acknowledged.
const SLACK_BYTES: u64 = 64 << 20;
/// How long a line stays dead in the cuts that the agent has to survive by itself.
const OUTAGE: Duration = Duration::from_secs(2);

struct Plan {
    cuts: u64,
    kills: u64,
    megabytes: u64,
}

fn plan() -> Plan {
    match is_full() {
        true => Plan { cuts: 20, kills: 5, megabytes: 1100 },
        false => Plan { cuts: 3, kills: 2, megabytes: 192 },
    }
}

/// How one uncut or cut backup ended.
struct Outcome {
    roots: Value,
    bytes_up: u64,
}

#[test]
fn a_cut_backup_ends_as_an_uncut_one() -> Result<()> {
    let test = "resume::a_cut_backup_ends_as_an_uncut_one";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed} (UMBRA_TEST_SEED)");
    let plan = plan();
    let place = Home::new(&programs)?;
    let image = make_disk(&place, plan.megabytes, seed)?;
    let uncut = back_up(&programs, &image, Cut::None)?;
    let allowed = uncut.bytes_up / 100 * 102 + SLACK_BYTES;
    let mut noise = Noise::new(seed);
    for number in 0..plan.cuts {
        let at = uncut.bytes_up / 20 + noise.below(uncut.bytes_up / 10 * 9);
        let cut = if number < plan.kills { Cut::KillAgent { at } } else { Cut::Line { at } };
        let outcome = back_up(&programs, &image, cut).with_context(|| format!("{cut:?}"))?;
        ensure!(outcome.roots == uncut.roots, "{cut:?}: {} != {}", outcome.roots, uncut.roots);
        ensure!(
            outcome.bytes_up <= allowed,
            "{cut:?}: {} bytes went up, uncut {} (allowed {allowed})",
            outcome.bytes_up,
            uncut.bytes_up
        );
        println!("{cut:?}: {} bytes up, uncut {}", outcome.bytes_up, uncut.bytes_up);
    }
    Ok(())
}

/// Where a backup is cut, in bytes from agent to vault.
#[derive(Clone, Copy, Debug)]
enum Cut {
    None,
    KillAgent { at: u64 },
    Line { at: u64 },
}

fn make_disk(place: &Home, megabytes: u64, seed: u64) -> Result<PathBuf> {
    let tree = place.path("tree");
    std::fs::create_dir(&tree)?;
    let mut noise = Noise::new(seed);
    for number in 0..megabytes / 4 {
        write_noise(&tree.join(format!("file{number:04}")), 4 << 20, &mut noise)?;
    }
    let image = place.path("disk.img");
    make_ext4(&image, (megabytes + megabytes / 4 + 32) << 20, &tree, &[])?;
    std::fs::remove_dir_all(tree)?;
    Ok(image)
}

/// Backs the image up into a vault of its own, cut once, until it is done.
fn back_up(programs: &Programs, image: &Path, cut: Cut) -> Result<Outcome> {
    let (administrator, agent) = (Home::new(programs)?, Home::new(programs)?);
    let vault = Vault::start_new(&administrator, "store")?;
    vault.enroll(&administrator, &agent, "m")?;
    let proxy = Proxy::start(vault.port)?;
    let url = format!("umbra://127.0.0.1:{}", proxy.port);
    let mut backup = agent.umbra();
    backup.args(["--json", "--vault", &url, "--disk", "d", "backup"]).arg(image);
    let first = attempt(&mut backup, &proxy, cut)?;
    let answer = match (cut, first) {
        (Cut::KillAgent { .. }, None) => {
            attempt(&mut backup, &proxy, Cut::None)?.context("the second attempt was cut")?
        }
        (Cut::KillAgent { .. }, Some(_)) => bail!("the backup was over before it was killed"),
        (_, answer) => answer.context("the backup was cut")?,
    };
    let summary = answer.expect_code(0)?.summary()?;
    let snapshot = text(&summary, "snapshot")?;
    let mut show = agent.umbra();
    show.args(["--json", "show", snapshot]);
    let shown = Answer::of(&mut show)?.expect_code(0)?.summary()?;
    let roots = serde_json::json!([
        text(&shown, "map_root")?,
        shown["overlay_roots"],
        text(&summary, "image_hash")?
    ]);
    ensure!(shown["overlay_roots"].as_array().is_some_and(|roots| !roots.is_empty()), "{shown}");
    Ok(Outcome { roots, bytes_up: proxy.bytes_up() })
}

/// Runs the command once; `None` where it was killed.
fn attempt(command: &mut Command, proxy: &Proxy, cut: Cut) -> Result<Option<Answer>> {
    let mut running = Running::start(command)?;
    let begin = Instant::now();
    let mut pending = !matches!(cut, Cut::None);
    while running.is_running()? {
        if begin.elapsed() > ATTEMPT_TIMEOUT {
            running.kill()?;
            bail!("hangs: {}", running.answer()?.describe());
        }
        let sent = proxy.bytes_up();
        match cut {
            Cut::KillAgent { at } if pending && sent >= at => {
                running.kill()?;
                return Ok(None);
            }
            Cut::Line { at } if pending && sent >= at => {
                pending = false;
                proxy.set_cut(true);
                std::thread::sleep(OUTAGE);
                proxy.set_cut(false);
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    running.answer().map(Some)
}

/// A vault that is killed and started again is waited for.
#[test]
fn a_vault_that_comes_back_is_waited_for() -> Result<()> {
    let test = "resume::a_vault_that_comes_back_is_waited_for";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let place = Home::new(&programs)?;
    let image = make_disk(&place, 96, 5)?;
    let (administrator, agent) = (Home::new(&programs)?, Home::new(&programs)?);
    let vault = Vault::start_new(&administrator, "store")?;
    vault.enroll(&administrator, &agent, "m")?;
    let (store, port) = (vault.store.clone(), vault.port);
    let proxy = Proxy::start(port)?;
    let url = format!("umbra://127.0.0.1:{}", proxy.port);
    let mut backup = agent.umbra();
    backup.args(["--json", "--vault", &url, "--disk", "d", "backup"]).arg(&image);
    let running = Running::start(&mut backup)?;
    let begin = Instant::now();
    while proxy.bytes_up() < 32 << 20 && begin.elapsed() < ATTEMPT_TIMEOUT {
        std::thread::sleep(Duration::from_millis(5));
    }
    vault.kill()?;
    std::thread::sleep(Duration::from_millis(500));
    let _vault = Vault::start(&administrator, &store, port)?;
    let first = running.answer()?;
    // An agent may also give up with "vault gone"; then the command run again must finish the work.
    if first.code != Some(0) {
        ensure!(first.code == Some(10), "{}", first.describe());
        Answer::of(&mut backup)?.expect_code(0)?;
    }
    let back = place.path("back.img");
    let mut recover = agent.umbra();
    recover.args(["--json", "--vault", &url, "recover", "latest", "--to"]).arg(&back);
    Answer::of(&mut recover)?.expect_code(0)?;
    must(Command::new("cmp").arg(&image).arg(&back))?;
    Ok(())
}
