//! A few frames, where there is no heap to keep them in.

use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameDeallocator, PhysFrame, Size4KiB};

/// At most `N` frames.
pub(super) struct FrameList<const N: usize> {
    frames: [PhysFrame; N],
    length: usize,
}

impl<const N: usize> FrameList<N> {
    pub fn new() -> Self {
        Self {
            frames: [PhysFrame::containing_address(PhysAddr::zero()); N],
            length: 0,
        }
    }

    /// Adds a frame.
    ///
    /// # Panics
    /// If there are `N` already.
    pub fn push(&mut self, frame: PhysFrame) {
        self.frames[self.length] = frame;
        self.length += 1;
    }

    pub fn as_slice(&self) -> &[PhysFrame] {
        &self.frames[..self.length]
    }
}

/// Collects the frames, to be freed later.
impl<const N: usize> FrameDeallocator<Size4KiB> for FrameList<N> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.push(frame);
    }
}
