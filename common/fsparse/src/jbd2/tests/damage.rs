//! Damaged logs.

use std::{collections::BTreeMap, println, vec::Vec};

use super::{
    super::replay,
    clean, formats, run,
    writer::{
        BLOCK, FS_BLOCKS, JOURNAL_BLOCKS, Options, PLAIN, Sums, Volume, Writer, content, geometry,
        pieces,
    },
};
use crate::Error;

/// Two transactions; returns the places of their commit blocks.
fn two_transactions(options: Options) -> (Writer, [usize; 2]) {
    let mut writer = Writer::new(options);
    writer.copies(&[(3, content(1)), (4, content(2))]);
    let first = writer.commit();
    writer.copies(&[(3, content(3)), (5, content(4))]);
    let second = writer.commit();
    (writer, [first, second])
}

fn first_only() -> BTreeMap<u64, Vec<u8>> {
    BTreeMap::from([(3, content(1)), (4, content(2))])
}

#[test]
fn a_torn_commit_block_ends_the_log() {
    for options in formats() {
        let (mut writer, [_, second]) = two_transactions(options);
        writer.image[second] ^= 1;
        assert_eq!(clean(&writer), first_only(), "no magic, {options:?}");
    }
}

#[test]
fn a_commit_block_whose_checksum_fails_ends_the_log() {
    for sums in [Sums::V1, Sums::V2, Sums::V3] {
        let (mut writer, [first, second]) = two_transactions(Options { sums, ..PLAIN });
        writer.image[second + 17] ^= 1;
        let (content, warnings) = run(&writer).unwrap();
        assert_eq!((content, warnings.len()), (first_only(), 1), "{sums:?}");
        writer.image[first + 17] ^= 1;
        let (content, warnings) = run(&writer).unwrap();
        assert_eq!((content, warnings.len()), (BTreeMap::new(), 1), "{sums:?}");
    }
}

#[test]
fn a_v1_checksum_covers_the_copies_and_may_be_absent() {
    let (mut writer, [_, second]) = two_transactions(Options { sums: Sums::V1, ..PLAIN });
    writer.image[second - BLOCK + 99] ^= 1;
    let (content, warnings) = run(&writer).unwrap();
    assert_eq!((content, warnings.len()), (first_only(), 1));
    writer.image[second + 12..second + 20].fill(0);
    assert_eq!(clean(&writer).len(), 3);
}

#[test]
fn an_asynchronous_commit_may_be_interrupted_but_not_in_the_middle() {
    for sums in [Sums::V1, Sums::V2, Sums::V3] {
        let options = Options { sums, async_commit: true, ..PLAIN };
        let (mut writer, [first, second]) = two_transactions(options);
        writer.image[second + 17] ^= 1;
        assert_eq!(clean(&writer), first_only(), "{sums:?}");
        writer.image[second + 17] ^= 1;
        writer.image[first + 17] ^= 1;
        let (content, warnings) = run(&writer).unwrap();
        assert_eq!((content, warnings.len()), (BTreeMap::new(), 1), "{sums:?}");
    }
}

#[test]
fn a_commit_block_with_a_stale_rest_commits() {
    for sums in [Sums::V2, Sums::V3] {
        let (mut writer, [_, second]) = two_transactions(Options { sums, ..PLAIN });
        writer.image[second + 512..second + BLOCK].fill(0xee);
        assert_eq!(clean(&writer).len(), 3, "{sums:?}");
        writer.image[second + 60] ^= 1;
        assert_eq!(run(&writer).unwrap().1.len(), 1, "{sums:?}");
    }
}

/// Neither the older copy nor the block's own place will do: both are out of date.
#[test]
fn a_block_whose_newest_copy_is_damaged_is_lost() {
    for sums in [Sums::V2, Sums::V3] {
        let (mut writer, [_, second]) = two_transactions(Options { sums, ..PLAIN });
        // The second transaction's copy of block 3.
        writer.image[second - 2 * BLOCK + 99] ^= 1;
        let (found, warnings) = run(&writer).unwrap();
        let expected = [(4, content(2)), (5, content(4))];
        assert_eq!((found, warnings.len()), (BTreeMap::from(expected), 1), "{sums:?}");
        let lost = |writer: &Writer| -> Vec<u64> {
            let pieces = pieces();
            let (replay, _) = replay(&Volume(&writer.image), &geometry(&pieces)).unwrap();
            replay.lost().collect()
        };
        assert_eq!(lost(&writer), [3], "{sums:?}");
        writer.copies(&[(3, content(9))]);
        writer.commit();
        assert_eq!(lost(&writer), Vec::<u64>::new(), "a younger copy is sound, {sums:?}");
        assert_eq!(run(&writer).unwrap().0[&3], content(9));
        writer.image[second - 2 * BLOCK + 99] ^= 1;
        writer.revoke(&[3]);
        writer.commit();
        assert_eq!(lost(&writer), Vec::<u64>::new());
    }
}

#[test]
fn a_damaged_descriptor_or_revoke_block_refuses_the_log() {
    for sums in [Sums::V2, Sums::V3] {
        let (mut writer, [first, _]) = two_transactions(Options { sums, ..PLAIN });
        writer.image[first + BLOCK + 500] ^= 1;
        let error = run(&writer).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{sums:?}: {error}");

        let mut writer = Writer::new(Options { sums, ..PLAIN });
        writer.revoke(&[1, 2]);
        let at = writer.commit();
        writer.image[at - 500] ^= 1;
        let error = run(&writer).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{sums:?}: {error}");
    }
}

