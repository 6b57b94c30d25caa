//! `umbra-vault check`.

mod repair;
mod salvage;

pub(super) use salvage::run as salvage;

use super::StoreArg;
use super::output::{Output, size};
use crate::clock::{random, rfc3339};
use crate::error::Result;
use crate::place::Place;
use clap::Args;
use serde_json::{Value, json};
use std::num::NonZeroU64;
use umbra_common::overlay::{display, text_of};
use umbra_store::{
    CheckReport, Finding, HitPath, IndexChecked, LossCause, Reach, ReadData, SnapshotHit,
};

/// Findings that people are shown; programs get all that the report keeps.
const SHOWN_FINDINGS: usize = 100;
/// Names of one snapshot that people are shown.
const SHOWN_NAMES: usize = 100;
/// Snapshots whose names people are shown; of the others the numbers.
const SHOWN_SNAPSHOTS: usize = 50;

/// What is checked.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) store: StoreArg,
    /// Read every record of every pack, and prove every object's id.
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// The same for a random share of the packs: a number of percent.
    #[arg(long, value_name = "N%", value_parser = percent)]
    read_data_subset: Option<u32>,
    /// Chooses the same packs as the check that printed this number.
    #[arg(long, value_name = "NUMBER", requires = "read_data_subset")]
    seed: Option<u64>,
    /// Read everything and make damage good: from parity, from other copies, and so that the next
    /// backup sends again what is lost. Exit code 4 where something is.
    #[arg(long, conflicts_with = "read_data_subset")]
    repair: bool,
    /// Only say what a repair would do.
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Read at most so much a second: a number of bytes, or with K, M or G.
    #[arg(long, value_name = "RATE", value_parser = super::rate)]
    limit: Option<NonZeroU64>,
}

impl CheckArgs {
    fn read(&self) -> Result<ReadData> {
        Ok(match self.read_data_subset {
            Some(millionths) => {
                let seed = match self.seed {
                    Some(seed) => seed,
                    None => u64::from(u32::from_le_bytes(random()?)),
                };
                ReadData::Share { millionths, seed }
            }
            None if self.read_data => ReadData::Everything,
            None => ReadData::Nothing,
        })
    }
}

/// Checks the store; returns the exit code.
pub(super) fn run(place: &Place, args: &CheckArgs, output: &Output) -> Result<u8> {
    let (read, repaired) = match args.repair {
        // What was read for the repair is known by now: the tables tell what is left.
        true => (ReadData::Nothing, Some(repair::run(place, args, output)?)),
        false => (args.read()?, None),
    };
    let mut options = place.check_options(read);
    options.limit_bytes = args.limit;
    options.progress = output.progress();
    let report = place.check(&options)?;
    tell(place, &report, read, output)?;
    let mut last = summary(place, &report);
    let found = repaired.as_ref().is_some_and(|done| done.dry_run && done.findings > 0);
    if let (Some(done), Some(fields)) = (repaired, last.as_object_mut()) {
        fields.insert("repair".to_owned(), repair::object_of(&done));
    }
    output.summary(last)?;
    Ok(if report.is_damaged() || found { 4 } else { 0 })
}

/// Says what a check found.
fn tell(place: &Place, report: &CheckReport, read: ReadData, output: &Output) -> Result<()> {
    head(place, report, read, output)?;
    findings(report, output)?;
    for (number, hit) in report.snapshots.iter().enumerate() {
        snapshot(hit, number < SHOWN_SNAPSHOTS, output)?;
    }
    verdict(place, report, output)
}

fn head(place: &Place, report: &CheckReport, read: ReadData, output: &Output) -> Result<()> {
    output.text(&format!(
        "store {} in {}: {} packs with {} objects in {}, {} receipts",
        report.store,
        place.dir().display(),
        report.packs,
        report.objects,
        size(report.bytes),
        report.receipts,
    ))?;
    if report.owned {
        output.text("a vault owns it: what it wrote meanwhile was not looked at")?;
    }
    match report.index {
        IndexChecked::Compared => output.text("the index was compared with the packs")?,
        IndexChecked::Absent => output.text("there is no index to compare")?,
        IndexChecked::NotCompared(reason) => {
            output.text(&format!("the index was not compared: {reason}"))?;
        }
    }
    if report.packs_without_parity > 0 {
        output.text(&format!("{} packs have no parity yet", report.packs_without_parity))?;
    }
    match read {
        ReadData::Nothing => output.text("no data was read: --read-data reads every record"),
        ReadData::Everything => {
            output.text(&format!("every record was read, {}", size(report.bytes_read)))
        }
        ReadData::Share { seed, .. } => output.text(&format!(
            "the records of {} packs were read, {} (--seed {seed})",
            report.packs_read,
            size(report.bytes_read)
        )),
    }
}

