//! Policy, two-step forgetting, protection and holds: the same on a stopped store and on a running vault, and kept over restarts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, expect_equal};
use umbra_tests::json::{Answer, number, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::vault::{Vault, free_udp_port};

/// A store with four snapshots of `m/sda` and one of `m/sdb`.
struct Scene {
    home: Home,
    /// Ids of the snapshots, oldest first; the last is that of `sdb`.
    ids: Vec<String>,
    images: Vec<PathBuf>,
    running: Option<Vault>,
}

impl Scene {
    fn new(programs: &Programs) -> Result<Self> {
        let home = Home::new(programs)?;
        home.init_store()?;
        let mut noise = Noise::new(77);
        let mut scene = Self { home, ids: Vec::new(), images: Vec::new(), running: None };
        for number in 0..5 {
            let image = scene.home.path(&format!("{number}.img"));
            fs::write(&image, noise.bytes(300_000))?;
            let disk = if number < 4 { "sda" } else { "sdb" };
            let tag = format!("t{number}");
            let summary = scene.home.backup_with(&image, disk, &["--tag", &tag])?;
            scene.ids.push(text(&summary, "snapshot")?.to_owned());
            scene.images.push(image);
        }
        Ok(scene)
    }

    /// Starts the vault where it is stopped, stops it where it runs.
    fn switch(&mut self) -> Result<()> {
        self.running = match self.running.take() {
            Some(_) => None,
            None => Some(Vault::start(&self.home, &self.home.path("store"), free_udp_port()?)?),
        };
        Ok(())
    }

    fn vault(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.home.vault();
        command.arg("--json").args(arguments).arg("--store").arg(self.home.path("store"));
        Answer::of(&mut command)
    }

    fn summary(&self, arguments: &[&str]) -> Result<Value> {
        self.vault(arguments)?.expect_code(0)?.summary()
    }

    /// Positions of the snapshots that the agent is shown.
    fn shown(&self) -> Result<Vec<usize>> {
        let mut command = self.home.umbra();
        let answer = Answer::of(command.args(["--json", "snapshots", "--all-machines"]))?;
        let mut shown = Vec::new();
        for entry in answer.expect_code(0)?.of_type("entry")? {
            let id = text(&entry, "snapshot")?;
            let at = self.ids.iter().position(|known| known == id);
            shown.push(at.with_context(|| format!("an unknown snapshot {id}"))?);
        }
        shown.sort_unstable();
        Ok(shown)
    }

    /// The same, and that `umbra` finds no other.
    fn expect_shown(&self, expected: &[usize]) -> Result<()> {
        let shown = self.shown()?;
        ensure!(shown == expected, "expected {expected:?}, shown are {shown:?}");
        for (number, id) in self.ids.iter().enumerate() {
            let code = if expected.contains(&number) { 0 } else { 1 };
            Answer::of(self.home.umbra().args(["--json", "show", id]))?.expect_code(code)?;
        }
        Ok(())
    }

    /// A refusal that says what each of the words is.
    fn expect_refused(&self, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let answer = self.vault(arguments)?.expect_code(code)?;
        for word in words {
            ensure!(answer.stderr.contains(word), "no {word:?}: {}", answer.describe());
        }
        Ok(())
    }
}

#[test]
fn forget_and_undo_on_a_stopped_store_and_a_running_vault() -> Result<()> {
    let Some(programs) = Programs::find("forget_and_undo_on_a_stopped_store_and_a_running_vault")
    else {
        return Ok(());
    };
    let mut scene = Scene::new(&programs)?;
    let ids = scene.ids.clone();
    for _ in 0..2 {
        // A dry run changes nothing.
        let dry = scene.summary(&["forget", "--dry-run", &ids[1]])?;
        ensure!(number(&dry, "changed")? == 1 && dry["dry_run"] == true);
        scene.expect_shown(&[0, 1, 2, 3, 4])?;

        let answer = scene.vault(&["forget", &ids[1], "m/sda@1999-12-31T00:00:00Z"])?;
        answer.expect_code(1)?;
        scene.expect_shown(&[0, 1, 2, 3, 4])?;
        let until = scene.summary(&["forget", &ids[1][..8]])?;
        ensure!(text(&until, "undo_until")?.starts_with("20"), "{until}");
        scene.expect_shown(&[0, 2, 3, 4])?;
        let status = scene.vault(&["status"])?.summary()?;
        ensure!(number(&status, "snapshots")? == 4 && number(&status, "forgotten")? == 1);
        // Again: said, and no error.
        let again = scene.summary(&["forget", &ids[1]])?;
        ensure!(number(&again, "changed")? == 0 && number(&again, "already")? == 1, "{again}");

        // A restart keeps it, and check has nothing to say.
        scene.switch()?;
        scene.expect_shown(&[0, 2, 3, 4])?;
        scene.vault(&["check", "--read-data"])?.expect_code(0)?;
        let undone = scene.summary(&["forget", "--undo", &ids[1]])?;
        ensure!(number(&undone, "changed")? == 1, "{undone}");
        scene.expect_shown(&[0, 1, 2, 3, 4])?;
        let back = scene.home.path("back.img");
        scene.home.recover(&ids[1], &back)?;
        expect_equal(&scene.images[1], &back)?;
        fs::remove_file(&back)?;
    }
    // Now it is stopped again. A whole disk needs a word more, and says that none is left.
    scene.expect_refused(&["forget", "m/sda"], 2, &["--all"])?;
    let answer = scene.vault(&["forget", "--all", "m/sda"])?.expect_code(0)?;
    ensure!(answer.of_type("warning")?.len() == 1, "{}", answer.describe());
    scene.expect_shown(&[4])?;
    // The next backup takes nothing of what is hidden for its base, and is whole.
    let summary = scene.home.backup(&scene.images[2], "sda")?;
    let back = scene.home.path("back.img");
    scene.home.recover(text(&summary, "snapshot")?, &back)?;
    expect_equal(&scene.images[2], &back)?;
    let undone = scene.summary(&["forget", "--undo", "--all", "m/sda"])?;
    ensure!(number(&undone, "changed")? == 4, "{undone}");
    Ok(())
}

#[test]
fn names_that_say_too_little_are_refused_with_the_candidates() -> Result<()> {
    let Some(programs) =
        Programs::find("names_that_say_too_little_are_refused_with_the_candidates")
    else {
        return Ok(());
    };
    let scene = Scene::new(&programs)?;
    scene.expect_refused(&["forget"], 2, &["no snapshot is named", "--policy"])?;
    scene.expect_refused(&["forget", "latest"], 2, &["m/sda", "m/sdb", &scene.ids[3][..12]])?;
    scene.expect_refused(&["forget", "m@2100-01-01"], 2, &["m/sda", "m/sdb"])?;
    scene.expect_refused(&["forget", "m"], 2, &["names no snapshot"])?;
    scene.expect_refused(&["forget", "00000000000000"], 1, &["no snapshot's id begins with"])?;
    scene.expect_refused(&["forget", "--undo", "latest", "--disk", "sda"], 1, &["forgotten"])?;
    scene.expect_refused(&["hold", "n"], 1, &["knows no machine"])?;
    scene.expect_refused(&["policy", "set"], 2, &["--keep-last"])?;
    scene.expect_refused(&["policy", "set", "--scope", "a b", "--keep-last", "1"], 2, &["a b"])?;
    scene.expect_shown(&[0, 1, 2, 3, 4])?;
    scene.summary(&["forget", "latest", "--disk", "sda"])?;
    scene.expect_shown(&[0, 1, 2, 4])?;
    scene.summary(&["forget", "m/sda@2100-01-01"])?;
    scene.expect_shown(&[0, 1, 4])?;
    scene.summary(&["forget", "--undo", "latest", "--disk", "sda"])?;
    scene.expect_shown(&[0, 1, 3, 4])
}

#[test]
fn protected_and_held_snapshots_stay() -> Result<()> {
    let Some(programs) = Programs::find("protected_and_held_snapshots_stay") else {
        return Ok(());
    };
    let mut scene = Scene::new(&programs)?;
    let ids = scene.ids.clone();
    scene.summary(&["protect", &ids[0]])?;
    scene.summary(&["hold", "m/sdb", "--reason", "court order 12"])?;
    for _ in 0..2 {
        let (first, last) = (&ids[0][..12], &ids[4][..12]);
        scene.expect_refused(
            &["forget", &ids[0], &ids[1], &ids[4]],
            1,
            &[first, "is protected", last, "held: court order 12", "unprotect"],
        )?;
        scene.summary(&["policy", "set", "--keep-last", "1"])?;
        let done = scene.summary(&["forget", "--policy", "--dry-run"])?;
        ensure!(number(&done, "not_kept")? == 2 && number(&done, "forgotten")? == 0, "{done}");
        scene.expect_shown(&[0, 1, 2, 3, 4])?;
        scene.switch()?;
    }
    let show = scene.summary(&["policy", "show"])?;
    ensure!(show["holds"][0]["on"] == "m/sdb" && show["protected"][0]["snapshot"] == ids[0][..]);
    scene.summary(&["unprotect", &ids[0]])?;
    scene.summary(&["hold", "m/sdb", "--release"])?;
    scene.summary(&["forget", &ids[0], &ids[4]])?;
    scene.expect_shown(&[1, 2, 3])
}

#[test]
fn the_policy_is_tried_set_and_applied() -> Result<()> {
    let Some(programs) = Programs::find("the_policy_is_tried_set_and_applied") else {
        return Ok(());
    };
    let mut scene = Scene::new(&programs)?;
    // Without a policy nothing goes.
    let done = scene.summary(&["forget", "--policy"])?;
    ensure!(number(&done, "forgotten")? == 0 && number(&done, "kept")? == 5, "{done}");
    scene.switch()?;
    let tried = scene.summary(&["policy", "simulate", "--keep-last", "1"])?;
    ensure!(number(&tried, "not_kept")? == 3, "{tried}");
    let set = ["policy", "set", "--keep-daily", "1", "--keep-tag", "t0", "--undo", "3d"];
    scene.summary(&[&set[..], &["--dry-run"]].concat())?;
    ensure!(scene.summary(&["policy", "show"])?["rules"] == Value::Array(Vec::new()));
    let done = scene.summary(&set)?;
    ensure!(number(&done, "undo_seconds")? == 3 * 86_400, "{done}");
    scene.summary(&["policy", "set", "--scope", "m/sdb", "--keep-all"])?;
    scene.expect_shown(&[0, 1, 2, 3, 4])?;

    let answer = scene.vault(&["policy", "simulate"])?.expect_code(0)?;
    let reasons = |at: usize| -> Result<Value> {
        let entries = answer.of_type("entry")?;
        let of = entries.into_iter().find(|entry| entry["snapshot"] == scene.ids[at][..]);
        Ok(of.context("each snapshot has an entry")?["reasons"].clone())
    };
    ensure!(reasons(0)? == serde_json::json!(["tag t0"]), "{}", answer.describe());
    ensure!(reasons(1)? == serde_json::json!([]), "{}", answer.describe());
    ensure!(reasons(3)? == serde_json::json!(["daily 1/1"]), "{}", answer.describe());
    ensure!(reasons(4)? == serde_json::json!(["no rule"]), "{}", answer.describe());
    scene.expect_shown(&[0, 1, 2, 3, 4])?;

    let done = scene.summary(&["forget", "--policy"])?;
    ensure!(number(&done, "forgotten")? == 2, "{done}");
    scene.expect_shown(&[0, 3, 4])?;
    scene.switch()?;
    scene.expect_shown(&[0, 3, 4])?;
    let show = scene.summary(&["policy", "show"])?;
    ensure!(show["forgotten"].as_array().map(Vec::len) == Some(2), "{show}");
    scene.summary(&["forget", "--undo", &scene.ids[1], &scene.ids[2]])?;
    scene.summary(&["policy", "set", "--remove"])?;
    scene.summary(&["forget", "--policy"])?;
    scene.expect_shown(&[0, 1, 2, 3, 4])
}
