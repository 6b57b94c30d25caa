//! `--skip-unchanged metadata`: little is read, and the snapshot is that of reading everything.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::{Mount, Noise, expect_equal, make_ext4, write_noise};
use umbra_tests::json::{Answer, Running, number, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::proxy::Proxy;
use umbra_tests::vault::Vault;
use umbra_tests::{is_root, must, python, sgdisk, skip};

const SKIP: [&str; 2] = ["--skip-unchanged", "metadata"];
/// A file that changed so short before it was read is read once more.
const TOO_CLOSE: Duration = Duration::from_secs(3);
const NO_REREAD: [&str; 2] = ["--reread-share", "0"];

/// A disk of noise in files of every size.
fn make_tree(home: &Home, seed: u64, megabytes: u64) -> Result<PathBuf> {
    let tree = home.path(&format!("tree{seed}"));
    fs::create_dir(&tree)?;
    let mut noise = Noise::new(seed);
    let mut left = megabytes << 20;
    let mut count = 0;
    while left > 0 {
        let dir = tree.join(format!("dir{:02}", count / 20));
        fs::create_dir_all(&dir)?;
        let size = match noise.below(4) {
            0 => noise.below(5000),
            1 => noise.below(100_000),
            _ => noise.below(3 << 20),
        };
        let size = size.min(left).max(1);
        write_noise(&dir.join(format!("file{count:03}")), size, &mut noise)?;
        left -= size;
        count += 1;
    }
    Ok(tree)
}

fn make_disk(home: &Home, seed: u64, megabytes: u64) -> Result<PathBuf> {
    let tree = make_tree(home, seed, megabytes)?;
    let image = home.path(&format!("disk{seed}.img"));
    make_ext4(&image, (megabytes * 5 / 4 + 32) << 20, &tree, &[])?;
    fs::remove_dir_all(tree)?;
    std::thread::sleep(TOO_CLOSE);
    Ok(image)
}

fn backup(home: &Home, image: &Path, disk: &str, more: &[&[&str]]) -> Result<Value> {
    home.backup_with(image, disk, &more.concat())
}

fn show(home: &Home, snapshot: &Value) -> Result<Value> {
    let mut show = home.umbra();
    show.args(["--json", "show", text(snapshot, "snapshot")?]);
    Answer::of(&mut show)?.expect_code(0)?.summary()
}

/// What must be the same, however a disk was read.
fn roots(home: &Home, snapshot: &Value) -> Result<Value> {
    let shown = show(home, snapshot)?;
    ensure!(text(&shown, "image_hash")? == text(snapshot, "image_hash")?, "{shown}");
    let sizes = ["bytes_data", "bytes_zero", "bytes_free", "chunks", "files"];
    let sizes: Vec<&Value> = sizes.iter().map(|name| &shown[*name]).collect();
    Ok(serde_json::json!([shown["map_root"], shown["overlay_roots"], shown["image_hash"], sizes]))
}

/// Recovers a snapshot and compares it with the disk.
fn comes_back(home: &Home, snapshot: &Value, image: &Path) -> Result<()> {
    let back = home.path("back.img");
    home.recover(text(snapshot, "snapshot")?, &back)?;
    expect_equal(image, &back)?;
    fs::remove_file(back)?;
    Ok(())
}

#[test]
fn an_unchanged_disk_is_hardly_read() -> Result<()> {
    let test = "skip_unchanged::an_unchanged_disk_is_hardly_read";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = make_disk(&home, 1, 96)?;
    for free in ["keep", "skip"] {
        let free = ["--free", free];
        let disk = free[1];
        let first = backup(&home, &image, disk, &[&free])?;
        ensure!(first["skip_unchanged"] == "off" && first["read_all_because"].is_null(), "{first}");
        let again = backup(&home, &image, disk, &[&free, &SKIP, &NO_REREAD])?;
        ensure!(roots(&home, &first)? == roots(&home, &again)?, "{first} {again}");
        let (all, read) = (number(&first, "bytes_read")?, number(&again, "bytes_read")?);
        println!("--free {disk}: {read} of {all} bytes read");
        ensure!(read < all / 2, "{read} of {all} bytes read");
        let inherited = number(&again, "files_inherited")?;
        ensure!(inherited > 20 && number(&again, "windows_inherited")? >= 3, "{again}");
        let shown = show(&home, &again)?;
        ensure!(number(&shown, "files_inherited")? == inherited, "{shown}");
        ensure!(number(&shown, "runs_since_full")? == 1, "{shown}");

        let checked = backup(&home, &image, disk, &[&free, &SKIP, &["--reread-share", "100"]])?;
        ensure!(number(&checked, "files_reread")? == inherited, "{checked}");
        ensure!(number(&checked, "files_inherited")? == 0, "{checked}");
        ensure!(number(&checked, "runs_since_full")? == 2, "{checked}");
        ensure!(roots(&home, &first)? == roots(&home, &checked)?, "{checked}");

        let dry = ["--dry-run"];
        let tried = backup(&home, &image, disk, &[&free, &SKIP, &NO_REREAD, &dry])?;
        ensure!(
            tried["snapshot"].is_null() && tried["image_hash"] == first["image_hash"],
            "{tried}"
        );
        ensure!(number(&tried, "files_inherited")? == inherited, "{tried}");

        let due = backup(&home, &image, disk, &[&free, &SKIP, &["--full-every", "3"]])?;
        ensure!(number(&due, "runs_since_full")? == 0, "{due}");
        // Where the image file has its holes is up to its own file system.
        ensure!(number(&due, "bytes_read")? > all / 10 * 9, "{due}");
        ensure!(text(&due, "read_all_because")?.contains("due"), "{due}");
        if disk == "keep" {
            comes_back(&home, &again, &image)?;
        }
    }
    // Of another kind than the base, and without one.
    let other = backup(&home, &image, "keep", &[&["--free", "skip"], &SKIP])?;
    ensure!(text(&other, "read_all_because")?.contains("--free"), "{other}");
    let new = backup(&home, &image, "new", &[&SKIP])?;
    ensure!(new["read_all_because"].is_string() && number(&new, "files_inherited")? == 0, "{new}");
    Ok(())
}

#[test]
fn what_can_never_skip_anything_is_refused() -> Result<()> {
    let test = "skip_unchanged::what_can_never_skip_anything_is_refused";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    fs::write(&image, [1; 4096])?;
    let path = image.to_str().context("a path")?;
    for (args, word) in [
        (vec!["--disk", "d", "backup", "--skip-unchanged", "metadata", "-"], "standard input"),
        (vec!["backup", "--skip-unchanged", "metadata", "--no-parse", path], "--no-parse"),
        (vec!["backup", "--skip-unchanged", "metadata", "--inconsistent-ok", path], "written"),
        (vec!["backup", "--skip-unchanged", "metadata", "--full-every", "0", path], "full-every"),
        (vec!["backup", "--skip-unchanged", "metadata", "--reread-share", "101", path], "100"),
    ] {
        let answer = Answer::of(home.umbra().args(&args))?.expect_code(2)?;
        ensure!(answer.stderr.contains(word), "{}", answer.describe());
    }
    Ok(())
}

/// The kernel changes the disk in every way that a file can change in.
#[test]
fn what_the_kernel_changes_is_seen() -> Result<()> {
    let test = "skip_unchanged::what_the_kernel_changes_is_seen";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "mounting needs root");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = make_disk(&home, 3, 80)?;
    let keep = ["--free", "keep"];
    for name in ["keep", "skip"] {
        backup(&home, &image, name, &[&["--free", name]])?;
    }
    let mut inherited = 0;
    for (number_, (what, edit)) in edits().into_iter().enumerate() {
        let mount = Mount::new(&image, &home.path("mnt"), "")?;
        edit(mount.dir()).with_context(|| what.to_owned())?;
        mount.unmount()?;
        let again = backup(&home, &image, "keep", &[&keep, &SKIP, &["--full-every", "100"]])?;
        let full = backup(&home, &image, "full", &[&keep])?;
        ensure!(roots(&home, &again)? == roots(&home, &full)?, "{what}: {again} {full}");
        ensure!(number(&again, "files_differing")? == 0, "{what}: {again}");
        comes_back(&home, &again, &image).with_context(|| what.to_owned())?;
        let (read, all) = (number(&again, "bytes_read")?, number(&full, "bytes_read")?);
        println!("{what}: {read} of {all} bytes read");
        inherited += number(&again, "files_inherited")?;
        if number_ % 3 == 0 {
            let again = backup(&home, &image, "skip", &[&SKIP])?;
            let full = backup(&home, &image, "full-skip", &[])?;
            ensure!(roots(&home, &again)? == roots(&home, &full)?, "{what}: {again} {full}");
        }
    }
    ensure!(inherited > 100, "only {inherited} files were not read: nothing was tested");
    Ok(())
}

