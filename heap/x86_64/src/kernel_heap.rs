//! [`Heap`]: all layers of a heap together.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::{Deref, Range};

use heap::vmem::{Error, TagPool};
use spin::Once;

use crate::mapped_pages::{MappedPages, PageArena};
use crate::memory::Memory;
use crate::slab_heap::SlabHeap;
use crate::tags::{PageLock, TagFrames, Tags};

/// The global allocator of a kernel, with all layers below it: slabs, Talc, the arenas and the
/// source that maps frames.
///
/// Here `Frames` is the `FrameAllocator` and `FrameDeallocator` of the kernel:
///
/// ```no_run
/// # use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};
/// # struct Frames;
/// # unsafe impl FrameAllocator<Size4KiB> for Frames {
/// #     fn allocate_frame(&mut self) -> Option<PhysFrame> { None }
/// # }
/// # impl FrameDeallocator<Size4KiB> for Frames {
/// #     unsafe fn deallocate_frame(&mut self, _: PhysFrame) {}
/// # }
/// # fn main() {}
/// use heap_x86_64::{Heap, MapperMemory};
/// use x86_64::VirtAddr;
/// use x86_64::structures::paging::OffsetPageTable;
///
/// type KernelMemory = MapperMemory<OffsetPageTable<'static>, Frames>;
///
/// static MEMORY: KernelMemory = MapperMemory::new();
///
/// // SAFETY: one CPU runs, and handlers that are not maskable do not allocate.
/// #[global_allocator]
/// static HEAP: Heap<KernelMemory> = unsafe { Heap::new(&MEMORY) };
///
/// /// # Safety
/// /// All memory is mapped at `offset`, and no other code uses this mapper or the window.
/// unsafe fn start_heap(mapper: OffsetPageTable<'static>, frames: Frames, offset: VirtAddr) {
///     // SAFETY: the caller guarantees it.
///     unsafe { MEMORY.init(mapper, frames, offset) };
///     // SAFETY: no other code uses the addresses.
///     unsafe { HEAP.init(0xffff_a000_0000_0000..0xffff_a040_0000_0000) }.expect("a window");
/// }
/// ```
pub struct Heap<M: Memory + 'static> {
    heap: SlabHeap<Tags<M>>,
    tags: TagPool<PageLock, TagFrames<M>>,
    pages: MappedPages<M>,
    arena: Once<PageArena<M>>,
}

impl<M: Memory> Heap<M> {
    /// Creates a heap without addresses: allocations fail until [`init`](Self::init).
    ///
    /// # Safety
    /// As for [`SlabHeap::new`]: without the feature `smp`, the code that uses the heap runs on one
    /// CPU. No handler that masking interrupts does not keep out uses the heap.
    pub const unsafe fn new(memory: &'static M) -> Self {
        Self {
            // SAFETY: the caller guarantees the same.
            heap: unsafe { SlabHeap::new() },
            tags: TagPool::new(PageLock::new(), TagFrames::new(memory)),
            pages: MappedPages::new(memory),
            arena: Once::new(),
        }
    }

    /// Sets the window, the addresses that the heap maps pages at. From now on allocations succeed.
    ///
    /// The window may be much larger than memory, and should be: addresses are fragmented too. In a
    /// kernel with one heap 256 GiB are half of a level 4 entry, and cost nothing.
    ///
    /// # Errors
    /// Returns an error if the ends of the window are not multiples of a page, or if an address of
    /// the window is not canonical.
    ///
    /// # Safety
    /// * This function is called once, when the memory is usable.
    /// * No page of the window is mapped, and no other code maps any.
    /// * Page tables for the window that exist, but map nothing, may be freed as if the memory had
    ///   allocated them, unless the memory [keeps tables](Memory::keeps_tables).
    pub unsafe fn init(&'static self, window: Range<usize>) -> Result<(), Error> {
        // SAFETY: the caller guarantees the same.
        unsafe { self.pages.init(window, &self.tags)? };
        let arena = self.pages.create_arena(&self.tags)?;
        let arena = self.arena.call_once(|| arena);
        // SAFETY: the arena allocates mapped pages, and only this heap has it. By the contract of
        // `Memory`, no layer below allocates from the heap.
        unsafe { self.heap.attach(arena) };
        Ok(())
    }

    /// Returns the source of the pages, which counts them.
    pub fn pages(&self) -> &MappedPages<M> {
        &self.pages
    }
}

impl<M: Memory> Deref for Heap<M> {
    type Target = SlabHeap<Tags<M>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.heap
    }
}

