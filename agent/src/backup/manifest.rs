//! The manifest of a snapshot, put together from what the stages found out.

use std::collections::BTreeMap;

use umbra_common::image_hash::ImageHash;
use umbra_common::map::MapRoot;
use umbra_common::node::Node;
use umbra_common::snapshot::{
    Counts, DiskLabel, MAX_TEXT_BYTES, MAX_WARNING_BYTES, MAX_WARNINGS, Manifest, ManifestWarning,
    Method, Parameters, Parsed, RunId, SessionNonce, Volume, shortened,
};
use umbra_common::{ByteLen, ByteRange};
use umbra_fsparse::partition::TableKind;
use umbra_fsparse::{FileType, Timestamp};

use super::image_map::MapCounts;
use super::inherit::Skipped;
use super::overlay::Overlay;
use crate::error::Result;
use crate::monitor::Notice;
use crate::survey::{Parse, Survey};

/// What a snapshot says about its origin.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The machine's name.
    pub machine: String,
    /// The disk's name.
    pub disk: String,
    /// The source's path, for people.
    pub source: String,
    /// The source's logical sector size in bytes.
    pub sector_bytes: u32,
    /// The host's name.
    pub host: String,
    /// The agent's clock at the beginning.
    pub time: Timestamp,
    /// Tags.
    pub tags: Vec<String>,
    /// How the source was read.
    pub method: Method,
    /// All disks of one `backup` share it.
    pub run: RunId,
    /// Names this backup, so that a repeated commit is known.
    pub nonce: SessionNonce,
}

/// Everything that a manifest is made of.
pub(super) struct Facts<'a> {
    pub(super) labels: &'a Labels,
    /// How the source was read in the end.
    pub(super) method: &'a Method,
    pub(super) survey: &'a Survey,
    pub(super) len: ByteLen,
    pub(super) map_root: MapRoot,
    pub(super) map: MapCounts,
    /// In the order of the survey's volumes.
    pub(super) overlays: &'a [Option<Overlay>],
    pub(super) image_hash: ImageHash,
    pub(super) unreadable: &'a [ByteRange],
    pub(super) chunks: u64,
    pub(super) files: u64,
    pub(super) warnings: (Vec<Notice>, u64),
    pub(super) skipped: &'a Skipped,
}

/// Returns the manifest's name of a partition table.
pub(super) fn table_name(survey: &Survey) -> &'static str {
    match survey.table.kind {
        TableKind::None => "",
        TableKind::Mbr => "mbr",
        TableKind::Gpt { .. } => "gpt",
    }
}

/// Makes the manifest's node.
pub(super) fn make(facts: &Facts<'_>) -> Result<Node> {
    let Facts { labels, survey, skipped, .. } = *facts;
    let volumes = survey.volumes.iter().zip(facts.overlays);
    let (notices, warnings_total) = &facts.warnings;
    let mut manifest = Manifest {
        disk: DiskLabel {
            name: labels.disk.clone(),
            length: facts.len,
            sector_bytes: labels.sector_bytes,
            source: shortened(&labels.source, MAX_TEXT_BYTES),
            guid: survey.table.disk_guid,
            labels: BTreeMap::new(),
        },
        machine: labels.machine.clone(),
        host: shortened(&labels.host, MAX_TEXT_BYTES),
        agent_time: labels.time,
        tags: labels.tags.clone(),
        parameters: Parameters::current(),
        partition_table: table_name(survey).into(),
        volumes: volumes.map(|(volume, overlay)| volume_of(volume, overlay.as_ref())).collect(),
        map: facts.map_root,
        image_hash: facts.image_hash,
        counts: Counts {
            bytes_total: facts.len.0,
            bytes_data: facts.map.data,
            bytes_zero: facts.map.zero,
            bytes_free: facts.map.free,
            bytes_unreadable: facts.map.unreadable,
            chunks: facts.chunks,
            files: facts.files,
            files_read: facts.files.saturating_sub(skipped.files_inherited),
            files_inherited: skipped.files_inherited,
            windows_inherited: skipped.windows_inherited,
            bytes_inherited: skipped.bytes_inherited,
            files_reread: skipped.files_reread,
            bytes_reread: skipped.bytes_reread,
            files_differing: skipped.files_differing,
            runs_since_full: skipped.runs_since_full,
            ..Counts::default()
        },
        free: survey.free,
        warnings: notices.iter().take(MAX_WARNINGS).map(warning_of).collect(),
        warnings_total: *warnings_total,
        unreadable_ranges: facts.unreadable.len() as u64,
        method: facts.method.clone(),
        run: labels.run,
        nonce: labels.nonce,
        signature: None,
    };
    to_node(&mut manifest)
}

/// Encodes it; where it is too long for a node, with fewer warnings: what a disk makes the parsers
/// say never fails a backup. All warnings stay counted.
fn to_node(manifest: &mut Manifest) -> Result<Node> {
    loop {
        match manifest.to_node() {
            Err(umbra_common::Error::Limit { .. }) if !manifest.warnings.is_empty() => {
                let kept = manifest.warnings.len() / 2;
                manifest.warnings.truncate(kept);
            }
            result => return Ok(result?),
        }
    }
}

fn volume_of(volume: &crate::survey::Volume, overlay: Option<&Overlay>) -> Volume {
    let inodes = volume.tree.as_ref().map(|tree| tree.inodes()).unwrap_or_default();
    let count = |wanted| inodes.iter().filter(|inode| inode.file_type == wanted).count() as u64;
    let files = inodes.iter().filter(|inode| inode.file_type == FileType::File);
    Volume {
        path: volume.path.clone(),
        kind: volume.kind.into(),
        label: volume.label.clone().unwrap_or_default(),
        uuid: volume.uuid.clone().unwrap_or_default(),
        range: volume.range,
        parsed: match &volume.parse {
            Parse::Full => Parsed::Full,
            Parse::Partial { reason } => {
                Parsed::Partial { reason: shortened(reason, MAX_WARNING_BYTES) }
            }
            Parse::None { reason } => Parsed::None { reason: shortened(reason, MAX_WARNING_BYTES) },
        },
        files: count(FileType::File),
        dirs: count(FileType::Dir),
        bytes: files.fold(0, |sum: u64, inode| sum.saturating_add(inode.size.0)),
        overlay: overlay.map(|overlay| overlay.root),
    }
}

fn warning_of(notice: &Notice) -> ManifestWarning {
    let mut warning = ManifestWarning::new("", &notice.subject, &notice.message);
    warning.offset = notice.at;
    warning
}
