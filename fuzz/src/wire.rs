//! What peers say: frames, messages, objects, sessions; tokens; CBOR itself.

use std::fmt::Debug;

use minicbor::{Decode, Encode};
use umbra_common::cbor::{Reader, Writer};
use umbra_common::wire::session::{
    AgentSession, Peer, Served, VaultAction, VaultFacts, VaultSession,
};
use umbra_common::wire::{
    BaseState, Begin, Begun, Enrolled, FRAME_HEADER_BYTES, LimitsOffered, MAX_CONTROL_FRAME_BYTES,
    MAX_OBJECT_FRAME_BYTES, MAX_PLAIN_BYTES, Object, Reply, Request, SentObject, SentObjectRef,
    ToAgent, ToVault, Token, frame,
};

/// Takes the next frame of a stream, as a connection does.
fn next_frame<'a>(stream: &mut &'a [u8], cap: usize) -> Option<&'a [u8]> {
    let (head, rest) = stream.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let len = frame::length(*head, cap).ok()?;
    assert!(len <= cap, "a frame is capped");
    // A frame that is cut off is taken as far as it goes: the length is no puzzle.
    let (body, rest) = rest.split_at(len.min(rest.len()));
    *stream = rest;
    Some(body)
}

/// Decodes a message, which must come back from its own encoding.
fn message<M>(bytes: &[u8], cap: usize) -> Option<M>
where
    M: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + Debug,
{
    let message: M = frame::decode(bytes).ok()?;
    // Our own form may be longer than theirs (fields that they left out), so the cap is wider.
    let again = frame::encode(&message, 2 * cap).expect("what was read can be written");
    let body = again.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    assert_eq!(frame::decode::<M>(body).ok().as_ref(), Some(&message), "a message comes back");
    Some(message)
}

/// Opens an object and packs it anew.
fn open(object: Object) {
    let (reference, len) = (object.reference, object.plain_len);
    let Ok(plain) = object.open() else { return };
    assert_eq!((plain.reference, plain.body.len()), (reference, len as usize));
    assert!(len <= MAX_PLAIN_BYTES);
    let packed = Object::pack(reference.kind, plain.refs.clone(), plain.body.clone(), 1);
    let again = packed.and_then(Object::open).expect("what was opened can be packed");
    assert_eq!(again, plain, "an object comes back");
}

fn limits() -> LimitsOffered {
    LimitsOffered { ask_references: 4096, lanes: 4, requests: 4 }
}

/// Which stream and whose key (u8), then frames.
pub(crate) fn to_vault(input: &[u8]) {
    let Some((flags, mut stream)) = input.split_first() else { return };
    match flags % 3 {
        0 => {
            let facts = VaultFacts { store: [7; 16], software: "fuzz".into(), limits: limits() };
            let peer = match flags / 3 % 3 {
                0 => Peer::Unknown,
                1 => Peer::Machine("web1".into()),
                _ => Peer::Owner,
            };
            let mut session = VaultSession::new(facts, peer);
            while let Some(frame) = next_frame(&mut stream, MAX_CONTROL_FRAME_BYTES) {
                let Some(message) = message(frame, MAX_CONTROL_FRAME_BYTES) else { continue };
                if !answer(&mut session, message) {
                    break;
                }
            }
        }
        1 => {
            while let Some(frame) = next_frame(&mut stream, MAX_OBJECT_FRAME_BYTES) {
                let Some(sent) = message::<SentObject>(frame, MAX_OBJECT_FRAME_BYTES) else {
                    continue;
                };
                let by_reference = SentObjectRef { sequence: sent.sequence, object: &sent.object };
                assert_eq!(
                    frame::encode(&by_reference, MAX_OBJECT_FRAME_BYTES * 2).ok(),
                    frame::encode(&sent, MAX_OBJECT_FRAME_BYTES * 2).ok(),
                    "one encoding for both forms"
                );
                open(sent.object);
            }
        }
        _ => {
            let served = Served::default();
            while let Some(frame) = next_frame(&mut stream, MAX_CONTROL_FRAME_BYTES) {
                if let Some(Request::Read { items }) = message(frame, MAX_CONTROL_FRAME_BYTES) {
                    let empty = items.is_empty();
                    assert!(empty || served.check(&items).is_err(), "nothing was served yet");
                }
            }
        }
    }
}

/// Gives a message to the session and does what it asks for, as a driver would; false at its end.
fn answer(session: &mut VaultSession, message: ToVault) -> bool {
    let Ok(action) = session.handle(message) else { return false };
    match action {
        Some(VaultAction::Enroll(_)) => {
            let machine = [1; 16];
            session.enrolled(Enrolled {
                machine_id: machine,
                machine: "web1".into(),
                store: [7; 16],
            });
        }
        Some(VaultAction::Begin(Begin { .. })) => {
            session.begun(Begun { base: BaseState::None, latest: None });
        }
        Some(VaultAction::Ask(ask)) => {
            assert!(ask.references.len() <= 4096, "a question is bounded");
            session.known(ask.number, &vec![true; ask.references.len()]);
        }
        Some(VaultAction::Commit(_)) => session.committed(vec![1, 2, 3]),
        Some(VaultAction::Flush | VaultAction::End) | None => {}
    }
    // An object arrives now and then.
    let sequence = 0;
    if let Ok(arrival) = session.arrived(sequence) {
        let _ = session.taken(arrival);
        session.durable(session.round(), sequence..=sequence);
    }
    while session.poll_control().is_some() {}
    !session.is_over()
}

