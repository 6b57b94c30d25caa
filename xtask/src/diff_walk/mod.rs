//! Our walk of a file system beside the kernel's mount of a copy of it.

mod made;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use umbra_fsparse::partition::{self, TableKind};
use umbra_fsparse::{ByteOffset, ByteRange, ReadAt};
use umbra_walkdiff::compare::Compared;
use umbra_walkdiff::image::ImageFile;
use umbra_walkdiff::kernel::skip_reason;
use umbra_walkdiff::volume::{Stage, Verdict, diff};

use crate::process;

/// Differences that are printed of each comparison; all are counted.
const PRINTED: usize = 100;
/// Nothing was compared.
const NOT_COMPARED: u8 = 2;

/// What `cargo xtask diff-walk` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A file system, or a disk with partitions: an image file or a device. It is only read; the
    /// kernel mounts a sparse copy (below TMPDIR), because it has to recover what is dirty.
    #[arg(required_unless_present = "made", conflicts_with = "made")]
    image: Option<PathBuf>,
    /// Makes an image of each kind in each state and compares those.
    #[arg(long)]
    made: bool,
    /// Of the made ones only those of this kind.
    #[arg(long, requires = "made", value_name = "NAME")]
    only: Option<String>,
    /// Seed of what is written into the made ones.
    #[arg(long, requires = "made", default_value_t = 1)]
    seed: u32,
}

/// What came of all comparisons.
#[derive(Clone, Copy, Default)]
struct Total {
    volumes: usize,
    compared: Compared,
    differences: usize,
    not_compared: usize,
}

/// Compares; the exit code is 0 where everything is equal, 1 where something differs, 2 where
/// nothing could be compared.
///
/// # Errors
/// When the image cannot be read or copied, or a mounted tree not be listed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(reason) = skip_reason() {
        eprintln!(
            "xtask: diff-walk compares with the kernel's mount, and {reason}: run it as root on \
             Linux with util-linux, e2fsprogs and python3"
        );
        return Ok(ExitCode::from(NOT_COMPARED));
    }
    let mut total = Total::default();
    match &options.image {
        Some(image) => of_image(image, &mut total)?,
        None => made::all(options.only.as_deref(), options.seed, &mut total)?,
    }
    let Total { volumes, compared, differences, not_compared } = total;
    let Compared { entries, contents, extents, xattrs, locked } = compared;
    println!(
        "diff-walk: {differences} differences in {volumes} file systems; {entries} paths, \
         {contents} contents, {extents} extents, {xattrs} attributes compared, {locked} encrypted; \
         {not_compared} not compared"
    );
    Ok(match (differences, volumes) {
        (0, 0) => ExitCode::from(NOT_COMPARED),
        (0, _) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Compares every file system of an image.
fn of_image(image: &Path, total: &mut Total) -> Result<()> {
    let disk = ImageFile::open(image)?;
    let scratch = tempfile::Builder::new().prefix("diff-walk-").tempdir()?;
    let copy = scratch.path().join("copy.img");
    process::run_quietly(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy))
        .context("a copy that the kernel may recover; TMPDIR names a place with room")?;
    for (name, range) in volumes(&disk)? {
        let verdict = diff(&disk, range, &copy, scratch.path());
        report(&name, &verdict.with_context(|| name.clone())?, total);
    }
    Ok(())
}

/// Lists the partitions, or the whole disk where it has no partition table.
fn volumes(disk: &dyn ReadAt) -> Result<Vec<(String, ByteRange)>> {
    let table = partition::read(disk);
    for warning in &table.warnings {
        println!("warning: {warning}");
    }
    let Some(whole) = ByteRange::new(ByteOffset(0), disk.len()) else {
        bail!("the image is longer than 2^64 bytes");
    };
    if table.kind == TableKind::None {
        return Ok(vec![("disk".to_owned(), whole)]);
    }
    let parts = table.partitions.iter();
    Ok(parts.map(|part| (format!("part/{}", part.number), part.range)).collect())
}

/// Prints what came of one volume, and adds it up.
fn report(name: &str, verdict: &Verdict, total: &mut Total) {
    match verdict {
        Verdict::NoExt => {
            println!("{name}: no ext file system, not compared");
            total.not_compared += 1;
        }
        Verdict::NoWitness { kernel, ours } => {
            println!("{name}: not compared: {kernel}\n    our walk: {ours}");
            total.not_compared += 1;
        }
        Verdict::Compared { .. } => total.volumes += 1,
    }
    for stage in verdict.stages() {
        report_stage(name, stage);
        total.add(stage);
    }
}

fn report_stage(name: &str, stage: &Stage) {
    let Stage { compared, differences, warnings, replayed_blocks, .. } = stage;
    println!(
        "{name}, {}: {} paths, {} contents, {} extents, {replayed_blocks} blocks from the journal, \
         {} differences",
        stage.name,
        compared.entries,
        compared.contents,
        compared.extents,
        differences.len()
    );
    for warning in warnings.iter().take(PRINTED) {
        println!("    our warning: {warning}");
    }
    for difference in differences.iter().take(PRINTED) {
        println!("    {difference}");
    }
    for (what, count) in [("warnings", warnings.len()), ("differences", differences.len())] {
        if count > PRINTED {
            println!("    and {} more {what}", count - PRINTED);
        }
    }
}

impl Total {
    fn add(&mut self, stage: &Stage) {
        let Compared { entries, extents, contents, xattrs, locked } = stage.compared;
        self.differences += stage.differences.len();
        self.compared.entries += entries;
        self.compared.extents += extents;
        self.compared.contents += contents;
        self.compared.xattrs += xattrs;
        self.compared.locked += locked;
    }
}
