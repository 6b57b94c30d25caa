//! `umbra-vault check` names the files that damage hits, on every snapshot that has them, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, number, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::vault::{Vault, free_udp_port};

/// What is compared: machine, disk, snapshot, volume and path of each name that is hit.
type Names = BTreeSet<(String, String, String, String, String)>;

/// Two machines, one of them backed up twice, that share the content of a file.
struct Scene {
    home: Home,
    /// (machine, disk, snapshot, path of the shared file)
    snapshots: Vec<(&'static str, &'static str, String, &'static str)>,
    shared: Vec<u8>,
    own: Vec<u8>,
}

impl Scene {
    fn new(programs: &Programs) -> Result<Self> {
        let home = Home::new(programs)?;
        home.init_store()?;
        let (first, second) = (home.path("first"), home.path("second"));
        let mut noise = Noise::new(41);
        for (tree, file, len) in [
            (&first, "data/shared.bin", 1 << 20),
            (&first, "data/own of the first.bin", 1 << 20),
            (&first, "etc/hosts", 300),
            (&second, "other/own.bin", 1 << 20),
        ] {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            write_noise(&path, len, &mut noise)?;
        }
        fs::copy(first.join("data/shared.bin"), second.join("other/a copy\u{e4}.bin"))?;
        let mut scene = Self {
            shared: fs::read(first.join("data/shared.bin"))?,
            own: fs::read(first.join("data/own of the first.bin"))?,
            home,
            snapshots: Vec::new(),
        };
        scene.back_up("alpha", "sda", &first, "/data/shared.bin")?;
        write_noise(&first.join("etc/new"), 200_000, &mut noise)?;
        scene.back_up("alpha", "sda", &first, "/data/shared.bin")?;
        scene.back_up("beta", "vda", &second, "/other/a copy\u{e4}.bin")?;
        Ok(scene)
    }

    fn back_up(
        &mut self,
        machine: &'static str,
        disk: &'static str,
        tree: &Path,
        shared: &'static str,
    ) -> Result<()> {
        let image = self.home.path("disk.img");
        make_ext4(&image, 16 << 20, tree, &[])?;
        let mut command = self.home.umbra();
        command.args(["--json", "--machine", machine, "--disk", disk, "backup"]).arg(&image);
        let summary = Answer::of(&mut command)?.expect_code(0)?.summary()?;
        self.snapshots.push((machine, disk, text(&summary, "snapshot")?.to_owned(), shared));
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.home.path("store")
    }

    fn check(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.home.vault();
        command.args(["--json", "check"]).args(arguments).arg("--store").arg(self.store());
        Answer::of(&mut command)
    }

