//! Reading a store and getting files out of it needs no root.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs, as_ordinary_user, give_to_ordinary_user};

#[test]
fn lists_prints_and_restores_without_root() -> Result<()> {
    let test = "ordinary_user::lists_prints_and_restores_without_root";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let tree = home.path("tree");
    std::fs::create_dir_all(tree.join("etc"))?;
    std::fs::write(tree.join("etc/motd"), "hello\n")?;
    write_noise(&tree.join("large.bin"), 3 << 20, &mut Noise::new(3))?;
    std::os::unix::fs::symlink("etc/motd", tree.join("link"))?;
    let image = home.path("disk.img");
    make_ext4(&image, 32 << 20, &tree, &[])?;
    give_to_ordinary_user(home.dir())?;

    let url = format!("file://{}", home.path("store").display());
    run(&home, &["init", &url])?;
    let image_text = image.to_string_lossy().into_owned();
    let backup = run(&home, &["--json", "--disk", "d", "backup", &image_text])?.summary()?;
    let snapshot = text(&backup, "snapshot")?;
    let entries =
        run(&home, &["--json", "ls", &format!("{snapshot}:/"), "-R"])?.of_type("entry")?;
    ensure!(entries.len() >= 5, "lists too little: {entries:?}");
    let motd = run(&home, &["cat", &format!("{snapshot}:/etc/motd")])?;
    ensure!(motd.stdout == b"hello\n", "cat printed {:?}", motd.stdout);

    let target = home.path("out");
    let target_text = target.to_string_lossy().into_owned();
    run(&home, &["--json", "restore", snapshot, "--target", &target_text])?;
    same_tree(&tree, &target)
}

fn run(home: &Home, arguments: &[&str]) -> Result<Answer> {
    let mut command = home.umbra();
    command.args(arguments);
    Answer::of(&mut as_ordinary_user(&command))?.expect_code(0)
}

/// `diff` is the witness; mke2fs' own lost+found has no twin in the tree.
fn same_tree(expected: &Path, found: &Path) -> Result<()> {
    must(
        Command::new("diff")
            .args(["-r", "--no-dereference", "--exclude", "lost+found"])
            .arg(expected)
            .arg(found),
    )?;
    Ok(())
}
