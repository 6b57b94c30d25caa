//! Journals written by a writer of the tests' own. The kernel's journals are read in
//! `tests/jbd2_e2fsck.rs` and `tests/dirty_ext4.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, string::ToString, vec, vec::Vec};

use self::writer::{
    BLOCK, JOURNAL_BLOCKS, MAGIC, Options, PLAIN, Sums, Volume, Writer, content, geometry,
    magic_content, pieces,
};
use super::replay;
use crate::{Error, Warning};

mod damage;
mod writer;

/// Every kind of log.
fn formats() -> Vec<Options> {
    let mut formats = vec![Options { version: 1, ..PLAIN }];
    for sums in [Sums::None, Sums::V1, Sums::V2, Sums::V3] {
        for wide in [false, true] {
            formats.push(Options { sums, wide, ..PLAIN });
        }
    }
    formats
}

/// Blocks of the file system and what the journal puts there.
type Contents = BTreeMap<u64, Vec<u8>>;

fn run(writer: &Writer) -> Result<(Contents, Vec<Warning>), Error> {
    let pieces = pieces();
    let (replay, warnings) = replay(&Volume(&writer.image), &geometry(&pieces))?;
    let content = replay.iter().map(|(block, copy)| {
        assert_eq!(replay.block(block), Some(copy));
        assert_eq!(copy.volume.len().0, BLOCK as u64);
        let at = copy.volume.start().0 as usize;
        let mut bytes = writer.image[at..at + BLOCK].to_vec();
        if copy.escaped {
            assert_eq!(bytes[..4], [0; 4]);
            bytes[..4].copy_from_slice(&MAGIC);
        }
        (block, bytes)
    });
    let content: Contents = content.collect();
    assert_eq!((content.len(), content.is_empty()), (replay.len(), replay.is_empty()));
    Ok((content, warnings))
}

/// Runs a log that must be read without a warning.
fn clean(writer: &Writer) -> Contents {
    let (content, warnings) = run(writer).unwrap();
    assert_eq!(warnings, []);
    content
}

#[test]
fn youngest_copies_of_committed_transactions_count() {
    for options in formats() {
        let mut writer = Writer::new(options);
        writer.copies(&[(3, content(1)), (4, magic_content(2)), (199, content(3))]);
        writer.copies(&[(5, content(4))]);
        writer.commit();
        writer.copies(&[(3, magic_content(5)), (6, content(6))]);
        writer.commit();
        writer.copies(&[(3, content(7)), (8, content(8))]);
        let expected = [
            (3, magic_content(5)),
            (4, magic_content(2)),
            (5, content(4)),
            (6, content(6)),
            (199, content(3)),
        ];
        assert_eq!(clean(&writer), BTreeMap::from(expected), "{options:?}");
    }
}

#[test]
fn an_empty_log_replaces_nothing() {
    for options in formats() {
        let mut writer = Writer::new(options);
        assert_eq!(clean(&writer), BTreeMap::new(), "a log without a transaction");
        writer.copies(&[(3, content(1))]);
        writer.commit();
        assert_eq!(clean(&writer).len(), 1);
        writer.superblock(0);
        assert_eq!(clean(&writer), BTreeMap::new(), "s_start is 0");
    }
}

#[test]
fn a_revoke_ends_older_copies_and_no_younger_ones() {
    for options in formats() {
        let mut writer = Writer::new(options);
        writer.copies(&[(3, content(1)), (4, content(2)), (5, content(3)), (6, content(4))]);
        writer.commit();
        // Block 5 is copied in the same transaction, before and after; both are revoked.
        writer.copies(&[(5, content(5))]);
        writer.revoke(&[3, 4, 5, 77]);
        writer.copies(&[(5, content(6))]);
        writer.commit();
        writer.copies(&[(4, content(7))]);
        writer.commit();
        let expected = [(4, content(7)), (6, content(4))];
        assert_eq!(clean(&writer), BTreeMap::from(expected), "{options:?}");
    }
}

#[test]
fn a_revoke_of_an_uncommitted_transaction_is_none() {
    let mut writer = Writer::new(PLAIN);
    writer.copies(&[(3, content(1))]);
    writer.commit();
    writer.revoke(&[3]);
    assert_eq!(clean(&writer), BTreeMap::from([(3, content(1))]));
    writer.commit();
    assert_eq!(clean(&writer), BTreeMap::new());
}

