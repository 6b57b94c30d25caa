//! The chunker against a reference that sees the whole stream at once, and golden cuts.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::ObjectId;

const TINY: [u32; 3] = [64, 256, 1024];

/// A contiguous stretch of the stream.
#[derive(Clone)]
struct Piece {
    position: u64,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.position)?;
        for run in self.bytes.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            write!(f, " {}*{}", run.len(), if run[0] == 0 { "zero" } else { "data" })?;
        }
        Ok(())
    }
}

/// An owned cut. Data keeps its bytes, so that equality proves reassembly too.
#[derive(Clone, PartialEq, Eq)]
enum Owned {
    Data { at: u64, bytes: Vec<u8> },
    Zero { at: u64, len: u64 },
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data { at, bytes } => write!(f, "data {at}+{}", bytes.len()),
            Self::Zero { at, len } => write!(f, "zero {at}+{len}"),
        }
    }
}

fn own(cut: Cut<'_>) -> Owned {
    match cut {
        Cut::Data { at, bytes } => Owned::Data { at: at.0, bytes: bytes.to_vec() },
        Cut::Zero { at, len } => Owned::Zero { at: at.0, len: len.0 },
    }
}

/// Deterministic bytes that hold no run of zeros.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

// ---- the reference: docs/formats/chunking.md word for word, with the whole stream in memory ----

fn reference(pieces: &[Piece], sizes: [u32; 3]) -> Vec<Owned> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.bytes.is_empty()) {
        match merged.last_mut() {
            Some(last) if last.position + last.bytes.len() as u64 == piece.position => {
                last.bytes.extend_from_slice(&piece.bytes);
            }
            _ => merged.push(piece.clone()),
        }
    }
    let stream: Vec<u8> = merged.iter().flat_map(|piece| piece.bytes.clone()).collect();

    // (start, end) of the qualifying runs, in stream offsets
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut base = 0;
    for piece in &merged {
        let mut from = 0;
        let mut run = 0;
        while from <= piece.bytes.len() {
            let grid = (piece.position + from as u64) / 4096 * 4096 + 4096 - piece.position;
            let to = usize::try_from(grid).unwrap().min(piece.bytes.len());
            let zero = from < to && piece.bytes[from..to].iter().all(|byte| *byte == 0);
            if zero {
                run += to - from;
                from = to;
                continue;
            }
            if run >= 65536 {
                runs.push((base + from - run, base + from));
            }
            run = 0;
            if from == piece.bytes.len() {
                break;
            }
            from = to;
        }
        base += piece.bytes.len();
    }

    let mut cuts = Vec::new();
    let mut at = 0;
    for (start, end) in runs {
        cut_segment(&stream[at..start], at, sizes, &mut cuts);
        cuts.push(Owned::Zero { at: start as u64, len: (end - start) as u64 });
        at = end;
    }
    cut_segment(&stream[at..], at, sizes, &mut cuts);
    cuts
}

fn cut_segment(segment: &[u8], base: usize, sizes: [u32; 3], cuts: &mut Vec<Owned>) {
    let mut at = 0;
    while at < segment.len() {
        let len = fastcdc_byte_by_byte(&segment[at..], sizes);
        cuts.push(Owned::Data { at: (base + at) as u64, bytes: segment[at..at + len].to_vec() });
        at += len;
    }
}

fn fastcdc_byte_by_byte(rest: &[u8], sizes: [u32; 3]) -> usize {
    let [min, avg, max] = sizes.map(|size| size as usize);
    let (strict, loose) = match avg {
        65536 => (0x0000_d907_0353_7000, 0x0000_d90f_0353_0000),
        16384 => (0x0000_d90f_0353_0000, 0x0000_d903_0353_0000_u64),
        256 => (0x0000_0190_0035_3000, 0x0000_0000_1803_5100),
        _ => unreachable!("no masks written down for {avg}"),
    };
    let n = rest.len().min(max);
    let (gear, _) = fastcdc::v2020::get_gear_with_seed(0);
    let mut hash = 0_u64;
    for i in min..n / 2 * 2 {
        hash = (hash << 1).wrapping_add(gear[usize::from(rest[i])]);
        let mask = if i < avg { strict } else { loose };
        if hash & mask == 0 {
            return i;
        }
    }
    n
}

