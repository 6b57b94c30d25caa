//! Which devices and image files the running system uses, and what they are made of.
//!
//! SOURCE: proc(5) mountinfo and swaps; Documentation/ABI/stable/sysfs-block and
//! Documentation/ABI/testing/sysfs-fs-btrfs of the kernel.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How something uses a device or an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads only.
    Reads,
    /// It writes, or may at any time.
    Writes,
    /// It is made of it (a mapped device, a RAID, a loop device), and is listed itself where it
    /// is mounted.
    Holds,
}

/// A use of a device or an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// What uses it, in words that follow "it is".
    pub what: String,
    /// How.
    pub access: Access,
}

/// A block device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number {
    major: u32,
    minor: u32,
}

impl Number {
    /// Makes it of an `st_rdev` or `st_dev`.
    pub(crate) fn of(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }

    /// Reads `major:minor`, as the kernel writes it.
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// File system and inode of a file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    number: Option<Number>,
    place: PathBuf,
    kind: Vec<u8>,
    source: PathBuf,
    options: Vec<u8>,
}

/// A loop device that is attached to something.
#[derive(Clone, Debug)]
struct Loop {
    name: String,
    number: Number,
    backing: PathBuf,
}

/// What the system has mounted, swaps to and has attached, at one moment.
#[derive(Debug)]
pub struct System {
    sys: PathBuf,
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
    loops: Vec<Loop>,
    /// The devices of each btrfs that is mounted.
    btrfs: Vec<BTreeSet<Number>>,
}

