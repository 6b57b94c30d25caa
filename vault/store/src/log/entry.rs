//! Entries of the LOG.

use std::collections::BTreeSet;

use umbra_common::ObjectId;
use umbra_common::wire::Fingerprint;

use crate::ids::{Digest, MachineId, PackId, StoreId, Timestamp};
use crate::retention::{Policy, Scope};

mod encode;

/// Most receipts that one entry of those below names: at 9 bytes each they fill half of it.
pub(crate) const MAX_SEQUENCES: usize = 4_000;

/// Most offsets of one entry: it stays far below the limit of a payload.
const MAX_OFFSETS: usize = 4096;

/// What a machine may do. The numbers stand in the LOG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Role {
    /// Backs itself up and restores its own.
    Agent = 0,
    /// Backs up, never restores.
    Imager = 1,
    /// Restores, never backs up.
    Restore = 2,
    /// Sees and restores every machine.
    Operator = 3,
    /// Everything.
    Admin = 4,
}

/// One entry of the LOG.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The store was made.
    StoreCreated {
        /// Its id.
        store: StoreId,
    },
    /// A machine's key is known from now on. Enrolling an id again replaces what stood there.
    MachineEnrolled(Machine),
    /// A token was issued.
    TokenIssued(Token),
    /// A token was used once.
    TokenUsed {
        /// Which.
        token: [u8; 16],
        /// By whom.
        machine: MachineId,
    },
    /// A receipt was committed.
    ReceiptCommitted {
        /// Its sequence number.
        sequence: u64,
        /// Hash of its bytes.
        hash: Digest,
        /// The snapshot.
        snapshot: ObjectId,
    },
    /// The index was missing, foreign or damaged.
    IndexLost {
        /// In what way.
        reason: String,
    },
    /// The index was rebuilt from packs, receipts and LOG.
    IndexRebuilt {
        /// Rows written.
        objects: u64,
    },
    /// Receipts that count no more: their snapshots are gone for good.
    Expunged {
        /// Numbers of the receipts.
        sequences: BTreeSet<u64>,
    },
    /// The sweep of a collection has begun: from now on its list tells which packs go.
    SweepBegun {
        /// The GC generation from now on.
        generation: u64,
        /// BLAKE3 of the list (`gc/<generation>`).
        list: Digest,
    },
    /// The sweep is over, done or made void by a rebuild of the index: its list counts no more.
    SweepEnded {
        /// Its generation.
        generation: u64,
    },
    /// What stands at these places of a pack is damaged and read no more; 0 is its header.
    Quarantined {
        /// The pack.
        pack: PackId,
        /// Offsets of records, in bytes.
        offsets: Vec<u64>,
    },
    /// The same places are sound again, or the pack is gone (then there are no offsets).
    QuarantineLifted {
        /// The pack.
        pack: PackId,
        /// Offsets of records, in bytes; none: all.
        offsets: Vec<u64>,
    },
    /// Something that somebody did, for the record.
    Audit {
        /// Who, where it was a machine.
        machine: Option<MachineId>,
        /// What.
        text: String,
    },
    /// The policy, all of it, from now on.
    PolicySet(Policy),
    /// Snapshots are protected from now on, or not any more.
    Protected {
        /// Numbers of their receipts.
        sequences: BTreeSet<u64>,
        /// Whether they are.
        on: bool,
    },
    /// An administrator holds snapshots, or releases his hold.
    Held {
        /// Which.
        on: HoldOn,
        /// Why; empty where nobody said.
        reason: String,
        /// The hold ends.
        released: bool,
    },
    /// Snapshots of one disk are hidden; a collection may give their space back once the time to
    /// undo it is over.
    Forgotten {
        /// Whose they are. Stands here because holds name machines and disks.
        disk: Scope,
        /// Numbers of their receipts.
        sequences: BTreeSet<u64>,
    },
    /// Snapshots are there again that were forgotten.
    ForgetUndone {
        /// Numbers of their receipts.
        sequences: BTreeSet<u64>,
    },
}

/// What a hold is on: while it lasts, nothing of it is forgotten and nothing given back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldOn {
    /// Every snapshot of a scope, those to come too.
    Scope(Scope),
    /// One snapshot, by the number of its receipt.
    Snapshot(u64),
}

