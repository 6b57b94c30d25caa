//! What is on a disk: its partition table, its volumes, and the files of those that parse.

use umbra_common::overlay::ENCRYPTED_FLAG;
use umbra_common::snapshot::{FreePolicy, MAX_VOLUMES};
use umbra_fsparse::ext::{Ext, FreeSpace, Journal};
use umbra_fsparse::partition::{self, PartitionTable, TableKind};
use umbra_fsparse::{
    ByteLen, ByteOffset, ByteRange, Error, FileType, Inode, InodeNumber, ReadAt, Slice, Visitor,
};

use crate::monitor::{Monitor, Notice};
use crate::ranges::merged;
use crate::rivals;
use crate::tree::FileTree;

/// Inode of the root directory of every ext2/3/4. SOURCE: `EXT4_ROOT_INO` in Linux fs/ext4/ext4.h.
const EXT_ROOT: u64 = 2;

/// How far a volume was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// Every file is known.
    Full,
    /// Some structures could not be read; what they describe is residue.
    Partial {
        /// The first thing that went wrong.
        reason: String,
    },
    /// Nothing is known about it; it is kept in disk order.
    None {
        /// Why.
        reason: String,
    },
}

/// Whether file systems are looked for at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsePolicy {
    /// Parse what is known.
    Parse,
    /// Keep the whole disk in disk order (`--no-parse`).
    Skip,
}

/// A partition, or the whole disk where it has no partition table.
#[derive(Debug)]
pub struct Volume {
    /// `part/N`, or `disk` where the file system covers the whole disk.
    pub path: String,
    /// The bytes of the disk that it has.
    pub range: ByteRange,
    /// The file system's name, parsed or not; `unknown` where no magic bytes say it.
    pub kind: &'static str,
    /// The file system's label.
    pub label: Option<String>,
    /// The file system's UUID in its usual text form.
    pub uuid: Option<String>,
    /// How far it was understood.
    pub parse: Parse,
    /// Its files, where it was understood.
    pub tree: Option<FileTree>,
    /// Ranges of the DISK that hold nothing and are not kept; sorted, disjoint.
    pub free: Vec<ByteRange>,
    /// Whether it was unmounted, or left in the middle of something.
    pub left: Left,
}

/// How a file system was left by whoever used it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was unmounted, or there is no file system.
    Clean,
    /// It was not unmounted, or has errors: what was written last may have old times.
    Dirty,
}

/// A disk as the parsers see it.
#[derive(Debug)]
pub struct Survey {
    /// The partition table.
    pub table: PartitionTable,
    /// The volumes in disk order, which never overlap.
    pub volumes: Vec<Volume>,
    /// Whether free space was looked for.
    pub free: FreePolicy,
}

/// What is looked for on a disk.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether file systems are parsed.
    pub parse: ParsePolicy,
    /// Whether free space is found out and left out.
    pub free: FreePolicy,
}

impl Survey {
    /// Makes the survey of a stream of `len` bytes, of which nothing is known.
    pub fn of_stream(len: ByteLen) -> Self {
        let range = ByteRange::new(ByteOffset(0), len).unwrap_or_default();
        let reason = "read as a stream".into();
        let table = PartitionTable {
            kind: TableKind::None,
            disk_guid: None,
            disk_signature: None,
            partitions: Vec::new(),
            warnings: Vec::new(),
        };
        let volumes = vec![Volume::unknown("disk".into(), range, reason)];
        Self { table, volumes, free: FreePolicy::Keep }
    }
}

impl Volume {
    fn unknown(path: String, range: ByteRange, reason: String) -> Self {
        Self {
            path,
            range,
            kind: "unknown",
            label: None,
            uuid: None,
            parse: Parse::None { reason },
            tree: None,
            free: Vec::new(),
            left: Left::Clean,
        }
    }
}

