//! Which paths `--include` and `--exclude` let through.
//!
//! A pattern with a `/` in it is matched against the whole path within its volume, one without
//! against each name on the way. `*` and `?` stop at `/`, `**` does not. What matches includes or
//! leaves out everything below it too.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It and everything below is wanted, as far as nothing below is left out.
    Include,
    /// It is not wanted itself; something below may be.
    Pass,
    /// Neither it nor anything below is wanted.
    Exclude,
}

/// Compiled patterns.
#[derive(Clone, Debug)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Patterns,
}

#[derive(Clone, Debug)]
struct Patterns {
    paths: GlobSet,
    names: GlobSet,
}

impl Patterns {
    fn new(patterns: &[String]) -> Result<Self> {
        let mut paths = GlobSetBuilder::new();
        let mut names = GlobSetBuilder::new();
        for pattern in patterns {
            let wrong = |error: globset::Error| Error::Usage {
                what: format!("{pattern:?} is no pattern: {}", error.kind()),
                hint: "use *, ?, [a-z], {a,b} and **; a backslash takes a character as it is"
                    .into(),
            };
            let trimmed = pattern.trim_end_matches('/');
            let whole = trimmed.contains('/');
            let text = trimmed.strip_prefix('/').unwrap_or(trimmed);
            let glob = GlobBuilder::new(text)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(wrong)?;
            if whole {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let wrong = |error: globset::Error| Error::Usage {
            what: format!("the patterns cannot be used together: {error}"),
            hint: "use fewer or simpler ones".into(),
        };
        Ok(Self { paths: paths.build().map_err(wrong)?, names: names.build().map_err(wrong)? })
    }

    fn matches(&self, path: &[u8], name: &[u8]) -> bool {
        self.names.is_match_candidate(&Candidate::from_bytes(name))
            || self.paths.is_match_candidate(&Candidate::from_bytes(path))
    }
}

impl Filter {
    /// Compiles patterns; without any `include` everything is included.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let include = (!include.is_empty()).then(|| Patterns::new(include)).transpose()?;
        Ok(Self { include, exclude: Patterns::new(exclude)? })
    }

    /// Decides about `path` (within its volume, without slashes at its ends), given the verdict
    /// about the directory above it.
    pub fn verdict(&self, path: &[u8], above: Verdict) -> Verdict {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        if above == Verdict::Exclude || self.exclude.matches(path, name) {
            return Verdict::Exclude;
        }
        match &self.include {
            Some(patterns) if above == Verdict::Pass => {
                if patterns.matches(path, name) {
                    Verdict::Include
                } else {
                    Verdict::Pass
                }
            }
            _ => Verdict::Include,
        }
    }

    /// Returns the verdict about what has no directory above it: a volume's root.
    pub fn root(&self) -> Verdict {
        if self.include.is_some() { Verdict::Pass } else { Verdict::Include }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Decides about a path by way of all directories above it.
    fn decide(include: &[&str], exclude: &[&str], path: &str) -> Verdict {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let filter = Filter::new(&owned(include), &owned(exclude)).unwrap();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.fold(filter.root(), |above, end| filter.verdict(&path.as_bytes()[..end], above))
    }

    #[test]
    fn without_patterns_everything_is_wanted() {
        assert_eq!(decide(&[], &[], "a/b"), Verdict::Include);
    }

    #[test]
    fn includes_reach_down_and_excludes_win() {
        assert_eq!(decide(&["etc"], &[], "etc/ssh/key"), Verdict::Include);
        assert_eq!(decide(&["/etc/ssh"], &[], "etc"), Verdict::Pass);
        assert_eq!(decide(&["/etc/ssh"], &[], "etc/ssh/key"), Verdict::Include);
        assert_eq!(decide(&["/etc/ssh"], &[], "srv/etc/ssh"), Verdict::Pass);
        assert_eq!(decide(&["etc"], &["*.key"], "etc/ssh/a.key"), Verdict::Exclude);
        assert_eq!(decide(&[], &["/var/cache/"], "var/cache/apt/x"), Verdict::Exclude);
        assert_eq!(decide(&[], &["/var/cache/*"], "var/cache"), Verdict::Include);
    }

    #[test]
    fn stars_stop_at_slashes_and_two_do_not() {
        assert_eq!(decide(&["/a/*.txt"], &[], "a/b/c.txt"), Verdict::Pass);
        assert_eq!(decide(&["/a/**/*.txt"], &[], "a/b/c.txt"), Verdict::Include);
        assert_eq!(decide(&["*.txt"], &[], "a/b/c.txt"), Verdict::Include);
    }

    #[test]
    fn names_that_are_no_text_are_matched_as_bytes() {
        let filter = Filter::new(&["a*".into()], &[]).unwrap();
        assert_eq!(filter.verdict(b"a\xff\xfe", Verdict::Pass), Verdict::Include);
        assert_eq!(filter.verdict(b"b\xff", Verdict::Pass), Verdict::Pass);
    }

    #[test]
    fn a_broken_pattern_is_a_usage_error() {
        assert_eq!(Filter::new(&["[".into()], &[]).unwrap_err().exit_code(), 2);
    }
}
