#![allow(clippy::unwrap_used)]

use super::*;
use crate::browse::{Browser, Links};
use crate::fixture::{Fixture, Piece as Part, Random, What, content_of, spec};

/// Reads a file whole; zeros are written out.
fn read(fixture: &Fixture, path: &str) -> (Vec<u8>, FileEnd) {
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let entry = browser.find(path.as_bytes(), Links::Keep).unwrap().entry;
    let mut bytes = Vec::new();
    let end = fixture.content().read_file(&entry, &mut |piece| {
        match piece {
            Piece::Data(data) => bytes.extend_from_slice(data),
            Piece::Zeros(_, len) => bytes.resize(bytes.len() + len.0 as usize, 0),
        }
        Ok(())
    });
    (bytes, end.unwrap())
}

/// A random file: data, holes, unwritten space and journal copies, the last piece of any length.
pub(crate) fn random_pieces(random: &mut Random) -> Vec<Part> {
    let mut pieces = Vec::new();
    for _ in 0..random.below(6) {
        let blocks = 1 + random.below(9);
        pieces.push(match random.below(5) {
            0 => Part::Hole(blocks),
            1 => Part::Unwritten(blocks),
            2 => {
                let mut block = random.bytes(4096);
                block[..4].copy_from_slice(&0xC03B_3998_u32.to_be_bytes());
                Part::Escaped(block)
            }
            _ => Part::Data(random.bytes((blocks * 4096) as usize)),
        });
    }
    if random.below(4) > 0 {
        let len = random.below(40_000) as usize;
        pieces.push(Part::Data(random.bytes(len)));
    }
    pieces
}

#[test]
fn random_files_read_as_they_were_written() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let files: Vec<Vec<Part>> = (0..6).map(|_| random_pieces(&mut random)).collect();
        let specs: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(number, pieces)| spec(format!("f{number}"), What::File(pieces.clone())))
            .collect();
        let fixture = Fixture::new(seed, &specs);
        for (number, pieces) in files.iter().enumerate() {
            let (bytes, end) = read(&fixture, &format!("/f{number}"));
            assert_eq!(bytes, content_of(pieces), "seed {seed}, file {number}");
            assert!(end.proven && end.damage.is_none(), "seed {seed}: {end:?}");
        }
    }
}

#[test]
fn a_large_file_needs_many_requests_and_reads_right() {
    let mut random = Random::new(9);
    let pieces = vec![
        Part::Data(random.bytes(20 << 20)),
        Part::Hole(3000),
        Part::Data(random.bytes(9_000_001)),
    ];
    let fixture = Fixture::new(9, &[spec("large", What::File(pieces.clone()))]);
    let (bytes, end) = read(&fixture, "/large");
    assert!(bytes == content_of(&pieces) && end.proven);
}

#[test]
fn a_lost_chunk_is_named_and_what_came_before_is_right() {
    let mut random = Random::new(10);
    let content = random.bytes(100_000);
    let specs = [spec("f", What::File(vec![Part::Data(content.clone())]))];
    let mut fixture = Fixture::new(10, &specs);
    let third = umbra_common::ObjectId::of_chunk(&content[24 * 1024..36 * 1024]);
    fixture.chunks.table.remove(&third).unwrap();
    let (bytes, end) = read(&fixture, "/f");
    let damage = end.damage.unwrap();
    assert!(damage.contains("the vault lost it") && damage.contains("bytes 24576.."), "{damage}");
    assert!(!end.proven);
    assert_eq!(bytes, content[..24 * 1024]);
}

#[test]
fn wrong_bytes_under_a_right_name_are_found_by_the_files_own_hash() {
    // A chunk source that lies is what a wrong map would look like.
    let mut random = Random::new(11);
    let content = random.bytes(50_000);
    let specs = [spec("f", What::File(vec![Part::Data(content)]))];
    let mut fixture = Fixture::new(11, &specs);
    fixture.chunks.table.values_mut().next().unwrap()[7] ^= 1;
    let (_, end) = read(&fixture, "/f");
    let damage = end.damage.unwrap();
    assert!(damage.contains("hashes to") && !end.proven, "{damage}");
}

