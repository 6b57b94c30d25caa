//! `backup`: one snapshot for each source.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use umbra_common::snapshot::{Consistency, Method, RunId, SessionNonce};
use umbra_common::wire::{BaseState, Begin};
use umbra_fsparse::Timestamp;

use crate::backup::{self, Input, Job, Labels, Outcome, SendPolicy};
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{BackupArgs, Global, Output};
use crate::config;
use crate::connect::{Access, Connection, connect};
use crate::error::{Error, Result};
use crate::known::{KnownTable, TableKey};
use crate::monitor::{Monitor, Stage};
use crate::mounts;
use crate::source::{Source, SourceKind};
use crate::survey::{ParsePolicy, survey};
use crate::uplink::VaultUplink;

/// Backs up every source; all snapshots of one call share a run.
///
/// # Errors
/// The first that ends the command; [`Error::Partial`] where ranges could not be read.
pub fn run(global: &Global, args: &BackupArgs, output: &Output) -> Result<()> {
    if args.sources.len() > 1 && global.disk.is_some() {
        return Err(Error::Usage {
            what: "--disk names one disk and there are several sources".into(),
            hint: "leave --disk out, or back up one source at a time".into(),
        });
    }
    let mut sources = Vec::new();
    for path in &args.sources {
        sources.push(open_source(path, args, global)?);
    }
    let connection = connect(global, Access::Write)?;
    let run = RunId(random()?);
    let mut unreadable = 0;
    for (source, method) in sources {
        let context = Context { global, args, output, connection: &connection, run };
        unreadable += context.one(source, method)?;
    }
    if unreadable == 0 {
        return Ok(());
    }
    Err(Error::Partial {
        what: format!(
            "{unreadable} ranges of the source could not be read; the snapshot has zeros there and \
             says so (`umbra show`)"
        ),
    })
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        what: "get randomness from",
        path: "the system".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

/// What one argument names.
enum Opened {
    Disk(Source),
    /// Standard input.
    Stream,
}

/// Opens a source and says how it may be read.
fn open_source(path: &Path, args: &BackupArgs, global: &Global) -> Result<(Opened, Method)> {
    if path == Path::new("-") {
        if global.disk.is_none() {
            return Err(Error::Usage {
                what: "standard input has no name".into(),
                hint: "give one with --disk NAME".into(),
            });
        }
        let text = "standard input".into();
        return Ok((Opened::Stream, Method { consistency: Consistency::Offline, text }));
    }
    let source = Source::open(path)?;
    let uses = match source.kind() {
        SourceKind::BlockDevice => mounts::uses_of_device(source.device_number()),
        SourceKind::ImageFile => mounts::uses_of_file(path),
    };
    let Some(used) = uses.iter().find(|used| used.writable) else {
        let text = match uses.first() {
            Some(used) => format!("mounted read-only at {}", used.place),
            None => "not in use".into(),
        };
        return Ok((Opened::Disk(source), Method { consistency: Consistency::Offline, text }));
    };
    if !args.inconsistent_ok {
        return Err(Error::Refused {
            path: path.into(),
            reason: format!("it is mounted read-write at {}", used.place),
            hint: "unmount it or mount it read-only; --inconsistent-ok makes a snapshot that is \
                   marked fuzzy for ever"
                .into(),
        });
    }
    let text = format!("read while mounted read-write at {}", used.place);
    Ok((Opened::Disk(source), Method { consistency: Consistency::Fuzzy, text }))
}

/// What all sources of one call share.
struct Context<'a> {
    global: &'a Global,
    args: &'a BackupArgs,
    output: &'a Output,
    connection: &'a Connection,
    run: RunId,
}

