//! Whether the base snapshot is of the same disk, made in the same way, and sound.

use umbra_common::overlay;
use umbra_common::snapshot::{Consistency, Parameters, Parsed, Volume};
use umbra_fsparse::Timestamp;

use super::{Base, Scene, Skip};
use crate::backup::manifest;
use crate::survey::{self, Left, Parse};

/// A file whose inode changed so short before the base was read may have changed once more
/// without a new time, in seconds.
const TOO_CLOSE_SECONDS: i64 = 2;

/// A UUID that nobody gave.
const NIL_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// A volume that is the base's, as far as its superblock says.
pub(super) struct SameVolume {
    /// Position in the survey.
    pub(super) index: u32,
    /// How to reach its files in the base.
    pub(super) overlay: umbra_common::node::Link,
    /// Files whose inode changed before this can be told from changed ones.
    pub(super) trusted_before: Timestamp,
}

/// Returns the volumes of which something may be taken from the base, or why nothing may.
pub(super) fn usable(
    base: &Base,
    skip: &Skip<'_>,
    scene: Scene<'_>,
) -> Result<Vec<SameVolume>, String> {
    let Scene { job, device, survey, .. } = scene;
    let (past, labels) = (&base.manifest, job.labels);
    if past.counts.runs_since_full.saturating_add(1) >= skip.full_every {
        return Err(format!("a full reading is due (--full-every {})", skip.full_every));
    }
    if device.may_change() || labels.method.consistency == Consistency::Fuzzy {
        return Err("the source changes while it is read".into());
    }
    if past.method.consistency == Consistency::Fuzzy {
        return Err("the base snapshot is fuzzy".into());
    }
    if labels.time < past.agent_time {
        return Err("by the clock the base snapshot is of the future".into());
    }
    for (same, what) in [
        (past.disk.name == labels.disk && past.machine == labels.machine, "of another disk"),
        (past.disk.length == device.len(), "of a disk of another length"),
        (past.partition_table == manifest::table_name(survey), "of another partition table"),
        (past.disk.guid == survey.table.disk_guid, "of a disk with another GUID"),
        (past.parameters == Parameters::current(), "cut into chunks by other rules"),
        (past.free == survey.free, "made with another --free"),
    ] {
        if !same {
            return Err(format!("the base snapshot is {what}"));
        }
    }
    let mut volumes = Vec::new();
    let mut reason = "no volume has files".to_owned();
    for (index, volume) in survey.volumes.iter().enumerate() {
        match same_volume(base, volume) {
            Ok(overlay) => volumes.push(SameVolume {
                index: u32::try_from(index).map_err(|_| "too many volumes")?,
                overlay,
                trusted_before: before(past.agent_time),
            }),
            Err(because) => reason = format!("{}: {because}", volume.path),
        }
    }
    if volumes.is_empty() { Err(reason) } else { Ok(volumes) }
}

/// Returns the time from which on changes stand too close to the reading of the base.
fn before(read: Timestamp) -> Timestamp {
    Timestamp { seconds: read.seconds.saturating_sub(TOO_CLOSE_SECONDS), ..read }
}

fn same_volume(
    base: &Base,
    volume: &survey::Volume,
) -> Result<umbra_common::node::Link, &'static str> {
    if volume.tree.is_none() || volume.parse != Parse::Full {
        return Err("not all of its files are known");
    }
    if volume.left == Left::Dirty {
        return Err("it was not unmounted cleanly, and what was written last may have old times");
    }
    let same_place = |past: &&Volume| past.path == volume.path && past.range == volume.range;
    let past = base.manifest.volumes.iter().find(same_place);
    let past = past.ok_or("the base snapshot has no such volume in this place")?;
    let uuid = volume.uuid.as_deref().unwrap_or(NIL_UUID);
    if past.kind != volume.kind || past.uuid != uuid || uuid == NIL_UUID {
        return Err("it is another file system than the base snapshot's");
    }
    if past.parsed != Parsed::Full {
        return Err("the base snapshot does not have all of its files");
    }
    let link = past.overlay.and_then(|root| base.manifest.link(base.reference, root));
    link.ok_or("the base snapshot has no files of it")
}

/// Reads the root of a volume's files in the base.
pub(super) fn root(
    nodes: &dyn umbra_common::node::NodeSource,
    volume: &SameVolume,
) -> Result<overlay::Entry, String> {
    overlay::root(nodes, volume.overlay).map_err(|error| crate::fetch::chain(&error))
}
