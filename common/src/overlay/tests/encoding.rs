//! The encoding of records: every field comes back, one encoding only, hostile bytes.

use super::super::directory::Body;
use super::*;
use crate::Error;
use crate::cbor::Writer;

fn any_time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn any_content() -> impl Strategy<Value = ContentHash> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(ContentHash::Blake3),
        Just(ContentHash::Shared),
        Just(ContentHash::Unreadable),
        Just(ContentHash::HoleBudget),
        Just(ContentHash::Excluded),
        Just(ContentHash::Damaged),
        Just(ContentHash::Encrypted),
    ]
}

prop_compose! {
    fn any_record()(
        kind in 0..7_u8, mode in 0..0o10_000_u16, uid: u32, gid: u32, size: u64,
        mtime in any_time(), ctime in any_time(), crtime in proptest::option::of(any_time()),
        numbers in any::<(u32, u64, u64, u32, u32, u32)>(),
        rdev in any::<Option<(u32, u32)>>(),
        target in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
        xattrs in proptest::collection::btree_map("user\\.[a-z]{1,9}", any::<Vec<u8>>(), 0..4),
        content in any_content(),
        pieces in proptest::collection::vec((1..9999_u64, 0..1_u64 << 60, 1..1_u64 << 40), 0..60),
        seed: [u8; 32],
    ) -> Record {
        let (nlink, inode, volume, generation, project, flags) = numbers;
        let mut at = 0;
        let extents = pieces.into_iter().map(|(gap, disk, len)| {
            let extent = extent(at + gap, disk, len);
            at = extent.content().end().0;
            extent
        });
        let extents = extents.collect();
        let xattrs = xattrs.into_iter()
            .map(|(name, value)| Xattr { name: name.into_bytes(), value }).collect();
        let file_type = [FileType::File, FileType::Dir, FileType::Symlink, FileType::Fifo,
            FileType::Socket, FileType::Char, FileType::Block][usize::from(kind)];
        let device = matches!(file_type, FileType::Char | FileType::Block);
        let node = Reference { kind: Kind::Directory, id: ObjectId(seed) };
        Record {
            file_type, mode, uid, gid, size: ByteLen(size), mtime, ctime, crtime, nlink,
            inode: InodeNumber(inode), volume, generation,
            rdev: rdev.filter(|_| device).map(|(major, minor)| DeviceNumber { major, minor }),
            target: target.filter(|_| file_type == FileType::Symlink),
            xattrs: Xattrs::Inline(xattrs), project, flags,
            content: if file_type == FileType::File { content } else { ContentHash::NotAFile },
            extents: Extents::Inline(extents),
            directory: (file_type == FileType::Dir).then_some(node),
            ..file(b"x")
        }
    }
}

#[test]
fn a_typical_record_is_short() {
    let node = Body::Leaf(vec![file(b"0123456789")]).encode();
    assert!(node.body.len() < 125, "{} bytes", node.body.len());
}

type Field<'a> = (u64, &'a dyn Fn(&mut Writer));

