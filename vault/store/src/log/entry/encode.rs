//! Entries as deterministic CBOR. Layout: `docs/formats/log.md`.

use umbra_common::ObjectId;
use umbra_common::cbor::{Fields, Reader, Record, Writer};
use umbra_common::snapshot::shortened;
use umbra_common::wire::Fingerprint;

use crate::ids::{Digest, MachineId, PackId, StoreId, Timestamp};
use crate::log::entry::{Entry, HoldOn, MAX_OFFSETS, Machine, Role, Token};
use crate::retention::{Policy, Scope, read_scope, read_set, write_scope, write_sequences};

/// Longest text of an entry, in bytes; longer ones are cut.
const MAX_TEXT_BYTES: usize = 4096;

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
            Self::PolicySet(policy) => {
                record.field(0).uint(9u8);
                policy.write(record);
            }
            Self::Protected { sequences, on } => {
                record.field(0).uint(10u8);
                write_sequences(record, 1, sequences);
                record.uint(2, u8::from(*on));
            }
            Self::Held { on, reason, released } => {
                record.field(0).uint(11u8);
                match on {
                    HoldOn::Scope(scope) => write_scope(record, 1, scope),
                    HoldOn::Snapshot(sequence) => record.field(3).uint(*sequence),
                }
                record.text(4, &shortened(reason, MAX_TEXT_BYTES));
                record.uint(5, u8::from(*released));
            }
            Self::Forgotten { disk, sequences } => {
                record.field(0).uint(12u8);
                write_scope(record, 1, disk);
                write_sequences(record, 3, sequences);
            }
            Self::ForgetUndone { sequences } => {
                record.field(0).uint(13u8);
                write_sequences(record, 1, sequences);
            }
            Self::Quarantined { pack, offsets } => write_places(record, 24, *pack, offsets),
            Self::QuarantineLifted { pack, offsets } => write_places(record, 25, *pack, offsets),
            Self::Expunged { sequences } => {
                record.field(0).uint(20u8);
                write_sequences(record, 1, sequences);
            }
            Self::SweepBegun { generation, list } => {
                record.field(0).uint(21u8);
                record.uint(1, *generation);
                record.field(2).bytes(&list.0);
            }
            Self::SweepEnded { generation } => {
                record.field(0).uint(22u8);
                record.uint(1, *generation);
            }
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
            9 => Self::PolicySet(Policy::read(fields, reader)?),
            10 => Self::Protected {
                sequences: read_set(fields, reader, 1, Reader::uint)?,
                on: read_flag(fields, reader, 2)?,
            },
            11 => Self::Held {
                on: read_hold(fields, reader)?,
                reason: fields.text(reader, 4, MAX_TEXT_BYTES)?,
                released: read_flag(fields, reader, 5)?,
            },
            12 => Self::Forgotten {
                disk: read_scope(fields, reader, 1)?,
                sequences: read_set(fields, reader, 3, Reader::uint)?,
            },
            13 => Self::ForgetUndone { sequences: read_set(fields, reader, 1, Reader::uint)? },
            20 => Self::Expunged { sequences: read_set(fields, reader, 1, Reader::uint)? },
            21 => Self::SweepBegun {
                generation: fields.uint(reader, 1)?,
                list: Digest(fields.required(reader, 2, Reader::exactly)?),
            },
            24 => {
                let (pack, offsets) = read_places(fields, reader)?;
                Self::Quarantined { pack, offsets }
            }
            25 => {
                let (pack, offsets) = read_places(fields, reader)?;
                Self::QuarantineLifted { pack, offsets }
            }
            22 => Self::SweepEnded { generation: fields.uint(reader, 1)? },
            other => return Err(reader.unknown(other)),
        })
    }
}

fn read_hold(fields: &mut Fields, reader: &mut Reader<'_>) -> umbra_common::Result<HoldOn> {
    let scope = read_scope(fields, reader, 1)?;
    match fields.optional(reader, 3, Reader::uint)? {
        None => Ok(HoldOn::Scope(scope)),
        Some(sequence) if scope == Scope::ALL => Ok(HoldOn::Snapshot(sequence)),
        Some(_) => Err(reader.corrupt("a hold is on a machine and on a snapshot")),
    }
}

fn read_flag(fields: &mut Fields, reader: &mut Reader<'_>, key: u64) -> umbra_common::Result<bool> {
    match fields.uint(reader, key)? {
        0u8 => Ok(false),
        1 => Ok(true),
        other => Err(reader.unknown(other.into())),
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
