//! A list of frames that needs no heap.

use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameDeallocator, PhysFrame, Size4KiB};

/// A list of at most `N` frames.
pub(super) struct FrameList<const N: usize> {
    frames: [PhysFrame; N],
    length: usize,
}

impl<const N: usize> FrameList<N> {
    pub(crate) fn new() -> Self {
        Self {
            frames: [PhysFrame::containing_address(PhysAddr::zero()); N],
            length: 0,
        }
    }

    /// Appends a frame.
    ///
    /// # Panics
    /// Panics if the list has `N` frames already.
    pub(crate) fn push(&mut self, frame: PhysFrame) {
        self.frames[self.length] = frame;
        self.length += 1;
    }

    pub(crate) fn as_slice(&self) -> &[PhysFrame] {
        &self.frames[..self.length]
    }
}

/// Collects frames, which the owner of the list frees later.
impl<const N: usize> FrameDeallocator<Size4KiB> for FrameList<N> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.push(frame);
    }
}
