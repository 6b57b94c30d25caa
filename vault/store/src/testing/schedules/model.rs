//! What a store has promised: a few sets, simple enough to be right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use umbra_common::Reference;
use umbra_common::snapshot::Receipt;

use super::world::World;

/// What was promised so far.
#[derive(Default)]
pub(super) struct Model {
    /// Objects that somebody was told to be durable, or known.
    promised: BTreeSet<Reference>,
    /// Receipts that somebody was given, by number.
    receipts: BTreeMap<u64, Arc<Receipt>>,
    /// Numbers of receipts that were forgotten for good: they are no roots any more.
    forgotten: BTreeSet<u64>,
}

impl Model {
    /// Notes that an object is durable.
    pub(super) fn promise(&mut self, reference: Reference) {
        self.promised.insert(reference);
    }

    /// Notes a receipt, and that all of its snapshot is durable.
    ///
    /// # Errors
    /// Where another receipt has its number.
    pub(super) fn receive(&mut self, world: &World, receipt: &Arc<Receipt>) -> Result<(), String> {
        let number = receipt.sequence;
        match self.receipts.get(&number) {
            Some(known) if known != receipt => {
                return Err(format!("receipt {number} was {known:?}, and now is {receipt:?}"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let version = world.versions.iter().find(|v| v.manifest.id == receipt.snapshot);
        let version = version.ok_or_else(|| format!("a receipt of nothing: {receipt:?}"))?;
        self.promised.extend(version.objects.iter().copied());
        self.receipts.insert(number, Arc::clone(receipt));
        Ok(())
    }

    /// Returns what must be readable.
    pub(super) fn promised(&self) -> &BTreeSet<Reference> {
        &self.promised
    }

    /// Returns the receipts that were given, oldest first.
    pub(super) fn receipts(&self) -> impl Iterator<Item = &Arc<Receipt>> {
        self.receipts.values()
    }

    /// Returns the receipts that are roots.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Arc<Receipt>> {
        let kept = |(number, _): &(&u64, &Arc<Receipt>)| !self.forgotten.contains(number);
        self.receipts.iter().filter(kept).map(|(_, receipt)| receipt)
    }

    /// Notes that a receipt was forgotten for good (no step does so yet): a collection may take what it alone reaches.
    pub(super) fn forget(&mut self, number: u64) {
        self.forgotten.insert(number);
    }

    /// Notes that a collection has run: nothing is promised any more but what a root reaches, and
    /// what `spared` names (objects of sessions that live).
    pub(super) fn collected(&mut self, world: &World, spared: &BTreeSet<Reference>) {
        let mut reached: BTreeSet<Reference> = spared.clone();
        for receipt in self.roots() {
            let version = world.versions.iter().find(|v| v.manifest.id == receipt.snapshot);
            reached.extend(version.iter().flat_map(|version| version.objects.iter().copied()));
        }
        self.promised = &self.promised & &reached;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use umbra_common::snapshot::{MachineId, RunId, SessionNonce, StoreId};

    use super::*;

    fn receipt(sequence: u64, world: &World, version: usize) -> Arc<Receipt> {
        Arc::new(Receipt {
            store: StoreId([1; 16]),
            sequence,
            previous: None,
            snapshot: world.versions[version].manifest.id,
            domain: 0,
            machine: MachineId([1; 16]),
            machine_name: "m".to_owned(),
            disk: "d".to_owned(),
            nonce: SessionNonce([1; 16]),
            run: RunId([1; 16]),
            received: crate::Timestamp(0).parts(),
            gc_generation: 0,
            tags: Vec::new(),
            labels: BTreeMap::new(),
            signature: None,
        })
    }

    #[test]
    fn what_no_root_reaches_may_go_with_a_collection() {
        let seeds = (0..).map(|seed| World::new(seed).unwrap());
        let world = seeds.into_iter().find(|world| world.versions.len() > 1).unwrap();
        let [first, second, ..] = world.versions.as_slice() else { panic!() };
        let mut model = Model::default();
        for (number, version) in [(1, 0), (2, 1)] {
            model.receive(&world, &receipt(number, &world, version)).unwrap();
        }
        assert!(model.receive(&world, &receipt(2, &world, 0)).is_err());
        let all: BTreeSet<_> = first.objects.iter().chain(&second.objects).copied().collect();
        assert_eq!(*model.promised(), all);
        model.forget(1);
        assert_eq!(model.roots().count(), 1);
        assert_eq!(*model.promised(), all, "forgotten is not gone");
        model.collected(&world, &[first.objects[0]].into());
        let mut left: BTreeSet<_> = second.objects.iter().copied().collect();
        left.insert(first.objects[0]);
        assert_eq!(*model.promised(), left);
    }
}
