//! What every index must do.

use umbra_common::{Kind, ObjectId};

use crate::bytes::wide;
use crate::ids::{DomainId, PackId, StoreId};
use crate::index::{
    Batch, INDEX_BEING_MADE, INDEX_VERSION, Index, IndexFormat, Key, Location, LogMark, PackRow,
    PackState,
};

fn key(domain: u32, byte: u8) -> Key {
    Key { domain: DomainId(domain), id: ObjectId([byte; 32]) }
}

fn location(pack: u8, offset: u64) -> Location {
    Location {
        pack: PackId([pack; 16]),
        offset,
        record_len: 4_000_000,
        plain_len: 1 << 20,
        kind: Kind::MapPage,
        incomplete: false,
    }
}

fn row(watermark: u64) -> PackRow {
    PackRow { state: PackState::Open, watermark, records: 2 }
}

/// Runs the test of the [`Index`] trait on a new, empty index.
///
/// # Panics
/// Where the index does not do what the trait says.
#[allow(clippy::unwrap_used)]
pub fn index_conformance(index: &dyn Index) {
    assert_eq!(index.format().unwrap(), None);
    let format = IndexFormat { version: INDEX_VERSION, store: StoreId([9; 16]), gc_generation: 3 };
    index.wipe(format).unwrap();
    assert_eq!(index.format().unwrap(), Some(format));
    assert_eq!(index.find(&key(0, 1)).unwrap(), None);
    assert_eq!(index.log_mark().unwrap(), LogMark::default());
    assert!(index.packs().unwrap().is_empty());
    rows(index);
    index.sync().unwrap();
    // The format alone can change, and does not by itself.
    let other = IndexFormat { version: INDEX_BEING_MADE, ..format };
    index.apply(&Batch { format: Some(other), ..Batch::default() }).unwrap();
    index.apply(&Batch::default()).unwrap();
    assert_eq!(index.format().unwrap(), Some(other));
    assert_eq!(index.log_mark().unwrap(), LogMark { sequence: 77 });
    let next = IndexFormat { gc_generation: 4, ..format };
    index.wipe(next).unwrap();
    assert_eq!(index.format().unwrap(), Some(next));
    assert_eq!(index.find(&key(0, 1)).unwrap(), None);
    assert!(index.packs().unwrap().is_empty());
    assert_eq!(index.log_mark().unwrap(), LogMark::default());
}

#[allow(clippy::unwrap_used)]
fn rows(index: &dyn Index) {
    let incomplete = Location { incomplete: true, kind: Kind::Chunk, ..location(1, u64::MAX) };
    index
        .apply(&Batch {
            put: vec![(key(0, 1), location(1, 128)), (key(1, 1), incomplete)],
            packs: vec![(PackId([1; 16]), row(500)), (PackId([0xff; 16]), row(u64::MAX))],
            log_mark: Some(LogMark { sequence: 77 }),
            ..Batch::default()
        })
        .unwrap();
    let keys = [key(0, 1), key(0, 2), key(1, 1)];
    let expected = vec![Some(location(1, 128)), None, Some(incomplete)];
    assert_eq!(index.find_many(&keys).unwrap(), expected);
    assert_eq!(keys.map(|key| index.find(&key).unwrap()).to_vec(), expected);
    assert_eq!(index.pack(PackId([1; 16])).unwrap(), Some(row(500)));
    assert_eq!(index.pack(PackId([2; 16])).unwrap(), None);
    assert_eq!(
        index.packs().unwrap(),
        [(PackId([1; 16]), row(500)), (PackId([0xff; 16]), row(u64::MAX))]
    );
    assert_eq!(index.log_mark().unwrap(), LogMark { sequence: 77 });

    // A removal is a compare-and-delete; a put replaces.
    index
        .apply(&Batch {
            put: vec![(key(0, 3), location(2, 1))],
            remove: vec![(key(0, 1), location(1, 129)), (key(1, 1), incomplete)],
            packs: vec![(
                PackId([1; 16]),
                PackRow { state: PackState::Sealed, watermark: 900, records: 9 },
            )],
            remove_packs: vec![PackId([0xff; 16])],
            ..Batch::default()
        })
        .unwrap();
    assert_eq!(index.find(&key(0, 1)).unwrap(), Some(location(1, 128)));
    assert_eq!(index.find(&key(1, 1)).unwrap(), None);
    assert_eq!(index.packs().unwrap().len(), 1);
    index.apply(&Batch { put: vec![(key(0, 1), location(5, 5))], ..Batch::default() }).unwrap();
    assert_eq!(index.find(&key(0, 1)).unwrap(), Some(location(5, 5)));
    assert_eq!(index.log_mark().unwrap(), LogMark { sequence: 77 });

    // A replacement is a compare-and-swap, and makes no row.
    index
        .apply(&Batch {
            replace: vec![
                (key(0, 1), location(5, 6), location(6, 1)),
                (key(0, 3), location(2, 1), location(6, 2)),
                (key(0, 9), location(2, 1), location(6, 3)),
            ],
            ..Batch::default()
        })
        .unwrap();
    assert_eq!(index.find(&key(0, 1)).unwrap(), Some(location(5, 5)));
    assert_eq!(index.find(&key(0, 3)).unwrap(), Some(location(6, 2)));
    assert_eq!(index.find(&key(0, 9)).unwrap(), None);

    // Many rows, in the order of their keys, and only rows.
    let many: Vec<_> = (0..=255u8).map(|n| (key(7, n), location(3, u64::from(n)))).collect();
    index.apply(&Batch { put: many, ..Batch::default() }).unwrap();
    let mut seen = Vec::new();
    index
        .for_each(&mut |key, location| {
            seen.push((key, location));
            Ok(())
        })
        .unwrap();
    assert_eq!(wide(seen.len()), 258);
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(seen.first(), Some(&(key(0, 1), location(5, 5))));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_memory_index() {
        super::index_conformance(&crate::MemoryIndex::default());
    }
}