#[test]
fn log_and_transaction_numbers_wrap_around() {
    for options in formats() {
        let start = JOURNAL_BLOCKS - 3;
        let mut writer = Writer::new(Options { start, first_tid: u32::MAX - 1, ..options });
        // The descriptor block and one copy before the end, the rest after it.
        writer.copies(&[(3, content(1)), (4, content(2)), (5, content(3)), (6, content(9))]);
        writer.commit();
        writer.revoke(&[4]);
        writer.commit();
        assert_eq!(writer.tid, 0);
        writer.copies(&[(3, content(4)), (6, content(8))]);
        writer.commit();
        writer.revoke(&[6]);
        writer.commit();
        let expected = [(3, content(4)), (5, content(3))];
        assert_eq!(clean(&writer), BTreeMap::from(expected), "{options:?}");
    }
}

#[test]
fn a_full_log_ends_where_it_began() {
    let mut writer = Writer::new(Options { start: 5, ..PLAIN });
    // 31 blocks: descriptor, 28 copies, commit, and one more of a transaction that never ended.
    let copies: Vec<_> = (0..28).map(|at| (at, content(at as u8))).collect();
    writer.copies(&copies);
    writer.commit();
    writer.copies(&[]);
    assert_eq!(clean(&writer), copies.into_iter().collect());
}

#[test]
fn a_log_that_never_ends_is_left() {
    let mut writer = Writer::new(PLAIN);
    for _ in 1..JOURNAL_BLOCKS {
        writer.revoke(&[1]);
    }
    assert_eq!(clean(&writer), BTreeMap::new());
}

#[test]
fn remains_of_an_older_log_are_no_transaction() {
    let mut writer = Writer::new(PLAIN);
    writer.copies(&[(3, content(1))]);
    writer.commit();
    writer.tid -= 1;
    writer.copies(&[(3, content(2))]);
    writer.commit();
    assert_eq!(clean(&writer), BTreeMap::from([(3, content(1))]));
}

#[test]
fn fast_commits_of_the_next_transaction_are_unsupported() {
    for sums in [Sums::None, Sums::V3] {
        let options = Options { sums, fast_commit_blocks: 8, ..PLAIN };
        let mut writer = Writer::new(options);
        writer.copies(&[(3, content(1))]);
        writer.commit();
        let expected = BTreeMap::from([(3, content(1))]);
        assert_eq!(clean(&writer), expected, "an area never used");
        let tags = [(6, vec![1; 132]), (1, vec![2; 16])];
        writer.fast_commit(writer.tid - 1, &tags);
        assert_eq!(clean(&writer), expected, "one that a full commit made obsolete");
        writer.fast_commit(writer.tid, &tags);
        let error = run(&writer).unwrap_err();
        assert!(matches!(error, Error::Unsupported { feature: "fast commits", .. }), "{error}");
        let at = writer.place(JOURNAL_BLOCKS - 7);
        writer.image[at + 20] ^= 1;
        assert_eq!(clean(&writer), expected, "one that never became whole");
    }
}

/// Padding may begin in the last four bytes of a block and counts in the checksum. Taken for
/// nothing it made a whole fast commit look torn, and the files before it look current.
#[test]
fn fast_commits_of_several_blocks_are_seen_wherever_the_padding_begins() {
    for len in 980..1012 {
        let options = Options { fast_commit_blocks: 8, ..PLAIN };
        let mut writer = Writer::new(options);
        writer.copies(&[(3, content(1))]);
        writer.commit();
        writer.fast_commit(writer.tid, &[(6, vec![1; len]), (1, vec![2; 16])]);
        let error = run(&writer).expect_err(&len.to_string());
        assert!(matches!(error, Error::Unsupported { feature: "fast commits", .. }), "{error}");
    }
}

#[test]
fn fast_commit_blocks_are_no_part_of_the_ring() {
    let options = Options { fast_commit_blocks: 8, start: 22, ..PLAIN };
    let mut writer = Writer::new(options);
    writer.copies(&[(3, content(1)), (4, content(2)), (5, content(3))]);
    writer.commit();
    let expected = [(3, content(1)), (4, content(2)), (5, content(3))];
    assert_eq!(clean(&writer), BTreeMap::from(expected));
}

#[test]
fn an_external_journal_is_unsupported() {
    let writer = Writer::new(PLAIN);
    let error = replay(&Volume(&writer.image), &geometry(&[])).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("another device"), "{error}");
}
