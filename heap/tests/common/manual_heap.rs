//! A heap that a test claims, extends, truncates and deletes by hand.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::ptr::{NonNull, null_mut};

use heap::Span;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_UNIT, Talc};
use heap::talc::source::{Manual, Source};

use super::memory::Memory;
use super::random::Choices;

/// A heap in the middle of memory of which the rest must stay untouched.
pub(crate) struct ManualHeap {
    memory: Memory,
    base: *mut u8,
    /// `None` while no heap is claimed.
    end: Option<NonNull<u8>>,
}

impl ManualHeap {
    /// Returns `size` bytes without a heap. A heap never takes all of them.
    pub(crate) fn new(size: usize) -> Self {
        let memory = Memory::new(size);
        Self {
            base: memory.end(),
            memory,
            end: None,
        }
    }

    pub(crate) fn span(&self) -> Option<Span> {
        Some(Span::new(self.base, self.end?.as_ptr()))
    }

    /// Claims, extends, truncates or resizes the heap.
    pub(crate) fn change<B: Binning>(
        &mut self,
        talc: &mut Talc<Manual, B>,
        choices: &mut impl Choices,
    ) {
        let memory = &self.memory;
        let Some(end) = self.end else {
            self.base = memory.base().wrapping_add(1 + choices.below(200));
            let room = memory.end().addr() - self.base.addr();
            // SAFETY: the range lies in the memory, and no heap is in it.
            self.end = unsafe { talc.claim(self.base, choices.below(room + 1)) };
            if self.end.is_none() {
                memory.assert_untouched(memory.base(), memory.end());
                self.base = memory.end();
            }
            return;
        };
        let target = self.base.wrapping_add(choices.below(memory.size() - 200));
        // SAFETY: the end is current, and the memory up to the target belongs to the heap.
        unsafe {
            let reserved = talc.reserved(end);
            assert!(reserved.up_to <= end);
            let new_end = match choices.below(4) {
                0 => Some(talc.extend(end, target)),
                1 => talc.truncate(end, target),
                2 => talc.truncate(end, null_mut()),
                _ => talc.resize(end, target),
            };
            match new_end {
                Some(new_end) => {
                    assert!(new_end >= reserved.up_to);
                    assert!(new_end.addr().get() % CHUNK_UNIT == 0);
                }
                None => assert!(!reserved.any, "a heap in use was deleted"),
            }
            self.set_end(new_end);
        }
    }

    /// Truncates the heap as far as possible, or deletes it.
    pub(crate) fn truncate<B: Binning>(&mut self, talc: &mut Talc<Manual, B>) {
        if let Some(end) = self.end {
            // SAFETY: the end is current.
            let left = unsafe { talc.truncate(end, null_mut()) };
            self.set_end(left);
        }
    }

    /// Notes that the memory above the new end is untouched again.
    fn set_end(&mut self, new_end: Option<NonNull<u8>>) {
        let vacated = new_end.map_or(self.memory.base(), NonNull::as_ptr);
        if let Some(end) = self.end.filter(|end| vacated < end.as_ptr()) {
            self.memory.fill(vacated, end.as_ptr());
        }
        if new_end.is_none() {
            self.base = self.memory.end();
        }
        self.end = new_end;
    }

    /// The heap is sound, and all around it untouched.
    pub(crate) fn check<S: Source, B: Binning>(&self, talc: &Talc<S, B>) {
        self.memory.assert_untouched(self.memory.base(), self.base);
        if let Some(span) = self.span() {
            // SAFETY: it is a heap of this allocator.
            unsafe { talc.check_heap(span) }.unwrap();
            self.memory.assert_untouched(span.end(), self.memory.end());
        }
    }
}
