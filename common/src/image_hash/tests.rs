//! Windows in random arrival orders against plain BLAKE3, golden hashes, the python program.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap()
}

fn len(bytes: &[u8]) -> ByteLen {
    ByteLen(bytes.len() as u64)
}

/// The rule, with the whole disk in memory.
fn plain(disk: &[u8]) -> ImageHash {
    let mut hasher = blake3::Hasher::new_derive_key("umbra 1 image hash");
    hasher.update(&(disk.len() as u64).to_le_bytes());
    for window in disk.chunks(16 << 20) {
        hasher.update(blake3::hash(window).as_bytes());
    }
    ImageHash(*hasher.finalize().as_bytes())
}

/// Splitmix64, so that an order follows from one number.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A disk of noise and zeros, its partition into pieces, and their order of arrival.
#[derive(Clone, Debug)]
struct Arrival {
    disk_len: usize,
    seed: u64,
    /// Pieces are up to this long and begin at multiples of `grid` (but for 1 in 16).
    longest: usize,
    grid: usize,
    /// 0 = in order, 1 = reversed, else shuffled.
    order: u8,
}

impl Arrival {
    fn disk(&self) -> Vec<u8> {
        let mut state = self.seed;
        let mut disk = noise(self.seed, self.disk_len);
        for _ in 0..next(&mut state) % 5 {
            let a = next(&mut state) as usize % (self.disk_len + 1);
            let b = next(&mut state) as usize % (self.disk_len + 1);
            disk[a.min(b)..a.max(b)].fill(0);
        }
        disk
    }

    fn pieces(&self) -> Vec<ByteRange> {
        let mut state = self.seed ^ 1;
        let mut bounds = BTreeSet::from([0, self.disk_len]);
        let mut at = 0;
        while at < self.disk_len {
            at += 1 + next(&mut state) as usize % self.longest;
            let odd = next(&mut state).is_multiple_of(16);
            let bound = if odd { at } else { at.next_multiple_of(self.grid) };
            bounds.insert(bound.min(self.disk_len));
        }
        let bounds: Vec<usize> = bounds.into_iter().collect();
        let mut pieces: Vec<_> =
            bounds.windows(2).map(|pair| range(pair[0] as u64, pair[1] as u64)).collect();
        match self.order {
            0 => {}
            1 => pieces.reverse(),
            _ => {
                for i in (1..pieces.len()).rev() {
                    pieces.swap(i, next(&mut state) as usize % (i + 1));
                }
            }
        }
        pieces
    }
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    let window = 16 << 20;
    let small = prop_oneof![0_usize..5000, Just(1024_usize), Just(1025), Just(2048), Just(3072)];
    // Small disks in pieces down to 1 byte, disks of several windows in larger ones.
    let few = (small, prop_oneof![1_usize..3, 1_usize..2000], Just(1_usize));
    let many = (
        prop_oneof![
            1_usize..(3 * window),
            Just(window),
            Just(2 * window),
            (1_usize..1 << 15).prop_map(move |chunks| window + chunks * 1024),
            (window - 3)..(window + 3),
        ],
        prop_oneof![5_000_usize..20_000, 100_000_usize..5_000_000, Just(2 * window)],
        prop_oneof![Just(1_usize), Just(512), Just(1024), Just(4096), Just(1 << 20)],
    );
    let shape = prop_oneof![few, many];
    (shape, any::<u64>(), 0_u8..5).prop_map(|((disk_len, longest, grid), seed, order)| Arrival {
        disk_len,
        seed,
        longest,
        grid,
        order,
    })
}

