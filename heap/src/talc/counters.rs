//! Statistics.

#[cfg(not(feature = "counters"))]
pub(super) use disabled::Counting;
#[cfg(feature = "counters")]
pub use enabled::Counters;
#[cfg(feature = "counters")]
pub(super) use enabled::Counters as Counting;

#[cfg(feature = "counters")]
mod enabled {
    use core::fmt;

    /// Statistics: what is allocated, free and claimed now, and in total.
    ///
    /// ```text
    ///     ├─ claimed_bytes ─────────────────────────────────────────────────────────┤
    ///     ├─ unavailable_bytes() ────────────────────────────┼─ available_bytes ────┤
    ///     ├─ allocated_bytes ──────┼─ overhead_bytes() ──────┤  (gaps)
    ///      (as requested)            tags, padding, slivers, list heads
    /// ```
    ///
    /// Sizes are in bytes. Totals wrap around.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// # let layout = Layout::new::<[u32; 10]>();
    /// // SAFETY: only `talc` uses `memory`, which outlives it. The block is freed once.
    /// unsafe {
    ///     talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory)).expect("large enough");
    ///     let block = talc.allocate(layout).expect("there is room");
    ///     talc.deallocate(block.as_ptr(), layout);
    ///     talc.allocate(layout).expect("there is room");
    /// }
    /// let counters = talc.counters();
    /// assert_eq!((counters.allocated_bytes, counters.total_allocated_bytes), (40, 80));
    /// assert_eq!((counters.allocation_count, counters.total_freed_bytes()), (1, 40));
    /// assert_eq!(counters.unavailable_bytes(), 40 + counters.overhead_bytes());
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Counters {
        /// The number of live allocations.
        pub allocation_count: usize,
        /// The number of allocations ever made. Resizing in place makes none.
        pub total_allocation_count: u64,
        /// Bytes of live allocations, as requested.
        pub allocated_bytes: usize,
        /// Bytes ever requested. Growing in place adds the difference of the sizes, and shrinking
        /// subtracts it, as if the block had been allocated with its present size.
        pub total_allocated_bytes: u64,
        /// Bytes in gaps, slivers excepted.
        pub available_bytes: usize,
        /// The number of gaps, slivers excepted.
        pub fragment_count: usize,
        /// Bytes in holes: free memory inside the heaps that the source has taken back. They are
        /// not in gaps.
        pub hole_bytes: usize,
        /// The number of heaps.
        pub heap_count: usize,
        /// The number of heaps ever claimed.
        pub total_heap_count: u64,
        /// Bytes in heaps, including base tags (with `hardened`, also records). The first heap is
        /// counted from the first aligned word of its range.
        pub claimed_bytes: usize,
        /// Bytes ever claimed, by new heaps and by extensions.
        pub total_claimed_bytes: u64,
    }

    impl Counters {
        pub(crate) const fn new() -> Self {
            Self {
                allocation_count: 0,
                total_allocation_count: 0,
                allocated_bytes: 0,
                total_allocated_bytes: 0,
                available_bytes: 0,
                fragment_count: 0,
                hole_bytes: 0,
                heap_count: 0,
                total_heap_count: 0,
                claimed_bytes: 0,
                total_claimed_bytes: 0,
            }
        }

        /// Returns the claimed bytes that are not in gaps: allocations, holes and
        /// [overhead](Self::overhead_bytes).
        pub const fn unavailable_bytes(&self) -> usize {
            self.claimed_bytes - self.available_bytes
        }

        /// Returns the claimed bytes that are neither in gaps nor in holes nor requested: padding,
        /// tags (with `hardened`, also redzones and records), slivers and list heads.
        pub const fn overhead_bytes(&self) -> usize {
            self.unavailable_bytes() - self.hole_bytes - self.allocated_bytes
        }

        /// Returns the bytes of all allocations that were freed.
        pub const fn total_freed_bytes(&self) -> u64 {
            self.total_allocated_bytes
                .wrapping_sub(self.allocated_bytes as u64)
        }

