//! An allocator with a single heap.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::alloc::Layout;
use std::ptr::NonNull;

use heap::Span;
use heap::talc::base::{CHUNK_OVERHEAD, Talc};
use heap::talc::source::Manual;
use heap::talc::{DefaultBinning, min_first_heap_size};

use super::memory::Memory;

pub(crate) type ManualTalc = Talc<Manual, DefaultBinning>;

/// An allocator with one heap, and the extent of that heap.
pub(crate) struct OneHeap {
    pub talc: ManualTalc,
    pub span: Span,
    _memory: Memory,
}

impl OneHeap {
    pub(crate) fn new(size: usize) -> Self {
        let memory = Memory::new(min_first_heap_size::<DefaultBinning>() + size);
        let mut talc = ManualTalc::new(Manual);
        // SAFETY: the memory outlives the allocator.
        let end = unsafe { talc.claim(memory.base(), memory.size()) }.expect("it is large enough");
        Self {
            talc,
            span: Span::new(memory.base(), end.as_ptr()),
            _memory: memory,
        }
    }

    pub(crate) fn allocate(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        // SAFETY: the tests request no zero-sized blocks.
        unsafe {
            self.talc
                .allocate(Layout::from_size_align(size, align).unwrap())
        }
    }

    pub(crate) fn deallocate(&mut self, ptr: NonNull<u8>, size: usize, align: usize) {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the tests free each block once, with its layout.
        unsafe { self.talc.deallocate(ptr.as_ptr(), layout) }
    }

    pub(crate) fn check(&self) {
        self.talc.check().unwrap();
        // SAFETY: the span is the heap's.
        unsafe { self.talc.check_heap(self.span) }.unwrap();
    }

    /// Asserts that the heap is one gap, which can be allocated whole.
    pub(crate) fn assert_one_gap(&mut self) {
        self.check();
        let gaps: Vec<_> = self.talc.gaps().collect();
        let [gap] = gaps[..] else {
            panic!("{gaps:?} did not merge")
        };
        assert_eq!(gap.end(), self.span.end());
        let size = gap.size() - CHUNK_OVERHEAD;
        let all = self
            .allocate(size, 1)
            .expect("a gap can be allocated whole");
        self.deallocate(all, size, 1);
    }
}