fn slice(disk: &[u8], range: ByteRange) -> &[u8] {
    &disk[range.start().0 as usize..range.end().0 as usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_order_gives_the_plain_hash(arrival in arrivals()) {
        let disk = arrival.disk();
        let pieces = arrival.pieces();
        let mut hasher = ImageHasher::new(len(&disk));
        for (count, piece) in pieces.iter().enumerate() {
            let bytes = slice(&disk, *piece);
            prop_assert_eq!(hasher.missing_in(*piece), vec![*piece]);
            if bytes.iter().all(|byte| *byte == 0) && count % 4 != 0 {
                hasher.add_zeros(*piece).unwrap();
            } else {
                hasher.add(piece.start(), bytes).unwrap();
            }
            prop_assert!(hasher.missing_in(*piece).is_empty());
        }
        for (index, window) in disk.chunks(16 << 20).enumerate() {
            let hash = WindowHash(*blake3::hash(window).as_bytes());
            prop_assert_eq!(hasher.window(index as u64), Some(hash));
        }
        prop_assert_eq!(hasher.finish().unwrap(), plain(&disk));
        prop_assert_eq!(hasher.pending_bytes(), 0);
        prop_assert_eq!(hasher.oldest_incomplete(), None);
    }

    #[test]
    fn missing_is_what_was_not_added_and_completes_the_hash(
        arrival in arrivals(),
        share in 0_usize..100,
        twice in any::<prop::sample::Index>(),
    ) {
        let disk = arrival.disk();
        let mut pieces = arrival.pieces();
        prop_assume!(!pieces.is_empty());
        let rest = pieces.split_off(pieces.len() * share / 100);
        let mut hasher = ImageHasher::new(len(&disk));
        for piece in &pieces {
            hasher.add(piece.start(), slice(&disk, *piece)).unwrap();
        }

        let mut want: Vec<ByteRange> = Vec::new();
        let mut sorted = rest;
        sorted.sort_by_key(|piece| piece.start());
        for piece in sorted {
            match want.last_mut() {
                Some(last) if last.end() == piece.start() => {
                    *last = ByteRange::between(last.start(), piece.end()).unwrap();
                }
                _ => want.push(piece),
            }
        }
        prop_assert_eq!(hasher.missing_in(range(0, disk.len() as u64)), want.clone());
        let by_window: u64 = (0..window_count(len(&disk)))
            .flat_map(|window| hasher.missing(window))
            .map(|gap| gap.len().0)
            .sum();
        prop_assert_eq!(by_window, want.iter().map(|gap| gap.len().0).sum::<u64>());
        prop_assert!(want.is_empty() == hasher.finish().is_ok());

        // A byte that is known is refused, with what lies around it, and changes nothing.
        if !pieces.is_empty() {
            let known = *twice.get(&pieces);
            let last = known.end().0 - 1;
            let wide = range(last, (last + 3000).min(disk.len() as u64));
            prop_assert!(hasher.add(wide.start(), slice(&disk, wide)).is_err());
            prop_assert!(hasher.add_zeros(wide).is_err());
            prop_assert!(hasher.inherit(last / WINDOW_BYTES, WindowHash([7; 32])).is_err());
        }
        for gap in want {
            hasher.add(gap.start(), slice(&disk, gap)).unwrap();
        }
        prop_assert_eq!(hasher.finish().unwrap(), plain(&disk));
    }

    #[test]
    fn in_order_gives_the_plain_hash(arrival in arrivals()) {
        let disk = arrival.disk();
        let mut hasher = SequentialImageHasher::new(len(&disk));
        for piece in (Arrival { order: 0, ..arrival }).pieces() {
            let bytes = slice(&disk, piece);
            if bytes.iter().all(|byte| *byte == 0) {
                hasher.push_zeros(piece.len()).unwrap();
            } else {
                hasher.push(bytes).unwrap();
            }
        }
        prop_assert!(hasher.push(b"x").is_err());
        prop_assert!(hasher.push_zeros(ByteLen(1)).is_err());
        prop_assert_eq!(hasher.windows().len() as u64, window_count(len(&disk)));
        prop_assert_eq!(hasher.finish().unwrap(), plain(&disk));
    }
}

#[test]
fn every_window_length_near_a_chunk_or_a_power_of_two() {
    let bytes = noise(3, 70_000);
    for chunks in [0_usize, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65] {
        for disk_len in (chunks * 1024).saturating_sub(2)..chunks * 1024 + 3 {
            let disk = &bytes[..disk_len];
            for step in [1000, 1024, 4096, 16384] {
                let mut hasher = ImageHasher::new(len(disk));
                let starts: Vec<usize> = (0..disk_len).step_by(step).collect();
                for start in starts.into_iter().rev() {
                    let end = (start + step).min(disk_len);
                    hasher.add(ByteOffset(start as u64), &disk[start..end]).unwrap();
                }
                assert_eq!(hasher.finish().unwrap(), plain(disk), "{disk_len} by {step}");
            }
            let mut hasher = ImageHasher::new(len(disk));
            let middle = disk_len as u64 / 2;
            hasher.add_zeros(range(middle, disk_len as u64)).unwrap();
            hasher.add_zeros(range(0, middle)).unwrap();
            assert_eq!(hasher.finish().unwrap(), plain(&vec![0; disk_len]), "{disk_len} zeros");
        }
    }
}

#[test]
fn zero_windows_cost_nothing() {
    let disk = ByteLen((1 << 40) + 5000);
    let start = std::time::Instant::now();
    let mut hasher = ImageHasher::new(disk);
    hasher.add(ByteOffset((1 << 39) + 100), b"one byte in the middle of a TiB").unwrap();
    hasher.add_zeros(range(0, (1 << 39) + 100)).unwrap();
    hasher.add_zeros(range((1 << 39) + 131, disk.0)).unwrap();
    assert_eq!(hasher.pending_bytes(), 0);
    assert!(
        hasher.zeros.iter().count() == 2 && hasher.done.len() == 2,
        "a window of zeros was kept"
    );

    // Known windows are refused wherever they are kept: zeros, the middle one, the short last one.
    for at in [0, (1 << 39) - 1, 1 << 39, (1 << 39) + (16 << 20), disk.0 - 1] {
        assert!(hasher.add(ByteOffset(at), b"x").is_err(), "{at} was taken twice");
        assert!(hasher.add_zeros(range(at, at + 1)).is_err(), "{at} was taken twice");
        assert!(hasher.inherit(at / WINDOW_BYTES, WindowHash([1; 32])).is_err());
    }
    assert!(hasher.add_zeros(range(0, disk.0)).is_err());

    let mut middle = vec![0; 16 << 20];
    middle[100..131].copy_from_slice(b"one byte in the middle of a TiB");
    let zero = blake3::hash(&vec![0; 16 << 20]);
    let mut want = blake3::Hasher::new_derive_key("umbra 1 image hash");
    want.update(&disk.0.to_le_bytes());
    for window in 0..1 << 16 {
        let hash = if window == 1 << 15 { blake3::hash(&middle) } else { zero };
        want.update(hash.as_bytes());
    }
    want.update(blake3::hash(&[0; 5000]).as_bytes());
    assert_eq!(hasher.finish().unwrap().0, *want.finalize().as_bytes());
    assert!(start.elapsed().as_secs() < 5, "1 TiB of zeros took {:?}", start.elapsed());
}

#[test]
fn the_oldest_window_can_be_completed() {
    let disk = noise(9, 5 * (16 << 20));
    let mut hasher = ImageHasher::new(len(&disk));
    let mut held = hasher.pending_bytes();
    for window in [3_usize, 1, 4] {
        for piece in 0..100 {
            let at = window * (16 << 20) + piece * 20_480 + 512;
            hasher.add(ByteOffset(at as u64), &disk[at..at + 4096]).unwrap();
        }
        assert!(hasher.pending_bytes() > held + 100_000);
        held = hasher.pending_bytes();
    }
    for window in [3, 1, 4] {
        assert_eq!(hasher.oldest_incomplete(), Some(window));
        assert_eq!(hasher.window(window), None);
        for gap in hasher.missing(window) {
            hasher.add(gap.start(), slice(&disk, gap)).unwrap();
        }
        assert!(hasher.window(window).is_some());
        assert!(hasher.missing(window).is_empty());
    }
    assert_eq!(hasher.pending_bytes(), 0);
    let error = hasher.finish().unwrap_err().to_string();
    assert_eq!(error, "image hash, bytes 0..16777216: bytes are missing");
    for window in [0, 2] {
        let whole = window_range(len(&disk), window).unwrap();
        let hash = WindowHash(*blake3::hash(slice(&disk, whole)).as_bytes());
        hasher.inherit(window, hash).unwrap();
    }
    assert_eq!(hasher.finish().unwrap(), plain(&disk));
}

#[test]
fn what_is_past_the_disk_or_not_enough_is_refused() {
    let mut hasher = ImageHasher::new(ByteLen(1000));
    assert!(hasher.add(ByteOffset(999), b"ab").is_err());
    assert!(hasher.add(ByteOffset(u64::MAX), b"ab").is_err());
    assert!(hasher.add_zeros(range(0, 1001)).is_err());
    assert!(hasher.add_zeros(range(1 << 62, 1 << 63)).is_err());
    assert!(hasher.inherit(1, WindowHash([0; 32])).is_err());
    assert!(hasher.inherit(u64::MAX, WindowHash([0; 32])).is_err());
    assert_eq!(hasher.missing(0), [range(0, 1000)]);
    assert!(hasher.missing(1).is_empty());
    hasher.add(ByteOffset(1000), b"").unwrap();
    assert!(hasher.finish().is_err());
    let zeros = [WindowHash::of_zeros(ByteLen(1000)); 2];
    assert!(image_hash(ByteLen(1000), zeros).is_err());
    assert!(image_hash(ByteLen(1000), []).is_err());
    assert_eq!(image_hash(ByteLen(1000), [zeros[0]]).unwrap(), plain(&[0; 1000]));
    assert_eq!(ImageHasher::new(ByteLen(0)).finish().unwrap(), plain(&[]));
    assert!(SequentialImageHasher::new(ByteLen(1)).finish().is_err());
    assert_eq!(SequentialImageHasher::new(ByteLen(0)).finish().unwrap(), plain(&[]));
}

// ---- golden hashes and the python program ----

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a line of the golden file says: a disk of zeros with BLAKE3 output at some places.
fn golden_disk(line: &str) -> Vec<u8> {
    let mut words = line.split(' ');
    let mut disk = vec![0; words.next().unwrap().parse().unwrap()];
    for place in words {
        let (at, len) = place.split_once('+').unwrap();
        let (at, len): (usize, usize) = (at.parse().unwrap(), len.parse().unwrap());
        let mut xof = blake3::Hasher::new().update(b"umbra image hash 1").finalize_xof();
        xof.fill(&mut disk[at..at + len]);
    }
    disk
}

#[test]
fn hashes_are_the_golden_ones() {
    let path = root().join("testdata/formats/v1/image-hash.txt");
    let golden = std::fs::read_to_string(path).unwrap();
    let mut count = 0;
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let (hash, recipe) = line.split_once(' ').unwrap();
        let disk = golden_disk(recipe);
        let mut hasher = ImageHasher::new(len(&disk));
        hasher.add(ByteOffset(0), &disk).unwrap();
        assert_eq!(hasher.finish().unwrap().to_string(), hash, "{recipe}");
        count += 1;
    }
    assert!(count >= 8, "only {count} golden hashes");
}