/// A machine, as enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name, 1-64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Its public key.
    pub key: Fingerprint,
    /// What it may do.
    pub role: Role,
}

/// A token, as issued. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Names it.
    pub id: [u8; 16],
    /// BLAKE3 of its secret.
    pub secret_hash: Digest,
    /// The role of a machine that enrols with it.
    pub role: Role,
    /// The machine's name, where the token says it.
    pub machine_name: Option<String>,
    /// How many times it may be used.
    pub uses: u32,
    /// Until when.
    pub expires: Timestamp,
}

impl Role {
    /// Every role, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Agent, Self::Imager, Self::Restore, Self::Operator, Self::Admin];

    /// Returns its number in the LOG.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the role with this number, or `None` where no released version knows it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use umbra_common::cbor::Writer;

    use super::*;
    use crate::log::LogState;
    use crate::retention::Keep;

    pub(crate) fn one_of_each() -> Vec<Entry> {
        let machine = MachineId([3; 16]);
        vec![
            Entry::StoreCreated { store: StoreId([1; 16]) },
            Entry::TokenIssued(Token {
                id: [2; 16],
                secret_hash: Digest([4; 32]),
                role: Role::Agent,
                machine_name: Some("web-1".to_owned()),
                uses: 2,
                expires: Timestamp(-5),
            }),
            Entry::TokenUsed { token: [2; 16], machine },
            Entry::MachineEnrolled(Machine {
                id: machine,
                name: "web-1".to_owned(),
                key: Fingerprint([5; 32]),
                role: Role::Admin,
            }),
            Entry::ReceiptCommitted {
                sequence: 1,
                hash: Digest([6; 32]),
                snapshot: ObjectId([7; 32]),
            },
            Entry::IndexLost { reason: "gone".to_owned() },
            Entry::IndexRebuilt { objects: 9 },
            Entry::Audit { machine: Some(machine), text: "forgot a snapshot".to_owned() },
            Entry::PolicySet(policy()),
            Entry::Protected { sequences: [1, 7].into(), on: true },
            Entry::Held {
                on: HoldOn::Scope(Scope::parse("web-1/sda").unwrap()),
                reason: "court order 12".to_owned(),
                released: false,
            },
            Entry::Held { on: HoldOn::Snapshot(300), reason: String::new(), released: true },
            Entry::Forgotten {
                disk: Scope::parse("web-1/sdb").unwrap(),
                sequences: [2, 24, 70_000].into(),
            },
            Entry::ForgetUndone { sequences: [24].into() },
            Entry::SweepBegun { generation: 1, list: Digest([8; 32]) },
            Entry::Expunged { sequences: [1, 300].into() },
            Entry::SweepEnded { generation: 1 },
            Entry::Quarantined { pack: PackId([9; 16]), offsets: vec![128, 70_000] },
            Entry::QuarantineLifted { pack: PackId([9; 16]), offsets: vec![128] },
        ]
    }

    fn policy() -> Policy {
        let all = Keep {
            last: 1,
            hourly: 2,
            daily: 7,
            weekly: 4,
            monthly: 12,
            yearly: 10,
            within_seconds: 14 * 86_400,
            tags: ["golden".to_owned(), "release".to_owned()].into(),
        };
        let disk = Keep { last: 3, ..Keep::default() };
        let rules = [("*", all), ("web-1", Keep::default()), ("web-1/sda", disk)];
        let rules = rules.into_iter().map(|(scope, keep)| (Scope::parse(scope).unwrap(), keep));
        Policy { undo_seconds: 3 * 86_400, rules: rules.collect() }
    }

