//! `backup`: one snapshot for each source.

mod skip;
mod sources;

use std::time::Instant;

use serde_json::{Value, json};
use umbra_common::snapshot::{
    Consistency, FreePolicy, MAX_LABELS, MAX_TEXT_BYTES, RunId, SessionNonce,
};
use umbra_common::wire::{BaseState, Begin};
use umbra_fsparse::Timestamp;
use umbra_fsparse::partition::TableKind;
use umbra_net::NetError;

use crate::backup::{self, Input, Job, Labels, Outcome, SendPolicy};
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{BackupArgs, FreeArg, Global, Output, SkipArg};
use crate::config;
use crate::connect::{Access, Connection, connect, vault_url};
use crate::error::{Error, Result};
use crate::known::{KnownTable, TableKey};
use crate::listing::hex;
use crate::monitor::{Monitor, Stage};
use crate::mounts::System;
use crate::own_store::OwnStore;
use crate::source::SourceKind;
use crate::survey::{Options, ParsePolicy, survey};
use crate::uplink::VaultUplink;
use crate::vault_nodes::VaultNodes;

use sources::{Opened, Origin, Surroundings};

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
    // Said now, and not when everything has been read and sent.
    if args.tags.len() > MAX_LABELS || args.tags.iter().any(|tag| tag.len() > MAX_TEXT_BYTES) {
        return Err(Error::Usage {
            what: format!("a snapshot has at most {MAX_LABELS} tags of {MAX_TEXT_BYTES} bytes"),
            hint: "give fewer --tag, or shorter ones".into(),
        });
    }
    skip::check(args)?;
    let system = System::read()?;
    let own = OwnStore::of(&vault_url(global)?, &system);
    let mut sources: Vec<Opened> = Vec::new();
    for path in &args.sources {
        let source =
            sources::open(path, args, global, Surroundings { own: &own, system: &system })?;
        if let Some(other) = sources.iter().find(|other| other.disk == source.disk) {
            return Err(Error::Usage {
                what: format!(
                    "{} and {} would both be the disk {}",
                    other.path().display(),
                    path.display(),
                    source.disk
                ),
                hint: "back them up one at a time, each with its own --disk NAME".into(),
            });
        }
        sources.push(source);
    }
    let connection = connect(global, Access::Write)?;
    let run = RunId(random()?);
    let mut unreadable = 0;
    for source in sources {
        let context = Context { global, args, output, connection: &connection, run };
        let disk = source.disk.clone();
        unreadable += match context.one(source) {
            Ok(unreadable) => unreadable,
            Err(error) => return output.finish(context.failed(&disk, &error), Err(error)),
        };
    }
    if unreadable == 0 { Ok(()) } else { Err(partial(unreadable)) }
}

fn partial(unreadable: u64) -> Error {
    Error::Partial {
        what: format!(
            "{unreadable} ranges of the source could not be read; the snapshot has zeros there and \
             says so (`umbra show`)"
        ),
    }
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

/// What all sources of one call share.
struct Context<'a> {
    global: &'a Global,
    args: &'a BackupArgs,
    output: &'a Output,
    connection: &'a Connection,
    run: RunId,
}