// ---- the chunker, fed as the lists say ----

/// Pushes the pieces in slices of the given sizes, cycled; a slice of zeros goes through
/// `push_zeros` where `holes` (cycled too) says so.
fn chunked(pieces: &[Piece], sizes: [u32; 3], slices: &[usize], holes: &[bool]) -> Vec<Owned> {
    let mut chunker = Chunker::new(ChunkParams::from_sizes(sizes).unwrap());
    let mut cuts = vec![];
    feed(&mut chunker, pieces, slices, holes, &mut |cut| cuts.push(own(cut)));
    cuts
}

/// As `chunked`, but the last slice and the end of the stream come in one call.
fn chunked_with_end(pieces: &[Piece], sizes: [u32; 3], slices: &[usize]) -> Vec<Owned> {
    let mut chunker = Chunker::new(ChunkParams::from_sizes(sizes).unwrap());
    let mut cuts = vec![];
    // Twice: the second stream shows what the first left behind.
    for _ in 0..2 {
        cuts.clear();
        let cut = &mut |cut: Cut<'_>| cuts.push(own(cut));
        let mut slices = slices.iter().cycle();
        let mut last: Option<(u64, &[u8])> = None;
        for piece in pieces {
            let (mut position, mut rest) = (piece.position, &piece.bytes[..]);
            while !rest.is_empty() {
                let (part, after) = rest.split_at((*slices.next().unwrap()).min(rest.len()));
                if let Some((at, before)) = last.replace((position, part)) {
                    chunker.push(ByteOffset(at), before, cut);
                }
                rest = after;
                position += part.len() as u64;
            }
        }
        let (at, part) = last.unwrap_or((0, &[]));
        chunker.finish_with(ByteOffset(at), part, cut);
    }
    cuts
}

fn feed(
    chunker: &mut Chunker,
    pieces: &[Piece],
    slices: &[usize],
    holes: &[bool],
    cut: &mut dyn FnMut(Cut<'_>),
) {
    let mut slices = slices.iter().cycle();
    let mut holes = holes.iter().cycle();
    for piece in pieces {
        let mut position = piece.position;
        let mut rest = &piece.bytes[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at((*slices.next().unwrap()).min(rest.len()));
            rest = after;
            if *holes.next().unwrap() && part.iter().all(|byte| *byte == 0) {
                chunker.push_zeros(ByteOffset(position), ByteLen(part.len() as u64), cut);
            } else {
                chunker.push(ByteOffset(position), part, cut);
            }
            position += part.len() as u64;
            let most = 2 * chunker.cutter.max + (68 << 10) + part.len();
            assert!(chunker.held.len() <= most, "holds {} bytes", chunker.held.len());
        }
    }
    chunker.finish(cut);
}

fn joined(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.bytes.clone()).collect()
}

/// Checks the identity, and the laws of a list of cuts, without the reference.
fn check_cover(cuts: &[Owned], pieces: &[Piece], sizes: [u32; 3]) {
    let mut bytes = Vec::new();
    for cut in cuts {
        match cut {
            Owned::Data { at, bytes: chunk } => {
                assert_eq!(*at, bytes.len() as u64);
                assert!(!chunk.is_empty() && chunk.len() <= sizes[2] as usize);
                bytes.extend_from_slice(chunk);
            }
            Owned::Zero { at, len } => {
                assert_eq!(*at, bytes.len() as u64);
                assert!(*len >= ZERO_RUN);
                bytes.resize(bytes.len() + usize::try_from(*len).unwrap(), 0);
            }
        }
    }
    assert!(bytes == joined(pieces), "the cuts do not add up to the stream");
}

fn lengths() -> impl Strategy<Value = usize> {
    let near = |at: usize| (at.saturating_sub(2)..at + 3).boxed();
    prop_oneof![
        4 => 1_usize..10_000,
        2 => 1_usize..200_000,
        1 => near(4096),
        1 => near(65536),
        1 => near(65536 - 4096),
        1 => near(65536 + 4096),
        1 => near(2 * 65536),
        1 => near(262_144),
    ]
}

