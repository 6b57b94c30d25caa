//! Checks the rules that the compiler does not: crate edges, file lengths, leftovers, places that must not be named.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::env::BuildEnv;
use crate::process;

/// Which crate of the workspace may depend on which (`A <- B` of ARCHITECTURE.md, spelled out).
const EDGES: &[(&str, &[&str])] = &[
    // For its tests only: cargo refuses a circle of any other kind.
    ("umbra-fsparse", &["umbra-walkdiff"]),
    ("umbra-walkdiff", &["umbra-fsparse"]),
    ("umbra-common", &["umbra-fsparse"]),
    ("umbra-net", &["umbra-fsparse", "umbra-common"]),
    ("umbra-store", &["umbra-fsparse", "umbra-common"]),
    ("umbra-index-rocksdb", &["umbra-fsparse", "umbra-common", "umbra-store"]),
    (
        "umbra-vault",
        &["umbra-fsparse", "umbra-common", "umbra-net", "umbra-store", "umbra-index-rocksdb"],
    ),
    ("umbra-agent", &["umbra-fsparse", "umbra-common", "umbra-net"]),
    // Net for what torments a vault: an agent is too slow to start for that. Never agent or vault: their code must not
    // judge itself.
    ("umbra-tests", &["umbra-fsparse", "umbra-common", "umbra-net"]),
    ("xtask", &["umbra-fsparse", "umbra-common", "umbra-walkdiff"]),
];

/// Outside dependencies that only the named crate may have.
const ONLY_IN: &[(&str, &str)] = &[("rocksdb", "umbra-index-rocksdb")];

/// Outside dependencies that crates of these names must stay free of: they are synchronous and testable without sockets.
const NEVER_IN: &[(&str, &[&str])] = &[
    ("tokio", &["umbra-fsparse", "umbra-common", "umbra-store", "umbra-index-rocksdb"]),
    ("quinn", &["umbra-fsparse", "umbra-common", "umbra-store", "umbra-index-rocksdb"]),
    (
        "anyhow",
        &["umbra-fsparse", "umbra-common", "umbra-store", "umbra-index-rocksdb", "umbra-net"],
    ),
];

/// Crates that must not be anywhere below us.
const FORBIDDEN: &[&str] = &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"];

const LONG_FILE_LINES: usize = 400;
const LONGEST_FILE_LINES: usize = 800;
const LONGEST_PAGE_LINES: usize = 250;

/// What the checks found.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// Runs every check and prints what was found.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn run(env: &BuildEnv) -> Result<()> {
    let mut findings = Findings::default();
    let metadata = process::output(&mut env.cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--locked",
    ]))?;
    check_edges(&serde_json::from_slice(&metadata)?, &mut findings);
    let lock = fs::read_to_string(env.root.join("Cargo.lock")).context("Cargo.lock")?;
    check_lock(&lock, &mut findings);
    let files = tracked_files(env)?;
    for path in &files {
        let Ok(bytes) = fs::read(env.root.join(path)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        check_file(path, &text, &mut findings);
    }
    check_pages(env, &files, &mut findings)?;
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    for error in &findings.errors {
        println!("error: {error}");
    }
    if !findings.errors.is_empty() {
        bail!("{} rules are broken", findings.errors.len());
    }
    println!("tidy: {} files, {} warnings", files.len(), findings.warnings.len());
    Ok(())
}

/// Files that git knows, and new ones that it does not ignore.
fn tracked_files(env: &BuildEnv) -> Result<BTreeSet<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = process::output(env.command("git").args(arguments))?;
    Ok(String::from_utf8_lossy(&listed)
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect())
}

fn check_edges(metadata: &Value, findings: &mut Findings) {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(crate_name, _)| *crate_name == name) else {
            findings
                .errors
                .push(format!("crate {name} has no place in the crate graph of tidy.rs"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice);
        for dependency in dependencies.unwrap_or_default() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string();
            if is_ours && !allowed.contains(&target) {
                findings.errors.push(format!("{name} must not depend on {target}"));
            }
            for (outside, only) in ONLY_IN {
                if target == *outside && name != *only {
                    findings
                        .errors
                        .push(format!("only {only} may depend on {outside}, not {name}"));
                }
            }
            let is_dev = dependency["kind"].as_str() == Some("dev");
            for (outside, crates) in NEVER_IN {
                if target == *outside && crates.contains(&name) && !is_dev {
                    findings.errors.push(format!("{name} must not depend on {outside}"));
                }
            }
        }
    }
}

fn check_lock(lock: &str, findings: &mut Findings) {
    for line in lock.lines() {
        let Some(name) = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"'))
        else {
            continue;
        };
        if FORBIDDEN.contains(&name) {
            findings.errors.push(format!("Cargo.lock holds {name}, which umbra does without"));
        }
    }
}

/// True for files that hold nothing but tests.
fn is_test_file(path: &str) -> bool {
    let in_test_dir = path
        .split('/')
        .rev()
        .skip(1)
        .any(|component| component == "tests" || component.ends_with("_tests"));
    in_test_dir || path.ends_with("tests.rs")
}

