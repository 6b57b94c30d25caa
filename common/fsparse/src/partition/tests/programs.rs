//! Tables made by sgdisk and sfdisk, and tables of ours read by partx (libblkid), where these
//! programs are installed.

use std::process::{Command, Stdio};
use std::string::{String, ToString as _};
use std::{collections::BTreeMap, format, fs, io::Write as _, path::Path, println, vec::Vec};

use super::build::{Disk, GptLayout, gpt, mbr_with_logicals};
use super::corpus::{Whole, compare_with_sfdisk};
use crate::partition::{Partition, PartitionTable, PartitionType, TableKind, format_guid, read};

const DISK_BYTES: u64 = 64 << 20;

/// Runs a program; `None` where it is not installed. Fails the test where the program fails.
fn run(program: &str, args: &[&str], input: &str) -> Option<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let child = Command::new(program)
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {errors}");
    Some(String::from_utf8(out.stdout).unwrap())
}

fn empty_disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(DISK_BYTES).unwrap();
    file
}

fn read_file(path: &Path) -> PartitionTable {
    read(&Whole(fs::read(path).unwrap()))
}

#[test]
fn agrees_with_sgdisk() {
    let file = empty_disk();
    let path = file.path().to_str().unwrap();
    let guid = "01234567-89AB-CDEF-0123-456789ABCDEF";
    let args = [
        ["-U", guid, "-n", "1:2048:4095", "-t", "1:EF00", "-c", "1:EFI"],
        ["-A", "1:set:2", "-n", "128:40000:49999", "-t", "128:8309", "-c", "128:Größe 1"],
        ["-n", "3:4096:20000", "-t", "3:0700", "-n", "2:20001:30000", "-t", "2:8200"],
    ];
    let args = args.as_flattened().iter().copied();
    // Without that it ends with a sync of the whole machine.
    let args: Vec<&str> = ["sgdisk"].into_iter().chain(args).chain([path]).collect();
    let Some(_) = run("eatmydata", &args, "") else { return };
    let table = read_file(file.path());
    assert_eq!(table.warnings, []);
    assert_eq!(table.kind, TableKind::Gpt { sector: crate::ByteLen(512) });
    assert_eq!(format_guid(&table.disk_guid.unwrap()), guid);
    let numbers: Vec<u32> = table.partitions.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 3, 2, 128]);
    for partition in &table.partitions {
        let number = format!("-i={}", partition.number);
        let info = run("sgdisk", &[&number, path], "").unwrap();
        assert_eq!(info_of(partition), parse_info(&info), "{info}");
    }
}

type Info = (String, String, String, String, String, String);

fn info_of(partition: &Partition) -> Info {
    let range = partition.range;
    (
        partition.type_id.to_string(),
        format_guid(&partition.guid.unwrap()),
        (range.start().0 / 512).to_string(),
        (range.end().0 / 512 - 1).to_string(),
        format!("{:016X}", partition.attributes),
        format!("'{}'", partition.name.clone().unwrap_or_default()),
    )
}

fn parse_info(text: &str) -> Info {
    let value = |key: &str, whole: bool| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let line = line.trim_start_matches(':').trim();
        if whole { line.to_string() } else { line.split(' ').next().unwrap().to_string() }
    };
    (
        value("Partition GUID code", false),
        value("Partition unique GUID", false),
        value("First sector", false),
        value("Last sector", false),
        value("Attribute flags", false),
        value("Partition name", true),
    )
}

#[test]
fn agrees_with_sfdisk() {
    let dos = "label: dos\nlabel-id: 0x0badcafe\nstart=2048, size=4096, type=83, bootable\n\
        start=8192, size=40000, type=f\nstart=60000, size=2000, type=7\n\
        start=10240, size=2048, type=82\nstart=30000, size=2048, type=c\n\
        start=20480, size=2048, type=83\n";
    let gpt = "label: gpt\nstart=40960, size=4096, name=\"last\"\n\
        start=2048, size=4096, type=uefi, attrs=\"LegacyBIOSBootable\"\n";
    for (script, count) in [(dos, 5), (gpt, 2)] {
        let file = empty_disk();
        let path = file.path().to_str().unwrap();
        let Some(_) = run("sfdisk", &["-q", path], script) else { return };
        let json = run("sfdisk", &["--json", path], "").unwrap();
        let table = read_file(file.path());
        assert_eq!(table.warnings, []);
        let compared = compare_with_sfdisk(&table, &serde_json::from_str(&json).unwrap());
        assert_eq!(compared, count);
    }
}

/// Compares with what libblkid reads, extended partitions left out; `None` without partx.
fn compare_with_partx(disk: &Disk, sector: u64) -> Option<usize> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&disk.bytes).unwrap();
    let path = file.path().to_str().unwrap();
    // Without the option partx finds no GPT of 4096-byte sectors in a file.
    let size = format!("--sector-size={sector}");
    let text = run("partx", &["-P", &size, "-o", "NR,START,SECTORS,TYPE,UUID", path], "")?;
    let mut expected = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        let [number, start, len, kind, uuid] = fields[..] else { unreachable!("{line}") };
        if matches!(kind, "0x5" | "0xf" | "0x85") {
            continue;
        }
        let numbers: [u64; 3] = [number, start, len].map(|field| field.parse().unwrap());
        expected.insert(numbers, (kind.to_uppercase(), uuid.to_uppercase()));
    }
    let table = read(disk);
    let of = |p: &Partition| {
        let range = [p.range.start().0 / 512, p.range.len().0 / 512];
        let names = match (p.type_id, p.guid) {
            (PartitionType::Gpt(_), Some(guid)) => (p.type_id.to_string(), format_guid(&guid)),
            _ => {
                let uuid = format!("{:08x}-{:02x}", table.disk_signature.unwrap(), p.number);
                (format!("0x{}", p.type_id).to_uppercase(), uuid.to_uppercase())
            }
        };
        ([u64::from(p.number), range[0], range[1]], names)
    };
    assert_eq!(table.partitions.iter().map(of).collect::<BTreeMap<_, _>>(), expected);
    Some(expected.len())
}

#[test]
fn partx_reads_our_tables_the_same() {
    for extended in [0x05, 0x0f, 0x85] {
        let Some(count) = compare_with_partx(&mbr_with_logicals(extended), 512) else { return };
        assert_eq!(count, 5);
    }
    for sector in [512, 4096] {
        let layout = GptLayout { sector, ..GptLayout::default() };
        assert_eq!(compare_with_partx(&gpt(&layout), sector), Some(2));
        // And through the backup.
        let mut disk = gpt(&layout);
        disk.bytes[usize::try_from(sector).unwrap() + 57] ^= 1;
        assert_eq!(compare_with_partx(&disk, sector), Some(2));
    }
}
