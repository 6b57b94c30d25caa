//! `docs/formats/read_store.py` knows nothing of our code and gets disks and files out of a store that the programs made.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Noise, expect_equal, make_ext4, write_noise};
use umbra_tests::json::text;
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};
use umbra_tests::reader::{Reader, copy_tree, packs};

/// Where the files of the test lie, as the command line writes it.
const VOLUME: &str = "disk";
const DEEP: &str = "deep/er/and/deeper/größe/naïve 日本.txt";

/// A store of one disk with two snapshots, without its index.
struct Made {
    home: Home,
    store: PathBuf,
    /// The tree that the file system was made from.
    tree: PathBuf,
    /// The disk as it is at the second snapshot, which keeps free space too.
    image: PathBuf,
    snapshots: [String; 2],
}

impl Made {
    fn new(programs: &Programs) -> Result<Self> {
        let home = Home::new(programs)?;
        home.init_store()?;
        let (tree, image) = (home.path("tree"), home.path("disk.img"));
        fs::create_dir(&tree)?;
        fill(&tree)?;
        make_ext4(&image, 48 << 20, &tree, &["-b", "1024"])?;
        let first = home.backup(&image, "d")?;
        let first = text(&first, "snapshot")?.to_owned();
        // What umbra itself recovers is what the reader has to recover: free space is left out here.
        home.recover(&first, &home.path("first.img"))?;
        for command in ["rm gone", "write tree/hello second"] {
            let mut debugfs = Command::new("debugfs");
            debugfs.args(["-w", "-R", command]).arg(&image).current_dir(home.dir());
            must(&mut debugfs)?;
        }
        let second = home.backup_with(&image, "d", &["--free", "keep"])?;
        let second = text(&second, "snapshot")?.to_owned();
        let store = home.path("store");
        fs::remove_dir_all(store.join("index"))?;
        Ok(Self { home, store, tree, image, snapshots: [first, second] })
    }
}

/// Writes files of each kind that a reader could get wrong.
fn fill(tree: &Path) -> Result<()> {
    let mut noise = Noise::new(23);
    fs::write(tree.join("hello"), "Dear reader\n")?;
    fs::write(tree.join("empty"), "")?;
    write_noise(&tree.join("chunks"), 3_000_001, &mut noise)?;
    write_noise(&tree.join("gone"), 700_000, &mut noise)?;
    let deep = tree.join(DEEP);
    fs::create_dir_all(deep.parent().context("a file lies in a directory")?)?;
    fs::write(deep, "found\n")?;
    fs::hard_link(tree.join("hello"), tree.join("deep/linked"))?;
    // Holes in front, within and at the end.
    let file = fs::File::create(tree.join("hole"))?;
    file.write_all_at(&noise.bytes(70_000), 5 << 20)?;
    file.set_len((6 << 20) + 17)?;
    // More than 64 extents, which go into an extent list.
    let file = fs::File::create(tree.join("pieces"))?;
    for piece in 0..90_u64 {
        file.write_all_at(&noise.bytes(1024), piece * 3072)?;
    }
    // More names than one directory node holds.
    fs::create_dir(tree.join("many"))?;
    for name in 0..600 {
        fs::write(tree.join("many").join(name.to_string()), name.to_string())?;
    }
    Ok(())
}