#[test]
fn a_damaged_block_with_an_older_commit_is_stale() {
    for sums in [Sums::V2, Sums::V3] {
        let mut writer = Writer::new(Options { sums, ..PLAIN });
        writer.copies(&[(3, content(1)), (4, content(2))]);
        let first = writer.commit();
        writer.seconds -= 500;
        writer.copies(&[(3, content(3))]);
        writer.commit();
        writer.image[first + BLOCK + 500] ^= 1;
        assert_eq!(clean(&writer), first_only(), "{sums:?}");
    }
}

#[test]
fn blocks_beyond_the_file_system_are_left_out() {
    for (wide, beyond) in [(false, FS_BLOCKS), (true, FS_BLOCKS), (true, 1 << 32 | 3)] {
        let mut writer = Writer::new(Options { wide, ..PLAIN });
        writer.copies(&[(beyond, content(1)), (FS_BLOCKS - 1, content(2))]);
        writer.commit();
        let (found, warnings) = run(&writer).unwrap();
        let expected = BTreeMap::from([(FS_BLOCKS - 1, content(2))]);
        assert_eq!((found, warnings.len()), (expected, 1), "{beyond}");
    }
}

#[test]
fn a_revoke_block_that_claims_too_much_refuses_the_log() {
    let mut writer = Writer::new(PLAIN);
    writer.revoke(&[1]);
    let commit = writer.commit();
    let count = commit - BLOCK + 12;
    writer.image[count..count + 4].copy_from_slice(&1024_u32.to_be_bytes());
    assert_eq!(clean(&writer), BTreeMap::new());
    writer.image[count..count + 4].copy_from_slice(&1025_u32.to_be_bytes());
    let error = run(&writer).unwrap_err();
    assert!(matches!(error, Error::Corrupt { structure: "journal revoke block", .. }), "{error}");
}

/// Sets one 32-bit field of the superblock.
fn with_field(at: usize, value: u32) -> Result<(), Error> {
    let (mut writer, _) = two_transactions(PLAIN);
    let at = writer.place(0) + at;
    writer.image[at..at + 4].copy_from_slice(&value.to_be_bytes());
    run(&writer).map(|_| ())
}

#[test]
fn absurd_superblocks_are_refused() {
    let corrupt = |at, value| matches!(with_field(at, value), Err(Error::Corrupt { .. }));
    let unsupported = |at, value| matches!(with_field(at, value), Err(Error::Unsupported { .. }));
    assert!(matches!(with_field(0, 0), Err(Error::NotFound { .. })));
    assert!(unsupported(4, 6), "version");
    assert!(corrupt(0xc, 4096), "block size");
    assert!(corrupt(0x10, JOURNAL_BLOCKS + 1), "length");
    assert!(corrupt(0x10, 1), "length");
    assert!(corrupt(0x14, 0), "first block");
    assert!(corrupt(0x14, JOURNAL_BLOCKS), "first block");
    assert!(corrupt(0x1c, JOURNAL_BLOCKS), "start");
    assert!(unsupported(0x28, 0x40), "incompatible feature");
    assert!(unsupported(0x2c, 1), "read-only compatible feature");
    assert!(unsupported(0x40, 2), "users");
    assert!(corrupt(0x28, 0x18), "two kinds of checksum");
    assert!(corrupt(0x28, 0x21), "more fast-commit blocks than blocks");
    assert!(with_field(0x24, 2).is_ok(), "compatible features do not matter");
}

#[test]
fn a_superblock_whose_checksum_fails_is_refused() {
    for sums in [Sums::V2, Sums::V3] {
        let (mut writer, _) = two_transactions(Options { sums, ..PLAIN });
        let at = writer.place(0) + 0x1b;
        writer.image[at] ^= 1;
        assert!(matches!(run(&writer), Err(Error::Corrupt { .. })), "{sums:?}");
    }
}

#[test]
fn a_volume_that_ends_early_is_an_error_or_a_warning() {
    let (writer, [_, second]) = two_transactions(PLAIN);
    let pieces = pieces();
    let cut = |len: usize| replay(&Volume(&writer.image[..len]), &geometry(&pieces));
    assert!(matches!(cut(pieces[0].start().0 as usize), Err(Error::Corrupt { .. })));
    assert!(matches!(cut(second), Err(Error::Corrupt { .. })));
}

#[test]
fn random_damage_never_panics_nor_names_a_foreign_block() {
    let seed: u64 = 0x6a62_6432;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let pieces = pieces();
    let mut results = [0; 2];
    for round in 0..4000 {
        let options = formats()[random(9)];
        let fast_commit_blocks = if options.version == 2 { [0, 8][random(2)] } else { 0 };
        let options = Options { fast_commit_blocks, async_commit: random(2) == 0, ..options };
        let (mut writer, _) = two_transactions(options);
        writer.revoke(&[3]);
        writer.commit();
        for _ in 0..=random(4) {
            let block = random(12) as u32;
            let reach = [16, 64, BLOCK][random(3)];
            let at = writer.place(block) + random(reach);
            writer.image[at] = [0, 1, 0xff, random(256) as u8][random(4)];
        }
        let outcome = replay(&Volume(&writer.image), &geometry(&pieces));
        results[usize::from(outcome.is_ok())] += 1;
        if let Ok((replay, _)) = outcome {
            for (block, copy) in replay.iter() {
                assert!(block < FS_BLOCKS, "round {round}");
                assert!(pieces.iter().any(|piece| piece.contains(copy.volume)), "round {round}");
            }
        }
    }
    assert!(results.iter().all(|&count| count > 100), "{results:?}");
}