fn check_file(path: &str, text: &str, findings: &mut Findings) {
    let is_rust = path.ends_with(".rs");
    if path == "README.md" || path == "ARCHITECTURE.md" {
        let lines = text.lines().count();
        if lines > LONGEST_PAGE_LINES {
            findings.errors.push(format!("{path}: {lines} lines, more than {LONGEST_PAGE_LINES}"));
        }
    }
    if !is_test_file(path) {
        check_places(path, text, findings);
    }
    if is_rust {
        check_leftovers(path, text, findings);
        if !is_test_file(path) {
            check_length(path, text, findings);
        }
    }
}

/// Only tests may look beside the checkout, and nothing may expect the checkout in one place.
fn check_places(path: &str, text: &str, findings: &mut Findings) {
    // Put together here, so that this file does not break its own rule.
    let places = [concat!("..", "/shared"), concat!("/work", "/")];
    for (number, line) in text.lines().enumerate() {
        if places.iter().any(|place| line.contains(place)) {
            findings.errors.push(format!(
                "{path}:{}: names a place outside the checkout: {}",
                number + 1,
                line.trim()
            ));
        }
    }
}

fn check_leftovers(path: &str, text: &str, findings: &mut Findings) {
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    for (number, line) in text.lines().enumerate() {
        if leftovers.iter().any(|leftover| line.contains(leftover)) {
            findings.errors.push(format!("{path}:{}: leftover: {}", number + 1, line.trim()));
        }
    }
}

/// Counts the lines before the tests at the end of the file.
fn check_length(path: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > LONGEST_FILE_LINES {
        findings
            .errors
            .push(format!("{path}: {lines} lines without tests, more than {LONGEST_FILE_LINES}"));
    } else if lines > LONG_FILE_LINES {
        findings.warnings.push(format!("{path}: {lines} lines without tests"));
    }
}

/// The pages that a reader needs must be there, and each format's page must be reachable.
fn check_pages(env: &BuildEnv, files: &BTreeSet<String>, findings: &mut Findings) -> Result<()> {
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        if !files.contains(page) {
            findings.errors.push(format!("{page} is missing"));
        }
    }
    let index = "docs/formats/README.md";
    let known = if files.contains(index) {
        fs::read_to_string(env.root.join(index))?
    } else {
        String::new()
    };
    for path in files {
        let Some(name) = path.strip_prefix("docs/formats/") else { continue };
        if path != index && !known.contains(name) {
            findings.errors.push(format!("{index} does not mention {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Findings, check_edges, check_file, check_lock, is_test_file};

    fn errors_of(check: impl FnOnce(&mut Findings)) -> Vec<String> {
        let mut findings = Findings::default();
        check(&mut findings);
        findings.errors
    }

    #[test]
    fn a_wrong_edge_is_found_and_a_right_one_is_not() {
        let package = |name: &str, dependency: &str, path: Option<&str>| {
            json!({"packages": [{"name": name, "dependencies":
                [{"name": dependency, "path": path, "kind": null}]}]})
        };
        let errors = |name, dependency, path| {
            errors_of(|findings| check_edges(&package(name, dependency, path), findings)).len()
        };
        assert_eq!(errors("umbra-agent", "umbra-common", Some("/x")), 0);
        assert_eq!(errors("umbra-agent", "umbra-store", Some("/x")), 1);
        assert_eq!(errors("umbra-vault", "rocksdb", None), 1);
        assert_eq!(errors("umbra-index-rocksdb", "rocksdb", None), 0);
        assert_eq!(errors("umbra-common", "tokio", None), 1);
        assert_eq!(errors("umbra-new", "libc", None), 1);
    }

    #[test]
    fn forbidden_crates_are_found_in_the_lock_file() {
        let lock = "[[package]]\nname = \"openssl-sys\"\n\n[[package]]\nname = \"ring\"\n";
        assert_eq!(errors_of(|findings| check_lock(lock, findings)).len(), 1);
    }

    #[test]
    fn leftovers_and_outside_places_are_found() {
        let leftover = format!("// {}: later\n", concat!("TO", "DO"));
        assert_eq!(errors_of(|f| check_file("common/src/lib.rs", &leftover, f)).len(), 1);
        let outside = format!("let dir = \"{}/corpus\";\n", concat!("..", "/shared"));
        assert_eq!(errors_of(|f| check_file("agent/src/lib.rs", &outside, f)).len(), 1);
        assert_eq!(errors_of(|f| check_file("tests/src/corpus.rs", &outside, f)).len(), 0);
        assert_eq!(errors_of(|f| check_file("agent/src/map/tests.rs", &outside, f)).len(), 0);
    }

    #[test]
    fn long_files_are_found_without_counting_their_tests() {
        let long = "fn x() {}\n".repeat(801);
        assert_eq!(errors_of(|f| check_file("agent/src/lib.rs", &long, f)).len(), 1);
        let tests = format!("fn x() {{}}\n#[cfg(test)]\n{long}");
        assert_eq!(errors_of(|f| check_file("agent/src/lib.rs", &tests, f)).len(), 0);
        assert!(is_test_file("agent/src/map/tests.rs") && !is_test_file("agent/src/map.rs"));
    }
}
