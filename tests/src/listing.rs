//! Translates `umbra ls --json` into the lines of an oracle manifest, so that `verify_manifest.py` can compare them.
//!
//! Nothing is repaired on the way: names, numbers and times are only written in the other notation, and extents are brought
//! to one form on both sides ([`normalise_manifest`] does it for the oracle's).

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// FIEMAP flags that are compared: unwritten, inline, encoded. The rest (last, merged, shared...) is about the query.
pub const COMPARED_FLAGS: u64 = FLAG_UNWRITTEN | FLAG_INLINE | FLAG_ENCODED;
const FLAG_UNWRITTEN: u64 = 0x800;
const FLAG_INLINE: u64 = 0x200;
const FLAG_ENCODED: u64 = 0x8;

/// One extent as the manifests write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    logical: u64,
    physical: u64,
    len: u64,
    flags: u64,
}

/// What the translation of a listing needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// First byte of the partition on the disk: manifests count from there.
    pub partition_offset: u64,
    /// What a manifest puts before the path: `p2` for partition 2, nothing for a bare file system.
    pub path_prefix: &'a str,
    /// Block size of the file system; the kernel's extents end on block bounds.
    pub block_size: u64,
}

/// Translates the entries of one volume's listing.
///
/// `content_sha256` is asked for the sha256 of a regular file's content by its path as raw bytes (from the restored tree).
///
/// # Errors
/// When an entry lacks a field that CLI.md promises, or a field cannot be read.
pub fn to_manifest_lines(
    entries: &[Value],
    frame: Frame<'_>,
    mut content_sha256: impl FnMut(&[u8]) -> Result<String>,
) -> Result<Vec<Value>> {
    entries
        .iter()
        .map(|entry| {
            to_manifest_line(entry, frame, &mut content_sha256)
                .with_context(|| format!("entry {entry}"))
        })
        .collect()
}

fn to_manifest_line(
    entry: &Value,
    frame: Frame<'_>,
    content_sha256: &mut dyn FnMut(&[u8]) -> Result<String>,
) -> Result<Value> {
    let path = raw_path(entry)?;
    let kind = match field(entry, "file_type")?.as_str().unwrap_or_default() {
        "file" => "f",
        "dir" => "d",
        "symlink" => "l",
        "fifo" => "p",
        "socket" => "s",
        "char" => "c",
        "block" => "b",
        other => bail!("unknown file type {other:?}"),
    };
    let mut line = Map::new();
    line.insert("path".into(), prefixed(frame.path_prefix, &path).into());
    line.insert("type".into(), kind.into());
    line.insert("mode".into(), (octal(field(entry, "mode")?)? & 0o7777).into());
    for (theirs, ours) in
        [("size", "size"), ("uid", "uid"), ("gid", "gid"), ("nlink", "nlink"), ("ino", "inode")]
    {
        line.insert(theirs.into(), field(entry, ours)?.clone());
    }
    for (theirs, ours) in [("mtime_ns", "mtime"), ("ctime_ns", "ctime")] {
        line.insert(theirs.into(), nanoseconds(field(entry, ours)?)?);
    }
    line.insert("xattrs".into(), hex_xattrs(&entry["xattrs"])?);
    match kind {
        "f" => {
            line.insert("sha256".into(), content_sha256(&path)?.into());
            let extents = our_extents(field(entry, "extents")?, frame)?;
            line.insert("extents".into(), extents_to_json(&merged(extents)));
        }
        "l" => {
            let target = field(entry, "target")?.as_str().context("a target is text")?;
            let raw = match entry["target_encoded"] == true {
                true => percent_decoded(target)?,
                false => target.as_bytes().to_vec(),
            };
            line.insert("target".into(), percent_encoded(&raw).into());
        }
        "c" | "b" => {
            line.insert("rdev".into(), field(entry, "rdev")?.clone());
        }
        _ => {}
    }
    Ok(Value::Object(line))
}

/// The path of an entry as raw bytes, without slashes at its ends.
///
/// # Errors
/// When there is none or its escapes are wrong.
pub fn raw_path(entry: &Value) -> Result<Vec<u8>> {
    let path = field(entry, "path")?.as_str().context("a path is text")?;
    let raw = match entry["path_encoded"] == true {
        true => percent_decoded(path)?,
        false => path.as_bytes().to_vec(),
    };
    Ok(raw.trim_ascii_start_slash().to_vec())
}

trait TrimSlash {
    fn trim_ascii_start_slash(&self) -> &[u8];
}

impl TrimSlash for Vec<u8> {
    fn trim_ascii_start_slash(&self) -> &[u8] {
        let mut rest = self.as_slice();
        while let Some(shorter) = rest.strip_prefix(b"/") {
            rest = shorter;
        }
        while let Some(shorter) = rest.strip_suffix(b"/") {
            rest = shorter;
        }
        rest
    }
}

