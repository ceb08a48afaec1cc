//! The one allocator of the kernel.

use spin::Once;
use x86_64::structures::paging::{PhysFrame, Size2MiB};

#[cfg(feature = "fault-injection")]
use super::Injection;
use super::{FrameError, Frames, Purpose, Usage};
use crate::sync::{InterruptMutex, InterruptMutexGuard};

static FRAMES: Once<InterruptMutex<Frames<'static>>> = Once::new();

/// Makes these the frames of the kernel, if there are none yet.
pub(in crate::memory) fn install(frames: Frames<'static>) {
    FRAMES.call_once(|| InterruptMutex::new(frames));
}

fn frames() -> InterruptMutexGuard<'static, Frames<'static>> {
    FRAMES.get().expect("memory was not set up").lock()
}

/// A frame for `purpose`, with whatever is in it.
pub fn allocate(purpose: Purpose) -> Option<PhysFrame> {
    frames().allocate(purpose)
}

/// A frame of 2 MiB for `purpose`, with whatever is in it.
pub fn allocate_2mib(purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
    frames().allocate_2mib(purpose)
}

/// Takes a frame of 2 MiB back. It should be cleared before.
///
/// # Errors
/// When not all of it is in use, or not for that purpose; nothing is changed then.
pub fn free_2mib(frame: PhysFrame<Size2MiB>, purpose: Purpose) -> Result<(), FrameError> {
    frames().free_2mib(frame, purpose)
}

/// Takes a frame back. It should be [cleared](crate::memory::physical::clear) before.
///
/// # Errors
/// When it cannot be a frame in use for that purpose; nothing is changed then.
pub fn free(frame: PhysFrame, purpose: Purpose) -> Result<(), FrameError> {
    frames().free(frame, purpose)
}

/// Takes back a frame that was allocated for that purpose.
///
/// # Panics
/// If it was not: then something is corrupt.
pub(in crate::memory) fn give_back(frame: PhysFrame, purpose: Purpose) {
    if let Err(error) = free(frame, purpose) {
        panic!("{error}");
    }
}

/// How many frames there are.
pub fn usage() -> Usage {
    frames().usage()
}

/// How many frames there are, unless that would mean to wait.
pub fn try_usage() -> Option<Usage> {
    Some(FRAMES.get()?.try_lock()?.usage())
}

/// Compares the numbers of frames with their table.
///
/// # Errors
/// Says what does not agree.
pub fn check() -> Result<(), &'static str> {
    frames().check()
}

/// Lets all allocations of frames fail after so many that succeed.
#[cfg(feature = "fault-injection")]
pub fn fail_from(calls: usize) {
    frames().inject(Injection::From(calls));
}

/// Lets one allocation of a frame fail after so many that succeed.
#[cfg(feature = "fault-injection")]
pub fn fail_once(calls: usize) {
    frames().inject(Injection::Once(calls));
}

/// Lets allocations of frames succeed again.
#[cfg(feature = "fault-injection")]
pub fn fail_never() {
    frames().inject(Injection::Never);
}
