//! What a check found: places, the objects that are lost, the snapshots and files that they hit.

use std::collections::BTreeMap;

use umbra_common::{ByteRange, ObjectId};

use crate::bytes::wide;
use crate::ids::{PackId, StoreId, Timestamp};
use crate::index::Key;
use crate::store::check::lost::{Lost, LostObject};

/// Findings kept; all are counted.
pub(crate) const KEPT_FINDINGS: usize = 1_000;

/// What sort of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A name in the store that is none of the store's. Harms nothing.
    Foreign,
    /// `LOCK` cannot be read. It holds no data, and the next owner makes it anew.
    Lock,
    /// The LOG is damaged, or lost its end.
    Log,
    /// A receipt is gone, damaged, or out of the chain.
    Receipt,
    /// A pack is gone that the index or a table beside it names.
    PackGone,
    /// A pack is shorter than what was synced.
    PackShort,
    /// A pack's header is damaged.
    PackHeader,
    /// A pack has no sound table of contents, or its table says what cannot be.
    Table,
    /// A record is not what the table says, or its bytes are not what its id says.
    Record,
    /// What stands there is known to be damaged, and read no more. Who needs it, if anybody does,
    /// stands in findings of its own.
    Quarantined,
    /// The parity of a pack is damaged, or is not that of the pack as it is.
    Parity,
    /// Something refers to an object that no pack has.
    Missing,
    /// A row of the index is missing, or says something else than the packs.
    IndexRow,
    /// The index cannot be used at all.
    Index,
}

impl FindingKind {
    /// Returns its name in the output for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Lock => "lock",
            Self::Log => "log",
            Self::Receipt => "receipt",
            Self::PackGone => "pack-gone",
            Self::PackShort => "pack-short",
            Self::PackHeader => "pack-header",
            Self::Table => "table",
            Self::Record => "record",
            Self::Quarantined => "quarantined",
            Self::Parity => "parity",
            Self::Missing => "missing",
            Self::IndexRow => "index-row",
            Self::Index => "index",
        }
    }

    /// Tells whether it is damage: a foreign file and an unreadable `LOCK` are not, nor is what is
    /// known to be damaged.
    pub fn is_damage(self) -> bool {
        !matches!(self, Self::Foreign | Self::Lock | Self::Quarantined)
    }
}

/// What a finding means for snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It is about no single object: what it costs stands in findings of its own.
    NoObject,
    /// Snapshots reach the object: see [`CheckReport::snapshots`].
    Snapshots,
    /// No snapshot reaches the object.
    Nothing,
    /// Another copy of the object is sound, and it is the one that is read.
    OtherCopy,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// Name below the store's directory.
    pub path: String,
    /// Offset in that file, in bytes.
    pub at: u64,
    /// The object, where it is about one.
    pub object: Option<(Key, umbra_common::Kind)>,
    /// What is wrong.
    pub reason: String,
    /// Whom it hits.
    pub reach: Reach,
}

impl Finding {
    /// Makes a finding that is about no single object.
    pub(crate) fn at(kind: FindingKind, path: &str, at: u64, reason: impl Into<String>) -> Self {
        let (path, reason) = (path.to_owned(), reason.into());
        Self { kind, path, at, object: None, reason, reach: Reach::NoObject }
    }

    /// Names the object that it is about.
    pub(crate) fn of(self, key: Key, kind: umbra_common::Kind) -> Self {
        Self { object: Some((key, kind)), ..self }
    }

    /// Tells whether two findings are about the same thing; words may differ.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.path, self.at, self.object)
            == (other.kind, &other.path, other.at, other.object)
    }
}

/// Findings: the first of them, and how many there were of each sort.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The first 1 000.
    pub list: Vec<Finding>,
    /// How many there were.
    pub totals: BTreeMap<FindingKind, u64>,
}

impl Findings {
    /// Adds one.
    pub(crate) fn add(&mut self, finding: Finding) {
        let total = self.totals.entry(finding.kind).or_default();
        *total = total.saturating_add(1);
        if self.list.len() < KEPT_FINDINGS {
            self.list.push(finding);
        }
    }

    /// Adds one, unless it stands in the list already.
    pub(crate) fn add_new(&mut self, finding: Finding) {
        if !self.list.iter().any(|known| known.is_same(&finding)) {
            self.add(finding);
        }
    }