        /// Returns the bytes that were claimed and given back.
        pub const fn total_released_bytes(&self) -> u64 {
            self.total_claimed_bytes
                .wrapping_sub(self.claimed_bytes as u64)
        }

        #[inline]
        pub(crate) fn count_allocation(&mut self, size: usize) {
            self.allocation_count += 1;
            self.total_allocation_count = self.total_allocation_count.wrapping_add(1);
            self.count_growth(size);
        }

        #[inline]
        pub(crate) fn count_deallocation(&mut self, size: usize) {
            self.allocation_count -= 1;
            self.allocated_bytes -= size;
        }

        #[inline]
        pub(crate) fn count_growth(&mut self, size: usize) {
            self.allocated_bytes += size;
            self.total_allocated_bytes = self.total_allocated_bytes.wrapping_add(size as u64);
        }

        #[inline]
        pub(crate) fn count_shrinkage(&mut self, size: usize) {
            self.allocated_bytes -= size;
            self.total_allocated_bytes = self.total_allocated_bytes.wrapping_sub(size as u64);
        }

        #[inline]
        pub(crate) fn count_gap(&mut self, size: usize) {
            self.fragment_count += 1;
            self.available_bytes += size;
        }

        #[inline]
        pub(crate) fn uncount_gap(&mut self, size: usize) {
            self.fragment_count -= 1;
            self.available_bytes -= size;
        }

        pub(crate) fn count_hole(&mut self, size: usize) {
            self.hole_bytes += size;
        }

        pub(crate) fn uncount_hole(&mut self, size: usize) {
            self.hole_bytes -= size;
        }

        pub(crate) fn count_heap(&mut self, size: usize) {
            self.heap_count += 1;
            self.total_heap_count = self.total_heap_count.wrapping_add(1);
            self.claimed_bytes += size;
            self.total_claimed_bytes = self.total_claimed_bytes.wrapping_add(size as u64);
        }

        pub(crate) fn count_deleted_heap(&mut self, remainder: usize) {
            self.heap_count -= 1;
            self.claimed_bytes -= remainder;
        }

        pub(crate) fn count_end_moved(&mut self, from: usize, to: usize) {
            self.claimed_bytes = self.claimed_bytes.wrapping_add(to.wrapping_sub(from));
            let claimed = to.saturating_sub(from) as u64;
            self.total_claimed_bytes = self.total_claimed_bytes.wrapping_add(claimed);
        }
    }

    impl fmt::Display for Counters {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            writeln!(f, "                     now        total")?;
            let mut line =
                |name, now: usize, total: u64| writeln!(f, "{name:<11} {now:>12} {total:>12}");
            line(
                "allocations",
                self.allocation_count,
                self.total_allocation_count,
            )?;
            line(
                "allocated",
                self.allocated_bytes,
                self.total_allocated_bytes,
            )?;
            line("heaps", self.heap_count, self.total_heap_count)?;
            line("claimed", self.claimed_bytes, self.total_claimed_bytes)?;
            writeln!(f, "{:<11} {:>12}", "gaps", self.fragment_count)?;
            writeln!(f, "{:<11} {:>12}", "available", self.available_bytes)?;
            writeln!(f, "{:<11} {:>12}", "holes", self.hole_bytes)?;
            write!(f, "{:<11} {:>12}", "overhead", self.overhead_bytes())
        }
    }
}

/// No-op versions of the functions that count, for builds without the feature `counters`.
#[cfg(not(feature = "counters"))]
mod disabled {
    pub(crate) struct Counting;

    macro_rules! ignore {
        ($($event:ident($($value:ident),+);)*) => {
            impl Counting {
                pub(crate) const fn new() -> Self {
                    Self
                }
                $(#[inline] pub(crate) fn $event(&mut self, $($value: usize),+) {
                    let _ = ($($value),+);
                })*
            }
        };
    }

    ignore! {
        count_allocation(size);
        count_deallocation(size);
        count_growth(size);
        count_shrinkage(size);
        count_gap(size);
        uncount_gap(size);
        count_hole(size);
        uncount_hole(size);
        count_heap(size);
        count_deleted_heap(remainder);
        count_end_moved(from, to);
    }
}