/// A leaf with one record of these fields.
fn leaf(fields: &[Field<'_>]) -> Node {
    let mut writer = Writer::new();
    writer.array(3);
    writer.uint(1_u64);
    writer.uint(0_u64);
    writer.record(|record| {
        for (key, write) in fields {
            write(record.field(*key));
        }
    });
    Node { kind: Kind::Directory, refs: Vec::new(), body: writer.into_bytes() }
}

#[test]
fn records_have_one_encoding() {
    let name = |writer: &mut Writer| writer.bytes(b"a");
    let reason = |writer: &mut Writer| writer.uint(3_u64);
    let decode = |fields: &[Field<'_>]| Body::decode(&leaf(fields));
    assert!(decode(&[(0, &name), (19, &reason)]).is_ok());
    let corrupt = |fields: &[Field<'_>], why: &str| {
        assert!(matches!(decode(fields), Err(Error::Corrupt { .. })), "{why}");
    };
    corrupt(&[(0, &name), (2, &|w| w.uint(0_u64)), (19, &reason)], "mode 0 written out");
    corrupt(&[(0, &name), (9, &|w| w.uint(1_u64)), (19, &reason)], "one name written out");
    corrupt(&[(0, &name), (1, &|w| w.uint(3_u64)), (19, &|w| w.uint(0_u64))], "no file, said");
    corrupt(&[(0, &name), (15, &|w| w.array(0)), (19, &reason)], "no attributes, said");
    corrupt(&[(0, &name), (19, &reason), (20, &|w| w.array(0))], "no extents, said");
    corrupt(&[(0, &|w| w.bytes(b"..")), (19, &reason)], "a name that climbs");
    corrupt(&[(0, &|w| w.bytes(b"a/b")), (19, &reason)], "a path for a name");
    corrupt(&[(0, &|w| w.text("a")), (19, &reason)], "text for a name");
    corrupt(&[(0, &name)], "a file without word of its hash");
    corrupt(&[(0, &name), (19, &reason), (22, &|w| w.uint(0_u64))], "no such reference");
    corrupt(&[(0, &name), (19, &|w| w.bytes(&[0; 31]))], "a short hash");
    let time = |seconds: i64, nanos: u64| {
        move |w: &mut Writer| {
            w.array(2);
            w.int(seconds);
            w.uint(nanos);
        }
    };
    corrupt(&[(0, &name), (6, &time(0, 0)), (19, &reason)], "the epoch written out");
    corrupt(&[(0, &name), (6, &time(0, 1_000_000_000)), (19, &reason)], "a second of nanos");
    for (key, value) in [(1, 7), (19, 9), (23, 1)] {
        let unknown = |w: &mut Writer| w.uint(value as u64);
        let fields: &[Field<'_>] = match key {
            1 => &[(0, &name), (1, &unknown), (19, &reason)],
            19 => &[(0, &name), (19, &unknown)],
            _ => &[(0, &name), (19, &reason), (23, &unknown)],
        };
        assert!(matches!(decode(fields), Err(Error::UnknownNumber { .. })), "field {key}");
    }
}

/// The golden nodes have some of these; the others are frozen here (docs/formats/overlay.md).
#[test]
fn numbers_of_kinds_codecs_types_and_reasons_are_frozen() {
    let name = |writer: &mut Writer| writer.bytes(b"a");
    let first = |fields: &[Field<'_>]| match Body::decode(&leaf(fields)).unwrap() {
        Body::Leaf(mut records) => records.pop().unwrap(),
        Body::Inner(..) => panic!("a leaf"),
    };
    let reasons = [
        (1, ContentHash::Shared),
        (2, ContentHash::Unreadable),
        (3, ContentHash::HoleBudget),
        (4, ContentHash::Excluded),
        (5, ContentHash::Damaged),
        (6, ContentHash::Encrypted),
    ];
    for (number, reason) in reasons {
        let read = first(&[(0, &name), (19, &|w| w.uint(number as u64))]);
        assert_eq!(read.content, reason);
    }
    let types = [
        (2, FileType::Symlink),
        (3, FileType::Fifo),
        (4, FileType::Socket),
        (5, FileType::Char),
        (6, FileType::Block),
    ];
    for (number, file_type) in types {
        let read = first(&[(0, &name), (1, &|w| w.uint(number as u64))]);
        assert_eq!(read.file_type, file_type);
    }
    let codes = [
        (1, ExtentKind::Unwritten, Codec::None, false),
        (2, ExtentKind::Inline, Codec::None, false),
        (4, ExtentKind::Data, Codec::Zlib, true),
        (6, ExtentKind::Inline, Codec::Zlib, true),
        (8, ExtentKind::Data, Codec::Lzo, true),
        (12, ExtentKind::Data, Codec::Zstd, true),
        (16, ExtentKind::Data, Codec::Lznt1, true),
        (20, ExtentKind::Data, Codec::Jbd2Escaped, false),
        (22, ExtentKind::Inline, Codec::Jbd2Escaped, false),
    ];
    for (code, kind, codec, says_part) in codes {
        let read = first(&[
            (0, &name),
            (19, &|w| w.uint(1_u64)),
            (20, &|writer| {
                let items: &[u64] =
                    if says_part { &[7, 4096, 512, code, 3, 900] } else { &[7, 4096, 512, code] };
                writer.array(1);
                writer.array(items.len());
                items.iter().for_each(|item| writer.uint(*item));
            }),
        ]);
        let part = says_part.then(|| range(3, 900));
        let expected = Extent { kind, codec, part, ..extent(7, 4096, 512) };
        assert_eq!(read.extents, Extents::Inline(vec![expected]), "{code}");
    }
}

#[test]
fn extents_have_one_encoding() {
    let decode = |items: &[&[u64]]| {
        let name = |writer: &mut Writer| writer.bytes(b"a");
        let reason = |writer: &mut Writer| writer.uint(3_u64);
        let extents = |writer: &mut Writer| {
            writer.array(items.len());
            for item in items {
                writer.array(item.len());
                item.iter().for_each(|value| writer.uint(*value));
            }
        };
        Body::decode(&leaf(&[(0, &name), (19, &reason), (20, &extents)]))
    };
    assert!(decode(&[&[0, 100, 5], &[0, 200, 5], &[7, 10, 1, 1], &[0, 0, 9, 12, 3, 2]]).is_ok());
    let corrupt = |items: &[&[u64]]| {
        assert!(matches!(decode(items), Err(Error::Corrupt { .. })), "{items:?}")
    };
    corrupt(&[&[0, 100, 5], &[0, 105, 5]]); // continues
    corrupt(&[&[0, 100, 0]]); // empty
    corrupt(&[&[0, 100, 5, 0]]); // data written out
    corrupt(&[&[0, 100]]); // too few items
    corrupt(&[&[0, 100, 5, 20, 1]]); // half a part
    corrupt(&[&[0, 100, 5, 0, 0, 5]]); // a part without a codec
    corrupt(&[&[0, 100, 5, 12]]); // zstd without its part
    corrupt(&[&[0, 100, 5, 20, 0, 5]]); // all of an escaped block
    corrupt(&[&[0, 100, 5, 20, 3, 3]]); // more than all of an escaped block
    corrupt(&[&[0, 100, 5, 13, 0, 5]]); // unwritten zstd
    corrupt(&[&[u64::MAX, 100, 5]]); // past the end of files
    corrupt(&[&[0, u64::MAX, 5]]); // past the end of disks
    for unknown in [3, 24] {
        let refused = decode(&[&[0, 100, 5, unknown]]);
        assert!(matches!(refused, Err(Error::UnknownNumber { .. })), "{unknown}");
    }
    let many: [&[u64]; MAX_INLINE_EXTENTS + 1] = [&[1, 0, 1]; MAX_INLINE_EXTENTS + 1];
    assert!(matches!(decode(&many), Err(Error::Limit { .. })));
}

proptest! {
    #[test]
    fn records_come_back(record in any_record()) {
        let node = Body::Leaf(vec![record.clone()]).encode();
        prop_assert_eq!(Body::decode(&node).unwrap(), Body::Leaf(vec![record.clone()]));
        prop_assert!(node.encoded_len() < MAX_NODE_BYTES);
        prop_assert_eq!(node.refs.len(), usize::from(record.directory.is_some()));
    }

    #[test]
    fn mutated_leaves_never_panic(
        records in proptest::collection::vec(any_record(), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let named = |(number, record)| Record { name: format!("{number:03}").into_bytes(), ..record };
        let records = records.into_iter().enumerate().map(named).collect();
        let mut bytes = Body::Leaf(records).encode().to_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(node) = Node::decode(Kind::Directory, &bytes)
            && let Ok(body) = Body::decode(&node)
        {
            prop_assert_eq!(body.encode().to_bytes(), bytes);
        }
    }
}