    /// Leaves only what another list has too. More than both lists keep stays counted.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        let kept = wide(KEPT_FINDINGS);
        let complete = self.total() <= kept && other.total() <= kept;
        self.list.retain(|finding| other.list.iter().any(|before| before.is_same(finding)));
        if complete {
            self.totals.clear();
            for finding in &self.list {
                let total = self.totals.entry(finding.kind).or_default();
                *total = total.saturating_add(1);
            }
        }
    }

    /// Says of each finding whom it hits.
    pub(crate) fn tell_reach(&mut self, lost: &Lost) {
        for finding in &mut self.list {
            let object = finding.object.and_then(|(key, kind)| lost.find(key, kind));
            finding.reach = match object {
                None => Reach::NoObject,
                Some(object) if object.superseded => Reach::OtherCopy,
                Some(object) if object.reached => Reach::Snapshots,
                Some(_) => Reach::Nothing,
            };
        }
    }

    /// Returns how many there were in all.
    pub fn total(&self) -> u64 {
        self.totals.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns how many of them are damage.
    pub fn damage(&self) -> u64 {
        let damage = self.totals.iter().filter(|(kind, _)| kind.is_damage());
        damage.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// What became of the comparison with the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexChecked {
    /// There is none: the next opening makes it.
    Absent,
    /// Each row was compared with the packs, and each object of the packs with its row.
    Compared,
    /// It could not be used; a finding or the reason says why.
    NotCompared(&'static str),
}

/// A name in a snapshot that is hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HitPath {
    /// Path of the volume in the disk: `part/2`, `disk`.
    pub volume: String,
    /// Raw path in the volume without a slash before it; empty for its root.
    pub path: Vec<u8>,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A snapshot that lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHit {
    /// Number of its receipt.
    pub sequence: u64,
    /// Its id.
    pub snapshot: ObjectId,
    /// The machine's name; empty where neither receipt nor manifest can be read.
    pub machine: String,
    /// The disk's name; as for the machine.
    pub disk: String,
    /// When the vault received it; `None` where the receipt is gone.
    pub received: Option<Timestamp>,
    /// What is wrong with all of it, where that is so: its receipt or manifest is gone.
    pub whole: Option<&'static str>,
    /// Bytes of the disk that cannot be read.
    pub bytes_damaged: u64,
    /// Where on the disk they are: the first 1 000 ranges.
    pub ranges: Vec<ByteRange>,
    /// How many ranges there are.
    pub ranges_total: u64,
    /// Names that are hit: the first 1 000.
    pub paths: Vec<HitPath>,
    /// How many names there are, where that is known.
    pub paths_total: u64,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The store.
    pub store: StoreId,
    /// Another process owned the store meanwhile.
    pub owned: bool,
    /// Packs.
    pub packs: u64,
    /// Packs of which every record was read.
    pub packs_read: u64,
    /// Records that the packs' tables name.
    pub objects: u64,
    /// How many of these are nodes.
    pub nodes: u64,
    /// Distinct nodes that a snapshot reaches.
    pub nodes_reached: u64,
    /// Bytes of all packs.
    pub bytes: u64,
    /// Bytes of the packs that were read.
    pub bytes_read: u64,
    /// Bytes of packs that no table names: refused records and torn tails. They carry nothing.
    pub bytes_void: u64,
    /// Receipts.
    pub receipts: u64,
    /// The index.
    pub index: IndexChecked,
    /// From what the choice of the packs that were read was made, where not all were.
    pub seed: Option<u64>,
    /// What is wrong.
    pub findings: Findings,
    /// The objects that cannot be given back, for whoever heals: at most a million.
    pub lost: Vec<LostObject>,
    /// How many objects were lost beyond those; what they hit is not told.
    pub lost_untold: u64,
    /// The packs in which something is damaged, for whoever heals.
    pub damaged_packs: Vec<PackId>,
    /// Sealed packs without parity.
    pub packs_without_parity: u64,
    /// The snapshots that are hit, by number of their receipts.
    pub snapshots: Vec<SnapshotHit>,
}

impl CheckReport {
    /// Tells whether damage was found.
    pub fn is_damaged(&self) -> bool {
        self.findings.damage() > 0 || !self.lost.is_empty() || !self.snapshots.is_empty()
    }
}
