//! The licences of everything that is linked into the programs, as cargo names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Layout, PROGRAMS};
use crate::env::BuildEnv;
use crate::process;

/// How deep below a crate's directory the licences of bundled C and C++ sources are looked for.
const LEVELS: u32 = 3;

/// Directories of bundled sources that do not go into a library.
const UNLINKED_DIRS: [&str; 5] = ["benches", "contrib", "examples", "programs", "tests"];

const HEAD: &str = "# Third-party software

The programs contain, linked statically, the crates below, the C and C++ sources that some of them bring (RocksDB, zstd,
lz4, ring, BLAKE3), Rust's standard library (MIT or Apache-2.0), glibc (LGPL-2.1 or later; the sources of the programs, with
which they can be linked again to another glibc, are those of umbra) and libstdc++ (GPL-3.0 with the GCC Runtime Library
Exception).

";

/// Writes `THIRD-PARTY.md`: who wrote what is in the programs, and under which terms.
///
/// # Errors
/// When a crate names no licence, or cargo says something unexpected.
pub(super) fn write(env: &BuildEnv, layout: &Layout) -> Result<()> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform"];
    let told = process::output(env.cargo(&arguments).arg(&layout.triple))?;
    let metadata: Value = serde_json::from_slice(&told)?;
    let mut text = HEAD.to_owned();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in linked_packages(&metadata)? {
        let name = format!("{} {}", text_of(package, "name")?, text_of(package, "version")?);
        let licence = package["license"].as_str().or(package["license_file"].as_str());
        let Some(licence) = licence else { bail!("{name} names no licence") };
        writeln!(text, "- {name}: {licence}")?;
        let manifest = PathBuf::from(text_of(package, "manifest_path")?);
        let dir = manifest.parent().context("a manifest stands in a directory")?;
        for path in licence_files(dir, LEVELS) {
            let bytes = fs::read(&path)?;
            let wording = String::from_utf8_lossy(&bytes).trim().to_owned();
            texts.entry(wording).or_default().insert(name.clone());
        }
    }
    for (wording, names) in texts {
        let names: Vec<String> = names.into_iter().collect();
        write!(text, "\n## {}\n\n```\n{wording}\n```\n", names.join(", "))?;
    }
    fs::write(layout.staged.join("THIRD-PARTY.md"), text)?;
    Ok(())
}

/// The packages of others that the programs are linked with: what is reached over normal dependencies.
fn linked_packages(metadata: &Value) -> Result<Vec<&Value>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("no resolved packages")?;
    let mut waiting: Vec<&str> = packages
        .iter()
        .filter(|package| PROGRAMS.iter().any(|program| package["name"] == program.crate_name))
        .filter_map(|package| package["id"].as_str())
        .collect();
    let mut reached: BTreeSet<&str> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let node = nodes.iter().find(|node| node["id"] == id).context("an unresolved package")?;
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            let is_normal = kinds.any(|kind| kind["kind"].is_null());
            let Some(target) = dependency["pkg"].as_str() else { continue };
            if is_normal && reached.insert(target) {
                waiting.push(target);
            }
        }
    }
    let is_linked = |package: &&Value| {
        !package["source"].is_null()
            && package["id"].as_str().is_some_and(|id| reached.contains(id))
    };
    Ok(packages.iter().filter(is_linked).collect())
}

fn text_of<'v>(package: &'v Value, field: &str) -> Result<&'v str> {
    package[field].as_str().with_context(|| format!("a package without {field}"))
}

/// Files with licences in a directory and below it. Where there is none in a directory, `COPYING` counts: beside a licence
/// it is the GPL of a choice of two (RocksDB, zstd), which is not the one taken.
fn licence_files(dir: &Path, levels: u32) -> Vec<PathBuf> {
    let (mut found, mut copying) = (Vec::new(), Vec::new());
    let mut below = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy().to_ascii_uppercase();
        let is_source =
            [".RS", ".C", ".H", ".CC", ".PY", ".TOML"].iter().any(|end| name.ends_with(end));
        if path.is_dir() {
            if !UNLINKED_DIRS.iter().any(|dir| name.eq_ignore_ascii_case(dir)) {
                below.push(path);
            }
        } else if is_source {
            continue;
        } else if ["LICENSE", "LICENCE", "NOTICE", "COPYRIGHT", "UNLICENSE"]
            .iter()
            .any(|start| name.starts_with(start))
        {
            found.push(path);
        } else if name.starts_with("COPYING") {
            copying.push(path);
        }
    }
    if found.is_empty() {
        found = copying;
    }
    if levels > 0 {
        found.extend(below.iter().flat_map(|dir| licence_files(dir, levels - 1)));
    }
    found.sort();
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::linked_packages;

    #[test]
    fn what_is_linked_is_reached_over_normal_dependencies_and_not_ours() {
        let package =
            |name: &str, source: Option<&str>| json!({"id": name, "name": name, "source": source});
        let edge =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("umbra-agent", None),
                package("umbra-vault", None),
                package("zstd", Some("registry")),
                package("zstd-sys", Some("registry")),
                package("cc", Some("registry")),
                package("proptest", Some("registry")),
            ],
            "resolve": {"nodes": [
                {"id": "umbra-agent", "deps": [edge("zstd", None), edge("proptest", Some("dev"))]},
                {"id": "umbra-vault", "deps": [edge("zstd", None)]},
                {"id": "zstd", "deps": [edge("zstd-sys", None)]},
                {"id": "zstd-sys", "deps": [edge("cc", Some("build"))]},
                {"id": "cc", "deps": []},
                {"id": "proptest", "deps": []},
            ]},
        });
        let linked = linked_packages(&metadata).unwrap();
        let names: Vec<&str> =
            linked.iter().filter_map(|package| package["name"].as_str()).collect();
        assert_eq!(names, ["zstd", "zstd-sys"]);
    }
}
