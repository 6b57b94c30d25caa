//! Every image of the corpus goes in and comes back byte for byte, whatever stands on it.

use anyhow::{Result, ensure};
use umbra_tests::corpus::Corpus;
use umbra_tests::images::expect_equal;
use umbra_tests::json::{number, text};
use umbra_tests::programs::{Home, Programs};

/// One store for all images: what they share is stored once, and nothing gets mixed up by that.
#[test]
fn every_image_comes_back_byte_for_byte() -> Result<()> {
    let test = "corpus_recover::every_image_comes_back_byte_for_byte";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let Some(corpus) = Corpus::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut failures = Vec::new();
    for name in corpus.names()? {
        if let Err(error) = goes_in_and_comes_back(&home, &corpus, &name) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{} images failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

fn goes_in_and_comes_back(home: &Home, corpus: &Corpus, name: &str) -> Result<()> {
    let image = corpus.image(name)?;
    let size = std::fs::metadata(&image)?.len();
    let backup = home.backup_with(&image, name, &["--free", "keep"])?;
    ensure!(number(&backup, "bytes_free")? == 0, "free space was left out");
    ensure!(number(&backup, "bytes_total")? == size, "bytes_total is not the image's size");
    let snapshot = text(&backup, "snapshot")?;
    let back = home.path("back.img");
    let recover = home.recover(snapshot, &back)?;
    expect_equal(&image, &back)?;
    ensure!(
        text(&recover, "image_hash")? == text(&backup, "image_hash")?,
        "the image hashes of backup and recover differ"
    );
    ensure!(recover["verified"] == true, "recover did not verify");
    std::fs::remove_file(back)?;
    Ok(())
}

/// The second backup of an unchanged disk finds everything there.
#[test]
fn a_second_backup_of_the_same_disk_costs_next_to_nothing() -> Result<()> {
    let test = "corpus_recover::a_second_backup_of_the_same_disk_costs_next_to_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let Some(corpus) = Corpus::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = corpus.image("ext4-default-4k")?;
    let first = home.backup(&image, "d")?;
    let second = home.backup(&image, "d")?;
    ensure!(number(&first, "bytes_new")? > 1 << 20, "the first backup brought nothing: {first}");
    ensure!(number(&second, "bytes_new_files")? == 0, "file content twice: {second}");
    ensure!(number(&second, "bytes_new_residue")? == 0, "residue twice: {second}");
    ensure!(number(&second, "bytes_new_meta")? < 4096, "more than a manifest is new: {second}");
    ensure!(first["image_hash"] == second["image_hash"], "one disk, two image hashes");
    Ok(())
}
