//! Free space: never read as content, zeros in the proof, and never at a file's cost.

use super::sources::{hash_of, read_all};
use super::*;

/// Adds free ranges to a survey and returns the disk as `recover` is to write it.
fn leave_out(survey: &mut Survey, disk: &[u8], free: Vec<ByteRange>) -> Vec<u8> {
    let mut expected = disk.to_vec();
    for range in &free {
        let at = |offset: ByteOffset| usize::try_from(offset.0).unwrap();
        expected[at(range.start())..at(range.end())].fill(0);
    }
    survey.free = FreePolicy::Skip;
    survey.volumes[0].free = free;
    expected
}

/// Returns blocks of no file, every `step`th of them, as merged ranges.
fn unused(files: &[Inode], blocks: u64, step: u64) -> Vec<ByteRange> {
    let used: Vec<ByteRange> =
        files.iter().flat_map(|file| file.extents.iter().map(|extent| extent.volume)).collect();
    let is_free = |block: &u64| {
        let range = span(block * 4096, 4096);
        block % step != 1 && used.iter().all(|used| used.intersection(range).is_none())
    };
    let free: Vec<ByteRange> =
        (1..blocks).filter(is_free).map(|block| span(block * 4096, 4096)).collect();
    crate::ranges::merged(free)
}

#[test]
fn free_space_is_left_out_of_map_proof_and_store() {
    let vault = MemoryVault::default();
    // Two windows and a bit; the middle of it free as a whole.
    let (bytes, files) = lay_out(&some_contents(), 9000, 3, 31);
    let free = unused(&files, 9000, 7);
    let total: u64 = free.iter().map(|range| range.len().0).sum();
    let mut survey = survey_of(bytes.len() as u64, files);
    let expected = leave_out(&mut survey, &bytes, free.clone());
    let disk = MemoryDisk::new(bytes);
    let outcome = back_up(&disk, &survey, &vault);
    assert_eq!(outcome.map.free, total);
    assert!(vault.reassemble(outcome.snapshot) == expected);
    assert_eq!(outcome.image_hash, hash_of(&expected));
    let manifest = vault.manifest(outcome.snapshot);
    assert_eq!((manifest.free, manifest.counts.bytes_free), (FreePolicy::Skip, total));
    // Free space costs no reading but for small gaps that are read through.
    let read = disk.read.load(Ordering::Relaxed);
    let wanted = expected.len() as u64 - total;
    assert!(read * 4 <= wanted * 5, "{read} read for {wanted}");
}

#[test]
fn a_byte_that_a_file_claims_is_never_left_out() {
    let vault = MemoryVault::default();
    let (bytes, files) = lay_out(&some_contents(), 3000, 4, 32);
    let claimed: Vec<ByteRange> =
        files.iter().flat_map(|file| file.extents.iter().map(|extent| extent.volume)).collect();
    let mut survey = survey_of(bytes.len() as u64, files);
    // A parser gone mad says that everything is free.
    leave_out(&mut survey, &bytes, vec![span(0, bytes.len() as u64)]);
    let outcome = back_up(&MemoryDisk::new(bytes.clone()), &survey, &vault);
    let mut expected = vec![0; bytes.len()];
    for range in claimed {
        let at = |offset: ByteOffset| usize::try_from(offset.0).unwrap();
        let part = at(range.start())..at(range.end());
        expected[part.clone()].copy_from_slice(&bytes[part]);
    }
    assert!(vault.reassemble(outcome.snapshot) == expected);
    assert_eq!(outcome.image_hash, hash_of(&expected));
}

#[test]
fn windows_that_are_completed_early_have_zeros_where_nothing_is_kept() {
    // Files of many fragments all over two windows, noise where nothing is kept.
    let contents: Vec<Vec<u8>> = (0..40).map(|i| noise(i, 40_000 + i as usize * 333)).collect();
    let (bytes, files) = lay_out(&contents, 5120, 2, 33);
    let free = unused(&files, 5120, 5);
    let mut survey = survey_of(bytes.len() as u64, files);
    let expected = leave_out(&mut survey, &bytes, free);
    let disk = MemoryDisk::new(bytes);
    for limit in [0, 10_000, 1 << 30] {
        let (summary, handed_on) = read_all(&disk, &survey, limit);
        assert!(handed_on == expected, "limit {limit}");
        assert_eq!(summary.unwrap().image_hash.0, hash_of(&expected), "limit {limit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_layout_comes_back_but_for_what_is_free(
        sizes in proptest::collection::vec(0_usize..200_000, 0..12),
        fragment in 1_usize..9,
        seed in any::<u64>(),
        step in 2_u64..40,
    ) {
        let contents: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, &n)| noise(seed ^ i as u64, n)).collect();
        let (bytes, files) = lay_out(&contents, 6000, fragment, seed);
        let free = unused(&files, 6000, step);
        let mut survey = survey_of(bytes.len() as u64, files);
        let expected = leave_out(&mut survey, &bytes, free);
        let vault = MemoryVault::default();
        let outcome = back_up(&MemoryDisk::new(bytes), &survey, &vault);
        prop_assert!(vault.reassemble(outcome.snapshot) == expected);
        prop_assert_eq!(outcome.image_hash, hash_of(&expected));
    }
}
