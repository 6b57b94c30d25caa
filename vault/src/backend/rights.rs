//! What a visitor may do.

use crate::enrol;
use umbra_common::wire::{Refusal, RefusalCode};
use umbra_net::server::{Peer, Visitor};
use umbra_store::{MachineId, Role, Store};

/// Which snapshots it may list and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    Everything,
    Own,
    Nothing,
}

/// What a visitor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) machine: MachineId,
    pub(super) backs_up: bool,
    pub(super) sees: Sees,
}

/// Looks a visitor up, at each request: a key may have been replaced since the hello.
pub(super) fn of(store: &Store, visitor: &Visitor) -> Result<Rights, Refusal> {
    match visitor.peer {
        Peer::Owner => {
            let machine = enrol::id_of_name(store, &visitor.machine);
            Ok(Rights { machine, backs_up: true, sees: Sees::Everything })
        }
        Peer::Machine(_) => {
            let machine = store.log().with_state(|state| {
                state.machine_by_key(visitor.key).map(|machine| (machine.id, machine.role))
            });
            let (machine, role) =
                machine.ok_or_else(|| refused("this key was replaced by another one"))?;
            let (backs_up, sees) = match role {
                Role::Agent => (true, Sees::Own),
                Role::Imager => (true, Sees::Nothing),
                Role::Restore => (false, Sees::Own),
                Role::Operator => (false, Sees::Everything),
                Role::Admin => (true, Sees::Everything),
                _ => (false, Sees::Nothing),
            };
            Ok(Rights { machine, backs_up, sees })
        }
        Peer::Unknown => Err(refused("this key is not known")),
    }
}

pub(super) fn refused(text: &str) -> Refusal {
    Refusal { code: RefusalCode::NotAuthorised, text: text.to_owned() }
}