/// Content as a list of (what, length): noise, zeros, a repeated byte, noise with single zeros.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let part = (0_u8..6, lengths(), any::<u64>());
    proptest::collection::vec(part, 0..8).prop_map(|parts| {
        let mut bytes = Vec::new();
        for (what, len, seed) in parts {
            match what {
                0 | 1 => bytes.extend(noise(seed, len)),
                2..=4 => bytes.resize(bytes.len() + len, 0),
                _ => bytes.resize(bytes.len() + len, seed.to_le_bytes()[0]),
            }
        }
        bytes
    })
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let gap = prop_oneof![Just(0_u64), Just(4096), 1_u64..10_000, Just(1 << 40)];
    let first = prop_oneof![Just(0_u64), Just(63 * 512), 0_u64..100_000];
    (first, proptest::collection::vec((content(), gap), 1..4)).prop_map(|(mut position, list)| {
        let mut pieces = Vec::new();
        for (bytes, gap) in list {
            let len = bytes.len() as u64;
            pieces.push(Piece { position, bytes });
            position += len + gap;
        }
        pieces
    })
}

fn slices() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![
        1_usize..8192,
        Just(4096_usize),
        Just(65536),
        Just(1 << 20),
        60_000_usize..70_000,
        1_usize..600_000,
    ];
    proptest::collection::vec(size, 1..6)
}

fn sizes() -> impl Strategy<Value = [u32; 3]> {
    prop_oneof![Just(ChunkParams::PARSED.sizes()), Just(ChunkParams::UNPARSED.sizes()), Just(TINY),]
}

proptest! {
    #[test]
    fn cuts_are_those_of_the_whole_stream(
        pieces in pieces(),
        sizes in sizes(),
        slices in slices(),
        holes in proptest::collection::vec(any::<bool>(), 1..5),
    ) {
        let cuts = chunked(&pieces, sizes, &slices, &holes);
        check_cover(&cuts, &pieces, sizes);
        prop_assert_eq!(cuts, reference(&pieces, sizes));
    }

    #[test]
    fn an_end_that_comes_with_the_last_bytes_changes_no_cut(
        pieces in pieces(),
        sizes in sizes(),
        slices in slices(),
    ) {
        prop_assert_eq!(chunked_with_end(&pieces, sizes, &slices), reference(&pieces, sizes));
    }

    #[test]
    fn a_chunker_is_as_new_after_finish(
        first in pieces(),
        second in pieces(),
        slices in slices(),
    ) {
        let mut chunker = Chunker::new(ChunkParams::UNPARSED);
        feed(&mut chunker, &first, &slices, &[true], &mut |_| ());
        let mut cuts = vec![];
        feed(&mut chunker, &second, &slices, &[false], &mut |cut| cuts.push(own(cut)));
        prop_assert_eq!(cuts, reference(&second, ChunkParams::UNPARSED.sizes()));
    }
}

// ---- single cases, written out ----

fn shapes(pieces: &[Piece]) -> Vec<String> {
    chunked(pieces, ChunkParams::PARSED.sizes(), &[1 << 20], &[false])
        .iter()
        .map(|cut| format!("{cut:?}"))
        .collect()
}

fn piece(position: u64, parts: &[(u8, usize)]) -> Piece {
    let bytes = parts.iter().flat_map(|(byte, len)| vec![*byte; *len]).collect();
    Piece { position, bytes }
}

#[test]
fn an_empty_stream_has_no_cuts() {
    assert!(shapes(&[]).is_empty());
    let mut chunker = Chunker::new(ChunkParams::PARSED);
    chunker.push(ByteOffset(7), &[], &mut |_| panic!("a cut of nothing"));
    chunker.push_zeros(ByteOffset(9), ByteLen(0), &mut |_| panic!("a cut of nothing"));
    chunker.finish(&mut |_| panic!("a cut of nothing"));
}

#[test]
fn a_run_counts_from_64_kib_on() {
    assert_eq!(shapes(&[piece(0, &[(0, 65535)])]), ["data 0+65535"]);
    assert_eq!(shapes(&[piece(0, &[(0, 65536)])]), ["zero 0+65536"]);
    assert_eq!(shapes(&[piece(0, &[(0, 65537)])]), ["zero 0+65537"]);
}