#[test]
fn disks_and_files_come_back_without_umbra() -> Result<()> {
    let test = "read_store::disks_and_files_come_back_without_umbra";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let made = Made::new(&programs)?;
    let Some(reader) = Reader::find(test, &made.store) else { return Ok(()) };

    let listed = reader.list()?;
    let ids: Vec<&String> = listed.iter().filter_map(|words| words.first()).collect();
    ensure!(ids == made.snapshots.iter().collect::<Vec<_>>(), "{listed:?}");
    for words in &listed {
        ensure!(words.len() == 5, "{words:?}");
        ensure!(words[1..3] == ["m", "d"] && words[4] == (48 << 20).to_string(), "{words:?}");
    }
    let (first, second) = (made.home.path("1.img"), made.home.path("2.img"));
    reader.recover(&made.snapshots[0], &first)?;
    expect_equal(&made.home.path("first.img"), &first)?;
    reader.recover(&made.snapshots[1][..12], &second)?;
    expect_equal(&made.image, &second)?;

    let both = ["hello", "empty", "chunks", DEEP, "deep/linked", "hole", "pieces", "many/599"];
    for name in both.iter().chain(&["gone"]) {
        let found = reader.cat(&made.snapshots[0], &format!("{VOLUME}/{name}"))?;
        ensure!(found == fs::read(made.tree.join(name))?, "{name} of the first snapshot differs");
    }
    for (name, from) in both.iter().map(|name| (*name, *name)).chain([("second", "hello")]) {
        let found = reader.cat(&made.snapshots[1], &format!("/{name}"))?;
        ensure!(found == fs::read(made.tree.join(from))?, "{name} of the second snapshot differs");
    }
    // Into a file, with its holes; and never over one that is there.
    let (to, path) = (made.home.path("hole"), format!("{VOLUME}/hole"));
    let arguments = ["cat", &made.snapshots[1], &path, to.to_str().context("text")?];
    reader.run(&arguments)?.expect_code(0)?;
    expect_equal(&made.tree.join("hole"), &to)?;
    reader.run(&arguments)?.expect_code(1)?;
    for (snapshot, path) in [
        (made.snapshots[1].as_str(), "disk/gone"),
        (&made.snapshots[1], "disk/hello/below"),
        (&made.snapshots[1], "disk/deep"),
        (&made.snapshots[1], "part/1/hello"),
        ("0000", "disk/hello"),
        ("", "disk/hello"),
    ] {
        let answer = reader.run(&["cat", snapshot, path])?.expect_code(1)?;
        ensure!(answer.stderr.lines().count() == 1, "{}", answer.describe());
    }
    Ok(())
}

#[test]
fn damage_is_named_wherever_it_is() -> Result<()> {
    let test = "read_store::damage_is_named_wherever_it_is";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let made = Made::new(&programs)?;
    if Reader::find(test, &made.store).is_none() {
        return Ok(());
    }
    for (round, pack) in packs(&made.store)?.into_iter().enumerate() {
        let name = pack.strip_prefix(&made.store)?;
        let len = fs::metadata(&pack)?.len();
        // The header, the first record, one in the middle, the table of contents.
        for at in [40, 130, len / 2, len - 60] {
            let store = made.home.path(&format!("damaged-{round}-{at}"));
            copy_tree(&made.store, &store)?;
            flip(&store.join(name), at)?;
            let reader = Reader::find(test, &store).context("it was there")?;
            let to = store.join("disk.img");
            let arguments = ["recover", &made.snapshots[1], to.to_str().context("text")?];
            for answer in [reader.run(&["list"])?, reader.run(&arguments)?] {
                let answer = answer.expect_code(4)?;
                let named = answer.stderr.lines().any(|line| {
                    line.starts_with("read_store: damage: ")
                        && line.contains(&name.display().to_string())
                });
                ensure!(named, "byte {at} of {}: {}", name.display(), answer.describe());
                ensure!(!answer.stderr.contains("Traceback"), "{}", answer.describe());
            }
            fs::remove_dir_all(store)?;
        }
    }
    Ok(())
}

/// A vault that was killed leaves packs without a table, with half a record at the end.
#[test]
fn an_open_pack_with_a_torn_tail_is_read() -> Result<()> {
    let test = "read_store::an_open_pack_with_a_torn_tail_is_read";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let made = Made::new(&programs)?;
    let Some(reader) = Reader::find(test, &made.store) else { return Ok(()) };
    fs::create_dir_all(made.store.join("open"))?;
    for pack in packs(&made.store)? {
        let mut bytes = fs::read(&pack)?;
        let field = bytes.len() - 48;
        let table = u64::from_le_bytes(bytes[field..field + 8].try_into()?);
        bytes.truncate(bytes.len() - usize::try_from(table)?);
        let half_a_record = bytes[128..228].to_vec();
        bytes.extend(half_a_record);
        fs::remove_file(&pack)?;
        fs::write(made.store.join("open").join(pack.file_name().context("a name")?), bytes)?;
    }
    let to = made.home.path("back.img");
    let arguments = ["recover", &made.snapshots[1], to.to_str().context("text")?];
    let answer = reader.run(&arguments)?.expect_code(0)?;
    ensure!(answer.stderr.contains("(a torn tail)"), "{}", answer.describe());
    expect_equal(&made.image, &to)?;
    Ok(())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let byte = bytes.get_mut(usize::try_from(at)?).context("behind the end")?;
    *byte ^= 1;
    fs::write(path, bytes)?;
    Ok(())
}
