//! A list of frames that needs no heap.

use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameDeallocator, PhysFrame, Size4KiB};

/// A list of at most `N` frames.
#[derive(Debug)]
pub struct FrameList<const N: usize> {
    frames: [PhysFrame; N],
    length: usize,
}

impl<const N: usize> FrameList<N> {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self {
            frames: [PhysFrame::containing_address(PhysAddr::zero()); N],
            length: 0,
        }
    }

    /// Appends a frame.
    ///
    /// # Panics
    /// Panics if the list has `N` frames already.
    pub fn push(&mut self, frame: PhysFrame) {
        self.frames[self.length] = frame;
        self.length += 1;
    }

    /// Returns the frames, in the order in which they were appended.
    pub fn as_slice(&self) -> &[PhysFrame] {
        &self.frames[..self.length]
    }
}

impl<const N: usize> Default for FrameList<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects frames, which the owner of the list frees later.
impl<const N: usize> FrameDeallocator<Size4KiB> for FrameList<N> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.push(frame);
    }
}