fn field<'e>(entry: &'e Value, name: &str) -> Result<&'e Value> {
    entry.get(name).with_context(|| format!("no field {name:?}"))
}

fn prefixed(prefix: &str, path: &[u8]) -> String {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => percent_encoded(path),
        (false, true) => prefix.to_owned(),
        (false, false) => format!("{prefix}/{}", percent_encoded(path)),
    }
}

fn octal(mode: &Value) -> Result<u64> {
    let text = mode.as_str().context("a mode is an octal text")?;
    u64::from_str_radix(text.trim_start_matches("0o"), 8).context("a mode is octal")
}

/// RFC 3339 to nanoseconds since 1970, before it negative; beyond 64 bits for years after 2262.
fn nanoseconds(time: &Value) -> Result<Value> {
    let text = time.as_str().context("a time is text")?;
    let stamp: jiff::Timestamp = text.parse().with_context(|| format!("time {text:?}"))?;
    let nanoseconds = stamp.as_nanosecond();
    match i64::try_from(nanoseconds) {
        Ok(small) => Ok(small.into()),
        Err(_) => Ok(u64::try_from(nanoseconds).context("a time out of range")?.into()),
    }
}

fn hex_xattrs(xattrs: &Value) -> Result<Value> {
    let mut out = Map::new();
    for (name, value) in xattrs.as_object().into_iter().flatten() {
        let raw = base64_decoded(value.as_str().context("an xattr is base64 text")?)?;
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        out.insert(percent_encoded(name.as_bytes()), hex.into());
    }
    Ok(Value::Object(out))
}

fn our_extents(extents: &Value, frame: Frame<'_>) -> Result<Vec<Extent>> {
    let list = extents.as_array().context("extents are a list")?;
    list.iter()
        .map(|extent| {
            let number = |at: usize| extent[at].as_u64().context("an extent has three numbers");
            let flags = match extent[3].as_str().context("an extent has a kind")? {
                "data" => 0,
                "unwritten" => FLAG_UNWRITTEN,
                "inline" => FLAG_INLINE,
                "zlib" | "lzo" | "zstd" | "lznt1" => FLAG_ENCODED,
                other => bail!("unknown kind of extent {other:?}"),
            };
            // The kernel tells whole blocks, also where the file ends inside one.
            let whole = |len: u64| match flags & FLAG_INLINE == 0 {
                true => len.next_multiple_of(frame.block_size),
                false => len,
            };
            let physical = number(1)?
                .checked_sub(frame.partition_offset)
                .context("an extent before its partition")?;
            Ok(Extent { logical: number(0)?, physical, len: whole(number(2)?), flags })
        })
        .collect()
}

/// Joins extents that go on both in the file and on the disk, with the same flags.
fn merged(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_by_key(|extent| extent.logical);
    let mut out: Vec<Extent> = Vec::new();
    for extent in extents {
        match out.last_mut() {
            Some(last)
                if last.flags == extent.flags
                    && last.logical + last.len == extent.logical
                    && last.physical + last.len == extent.physical =>
            {
                last.len += extent.len;
            }
            _ => out.push(extent),
        }
    }
    out
}

fn extents_to_json(extents: &[Extent]) -> Value {
    extents.iter().map(|e| json!([e.logical, e.physical, e.len, e.flags])).collect()
}

/// Brings the oracle's lines to the same form: only the wanted partition, extents of regular files only, merged, with
/// [`COMPARED_FLAGS`] only. Returns the lines and how many extents they hold.
///
/// # Errors
/// When a line's extents are not lists of four numbers.
pub fn normalise_manifest(lines: &[Value], partition: Option<u64>) -> Result<(Vec<Value>, usize)> {
    let mut out = Vec::new();
    let mut extents = 0;
    for line in lines {
        if partition.is_some() && line["partition"].as_u64() != partition {
            continue;
        }
        let mut line = line.clone();
        let object = line.as_object_mut().context("a manifest line is an object")?;
        if let Some(theirs) = object.remove("extents")
            && object.get("type").and_then(Value::as_str) == Some("f")
        {
            let merged = merged(their_extents(&theirs)?);
            extents += merged.len();
            object.insert("extents".into(), extents_to_json(&merged));
        }
        out.push(line);
    }
    ensure!(!out.is_empty(), "the manifest says nothing of partition {partition:?}");
    Ok((out, extents))
}

fn their_extents(extents: &Value) -> Result<Vec<Extent>> {
    let list = extents.as_array().context("extents are a list")?;
    list.iter()
        .map(|extent| {
            let number = |at: usize| extent[at].as_u64().context("an extent has four numbers");
            Ok(Extent {
                logical: number(0)?,
                physical: number(1)?,
                len: number(2)?,
                flags: number(3)? & COMPARED_FLAGS,
            })
        })
        .collect()
}

