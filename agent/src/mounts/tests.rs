//! The system's tables read from text and from a made-up sysfs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const MOUNTS: &[u8] =
    b"36 35 98:0 /mnt1 /mnt/par\\040ent rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 8:1 / /mnt ro - ext4 /dev/sda1 ro
38 35 253:5 / /odd\xff rw shared:3 - ext4 /dev/mapper/vg-lv rw
broken line - with nothing
39 35 0:40 /sub /pool rw - btrfs /dev/none rw,subvol=/sub
";

fn use_of(what: &str, access: Access) -> Use {
    Use { what: what.into(), access }
}

/// A sysfs of devices: number, directory below `devices`, further files in it.
fn made_up(devices: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sys = dir.path();
    fs::create_dir_all(sys.join("dev/block")).unwrap();
    fs::create_dir_all(sys.join("block")).unwrap();
    for (number, place) in devices {
        let place = sys.join("devices").join(place);
        fs::create_dir_all(place.join("holders")).unwrap();
        fs::create_dir_all(place.join("slaves")).unwrap();
        fs::write(place.join("dev"), format!("{number}\n")).unwrap();
        symlink(&place, sys.join("dev/block").join(number)).unwrap();
    }
    for (link, to) in links {
        symlink(sys.join("devices").join(to), sys.join("devices").join(link)).unwrap();
    }
    dir
}

#[test]
fn a_mount_is_writable_by_its_super_block() {
    let system = System::of(Path::new("/nonexistent"), MOUNTS, b"");
    assert_eq!(system.mounts.len(), 4);
    let uses = |major, minor| system.uses_of_device(rustix::fs::makedev(major, minor));
    // Without sysfs the device itself is known all the same.
    assert_eq!(uses(98, 0), [use_of("mounted read-write at /mnt/par ent", Access::Writes)]);
    assert_eq!(uses(8, 1), [use_of("mounted read-only at /mnt", Access::Reads)]);
    // A name that is no UTF-8 hides neither itself nor what follows.
    assert_eq!(uses(253, 5), [use_of("mounted read-write at /odd\u{fffd}", Access::Writes)]);
    assert!(uses(8, 2).is_empty());
}

#[test]
fn partitions_and_what_is_made_of_them_count() {
    let sys = made_up(
        &[("8:0", "sda"), ("8:2", "sda/sda2"), ("253:5", "dm-5"), ("8:16", "sdb")],
        &[("sda/sda2/holders/dm-5", "dm-5"), ("dm-5/slaves/sda2", "sda/sda2")],
    );
    fs::write(sys.path().join("devices/sda/sda2/partition"), "2\n").unwrap();
    let system = System::of(sys.path(), MOUNTS, b"");
    let uses = system.uses_of_device(rustix::fs::makedev(8, 0));
    let mounted = use_of("mounted read-write at /odd\u{fffd}", Access::Writes);
    assert_eq!(uses, [mounted, use_of("part of dm-5", Access::Holds)]);
    assert!(system.uses_of_device(rustix::fs::makedev(8, 16)).is_empty());
    // And downwards again.
    let number = |major, minor| Number { major, minor };
    assert_eq!(system.below(number(253, 5)), [number(8, 2)]);
    assert_eq!(system.below(number(8, 2)), [number(8, 0)]);
    assert!(system.below(number(8, 0)).is_empty());
}

#[test]
fn every_member_of_a_mounted_btrfs_is_in_use() {
    let sys = made_up(&[("8:32", "sdc"), ("8:48", "sdd")], &[]);
    let members = sys.path().join("fs/btrfs/some-uuid/devices");
    fs::create_dir_all(&members).unwrap();
    symlink(sys.path().join("devices/sdc"), members.join("sdc")).unwrap();
    symlink(sys.path().join("devices/sdd"), members.join("sdd")).unwrap();
    let mount = b"39 35 8:32 / /pool rw - btrfs /dev/sdc ro,subvol=/\n";
    let system = System::of(sys.path(), mount, b"");
    let uses = system.uses_of_device(rustix::fs::makedev(8, 48));
    assert_eq!(uses, [use_of("mounted read-only at /pool", Access::Reads)]);
}

#[test]
fn a_file_is_in_use_by_loop_devices_on_any_of_its_names_and_by_swap() {
    let sys = made_up(&[("7:3", "loop3")], &[]);
    let (image, other) = (sys.path().join("a b.img"), sys.path().join("other.img"));
    fs::write(&image, "x").unwrap();
    fs::write(&other, "x").unwrap();
    fs::hard_link(&image, sys.path().join("second name.img")).unwrap();
    let attached = sys.path().join("devices/loop3/loop");
    fs::create_dir_all(&attached).unwrap();
    let backing = format!("{}/second name.img\n", sys.path().display());
    fs::write(attached.join("backing_file"), backing).unwrap();
    symlink(sys.path().join("devices/loop3"), sys.path().join("block/loop3")).unwrap();
    let swaps = format!(
        "Filename Type Size Used Priority\n{}/a\\040b.img file 20 0 -2\n",
        sys.path().display()
    );
    let mount = b"40 35 7:3 / /inside rw - ext4 /dev/loop3 rw\n";
    let system = System::of(sys.path(), mount, swaps.as_bytes());
    let uses = system.uses_of_file(&fs::metadata(&image).unwrap());
    let expected = [
        use_of("mounted read-write at /inside", Access::Writes),
        use_of("part of loop3", Access::Holds),
        use_of(&format!("swap ({})", image.display()), Access::Writes),
    ];
    assert_eq!(uses, expected);
    assert!(system.uses_of_file(&fs::metadata(&other).unwrap()).is_empty());
}

#[test]
fn the_running_system_tells_what_is_under_a_directory() {
    let system = System::read().unwrap();
    assert!(!system.mounts.is_empty());
    let dir = File::open("/proc").unwrap();
    assert!(mount_id(&dir).is_some());
    assert!(system.under(&dir).0.is_empty(), "/proc lies on no device");
}

#[test]
fn writes_and_discards_of_a_device_are_counted() {
    // Linux 6.12, 4.18 and 4.9.
    let new = "  100 2 300 4   50 6 700 8 0 9 10 11 12 13 14 15 16\n";
    assert_eq!(parse_write_count(new), Some(713));
    assert_eq!(parse_write_count("1 2 3 4 5 6 50 8 0 9 10 1 1 7 1"), Some(57));
    assert_eq!(parse_write_count("1 2 3 4 5 6 50 8 0 9 10"), Some(50));
    assert_eq!(parse_write_count(""), None);
}