type Edit = fn(&Path) -> Result<()>;

/// The files of `make_tree` that each edit is about are of their own.
fn file(root: &Path, number: u32) -> PathBuf {
    root.join(format!("dir{:02}", number / 20)).join(format!("file{number:03}"))
}

fn edits() -> Vec<(&'static str, Edit)> {
    vec![
        ("nothing but a mount", |_| Ok(())),
        ("written in place", |root| {
            let file = OpenOptions::new().write(true).open(file(root, 1))?;
            Ok(file.write_all_at(b"changed", file.metadata()?.len() / 2)?)
        }),
        ("appended", |root| {
            let mut file = OpenOptions::new().append(true).open(file(root, 2))?;
            Ok(file.write_all(&Noise::new(77).bytes(70_000))?)
        }),
        ("truncated", |root| {
            let file = OpenOptions::new().write(true).open(file(root, 4))?;
            Ok(file.set_len(file.metadata()?.len() / 3)?)
        }),
        ("renamed", |root| Ok(fs::rename(file(root, 5), root.join("renamed"))?)),
        ("another mode", |root| {
            Ok(fs::set_permissions(file(root, 6), fs::Permissions::from_mode(0o600))?)
        }),
        ("replaced with the same size and time", |root| {
            let path = file(root, 7);
            let before = fs::metadata(&path)?;
            let mut bytes = fs::read(&path)?;
            bytes.reverse();
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(&bytes)?;
            file.set_modified(before.modified()?)?;
            Ok(())
        }),
        ("another name", |root| Ok(fs::hard_link(file(root, 8), root.join("another"))?)),
        ("deleted and made again in the same inode", |root| {
            let path = file(root, 9);
            let bytes = fs::read(&path)?;
            fs::remove_file(&path)?;
            Ok(fs::write(&path, bytes)?)
        }),
        ("written through a mapping", |root| {
            let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\n\
                          m[len(m)//2]=(m[len(m)//2]+1)%256\nm.flush()";
            must(python().args(["-c", script]).arg(file(root, 10)))?;
            Ok(())
        }),
        ("many small files", |root| {
            for number in 0..200 {
                fs::write(root.join(format!("small{number}")), format!("small {number}"))?;
            }
            Ok(())
        }),
        ("deleted", |root| Ok(fs::remove_file(file(root, 11))?)),
    ]
}

/// Lists the files, largest first: path, and the first byte of the first extent on the disk.
fn files_by_size(home: &Home, snapshot: &Value) -> Result<Vec<(String, u64)>> {
    let mut ls = home.umbra();
    let target = format!("{}:/", text(snapshot, "snapshot")?);
    ls.args(["--json", "ls", &target, "-R", "--extents"]);
    let mut entries = Answer::of(&mut ls)?.expect_code(0)?.of_type("entry")?;
    entries.retain(|entry| entry["file_type"] == "file");
    entries.sort_by_key(|entry| std::cmp::Reverse(entry["size"].as_u64().unwrap_or_default()));
    let of = |entry: &Value| {
        let at = entry["extents"][0][1].as_u64().context("no extent")?;
        Ok((text(entry, "path")?.to_owned(), at))
    };
    entries.iter().take(8).map(of).collect()
}

/// Changes one of the files below the file system, of those that nothing else makes be read.
fn change_unseen(home: &Home, image: &Path, first: &Value, args: &[&[&str]]) -> Result<String> {
    for (path, at) in files_by_size(home, first)? {
        overwrite(image, at + 8192)?;
        let tried = backup(home, image, "d", &[&args.concat(), &["--dry-run"]])?;
        if number(&tried, "files_differing")? == 0 {
            return Ok(path);
        }
        overwrite(image, at + 8192)?;
    }
    anyhow::bail!("none of the large files is skipped")
}

/// What changes below the file system is found by the random share, and by reading everything;
/// until then the snapshots are true to their own hashes.
#[test]
fn a_change_below_the_file_system_is_found() -> Result<()> {
    let test = "skip_unchanged::a_change_below_the_file_system_is_found";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = make_disk(&home, 4, 64)?;
    let keep = ["--free", "keep"];
    let first = backup(&home, &image, "d", &[&keep])?;
    let before = home.path("before.img");
    fs::copy(&image, &before)?;
    let path = change_unseen(&home, &image, &first, &[&keep, &SKIP, &NO_REREAD])?;

    let unseen = backup(&home, &image, "d", &[&keep, &SKIP, &NO_REREAD])?;
    ensure!(unseen["image_hash"] == first["image_hash"], "{unseen}");
    comes_back(&home, &unseen, &before)?;
    let mut verify = home.umbra();
    verify.args(["--json", "verify", "--deep", text(&unseen, "snapshot")?]);
    Answer::of(&mut verify)?.expect_code(0)?;

    let dry = ["--dry-run"];
    let due = ["--full-every", "2"];
    let due = backup(&home, &image, "d", &[&keep, &SKIP, &NO_REREAD, &due, &dry])?;
    let mut seeing = home.umbra();
    seeing.args(["--json", "--machine", "m", "--disk", "d", "backup"]).args(keep).args(SKIP);
    seeing.args(["--reread-share", "100"]).arg(&image);
    let seeing = Answer::of(&mut seeing)?.expect_code(0)?;
    let seen = seeing.summary()?;
    ensure!(seen["image_hash"] == due["image_hash"], "{seen} {due}");
    ensure!(seen["image_hash"] != first["image_hash"], "{seen}");
    ensure!(number(&seen, "files_differing")? == 1, "{seen}");
    ensure!(number(&seen, "runs_since_full")? == 0, "{seen}");
    let named = seeing.of_type("warning")?;
    ensure!(named.iter().any(|warning| warning.to_string().contains(&path)), "{named:?}");
    comes_back(&home, &seen, &image)?;
    let shown = show(&home, &seen)?;
    ensure!(number(&shown, "files_differing")? == 1 && number(&shown, "warnings")? == 1, "{shown}");
    Ok(())
}

fn overwrite(image: &Path, at: u64) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(image)?;
    let mut block = [0; 512];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut block)?;
    block.iter_mut().for_each(|byte| *byte = !*byte);
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&block)?)
}