// SAFETY: all operations are those of `SlabHeap`.
unsafe impl<M: Memory> GlobalAlloc for Heap<M> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.heap.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.heap.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.heap.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.heap.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::host_memory::{HostMemory, leaked_block};

    /// Returns a heap whose window is memory of the host.
    fn heap() -> &'static Heap<HostMemory> {
        const SIZE: usize = 8 << 20;
        let memory = HostMemory::new(1000);
        memory.state.lock().is_window_usable = true;
        // SAFETY: the heap excludes other threads, and there are no handlers.
        let heap = Box::leak(Box::new(unsafe { Heap::new(memory) }));
        let window = leaked_block(SIZE).expose_provenance();
        // SAFETY: the memory is usable, its page tables map nothing, and no other code uses the
        // block.
        unsafe { heap.init(window..window + SIZE) }.unwrap();
        heap
    }

    /// A size of slabs, and one of Talc.
    const SIZES: [usize; 2] = [100, 10_000];

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    /// Allocates a block, and fills it.
    fn filled(heap: &Heap<HostMemory>, size: usize, byte: u8) -> *mut u8 {
        // SAFETY: the size is not zero.
        let block = unsafe { heap.alloc(layout(size)) };
        assert!(!block.is_null());
        // SAFETY: the block has this size.
        unsafe { block.write_bytes(byte, size) };
        block
    }

    /// Returns whether the first `size` bytes of a block are `byte`.
    ///
    /// # Safety
    /// The block is null, or has as many bytes, which are initialised.
    unsafe fn is_filled(block: *const u8, size: usize, byte: u8) -> bool {
        assert!(!block.is_null());
        // SAFETY: the caller guarantees it.
        let bytes = unsafe { core::slice::from_raw_parts(block, size) };
        bytes.iter().all(|&other| other == byte)
    }

    #[test]
    #[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
    fn free_slabs_go_back_when_the_heap_decays_or_is_reaped() {
        let heap = heap();
        for give_back in [SlabHeap::decay, SlabHeap::reap] {
            let blocks: Vec<_> = (0..100).map(|_| filled(heap, SIZES[0], 1)).collect();
            assert!(heap.slabs().slabs() > 1);
            for block in blocks {
                // SAFETY: the block was allocated with this layout, and is not used any more.
                unsafe { heap.dealloc(block, layout(SIZES[0])) };
            }
            give_back(heap);
            assert_eq!(heap.slabs().slabs(), 0);
        }
    }

    #[test]
    fn zeroed_blocks_are_zero_where_others_were_used() {
        let heap = heap();
        for size in SIZES {
            let block = filled(heap, size, 7);
            // SAFETY: the block was allocated with this layout, and is not used any more.
            unsafe { heap.dealloc(block, layout(size)) };
            // SAFETY: the size is not zero.
            let block = unsafe { heap.alloc_zeroed(layout(size)) };
            // SAFETY: the block has this size, and is zero.
            assert!(unsafe { is_filled(block, size, 0) });
            // SAFETY: the block was allocated with this layout, and is not used any more.
            unsafe { heap.dealloc(block, layout(size)) };
        }
    }

    #[test]
    fn a_block_that_grows_keeps_its_bytes_and_leaves_others_alone() {
        let heap = heap();
        for size in SIZES {
            let [block, other] = [1, 2].map(|byte| filled(heap, size, byte));
            // SAFETY: the block was allocated with this layout.
            let grown = unsafe { heap.realloc(block, layout(size), 4 * size) };
            // SAFETY: the first bytes are those that were filled.
            assert!(unsafe { is_filled(grown, size, 1) });
            // SAFETY: the block has four times the size now.
            unsafe { grown.write_bytes(1, 4 * size) };
            // SAFETY: the block is filled.
            assert!(unsafe { is_filled(other, size, 2) });
            // SAFETY: the block was reallocated with this layout, and is not used any more.
            unsafe { heap.dealloc(grown, layout(4 * size)) };
            // SAFETY: the block was allocated with this layout, and is not used any more.
            unsafe { heap.dealloc(other, layout(size)) };
        }
    }

    /// The example in README.md cannot be compiled as it stands. That of [`Heap`](super::Heap) is.
    #[test]
    fn the_example_of_the_readme_is_that_of_the_documentation() {
        let (_, example) = include_str!("kernel_heap.rs")
            .split_once("/// ```no_run\n")
            .unwrap();
        let (example, _) = example.split_once("/// ```\n").unwrap();
        let example: String = example
            .lines()
            .map(|line| line.strip_prefix("///").unwrap_or(line))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .filter(|line| !line.starts_with("# "))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert!(
            include_str!("../../README.md").contains(&example),
            "{example}"
        );
    }
}
