//! Tests of the strict reader: every other encoding of the same value is refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn reader(bytes: &[u8]) -> Reader<'_> {
    Reader::new("test", bytes)
}

#[test]
fn refuses_what_is_not_shortest() {
    for bytes in [&[0x18, 23][..], &[0x19, 0, 255], &[0x1a, 0, 0, 255, 255], &[0x1b; 1]] {
        assert!(reader(bytes).uint().is_err(), "{bytes:x?}");
    }
    assert!(reader(&[0x1b, 0, 0, 0, 0, 255, 255, 255, 255]).uint().is_err());
    assert!(reader(&[0x38, 23]).int().is_err());
    assert_eq!(reader(&[0x38, 24]).int().unwrap(), -25);
    assert!(reader(&[0x58, 1, 7]).bytes(9).is_err());
    assert_eq!(reader(&[0x41, 7]).bytes(9).unwrap(), [7]);
    assert!(reader(&[0x78, 1, b'a']).text(9).is_err());
    assert!(reader(&[0x98, 1, 1]).array(9).is_err());
    assert!(reader(&[0xb8, 1, 1, 1]).record().is_err());
}

#[test]
fn refuses_indefinite_lengths() {
    assert!(reader(&[0x9f, 1, 0xff]).array(9).is_err());
    assert!(reader(&[0xbf, 1, 1, 0xff]).record().is_err());
    assert!(reader(&[0x5f, 0x41, 1, 0xff]).bytes(9).is_err());
    assert!(reader(&[0x7f, 0x61, b'a', 0xff]).text(9).is_err());
}

#[test]
fn refuses_claims_beyond_the_input_and_beyond_the_limit() {
    assert!(reader(&[0x9a, 0xff, 0xff, 0xff, 0xff, 0]).array(usize::MAX).is_err());
    assert!(reader(&[0xba, 0xff, 0xff, 0xff, 0xff, 0]).record().is_err());
    assert!(reader(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).bytes(9).is_err());
    assert!(matches!(reader(&[0x43, 1, 2, 3]).bytes(2), Err(Error::Limit { .. })));
    assert!(matches!(reader(&[0x83, 1, 2, 3]).array(2), Err(Error::Limit { .. })));
}

#[test]
fn refuses_bytes_after_the_end() {
    let bytes = [1, 2];
    let mut left = reader(&bytes);
    assert_eq!(left.uint().unwrap(), 1);
    assert!(left.finish().is_err());
}

#[test]
fn record_refuses_unknown_missing_unsorted_and_double_fields() {
    let read = |bytes: &[u8]| -> Result<(u64, u64)> {
        let mut reader = reader(bytes);
        let mut fields = reader.record()?;
        let one = fields.required(&mut reader, 1, Reader::uint)?;
        let three = fields.uint(&mut reader, 3)?;
        fields.finish(&reader)?;
        reader.finish()?;
        Ok((one, three))
    };
    assert_eq!(read(&[0xa2, 1, 5, 3, 6]).unwrap(), (5, 6));
    assert_eq!(read(&[0xa1, 1, 5]).unwrap(), (5, 0));
    for unknown in [&[0xa2, 0, 5, 1, 6][..], &[0xa2, 1, 5, 2, 6], &[0xa2, 1, 5, 4, 6]] {
        assert!(matches!(read(unknown), Err(Error::UnknownNumber { .. })), "{unknown:?}");
    }
    for bad in [&[0xa1, 3, 5][..], &[0xa2, 3, 5, 1, 6], &[0xa2, 1, 5, 1, 6], &[0xa1, 1]] {
        assert!(matches!(read(bad), Err(Error::Corrupt { .. })), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn integers_come_back(value: u64, signed: i64) {
        let mut writer = Writer::new();
        writer.uint(value);
        writer.int(signed);
        let bytes = writer.into_bytes();
        let mut reader = reader(&bytes);
        prop_assert_eq!(reader.uint().unwrap(), value);
        prop_assert_eq!(reader.int().unwrap(), signed);
        reader.finish().unwrap();
    }

    #[test]
    fn one_encoding_only(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
        // Whatever is accepted as an integer is what the writer writes for it.
        let mut input = reader(&bytes);
        if let Ok(value) = input.int() {
            let mut writer = Writer::new();
            writer.int(value);
            let canonical = writer.into_bytes();
            prop_assert_eq!(&bytes[..canonical.len()], &canonical[..]);
        }
    }
}
