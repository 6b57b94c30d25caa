//! The only definition of green: every stage, its time, its budget.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::env::BuildEnv;
use crate::process;
use crate::setup::{self, Purpose};
use crate::test::{self, Counts};
use crate::{demo, fuzz, tidy};

/// What `cargo xtask ci` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs the large forms of the tests too.
    #[arg(long)]
    full: bool,
}

/// A run that takes longer than this is no longer sure to end in time.
const TOTAL_BUDGET: Duration = Duration::from_secs(75 * 60);
/// The same with `--full`, of which fuzzing alone takes half an hour.
const FULL_BUDGET: Duration = Duration::from_secs(120 * 60);

/// What one stage may take on two cores. RocksDB's first compilation falls into `build`.
struct Budget {
    warm: Duration,
    cold: Duration,
}

const fn minutes(warm: u64, cold: u64) -> Budget {
    Budget { warm: Duration::from_secs(warm * 60), cold: Duration::from_secs(cold * 60) }
}

struct Outcome {
    name: &'static str,
    took: Duration,
    budget: Duration,
    error: Option<String>,
}

/// One run of all stages.
struct Run<'e> {
    env: &'e BuildEnv,
    cold: bool,
    total_budget: Duration,
    outcomes: Vec<Outcome>,
}

/// Runs every stage and prints the table of times.
///
/// # Errors
/// When a stage failed, or took more than twice its budget.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    let begin = Instant::now();
    let total_budget = if options.full { FULL_BUDGET } else { TOTAL_BUDGET };
    let mut run = Run { env, cold: env.rocksdb_is_cold(), total_budget, outcomes: Vec::new() };
    let mut counts = Counts::default();
    run.stage("setup", minutes(5, 8), |env| setup::install(env, Purpose::Everything));
    run.stage("format", minutes(1, 1), |env| format(env, true));
    run.stage("tidy", minutes(1, 1), tidy::run);
    run.stage("agent-without-rocksdb", minutes(1, 1), agent_is_free_of_rocksdb);
    run.stage("build", minutes(12, 45), test::build);
    if run.is_built() {
        run.stage("lint", minutes(6, 8), lint);
        run.stage("test", minutes(20, 20), |env| {
            let options = test::Options { full: options.full, ..test::Options::default() };
            counts = test::run_tests(env, &options)?;
            Ok(())
        });
        let (depth, budget) = match options.full {
            true => (fuzz::Depth::Full, minutes(34, 40)),
            false => (fuzz::Depth::Push, minutes(8, 14)),
        };
        run.stage("fuzz", budget, |env| fuzz::ci(env, depth));
        run.stage("docs", minutes(4, 4), docs);
        run.stage("demo", minutes(3, 3), demo::run_small);
    }
    run.report(begin.elapsed())?;
    println!("{}", counts.closing_line());
    Ok(())
}

impl Run<'_> {
    fn stage(
        &mut self,
        name: &'static str,
        budget: Budget,
        work: impl FnOnce(&BuildEnv) -> Result<()>,
    ) {
        println!("\n==== {name} ====");
        let begin = Instant::now();
        let error = work(self.env).err().map(|error| format!("{error:#}"));
        let budget = if self.cold { budget.cold } else { budget.warm };
        let outcome = Outcome { name, took: begin.elapsed(), budget, error };
        println!("==== {} ====", outcome.line());
        self.outcomes.push(outcome);
    }

    /// True where the last stage, the build, succeeded: without it the later ones would only repeat its errors.
    fn is_built(&self) -> bool {
        self.outcomes.last().is_some_and(|outcome| outcome.error.is_none())
    }

    fn report(&self, total: Duration) -> Result<()> {
        println!("\ntime and budget ({})", if self.cold { "cold" } else { "warm" });
        for outcome in &self.outcomes {
            println!("    {}", outcome.line());
        }
        println!(
            "    {:<22} {:>6} s of {:>5} s",
            "all",
            total.as_secs(),
            self.total_budget.as_secs()
        );
        let failed: Vec<&str> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.verdict() != Verdict::Good && !outcome.is_warning())
            .map(|outcome| outcome.name)
            .collect();
        if !failed.is_empty() {
            bail!("not green: {}", failed.join(", "));
        }
        if total > self.total_budget {
            bail!("not green: the whole run took too long");
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    OverBudget,
    FarOverBudget,
    Failed,
}

impl Outcome {
    fn verdict(&self) -> Verdict {
        if self.error.is_some() {
            Verdict::Failed
        } else if self.took > self.budget * 2 {
            Verdict::FarOverBudget
        } else if self.took > self.budget {
            Verdict::OverBudget
        } else {
            Verdict::Good
        }
    }

    fn is_warning(&self) -> bool {
        self.verdict() == Verdict::OverBudget
    }

    fn line(&self) -> String {
        let verdict = match (self.verdict(), &self.error) {
            (Verdict::Failed, Some(error)) => format!("FAILED: {error}"),
            (Verdict::OverBudget, _) => "ok, WARNING: OVER ITS BUDGET".to_owned(),
            (Verdict::FarOverBudget, _) => "FAILED: more than twice its budget".to_owned(),
            _ => "ok".to_owned(),
        };
        let (took, budget) = (self.took.as_secs(), self.budget.as_secs());
        format!("{:<22} {took:>6} s of {budget:>5} s  {verdict}", self.name)
    }
}

/// Formats the workspace, or only tells whether it is formatted.
///
/// # Errors
/// With `check`: when something would change.
pub(crate) fn format(env: &BuildEnv, check: bool) -> Result<()> {
    let mut command = env.cargo(&["fmt", "--all"]);
    if check {
        command.arg("--check");
    }
    process::run(&mut command)
}

fn lint(env: &BuildEnv) -> Result<()> {
    let arguments = ["clippy", "--release", "--workspace", "--all-targets", "--locked"];
    process::run(env.cargo(&arguments).args(["--", "-D", "warnings"]))
}

fn docs(env: &BuildEnv) -> Result<()> {
    let arguments =
        ["doc", "--release", "--workspace", "--no-deps", "--locked", "--document-private-items"];
    process::run(env.cargo(&arguments).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The agent must run where no RocksDB can be built; cargo itself has to say that it does not depend on it.
fn agent_is_free_of_rocksdb(env: &BuildEnv) -> Result<()> {
    let arguments = ["tree", "--locked", "-p", "umbra-agent", "-i", "librocksdb-sys"];
    let mut command = env.cargo(&arguments);
    println!("$ {}   (must fail)", process::command_line(&command));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("did not match any packages") {
        bail!(
            "umbra-agent depends on librocksdb-sys, or cargo tree said something else:\n{}{said}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Outcome, Verdict};

    fn outcome(took_s: u64, error: Option<&str>) -> Outcome {
        Outcome {
            name: "stage",
            took: Duration::from_secs(took_s),
            budget: Duration::from_secs(10),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_stage_may_be_late_but_not_twice() {
        assert_eq!(outcome(10, None).verdict(), Verdict::Good);
        assert_eq!(outcome(11, None).verdict(), Verdict::OverBudget);
        assert!(outcome(20, None).is_warning());
        assert_eq!(outcome(21, None).verdict(), Verdict::FarOverBudget);
        assert!(!outcome(21, None).is_warning());
        assert_eq!(outcome(1, Some("broken")).verdict(), Verdict::Failed);
    }
}
