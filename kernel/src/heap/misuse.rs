//! What the hardened heap finds is told once the heap is unlocked.

use core::alloc::Layout;

use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::hardened::Report;
use heap::talc::source::Source;

use crate::sync::InterruptMutex;

/// What was found since the heap was locked: the first.
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

/// Tells what was noted, now that the heap is unlocked.
pub(super) fn tell() {
    let found = FOUND.lock().take();
    if let Some(report) = found {
        // Copied out: the hook runs without a lock.
        let hook = *HOOK.lock();
        hook(&report);
    }
}