    #[test]
    fn round_trip_and_state() {
        let mut state = LogState::default();
        for entry in one_of_each() {
            assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
            state.apply(Timestamp(10), &entry);
        }
        assert_eq!(state.store, Some(StoreId([1; 16])));
        assert_eq!(state.tokens[&[2; 16]].uses, 1);
        assert_eq!(state.machine_by_name("web-1").unwrap().id, MachineId([3; 16]));
        assert_eq!(state.machine_by_key(Fingerprint([5; 32])).unwrap().role, Role::Admin);
        assert!(state.receipts.is_empty(), "{:?}", state.receipts);
        assert_eq!(state.expunged.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!((state.last_receipt, state.gc_generation), (Some((1, Digest([6; 32]))), 1));
        assert_eq!(state.sweep, None);
        assert_eq!(state.policy, policy());
        assert_eq!(state.protected, [7].into());
        assert_eq!(state.holds.len(), 1);
        assert_eq!(state.forgotten.keys().copied().collect::<Vec<_>>(), [2, 70_000]);
    }

    #[test]
    fn what_one_entry_may_name_fits_into_it() {
        let sequences = (0u64..).take(MAX_SEQUENCES).map(|n| u64::MAX - n).collect();
        let name = "n".repeat(64);
        let disk = Scope::of_disk(&name, &name).unwrap();
        let encoded = Entry::Forgotten { disk, sequences }.encode();
        assert!(encoded.len() <= 48 << 10, "{}", encoded.len());
        assert!(Entry::decode(&encoded).is_ok());
    }

    #[test]
    fn what_is_written_otherwise_is_refused() {
        let fields = |kind: u64, fill: &dyn Fn(&mut umbra_common::cbor::Record)| {
            let mut writer = Writer::new();
            writer.record(|record| {
                record.field(0).uint(kind);
                fill(record);
            });
            Entry::decode(&writer.into_bytes())
        };
        let list = |record: &mut umbra_common::cbor::Record, key, items: &[u64]| {
            record.list(key, items, |writer, item| writer.uint(*item));
        };
        assert!(fields(13, &|record| list(record, 1, &[1, 2])).is_ok());
        assert!(fields(13, &|record| list(record, 1, &[2, 1])).is_err(), "out of order");
        assert!(fields(13, &|record| list(record, 1, &[2, 2])).is_err(), "twice");
        assert!(fields(10, &|record| record.uint(2, 2u8)).is_err(), "neither on nor off");
        assert!(fields(12, &|record| record.text(2, "sda")).is_err(), "a disk of no machine");
        assert!(fields(12, &|record| record.text(1, "a/b")).is_err(), "no name");
        assert!(
            fields(11, &|record| {
                record.text(1, "web-1");
                record.field(3).uint(4u8);
            })
            .is_err(),
            "a machine and a snapshot"
        );
        assert!(fields(9, &|record| record.uint(1, u64::MAX)).is_err(), "too long a time");
        let rules = |scopes: &[&str]| {
            fields(9, &|record| {
                record.list(2, scopes, |writer, scope| {
                    writer.record(|record| record.text(0, scope));
                });
            })
        };
        assert!(rules(&["", "a", "b"]).is_ok());
        assert!(rules(&["b", "a"]).is_err() && rules(&["a", "a"]).is_err());
    }

    #[test]
    fn quarantine_comes_and_goes() {
        let pack = PackId([9; 16]);
        let offsets: Vec<u64> = (0..10_000u64).map(|n| n * 4_000_000_000).collect();
        let entries: Vec<Entry> = Entry::quarantine(pack, &offsets).collect();
        assert_eq!(entries.len(), 3);
        let mut state = LogState { sequence: 7, ..LogState::default() };
        for entry in &entries {
            assert!(entry.encode().len() < 60_000);
            assert_eq!(Entry::decode(&entry.encode()).unwrap(), *entry);
            state.apply(Timestamp(1), entry);
        }
        assert_eq!(state.quarantined[&pack].len(), 10_000);
        assert_eq!(state.quarantine_sequence, 8);
        for entry in Entry::lift(pack, &offsets[1..]) {
            assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
            state.apply(Timestamp(1), &entry);
        }
        assert_eq!(state.quarantined[&pack], [0].into());
        let gone = Entry::QuarantineLifted { pack, offsets: Vec::new() };
        assert_eq!(Entry::decode(&gone.encode()).unwrap(), gone);
        state.apply(Timestamp(1), &gone);
        assert!(state.quarantined.is_empty());
    }

    #[test]
    fn unknown_entries_and_fields_are_refused() {
        let mut writer = Writer::new();
        writer.record(|record| record.field(0).uint(99u8));
        assert!(Entry::decode(&writer.into_bytes()).is_err());
        let mut writer = Writer::new();
        writer.record(|record| {
            record.field(0).uint(7u8);
            record.uint(9, 1u8);
        });
        assert!(Entry::decode(&writer.into_bytes()).is_err());
    }
}
