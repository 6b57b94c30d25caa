//! Hashes of zeros, made once.

use std::sync::OnceLock;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root};

use super::{WINDOW_BYTES, WINDOW_USIZE, WindowHash};

/// Number of the level whose two subtrees make a whole window: 8 MiB each.
pub(super) const TOP_LEVEL: u8 = 13;

/// Returns the plain BLAKE3 of `len` zero bytes, at most a window.
pub(super) fn zero_hash(len: u64) -> WindowHash {
    static WINDOW: OnceLock<WindowHash> = OnceLock::new();
    if len == WINDOW_BYTES {
        *WINDOW.get_or_init(|| hash_zeros(WINDOW_BYTES))
    } else {
        hash_zeros(len)
    }
}

fn hash_zeros(len: u64) -> WindowHash {
    let mut hasher = blake3::Hasher::new();
    let zeros = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let step = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        hasher.update(&zeros[..step]);
        left -= u64::try_from(step).expect("usize has at most 64 bits");
    }
    WindowHash(*hasher.finalize().as_bytes())
}

/// Returns the chaining value of the subtree of 2^`level` zero chunks that begins with chunk
/// number `chunk` of a window. A chunk's number is hashed with it, so they all differ.
///
/// The table holds all of them up to 8 MiB: 1 MiB of memory, hashed once.
pub(super) fn zero_subtree(chunk: u32, level: u8) -> ChainingValue {
    static LEVELS: OnceLock<Vec<Vec<ChainingValue>>> = OnceLock::new();
    let levels = LEVELS.get_or_init(|| {
        let chunks: Vec<ChainingValue> = (0..WINDOW_USIZE / blake3::CHUNK_LEN)
            .map(|chunk| {
                let offset = u64::try_from(chunk * blake3::CHUNK_LEN).expect("below a window");
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(offset).update(&[0; blake3::CHUNK_LEN]);
                hasher.finalize_non_root()
            })
            .collect();
        let mut levels = vec![chunks];
        for level in 0..usize::from(TOP_LEVEL) {
            let pairs = levels[level].as_chunks::<2>().0;
            let merged =
                pairs.iter().map(|[a, b]| merge_subtrees_non_root(a, b, Mode::Hash)).collect();
            levels.push(merged);
        }
        levels
    });
    let number = usize::try_from(chunk >> level).expect("a window has 2^14 chunks");
    levels[usize::from(level)][number]
}