    /// The shared file on every snapshot that has it.
    fn shared_everywhere(&self) -> Names {
        let names = self
            .snapshots
            .iter()
            .map(|(machine, disk, snapshot, path)| name(machine, disk, snapshot, "disk", path));
        names.collect()
    }
}

fn name(
    machine: &str,
    disk: &str,
    snapshot: &str,
    volume: &str,
    path: &str,
) -> (String, String, String, String, String) {
    (machine.to_owned(), disk.to_owned(), snapshot.to_owned(), volume.to_owned(), path.to_owned())
}

/// The names of the answer's entries.
fn names(answer: &Answer) -> Result<Names> {
    let of = |entry: &Value| -> Result<_> {
        let field = |field| text(entry, field);
        Ok(name(
            field("machine")?,
            field("disk")?,
            field("snapshot")?,
            field("volume")?,
            field("path")?,
        ))
    };
    answer.of_type("entry")?.iter().map(of).collect()
}

/// Where these bytes stand in the packs: noise does not compress, and so stands there as it is.
fn find(store: &Path, wanted: &[u8]) -> Result<(PathBuf, usize)> {
    let mut found = Vec::new();
    for dir in fs::read_dir(store.join("packs"))? {
        for file in fs::read_dir(dir?.path())? {
            let path = file?.path();
            let bytes = fs::read(&path)?;
            let places = bytes.windows(wanted.len()).enumerate();
            found.extend(places.filter(|(_, at)| *at == wanted).map(|(at, _)| (path.clone(), at)));
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        other => bail!("the bytes stand at {} places of the packs", other.len()),
    }
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    *bytes.get_mut(at).context("the pack is shorter")? ^= 0x40;
    fs::write(path, bytes)?;
    Ok(())
}

#[test]
fn a_flipped_byte_names_the_file_on_every_snapshot_that_has_it() -> Result<()> {
    let test = "check::a_flipped_byte_names_the_file_on_every_snapshot_that_has_it";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let scene = Scene::new(&programs)?;
    for arguments in [&[][..], &["--read-data"], &["--read-data-subset", "30%"]] {
        let whole = scene.check(arguments)?.expect_code(0)?;
        ensure!(whole.of_type("warning")?.is_empty(), "{}", whole.describe());
        ensure!(whole.summary()?["damaged"] == false, "{}", whole.describe());
    }

    let (pack, at) = find(&scene.store(), &scene.shared[500_000..500_064])?;
    flip(&pack, at)?;
    // The tables do not show it; reading does.
    scene.check(&[])?.expect_code(0)?;
    let found = scene.check(&["--read-data"])?.expect_code(4)?;
    ensure!(names(&found)? == scene.shared_everywhere(), "{}", found.describe());
    let warnings = found.of_type("warning")?;
    ensure!(warnings.len() == 1 && warnings[0]["kind"] == "record", "{}", found.describe());
    let path = text(&warnings[0], "path")?;
    ensure!(scene.store().join(path) == pack, "{path} is named, not {}", pack.display());
    ensure!(usize::try_from(number(&warnings[0], "at")?)? < at, "{}", found.describe());
    for_people(&scene)?;
    beside_a_vault(&scene)?;

    // A share of the packs finds it where the pack is among them, by the printed seed again.
    let mut seen = [false, false];
    for seed in 0..64u64 {
        let share = scene.check(&["--read-data-subset", "1%", "--seed", &seed.to_string()])?;
        ensure!(matches!(share.code, Some(0 | 4)), "{}", share.describe());
        ensure!(number(&share.summary()?, "seed")? == seed, "{}", share.describe());
        seen[usize::from(share.code == Some(4))] = true;
        if seen == [true, true] {
            break;
        }
    }
    ensure!(seen == [true, true], "the choice of the packs does not depend on the seed");

    flip(&pack, at)?;
    scene.check(&["--read-data"])?.expect_code(0)?;
    // A file of one machine alone.
    let (pack, at) = find(&scene.store(), &scene.own[300_000..300_064])?;
    flip(&pack, at)?;
    let found = scene.check(&["--read-data"])?.expect_code(4)?;
    let alpha = scene.snapshots.iter().filter(|(machine, ..)| *machine == "alpha");
    let expected: Names = alpha
        .map(|(machine, disk, snapshot, _)| {
            name(machine, disk, snapshot, "disk", "/data/own of the first.bin")
        })
        .collect();
    ensure!(names(&found)? == expected, "{}", found.describe());
    Ok(())
}

/// The text names the same.
fn for_people(scene: &Scene) -> Result<()> {
    let mut command = scene.home.vault();
    command.args(["check", "--read-data", "--store"]).arg(scene.store());
    let answer = Answer::of(&mut command)?.expect_code(4)?;
    let said = String::from_utf8(answer.stdout.clone())?;
    for (machine, disk, snapshot, path) in &scene.snapshots {
        let short = snapshot.get(..12).context("an id is longer")?;
        ensure!(said.contains(&format!("{short} {machine}/{disk} ")), "{}", answer.describe());
        ensure!(said.contains(&format!("disk{path}: ")), "{}", answer.describe());
    }
    ensure!(!said.contains("own") && !said.contains("hosts"), "{}", answer.describe());
    Ok(())
}

/// A vault that serves the store keeps nobody from checking it, and is kept from nothing.
fn beside_a_vault(scene: &Scene) -> Result<()> {
    let vault = Vault::start(&scene.home, &scene.store(), free_udp_port()?)?;
    let found = scene.check(&["--read-data"])?.expect_code(4)?;
    ensure!(found.summary()?["owned"] == true, "{}", found.describe());
    ensure!(names(&found)? == scene.shared_everywhere(), "{}", found.describe());
    drop(vault);
    Ok(())
}

#[test]
fn what_cannot_be_checked_says_why() -> Result<()> {
    let test = "check::what_cannot_be_checked_says_why";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let check = |more: &[&str]| {
        let mut command = home.vault();
        command.arg("check").args(more).arg("--store").arg(home.path("nothing"));
        Answer::of(&mut command)
    };
    check(&[])?.expect_code(10)?;
    for usage in [
        &["--read-data-subset", "0%"][..],
        &["--read-data-subset", "101%"],
        &["--read-data", "--read-data-subset", "5%"],
        &["--seed", "1"],
    ] {
        check(usage)?.expect_code(2)?;
    }
    Ok(())
}
