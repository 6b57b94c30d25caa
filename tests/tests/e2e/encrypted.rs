//! What is encrypted (fscrypt) is listed and comes back with its disk, and never passes for a file.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::{expect_equal, make_ext4};
use umbra_tests::json::{Answer, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};

/// `FS_ENCRYPT_FL`.
const ENCRYPTED: u64 = 0x800;

/// The flags stand on ordinary files: what makes them ciphertext is what the parser makes of it
/// (`encrypted_ext` in common/fsparse has trees that the kernel encrypted).
#[test]
fn ciphertext_is_listed_and_restored_only_with_its_disk() -> Result<()> {
    let test = "encrypted::ciphertext_is_listed_and_restored_only_with_its_disk";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let tree = home.path("source");
    let inner = tree.join("secret/a directory of names");
    fs::create_dir_all(&inner)?;
    fs::write(tree.join("plain"), "plain\n")?;
    fs::write(tree.join("secret/a name of ciphertext"), vec![7_u8; 100_000])?;
    fs::write(inner.join("a name of ciphertext, below"), "x")?;
    symlink("target", tree.join("secret/a link of ciphertext"))?;
    let image = home.path("disk.img");
    make_ext4(&image, 16 << 20, &tree, &[])?;
    let script = home.path("script");
    let mut commands = String::new();
    for (path, flags) in [
        ("secret/a directory of names/a name of ciphertext, below", 0x8_0800),
        ("secret/a directory of names", 0x8_0800),
        ("secret/a name of ciphertext", 0x8_0800),
        ("secret/a link of ciphertext", 0x800),
        ("secret", 0x8_0800),
    ] {
        commands.push_str(&format!("sif \"/{path}\" flags {flags:#x}\n"));
    }
    fs::write(&script, commands)?;
    must(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&image))?;

    home.init_store()?;
    let backup = home.backup(&image, "d")?;
    let snapshot = text(&backup, "snapshot")?;
    let shown = Answer::of(home.umbra().args(["--json", "show", snapshot]))?.expect_code(0)?;
    let shown = shown.summary()?;
    ensure!(shown["volumes"][0]["parsed"] == "full", "{shown}");
    let hidden = listed(&home, snapshot)?;
    ensure!(hidden.len() == 4, "{hidden:?}");
    nothing_of_it_is_a_file(&home, snapshot, &hidden)?;

    // Free space kept too, the whole disk is as it was, ciphertext with it.
    let kept = Answer::of(
        home.umbra().args(["--json", "backup", "--disk", "k", "--free", "keep"]).arg(&image),
    )?;
    let kept = kept.expect_code(0)?.summary()?;
    let whole = home.path("whole.img");
    home.recover(text(&kept, "snapshot")?, &whole)?;
    expect_equal(&image, &whole)
}

/// Lists everything; returns what lies below the encrypted directory.
fn listed(home: &Home, snapshot: &str) -> Result<Vec<Value>> {
    let mut ls = home.umbra();
    ls.args(["--json", "ls", "-R", "--extents", &format!("{snapshot}:/")]);
    let entries = Answer::of(&mut ls)?.expect_code(0)?.of_type("entry")?;
    let find = |path: &str| {
        let found = entries.iter().find(|entry| entry["path"] == path);
        found.with_context(|| format!("no {path} among {entries:?}"))
    };
    ensure!(find("/plain")?["flags"].as_u64().is_some_and(|flags| flags & ENCRYPTED == 0));
    ensure!(find("/secret")?["flags"].as_u64().is_some_and(|flags| flags & ENCRYPTED != 0));
    let below =
        |entry: &&Value| entry["path"].as_str().is_some_and(|path| path.starts_with("/secret/"));
    let hidden: Vec<Value> = entries.iter().filter(below).cloned().collect();
    for entry in &hidden {
        ensure!(entry["flags"].as_u64().is_some_and(|flags| flags & ENCRYPTED != 0), "{entry}");
        let path = text(entry, "path")?;
        ensure!(!path.contains(' '), "the stored name is shown as it stands: {path}");
        ensure!(entry["target"].is_null(), "{entry}");
        if entry["file_type"] == "file" {
            ensure!(entry["blake3"].is_null(), "{entry}");
            ensure!(entry["blake3_reason"] == "encrypted", "{entry}");
            ensure!(entry["extents"].as_array().is_some_and(|list| !list.is_empty()), "{entry}");
        }
    }
    Ok(hidden)
}

fn nothing_of_it_is_a_file(home: &Home, snapshot: &str, hidden: &[Value]) -> Result<()> {
    for entry in hidden.iter().filter(|entry| entry["file_type"] == "file") {
        let place = format!("{snapshot}:{}", text(entry, "path")?);
        let cat = Answer::of(home.umbra().args(["cat", &place]))?.expect_code(3)?;
        ensure!(cat.stdout.is_empty(), "{}", cat.describe());
        for word in ["encrypted", "umbra recover"] {
            ensure!(cat.stderr.contains(word), "no {word:?}: {}", cat.describe());
        }
    }
    let target = home.path("restored");
    let mut restore = home.umbra();
    restore.args(["--json", "restore", snapshot, "--target"]).arg(&target);
    let restore = Answer::of(&mut restore)?.expect_code(3)?;
    ensure!(restore.summary()?["encrypted"] == hidden.len(), "{}", restore.describe());
    for entry in hidden {
        let path = text(entry, "path")?.trim_start_matches('/');
        ensure!(restore.describe().contains(path), "{path} is not named");
    }
    ensure!(fs::read(target.join("plain"))? == b"plain\n");
    ensure!(fs::read_dir(target.join("secret"))?.next().is_none(), "something was made");
    // Named by itself it is left out, too.
    let file = hidden.iter().find(|entry| entry["file_type"] == "file").context("no file")?;
    let place = format!("{snapshot}:{}", text(file, "path")?);
    let alone = home.path("alone");
    let mut restore = home.umbra();
    restore.args(["restore", &place, "--strip", "--target"]).arg(&alone);
    Answer::of(&mut restore)?.expect_code(3)?;
    ensure!(fs::read_dir(alone)?.next().is_none(), "something was made");
    // A dry run says the same.
    let mut plan = home.umbra();
    plan.args(["--json", "--dry-run", "restore", snapshot, "--target"]).arg(home.path("none"));
    let plan = Answer::of(&mut plan)?.expect_code(3)?.summary()?;
    ensure!(plan["encrypted"] == hidden.len(), "{plan}");
    let verify = Answer::of(home.umbra().args(["verify", snapshot, "--deep"]))?;
    verify.expect_code(0)?;
    Ok(())
}
