//! `docs/formats/image_hash.py` knows nothing of our code and computes the same image hash from the raw image.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use umbra_tests::corpus::Corpus;
use umbra_tests::images::{Noise, write_noise};
use umbra_tests::json::text;
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{must, python, skip};

fn script_hash(image: &Path) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats/image_hash.py");
    let said = must(python().arg(script).arg(image))?;
    let said = String::from_utf8(said)?;
    Ok(said.split_whitespace().next().context("the script printed nothing")?.to_owned())
}

#[test]
fn the_script_and_the_snapshot_agree() -> Result<()> {
    let test = "image_hash_script::the_script_and_the_snapshot_agree";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !python().args(["-c", "import blake3"]).output().is_ok_and(|o| o.status.success()) {
        skip(test, "Python has no blake3 module; run cargo xtask setup");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut images = Vec::new();
    if let Some(corpus) = Corpus::find(test) {
        for name in ["ext4-default-4k", "disk-gpt-4096", "part-opaque", "squashfs-zstd"] {
            images.push((name.to_owned(), corpus.image(name)?));
        }
    }
    // Ends inside a window, a 4 KiB block and a sector; a window of zeros in the middle.
    let odd = home.path("odd.img");
    let mut noise = Noise::new(7);
    write_noise(&odd, (16 << 20) + 5, &mut noise)?;
    std::fs::File::options().write(true).open(&odd)?.set_len((48 << 20) + 777)?;
    images.push(("odd".to_owned(), odd));
    for (name, image) in images {
        let backup = home.backup_with(&image, &name, &["--free", "keep"])?;
        let (ours, independent) = (text(&backup, "image_hash")?, script_hash(&image)?);
        ensure!(ours == independent, "{name}: the snapshot says {ours}, the script {independent}");
    }
    Ok(())
}
