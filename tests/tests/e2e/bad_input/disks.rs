//! Damaged and hostile disks: backed up with a warning, byte for byte, and never a file outside the target.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, expect_equal, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{must, sgdisk};

const SUPERBLOCK: u64 = 1024;

/// Backs up a disk that cannot be understood (fully): exit code 0, a warning, and the same bytes back.
fn survives(home: &Home, image: &Path, disk: &str) -> Result<Value> {
    let backup = home.backup(image, disk)?;
    ensure!(warnings(&backup) > 0, "{disk}: no warning: {backup}");
    let back = home.path(&format!("{disk}-back.img"));
    home.recover(text(&backup, "snapshot")?, &back)?;
    expect_equal(image, &back)?;
    Ok(backup)
}

fn warnings(summary: &Value) -> usize {
    let value = &summary["warnings"];
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    number.or(value.as_array().map(Vec::len)).unwrap_or(0)
}

fn some_tree(home: &Home) -> Result<PathBuf> {
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("dir"))?;
    write_noise(&tree.join("dir/file"), 300_000, &mut Noise::new(11))?;
    fs::write(tree.join("small"), "small\n")?;
    Ok(tree)
}

fn patch(image: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    File::options().write(true).open(image)?.write_all_at(bytes, offset)?;
    Ok(())
}

#[test]
fn a_truncated_image_comes_back_as_it_is() -> Result<()> {
    let test = "bad_input::a_truncated_image_comes_back_as_it_is";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    make_ext4(&image, 32 << 20, &some_tree(&home)?, &[])?;
    // In the middle of a block and of a sector.
    File::options().write(true).open(&image)?.set_len((20 << 20) + 1234)?;
    survives(&home, &image, "truncated")?;
    Ok(())
}

#[test]
fn a_superblock_with_absurd_fields_comes_back_as_it_is() -> Result<()> {
    let test = "bad_input::a_superblock_with_absurd_fields_comes_back_as_it_is";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let whole = home.path("whole.img");
    make_ext4(&whole, 32 << 20, &some_tree(&home)?, &["-O", "^metadata_csum"])?;
    let fields: [(&str, u64, &[u8]); 7] = [
        ("blocks", 4, &[0xff; 4]),
        ("block-size", 24, &[0xff; 4]),
        ("blocks-per-group-zero", 32, &[0; 4]),
        ("inodes-per-group-zero", 40, &[0; 4]),
        ("inode-size", 88, &[0xff; 2]),
        ("unknown-incompatible-features", 96, &[0xff; 4]),
        ("descriptor-size", 254, &[0xff; 2]),
    ];
    for (name, offset, bytes) in fields {
        let image = home.path(&format!("{name}.img"));
        fs::copy(&whole, &image)?;
        patch(&image, SUPERBLOCK + offset, bytes)?;
        survives(&home, &image, name).with_context(|| name.to_owned())?;
        fs::remove_file(image)?;
    }
    Ok(())
}

#[test]
fn a_partition_beyond_the_end_is_a_warning() -> Result<()> {
    let test = "bad_input::a_partition_beyond_the_end_is_a_warning";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    File::create(&image)?.set_len(64 << 20)?;
    must(sgdisk().args(["-n", "1:2048:+16M", "-n", "2:0:0"]).arg(&image))?;
    let inner = home.path("inner.img");
    make_ext4(&inner, 16 << 20, &some_tree(&home)?, &[])?;
    patch(&image, 1 << 20, &fs::read(&inner)?)?;
    File::options().write(true).open(&image)?.set_len(32 << 20)?;
    let backup = survives(&home, &image, "cut")?;
    // What lies before the end is understood all the same.
    let snapshot = text(&backup, "snapshot")?;
    let mut cat = home.umbra();
    cat.args(["cat", &format!("{snapshot}:part/1/small")]);
    let answer = Answer::of(&mut cat)?.expect_code(0)?;
    ensure!(answer.stdout == b"small\n", "cat printed {:?}", answer.stdout);
    Ok(())
}

/// Names as no kernel makes them, patched into directories without checksums: one that climbs out, and a directory that
/// has the name of a symlink to the outside.
#[test]
fn no_restored_path_leaves_the_target() -> Result<()> {
    let test = "bad_input::no_restored_path_leaves_the_target";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let outside = home.path("outside");
    fs::create_dir(&outside)?;
    let tree = some_tree(&home)?;
    fs::write(tree.join("climb-marker-1"), "climbed\n")?;
    fs::create_dir(tree.join("twin-marker-b"))?;
    fs::write(tree.join("twin-marker-b/planted"), "planted\n")?;
    std::os::unix::fs::symlink(&outside, tree.join("twin-marker-a"))?;
    std::os::unix::fs::symlink("../../../../../../etc/passwd", tree.join("upwards"))?;
    let image = home.path("hostile.img");
    make_ext4(&image, 16 << 20, &tree, &["-O", "^metadata_csum,^dir_index"])?;
    replace_everywhere(&image, b"climb-marker-1", b"../climbed-out")?;
    replace_everywhere(&image, b"twin-marker-b", b"twin-marker-a")?;

    let backup = home.backup(&image, "hostile")?;
    let snapshot = text(&backup, "snapshot")?;
    let target = home.path("jail/target");
    fs::create_dir_all(&target)?;
    let mut restore = home.umbra();
    restore.args(["--json", "restore", snapshot, "--target"]).arg(&target);
    let answer = Answer::of(&mut restore)?;
    ensure!(matches!(answer.code, Some(0 | 3)), "{}", answer.describe());
    ensure!(fs::read_dir(&outside)?.next().is_none(), "something was planted outside");
    ensure!(fs::read_dir(home.path("jail"))?.count() == 1, "something climbed out");
    ensure!(target.join("small").is_file(), "the honest files are missing");
    let mut ls = home.umbra();
    ls.args(["--json", "ls", &format!("{snapshot}:/"), "-R"]);
    Answer::of(&mut ls)?.expect_code(0)?;
    Ok(())
}

fn replace_everywhere(image: &Path, what: &[u8], with: &[u8]) -> Result<()> {
    ensure!(what.len() == with.len(), "a patch must keep the length");
    let bytes = fs::read(image)?;
    let mut found = 0;
    for (offset, window) in bytes.windows(what.len()).enumerate() {
        if window == what {
            patch(image, u64::try_from(offset)?, with)?;
            found += 1;
        }
    }
    ensure!(found > 0, "{} is not in the image", String::from_utf8_lossy(what));
    Ok(())
}
