//! The one allocator of the kernel.

use spin::Once;
use x86_64::structures::paging::{PhysFrame, Size2MiB};

use super::{FRAME_SIZE, FrameError, Frames, Purpose, Usage};
use crate::memory::fault_injection;
use crate::sync::{InterruptMutex, InterruptMutexGuard};

static FRAMES: Once<InterruptMutex<Frames<'static>>> = Once::new();

/// Makes these the frames of the kernel, if there are none yet.
///
/// # Safety
/// The free ones among them are memory that nothing uses.
pub(in crate::memory) unsafe fn install(frames: Frames<'static>) {
    FRAMES.call_once(|| InterruptMutex::new(frames));
}

/// Adds a frame to those that are handed out.
///
/// # Safety
/// The frame is memory, and nothing uses it.
pub(in crate::memory) unsafe fn add(frame: PhysFrame) {
    let start = frame.start_address().as_u64();
    frames().add(start..start + FRAME_SIZE);
}

fn frames() -> InterruptMutexGuard<'static, Frames<'static>> {
    FRAMES.get().expect("memory was not set up").lock()
}

/// A frame for `purpose`, with whatever is in it.
pub fn allocate(purpose: Purpose) -> Option<PhysFrame> {
    if fault_injection::FRAMES.fails() {
        return None;
    }
    frames().allocate(purpose)
}

/// A frame of 2 MiB for `purpose`, with whatever is in it.
pub fn allocate_2mib(purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
    if fault_injection::FRAMES.fails() {
        return None;
    }
    frames().allocate_2mib(purpose)
}

/// Takes a frame of 2 MiB back. It should be cleared before. Constant time.
///
/// # Errors
/// When not all of it is in use, or not for that purpose; nothing is changed then.
///
/// # Safety
/// If the frame is in use, the caller owns it: [`allocate_2mib`] has returned it for `purpose`, and
/// nothing uses it any more, by any address. A [`PhysFrame`] is a number, and anybody can make one.
pub unsafe fn free_2mib(frame: PhysFrame<Size2MiB>, purpose: Purpose) -> Result<(), FrameError> {
    frames().free_2mib(frame, purpose)
}

/// Takes a frame back. It should be [cleared](crate::memory::physical::clear) before. Constant time.
///
/// # Errors
/// When it cannot be a frame in use for that purpose; nothing is changed then.
///
/// # Safety
/// If the frame is in use, the caller owns it: [`allocate`] has returned it for `purpose` (or
/// [`allocate_2mib`] has returned a frame that it is part of), and nothing uses it any more, by any
/// address. To free the frame behind a page that is still mapped gives live memory to the next
/// caller of [`allocate`]:
///
/// ```no_run
/// # use kernel::memory::{frames::{self, Purpose}, page_table};
/// # use x86_64::{VirtAddr, structures::paging::PhysFrame};
/// let block = Box::new(1);
/// let mapping = page_table::mapping_at(VirtAddr::from_ptr(&raw const *block)).unwrap();
/// let frame = PhysFrame::containing_address(mapping.physical);
/// // Wrong: the heap owns this frame, and `block` lies in it.
/// let _ = unsafe { frames::free(frame, Purpose::Heap) };
/// ```
pub unsafe fn free(frame: PhysFrame, purpose: Purpose) -> Result<(), FrameError> {
    frames().free(frame, purpose)
}

/// Takes back a frame that was allocated for that purpose.
///
/// # Panics
/// If it was not: then something is corrupt.
///
/// # Safety
/// As for [`free`].
pub(in crate::memory) unsafe fn give_back(frame: PhysFrame, purpose: Purpose) {
    // SAFETY: the caller owns the frame, by the same contract.
    if let Err(error) = unsafe { free(frame, purpose) } {
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