/// A file system that was not unmounted says nothing about what was written last.
#[test]
fn a_file_system_that_was_not_unmounted_is_read() -> Result<()> {
    let test = "skip_unchanged::a_file_system_that_was_not_unmounted_is_read";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "mounting needs root");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    home.init_store()?;
    let (image, dirty) = (make_disk(&home, 5, 48)?, home.path("dirty.img"));
    backup(&home, &image, "d", &[])?;
    let mount = Mount::new(&image, &home.path("mnt"), "commit=300")?;
    fs::write(mount.dir().join("new"), Noise::new(3).bytes(100_000))?;
    File::open(mount.dir().join("new"))?.sync_all()?;
    fs::copy(&image, &dirty)?;
    mount.unmount()?;
    let again = backup(&home, &dirty, "d", &[&SKIP])?;
    ensure!(text(&again, "read_all_because")?.contains("unmounted"), "{again}");
    let full = backup(&home, &dirty, "full", &[])?;
    ensure!(roots(&home, &again)? == roots(&home, &full)?, "{again} {full}");
    // What it was left as is a base like any other.
    Mount::new(&dirty, &home.path("mnt"), "")?.unmount()?;
    let clean = backup(&home, &dirty, "d", &[&SKIP])?;
    ensure!(number(&clean, "files_inherited")? > 10, "{clean}");
    let full = backup(&home, &dirty, "full", &[])?;
    ensure!(roots(&home, &clean)? == roots(&home, &full)?, "{clean} {full}");
    Ok(())
}

