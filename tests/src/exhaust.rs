//! Exhaustion: all frames are allocated, and freed again.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use kernel::audit;
use kernel::heap::HEAP;
use kernel::kernel_test;
use kernel::memory::{PAGE_SIZE, frames};

use crate::support::{Limit, Snapshot};

/// A list of blocks of the kernel heap with the links inside the blocks: the list needs no further
/// memory.
struct Chain {
    first: *mut Link,
    bytes: usize,
}

struct Link {
    next: *mut Link,
    size: usize,
}

impl Chain {
    fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            bytes: 0,
        }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, align_of::<Link>()).expect("a valid layout")
    }

    /// Allocates a block and writes to each of its pages. Returns whether memory was free.
    fn push(&mut self, size: usize) -> bool {
        // SAFETY: the size is not zero.
        let block = unsafe { HEAP.alloc(Self::layout(size)) };
        if block.is_null() {
            return false;
        }
        let link = Link {
            next: self.first,
            size,
        };
        self.first = block.cast();
        self.bytes += size;
        // SAFETY: the block has the alignment of a link, and at least its size.
        unsafe { self.first.write(link) };
        for offset in Self::marks(size) {
            // SAFETY: the offset is within the block.
            unsafe { block.add(offset).write(Self::mark(block, offset)) };
        }
        true
    }

    /// Returns the offsets of the marks in a block: one in each page, and one at the end.
    fn marks(size: usize) -> impl Iterator<Item = usize> {
        (size_of::<Link>()..size)
            .step_by(PAGE_SIZE)
            .chain((size > size_of::<Link>()).then_some(size - 1))
    }

    fn mark(block: *mut u8, offset: usize) -> u8 {
        let address = block.addr() + offset;
        (address >> 4 ^ address >> 12 ^ address >> 20) as u8
    }

    /// Checks the marks of the first block, and frees the block. Returns whether the list had one.
    fn pop(&mut self) -> bool {
        let block = self.first.cast::<u8>();
        if block.is_null() {
            return false;
        }
        // SAFETY: the first link is a live block.
        let Link { next, size } = unsafe { self.first.read() };
        for offset in Self::marks(size) {
            // SAFETY: the offset is within the block.
            let found = unsafe { block.add(offset).read() };
            assert_eq!(
                found,
                Self::mark(block, offset),
                "the block at {block:p} changed"
            );
        }
        self.first = next;
        self.bytes -= size;
        // SAFETY: the block was allocated with this layout, and is removed from the list.
        unsafe { HEAP.dealloc(block, Self::layout(size)) };
        true
    }

    /// Removes every second block, and returns them.
    fn split(&mut self) -> Self {
        let mut halves = [Self::new(), Self::new()];
        let mut link = self.first;
        for index in 0_usize.. {
            if link.is_null() {
                break;
            }
            // SAFETY: the links of the list are live blocks, and no other reference to them exists.
            let Link { next, size } = unsafe { &mut *link };
            let half = &mut halves[index % 2];
            // This reverses the order.
            let rest = core::mem::replace(next, half.first);
            half.bytes += *size;
            half.first = link;
            link = rest;
        }
        let [first, second] = halves;
        self.first = first.first;
        self.bytes = first.bytes;
        second
    }
}

kernel_test! {
    fn all_frames_can_be_used_and_freed_20_times(deadline = 240) {
        const SIZES: [usize; 6] = [3 << 20, 1 << 16, 4096, 1000, 200, size_of::<Link>()];
        let limit = Limit::new(64 << 20);
        let before = Snapshot::take();
        for round in 0..20 {
            let mut chain = Chain::new();
            for size in SIZES {
                while chain.push(size) {}
            }
            let left = frames::usage().free;
            // The last frames may be too few for a page and its page tables.
            assert!(left <= 2, "round {round}: {left} frames are left");
            // Nearly all frames are pages with blocks, and the rest are page tables.
            assert!(
                chain.bytes / PAGE_SIZE + chain.bytes / PAGE_SIZE / 100 + 16
                    > HEAP.stats().heap_frames
            );
            assert_eq!(audit::check(), Ok(()), "round {round}, all in use");
            if round % 2 == 1 {
                let mut other = chain.split();
                while other.pop() {}
            }
            while chain.pop() {}
            assert_eq!(Snapshot::take(), before, "round {round}");
            assert_eq!(audit::check(), Ok(()), "round {round}, all free");
        }
        drop(limit);
    }
}
