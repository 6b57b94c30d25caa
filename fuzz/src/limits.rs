//! Counts what an input costs: memory by an allocator, reads by a disk.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use umbra_fsparse::{ByteLen, ByteOffset, ReadAt, ReadError};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what this thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grown(bytes: usize) {
    // A thread that is ending counts no more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn shrunk(bytes: usize) {
    let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(bytes)));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        grown(new_size);
        shrunk(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

/// Runs `work`, which may hold `limit` bytes of memory more than are held already.
///
/// # Panics
/// Where it held more.
pub(crate) fn within(limit: usize, work: impl FnOnce()) {
    let before = LIVE.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    work();
    let peak = PEAK.with(Cell::get).saturating_sub(before);
    assert!(peak <= limit, "{peak} bytes of memory were held, more than {limit}");
}

/// A disk in memory that counts what is read of it.
pub(crate) struct CountingDisk<'a> {
    bytes: &'a [u8],
    read: Cell<u64>,
}

impl<'a> CountingDisk<'a> {
    /// Makes a disk of these bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, read: Cell::new(0) }
    }

    /// Checks that no more was read than `times` the disk and a fixed amount.
    pub(crate) fn check(&self, times: u64, more: u64) {
        let (read, len) = (self.read.get(), ReadAt::len(self.bytes).0);
        assert!(read <= len * times + more, "{read} bytes were read of a disk of {len}");
    }
}

impl ReadAt for CountingDisk<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.bytes)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        // A read costs something, however little it reads.
        self.read.set(self.read.get() + buf.len() as u64 + 16);
        self.bytes.read_at(offset, buf)
    }
}
