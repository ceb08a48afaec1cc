//! The macro that defines [`GlobalAllocSource`](super::GlobalAllocSource) and
//! [`AllocatorSource`](super::AllocatorSource).

/// Defines a source whose heaps lie in blocks of another allocator: the type, its constructors and
/// its [`Source`]. The documentation that is given comes first; what all such sources share
/// follows.
macro_rules! block_source {
    (
        $(#[$documentation:meta])*
        pub struct $name:ident<$allocator:ident: $bound:path> {
            blocks: Blocks<$backing:ty>,
        }
    ) => {
        $(#[$documentation])*
        ///
        /// # Blocks
        /// Each block is one heap with a record above it. The first block also holds the
        /// allocator's metadata.
        ///
        /// ```text
        ///     on a 64-bit machine; the first block: 64 KiB            another: 128 KiB
        ///    ┌─┬────────────┬──────────────────────────┬────────┐    ┌─┬───────────────┬────────┐
        ///    │t│ list heads │ chunks and gaps          │ record │    │t│ chunks, gaps  │ record │
        ///    └─┴────────────┴──────────────────────────┴────────┘    └─┴───────────────┴────────┘
        ///    ├─ heap: 65,504 bytes ────────────────────┼── 32 ──┤    ├─ 131,040 ───────┼── 32 ──┤
        /// ```
        ///
        /// A block that becomes empty is the *spare* block: the next heap uses it if it is large
        /// enough. It is freed when another block becomes empty. Dropping the allocator frees all
        /// blocks.
        ///
        /// ```text
        ///      first block   b           c
        ///      in use        in use      in use
        ///      in use        spare       in use     all of b is freed
        ///      in use        in use      in use     more is needed, and b is large enough
        ///      in use        spare       in use     all of b is freed again
        ///      in use        freed       spare      all of c is freed too
        ///      freed         freed       freed      the allocator is dropped
        /// ```
        ///
        /// # Restrictions
        /// Manual heap management ([`Talc::claim`], [`Talc::extend`], [`Talc::truncate`],
        /// [`Talc::resize`]) is forbidden with this source: it relies on its record at the end of
        /// each heap.
        ///
        /// A source serves one allocator. In another allocator it provides nothing. A source that
        /// is dropped while its allocator still exists leaks the blocks.
        #[derive(Debug)]
        pub struct $name<$allocator: $bound> {
            blocks: Blocks<$backing>,
        }

        impl<$allocator: $bound> $name<$allocator> {
            /// Creates a source of blocks of 64 KiB, or of a multiple of 64 KiB for larger
            /// allocations.
            pub const fn new(allocator: $allocator) -> Self {
                Self::with_block_size(allocator, DEFAULT_BLOCK_SIZE)
            }

            /// Creates a source of blocks of `block_size` bytes, or of a multiple of `block_size`
            /// for larger allocations. A `block_size` below
            /// [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT) counts as that.
            ///
            /// # Panics
            /// If `block_size` is not a power of two.
            pub const fn with_block_size(allocator: $allocator, block_size: usize) -> Self {
                Self {
                    blocks: Blocks::new(<$backing>::new(allocator), block_size),
                }
            }
        }

        // SAFETY: `acquire` uses only the `Talc` that it is called with. Blocks stay where they are
        // when the source is moved. `resize` returns `heap_end`, or `chunk_base` for an empty heap.
        unsafe impl<$allocator: $bound + core::fmt::Debug> Source for $name<$allocator> {
            const TRACK_HEAP_END: bool = true;

            fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
                blocks::acquire(talc, layout, |source| &mut source.blocks)
            }

            fn check<B: Binning>(talc: &Talc<Self, B>) -> Result<(), Corruption> {
                blocks::check(talc, |source| &source.blocks)
            }

            #[inline]
            unsafe fn resize(
                &mut self,
                chunk_base: *mut u8,
                heap_end: *mut u8,
                is_heap_base: bool,
            ) -> *mut u8 {
                // SAFETY: the caller meets the conditions of `Source::resize`, and all heaps of
                // this allocator were claimed by `acquire`.
                unsafe { self.blocks.resize(chunk_base, heap_end, is_heap_base) }
            }
        }
    };
}

pub(super) use block_source;
