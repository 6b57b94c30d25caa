//! Which devices and image files the running system has mounted.
//!
//! SOURCE: proc(5) mountinfo; Documentation/ABI/stable/sysfs-block of the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How a device is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Where it is mounted, or what holds it.
    pub place: String,
    /// True where it is written through this use.
    pub writable: bool,
}

/// A device number as the kernel writes it: `major:minor`.
type Number = String;

/// Formats a device number (`st_rdev`) as the kernel does.
fn number_text(rdev: u64) -> Number {
    format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// Lists the uses of the block device `rdev`, of its partitions and of what is built on them.
pub fn uses_of_device(rdev: u64) -> Vec<Use> {
    let mut numbers = BTreeSet::new();
    let mut uses = Vec::new();
    collect(&PathBuf::from(format!("/sys/dev/block/{}", number_text(rdev))), &mut numbers, 0);
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mountinfo.lines() {
        if let Some(mount) = parse_mount(line)
            && numbers.contains(mount.number)
        {
            uses.push(Use { place: mount.place.into(), writable: mount.writable });
        }
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    for device in swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
        let rdev = rustix::fs::stat(device).map(|stat| number_text(stat.st_rdev));
        if rdev.is_ok_and(|rdev| numbers.contains(&rdev)) {
            uses.push(Use { place: format!("swap on {device}"), writable: true });
        }
    }
    uses
}

/// Lists the uses of an image file: loop devices on it that are mounted.
pub fn uses_of_file(path: &Path) -> Vec<Use> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    let mut uses = Vec::new();
    for block in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let sys = block.path();
        let backing = std::fs::read_to_string(sys.join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end_matches('\n')) == path
            && let Ok(rdev) = rustix::fs::stat(Path::new("/dev").join(block.file_name()))
        {
            uses.extend(uses_of_device(rdev.st_rdev));
        }
    }
    uses
}

struct Mount<'a> {
    number: &'a str,
    place: &'a str,
    writable: bool,
}

/// Reads one line: id, parent, major:minor, root, mount point, options, ... `-` type source
/// super-options. A mount is writable where its super block is, whatever this mount point says.
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (mount, superblock) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let number = fields.nth(2)?;
    let place = fields.nth(1)?;
    let options = superblock.rsplit(' ').next()?;
    Some(Mount { number, place, writable: options.split(',').next() == Some("rw") })
}

/// Adds a device, its partitions and the devices that hold it; `depth` bounds odd stacks.
fn collect(sys: &Path, numbers: &mut BTreeSet<Number>, depth: u32) {
    let Ok(sys) = sys.canonicalize() else { return };
    let Ok(number) = std::fs::read_to_string(sys.join("dev")) else { return };
    if depth > 8 || !numbers.insert(number.trim().to_owned()) {
        return;
    }
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    for child in entries(&sys).filter(|child| child.path().join("partition").exists()) {
        collect(&child.path(), numbers, depth + 1);
    }
    for holder in entries(&sys.join("holders")) {
        collect(&holder.path(), numbers, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mount_is_writable_by_its_super_block() {
        let line =
            "36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.number, mount.place, mount.writable), ("98:0", "/mnt/parent", true));
        let line = "36 35 8:1 / /mnt ro - ext4 /dev/sda1 ro";
        assert!(!parse_mount(line).unwrap().writable);
    }
}