/// Looks at a whole disk. Never fails: what cannot be parsed is a volume without a tree.
pub fn survey(disk: &dyn ReadAt, options: Options, monitor: &dyn Monitor) -> Survey {
    let table = partition::read(disk);
    for warning in &table.warnings {
        monitor.warning(notice("partition table", ByteOffset(0), warning));
    }
    let mut volumes = Vec::new();
    if table.kind == TableKind::None {
        let whole = ByteRange::new(ByteOffset(0), disk.len()).unwrap_or_default();
        volumes.push(look_at(disk, ("disk".into(), whole, None), options, monitor));
    }
    // A partition that is no volume is what stands between volumes: residue, kept all the same.
    let beyond = table.partitions.len().saturating_sub(MAX_VOLUMES);
    if beyond > 0 {
        let message = format!(
            "{beyond} partitions beyond the first {MAX_VOLUMES} are kept as disk, without their \
             files"
        );
        monitor.warning(Notice { subject: "partition table".into(), at: None, message });
    }
    for partition in table.partitions.iter().take(MAX_VOLUMES) {
        let path = format!("part/{}", partition.number);
        let place = (path, partition.range, rivals::by_type(partition.type_id));
        volumes.push(look_at(disk, place, options, monitor));
    }
    Survey { table, volumes, free: options.free }
}

fn notice(subject: &str, base: ByteOffset, error: &Error) -> Notice {
    let at = match error {
        Error::NotFound { at, .. }
        | Error::Corrupt { at, .. }
        | Error::Unsupported { at, .. }
        | Error::Limit { at, .. } => base.checked_add(ByteLen(at.0)),
        _ => None,
    };
    Notice { subject: subject.into(), at, message: error.to_string() }
}