impl Context<'_> {
    /// Backs up one source and returns how many ranges of it could not be read.
    fn one(&self, source: Opened, method: Method) -> Result<u64> {
        let started = Instant::now();
        let progress = Progress::new(*self.output, self.global.no_progress);
        progress.begin(Stage::Survey, None);
        let policy = if self.args.no_parse { ParsePolicy::Skip } else { ParsePolicy::Parse };
        let labels = self.labels(&source, method)?;
        let store = self.connection.client.welcome()?.store;
        let cache = config::cache_dir(self.global.cache_dir.as_deref())
            .join(hex(&store))
            .join(&labels.machine)
            .join(format!("{}.ids", labels.disk));
        let table = KnownTable::open(&cache, &store);
        let uplink = VaultUplink::begin(
            &self.connection.client,
            Begin {
                disk: labels.disk.clone(),
                nonce: labels.nonce.0,
                base: table.snapshot(),
                resume: true,
                run: labels.run.0,
            },
        )?;
        let pinned = uplink.upload().begun().base == BaseState::Pinned;
        let known = if pinned { table } else { KnownTable::default() };
        let send = if self.global.dry_run { SendPolicy::CountOnly } else { SendPolicy::Send };
        let job = Job { uplink: &uplink, known: &known, policy: send, labels: &labels };
        let outcome = match &source {
            Opened::Disk(device) => {
                let survey = survey(device, policy, &progress);
                backup::run(&job, Input::Disk { device, survey: &survey }, &progress)
            }
            Opened::Stream => backup::run(&job, Input::Stream(&mut std::io::stdin()), &progress),
        };
        progress.finish();
        let mut outcome = outcome?;
        if outcome.receipt.is_some() {
            let key = TableKey { store, snapshot: outcome.snapshot };
            let ids = std::mem::take(&mut outcome.ids);
            // The table only saves questions: the snapshot stands without it.
            if let Err(error) = KnownTable::write(&cache, &key, ids) {
                self.output
                    .note(&format!("note: {error}; the next backup asks for every chunk"))?;
            }
        }
        let (_, warnings) = progress.warnings();
        self.report(&labels, &outcome, warnings, started.elapsed())?;
        Ok(outcome.unreadable as u64)
    }

    fn labels(&self, source: &Opened, method: Method) -> Result<Labels> {
        let disk = match &self.global.disk {
            Some(name) => {
                config::check_name("disk", name)?;
                name.clone()
            }
            None => match source {
                Opened::Disk(source) => default_disk_name(source),
                Opened::Stream => "disk".into(),
            },
        };
        let now = jiff::Timestamp::now();
        let (path, sector) = match source {
            Opened::Disk(source) => (source.path(), source.sector().0),
            Opened::Stream => (Path::new("-"), 512),
        };
        Ok(Labels {
            machine: self.connection.machine.clone(),
            disk,
            source: path.display().to_string(),
            sector_bytes: u32::try_from(sector).unwrap_or(512),
            host: config::host_name(),
            time: timestamp(now),
            tags: self.args.tags.clone(),
            method,
            run: self.run,
            nonce: SessionNonce(random()?),
        })
    }

    fn report(
        &self,
        labels: &Labels,
        outcome: &Outcome,
        warnings: u64,
        took: std::time::Duration,
    ) -> Result<()> {
        let [files, residue, meta] = outcome.bytes_new;
        let new = files + residue + meta;
        let id = outcome.snapshot.to_string();
        let done = if outcome.receipt.is_some() { "snapshot" } else { "dry run:" };
        self.output.text(&format!(
            "{done} {} of {}/{}: {} in {}, new {} (files {}, other {}, metadata {}), stored {}, {} names, {}",
            id.get(..12).unwrap_or(&id),
            labels.machine,
            labels.disk,
            bytes(outcome.bytes_total),
            duration(took),
            bytes(new),
            bytes(files),
            bytes(residue),
            bytes(meta),
            bytes(outcome.bytes_stored),
            outcome.files,
            labels.method.consistency.name(),
        ))?;
        let committed = outcome.receipt.is_some();
        let summary: Value = json!({
            "snapshot": if committed { Value::from(id) } else { Value::Null },
            "machine": labels.machine,
            "disk": labels.disk,
            "run": labels.run.to_string(),
            "bytes_total": outcome.bytes_total,
            "bytes_read": outcome.bytes_read,
            "bytes_zero": outcome.map.zero,
            "bytes_free": 0,
            "bytes_unreadable": outcome.map.unreadable,
            "bytes_files": outcome.bytes_files,
            "bytes_new": new,
            "bytes_new_files": files,
            "bytes_new_residue": residue,
            "bytes_new_meta": meta,
            "bytes_stored": outcome.bytes_stored,
            "bytes_sent": outcome.bytes_sent,
            "chunks_total": outcome.chunks_total,
            "chunks_new": outcome.chunks_new,
            "files": outcome.files,
            "warnings": warnings,
            "consistency": labels.method.consistency.name(),
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "image_hash": hex(&outcome.image_hash),
        });
        self.output.object("summary", summary)
    }
}

fn timestamp(time: jiff::Timestamp) -> Timestamp {
    let nanos = time.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
    Timestamp { seconds, nanos }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a device's by-id name, or an image's file name, made to fit.
fn default_disk_name(source: &Source) -> String {
    let own = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    if source.kind() == SourceKind::BlockDevice
        && let Ok(device) = source.path().canonicalize()
    {
        let mut names: Vec<String> = std::fs::read_dir("/dev/disk/by-id")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|link| link.path().canonicalize().is_ok_and(|target| target == device))
            .map(|link| link.file_name().to_string_lossy().into_owned())
            // A wwn says less to a person than the model and serial number.
            .filter(|name| !name.starts_with("wwn-"))
            .collect();
        names.sort_unstable();
        if let Some(name) = names.first() {
            return config::fit_name(name, "disk");
        }
    }
    config::fit_name(&own, "disk")
}