/// Two file systems on one disk, of which one is made anew; and a line that breaks.
#[test]
fn volumes_are_judged_one_by_one_over_a_line_that_breaks() -> Result<()> {
    let test = "skip_unchanged::volumes_are_judged_one_by_one_over_a_line_that_breaks";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let parts = [make_disk(&home, 6, 40)?, make_disk(&home, 7, 48)?];
    let image = home.path("disk.img");
    let mut bytes: Vec<u64> = Vec::new();
    for part in &parts {
        bytes.push(fs::metadata(part)?.len());
    }
    let starts = [1 << 20, (1 << 20) + bytes[0]];
    File::create(&image)?.set_len(starts[1] + bytes[1] + (1 << 20))?;
    let part = |number: u32, at: u64, len: u64| {
        format!("--new={number}:{}:{}", at / 512, (at + len) / 512 - 1)
    };
    let args = [part(1, starts[0], bytes[0]), part(2, starts[1], bytes[1])];
    must(sgdisk().args(args).arg(&image))?;
    let put = |part: &Path, at: u64| -> Result<()> {
        let file = OpenOptions::new().write(true).open(&image)?;
        Ok(file.write_all_at(&fs::read(part)?, at)?)
    };
    put(&parts[0], starts[0])?;
    put(&parts[1], starts[1])?;

    let (administrator, agent) = (Home::new(&programs)?, Home::new(&programs)?);
    let vault = Vault::start_new(&administrator, "store")?;
    vault.enroll(&administrator, &agent, "m")?;
    let proxy = Proxy::start(vault.port)?;
    let url = format!("umbra://127.0.0.1:{}", proxy.port);
    let run = |disk: &str, more: &[&str]| {
        let mut backup = agent.umbra();
        backup.args(["--json", "--vault", &url, "--disk", disk, "backup"]).args(more).arg(&image);
        backup
    };
    let first = Answer::of(&mut run("d", &[]))?.expect_code(0)?.summary()?;
    let again = Answer::of(&mut run("d", &SKIP))?.expect_code(0)?.summary()?;
    ensure!(roots(&agent, &first)? == roots(&agent, &again)?, "{first} {again}");
    let both = number(&again, "files_inherited")? + number(&again, "files_reread")?;

    let made_anew = make_disk(&home, 8, 48)?;
    ensure!(fs::metadata(&made_anew)?.len() == bytes[1], "of another length");
    put(&made_anew, starts[1])?;
    let sent = proxy.bytes_up();
    let mut running = Running::start(&mut run("d", &SKIP))?;
    while proxy.bytes_up() < sent + (8 << 20) {
        ensure!(running.is_running()?, "it ended before it was cut");
        std::thread::sleep(Duration::from_millis(2));
    }
    proxy.set_cut(true);
    std::thread::sleep(Duration::from_secs(2));
    proxy.set_cut(false);
    let again = running.answer()?.expect_code(0)?.summary()?;
    let one = number(&again, "files_inherited")? + number(&again, "files_reread")?;
    ensure!(one > 5 && one < both, "{one} of {both}: {again}");
    let full = Answer::of(&mut run("full", &[]))?.expect_code(0)?.summary()?;
    ensure!(roots(&agent, &again)? == roots(&agent, &full)?, "{again} {full}");
    Ok(())
}
