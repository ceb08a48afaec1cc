//! [`MapperMemory`]: the memory of a kernel that has a mapper and a frame allocator.

use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::CleanUp;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, Mapper, PhysFrame, Size4KiB};

use crate::memory::{Memory, Purpose};
use crate::sync::InterruptMutex;

/// A mapper and a frame allocator, each behind a lock that masks interrupts.
///
/// It is created empty, for a `static`, and gets its parts when the kernel has them: see the
/// example of [`Heap`](crate::Heap).
pub struct MapperMemory<M, F> {
    parts: Once<Parts<M, F>>,
}

struct Parts<M, F> {
    mapper: InterruptMutex<M>,
    frames: InterruptMutex<F>,
    physical_offset: VirtAddr,
}

impl<M, F> MapperMemory<M, F> {
    /// Creates a memory without its parts.
    pub const fn new() -> Self {
        Self { parts: Once::new() }
    }

    /// Sets the mapper, the frame allocator, and the address that physical address 0 is mapped at.
    /// Only the first call has an effect.
    ///
    /// # Safety
    /// * `mapper` changes the page tables that each CPU uses. Without the feature `smp`, the kernel
    ///   runs on one.
    /// * Page tables, and the frames that `frames` hands out, are mapped at `physical_offset`,
    ///   writable, for ever.
    /// * No other code changes these page tables, except for entries outside of the heap's window.
    /// * No other address space has a copy of the level 4 entries of the heap's window: page tables
    ///   below them are freed when they are empty.
    /// * `mapper` reaches page tables at `physical_offset`, as `OffsetPageTable` does. (A
    ///   `RecursivePageTable` reaches them at addresses that are not flushed when a table is
    ///   freed.)
    /// * `mapper` and `frames` do not allocate from the heap.
    pub unsafe fn init(&self, mapper: M, frames: F, physical_offset: VirtAddr) {
        self.parts.call_once(|| Parts {
            mapper: InterruptMutex::new(mapper),
            frames: InterruptMutex::new(frames),
            physical_offset,
        });
    }

    /// Returns the mapper and its lock, to map other pages.
    ///
    /// # Panics
    /// Panics before [`init`](Self::init).
    ///
    /// # Safety
    /// The mapper is not replaced, and no page of the heap's window is changed: the safe method
    /// [`Mapper::unmap`] can unmap a block that is in use. No code allocates from the heap while it
    /// holds the lock.
    pub unsafe fn mapper(&self) -> &InterruptMutex<M> {
        &self.parts().mapper
    }

    /// Returns the frame allocator and its lock, to allocate other frames.
    ///
    /// # Panics
    /// Panics before [`init`](Self::init).
    ///
    /// # Safety
    /// The allocator is not replaced, and it is not made to hand out frames that are in use. No
    /// code allocates from the heap while it holds the lock.
    pub unsafe fn frames(&self) -> &InterruptMutex<F> {
        &self.parts().frames
    }

    fn parts(&self) -> &Parts<M, F> {
        self.parts.get().expect("the memory is not initialised")
    }
}

impl<M, F> Default for MapperMemory<M, F> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the caller of `init` guarantees the conditions for mapper and offset, and a
// `FrameAllocator` those for frames. The default of `flush` reaches each CPU.
unsafe impl<M, F> Memory for MapperMemory<M, F>
where
    M: Mapper<Size4KiB> + CleanUp + Send,
    F: FrameAllocator<Size4KiB> + FrameDeallocator<Size4KiB> + Send,
{
    type Mapper = M;

    unsafe fn with_mapper<R>(&self, work: impl FnOnce(&mut M) -> R) -> R {
        work(&mut self.parts().mapper.lock())
    }

    fn allocate_frame(&self, _: Purpose) -> Option<PhysFrame> {
        self.parts().frames.lock().allocate_frame()
    }

    unsafe fn free_frame(&self, frame: PhysFrame, _: Purpose) {
        // SAFETY: the caller guarantees that no code uses the frame.
        unsafe { self.parts().frames.lock().deallocate_frame(frame) };
    }

    fn physical_offset(&self) -> VirtAddr {
        self.parts().physical_offset
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use heap::vmem::AllocPolicy::InstantFit;
    use heap::vmem::TagPool;
    use x86_64::structures::paging::OffsetPageTable;

    use super::*;
    use crate::host_memory::{WINDOW, empty_tables};
    use crate::mapped_pages::MappedPages;
    use crate::memory::PAGE_SIZE;
    use crate::tags::{PageLock, TagFrames};

    /// The free frames.
    struct Frames(Vec<PhysFrame>);

    // SAFETY: the list has each frame once that is not in use.
    unsafe impl FrameAllocator<Size4KiB> for Frames {
        fn allocate_frame(&mut self) -> Option<PhysFrame> {
            self.0.pop()
        }
    }

    impl FrameDeallocator<Size4KiB> for Frames {
        unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
            assert!(!self.0.contains(&frame), "{frame:?} is free already");
            self.0.push(frame);
        }
    }

    #[test]
    fn pages_take_frames_of_the_allocator_and_return_them() {
        // Pages are flushed on the CPUs that other tests start.
        #[cfg(feature = "smp")]
        let _turn = crate::smp::tests::TURN.lock();
        let (mapper, offset, frames) = empty_tables(100);
        let memory = Box::leak(Box::new(MapperMemory::<OffsetPageTable, _>::new()));
        // SAFETY: all frames are mapped at the offset, and no other code uses the page tables.
        unsafe { memory.init(mapper, Frames(frames), offset) };
        assert_eq!(memory.physical_offset(), offset);
        let tags = TagPool::new(PageLock::new(), TagFrames::new(memory));
        let tags = Box::leak(Box::new(tags));
        let pages = Box::leak(Box::new(MappedPages::new(memory)));
        // SAFETY: the memory is usable, and its page tables map nothing.
        unsafe { pages.init(WINDOW..WINDOW + (1 << 30), tags) }.unwrap();
        let arena = pages.create_arena(tags).unwrap();

        let free = || memory.parts().frames.lock().0.len();
        // The tags take frames, some of which they retain.
        arena
            .free(arena.alloc(PAGE_SIZE, InstantFit).unwrap())
            .unwrap();
        let before = free();
        let base = arena.alloc(20 * PAGE_SIZE, InstantFit).unwrap();
        // The first page has a table of its own, and two more tables are above.
        assert_eq!(free(), before - 20 - 4);
        arena.free(base).unwrap();
        assert_eq!(free(), before);
    }
}
