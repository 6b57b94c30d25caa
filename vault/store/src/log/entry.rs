//! Entries of the LOG, their encoding, and what they amount to.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::ObjectId;
use umbra_common::cbor::{Fields, Reader, Record, Writer};
use umbra_common::snapshot::shortened;
use umbra_common::wire::Fingerprint;

use crate::ids::{Digest, MachineId, PackId, StoreId, Timestamp};

/// Longest text of an entry, in bytes; longer ones are cut.
const MAX_TEXT_BYTES: usize = 4096;

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
    /// Something that somebody did, for the record.
    Audit {
        /// Who, where it was a machine.
        machine: Option<MachineId>,
        /// What.
        text: String,
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

/// What the entries of the LOG amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The store, once created.
    pub store: Option<StoreId>,
    /// When it was made.
    pub created: Timestamp,
    /// Machines by id.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Tokens by id; `uses` is what is left.
    pub tokens: BTreeMap<[u8; 16], Token>,
    /// Receipts by sequence number: hash and snapshot.
    pub receipts: BTreeMap<u64, (Digest, ObjectId)>,
    /// Places of packs that are damaged and read no more, by pack.
    pub quarantined: BTreeMap<PackId, BTreeSet<u64>>,
    /// Number of an entry that changed `quarantined`, such that every later one that did was
    /// made durable together with it; 0: none did.
    pub quarantine_sequence: u64,
    /// Number of the last entry; the first is 1.
    pub sequence: u64,
}

impl LogState {
    /// Returns the machine with this public key, if one is enrolled.
    pub fn machine_by_key(&self, key: Fingerprint) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.key == key)
    }

    /// Returns the machine with this name, if one is enrolled.
    pub fn machine_by_name(&self, name: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == name)
    }
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

impl Entry {
    /// Makes the entries that quarantine places of a pack.
    pub(crate) fn quarantine(pack: PackId, offsets: &[u64]) -> impl Iterator<Item = Self> {
        let runs = offsets.chunks(MAX_OFFSETS);
        runs.map(move |run| Self::Quarantined { pack, offsets: run.to_vec() })
    }

    /// Makes the entries that lift the quarantine of places of a pack.
    pub(crate) fn lift(pack: PackId, offsets: &[u64]) -> impl Iterator<Item = Self> {
        let runs = offsets.chunks(MAX_OFFSETS);
        runs.map(move |run| Self::QuarantineLifted { pack, offsets: run.to_vec() })
    }