#[test]
fn the_python_program_agrees() {
    let has_blake3 = Command::new("python3")
        .args(["-c", "import blake3"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_blake3 {
        println!("skipped: python3 with the package blake3 is not installed");
        return;
    }
    let path = std::env::temp_dir().join(format!("umbra-image-hash-{}.img", std::process::id()));
    let disk_len = ByteLen((50 << 20) + 12_345);
    let mut file = File::create(&path).unwrap();
    file.set_len(disk_len.0).unwrap();
    let mut hasher = ImageHasher::new(disk_len);
    for (at, bytes) in [((33 << 20) + 7, noise(5, 3_000_000)), (4096, noise(6, 100_000))] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&bytes).unwrap();
        hasher.add(ByteOffset(at), &bytes).unwrap();
    }
    for gap in hasher.missing_in(range(0, disk_len.0)) {
        hasher.add_zeros(gap).unwrap();
    }
    drop(file);
    let script = root().join("docs/formats/image_hash.py");
    let output = Command::new("python3").arg(script).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim(), hasher.finish().unwrap().to_string());
}

/// Speed, by hand: `cargo test -p umbra-common --release image_hash_speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a measurement"]
fn image_hash_speed() {
    let disk = noise(1, 128 << 20);
    for step in [512_usize, 1024, 4096, 16384, 65536, 1 << 20, 16 << 20] {
        let start = std::time::Instant::now();
        let sum: u32 =
            disk.chunks(step).map(|part| u32::from(blake3::hash(part).as_bytes()[0])).sum();
        let rate = disk.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{step:>8} blake3 alone: {rate:.2} GB/s ({sum})");
        for shuffled in [false, true] {
            let mut starts: Vec<usize> = (0..disk.len()).step_by(step).collect();
            let mut state = 1;
            for i in (1..starts.len()).rev().filter(|_| shuffled) {
                starts.swap(i, next(&mut state) as usize % (i + 1));
            }
            let start = std::time::Instant::now();
            let mut hasher = ImageHasher::new(len(&disk));
            let mut most = 0;
            for at in starts {
                hasher.add(ByteOffset(at as u64), &disk[at..at + step]).unwrap();
                most = most.max(hasher.pending_bytes());
            }
            hasher.finish().unwrap();
            let rate = disk.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("{step:>8} shuffled {shuffled:5}: {rate:.2} GB/s, {} KiB held", most >> 10);
        }
    }
}
