//! Stores and vaults that are not there, not ours, of another version, or go away; names that do not exist.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Mount, Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, Running, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::vault::{Vault, free_udp_port};
use umbra_tests::{is_root, must, skip};

use super::expect_refusal;

fn umbra(home: &Home, arguments: &[&str]) -> Result<Answer> {
    Answer::of(home.umbra().args(arguments))
}

#[test]
fn what_is_no_store_is_not_found() -> Result<()> {
    let test = "bad_input::what_is_no_store_is_not_found";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    fs::create_dir(home.path("empty"))?;
    fs::write(home.path("file"), "no store")?;
    for place in ["empty", "file", "missing"] {
        let url = format!("file://{}", home.path(place).display());
        let answer = umbra(&home, &["--vault", &url, "snapshots"])?;
        expect_refusal(answer, 10, &[place]).with_context(|| place.to_owned())?;
        let serve = Answer::of(home.vault().args(["status", "--store"]).arg(home.path(place)))?;
        expect_refusal(serve, 10, &[place]).with_context(|| place.to_owned())?;
    }
    let unused = format!("umbra://127.0.0.1:{}", free_udp_port()?);
    let answer = umbra(&home, &["--vault", &unused, "snapshots"])?;
    ensure!(matches!(answer.code, Some(10 | 12)), "{}", answer.describe());
    Ok(())
}

#[test]
fn a_store_of_another_version_is_refused_with_both_numbers() -> Result<()> {
    let test = "bad_input::a_store_of_another_version_is_refused_with_both_numbers";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let url = home.init_store()?;
    let path = home.path("store/FORMAT");
    let format = fs::read_to_string(&path)?;
    // The magic, then the version as a decimal number (docs/formats/store.md).
    let (_, rest) = format.split_once('\n').context("FORMAT has but one line")?;
    fs::write(&path, format!("UMBRASTO 77\n{rest}"))?;
    let answer = umbra(&home, &["--vault", &url, "snapshots"])?;
    expect_refusal(answer, 13, &["77"])
}

#[test]
fn two_processes_never_own_one_store() -> Result<()> {
    let test = "bad_input::two_processes_never_own_one_store";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let vault = Vault::start_new(&home, "store")?;
    let listen = format!("127.0.0.1:{}", free_udp_port()?);
    let mut second = home.vault();
    second.args(["serve", "--listen", &listen, "--store"]).arg(&vault.store);
    let answer = Answer::of(&mut second)?;
    expect_refusal(answer, 11, &[&vault.process_id().to_string()])
}

#[test]
fn a_wrong_token_and_a_wrong_fingerprint_are_refused() -> Result<()> {
    let test = "bad_input::a_wrong_token_and_a_wrong_fingerprint_are_refused";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let vault = Vault::start_new(&home, "store")?;
    let other_home = Home::new(&programs)?;
    let other = Vault::start_new(&other_home, "other")?;

    let once = vault.token(&home, "m")?;
    let agent = Home::new(&programs)?;
    umbra(&agent, &["enroll", &once])?.expect_code(0)?;
    let thief = Home::new(&programs)?;
    expect_refusal(umbra(&thief, &["enroll", &once])?, 12, &["token"])?;
    let nonsense = umbra(&thief, &["enroll", "this-is-no-token"])?;
    ensure!(matches!(nonsense.code, Some(2 | 12)), "{}", nonsense.describe());

    // The agent knows the first vault's key; what answers at this address has another.
    let url = format!("umbra://127.0.0.1:{}", other.port);
    expect_refusal(umbra(&agent, &["--vault", &url, "snapshots"])?, 12, &[])?;
    // A stranger who never enrolled gets nothing.
    let stranger = Home::new(&programs)?;
    let url = format!("umbra://127.0.0.1:{}", vault.port);
    let answer = umbra(&stranger, &["--vault", &url, "snapshots"])?;
    ensure!(matches!(answer.code, Some(10 | 12)), "{}", answer.describe());
    ensure!(answer.stderr.contains("enroll"), "{}", answer.describe());
    Ok(())
}

