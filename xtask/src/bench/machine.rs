//! When and where: a figure without its machine means nothing.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Programs;
use crate::env::BuildEnv;
use crate::process;

/// The machine of a run.
pub(super) struct Machine {
    /// Processors, memory, kernel, file system.
    pub(super) description: String,
    /// umbra's commit and the versions of the others.
    pub(super) versions: String,
}

impl Machine {
    /// Looks around; `place` is on the file system that is used.
    ///
    /// # Errors
    /// When a tool does not tell its version.
    pub(super) fn find(env: &BuildEnv, place: &Path, programs: Programs) -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let place = place.to_string_lossy();
        let described = line(env, "df", &["--output=fstype,source", &place], 1)?;
        let file_system: Vec<&str> = described.split_whitespace().collect();
        let description = format!(
            "{}, {} of memory, Linux {}, {}",
            processors(&cpus),
            total_memory(&memory),
            kernel.trim(),
            file_system.join(" on ")
        );
        Ok(Self { description, versions: versions(env, programs)? })
    }
}

/// Today.
///
/// # Errors
/// When `date` fails.
pub(super) fn today(env: &BuildEnv) -> Result<String> {
    line(env, "date", &["--utc", "+%Y-%m-%d"], 0)
}

/// The load of the last minute: whether others worked too.
pub(super) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn versions(env: &BuildEnv, programs: Programs) -> Result<String> {
    let commit = match programs {
        Programs::BuiltNow => {
            let commit = line(env, "git", &["describe", "--always", "--dirty", "--abbrev=10"], 0);
            commit.unwrap_or_else(|_| "outside of git".to_owned())
        }
        Programs::BuiltEarlier => "of an earlier build".to_owned(),
    };
    let restic = line(env, "restic", &["version"], 0)?;
    let restic: Vec<&str> = restic.split_whitespace().take(2).collect();
    let mut all = vec![format!("umbra {commit}"), restic.join(" ")];
    all.push(line(env, "borg", &["--version"], 0)?);
    all.push(line(env, "casync", &["--version"], 0)?);
    let partclone = line(env, "partclone.ext4", &["--version"], 0)?;
    let version = partclone.split_whitespace().find(|word| word.starts_with('v'));
    all.push(format!("partclone {}", version.unwrap_or_default().trim_start_matches('v')));
    Ok(all.join(", "))
}

fn line(env: &BuildEnv, program: &str, arguments: &[&str], number: usize) -> Result<String> {
    let said = process::output(env.command(program).args(arguments))?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().nth(number).unwrap_or_default().trim().to_owned())
}

fn processors(cpuinfo: &str) -> String {
    let models = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name"));
    let models: Vec<&str> =
        models.filter_map(|rest| Some(rest.split_once(':')?.1.trim())).collect();
    match models.first() {
        Some(model) => format!("{} x {model}", models.len()),
        None => format!("{} processors", cpuinfo.matches("processor").count()),
    }
}

fn total_memory(meminfo: &str) -> String {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes: Option<u64> =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.map_or("unknown".into(), |kibibytes| format!("{} GiB", (kibibytes + (1 << 19)) >> 20))
}

#[cfg(test)]
mod tests {
    use super::{processors, total_memory};

    #[test]
    fn processors_are_counted_and_named() {
        let two =
            "processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(processors(two), "2 x AMD EPYC");
        // Not every architecture names a model.
        assert_eq!(processors("processor\t: 0\nprocessor\t: 1\n"), "2 processors");
    }

    #[test]
    fn memory_is_rounded_to_gibibytes() {
        assert_eq!(total_memory("MemFree: 1 kB\nMemTotal:       24683656 kB\n"), "24 GiB");
        assert_eq!(total_memory(""), "unknown");
    }
}