#[test]
fn a_chunk_that_is_too_short_is_damage() {
    let specs = [spec("f", What::File(vec![Part::Data(vec![7; 5000])]))];
    let mut fixture = Fixture::new(12, &specs);
    fixture.chunks.table.values_mut().next().unwrap().truncate(4999);
    let (_, end) = read(&fixture, "/f");
    assert!(end.damage.unwrap().contains("does not have"));
}

#[test]
fn unreadable_ranges_are_zeros_and_are_counted() {
    let pieces = vec![Part::Data(vec![1; 4096]), Part::Unreadable(3), Part::Data(vec![2; 10])];
    let fixture = Fixture::new(13, &[spec("f", What::File(pieces.clone()))]);
    let (bytes, end) = read(&fixture, "/f");
    assert_eq!(bytes, content_of(&pieces));
    assert_eq!((end.not_kept, end.proven, end.damage), (3 * 4096, false, None));
}

#[test]
fn a_lost_page_costs_the_files_that_lie_there() {
    let mut random = Random::new(14);
    let specs = [
        spec("early", What::File(vec![Part::Data(random.bytes(5000))])),
        spec("large", What::File(vec![Part::Data(random.bytes(20 << 20))])),
        spec("late", What::File(vec![Part::Data(random.bytes(5000))])),
    ];
    let mut fixture = Fixture::new(14, &specs);
    let pages: Vec<_> = fixture
        .nodes
        .iter()
        .map(|(reference, _)| *reference)
        .filter(|reference| reference.kind == umbra_common::Kind::MapPage)
        .collect();
    assert!(pages.len() >= 2);
    let damaged = |fixture: &Fixture| {
        ["/early", "/large", "/late"].map(|path| read(fixture, path).1.damage.is_some())
    };
    assert_eq!(damaged(&fixture), [false; 3]);
    let mut hit = Vec::new();
    for page in pages {
        let node = fixture.nodes.remove(&page).unwrap();
        hit.push(damaged(&fixture));
        fixture.nodes.damage(page, std::sync::Arc::unwrap_or_clone(node));
    }
    assert!(hit.contains(&[true, true, false]) && hit.iter().all(|hit| hit[1]), "{hit:?}");
}

#[test]
fn many_files_share_requests() {
    let mut random = Random::new(15);
    let specs: Vec<_> = (0..400)
        .map(|number| spec(format!("{number}"), What::File(vec![Part::Data(random.bytes(2000))])))
        .collect();
    let fixture = Fixture::new(15, &specs);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let find = |number: usize| browser.find(format!("/{number}").as_bytes(), Links::Keep);
    let entries: Vec<_> = (0..400).map(|number| find(number).unwrap().entry).collect();
    struct Count(usize);
    impl ContentSink for Count {
        fn piece(&mut self, file: usize, _: Piece<'_>) -> Result<()> {
            assert_eq!(file, self.0);
            Ok(())
        }
        fn end(&mut self, file: usize, end: FileEnd) -> Result<()> {
            assert_eq!(file, self.0);
            assert!(end.proven);
            self.0 += 1;
            Ok(())
        }
    }
    let mut count = Count(0);
    let refs: Vec<&Entry> = entries.iter().collect();
    fixture.content().read_files(&refs, &mut count).unwrap();
    assert_eq!(count.0, 400);
}

#[test]
fn an_error_of_the_sink_ends_the_reading() {
    let specs = [spec("f", What::File(vec![Part::Data(vec![3; 40 << 20])]))];
    let fixture = Fixture::new(16, &specs);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let entry = browser.find(b"/f", Links::Keep).unwrap().entry;
    let stop = || crate::Error::Internal("enough".into());
    let end = fixture.content().read_file(&entry, &mut |_| Err(stop()));
    assert!(end.unwrap_err().to_string().contains("enough"));
}
