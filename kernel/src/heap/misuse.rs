//! Reports of misuse that the hardened heap detects.
//!
//! The heap reports when it is unlocked again, and to the code that committed the misuse: an
//! interrupt handler never reports what the interrupted code did.

use heap::talc::hardened::Report;

use crate::sync::InterruptMutex;

static HOOK: InterruptMutex<fn(&Report)> = InterruptMutex::new(|report| panic!("{report}"));

/// Sets the function that receives reports, and returns the previous one. The first one panics.
///
/// The hook may allocate. If it returns, the kernel goes on: the operation that was reported had
/// no effect.
pub fn set_hook(hook: fn(&Report)) -> fn(&Report) {
    core::mem::replace(&mut *HOOK.lock(), hook)
}

/// Passes a report to the hook.
pub(super) fn report(report: &Report) {
    // Copied out of the lock: the hook may set another hook.
    let hook = *HOOK.lock();
    hook(report);
}