/// Looks at one volume: its name, its bytes, and whose it is by its partition's type, where that
/// is none of a file system's.
fn look_at(
    disk: &dyn ReadAt,
    (path, range, foreign): (String, ByteRange, Option<&'static str>),
    options: Options,
    monitor: &dyn Monitor,
) -> Volume {
    let slice = Slice::new(disk, range);
    let reason = "no file system that this version reads".into();
    let mut volume = Volume::unknown(path, range, reason);
    if options.parse == ParsePolicy::Skip {
        volume.parse = Parse::None { reason: "parsing was switched off".into() };
        return volume;
    }
    let known = crate::signature::identify(&slice);
    if let Some(kind) = known {
        volume.kind = kind;
        volume.parse = Parse::None { reason: format!("{kind} is not parsed by this version") };
    }
    match Ext::open(&slice, Journal::Replay) {
        Ok(ext) => {
            parse_ext(&ext, &mut volume, options.free, monitor);
            if options.free == FreePolicy::Skip {
                find_free((&ext, &slice), foreign, &mut volume, monitor);
            }
        }
        Err(Error::NotFound { .. }) => {}
        Err(error @ Error::Io { .. }) => {
            monitor.warning(notice(&volume.path, range.start(), &error));
            volume.parse = Parse::None { reason: error.to_string() };
        }
        Err(error) => {
            monitor.warning(notice(&volume.path, range.start(), &error));
            // Which of ext2, ext3 and ext4 only a superblock that was read can tell.
            volume.kind = "ext";
            volume.parse = Parse::None { reason: error.to_string() };
        }
    }
    volume
}

fn parse_ext(ext: &Ext<'_>, volume: &mut Volume, free: FreePolicy, monitor: &dyn Monitor) {
    volume.kind = ext.kind();
    volume.left = if ext.is_clean() { Left::Clean } else { Left::Dirty };
    let label = String::from_utf8_lossy(ext.label()).into_owned();
    volume.label = Some(label).filter(|label| !label.is_empty());
    volume.uuid = Some(uuid_text(&ext.uuid()));
    let base = volume.range.start();
    for warning in ext.warnings() {
        monitor.warning(notice(&volume.path, base, &warning.error));
    }
    let mut tree = match free {
        FreePolicy::Skip => FileTree::keeping_used(),
        _ => FileTree::default(),
    };
    let outcome = ext.walk(&mut tree);
    let doubled = tree.sort();
    match &outcome {
        Ok(summary) => tree.set_root(summary.root),
        // What was found before the walk ended hangs below the root of every ext.
        Err(_) => tree.set_root(InodeNumber(EXT_ROOT)),
    }
    let (warnings, total) = tree.warnings();
    for warning in warnings {
        let mut notice = notice(&volume.path, base, &warning.error);
        if let Some(inode) = warning.inode {
            notice.subject = format!("{} inode {}", volume.path, inode.0);
        }
        monitor.warning(notice);
    }
    let tell = |message: String| {
        monitor.warning(Notice { subject: volume.path.clone(), at: Some(base), message });
    };
    if doubled > 0 {
        tell(format!("{doubled} names stand twice in one directory; one each is kept"));
    }
    let dropped = tree.names_dropped();
    if dropped > 0 {
        tell(format!(
            "{dropped} names are left out of the listing: there are more than 4 GiB of names or \
             2^32 inodes; the disk image has them"
        ));
    }
    let encrypted = tree.inodes().iter().filter(|inode| is_locked(inode)).count();
    if encrypted > 0 {
        tell(format!(
            "{encrypted} files and links are encrypted: they are kept as ciphertext, which only a \
             recovered disk and their key make readable"
        ));
    }
    let whole = doubled == 0 && dropped == 0;
    volume.parse = match (outcome, warnings.first()) {
        (Ok(summary), None) if summary.complete && whole => Parse::Full,
        (Ok(_), first) => Parse::Partial {
            reason: match first {
                Some(first) if total > 1 => format!("{} (and {} more)", first.error, total - 1),
                Some(first) => first.error.to_string(),
                None => "some structures could not be read".into(),
            },
        },
        (Err(error), _) => {
            monitor.warning(notice(&volume.path, base, &error));
            Parse::Partial { reason: error.to_string() }
        }
    };
    volume.tree = Some(tree);
}

/// Tells whether the content of a file, or the target of a link, is ciphertext.
fn is_locked(inode: &Inode) -> bool {
    inode.flags & ENCRYPTED_FLAG != 0 && inode.file_type != FileType::Dir
}

/// Finds the free space of a volume that was parsed in full; any doubt keeps it, with a warning.
fn find_free(
    (ext, slice): (&Ext<'_>, &Slice<'_>),
    foreign: Option<&'static str>,
    volume: &mut Volume,
    monitor: &dyn Monitor,
) {
    let base = volume.range.start();
    let warn = |message: String| {
        monitor.warning(Notice { subject: volume.path.clone(), at: Some(base), message });
    };
    // The map gives a whole disk's layout away only as far as it is known.
    let (Some(tree), Parse::Full) = (volume.tree.as_mut(), &volume.parse) else {
        return warn("its free space is kept: it is not understood in full".into());
    };
    if let Some(rival) = foreign.or_else(|| rivals::of(slice)) {
        return warn(format!("its free space is kept: it has marks of {rival} too"));
    }
    match ext_free(ext, slice, tree.take_used()) {
        Ok(free) => {
            if let Some(doubt) = free.doubt {
                let kept = free.groups_kept;
                warn(format!("the free space of {kept} block groups is kept: {doubt}"));
            }
            let on_disk = |range: &ByteRange| {
                ByteRange::new(base.checked_add(ByteLen(range.start().0))?, range.len())
            };
            volume.free = free.ranges.iter().filter_map(on_disk).collect();
        }
        Err(error) => warn(format!("its free space is kept: {error}")),
    }
}

/// Finds the free space of an ext; `used` is what its walk used.
fn ext_free(
    ext: &Ext<'_>,
    slice: &Slice<'_>,
    used: Vec<ByteRange>,
) -> umbra_fsparse::Result<FreeSpace> {
    if !ext.needs_recovery() {
        return ext.free_space(None, &used);
    }
    let before = Ext::open(slice, Journal::Ignore)?;
    let mut all = UsedOnly(used);
    before.walk(&mut all)?;
    ext.free_space(Some(&before), &merged(all.0))
}

/// Collects nothing but the ranges that a walk uses.
struct UsedOnly(Vec<ByteRange>);

impl Visitor for UsedOnly {
    fn inode(&mut self, _: Inode) {}
    fn entry(&mut self, _: InodeNumber, _: &[u8], _: InodeNumber) {}
    // What stands on the disk before the replay is no one state: most of it is to be expected.
    fn warning(&mut self, _: umbra_fsparse::Warning) {}
    fn used(&mut self, range: ByteRange) {
        self.0.push(range);
    }
}

/// Formats a UUID in its usual text form (big-endian, RFC 9562).
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
