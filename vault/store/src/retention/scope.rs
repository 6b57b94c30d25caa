//! What a rule or a hold is about: everything, a machine, or one of its disks.

use std::fmt;

use umbra_common::snapshot::is_name;

/// Everything (`*`), a machine (`web-1`), or a disk of a machine (`web-1/sda`).
///
/// Ordered from the widest to the narrowest of each machine. The names are good ones, whoever
/// made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    machine: Option<String>,
    /// Only where there is a machine.
    disk: Option<String>,
}

impl Scope {
    /// Everything.
    pub const ALL: Self = Self { machine: None, disk: None };

    /// Makes a scope of names; `None` where one of them is no name, or a disk has no machine.
    pub fn new(machine: Option<&str>, disk: Option<&str>) -> Option<Self> {
        let named = [machine, disk];
        let good = named.iter().flatten().all(|name| is_name(name));
        let whole = machine.is_some() || disk.is_none();
        let owned = |name: Option<&str>| name.map(str::to_owned);
        (good && whole).then(|| Self { machine: owned(machine), disk: owned(disk) })
    }

    /// Makes the scope of one disk; `None` where a name is none.
    pub fn of_disk(machine: &str, disk: &str) -> Option<Self> {
        Self::new(Some(machine), Some(disk))
    }

    /// Reads `*`, `MACHINE` or `MACHINE/DISK`, or returns `None`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some((machine, disk)) => Self::of_disk(machine, disk),
            None if text == "*" => Some(Self::ALL),
            None => Self::new(Some(text), None),
        }
    }

    /// Returns the machine's name, unless it stands for all of them.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// Returns the disk's name, unless it stands for all of them.
    pub fn disk(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    /// Tells whether `other` lies in it: the same, or narrower.
    pub fn covers(&self, other: &Self) -> bool {
        let fits = |wide: &Option<String>, narrow: &Option<String>| {
            wide.is_none() || wide.as_deref() == narrow.as_deref()
        };
        fits(&self.machine, &other.machine) && fits(&self.disk, &other.disk)
    }

    /// Returns the scopes that cover it, narrowest first.
    pub fn widening(&self) -> [Self; 3] {
        let machine = Self { machine: self.machine.clone(), disk: None };
        [self.clone(), machine, Self::ALL]
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.machine, &self.disk) {
            (None, _) => f.write_str("*"),
            (Some(machine), None) => f.write_str(machine),
            (Some(machine), Some(disk)) => write!(f, "{machine}/{disk}"),
        }
    }
}
