//! What the hardened heap finds is told once the heap is unlocked.
//!
//! Whoever has locked the heap takes what was found before unlocking it, and tells it afterwards. As soon as
//! the heap is unlocked an interrupt handler may use it, and must neither tell nor lose what the code found
//! that it interrupted.

use core::alloc::Layout;

use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::hardened::Report;
use heap::talc::source::Source;

use crate::sync::InterruptMutex;

/// What was found since the heap was locked: the first. Locked only by code that has locked the heap.
static FOUND: InterruptMutex<Option<Report>> = InterruptMutex::new(None);

static HOOK: InterruptMutex<fn(&Report)> = InterruptMutex::new(|report| panic!("{report}"));

/// Sets what is told of misuse of the kernel heap, and returns what was told before: at first a function that panics. It
/// may allocate. When it returns, what was wrong has not been done, and the kernel goes on.
pub fn set_hook(hook: fn(&Report)) -> fn(&Report) {
    core::mem::replace(&mut *HOOK.lock(), hook)
}

/// Keeps a report while the heap is locked.
pub(super) fn note(report: &Report) {
    FOUND.lock().get_or_insert(*report);
}

/// Whether this is no allocation of the heap. Then that was noted.
pub(super) fn refuses<S: Source, B: Binning>(
    talc: &mut Talc<S, B>,
    block: *mut u8,
    layout: Layout,
) -> bool {
    !talc.is_allocation(block, layout)
}

/// What was found while the heap was locked.
#[must_use = "tell it when the heap is unlocked"]
pub(super) struct Found(Option<Report>);

/// Takes what was noted since the heap was locked. The heap that is borrowed is the proof that it still is.
pub(super) fn take<S: Source, B: Binning>(_: &Talc<S, B>) -> Found {
    Found(FOUND.lock().take())
}

/// Tells what was found, now that the heap is unlocked.
pub(super) fn tell(found: Found) {
    if let Some(report) = found.0 {
        // Copied out: the hook runs without a lock.
        let hook = *HOOK.lock();
        hook(&report);
    }
}
