//! Messages byte for byte, caps, and what is not a message.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Error, Kind, ObjectId, Reference};
use proptest::prelude::*;

/// The handshake, frozen: an agent and a vault of any two versions must understand each other this
/// far, to be able to tell each other that they do not go together.
const GOLDEN: &str = include_str!("../../../testdata/formats/v1/wire-handshake.txt");

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn golden(name: &str) -> String {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no golden {name}")).to_owned()
}

fn check<M>(name: &str, message: &M)
where
    M: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()> + PartialEq + std::fmt::Debug,
{
    let frame = frame::encode(message, MAX_CONTROL_FRAME_BYTES).unwrap();
    assert_eq!(hex(&frame), golden(name), "{name}");
    let bytes = data_encoding::HEXLOWER.decode(golden(name).as_bytes()).unwrap();
    let (head, body) = bytes.split_first_chunk().unwrap();
    assert_eq!(frame::length(*head, MAX_CONTROL_FRAME_BYTES).unwrap(), body.len());
    assert_eq!(&frame::decode::<M>(body).unwrap(), message, "{name}");
}

#[test]
fn the_handshake_is_frozen() {
    check(
        "hello",
        &ToVault::Hello(Hello {
            oldest: 1,
            newest: 1,
            machine: Some("web1".into()),
            software: "umbra 0.1.0".into(),
        }),
    );
    check(
        "hello-without-machine",
        &ToVault::Hello(Hello {
            oldest: 1,
            newest: 300,
            machine: None,
            software: "umbra 0.1.0".into(),
        }),
    );
    check(
        "enroll",
        &ToVault::Enroll(Enroll {
            oldest: 1,
            newest: 1,
            secret: *b"0123456789abcdef",
            machine: "web1".into(),
            software: "umbra 0.1.0".into(),
        }),
    );
    check(
        "welcome",
        &ToAgent::Welcome(Welcome {
            version: 1,
            store: *b"fedcba9876543210",
            machine: "web1".into(),
            limits: LimitsOffered { ask_references: 4096, lanes: 8, requests: 32 },
            software: "umbra-vault 0.1.0".into(),
        }),
    );
    check(
        "refused",
        &ToAgent::Refused(Refusal { code: RefusalCode::Version, text: "upgrade".into() }),
    );
    check(
        "enrolled",
        &ToAgent::Enrolled(Enrolled {
            machine_id: [0x11; 16],
            machine: "web1".into(),
            store: *b"fedcba9876543210",
        }),
    );
}

#[test]
fn fields_of_the_future_are_skipped_and_messages_of_the_future_refused() {
    // Hello of version 1 and 2 with a field 9 (a list of a text and a map) that nobody knows.
    let mut e = minicbor::Encoder::new(Vec::new());
    e.array(2).unwrap().u8(0).unwrap().array(1).unwrap();
    e.map(4).unwrap().u8(0).unwrap().u8(1).unwrap().u8(1).unwrap().u8(2).unwrap();
    e.u8(9).unwrap().array(2).unwrap().str("x").unwrap().map(1).unwrap();
    e.u8(1).unwrap().bytes(&[0; 40]).unwrap();
    e.u8(3).unwrap().str("s").unwrap();
    let hello = Hello { oldest: 1, newest: 2, machine: None, software: "s".into() };
    let message: ToVault = frame::decode(&e.into_writer()).unwrap();
    assert_eq!(message, ToVault::Hello(hello));

    let mut e = minicbor::Encoder::new(Vec::new());
    e.array(2).unwrap().u8(77).unwrap().array(0).unwrap();
    assert!(frame::decode::<ToVault>(&e.into_writer()).is_err());

    let code = RefusalCode::from_number(999);
    assert_eq!(code, RefusalCode::Failed);
}

#[test]
fn caps_hold_before_anything_is_allocated() {
    let cap = MAX_CONTROL_FRAME_BYTES;
    let head = |length: u32| frame::length(length.to_le_bytes(), cap);
    assert_eq!(head(1 << 20).unwrap(), 1 << 20);
    assert!(matches!(head((1 << 20) + 1), Err(Error::Limit { .. })));
    assert!(matches!(head(u32::MAX), Err(Error::Limit { .. })));
    let long = ToAgent::Bad { sequence: 0, reason: "x".repeat(cap) };
    assert!(matches!(frame::encode(&long, cap), Err(Error::Limit { .. })));
}

#[test]
fn the_largest_messages_fit_into_their_frames() {
    let reference = Reference { kind: Kind::Chunk, id: ObjectId([0xff; 32]) };
    let ask = Ask { number: u64::MAX, references: vec![reference; MAX_ASK_REFERENCES] };
    frame::encode(&ToVault::Ask(ask), MAX_CONTROL_FRAME_BYTES).unwrap();
    // Every item one number, and every number a large one.
    let each = MAX_READ_OBJECTS / MAX_READ_ITEMS;
    let item = ReadItem { node: reference, numbers: vec![u32::MAX; each] };
    let read = Request::Read { items: vec![item; MAX_READ_ITEMS] };
    frame::encode(&read, MAX_CONTROL_FRAME_BYTES).unwrap();
    // An incompressible chunk, and a node that is all references.
    let body = vec![1; usize::try_from(MAX_PLAIN_BYTES).unwrap()];
    let chunk = Object {
        codec: Codec::None,
        ..Object::pack(Kind::Chunk, vec![], body.clone(), 1).unwrap()
    };
    let node = Object { refs: vec![reference; body.len() / 33], ..chunk.clone() };
    for object in [Object { body: body.clone(), ..chunk }, Object { body: vec![], ..node }] {
        let sent = SentObjectRef { sequence: u64::MAX, object: &object };
        frame::encode(&sent, MAX_OBJECT_FRAME_BYTES).unwrap();
    }
}