impl Context<'_> {
    /// Returns the summary of a disk of which there is no snapshot.
    fn failed(&self, disk: &str, error: &Error) -> Value {
        json!({
            "snapshot": Value::Null,
            "machine": self.connection.machine,
            "disk": disk,
            "run": self.run.to_string(),
            "exit_code": error.exit_code(),
        })
    }

    /// Backs up one source and returns how many ranges of it could not be read.
    fn one(&self, source: Opened) -> Result<u64> {
        let started = Instant::now();
        let progress = Progress::new(*self.output, self.global.no_progress);
        progress.begin(Stage::Survey, None);
        let options = self.survey_options(&source);
        let mut labels = self.labels(&source)?;
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
        let nodes = VaultNodes::new(self.connection.client.reader());
        let send = if self.global.dry_run { SendPolicy::CountOnly } else { SendPolicy::Send };
        let outcome = match &source.input {
            Origin::Disk(device) => {
                let device = device.as_ref();
                let survey = survey(device, options, &progress);
                // What a file is an image of stands in its partition table alone.
                if let (SourceKind::ImageFile, TableKind::Gpt { sector }) =
                    (device.kind(), survey.table.kind)
                {
                    labels.sector_bytes = u32::try_from(sector.0).unwrap_or(512);
                }
                let job = Job { uplink: &uplink, known: &known, policy: send, labels: &labels };
                if self.args.skip.skip_unchanged == SkipArg::Metadata {
                    let (client, base) = (&self.connection.client, known.snapshot());
                    let skip = skip::order(&self.args.skip, client, base, &nodes)?;
                    backup::run_skipping(&job, device, &survey, &skip, &progress)
                } else {
                    backup::run(&job, Input::Disk { device, survey: &survey }, &progress)
                }
            }
            Origin::Stream => {
                let job = Job { uplink: &uplink, known: &known, policy: send, labels: &labels };
                backup::run(&job, Input::Stream(&mut std::io::stdin()), &progress)
            }
        };
        progress.finish();
        // With this table every further backup would end so.
        if let Err(Error::Vault(NetError::Missing { .. } | NetError::BaseGone { .. })) = &outcome {
            KnownTable::forget(&cache);
        }
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

    fn survey_options(&self, source: &Opened) -> Options {
        let parse = if self.args.no_parse { ParsePolicy::Skip } else { ParsePolicy::Parse };
        // What is free on a disk that is written may be a file a moment later.
        let is_fuzzy = source.method.consistency == Consistency::Fuzzy;
        let free = match self.args.free {
            Some(FreeArg::Keep) => FreePolicy::Keep,
            Some(FreeArg::Skip) => FreePolicy::Skip,
            None if is_fuzzy || parse == ParsePolicy::Skip => FreePolicy::Keep,
            None => FreePolicy::Skip,
        };
        Options { parse, free }
    }

    fn labels(&self, source: &Opened) -> Result<Labels> {
        let now = jiff::Timestamp::now();
        let sector = match &source.input {
            Origin::Disk(source) => source.sector().0,
            Origin::Stream => 512,
        };
        Ok(Labels {
            machine: self.connection.machine.clone(),
            disk: source.disk.clone(),
            source: source.path().display().to_string(),
            sector_bytes: u32::try_from(sector).unwrap_or(512),
            host: config::host_name(),
            time: timestamp(now),
            tags: self.args.tags.clone(),
            method: source.method.clone(),
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
            outcome.consistency.name(),
        ))?;
        if self.args.skip.skip_unchanged == SkipArg::Metadata {
            skip::say(&outcome.skipped, self.output)?;
        }
        let committed = outcome.receipt.is_some();
        let mut summary: Value = json!({
            "snapshot": if committed { Value::from(id) } else { Value::Null },
            "machine": labels.machine,
            "disk": labels.disk,
            "run": labels.run.to_string(),
            "bytes_total": outcome.bytes_total,
            "bytes_read": outcome.bytes_read,
            "bytes_zero": outcome.map.zero,
            "bytes_free": outcome.map.free,
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
            "unreadable_ranges": outcome.unreadable,
            "consistency": outcome.consistency.name(),
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "image_hash": hex(&outcome.image_hash),
        });
        skip::add_to(&mut summary, &self.args.skip, &outcome.skipped);
        if outcome.unreadable == 0 {
            return self.output.object("summary", summary);
        }
        // The command ends with this error behind its last source.
        match self.output.finish(summary, Err(partial(outcome.unreadable as u64))) {
            Err(Error::Partial { .. }) => Ok(()),
            other => other,
        }
    }
}

fn timestamp(time: jiff::Timestamp) -> Timestamp {
    let nanos = time.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
    Timestamp { seconds, nanos }
}
