//! What a medium does to bytes at rest: at random places, from a seed, and told where.

use std::fmt;

use super::{SECTOR_BYTES, SimVfs};
use crate::bytes::{narrow, wide};
use crate::testing::random::Random;

/// What happens to stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// One bit is another.
    BitFlip,
    /// Some sectors hold zeros.
    Zeroed,
    /// Two runs of sectors of one file have changed places.
    Swapped,
    /// The end of the file is gone.
    CutShort,
    /// The file is gone.
    Lost,
    /// Reading the file fails with EIO.
    Unreadable,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::BitFlip, Self::Zeroed, Self::Swapped, Self::CutShort, Self::Lost, Self::Unreadable];
}

/// What was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// What happened.
    pub harm: Harm,
    /// The file's name.
    pub path: String,
    /// Offset of the first byte that changed.
    pub at: u64,
    /// Bytes from the first that changed to the last.
    pub len: u64,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {} at {}, {} bytes", self.harm, self.path, self.at, self.len)
    }
}

/// How often another place is tried where the harm changed nothing (zeros that became zeros).
const TRIES: u32 = 32;

impl SimVfs {
    /// Does harm to a random place of one of the files whose names are wanted, and returns what
    /// was hit; `None` where no such file has bytes that it could change.
    pub fn harm(&self, seed: u64, harm: Harm, wanted: impl Fn(&str) -> bool) -> Option<Hit> {
        let mut random = Random::new(seed, "harm");
        let files: Vec<String> = self.files().into_iter().filter(|name| wanted(name)).collect();
        for _ in 0..TRIES {
            let path = random.pick(&files)?;
            let hit = |(at, len)| Hit { harm, path: path.clone(), at, len };
            let changed = match harm {
                Harm::Lost => self.lose(path).then_some((0, 0)),
                Harm::Unreadable => self.make_unreadable(path).then_some((0, 0)),
                _ => {
                    let mut changed = None;
                    self.damage(path, |bytes| {
                        let before = bytes.clone();
                        change(bytes, harm, &mut random);
                        changed = difference(&before, bytes);
                    });
                    changed
                }
            };
            if let Some(changed) = changed {
                return Some(hit(changed));
            }
        }
        None
    }
}

fn change(bytes: &mut Vec<u8>, harm: Harm, random: &mut Random) {
    let at = random.position(bytes.len());
    let sector = narrow(SECTOR_BYTES);
    let start = at.saturating_sub(at % sector);
    let run = sector.saturating_mul(random.position(4).saturating_add(1));
    let end = start.saturating_add(run).min(bytes.len());
    match harm {
        Harm::BitFlip => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1u8.rotate_left(u32::try_from(random.below(8)).unwrap_or(0));
            }
        }
        Harm::Zeroed => {
            if let Some(place) = bytes.get_mut(start..end) {
                place.fill(0);
            }
        }
        Harm::Swapped => {
            let other = random.position(bytes.len() / sector).saturating_mul(sector);
            let len = run.min(start.abs_diff(other));
            for step in 0..len {
                let (one, two) = (start.saturating_add(step), other.saturating_add(step));
                if one.max(two) < bytes.len() {
                    bytes.swap(one, two);
                }
            }
        }
        Harm::CutShort => bytes.truncate(at),
        Harm::Lost | Harm::Unreadable => {}
    }
}

/// Returns where two contents differ: the first place, and the length to the last.
fn difference(before: &[u8], after: &[u8]) -> Option<(u64, u64)> {
    let len = before.len().max(after.len());
    let differs = |at: &usize| before.get(*at) != after.get(*at);
    let first = (0..len).find(differs)?;
    let last = (0..len).rev().find(differs)?;
    Some((wide(first), wide(last.saturating_sub(first)).saturating_add(1)))
}