#[test]
fn a_vault_that_goes_away_ends_the_backup_and_harms_nothing() -> Result<()> {
    let test = "bad_input::a_vault_that_goes_away_ends_the_backup_and_harms_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (administrator, agent) = (Home::new(&programs)?, Home::new(&programs)?);
    let image = agent.path("disk.img");
    write_noise(&image, 256 << 20, &mut Noise::new(21))?;
    let vault = Vault::start_new(&administrator, "store")?;
    vault.enroll(&administrator, &agent, "m")?;
    let (store, port) = (vault.store.clone(), vault.port);
    let mut backup = agent.umbra();
    backup.args(["--json", "--disk", "d", "backup"]).arg(&image);
    let running = Running::start(&mut backup)?;
    wait_until_packs_grow(&store)?;
    vault.kill()?;
    expect_refusal(running.answer()?, 10, &["vault"])?;

    let _vault = Vault::start(&administrator, &store, port)?;
    let list = umbra(&agent, &["--json", "snapshots"])?.expect_code(0)?;
    ensure!(list.of_type("entry")?.is_empty(), "half a snapshot is listed: {}", list.describe());
    Answer::of(&mut backup)?.expect_code(0)?;
    let back = agent.path("back.img");
    let back_text = back.to_string_lossy().into_owned();
    umbra(&agent, &["--json", "recover", "latest", "--to", &back_text])?.expect_code(0)?;
    umbra_tests::images::expect_equal(&image, &back)
}

fn wait_until_packs_grow(store: &std::path::Path) -> Result<()> {
    for _ in 0..3000 {
        let said = must(Command::new("du").args(["-sb"]).arg(store))?;
        let said = String::from_utf8(said)?;
        let bytes: u64 = said.split_whitespace().next().unwrap_or("0").parse()?;
        if bytes > 32 << 20 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("no byte arrives in the store")
}

#[test]
fn names_that_do_not_exist_or_are_ambiguous_are_told() -> Result<()> {
    let test = "bad_input::names_that_do_not_exist_or_are_ambiguous_are_told";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    expect_refusal(umbra(&home, &["show", "latest"])?, 1, &["snapshot"])?;
    let tree = home.path("tree");
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), "x")?;
    let image = home.path("disk.img");
    make_ext4(&image, 8 << 20, &tree, &[])?;
    let first = home.backup(&image, "one")?;
    let snapshot = text(&first, "snapshot")?.to_owned();
    expect_refusal(umbra(&home, &["show", "0000000000"])?, 1, &["0000000000"])?;
    let path = format!("{snapshot}:/no/such/path");
    expect_refusal(umbra(&home, &["cat", &path])?, 1, &["no/such/path"])?;
    expect_refusal(umbra(&home, &["ls", &path])?, 1, &["no/such/path"])?;
    let climbing = format!("{snapshot}:/../etc/passwd");
    let answer = umbra(&home, &["cat", &climbing])?;
    ensure!(matches!(answer.code, Some(1 | 2)), "{}", answer.describe());

    home.backup(&image, "two")?;
    // Two disks, and `latest` does not say which: the candidates are listed.
    expect_refusal(umbra(&home, &["--machine", "m", "show", "latest"])?, 2, &["one", "two"])
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() -> Result<()> {
    let test = "bad_input::a_full_store_says_so_and_keeps_what_it_has";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "a small file system must be mounted, which needs root");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    let disk = home.path("small.img");
    fs::create_dir(home.path("nothing"))?;
    make_ext4(&disk, 96 << 20, &home.path("nothing"), &[])?;
    let mount = Mount::new(&disk, &home.path("mnt"), "")?;
    let url = format!("file://{}/store", mount.dir().display());
    umbra(&home, &["init", &url])?.expect_code(0)?;
    let (small, large) = (home.path("a.img"), home.path("b.img"));
    write_noise(&small, 4 << 20, &mut Noise::new(31))?;
    write_noise(&large, 256 << 20, &mut Noise::new(32))?;
    let kept = home.backup(&small, "small")?;
    let large_text = large.to_string_lossy().into_owned();
    let answer =
        umbra(&home, &["--json", "--machine", "m", "--disk", "large", "backup", &large_text])?;
    expect_refusal(answer, 14, &["space"])?;
    let back = home.path("back.img");
    home.recover(text(&kept, "snapshot")?, &back)?;
    umbra_tests::images::expect_equal(&small, &back)
}
