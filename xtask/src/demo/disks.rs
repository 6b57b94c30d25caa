//! The demo's disks, made without root: sgdisk, mke2fs and debugfs work on image files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::noise::{shuffle, write_noise};
use crate::env::{BuildEnv, is_root};
use crate::process;

/// Number of the partition that holds the system; partition 1 is swap.
pub(super) const ROOT_PARTITION: u32 = 2;
const SWAP_OFFSET: u64 = 1 << 20;
const SWAP_BYTES: u64 = 64 << 20;
const ROOT_OFFSET: u64 = SWAP_OFFSET + SWAP_BYTES;
/// Room for the backup GPT behind the last partition, a whole alignment unit.
const TAIL_BYTES: u64 = 1 << 20;

/// The cached system's file name; a change of what it holds changes the name.
const SYSTEM_NAME: &str = "debian-bookworm-1.tar.zst";
const SYSTEM_PACKAGES: &str =
    "nano,git,less,vim-tiny,openssh-client,procps,iproute2,python3-minimal,linux-image-cloud-amd64";

/// Size of the files that are written and removed to leave holes.
const FILLER_BYTES: u64 = 96 << 10;
const FILLERS_PER_DIR: u64 = 200;

/// A disk image with a GPT, swap and an ext4 root.
pub(super) struct Disk {
    /// The image.
    pub(super) path: PathBuf,
    /// Its file name, for the transcript.
    pub(super) name: String,
}

impl Disk {
    /// The root file system inside an image (this one or a copy), in the notation of e2fsprogs.
    pub(super) fn root_in(&self, image: &Path) -> String {
        format!("{}?offset={ROOT_OFFSET}", image.display())
    }
}

/// The files that both machines have.
pub(super) struct System<'e> {
    env: &'e BuildEnv,
    place: PathBuf,
    tree: PathBuf,
    tree_bytes: u64,
    small: bool,
}

impl<'e> System<'e> {
    /// Unpacks the cached Debian system (making it first where it is missing), or copies some files of this machine.
    ///
    /// # Errors
    /// When a tool fails.
    pub(super) fn prepare(env: &'e BuildEnv, place: &Path, small: bool) -> Result<Self> {
        let tree = place.join("tree");
        fs::create_dir(&tree)?;
        if small {
            super::timed("some files of this machine", || copy_some_files(env, &tree))?;
        } else {
            let archive = debian_archive(env)?;
            super::timed("Debian unpacked", || unpack(env, &archive, &tree))?;
        }
        let said = process::output(env.command("du").args(["-s", "-B1"]).arg(&tree))?;
        let said = String::from_utf8_lossy(&said);
        let tree_bytes = said.split_whitespace().next().context("du told nothing")?.parse()?;
        Ok(Self { env, place: place.to_owned(), tree, tree_bytes, small })
    }

