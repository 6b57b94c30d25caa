//! How entries of a snapshot are shown: as JSON for programs, as lines for people.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use umbra_common::node::NodeSource;
use umbra_common::overlay::{Entry, Extent, text_of};
use umbra_common::{ByteOffset, overlay};
use umbra_fsparse::{Codec, ExtentKind, FileType, Timestamp};

use crate::browse::display;
use crate::error::Result;
use crate::fetch;

/// What of an entry is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Owner, times, attributes.
    pub long: bool,
    /// Where it lies on the disk.
    pub extents: bool,
}

/// An entry of a snapshot and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Id of the snapshot.
    pub snapshot: &'a str,
    /// Path of the volume.
    pub volume: &'a str,
    /// Path in the volume: names joined by `/`; empty for the root.
    pub path: &'a [u8],
    /// What stands there.
    pub entry: &'a Entry,
}

/// Returns the fields of an entry (CLI.md). What is damaged is null beside a `damage` field.
///
/// # Errors
/// [`crate::Error::Vault`] where the vault does not answer.
pub fn to_json(listed: &Listed<'_>, columns: Columns, nodes: &dyn NodeSource) -> Result<Value> {
    let record = &listed.entry.record;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    put("snapshot", listed.snapshot.into());
    put("volume", listed.volume.into());
    let (path, encoded) = text_of(&[b"/", listed.path].concat());
    put("path", path.into());
    if encoded {
        put("path_encoded", true.into());
    }
    put("file_type", type_name(record.file_type).into());
    put("size", record.size.0.into());
    put("mode", format!("{:04o}", record.mode).into());
    put("uid", record.uid.into());
    put("gid", record.gid.into());
    put("mtime", rfc3339(record.mtime).into());
    put("ctime", rfc3339(record.ctime).into());
    if let Some(crtime) = record.crtime {
        put("crtime", rfc3339(crtime).into());
    }
    put("nlink", record.nlink.into());
    put("inode", record.inode.0.into());
    put("generation", record.generation.into());
    put("flags", record.flags.into());
    if let Some(target) = &record.target {
        let (target, encoded) = text_of(target);
        put("target", target.into());
        if encoded {
            put("target_encoded", true.into());
        }
    }
    if record.file_type == FileType::File {
        put("blake3", record.content.blake3().map(|hash| hex(&hash)).into());
        if let Some(reason) = record.content.reason() {
            put("blake3_reason", reason.into());
        }
    }
    if let Some(rdev) = record.rdev {
        put("rdev", json!([rdev.major, rdev.minor]));
    }
    let mut damage = None;
    if columns.long {
        put("xattrs", xattrs(listed.entry, nodes, &mut damage)?);
    }
    if columns.extents {
        put("extents", extents(listed.entry, nodes, &mut damage)?);
    }
    if let Some(damage) = damage {
        put("damage", damage.into());
    }
    Ok(Value::Object(fields))
}

fn xattrs(entry: &Entry, nodes: &dyn NodeSource, damage: &mut Option<String>) -> Result<Value> {
    let list = match entry.xattrs(nodes) {
        Ok(list) => list,
        Err(error) => {
            *damage = Some(fetch::damage(error)?);
            return Ok(Value::Null);
        }
    };
    let pairs = list.iter().map(|xattr| {
        let (name, _) = text_of(&xattr.name);
        (name, Value::from(BASE64.encode(&xattr.value)))
    });
    Ok(Value::Object(pairs.collect()))
}

fn extents(entry: &Entry, nodes: &dyn NodeSource, damage: &mut Option<String>) -> Result<Value> {
    let mut list = Vec::new();
    for extent in extents_of(entry, nodes, damage)? {
        let (logical, disk) = (extent.logical.0, extent.disk);
        list.push(json!([logical, disk.start().0, disk.len().0, extent_kind(&extent)]));
    }
    Ok(list.into())
}

/// Returns the extents of an entry as far as they can be read.
///
/// # Errors
/// [`crate::Error::Vault`].
pub fn extents_of(
    entry: &Entry,
    nodes: &dyn NodeSource,
    damage: &mut Option<String>,
) -> Result<Vec<Extent>> {
    let mut list = Vec::new();
    let found: overlay::ExtentIter<'_> = match entry.extents(nodes, ByteOffset(0)) {
        Ok(found) => found,
        Err(error) => {
            *damage = Some(fetch::damage(error)?);
            return Ok(list);
        }
    };
    for extent in found {
        match extent {
            Ok(extent) => list.push(extent),
            Err(lost) => *damage = Some(fetch::damage(lost.error)?),
        }
    }
    Ok(list)
}