impl System {
    /// Asks the running system.
    ///
    /// # Errors
    /// [`Error::Io`] where the kernel does not tell what is mounted: nothing may be taken for
    /// unused then.
    pub fn read() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo = std::fs::read(path).map_err(|source| Error::Io {
            what: "find out what is mounted from",
            path: path.into(),
            source,
        })?;
        // A kernel without swap has no such file.
        let swaps = std::fs::read("/proc/swaps").unwrap_or_default();
        Ok(Self::of(Path::new("/sys"), &mountinfo, &swaps))
    }

    fn of(sys: &Path, mountinfo: &[u8], swaps: &[u8]) -> Self {
        Self {
            sys: sys.into(),
            mounts: mountinfo.split(|&byte| byte == b'\n').filter_map(parse_mount).collect(),
            swaps: parse_swaps(swaps),
            loops: loops(sys),
            btrfs: btrfs(sys),
        }
    }

    /// Lists the uses of the block device `rdev` (an `st_rdev`), of its partitions and of what is
    /// built on them.
    pub fn uses_of_device(&self, rdev: u64) -> Vec<Use> {
        let mut above = Above::default();
        self.collect(Number::of(rdev), &mut above);
        self.uses_above(above)
    }

    /// Lists the uses of the image file with this metadata: loop devices on it with what is built
    /// on those, file systems in user space, swap.
    pub fn uses_of_file(&self, file: &Metadata) -> Vec<Use> {
        let wanted = FileId::of(file);
        let is_it = |path: &Path| {
            std::fs::metadata(path)
                .is_ok_and(|other| other.is_file() && FileId::of(&other) == wanted)
        };
        let mut above = Above::default();
        for on_it in self.loops.iter().filter(|on_it| is_it(&on_it.backing)) {
            above.holders.push(on_it.name.clone());
            self.collect(on_it.number, &mut above);
        }
        let mut uses = self.uses_above(above);
        let by_programs = self.mounts.iter().filter(|mount| mount.kind.starts_with(b"fuse"));
        for mount in by_programs.filter(|mount| is_it(&mount.source)) {
            uses.push(mount.to_use());
        }
        let swaps = self.swaps.iter().filter(|path| is_it(path));
        uses.extend(swaps.map(|path| swap_use(path)));
        uses
    }

    /// Adds a device, its partitions, and the devices that are made of them.
    fn collect(&self, number: Number, above: &mut Above) {
        // Each is entered once, so that this ends whatever the system says.
        if !above.numbers.insert(number) {
            return;
        }
        for on_it in &self.loops {
            if block_number(&on_it.backing) == Some(number) {
                above.holders.push(on_it.name.clone());
                self.collect(on_it.number, above);
            }
        }
        let Some(dir) = self.sys_dir(number) else { return };
        for child in entries(&dir).filter(|child| child.join("partition").exists()) {
            if let Some(number) = read_number(&child) {
                self.collect(number, above);
            }
        }
        for holder in entries(&dir.join("holders")) {
            above.holders.push(name_of(&holder));
            if let Some(number) = read_number(&holder) {
                self.collect(number, above);
            }
        }
    }

    fn uses_above(&self, above: Above) -> Vec<Use> {
        let mut uses = Vec::new();
        for mount in &self.mounts {
            if !self.devices_of_mount(mount).is_disjoint(&above.numbers) {
                uses.push(mount.to_use());
            }
        }
        for path in &self.swaps {
            if block_number(path).is_some_and(|number| above.numbers.contains(&number)) {
                uses.push(swap_use(path));
            }
        }
        let held = |name| Use { what: format!("part of {name}"), access: Access::Holds };
        uses.extend(above.holders.into_iter().map(held));
        uses
    }

    /// Returns the devices that a mounted file system lies on. A number of its own (major 0) says
    /// nothing; btrfs and file systems in user space name a device as their source.
    fn devices_of_mount(&self, mount: &Mount) -> BTreeSet<Number> {
        let mut numbers: BTreeSet<Number> =
            mount.number.filter(|number| number.major != 0).into_iter().collect();
        if mount.source.starts_with("/dev") {
            numbers.extend(block_number(&mount.source));
        }
        let groups = self.btrfs.iter().filter(|_| mount.kind == b"btrfs");
        let own: Vec<_> = groups.filter(|group| !group.is_disjoint(&numbers)).collect();
        numbers.extend(own.into_iter().flatten());
        numbers
    }

    /// Returns the devices under the file system that an open file or directory lies on, and the
    /// upper directory where it is an overlay.
    pub(crate) fn under(&self, file: &File) -> (BTreeSet<Number>, Option<PathBuf>) {
        let own = file.metadata().ok().map(|metadata| Number::of(metadata.dev()));
        let mut numbers: BTreeSet<Number> = own.filter(|own| own.major != 0).into_iter().collect();
        let Some(mount) = mount_id(file).and_then(|id| self.mounts.iter().find(|m| m.id == id))
        else {
            return (numbers, None);
        };
        numbers.extend(self.devices_of_mount(mount));
        let options = mount.options.split(|&byte| byte == b',');
        let upper = options.filter_map(|option| option.strip_prefix(b"upperdir=")).next();
        (numbers, upper.map(|upper| OsString::from_vec(upper.to_vec()).into()))
    }

    /// Returns what a device is made of: the disk of a partition, the members of a mapped device
    /// or RAID.
    pub(crate) fn below(&self, number: Number) -> Vec<Number> {
        let Some(dir) = self.sys_dir(number) else { return Vec::new() };
        let mut numbers: Vec<Number> =
            entries(&dir.join("slaves")).filter_map(|member| read_number(&member)).collect();
        if dir.join("partition").exists() {
            numbers.extend(dir.parent().and_then(read_number));
        }
        numbers
    }

    /// Returns what a loop device is attached to.
    pub(crate) fn backing(&self, number: Number) -> Option<&Path> {
        let found = self.loops.iter().find(|attached| attached.number == number);
        found.map(|attached| attached.backing.as_path())
    }

    /// Tells whether nothing can be written to a block device (an `st_rdev`); opening it for
    /// writing may work all the same.
    pub fn is_read_only(&self, rdev: u64) -> bool {
        let dir = self.sys_dir(Number::of(rdev)).unwrap_or_default();
        std::fs::read(dir.join("ro")).is_ok_and(|text| text.trim_ascii() == b"1")
    }

    fn sys_dir(&self, number: Number) -> Option<PathBuf> {
        let link = format!("dev/block/{}:{}", number.major, number.minor);
        self.sys.join(link).canonicalize().ok()
    }
}

/// A device and everything above it.
#[derive(Default)]
struct Above {
    numbers: BTreeSet<Number>,
    holders: Vec<String>,
}

