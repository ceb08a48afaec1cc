//! The kernel's one allocator of frames.

use heap_x86_64::FrameList;
use spin::Once;
use x86_64::structures::paging::{PhysFrame, Size2MiB};

use super::{FRAME_SIZE, FrameError, Frames, Purpose, Usage};
use crate::memory::fault_injection;
use crate::sync::{InterruptMutex, InterruptMutexGuard};

static FRAMES: Once<InterruptMutex<Frames<'static>>> = Once::new();

/// Makes `frames` the kernel's allocator. Only the first call has an effect.
///
/// # Safety
/// All free frames are memory that no code uses.
pub(in crate::memory) unsafe fn install(frames: Frames<'static>) {
    FRAMES.call_once(|| InterruptMutex::new(frames));
}

/// Adds a free frame.
///
/// # Safety
/// The frame is memory that no code uses.
pub(in crate::memory) unsafe fn add(frame: PhysFrame) {
    let start = frame.start_address().as_u64();
    frames().add(start..start + FRAME_SIZE);
}

/// Locks the allocator.
fn frames() -> InterruptMutexGuard<'static, Frames<'static>> {
    FRAMES.get().expect("the memory is not initialised").lock()
}

/// Allocates a frame of 4 KiB for `purpose`, with undefined contents. Constant time.
pub fn allocate(purpose: Purpose) -> Option<PhysFrame> {
    if fault_injection::FRAMES.fails() {
        return None;
    }
    frames().allocate(purpose)
}

/// Allocates frames of 4 KiB for `purpose`, with undefined contents, until `list` has `count` or
/// none is free. Locks the allocator once. O(frames).
pub(in crate::memory) fn allocate_into<const N: usize>(
    list: &mut FrameList<N>,
    count: usize,
    purpose: Purpose,
) {
    let mut frames = frames();
    while list.as_slice().len() < count && !fault_injection::FRAMES.fails() {
        let Some(frame) = frames.allocate(purpose) else {
            return;
        };
        list.push(frame);
    }
}

/// Allocates a frame of 2 MiB for `purpose`, with undefined contents. Constant time.
pub fn allocate_2mib(purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
    if fault_injection::FRAMES.fails() {
        return None;
    }
    frames().allocate_2mib(purpose)
}

/// Frees a frame of 2 MiB, which should be cleared before. Constant time.
///
/// # Errors
/// Returns an error if not all of the frame is in use for `purpose`, as far as the counts tell. The
/// allocator is unchanged then.
///
/// # Safety
/// If the frame is in use, the caller owns it: [`allocate_2mib`] has returned the frame for
/// `purpose`, and no code uses it any more, at any address. A [`PhysFrame`] alone proves no
/// ownership: it is a number that any code can make.
pub unsafe fn free_2mib(frame: PhysFrame<Size2MiB>, purpose: Purpose) -> Result<(), FrameError> {
    frames().free_2mib(frame, purpose)
}

/// Frees a frame of 4 KiB, which should be [cleared](crate::memory::physical::clear) before.
/// Constant time.
///
/// # Errors
/// Returns an error if the frame is not in use for `purpose`, as far as the counts tell. The
/// allocator is unchanged then.
///
/// # Safety
/// If the frame is in use, the caller owns it: [`allocate`] has returned the frame for `purpose`
/// (or [`allocate_2mib`] has returned a frame that contains it), and no code uses it any more, at
/// any address. Freeing the frame of a page that is still mapped gives live memory to the next
/// caller of [`allocate`]:
///
/// ```no_run
/// # use kernel::memory::{frames::{self, Purpose}, page_table};
/// # use x86_64::{VirtAddr, structures::paging::PhysFrame};
/// let block = Box::new(1);
/// let mapping = page_table::mapping_at(VirtAddr::from_ptr(&raw const *block)).unwrap();
/// let frame = PhysFrame::containing_address(mapping.physical);
/// // Wrong: the heap owns this frame, which contains `block`.
/// let _ = unsafe { frames::free(frame, Purpose::Heap) };
/// ```
pub unsafe fn free(frame: PhysFrame, purpose: Purpose) -> Result<(), FrameError> {
    frames().free(frame, purpose)
}

/// Frees a frame of 4 KiB that is in use for `purpose`.
///
/// # Panics
/// Panics if the frame is not in use for `purpose`: the allocator or the caller is corrupt.
///
/// # Safety
/// The same as for [`free`].
pub(in crate::memory) unsafe fn free_or_panic(frame: PhysFrame, purpose: Purpose) {
    // SAFETY: the caller owns the frame, by the contract of this function.
    if let Err(error) = unsafe { free(frame, purpose) } {
        panic!("{error}");
    }
}

/// Frees frames of 4 KiB that are in use for `purpose`. Locks the allocator once. O(frames).
///
/// # Panics
/// Panics if one of them is not in use for `purpose`: the allocator or the caller is corrupt.
///
/// # Safety
/// The same as for [`free`], for each of the frames.
pub(in crate::memory) unsafe fn free_all_or_panic(list: &[PhysFrame], purpose: Purpose) {
    let mut frames = frames();
    for &frame in list {
        if let Err(error) = frames.free(frame, purpose) {
            drop(frames);
            panic!("{error}");
        }
    }
}

/// Returns the number of frames by purpose.
pub fn usage() -> Usage {
    frames().usage()
}

/// Returns the number of frames by purpose, or `None` if the lock is held.
pub fn try_usage() -> Option<Usage> {
    Some(FRAMES.get()?.try_lock()?.usage())
}

/// Compares the numbers of frames with the table. O(groups).
///
/// # Errors
/// Describes the first mismatch.
pub fn check() -> Result<(), &'static str> {
    frames().check()
}
