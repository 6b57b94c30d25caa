//! Fast commits: found, not replayed.
//!
//! A fast commit describes changes by file names and extents and belongs to the transaction after
//! the last full one. SOURCE: Linux `fs/ext4/fast_commit.h` (tags, little-endian),
//! `fs/ext4/fast_commit.c` (`ext4_fc_replay_scan`), `fs/jbd2/recovery.c` (`fc_do_one_pass`).

use super::{
    checksum::Crc32c,
    layout::Tid,
    log::{Log, LogBlock, Ring},
};
use crate::Result;

/// `EXT4_FC_TAG_PAD`, `_TAIL`, `_HEAD`; 1 to 7 are changes and padding.
const TAG_PAD: u16 = 7;
const TAG_TAIL: u16 = 8;
const TAG_HEAD: u16 = 9;
/// `struct ext4_fc_tl`: tag and length, two bytes each.
const TL_LEN: usize = 4;

/// Tells whether a whole fast commit of transaction `tid` stands in the blocks.
///
/// # Errors
/// [`crate::Error::Io`] where a block cannot be read.
pub(super) fn holds_commit(log: &Log<'_>, blocks: Ring, tid: Tid) -> Result<bool> {
    let mut scanner = Scanner { tid, sum: Crc32c::seeded(0), headed: false };
    let mut block = log.buffer();
    for number in blocks.first.0..blocks.end.0 {
        log.read(LogBlock(number), &mut block)?;
        match scanner.block(&block) {
            Verdict::More => {}
            Verdict::Commit => return Ok(true),
            Verdict::Nothing => return Ok(false),
        }
    }
    Ok(false)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    More,
    Commit,
    Nothing,
}

struct Scanner {
    tid: Tid,
    sum: Crc32c,
    /// Whether a head of this transaction was seen.
    headed: bool,
}

impl Scanner {
    fn block(&mut self, block: &[u8]) -> Verdict {
        let mut rest = block;
        // Padding that fills a block to its last byte is a tag without a value (Linux 6.2 and
        // later); older kernels left the last byte alone and wrote none there.
        while rest.len() >= TL_LEN {
            let Some((piece, after)) = split_tag(rest) else { return Verdict::Nothing };
            match self.tag(piece) {
                Some(Verdict::More) => rest = after,
                verdict => return verdict.unwrap_or(Verdict::Nothing),
            }
        }
        Verdict::More
    }

    /// Takes one tag with its value; `None` where it is none.
    fn tag(&mut self, piece: &[u8]) -> Option<Verdict> {
        let value = piece.get(TL_LEN..)?;
        match le16(piece, 0)? {
            TAG_HEAD => {
                // The features in front of the number do not matter: whole or not, it is not
                // replayed here.
                if le32(value, 4)? != self.tid.0 {
                    return Some(Verdict::Nothing);
                }
                self.headed = true;
            }
            TAG_TAIL => {
                let sum = self.sum.update(piece.get(..TL_LEN + 4)?).value();
                let whole = le32(value, 0)? == self.tid.0 && le32(value, 4)? == sum;
                return Some(if whole { Verdict::Commit } else { Verdict::Nothing });
            }
            1..=TAG_PAD if self.headed => {}
            _ => return None,
        }
        self.sum = self.sum.update(piece);
        Some(Verdict::More)
    }
}

/// Splits the first tag with its value off.
fn split_tag(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = usize::from(le16(bytes, 2)?).checked_add(TL_LEN)?;
    bytes.split_at_checked(len)
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}