impl Mount {
    /// A mount is writable where its super block is, whatever this mount point says.
    fn to_use(&self) -> Use {
        let writes = self.options.split(|&byte| byte == b',').next() == Some(b"rw");
        let place = self.place.display();
        let (access, how) =
            if writes { (Access::Writes, "read-write") } else { (Access::Reads, "read-only") };
        Use { what: format!("mounted {how} at {place}"), access }
    }
}

fn swap_use(path: &Path) -> Use {
    Use { what: format!("swap ({})", path.display()), access: Access::Writes }
}

/// Reads one line: id, parent, major:minor, root, mount point, options, ... `-` type source
/// super-options.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let split = line.windows(3).position(|window| window == b" - ")?;
    let mut fields = line.get(..split)?.split(|&byte| byte == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let id = number(fields.next()?)?.parse().ok()?;
    let device = number(fields.nth(1)?)?;
    let place = unescaped(fields.nth(1)?);
    let mut fields = line.get(split + 3..)?.splitn(3, |&byte| byte == b' ');
    Some(Mount {
        id,
        number: Number::parse(&device),
        place: place.into(),
        kind: fields.next()?.to_vec(),
        source: unescaped(fields.next()?).into(),
        options: fields.next()?.to_vec(),
    })
}

/// Reads the paths of proc(5) swaps, behind its line of titles.
fn parse_swaps(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(u8::is_ascii_whitespace).next());
    paths.filter(|path| !path.is_empty()).map(|path| unescaped(path).into()).collect()
}

/// Undoes the kernel's `\ooo` for blanks and backslashes.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| byte == b'\\');
        let value = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes)
}

fn loops(sys: &Path) -> Vec<Loop> {
    let attached = |dir: PathBuf| {
        let mut backing = std::fs::read(dir.join("loop/backing_file")).ok()?;
        if backing.last() == Some(&b'\n') {
            backing.pop();
        }
        let backing = OsString::from_vec(backing).into();
        Some(Loop { name: name_of(&dir), number: read_number(&dir)?, backing })
    };
    entries(&sys.join("block")).filter_map(attached).collect()
}

fn btrfs(sys: &Path) -> Vec<BTreeSet<Number>> {
    let members = |dir: PathBuf| {
        entries(&dir.join("devices")).filter_map(|device| read_number(&device)).collect()
    };
    entries(&sys.join("fs/btrfs")).map(members).collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads the number of a device from its directory in sysfs.
fn read_number(dir: &Path) -> Option<Number> {
    Number::parse(&std::fs::read_to_string(dir.join("dev")).ok()?)
}

/// Finds a virtual machine that may write an open image file or device.
pub fn use_by_emulator(disk: &File) -> Option<Use> {
    let what = || "the disk of a virtual machine that runs".into();
    crate::device::is_written_by_emulator(disk)
        .then(|| Use { what: what(), access: Access::Writes })
}

/// Counts the sectors that a block device (an `st_rdev`) has written and discarded since it is
/// there; `None` where the kernel does not count them. SOURCE: Documentation/block/stat.rst.
pub(crate) fn write_count(rdev: u64) -> Option<u64> {
    let Number { major, minor } = Number::of(rdev);
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    parse_write_count(&text)
}

/// Reads written sectors (the seventh field) and discarded ones (the fourteenth, which old kernels
/// lack). Requests are no measure: a flush of the device counts as one that writes.
fn parse_write_count(text: &str) -> Option<u64> {
    let mut fields = text.split_ascii_whitespace();
    let writes: u64 = fields.nth(6)?.parse().ok()?;
    let discards = fields.nth(6).map_or(Some(0), |field| field.parse().ok())?;
    Some(writes.wrapping_add(discards))
}

/// Returns the number of the block device at `path`, where there is one.
pub(crate) fn block_number(path: &Path) -> Option<Number> {
    let metadata = std::fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| Number::of(metadata.rdev()))
}

/// Returns the id of the mount that an open file lies on. SOURCE: proc(5) fdinfo.
fn mount_id(file: &File) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
