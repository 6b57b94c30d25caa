//! Looks for other copies of what is damaged: after a repair by a later backup there are two.

use umbra_common::Reference;

use crate::error::Result;
use crate::index::Key;
use crate::store::check::data::is_sound;
use crate::store::check::index::Compared;
use crate::store::check::lost::{LossCause, Lost, RecordPlace};
use crate::store::check::packs::Packs;
use crate::store::inner::Inner;

/// Notes for each lost object a sound copy, and whether that is the one that is read: the one that
/// the index leads to, or any where there is no index.
///
/// # Errors
/// What the storage says.
pub(super) fn look(
    inner: &Inner,
    packs: &Packs<'_>,
    index: Option<&Compared>,
    lost: &mut Lost,
) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    for pack in &packs.list {
        for entry in packs.entries(pack)? {
            let reference = Reference { kind: entry.kind, id: entry.id };
            let Some(object) = lost.find_mut(entry.domain, reference) else { continue };
            let len = entry.record_len();
            let place = RecordPlace { pack: pack.id, offset: entry.offset, len };
            let damaged = object.cause == LossCause::Damaged && object.place == Some(place);
            if damaged || object.superseded || !is_sound(inner, pack, &entry)? {
                continue;
            }
            object.sound_copy = Some(place);
            // Where the index is wrong about it, what the index says is of no use.
            if object.cause == LossCause::Unindexed {
                continue;
            }
            let key = Key { domain: entry.domain, id: entry.id };
            object.superseded = match index {
                // An index that fails here was noted as damaged where it was compared.
                Some(index) => index
                    .find(&key)
                    .ok()
                    .flatten()
                    .is_some_and(|row| row.pack == place.pack && row.offset == place.offset),
                None => true,
            };
        }
    }
    Ok(())
}
