//! Runs a program and says what it cost.
//!
//! - Wall time: from before the start until the program has ended and the file system with its store
//!   is synced, so that nobody is faster by leaving the writing to the kernel.
//! - CPU: GNU time's user and system time, which is wait4(2)'s: the program and every descendant
//!   that was waited for (an embedded vault is), and of a running vault the difference of
//!   `/proc/PID/stat` before and after, in hundredths of a second.
//! - Peak memory: see `watch`; the largest process' is corrected by GNU time's exact one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::watch::{Peak, Stat, Watch, forget_peak};
use crate::env::BuildEnv;
use crate::process;

/// What GNU time is asked for: user and system seconds, the largest process' peak in KiB.
const ACCOUNT_FORMAT: &str = "%U %S %M";

/// The program of a running vault.
const VAULT: &str = "umbra-vault";

/// What a run cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// From the start to the end of the sync.
    pub(super) wall: Duration,
    /// User and system time of all processes.
    pub(super) cpu: Duration,
    /// Each program's peak memory, largest first.
    pub(super) peaks: Vec<Peak>,
}

impl Cost {
    /// Adds a run that came after this one: times add up, peaks do not.
    pub(super) fn then(&mut self, later: Self) {
        self.wall += later.wall;
        self.cpu += later.cpu;
        for peak in later.peaks {
            match self.peaks.iter_mut().find(|known| known.program == peak.program) {
                Some(known) => known.bytes = known.bytes.max(peak.bytes),
                None => self.peaks.push(peak),
            }
        }
    }
}

/// Writes a program's standard input.
pub(super) type Feed = Box<dyn FnOnce(ChildStdin) -> io::Result<()> + Send>;

/// What is to be run.
pub(super) struct Job<'j> {
    /// The program.
    pub(super) command: Command,
    /// A running vault that works for it.
    pub(super) vault: Option<u32>,
    /// Something on the file system that is synced in the end.
    pub(super) written: &'j Path,
    /// Its standard input; nothing where absent.
    pub(super) feed: Option<Feed>,
}

/// A run that succeeded.
pub(super) struct Done {
    /// What it cost.
    pub(super) cost: Cost,
    /// Its standard output.
    pub(super) said: Vec<u8>,
}

/// Runs programs below GNU time.
pub(super) struct Meter<'e> {
    env: &'e BuildEnv,
    time: PathBuf,
    /// For files of its own.
    scratch: PathBuf,
}