#[test]
fn only_whole_grid_blocks_belong_to_a_run() {
    // 4095 zeros share their block with the 1 before them, 5 with the 1 behind them.
    let bytes = [(1, 1), (0, 4095 + 65536 + 5), (1, 10)];
    assert_eq!(shapes(&[piece(0, &bytes)]), ["data 0+4096", "zero 4096+65536", "data 69632+15"]);
    // One zero less than whole blocks need, and the same bytes one sector further on.
    let bytes = [(1, 1), (0, 65536 + 4094), (1, 10)];
    assert_eq!(shapes(&[piece(0, &bytes)]), ["data 0+69641"]);
    assert_eq!(shapes(&[piece(512, &bytes)]), ["data 0+3584", "zero 3584+65536", "data 69120+521"]);
}

#[test]
fn blocks_cut_by_the_ends_of_a_piece_count() {
    // 3584 bytes of the first block, 15 blocks, 512 bytes of the last.
    let bytes = [(0, 3584 + 15 * 4096 + 512)];
    assert_eq!(shapes(&[piece(512, &bytes)]), ["zero 0+65536"]);
    assert_eq!(shapes(&[piece(512, &[(0, 65535)])]), ["data 0+65535"]);
}

#[test]
fn a_gap_ends_a_run_but_not_a_chunk() {
    let half = [(0, 40960)];
    assert_eq!(shapes(&[piece(0, &half), piece(1 << 20, &half)]), ["data 0+81920"]);
    assert_eq!(shapes(&[piece(0, &half), piece(40960, &half)]), ["zero 0+81920"]);
    let whole = [(0, 65536)];
    assert_eq!(
        shapes(&[piece(0, &whole), piece(1 << 20, &whole)]),
        ["zero 0+65536", "zero 65536+65536"]
    );
    assert_eq!(shapes(&[piece(100, &[(1, 1000)]), piece(5000, &[(2, 1000)])]), ["data 0+2000"]);
}

/// Short runs of zeros behind gaps are data at once; they were held until other data came.
#[test]
fn zeros_between_gaps_are_not_piled_up() {
    let pieces: Vec<Piece> = (0..100).map(|n| piece(n << 20, &[(0, 61_441)])).collect();
    let cuts = chunked(&pieces, TINY, &[65_536], &[false, true]);
    assert_eq!(cuts, reference(&pieces, TINY));
}

#[test]
fn holes_of_any_size_cost_nothing() {
    let mut chunker = Chunker::new(ChunkParams::PARSED);
    let mut cuts = Vec::new();
    let mut take = |cut: Cut<'_>| cuts.push(format!("{:?}", own(cut)));
    chunker.push(ByteOffset(0), b"x", &mut take);
    chunker.push_zeros(ByteOffset(1), ByteLen((1 << 62) - 1), &mut take);
    chunker.push_zeros(ByteOffset(1 << 62), ByteLen(1 << 62), &mut take);
    chunker.push_zeros(ByteOffset(1 << 63), ByteLen(4097), &mut take);
    chunker.push(ByteOffset((1 << 63) + 4097), b"y", &mut take);
    chunker.finish(&mut take);
    let zero = format!("zero 4096+{}", 1_u64 << 63);
    let tail = format!("data {}+2", (1_u64 << 63) + 4096);
    assert_eq!(cuts, ["data 0+4096".to_owned(), zero, tail]);
}

#[test]
fn sizes_are_checked() {
    for sizes in [ChunkParams::PARSED.sizes(), ChunkParams::UNPARSED.sizes(), TINY] {
        assert_eq!(ChunkParams::from_sizes(sizes).unwrap().sizes(), sizes);
    }
    let bad = [
        [0, 0, 0],
        [63, 256, 1024],
        [64, 256, 1025],
        [64, 300, 1024],
        [512, 256, 1024],
        [64, 2048, 1024],
        [62, 256, 1024],
        [1 << 21, 1 << 22, 1 << 23],
        [64, 256, 1 << 25],
    ];
    for sizes in bad {
        assert!(ChunkParams::from_sizes(sizes).is_err(), "{sizes:?} were taken");
    }
}

