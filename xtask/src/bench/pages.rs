//! Puts tables into pages, between markers that a reader does not see.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::table::Target;

/// The page with everything.
pub(super) const PAGE: &str = "docs/performance.md";
/// The page with the targets alone.
pub(crate) const README: &str = "README.md";
/// The marker of the README's table.
const README_KEY: &str = "targets";

/// Where and when something was measured.
pub(super) struct Stamp<'s> {
    /// The machine, in words.
    pub(super) machine: &'s str,
    /// The day.
    pub(super) date: &'s str,
}

/// Puts a scenario's text into the page.
///
/// # Errors
/// When the page has no markers for it.
pub(super) fn write_section(root: &Path, key: &str, text: &str) -> Result<()> {
    update(&root.join(PAGE), key, |_| text.to_owned())
}

/// Puts targets into the README; those that were not measured now keep their lines as long as the machine is the same.
///
/// # Errors
/// When the README has no markers.
pub(super) fn write_targets(root: &Path, stamp: &Stamp<'_>, new: &[Target]) -> Result<()> {
    update(&root.join(README), README_KEY, |old| merged(old, stamp, new))
}

/// The README's table with these targets' lines renewed.
fn merged(old: &str, stamp: &Stamp<'_>, new: &[Target]) -> String {
    let intro = format!("On {}:", stamp.machine);
    let is_same_machine = old.lines().any(|line| line == intro);
    let mut lines: Vec<String> = old
        .lines()
        .filter(|line| is_same_machine && line.starts_with("| ") && !line.starts_with("| target"))
        .map(str::to_owned)
        .collect();
    for target in new {
        let begin = format!("| {} |", target.what);
        let line = format!("{} {} |", target.line(), stamp.date);
        match lines.iter_mut().find(|line| line.starts_with(&begin)) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
    }
    format!(
        "{intro}\n\n| target | at most | measured | | on |\n|---|---|---|---|---|\n{}\n",
        lines.join("\n")
    )
}

/// Replaces what stands between the markers of `key` in a page.
///
/// # Errors
/// When the page has no such markers.
pub(crate) fn update(path: &Path, key: &str, text: impl FnOnce(&str) -> String) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let page = replaced(&page, key, text)
        .with_context(|| format!("{} has no markers for {key}", path.display()))?;
    fs::write(path, page).with_context(|| path.display().to_string())
}

/// The page with what stands between the markers of `key` replaced; none where there are no markers.
fn replaced(page: &str, key: &str, text: impl FnOnce(&str) -> String) -> Option<String> {
    let (begin, end) = (format!("<!-- bench: {key} -->\n"), format!("<!-- end: {key} -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (old, after) = rest.split_once(&end)?;
    let text = text(old);
    Some(format!("{before}{begin}\n{}\n\n{end}{after}", text.trim_matches('\n')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{PAGE, README, README_KEY, Stamp, merged, replaced};
    use crate::bench::Scenario;
    use crate::bench::table::{Amount, Target};

    fn target(what: &str, measured: f64) -> Target {
        Target {
            what: what.to_owned(),
            at_most: Amount::Ratio(0.45),
            measured: Some(Amount::Ratio(measured)),
        }
    }

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let page = "# A\n<!-- bench: a -->\nold\n<!-- end: a -->\nrest\n<!-- bench: b -->\n<!-- end: b -->\n";
        let once = replaced(page, "a", |old| {
            assert_eq!(old, "old\n");
            "new\n".to_owned()
        });
        let once = once.unwrap();
        assert!(once.starts_with("# A\n<!-- bench: a -->\n\nnew\n\n<!-- end: a -->\nrest\n"));
        assert!(once.ends_with("<!-- bench: b -->\n<!-- end: b -->\n"));
        // Again and again: nothing grows.
        assert_eq!(replaced(&once, "a", |_| "new".to_owned()).unwrap(), once);
        assert_eq!(replaced(page, "c", str::to_owned), None);
        assert_eq!(replaced("<!-- bench: a -->\n", "a", str::to_owned), None);
    }

    #[test]
    fn targets_that_were_not_measured_again_keep_their_lines() {
        let first = merged(
            "",
            &Stamp { machine: "2 x EPYC", date: "2026-11-22" },
            &[target("a", 0.4), target("b", 0.5)],
        );
        assert!(first.starts_with("On 2 x EPYC:\n\n| target |"), "{first}");
        assert!(first.contains("| a | 0.45 | 0.40 | met | 2026-11-22 |\n"), "{first}");
        let second = merged(
            &first,
            &Stamp { machine: "2 x EPYC", date: "2026-11-23" },
            &[target("b", 0.3), target("c", 0.1)],
        );
        assert!(second.contains("| a | 0.45 | 0.40 | met | 2026-11-22 |\n"), "{second}");
        assert!(second.contains("| b | 0.45 | 0.30 | met | 2026-11-23 |\n"), "{second}");
        assert_eq!(second.lines().count(), 7, "{second}");
        // Figures of another machine do not stand in one table with these.
        let other =
            merged(&first, &Stamp { machine: "8 x EPYC", date: "2026-11-23" }, &[target("b", 0.3)]);
        assert!(!other.contains("| a |"), "{other}");
    }

    #[test]
    fn the_pages_have_their_markers() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = std::fs::read_to_string(root.join(PAGE)).unwrap();
        for scenario in Scenario::ALL {
            assert!(replaced(&page, scenario.key(), str::to_owned).is_some(), "{scenario:?}");
        }
        let readme = std::fs::read_to_string(root.join(README)).unwrap();
        assert!(replaced(&readme, README_KEY, str::to_owned).is_some());
    }
}