fn findings(report: &CheckReport, output: &Output) -> Result<()> {
    for (number, finding) in report.findings.list.iter().enumerate() {
        if number < SHOWN_FINDINGS {
            output.text(&line_of(finding))?;
        }
        output.object("warning", object_of(finding))?;
    }
    let shown = report.findings.list.len().min(SHOWN_FINDINGS);
    let total = report.findings.total();
    let rest = total.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if rest > 0 {
        output.text(&format!("... and {rest} more places"))?;
    }
    Ok(())
}

fn word(finding: &Finding) -> &'static str {
    if finding.kind.is_damage() { "DAMAGE" } else { "NOTE" }
}

fn line_of(finding: &Finding) -> String {
    let object = match finding.object {
        Some((key, kind)) => format!(" ({} {})", kind.name(), key.id),
        None => String::new(),
    };
    let reach = match finding.reach {
        Reach::NoObject => "",
        Reach::Snapshots => "; hits the snapshots named below",
        Reach::Nothing => "; no snapshot needs it",
        Reach::OtherCopy => "; another copy is sound and is the one that is read",
    };
    let path = display(finding.path.as_bytes());
    format!("{}: {path} at byte {}: {}{object}{reach}", word(finding), finding.at, finding.reason)
}

fn object_of(finding: &Finding) -> Value {
    let reach = match finding.reach {
        Reach::NoObject => Value::Null,
        Reach::Snapshots => "snapshots".into(),
        Reach::Nothing => "nothing".into(),
        Reach::OtherCopy => "other-copy".into(),
    };
    json!({
        "kind": finding.kind.name(),
        "damage": finding.kind.is_damage(),
        "path": finding.path,
        "at": finding.at,
        "object": finding.object.map(|(key, _)| key.id.to_string()),
        "object_kind": finding.object.map(|(_, kind)| kind.name()),
        "hits": reach,
        "message": line_of(finding),
    })
}

fn snapshot(hit: &SnapshotHit, names: bool, output: &Output) -> Result<()> {
    let id = hit.snapshot.to_string();
    let short = id.get(..12).unwrap_or(&id);
    let when = hit.received.map_or_else(|| "time unknown".to_owned(), rfc3339);
    let (machine, disk) = (or_unknown(&hit.machine), or_unknown(&hit.disk));
    output.text(&format!(
        "SNAPSHOT HIT: {short} {machine}/{disk} {when}: {} of the disk in {} ranges, {} names",
        size(hit.bytes_damaged),
        hit.ranges_total,
        hit.paths_total
    ))?;
    if let Some(reason) = hit.whole {
        output.text(&format!("    {reason}"))?;
    }
    for (number, path) in hit.paths.iter().enumerate() {
        if names && number < SHOWN_NAMES {
            let name = [path.volume.as_bytes(), b"/", &path.path].concat();
            output.text(&format!("    {}: {}", display(&name), path.reason))?;
        }
        output.object("entry", entry_of(hit, path))?;
    }
    let shown = if names { hit.paths.len().min(SHOWN_NAMES) } else { 0 };
    let rest = hit.paths_total.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if rest > 0 {
        output.text(&format!("    ... and {rest} more names"))?;
    }
    if hit.paths_total == 0 && hit.whole.is_none() {
        output.text("    no file: metadata of a file system, or what no file covers")?;
    }
    let ranges: Vec<[u64; 2]> =
        hit.ranges.iter().map(|range| [range.start().0, range.len().0]).collect();
    output.object(
        "status",
        json!({
            "status": "snapshot-hit",
            "snapshot": id,
            "machine": hit.machine,
            "disk": hit.disk,
            "time": hit.received.map(rfc3339),
            "receipt": hit.sequence,
            "message": hit.whole,
            "bytes_damaged": hit.bytes_damaged,
            "ranges": ranges,
            "ranges_total": hit.ranges_total,
            "names_total": hit.paths_total,
        }),
    )
}

