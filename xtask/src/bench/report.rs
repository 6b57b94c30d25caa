//! What was measured, on the terminal, in a file of its own, and in the pages.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine::{Machine, today};
use super::scenarios::Section;
use super::shelf::Zeros;
use super::{Bench, pages, table};
use crate::env::BuildEnv;

/// Fewer rounds are no measurement: they go into the pages only where that is asked for.
const ROUNDS_FOR_PAGES: u32 = 3;

/// A report that grows with every scenario.
pub(super) struct Report<'e> {
    env: &'e BuildEnv,
    machine: Machine,
    date: String,
    conditions: String,
    rounds: u32,
    for_pages: bool,
    file: PathBuf,
    text: String,
}

impl<'e> Report<'e> {
    /// Begins a report beside the disks.
    ///
    /// # Errors
    /// When a tool does not tell its version.
    pub(super) fn begin(env: &'e BuildEnv, place: &Path, bench: &Bench<'_>) -> Result<Self> {
        let zeros = match bench.shelf.zeros() {
            Zeros::Holes => "the images have holes where nothing was ever written",
            Zeros::Written => "the images have no holes",
        };
        let report = Self {
            env,
            machine: Machine::find(env, place, bench.programs)?,
            date: today(env)?,
            conditions: format!("{}; {zeros}", bench.cold.sentence()),
            rounds: bench.rounds,
            for_pages: bench.record || bench.rounds >= ROUNDS_FOR_PAGES,
            file: place.join("report.md"),
            text: String::new(),
        };
        println!("{}\n{}", report.machine.description, report.machine.versions);
        Ok(report)
    }

    /// Prints a section and writes it to the report, and to the pages when there were enough rounds or
    /// it was asked for.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn add(&mut self, section: &Section, load: &str) -> Result<()> {
        let text = self.section(section, load);
        println!("\n{text}");
        let _ = writeln!(self.text, "## {}\n\n{text}", section.scenario.key());
        fs::write(&self.file, &self.text)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        if !self.for_pages {
            return Ok(());
        }
        let root = &self.env.root;
        pages::write_section(root, section.scenario.key(), &text)?;
        let stamp = pages::Stamp { machine: &self.machine.description, date: &self.date };
        pages::write_targets(root, &stamp, &section.targets)
    }

    /// Says where everything stands.
    pub(super) fn end(self) {
        println!("\neverything stands in {}", self.file.display());
        if !self.for_pages {
            println!(
                "{} and {} were left alone: fewer than {ROUNDS_FOR_PAGES} rounds are no measurement",
                pages::PAGE,
                pages::README
            );
        } else {
            println!("and in {} and {}", pages::PAGE, pages::README);
        }
    }

    fn section(&self, section: &Section, load: &str) -> String {
        let mut text = format!("{}\n", section.method);
        for table in &section.tables {
            if !table.title.is_empty() {
                let _ = write!(text, "\n{}:\n", table.title);
            }
            let _ = write!(text, "\n{}", table::rows(&table.rows));
        }
        if !section.targets.is_empty() {
            let _ = write!(text, "\n{}", table::targets(&section.targets));
        }
        let rounds =
            if self.rounds == 1 { "1 round".into() } else { format!("{} rounds", self.rounds) };
        let _ = writeln!(
            text,
            "\n{}, {}, load before it {load}; {}; {rounds}; {}.",
            self.date, self.machine.description, self.machine.versions, self.conditions
        );
        text
    }
}