    /// A directory of the system with files worth looking at.
    pub(super) fn sample_dir(&self) -> &'static str {
        if self.small { "usr/bin" } else { "etc" }
    }

    /// Bytes that [`System::add_noise`] adds.
    pub(super) fn noise_bytes(&self) -> u64 {
        if self.small { 96 << 20 } else { 384 << 20 }
    }

    /// The first machine's disk: the files as mke2fs lays them out.
    ///
    /// # Errors
    /// When a tool fails.
    pub(super) fn first_disk(&self, name: &str) -> Result<Disk> {
        let root_bytes = self.tree_bytes * 3 / 2 + self.noise_bytes() + (128 << 20);
        self.make_disk(name, root_bytes, Some(&self.tree), &[])
    }

    /// The second machine's disk: full of small files of which every other one was removed, then the same files in
    /// another order in what was left, then the rest of the small files removed.
    ///
    /// # Errors
    /// When a tool fails.
    pub(super) fn fragmented_disk(&self, name: &str) -> Result<Disk> {
        let root_bytes = self.tree_bytes * 3 + (64 << 20);
        let options = ["-i", "8192", "-O", "^flex_bg,^resize_inode"];
        let disk = self.make_disk(name, root_bytes, None, &options)?;
        let filler = self.place.join("filler");
        File::create(&filler)?.write_all(&vec![b'f'; usize::try_from(FILLER_BYTES)?])?;
        // As many as fit beside the file system's own structures; the last ones fail, which is what fills the disk.
        let fillers = root_bytes / FILLER_BYTES;
        let mut script = String::new();
        for number in 0..fillers {
            if number % FILLERS_PER_DIR == 0 {
                writeln!(script, "mkdir /fill{}", number / FILLERS_PER_DIR)?;
            }
            writeln!(script, "write {} {}", filler.display(), filler_path(number))?;
        }
        for number in (0..fillers).step_by(2) {
            writeln!(script, "rm {}", filler_path(number))?;
        }
        self.copy_in_another_order(&mut script)?;
        for number in (1..fillers).step_by(2) {
            writeln!(script, "rm {}", filler_path(number))?;
        }
        for number in 0..fillers.div_ceil(FILLERS_PER_DIR) {
            writeln!(script, "rmdir /fill{number}")?;
        }
        self.debugfs(&disk, &script)?;
        Ok(disk)
    }

    fn make_disk(
        &self,
        name: &str,
        root_bytes: u64,
        from: Option<&Path>,
        options: &[&str],
    ) -> Result<Disk> {
        let root_mebibytes = root_bytes.div_ceil(1 << 20);
        let path = self.place.join(name);
        File::create(&path)?.set_len(ROOT_OFFSET + (root_mebibytes << 20) + TAIL_BYTES)?;
        let swap = format!("1:{}:+{}M", SWAP_OFFSET / 512, SWAP_BYTES >> 20);
        let root = format!("{ROOT_PARTITION}:{}:+{root_mebibytes}M", ROOT_OFFSET / 512);
        process::output(
            self.env
                .command("sgdisk")
                .args(["-n", &swap, "-t", "1:8200", "-n", &root, "-t", "2:8300"])
                .arg(&path),
        )?;
        self.make_swap(&path)?;
        let mut mke2fs = self.env.command("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={ROOT_OFFSET}")]);
        mke2fs.args(options);
        if let Some(from) = from {
            mke2fs.arg("-d").arg(from);
        }
        process::output(mke2fs.arg(&path).arg(format!("{root_mebibytes}M")))?;
        Ok(Disk { path, name: name.to_owned() })
    }

    /// Only the first page of a swap area says that it is one.
    fn make_swap(&self, disk: &Path) -> Result<()> {
        let area = self.place.join("swap");
        File::create(&area)?.set_len(SWAP_BYTES)?;
        fs::set_permissions(&area, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        process::output(self.env.command("mkswap").arg(&area))?;
        let mut page = [0; 4096];
        File::open(&area)?.read_exact(&mut page)?;
        File::options().write(true).open(disk)?.write_all_at(&page, SWAP_OFFSET)?;
        fs::remove_file(area)?;
        Ok(())
    }

    /// Requests that copy the tree: directories first, everything else shuffled (always the same way).
    fn copy_in_another_order(&self, script: &mut String) -> Result<()> {
        let listed = process::output(self.env.command("find").arg(&self.tree).args([
            "-mindepth",
            "1",
            "-printf",
            "%y%P\\0",
        ]))?;
        let mut dirs = Vec::new();
        let mut others = Vec::new();
        for item in listed.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
            // debugfs reads words between quotes; a name that it cannot be told is left out.
            let Ok(item) = std::str::from_utf8(item) else { continue };
            if item.contains(['"', '\n']) {
                continue;
            }
            match item.split_at(1) {
                ("d", path) => dirs.push(path),
                other => others.push(other),
            }
        }
        dirs.sort_unstable();
        shuffle(&mut others);
        for dir in dirs {
            writeln!(script, "mkdir \"/{dir}\"")?;
        }
        for (kind, path) in others {
            let source = self.tree.join(path);
            match kind {
                "f" if File::open(&source).is_ok() => {
                    writeln!(script, "write \"{}\" \"/{path}\"", source.display())?;
                }
                "l" => {
                    let target = fs::read_link(&source)?;
                    writeln!(script, "symlink \"/{path}\" \"{}\"", target.display())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What a day does: programs replaced, settings changed, a log grown, documents added and removed.
    ///
    /// # Errors
    /// When debugfs fails.
    pub(super) fn next_day(&self, disk: &Disk) -> Result<()> {
        let mut script = String::new();
        let changed = self.place.join("changed");
        fs::create_dir(&changed)?;
        for (number, path) in self.files_below("usr/bin", 24)?.iter().enumerate() {
            let mut content = fs::read(self.tree.join(path))?;
            // An upgrade: some bytes in the middle differ, and something is appended.
            let middle = content.len() / 2;
            content.splice(middle..middle, *b"upgraded");
            let new = changed.join(number.to_string());
            fs::write(&new, content)?;
            writeln!(script, "rm \"/{path}\"\nwrite {} \"/{path}\"", new.display())?;
        }
        for path in self.files_below("usr/share", 12)? {
            writeln!(script, "rm \"/{path}\"")?;
        }
        let document = changed.join("document");
        write_noise(&document, self.noise_bytes() / 32, 1)?;
        writeln!(script, "mkdir /srv2\nwrite {} /srv2/document", document.display())?;
        self.debugfs(disk, &script)
    }

    /// Adds files that neither compress nor exist anywhere else.
    ///
    /// # Errors
    /// When debugfs fails.
    pub(super) fn add_noise(&self, disk: &Disk) -> Result<()> {
        let noise = self.place.join("noise");
        let mut script = "mkdir /noise\n".to_owned();
        let files = self.noise_bytes() / (32 << 20);
        for number in 0..files {
            let path = noise.with_extension(number.to_string());
            write_noise(&path, 32 << 20, 100 + number)?;
            writeln!(script, "write {} /noise/{number}", path.display())?;
        }
        self.debugfs(disk, &script)
    }

    /// Some regular files of a directory that have but one name, in order of their names.
    fn files_below(&self, dir: &str, count: usize) -> Result<Vec<String>> {
        let listed = process::output(self.env.command("find").arg(self.tree.join(dir)).args([
            "-type",
            "f",
            "-links",
            "1",
            "-readable",
            "-size",
            "+8k",
            "-print0",
        ]))?;
        let mut paths: Vec<String> = listed
            .split(|byte| *byte == 0)
            .filter_map(|path| {
                Path::new(std::str::from_utf8(path).ok()?).strip_prefix(&self.tree).ok()
            })
            .filter_map(|path| path.to_str().map(str::to_owned))
            .filter(|path| !path.is_empty() && !path.contains('"'))
            .collect();
        paths.sort();
        paths.truncate(count);
        ensure!(paths.len() == count, "only {} files in {dir}", paths.len());
        Ok(paths)
    }

    /// Runs requests on the root file system. debugfs goes on after a failed one; e2fsck and the counts tell later.
    fn debugfs(&self, disk: &Disk, script: &str) -> Result<()> {
        let requests = self.place.join("requests");
        fs::write(&requests, script)?;
        let log = File::create(self.place.join("debugfs.log"))?;
        let mut debugfs = self.env.command("debugfs");
        debugfs.arg("-w").arg("-f").arg(&requests).arg(disk.root_in(&disk.path));
        let line = process::command_line(&debugfs);
        let status = debugfs
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cannot start debugfs")?;
        ensure!(status.success(), "`{line}` failed: {status}");
        Ok(())
    }
}

fn filler_path(number: u64) -> String {
    format!("/fill{}/{number}", number / FILLERS_PER_DIR)
}

/// Makes the cached system with mmdebstrap where it is missing.
fn debian_archive(env: &BuildEnv) -> Result<PathBuf> {
    let dir = env.cache_dir.join("demo");
    let archive = dir.join(SYSTEM_NAME);
    if archive.exists() {
        println!("Debian system of an earlier demo: {}", archive.display());
        return Ok(archive);
    }
    println!(
        "making a Debian system with mmdebstrap: once, about a minute and 150 MB of downloads"
    );
    let part = dir.join(format!("part-{}-{SYSTEM_NAME}", std::process::id()));
    let mode = if is_root() { "root" } else { "unshare" };
    let made = super::timed("mmdebstrap", || {
        process::output(
            env.command("mmdebstrap")
                .arg(format!("--mode={mode}"))
                .arg("--variant=minbase")
                .arg(format!("--include={SYSTEM_PACKAGES}"))
                .arg("bookworm")
                .arg(&part),
        )
    });
    made.context(if is_root() {
        "no Debian system could be made; `cargo xtask demo --small` does without"
    } else {
        "no Debian system could be made without root (that needs user namespaces and an entry for \
         this user in /etc/subuid and /etc/subgid); `cargo xtask demo --small` does without"
    })?;
    fs::rename(&part, &archive)?;
    Ok(archive)
}

/// Unpacks with owners and device nodes where we are root; an ordinary user gets the rest.
fn unpack(env: &BuildEnv, archive: &Path, tree: &Path) -> Result<()> {
    let mut tar = env.command("tar");
    tar.args(["--extract", "--zstd", "--file"]).arg(archive).arg("--directory").arg(tree);
    if is_root() {
        tar.args(["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*"]);
    } else {
        tar.args(["--exclude=./dev/*"]);
    }
    process::output(&mut tar)?;
    Ok(())
}

/// A small system: programs and documents that any Debian machine has.
fn copy_some_files(env: &BuildEnv, tree: &Path) -> Result<()> {
    for (dir, count) in [("usr/bin", 350), ("usr/share", 500)] {
        let mut find = env.command("find");
        find.current_dir("/").arg(dir).args(["-xdev", "!", "-readable", "-prune", "-o"]);
        let listed = process::output(find.args(["-type", "f", "-size", "-600k", "-print0"]))?;
        let mut paths: Vec<&[u8]> =
            listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.truncate(count);
        let mut copy = env
            .command("cp")
            .current_dir("/")
            .args(["--archive", "--parents", "--target-directory"])
            .arg(tree)
            .args(paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()))
            .stdin(Stdio::null())
            .spawn()?;
        ensure!(copy.wait()?.success(), "cp failed");
    }
    // The small system's files are read by an ordinary user, whatever the umask says.
    process::output(Command::new("chmod").args(["-R", "u+rwX,go+rX"]).arg(tree))?;
    Ok(())
}