fn entry_of(hit: &SnapshotHit, path: &HitPath) -> Value {
    let (text, encoded) = text_of(&[b"/", path.path.as_slice()].concat());
    let mut entry = json!({
        "snapshot": hit.snapshot.to_string(),
        "machine": hit.machine,
        "disk": hit.disk,
        "volume": path.volume,
        "path": text,
        "message": path.reason,
    });
    if encoded && let Some(fields) = entry.as_object_mut() {
        fields.insert("path_encoded".to_owned(), true.into());
    }
    entry
}

fn or_unknown(name: &str) -> &str {
    if name.is_empty() { "unknown" } else { name }
}

fn verdict(place: &Place, report: &CheckReport, output: &Output) -> Result<()> {
    if !report.is_damaged() {
        return output.text("the store is whole, as far as it was read");
    }
    output.text(&format!(
        "damage found: {} places, {} objects, {} snapshots hit",
        report.findings.damage(),
        lost_total(report),
        report.snapshots.len()
    ))?;
    if report.lost_untold > 0 {
        output.text(&format!(
            "{} more objects are lost; what they hit is not told",
            report.lost_untold
        ))?;
    }
    let dir = place.dir().display();
    let by_index = |cause| cause == LossCause::Unindexed;
    if report.lost.iter().any(|lost| by_index(lost.cause)) {
        output.text(&format!("next: umbra-vault rebuild-index --store {dir}"))
    } else {
        output.text(&format!(
            "next: umbra-vault check --repair --store {dir}; on a failing disk first umbra-vault \
             salvage --store {dir} --to DIR"
        ))
    }
}

fn lost_total(report: &CheckReport) -> u64 {
    let kept = u64::try_from(report.lost.len()).unwrap_or(u64::MAX);
    kept.saturating_add(report.lost_untold)
}

fn summary(place: &Place, report: &CheckReport) -> Value {
    let index = match report.index {
        IndexChecked::Compared => "compared",
        IndexChecked::Absent => "absent",
        IndexChecked::NotCompared(_) => "not-compared",
    };
    let by_kind: serde_json::Map<String, Value> = report
        .findings
        .totals
        .iter()
        .map(|(kind, count)| (kind.name().to_owned(), (*count).into()))
        .collect();
    json!({
        "store": report.store.to_string(),
        "path": place.dir(),
        "damaged": report.is_damaged(),
        "owned": report.owned,
        "index": index,
        "packs": report.packs,
        "packs_read": report.packs_read,
        "objects": report.objects,
        "nodes": report.nodes,
        "nodes_reached": report.nodes_reached,
        "bytes": report.bytes,
        "bytes_read": report.bytes_read,
        "bytes_void": report.bytes_void,
        "receipts": report.receipts,
        "seed": report.seed,
        "packs_without_parity": report.packs_without_parity,
        "findings": by_kind,
        "objects_lost": lost_total(report),
        "snapshots_hit": report.snapshots.len(),
    })
}

/// Reads a share in percent, to four places: in millionths.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || "use a number of percent above 0 and up to 100, such as 5% or 0.5%".to_owned();
    let digits = text.strip_suffix('%').unwrap_or(text);
    let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
    let all = [whole, places].concat();
    if places.len() > 4 || whole.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let places: u32 = format!("{places:0<4}").parse().map_err(|_| wrong())?;
    let millionths = whole.checked_mul(10_000).and_then(|whole| whole.checked_add(places));
    millionths.filter(|share| (1..=1_000_000).contains(share)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn shares() {
        assert_eq!(percent("5%"), Ok(50_000));
        assert_eq!(percent("100"), Ok(1_000_000));
        assert_eq!(percent("0.5%"), Ok(5_000));
        assert_eq!(percent("0.0001%"), Ok(1));
        for bad in ["", "%", "0", "0%", "101%", "-1", "1e1", "0.00001", "100.0001%", "+5", ".5"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