impl<'e> Meter<'e> {
    /// Finds GNU time.
    ///
    /// # Errors
    /// When it is missing.
    pub(super) fn new(env: &'e BuildEnv, scratch: &Path) -> Result<Self> {
        let time = env.which("time").context("GNU time is missing (Debian: time)")?;
        Ok(Self { env, time, scratch: scratch.to_owned() })
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it fails; the end of what it said on standard error is part of the message.
    pub(super) fn run(&self, job: Job<'_>) -> Result<Done> {
        let account = self.scratch.join("account");
        let (said, complaints) = (self.scratch.join("said"), self.scratch.join("complaints"));
        let line = process::command_line(&job.command);
        let mut command = below_time(&self.time, &account, &job.command);
        command.stdout(File::create(&said)?).stderr(File::create(&complaints)?);
        command.stdin(if job.feed.is_some() { Stdio::piped() } else { Stdio::null() });
        let vault_before = match job.vault {
            Some(pid) => {
                forget_peak(pid)?;
                Some(Stat::of(pid)?.cpu)
            }
            None => None,
        };
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        let watch = Watch::begin(child.id(), job.vault);
        let feeding = job.feed.zip(child.stdin.take());
        let feeding = feeding.map(|(feed, stdin)| thread::spawn(move || feed(stdin)));
        let status = child.wait()?;
        sync(self.env, job.written)?;
        let wall = begin.elapsed();
        let peaks = watch.end()?;
        if !status.success() {
            let complaints = fs::read(&complaints)?;
            let complaints = String::from_utf8_lossy(&complaints);
            let tail: Vec<&str> = complaints.trim_end().lines().rev().take(8).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("`{line}` failed: {status}\n{}", tail.join("\n"));
        }
        if let Some(Err(error)) = feeding.map(|feeding| feeding.join().unwrap_or(Ok(()))) {
            return Err(error).context("the program's input could not be written");
        }
        let account = Account::parse(&fs::read_to_string(&account)?)?;
        let mut cpu = account.cpu;
        if let (Some(pid), Some(before)) = (job.vault, vault_before) {
            cpu += Stat::of(pid)?.cpu.saturating_sub(before);
        }
        let program = Path::new(job.command.get_program()).file_name().unwrap_or_default();
        let exact =
            Peak { program: program.to_string_lossy().into_owned(), bytes: account.peak_bytes };
        let beside = job.vault.map(|_| VAULT);
        let peaks = corrected(peaks, exact, beside);
        Ok(Done { cost: Cost { wall, cpu, peaks }, said: fs::read(&said)? })
    }
}

/// The same command below GNU time, which writes the account to a file.
fn below_time(time: &Path, account: &Path, inner: &Command) -> Command {
    let mut command = Command::new(time);
    command.args(["-f", ACCOUNT_FORMAT, "-o"]).arg(account).arg("--");
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(dir) = inner.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// Writes out what the file system of this path still has in memory.
///
/// # Errors
/// When `sync` fails.
pub(super) fn sync(env: &BuildEnv, path: &Path) -> Result<()> {
    process::output(env.command("sync").arg("--file-system").arg(path)).map(drop)
}

/// What GNU time wrote.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    cpu: Duration,
    peak_bytes: u64,
}

impl Account {
    /// Reads the last line: above it stands how the program ended where it failed.
    fn parse(text: &str) -> Result<Self> {
        let line = text.lines().last().unwrap_or_default();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [user, system, peak] = fields.as_slice() else {
            bail!("GNU time wrote {line:?}");
        };
        let seconds = |text: &str| -> Result<Duration> {
            let seconds: f64 = text.parse().with_context(|| format!("GNU time wrote {line:?}"))?;
            Duration::try_from_secs_f64(seconds).with_context(|| format!("{text} is no time"))
        };
        let kibibytes: u64 = peak.parse().with_context(|| format!("GNU time wrote {line:?}"))?;
        let peak_bytes = kibibytes.checked_mul(1024).context("no such amount of memory")?;
        Ok(Self { cpu: seconds(user)? + seconds(system)?, peak_bytes })
    }
}

/// The peak of the largest process that GNU time waited for is known exactly. One that was too short to be seen is the
/// one that was started; a vault beside it is none of them.
fn corrected(mut peaks: Vec<Peak>, exact: Peak, beside: Option<&str>) -> Vec<Peak> {
    let largest = peaks.iter_mut().find(|peak| Some(peak.program.as_str()) != beside);
    match largest {
        Some(largest) => largest.bytes = largest.bytes.max(exact.bytes),
        None => peaks.push(exact),
    }
    peaks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use super::{Account, Cost, Peak, VAULT, below_time, corrected};

    fn peak(program: &str, bytes: u64) -> Peak {
        Peak { program: program.to_owned(), bytes }
    }

    #[test]
    fn an_account_is_read_below_what_else_time_says() {
        let account = Account { cpu: Duration::from_millis(1750), peak_bytes: 2048 * 1024 };
        assert_eq!(Account::parse("1.50 0.25 2048\n").unwrap(), account);
        let failed = "Command exited with non-zero status 1\n1.50 0.25 2048\n";
        assert_eq!(Account::parse(failed).unwrap(), account);
        for bad in ["", "1.50 0.25\n", "x 0.25 2048\n", "-1 0.25 2048\n", "1 1 1 1\n", "1 1 1.5\n"]
        {
            assert!(Account::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_largest_peak_is_corrected_upwards_only() {
        let seen = vec![peak(VAULT, 90), peak("umbra", 40)];
        let larger = corrected(seen.clone(), peak("umbra", 100), None);
        assert_eq!(larger, [peak(VAULT, 100), peak("umbra", 40)]);
        assert_eq!(corrected(seen.clone(), peak("umbra", 80), None), seen);
        assert_eq!(corrected(Vec::new(), peak("cat", 7), None), [peak("cat", 7)]);
        // A running vault is not below GNU time.
        let beside = corrected(seen, peak("umbra", 100), Some(VAULT));
        assert_eq!(beside, [peak(VAULT, 90), peak("umbra", 100)]);
        let alone = corrected(vec![peak(VAULT, 90)], peak("umbra", 7), Some(VAULT));
        assert_eq!(alone, [peak(VAULT, 90), peak("umbra", 7)]);
    }

    #[test]
    fn runs_in_a_row_add_times_and_keep_the_highest_peak() {
        let cost = |seconds, peaks: &[Peak]| Cost {
            wall: Duration::from_secs(seconds),
            cpu: Duration::from_secs(2 * seconds),
            peaks: peaks.to_vec(),
        };
        let mut all = cost(1, &[peak("a", 5)]);
        all.then(cost(2, &[peak("b", 3), peak("a", 4)]));
        assert_eq!(all, cost(3, &[peak("a", 5), peak("b", 3)]));
    }

    #[test]
    fn a_command_below_time_keeps_arguments_environment_and_directory() {
        let mut inner = Command::new("prog");
        inner.args(["-x", "a b"]).env("KEPT", "1").env_remove("GONE").current_dir("/tmp");
        let outer = below_time(Path::new("/usr/bin/time"), Path::new("/a"), &inner);
        let arguments: Vec<_> = outer.get_args().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(arguments, ["-f", "%U %S %M", "-o", "/a", "--", "prog", "-x", "a b"]);
        let names: Vec<_> = outer.get_envs().collect();
        assert_eq!(names, inner.get_envs().collect::<Vec<_>>());
        assert_eq!(outer.get_current_dir(), Some(Path::new("/tmp")));
    }
}
