//! Encrypted files against the kernel, which shows them here without their key.
//!
//! The kernel writes them with a key, and is asked again when a new mount has forgotten it: names,
//! metadata and the extents of ciphertext must be the same. Needs root and a kernel with
//! CONFIG_FS_ENCRYPTION; says so and passes without.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{fs, process::Command};

use serde_json::{Value, json};
use support::{Image, walk};
use tempfile::TempDir;
use umbra_fsparse::{
    ByteOffset, ByteRange, ExtentKind, FileType, ReadAt,
    ext::{Ext, Journal},
};
use umbra_walkdiff::{
    compare::lines,
    image::ImageFile,
    kernel::{Mount, skip_reason},
    run,
    volume::{Verdict, diff},
};

const WRITER: &str = include_str!("support/encrypted.py");
/// `i_flags`: encrypted.
const ENCRYPTED: u32 = 0x800;

/// Arguments of mke2fs, and the hash of the directories.
const KINDS: [(&str, &[&str], &str); 6] = [
    ("4k", &["-b", "4096", "-O", "encrypt"], "half_md4"),
    ("1k", &["-b", "1024", "-O", "encrypt"], "half_md4"),
    ("1k, tea", &["-b", "1024", "-O", "encrypt"], "tea"),
    ("1k, legacy", &["-b", "1024", "-O", "encrypt"], "legacy"),
    ("1k, no hashes", &["-b", "1024", "-O", "encrypt,^dir_index"], "half_md4"),
    ("4k, inline", &["-b", "4096", "-O", "encrypt,inline_data", "-I", "512"], "half_md4"),
];

#[test]
fn encrypted_trees_are_listed_as_the_kernel_lists_them_without_the_key() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    for (name, mkfs, hash) in KINDS {
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let path = dir.path().join("image");
        fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).args(mkfs).arg(&path)).unwrap();
        run(Command::new("tune2fs").arg("-E").arg(format!("hash_alg={hash}")).arg(&path)).unwrap();
        let mount = Mount::new(&path, None, dir.path().join("mount"), "rw").unwrap();
        let written = Command::new("python3").args(["-c", WRITER]).arg(mount.dir()).output();
        let written = written.unwrap();
        mount.unmount().unwrap();
        let said = String::from_utf8_lossy(&written.stderr);
        if written.status.code() == Some(77) {
            println!("SKIPPED: {name}: the kernel encrypts nothing: {said}");
            continue;
        }
        assert!(written.status.success(), "{name}: {said}");
        let unlocked: Value = serde_json::from_slice(&written.stdout).unwrap();
        as_the_kernel_shows_it(name, &dir, &path);
        ciphertext_lies_where_the_kernel_says(name, &path, &unlocked);
    }
}

fn as_the_kernel_shows_it(name: &str, dir: &TempDir, path: &std::path::Path) {
    let copy = dir.path().join("copy");
    fs::copy(path, &copy).unwrap();
    let file = ImageFile::open(path).unwrap();
    let whole = ByteRange::new(ByteOffset(0), file.len()).unwrap();
    let verdict = diff(&file, whole, &copy, dir.path()).unwrap();
    let Verdict::Compared { manifest, stages } = verdict else { panic!("{name}: {verdict:?}") };
    assert_eq!(stages.len(), 1, "{name}");
    let stage = &stages[0];
    println!("{name}: {:?}", stage.compared);
    assert!(stage.differences.is_empty(), "{name}:\n{}", lines(&stage.differences));
    assert_eq!(stage.warnings, [] as [&str; 0], "{name}");
    // The comparison means something: the kernel had no key, and long names were among them.
    assert!(stage.compared.locked > 200, "{name}: {:?}", stage.compared);
    let names = manifest.iter().filter_map(|line| line["path"].as_str()?.rsplit('/').next());
    assert!(names.filter(|name| name.len() == 252).count() > 20, "{name}: no long names");
}

fn ciphertext_lies_where_the_kernel_says(name: &str, path: &std::path::Path, unlocked: &Value) {
    let image = Image(fs::read(path).unwrap());
    let tree = walk(&Ext::open(&image, Journal::Replay).unwrap());
    assert!(tree.summary.complete, "{name}");
    let (mut files, mut links) = (0, 0);
    for inode in tree.inodes.values().filter(|inode| inode.flags & ENCRYPTED != 0) {
        match inode.file_type {
            FileType::Symlink => {
                links += 1;
                assert_eq!(inode.target, None, "{name}");
            }
            FileType::File => {
                files += 1;
                let rows = inode.extents.iter().map(|extent| {
                    let unwritten = extent.kind == ExtentKind::Unwritten;
                    let volume = extent.volume;
                    json!([extent.logical.0, volume.start().0, volume.len().0, unwritten])
                });
                let theirs = &unlocked[inode.number.0.to_string()];
                assert_eq!(&Value::from_iter(rows), theirs, "{name} {:?}", inode.number);
            }
            _ => {}
        }
    }
    assert!(files > 200 && links > 3, "{name}: {files} files, {links} links");
}
