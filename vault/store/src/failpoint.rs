//! Named moments at which a test has the process kill itself, as SIGKILL from outside would.
//!
//! They are compiled into every build, as there is one build: a point that is not armed costs one relaxed load. Arming is
//! for the program (`UMBRA_FAILPOINT=NAME:COUNT`); this crate looks at no environment.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A moment between two steps that become durable one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    RecordAppended = 1,
    GroupTaken,
    GroupSynced,
    GroupIndexed,
    GroupTold,
    AsideWritten,
    AsideSynced,
    AsideRenamed,
    AsideNamed,
    SegmentWritten,
    SegmentSynced,
    SegmentRenamed,
    SegmentNamed,
    LogAppended,
    LogSynced,
    LogMarked,
    ReceiptDurable,
    ReceiptLogged,
    SealFooterWritten,
    SealFooterSynced,
    SealRenamed,
    SealNamed,
    SealRowWritten,
    OpenLocked,
    OpenCleared,
    OpenIndexed,
    OpenLogAgain,
    OpenReceiptsRead,
    OpenCaughtUp,
    OpenReceiptsLogged,
    AdoptSynced,
    AdoptPutAnew,
    AdoptTableWritten,
    AdoptSealed,
    AdoptIndexed,
    RebuildWiped,
    RebuildSealedTaken,
    RebuildAdopted,
    RebuildMarked,
    GcJudged,
    GcListed,
    GcDecided,
    GcHidden,
    GcCopied,
    GcUnindexed,
    GcPackDeleted,
    GcEnded,
    EndSealed,
    EndNoted,
}

/// All points with their names.
const POINTS: &[(Point, &str)] = &[
    (Point::RecordAppended, "record-appended"),
    (Point::GroupTaken, "group-taken"),
    (Point::GroupSynced, "group-synced"),
    (Point::GroupIndexed, "group-indexed"),
    (Point::GroupTold, "group-told"),
    (Point::AsideWritten, "aside-written"),
    (Point::AsideSynced, "aside-synced"),
    (Point::AsideRenamed, "aside-renamed"),
    (Point::AsideNamed, "aside-named"),
    (Point::SegmentWritten, "segment-written"),
    (Point::SegmentSynced, "segment-synced"),
    (Point::SegmentRenamed, "segment-renamed"),
    (Point::SegmentNamed, "segment-named"),
    (Point::LogAppended, "log-appended"),
    (Point::LogSynced, "log-synced"),
    (Point::LogMarked, "log-marked"),
    (Point::ReceiptDurable, "receipt-durable"),
    (Point::ReceiptLogged, "receipt-logged"),
    (Point::SealFooterWritten, "seal-footer-written"),
    (Point::SealFooterSynced, "seal-footer-synced"),
    (Point::SealRenamed, "seal-renamed"),
    (Point::SealNamed, "seal-named"),
    (Point::SealRowWritten, "seal-row-written"),
    (Point::OpenLocked, "open-locked"),
    (Point::OpenCleared, "open-cleared"),
    (Point::OpenIndexed, "open-indexed"),
    (Point::OpenLogAgain, "open-log-again"),
    (Point::OpenReceiptsRead, "open-receipts-read"),
    (Point::OpenCaughtUp, "open-caught-up"),
    (Point::OpenReceiptsLogged, "open-receipts-logged"),
    (Point::AdoptSynced, "adopt-synced"),
    (Point::AdoptPutAnew, "adopt-put-anew"),
    (Point::AdoptTableWritten, "adopt-table-written"),
    (Point::AdoptSealed, "adopt-sealed"),
    (Point::AdoptIndexed, "adopt-indexed"),
    (Point::RebuildWiped, "rebuild-wiped"),
    (Point::RebuildSealedTaken, "rebuild-sealed-taken"),
    (Point::RebuildAdopted, "rebuild-adopted"),
    (Point::RebuildMarked, "rebuild-marked"),
    (Point::GcJudged, "gc-judged"),
    (Point::GcListed, "gc-listed"),
    (Point::GcDecided, "gc-decided"),
    (Point::GcHidden, "gc-hidden"),
    (Point::GcCopied, "gc-copied"),
    (Point::GcUnindexed, "gc-unindexed"),
    (Point::GcPackDeleted, "gc-pack-deleted"),
    (Point::GcEnded, "gc-ended"),
    (Point::EndSealed, "end-sealed"),
    (Point::EndNoted, "end-noted"),
];

/// The number of the armed point; 0 where none is.
static ARMED: AtomicUsize = AtomicUsize::new(0);

/// How often the armed point is still passed alive.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Passes a point: nothing happens, unless it is the armed one and its time has come.
#[inline]
pub(crate) fn pass(point: Point) {
    if ARMED.load(Ordering::Relaxed) != 0 {
        pass_armed(point);
    }
}

#[cold]
fn pass_armed(point: Point) {
    if ARMED.load(Ordering::Relaxed) != point as usize {
        return;
    }
    let last = LEFT.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
    if last == Ok(1) {
        // It cannot fail: a process may always kill itself.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // No step more, while the signal is on its way.
        loop {
            std::thread::park();
        }
    }
}

/// Arms the point of `NAME:COUNT`: the process kills itself when it is passed for the COUNT-th time.
///
/// # Errors
/// For text of another form or an unknown name: the names that there are, one a line.
pub fn arm(text: &str) -> Result<(), String> {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let found = POINTS.iter().find(|(_, known)| *known == name);
    match (found, count.parse::<u64>()) {
        (Some((point, _)), Ok(count)) if count > 0 => {
            LEFT.store(count, Ordering::Release);
            ARMED.store(*point as usize, Ordering::Release);
            Ok(())
        }
        _ => Err(names().join("\n")),
    }
}

/// Names all points.
pub fn names() -> Vec<&'static str> {
    POINTS.iter().map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_has_one_name() {
        let numbers: Vec<usize> = POINTS.iter().map(|(point, _)| *point as usize).collect();
        assert_eq!(numbers, (1..=POINTS.len()).collect::<Vec<_>>());
        let mut sorted = names();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), POINTS.len());
        assert_eq!(Point::EndNoted as usize, POINTS.len(), "the last one has a name");
    }

    #[test]
    fn nonsense_arms_nothing() {
        for text in ["", "no-such-point:1", "record-appended:0", "record-appended:x"] {
            assert_eq!(arm(text), Err(names().join("\n")), "{text:?}");
        }
        pass(Point::RecordAppended);
    }
}