/// Returns the name of an extent's kind (CLI.md).
pub fn extent_kind(extent: &Extent) -> &'static str {
    match (extent.kind, extent.codec) {
        (ExtentKind::Unwritten, _) => "unwritten",
        (_, Codec::Zlib) => "zlib",
        (_, Codec::Lzo) => "lzo",
        (_, Codec::Zstd) => "zstd",
        (_, Codec::Lznt1) => "lznt1",
        (ExtentKind::Inline, _) => "inline",
        (ExtentKind::Data, _) => "data",
    }
}

/// Returns the lines of `ls` for people; `name` is what stands for the path.
///
/// # Errors
/// [`crate::Error::Vault`].
pub fn to_lines(
    listed: &Listed<'_>,
    name: &[u8],
    columns: Columns,
    nodes: &dyn NodeSource,
) -> Result<Vec<String>> {
    let record = &listed.entry.record;
    let mut name = display(name);
    if !columns.long && record.file_type == FileType::Dir && !name.ends_with('/') {
        name.push('/');
    }
    let mut lines = vec![name];
    if columns.long {
        lines = vec![long_line(listed.entry, lines.first().map_or("", String::as_str))];
    }
    let mut damage = None;
    if columns.long {
        match listed.entry.xattrs(nodes) {
            Ok(list) => lines.extend(list.iter().map(|xattr| {
                format!("    {} ({} bytes)", display(&xattr.name), xattr.value.len())
            })),
            Err(error) => damage = Some(fetch::damage(error)?),
        }
    }
    if columns.extents {
        for extent in extents_of(listed.entry, nodes, &mut damage)? {
            let (logical, disk) = (extent.logical.0, extent.disk);
            lines.push(format!(
                "    {logical:>14} at disk {:>14}, {:>12} bytes, {}",
                disk.start().0,
                disk.len().0,
                extent_kind(&extent),
            ));
        }
    }
    lines.extend(damage.map(|damage| format!("    damaged: {damage}")));
    Ok(lines)
}

fn long_line(entry: &Entry, name: &str) -> String {
    let record = &entry.record;
    let size = match record.rdev {
        Some(rdev) => format!("{}, {}", rdev.major, rdev.minor),
        None => record.size.0.to_string(),
    };
    // Whole seconds are enough for people.
    let mtime = rfc3339(Timestamp { nanos: 0, ..record.mtime });
    let mtime = mtime.get(..19).unwrap_or(&mtime).replace('T', " ");
    let arrow = record.target.as_ref().map(|target| format!(" -> {}", display(target)));
    let arrow = arrow.or_else(|| record.is_encrypted().then(|| " (encrypted)".into()));
    format!(
        "{} {:>3} {:>5} {:>5} {size:>12} {mtime} {name}{}",
        mode_text(record.file_type, record.mode),
        record.nlink,
        record.uid,
        record.gid,
        arrow.unwrap_or_default(),
    )
}

/// Formats type and permission bits as `ls -l` does.
pub fn mode_text(file_type: FileType, mode: u16) -> String {
    let mut text = String::with_capacity(10);
    text.push(match file_type {
        FileType::File => '-',
        FileType::Dir => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Char => 'c',
        FileType::Block => 'b',
    });
    for (shift, special, set, unset) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Returns the name of a type (CLI.md).
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Dir => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Char => "char",
        FileType::Block => "block",
    }
}

/// Formats a time with nanoseconds, UTC. What RFC 3339 cannot say (years past 9999) is
/// `@SECONDS.NANOSECONDS`.
pub fn rfc3339(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or_default();
    match jiff::Timestamp::new(time.seconds, nanos) {
        Ok(stamp) if (-62_167_219_200..253_402_300_800).contains(&time.seconds) => {
            format!("{stamp:.9}")
        }
        _ => format!("@{}.{:09}", time.seconds, time.nanos),
    }
}

/// Formats bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_whatever_the_year() {
        let time = |seconds, nanos| rfc3339(Timestamp { seconds, nanos });
        assert_eq!(time(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(15_032_385_535, 1), "2446-05-10T22:38:55.000000001Z");
        assert_eq!(time(-62_167_219_200, 0), "0000-01-01T00:00:00.000000000Z");
        assert_eq!(time(i64::MAX, 5), "@9223372036854775807.000000005");
        assert_eq!(time(i64::MIN, 0), "@-9223372036854775808.000000000");
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        assert_eq!(mode_text(FileType::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode_text(FileType::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(FileType::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(mode_text(FileType::Char, 0o1600), "crw------T");
    }
}
