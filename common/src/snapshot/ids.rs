//! Random names of 16 bytes: of stores, machines, runs and sessions.

use std::fmt;

use super::write_hex;

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
    };
}

id16! {
    /// Names a store: random, made at `init`.
    StoreId
}
id16! {
    /// Names a machine; given by the vault at enrolment.
    MachineId
}
id16! {
    /// Names a run: all disks that one `backup` took.
    RunId
}
id16! {
    /// Names one backup of one disk, so that a repeated commit is known.
    SessionNonce
}