#[test]
fn an_object_is_what_its_id_says_or_nothing() {
    let chunk = Object::pack(Kind::Chunk, vec![], vec![7; 5000], 3).unwrap();
    assert_eq!((chunk.codec, chunk.plain_len), (Codec::Zstd, 5000));
    assert_eq!(chunk.reference.id.to_string(), blake3::hash(&[7; 5000]).to_hex().to_string());
    assert_eq!(chunk.clone().open().unwrap().body, vec![7; 5000]);
    let refused = |object: Object| assert!(object.open().is_err());
    refused(Object { plain_len: 4999, ..chunk.clone() });
    refused(Object { plain_len: u32::MAX, ..chunk.clone() });
    refused(Object { codec: Codec::None, ..chunk.clone() });
    refused(Object { refs: vec![chunk.reference], ..chunk.clone() });
    refused(Object { body: vec![1, 2, 3], ..chunk.clone() });
    let other = Reference { kind: Kind::MapPage, ..chunk.reference };
    refused(Object { reference: other, ..chunk.clone() });
    assert!(Object::pack(Kind::Chunk, vec![], vec![0; (1 << 20) + 1], 3).is_err());

    // A node's id is the one that the node itself computes, and covers its references.
    let refs = vec![chunk.reference];
    let node = crate::node::Node { kind: Kind::MapPage, refs: refs.clone(), body: vec![1; 100] };
    let object = Object::pack(Kind::MapPage, refs, vec![1; 100], 3).unwrap();
    assert_eq!(object.reference, node.reference());
    refused(Object { refs: vec![], ..object });
}

#[test]
fn a_token_says_where_who_and_what_and_a_mistyped_one_is_noticed() {
    let token = Token {
        addresses: vec!["vault.example:8407".into(), "[2001:db8::1]:8407".into()],
        vault: Fingerprint([0x5a; 32]),
        secret: [3; 16],
    };
    let text = token.to_text().unwrap();
    assert!(text.starts_with("umbra1-") && !text.contains(char::is_whitespace), "{text}");
    assert_eq!(Token::from_text(&format!(" {text}\n")).unwrap(), token);
    assert!(!format!("{token:?}").contains("secret: ["), "the secret is printed");
    for (position, _) in text.char_indices().skip(7) {
        let mut wrong = text.clone().into_bytes();
        wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
        assert!(Token::from_text(std::str::from_utf8(&wrong).unwrap()).is_err(), "{position}");
        assert!(Token::from_text(&text[..position]).is_err(), "cut at {position}");
    }
    for junk in ["", "umbra1-", "umbra2-aaaa", "umbra1-!!!!", "umbra1-aaaaaaaa"] {
        assert!(Token::from_text(junk).is_err(), "{junk}");
    }
}

#[test]
fn a_fingerprint_is_read_as_it_is_printed() {
    let fingerprint = Fingerprint([0xc3; 32]);
    assert_eq!(Fingerprint::from_hex(&fingerprint.to_string()), Some(fingerprint));
    assert_eq!(Fingerprint::from_hex("c3"), None);
    assert_eq!(Fingerprint::from_hex(&"g".repeat(64)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn answers_survive_their_bitmap(answers in proptest::collection::vec(any::<bool>(), 0..100)) {
        let known = Known::new(1, &answers);
        prop_assert_eq!(known.answers(answers.len()), Some(answers.clone()));
        prop_assert_eq!(known.answers(answers.len() + 8), None);
    }

    #[test]
    fn no_bytes_bring_a_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_damage_to_a_message_brings_a_decoder_down(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        count in 0_usize..40,
    ) {
        let reference = Reference { kind: Kind::MapNode, id: ObjectId([9; 32]) };
        let item = ReadItem { node: reference, numbers: vec![1, 500, 70_000] };
        let object = Object::pack(Kind::MapNode, vec![reference; count], vec![5; 50], 1).unwrap();
        let messages = [
            frame::encode(&Request::Read { items: vec![item; count] }, MAX_CONTROL_FRAME_BYTES),
            frame::encode(&SentObjectRef { sequence: 5, object: &object }, MAX_OBJECT_FRAME_BYTES),
            frame::encode(
                &ToAgent::Missing { sequence: 1, references: vec![reference; count] },
                MAX_CONTROL_FRAME_BYTES,
            ),
        ];
        for message in messages {
            let mut bytes = message.unwrap().split_off(FRAME_HEADER_BYTES);
            let at = at.index(bytes.len());
            bytes[at] = value;
            decode_all(&bytes);
        }
    }
}

fn decode_all(bytes: &[u8]) {
    let _ = frame::decode::<ToVault>(bytes);
    let _ = frame::decode::<ToAgent>(bytes);
    let _ = frame::decode::<Request>(bytes);
    let _ = frame::decode::<Reply>(bytes);
    if let Ok(sent) = frame::decode::<SentObject>(bytes) {
        let _ = sent.object.open();
    }
}