/// Percent-encodes everything but plain characters, as the manifests do.
pub fn percent_encoded(raw: &[u8]) -> String {
    let mut out = String::new();
    for byte in raw {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                out.push(char::from(*byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes percent-encoding.
///
/// # Errors
/// When two hex digits do not follow a percent sign.
pub fn percent_decoded(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let digits = digits.context("a percent sign without two digits")?;
            out.push(u8::from_str_radix(digits, 16).context("a percent sign without two digits")?);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Ok(out)
}

/// Decodes standard base64, padded or not.
///
/// # Errors
/// When a character is none of base64's.
pub fn base64_decoded(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => bail!("{other:#x} is not of base64"),
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::{
        Frame, base64_decoded, normalise_manifest, percent_decoded, percent_encoded,
        to_manifest_lines,
    };

    const FRAME: Frame<'_> =
        Frame { partition_offset: 1000 * 1024, path_prefix: "p2", block_size: 1024 };

    #[test]
    fn an_entry_becomes_a_manifest_line() -> Result<()> {
        let entry = json!({"type": "entry", "path": "/d/a%FFb", "path_encoded": true, "file_type": "file",
            "size": 3000, "mode": "100644", "uid": 1, "gid": 2, "nlink": 1, "inode": 12,
            "mtime": "1969-12-31T23:59:59.999999999Z", "ctime": "2446-05-10T22:38:55.000000001Z",
            "xattrs": {"user.small": "dg=="},
            "extents": [[0, 1_025_024, 1024, "data"], [1024, 1_026_048, 1976, "data"]]});
        let lines = to_manifest_lines(&[entry], FRAME, |path| {
            assert_eq!(path, b"d/a\xffb");
            Ok("cafe".to_owned())
        })?;
        let line = &lines[0];
        assert_eq!(line["path"], "p2/d/a%FFb");
        assert_eq!(line["mode"], 0o644);
        assert_eq!(line["mtime_ns"], -1);
        assert_eq!(line["ctime_ns"], 15_032_385_535_000_000_001_u64);
        assert_eq!(line["xattrs"], json!({"user.small": "76"}));
        assert_eq!(line["extents"], json!([[0, 1024, 3072, 0]]));
        assert_eq!(line["sha256"], "cafe");
        Ok(())
    }

    #[test]
    fn an_unknown_kind_of_extent_is_an_error() {
        let entry = json!({"path": "x", "file_type": "file", "size": 1, "mode": "644", "uid": 0, "gid": 0,
            "nlink": 1, "inode": 12, "mtime": "1970-01-01T00:00:00Z", "ctime": "1970-01-01T00:00:00Z",
            "extents": [[0, 1_024_000, 1, "magic"]]});
        assert!(to_manifest_lines(&[entry], FRAME, |_| Ok(String::new())).is_err());
    }

    #[test]
    fn a_manifest_keeps_one_partition_and_the_compared_flags() -> Result<()> {
        let lines = [
            json!({"path": "p1/x", "partition": 1, "type": "f", "extents": [[0, 0, 4096, 1]]}),
            json!({"path": "p2", "partition": 2, "type": "d", "extents": [[0, 4096, 4096, 1]]}),
            json!({"path": "p2/y", "partition": 2, "type": "f",
                "extents": [[0, 8192, 4096, 0x1000], [4096, 12288, 4096, 0x1001], [8192, 16384, 4096, 0x801]]}),
        ];
        let (kept, extents) = normalise_manifest(&lines, Some(2))?;
        assert_eq!((kept.len(), extents), (2, 2));
        assert_eq!(kept[1]["extents"], json!([[0, 8192, 8192, 0], [8192, 16384, 4096, 0x800]]));
        assert!(kept[0].get("extents").is_none());
        assert!(normalise_manifest(&lines, Some(3)).is_err());
        Ok(())
    }

    #[test]
    fn encodings_come_back() -> Result<()> {
        let raw: Vec<u8> = (0..=255).collect();
        assert_eq!(percent_decoded(&percent_encoded(&raw))?, raw);
        assert!(percent_decoded("a%4").is_err() && percent_decoded("%zz").is_err());
        assert_eq!(base64_decoded("")?, b"");
        assert_eq!(base64_decoded("Zm9vYg==")?, b"foob");
        assert_eq!(base64_decoded("Zm9vYmE")?, b"fooba");
        assert_eq!(base64_decoded("+/8=")?, [0xfb, 0xff]);
        assert!(base64_decoded("Zm9v!").is_err());
        Ok(())
    }
}