    /// Encodes it as deterministic CBOR.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.record(|record| match self {
            Self::StoreCreated { store } => {
                record.field(0).uint(1u8);
                record.field(1).bytes(&store.0);
            }
            Self::MachineEnrolled(machine) => {
                record.field(0).uint(2u8);
                record.field(1).bytes(&machine.id.0);
                record.text(2, &shortened(&machine.name, MAX_TEXT_BYTES));
                record.field(3).bytes(&machine.key.0);
                record.uint(4, machine.role.number());
            }
            Self::TokenIssued(token) => {
                record.field(0).uint(3u8);
                record.field(1).bytes(&token.id);
                record.field(2).bytes(&token.secret_hash.0);
                record.uint(3, token.role.number());
                if let Some(name) = &token.machine_name {
                    record.field(4).text(&shortened(name, MAX_TEXT_BYTES));
                }
                record.uint(5, token.uses);
                record.field(6).int(token.expires.0);
            }
            Self::TokenUsed { token, machine } => {
                record.field(0).uint(4u8);
                record.field(1).bytes(token);
                record.field(2).bytes(&machine.0);
            }
            Self::ReceiptCommitted { sequence, hash, snapshot } => {
                record.field(0).uint(5u8);
                record.uint(1, *sequence);
                record.field(2).bytes(&hash.0);
                record.field(3).bytes(&snapshot.0);
            }
            Self::IndexLost { reason } => {
                record.field(0).uint(6u8);
                record.text(1, &shortened(reason, MAX_TEXT_BYTES));
            }
            Self::IndexRebuilt { objects } => {
                record.field(0).uint(7u8);
                record.uint(1, *objects);
            }
            Self::Audit { machine, text } => {
                record.field(0).uint(8u8);
                if let Some(machine) = machine {
                    record.field(1).bytes(&machine.0);
                }
                record.text(2, &shortened(text, MAX_TEXT_BYTES));
            }
            Self::Quarantined { pack, offsets } => write_places(record, 24, *pack, offsets),
            Self::QuarantineLifted { pack, offsets } => write_places(record, 25, *pack, offsets),
        });
        writer.into_bytes()
    }

    /// Decodes what [`Entry::encode`] writes.
    ///
    /// # Errors
    /// `Corrupt`; `UnknownNumber` for an entry or field of the future.
    pub(crate) fn decode(bytes: &[u8]) -> umbra_common::Result<Self> {
        let mut reader = Reader::new("LOG entry", bytes);
        let mut fields = reader.record()?;
        let kind: u64 = fields.required(&mut reader, 0, Reader::uint)?;
        let entry = Self::decode_fields(kind, &mut fields, &mut reader)?;
        fields.finish(&reader)?;
        reader.finish()?;
        Ok(entry)
    }

    fn decode_fields(
        kind: u64,
        fields: &mut Fields,
        reader: &mut Reader<'_>,
    ) -> umbra_common::Result<Self> {
        Ok(match kind {
            1 => {
                Self::StoreCreated { store: StoreId(fields.required(reader, 1, Reader::exactly)?) }
            }
            2 => Self::MachineEnrolled(Machine {
                id: MachineId(fields.required(reader, 1, Reader::exactly)?),
                name: fields.text(reader, 2, MAX_TEXT_BYTES)?,
                key: Fingerprint(fields.required(reader, 3, Reader::exactly)?),
                role: read_role(fields, reader, 4)?,
            }),
            3 => Self::TokenIssued(Token {
                id: fields.required(reader, 1, Reader::exactly)?,
                secret_hash: Digest(fields.required(reader, 2, Reader::exactly)?),
                role: read_role(fields, reader, 3)?,
                machine_name: fields
                    .optional(reader, 4, |reader| Ok(reader.text(MAX_TEXT_BYTES)?.to_owned()))?,
                uses: fields.uint(reader, 5)?,
                expires: Timestamp(fields.required(reader, 6, Reader::int)?),
            }),
            4 => Self::TokenUsed {
                token: fields.required(reader, 1, Reader::exactly)?,
                machine: MachineId(fields.required(reader, 2, Reader::exactly)?),
            },
            5 => Self::ReceiptCommitted {
                sequence: fields.uint(reader, 1)?,
                hash: Digest(fields.required(reader, 2, Reader::exactly)?),
                snapshot: ObjectId(fields.required(reader, 3, Reader::exactly)?),
            },
            6 => Self::IndexLost { reason: fields.text(reader, 1, MAX_TEXT_BYTES)? },
            7 => Self::IndexRebuilt { objects: fields.uint(reader, 1)? },
            8 => Self::Audit {
                machine: fields.optional(reader, 1, Reader::exactly)?.map(MachineId),
                text: fields.text(reader, 2, MAX_TEXT_BYTES)?,
            },
            24 => {
                let (pack, offsets) = read_places(fields, reader)?;
                Self::Quarantined { pack, offsets }
            }
            25 => {
                let (pack, offsets) = read_places(fields, reader)?;
                Self::QuarantineLifted { pack, offsets }
            }
            other => return Err(reader.unknown(other)),
        })
    }
}

fn write_places(record: &mut Record, kind: u8, pack: PackId, offsets: &[u64]) {
    record.field(0).uint(kind);
    record.field(1).bytes(&pack.0);
    record.list(2, offsets, |writer, offset| writer.uint(*offset));
}

fn read_places(
    fields: &mut Fields,
    reader: &mut Reader<'_>,
) -> umbra_common::Result<(PackId, Vec<u64>)> {
    let pack = PackId(fields.required(reader, 1, Reader::exactly)?);
    Ok((pack, fields.list(reader, 2, MAX_OFFSETS, Reader::uint)?))
}

fn read_role(fields: &mut Fields, reader: &mut Reader<'_>, key: u64) -> umbra_common::Result<Role> {
    let number: u8 = fields.uint(reader, key)?;
    Role::from_number(number).ok_or_else(|| reader.unknown(number.into()))
}

impl LogState {
    /// Applies an entry.
    pub(crate) fn apply(&mut self, time: Timestamp, entry: &Entry) {
        match entry {
            Entry::StoreCreated { store } => {
                self.store = Some(*store);
                self.created = time;
            }
            Entry::MachineEnrolled(machine) => {
                self.machines.insert(machine.id, machine.clone());
            }
            Entry::TokenIssued(token) => {
                self.tokens.insert(token.id, token.clone());
            }
            Entry::TokenUsed { token, .. } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.uses = token.uses.saturating_sub(1);
                }
            }
            Entry::ReceiptCommitted { sequence, hash, snapshot } => {
                self.receipts.insert(*sequence, (*hash, *snapshot));
            }
            Entry::Quarantined { pack, offsets } => {
                self.quarantined.entry(*pack).or_default().extend(offsets);
                self.quarantine_sequence = self.sequence.saturating_add(1);
            }
            Entry::QuarantineLifted { pack, offsets } => {
                if let Some(known) = self.quarantined.get_mut(pack) {
                    known.retain(|offset| !offsets.is_empty() && !offsets.contains(offset));
                    if known.is_empty() {
                        self.quarantined.remove(pack);
                    }
                }
                self.quarantine_sequence = self.sequence.saturating_add(1);
            }
            Entry::IndexLost { .. } | Entry::IndexRebuilt { .. } | Entry::Audit { .. } => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

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
        ]
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
        assert_eq!(state.receipts.len(), 1);
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
