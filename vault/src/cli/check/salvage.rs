//! `umbra-vault salvage`.

use super::{summary, tell};
use crate::cli::output::{Output, size};
use crate::error::Result;
use crate::place::Place;
use serde_json::json;
use umbra_store::ReadData;

/// Copies what verifies, and says what is lost; returns the exit code.
pub(in crate::cli) fn run(place: &Place, to: &Place, output: &Output) -> Result<u8> {
    let (done, has_key) = place.salvage(to)?;
    let dir = to.dir().display();
    output.text(&format!(
        "copied {} packs as they were ({} by their parity) and what is left of {}: {} records, \
         {} lost, {} of packs not readable",
        done.packs_whole,
        done.packs_from_parity,
        done.packs_in_part,
        done.records,
        done.records_lost,
        size(done.bytes_unreadable),
    ))?;
    output.text(&format!(
        "copied {} receipts ({} damaged) and {} entries of the LOG ({} lost)",
        done.receipts, done.receipts_lost, done.log_entries, done.log_entries_lost,
    ))?;
    if !has_key {
        output.text(
            "the vault's key could not be read: the next start makes one, and agents enroll again",
        )?;
    }
    // The copy was proven as it was written: its tables tell what is lost.
    let read = ReadData::Nothing;
    let report = to.check(&to.check_options(read))?;
    tell(to, &report, read, output)?;
    output.text(&format!("next: umbra-vault serve --store {dir}; do not use the old one again"))?;
    let mut last = summary(to, &report);
    if let Some(fields) = last.as_object_mut() {
        let salvage = json!({
            "packs_whole": done.packs_whole,
            "packs_from_parity": done.packs_from_parity,
            "packs_in_part": done.packs_in_part,
            "records": done.records,
            "records_lost": done.records_lost,
            "bytes_unreadable": done.bytes_unreadable,
            "receipts": done.receipts,
            "receipts_lost": done.receipts_lost,
            "log_entries": done.log_entries,
            "log_entries_lost": done.log_entries_lost,
            "key": has_key,
        });
        fields.insert("salvage".to_owned(), salvage);
    }
    output.summary(last)?;
    let lost = done.records_lost > 0 || done.receipts_lost > 0 || done.log_entries_lost > 0;
    Ok(if report.is_damaged() || lost { 4 } else { 0 })
}
