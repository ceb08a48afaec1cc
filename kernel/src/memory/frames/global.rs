//! The one allocator of the kernel.

use spin::Once;
use x86_64::structures::paging::{PhysFrame, Size2MiB};

use super::{FRAME_SIZE, FrameError, Frames, Purpose, Usage};
use crate::memory::injection;
use crate::sync::{InterruptMutex, InterruptMutexGuard};

static FRAMES: Once<InterruptMutex<Frames<'static>>> = Once::new();

/// Makes these the frames of the kernel, if there are none yet.
pub(in crate::memory) fn install(frames: Frames<'static>) {
    FRAMES.call_once(|| InterruptMutex::new(frames));
}

/// Adds a frame that nobody uses.
pub(in crate::memory) fn add(frame: PhysFrame) {
    let start = frame.start_address().as_u64();
    frames().add(start..start + FRAME_SIZE);
}

fn frames() -> InterruptMutexGuard<'static, Frames<'static>> {
    FRAMES.get().expect("memory was not set up").lock()
}

/// A frame for `purpose`, with whatever is in it.
pub fn allocate(purpose: Purpose) -> Option<PhysFrame> {
    if injection::FRAMES.fails() {
        return None;
    }
    frames().allocate(purpose)
}

/// A frame of 2 MiB for `purpose`, with whatever is in it.
pub fn allocate_2mib(purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
    if injection::FRAMES.fails() {
        return None;
    }
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