/// Which stream (u8), then frames.
pub(crate) fn to_agent(input: &[u8]) {
    let Some((flags, mut stream)) = input.split_first() else { return };
    if flags & 1 == 0 {
        let mut session = AgentSession::new(Some("web1".into()), "fuzz".into(), 1 << 20);
        session.connected();
        while let Some(frame) = next_frame(&mut stream, MAX_CONTROL_FRAME_BYTES) {
            let Some(message) = message::<ToAgent>(frame, MAX_CONTROL_FRAME_BYTES) else {
                continue;
            };
            if session.handle(message).is_err() {
                break;
            }
            while session.poll_control().is_some() {}
            while session.poll_event().is_some() {}
            while session.poll_object().is_some() {}
        }
    } else {
        while let Some(frame) = next_frame(&mut stream, MAX_OBJECT_FRAME_BYTES) {
            match message::<Reply>(frame, MAX_OBJECT_FRAME_BYTES) {
                Some(Reply::Object(served)) => open(served.object),
                Some(Reply::Snapshot(entry)) => {
                    entry.manifest.into_iter().for_each(open);
                    // A receipt may be anything here; the agent decodes it itself.
                    let _ = umbra_common::snapshot::Receipt::decode(&entry.receipt);
                }
                _ => {}
            }
        }
    }
}

/// Text.
pub(crate) fn token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    check_token(&text);
    // The same bytes as a token's inside: checksum and letters are mended.
    let sum = blake3::derive_key("umbra 1 token checksum", input);
    let inside = [input, &sum[..4]].concat();
    check_token(&format!("umbra1-{}", base32(&inside)));
}

fn check_token(text: &str) {
    let Ok(token) = Token::from_text(text) else { return };
    assert!(!token.addresses.is_empty(), "a token names an address");
    assert!(!format!("{token:?}").contains("secret"), "the secret is never shown");
    // Their form may leave fields out, ours may pass the limit.
    if let Ok(again) = token.to_text() {
        assert_eq!(Token::from_text(&again).ok(), Some(token), "a token comes back");
    }
}

/// Base32 without padding, lower case.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let mut padded = [0; 8];
        padded[3..3 + group.len()].copy_from_slice(group);
        let number = u64::from_be_bytes(padded);
        for index in 0..(group.len() * 8).div_ceil(5) {
            let value = (number >> (35 - 5 * index)) & 31;
            text.push(char::from(b"abcdefghijklmnopqrstuvwxyz234567"[value as usize]));
        }
    }
    text
}

/// One item of deterministic CBOR, which must be written back to the same bytes.
pub(crate) fn cbor(input: &[u8]) {
    let mut reader = Reader::new("fuzz", input);
    let mut writer = Writer::new();
    let Ok(()) = copy(&mut reader, &mut writer, input, 8) else { return };
    let read = usize::try_from(reader.at()).expect("it fits memory");
    assert_eq!(writer.len(), read, "as many bytes are written as were read");
    assert_eq!(reader.finish().is_ok(), read == input.len());
    assert_eq!(writer.into_bytes(), input[..read], "one encoding only");
}

/// Reads an item of whatever type stands there and writes it.
fn copy(
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    input: &[u8],
    depth: u8,
) -> umbra_common::Result<()> {
    let at = usize::try_from(reader.at()).expect("it fits memory");
    if depth == 0 {
        return Err(reader.corrupt("too deep"));
    }
    match input.get(at).map_or(7, |head| head >> 5) {
        0 => writer.uint(reader.uint()?),
        1 => writer.int(reader.int()?),
        2 => {
            let there = reader.at_bytes();
            let bytes = reader.bytes(1 << 20)?;
            assert!(there, "a byte string was read where none stood");
            writer.bytes(bytes);
        }
        3 => writer.text(reader.text(1 << 20)?),
        4 => {
            assert!(!reader.at_bytes());
            let len = reader.array(1 << 20)?;
            assert!(len <= input.len() - at, "a length that the bytes cannot hold");
            writer.array(len);
            for _ in 0..len {
                copy(reader, writer, input, depth - 1)?;
            }
        }
        5 => copy_record(reader, writer, input, depth)?,
        _ => writer.bool(reader.bool()?),
    }
    Ok(())
}

/// Copies a map with the keys 0 to 31.
fn copy_record(
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    input: &[u8],
    depth: u8,
) -> umbra_common::Result<()> {
    let mut fields = reader.record()?;
    let mut copied = Vec::new();
    for key in 0..32 {
        let value = fields.optional(reader, key, |reader| {
            let mut inner = Writer::new();
            copy(reader, &mut inner, input, depth - 1)?;
            Ok(inner)
        })?;
        copied.extend(value.map(|value| (key, value)));
    }
    fields.finish(reader)?;
    writer.record(|record| {
        copied.iter().for_each(|(key, value)| record.field(*key).append(value));
    });
    Ok(())
}