// ---- golden cuts ----

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The input of the golden file: 8 MiB of BLAKE3 output with stretches overwritten, then 1 MiB
/// more behind a gap.
fn golden_input() -> (Vec<(usize, u8, usize)>, Vec<Piece>) {
    let overwritten = vec![
        (0, 0, 70_000),
        (300_000, 0, 65_535),
        (500_000, 0, 4096 + 65_535),
        (700_000, 0, 4095 + 65_536 + 4095),
        (1 << 20, 0, 65_536),
        ((1 << 20) + 65_536 + 8192, 0, 65_536 - 512),
        (2 << 20, 7, 600_000),
        (3 << 20, 0, 1 << 20),
        ((5 << 20) - 100, 0, 100_000),
        ((8 << 20) - 66_000, 0, 132_000),
    ];
    let mut bytes = vec![0; 9 << 20];
    blake3::Hasher::new().update(b"umbra chunking 1").finalize_xof().fill(&mut bytes);
    for (at, byte, len) in &overwritten {
        bytes[*at..at + len].fill(*byte);
    }
    let tail = bytes.split_off(8 << 20);
    let pieces =
        vec![Piece { position: 512, bytes }, Piece { position: (1 << 30) + 1024, bytes: tail }];
    (overwritten, pieces)
}

fn golden_text() -> String {
    let (overwritten, pieces) = golden_input();
    let mut text = String::from(
        "# Golden cuts, format: docs/formats/chunking.md, \"Golden cuts\".\n\
         input 9437184 umbra chunking 1\n",
    );
    for (at, byte, len) in overwritten {
        writeln!(text, "fill {at} {len} {byte}").unwrap();
    }
    for piece in &pieces {
        writeln!(text, "piece {} {}", piece.position, piece.bytes.len()).unwrap();
    }
    for params in [ChunkParams::PARSED, ChunkParams::UNPARSED] {
        let [min, avg, max] = params.sizes();
        writeln!(text, "params {} {min} {avg} {max}", ChunkParams::ALGORITHM).unwrap();
        for cut in chunked(&pieces, params.sizes(), &[100_000, 1 << 20, 1], &[false, true]) {
            match cut {
                Owned::Data { bytes, .. } => {
                    writeln!(text, "data {} {}", bytes.len(), ObjectId::of_chunk(&bytes)).unwrap();
                }
                Owned::Zero { len, .. } => writeln!(text, "zero {len}").unwrap(),
            }
        }
    }
    text
}

#[test]
fn cuts_are_the_golden_ones() {
    let path = root().join("testdata/formats/v1/chunking.txt");
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let text = golden_text();
    if text != golden {
        let found = std::env::temp_dir().join("umbra-chunking-found.txt");
        std::fs::write(&found, &text).unwrap();
        panic!("the cuts in {} are not those of {}", found.display(), path.display());
    }
}

/// The golden file against the program in the docs, which shares no code with this crate.
#[test]
fn golden_cuts_are_those_of_the_python_program() {
    if !python_has_blake3() {
        println!("skipped: python3 with the package blake3 is not installed");
        return;
    }
    let output = Command::new("python3")
        .arg(root().join("docs/formats/chunking.py"))
        .arg(root().join("testdata/formats/v1/chunking.txt"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn python_has_blake3() -> bool {
    Command::new("python3")
        .args(["-c", "import blake3"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Speed, by hand: `cargo test -p umbra-common --release chunker_speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a measurement"]
fn chunker_speed() {
    let bytes = noise(1, 256 << 20);
    for (slice, hash) in [(1 << 20, false), (4096, false), (1 << 20, true), (256 << 20, true)] {
        let mut chunker = Chunker::new(ChunkParams::PARSED);
        let start = std::time::Instant::now();
        let mut count = 0_u64;
        let mut cut = |cut: Cut<'_>| {
            if let (true, Cut::Data { bytes, .. }) = (hash, cut) {
                count += u64::from(ObjectId::of_chunk(bytes).0[0]);
            }
        };
        for (index, part) in bytes.chunks(slice).enumerate() {
            chunker.push(ByteOffset((index * slice) as u64), part, &mut cut);
        }
        chunker.finish(&mut cut);
        let rate = bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("slices of {slice}, hashed {hash}: {rate:.2} GB/s ({count})");
    }
    let mut zeros = vec![1; 1 << 20];
    zeros.fill(0);
    let start = std::time::Instant::now();
    let mut chunker = Chunker::new(ChunkParams::PARSED);
    for index in 0..1024_u64 {
        chunker.push(ByteOffset(index << 20), &zeros, &mut |_| ());
    }
    println!("zeros: {:.2} GB/s", (1_u64 << 30) as f64 / start.elapsed().as_secs_f64() / 1e9);
}
