//! Small blocks from slabs, in front of another allocator.
//!
//! A *slab* is a page of blocks of one size. Each CPU allocates from a slab of its own, and frees
//! into the slabs that it owns, without a lock and without an atomic read-modify-write operation.
//! Larger requests, and the pages of the slabs, come from the allocator behind: a
//! [`TalcLock`](crate::talc::TalcLock) or a [`TalcCell`](crate::talc::TalcCell), for instance.
//!
//! ```text
//!           1 to 496 bytes                           more
//!     ┌──────────┴───────────┐                         │
//!     │ CPU 0     CPU 1  …   │  slabs: current ones,   │
//!     │ slabs     slabs      │  partial ones           │
//!     ├──────────────────────┤                         │
//!     │ partial slabs that   │  behind a spin lock     │
//!     │ any CPU may take     │                         │
//!     └──────────┬───────────┘                         │
//!                │ pages                               │
//!     ┌──────────┴─────────────────────────────────────┴──┐
//!     │ the allocator behind, for instance a TalcLock     │
//!     └───────────────────────────────────────────────────┘
//! ```
//!
//! Slab allocators were described by Jeff Bonwick (*The Slab Allocator*, 1994; with Jonathan Adams,
//! *Magazines and Vmem*, 2001). Lists of free blocks within each slab are those of Linux's SLUB and
//! of mimalloc (Leijen and others, *Mimalloc: Free List Sharding in Action*, 2019).
//!
//! | file | subject |
//! |---|---|
//! | `size_class` | which block size a layout has |
//! | `slab`, `list` | a slab: its layout, its blocks and who may use it; lists of slabs |
//! | `local` | what belongs to one CPU |
//! | `shared` | the slabs that any CPU may take |
//! | `cpus`, `threads` | which part belongs to the code that runs |
//! | `allocator_impls` | `GlobalAlloc` and `Allocator` |
//! | `stats`, `counts`, `check` | inspection |

#![warn(clippy::multiple_unsafe_ops_per_block)]

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use self::counts::Counts;
use self::local::{BATCH, Context, Local, MAX_IDLE, Released};
use self::shared::Shared;
use self::size_class::{Granules, Served};
use self::slab::{Block, REQUEST_SIZE, Slab};
use crate::source::StableGlobalAlloc;

mod allocator_impls;
mod check;
mod counts;
mod cpus;
mod list;
mod local;
mod shared;
mod size_class;
#[expect(
    clippy::module_inception,
    reason = "the module is about many slabs, the file about one"
)]
mod slab;
mod stats;
#[cfg(any(test, feature = "std"))]
mod threads;

pub use self::check::{SlabCorruption, SlabRule};
pub use self::counts::CpuStats;
pub use self::cpus::{Cpus, OneCpu, OneThread};
pub use self::size_class::{MAX_BLOCK_ALIGN, MAX_BLOCK_SIZE};
pub use self::slab::SLAB_SIZE;
pub use self::stats::{ClassStats, SlabInfo, Stats};
#[cfg(any(test, feature = "std"))]
pub use self::threads::Threads;

/// The largest number of bytes that one CPU holds back of what it has freed: free memory that
/// neither another CPU nor the allocator behind the slabs can use until [`SlabAllocator::reap`] is
/// called. 20,224 bytes.
///
/// They are slabs without a used block, of which a CPU keeps some, and freed blocks that wait to be
/// brought to another CPU's slab. A slab with a block in use is not held back, but fragmented: its
/// free blocks serve requests of their size on the CPU that owns it. With several CPUs, each owns
/// at most one current slab and eight partial ones of each size.
///
/// Nor does this count blocks that *other* CPUs have freed, and that the CPU that owns their slab
/// has not collected yet. It does when it has used up a slab of that size, and when it reaps. Until
/// then, even slabs without a used block stay with it: in the worst case all that it owns.
pub const MAX_HELD_BACK: usize = MAX_IDLE * SLAB_SIZE + BATCH * MAX_BLOCK_SIZE;

/// How often an allocation is tried after reaping, while other CPUs are giving back slabs.
const MAX_ATTEMPTS: usize = 64;

/// The layout of a slab.
const PAGE: Layout = match Layout::from_size_align(REQUEST_SIZE, SLAB_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is small"),
};

/// Slabs in front of an allocator: small blocks without a lock.
///
/// `A` is the allocator behind the slabs. `C` says which of the `CPUS` CPU-local parts belongs to
/// the code that runs: see [`Cpus`].
///
/// ```
/// use heap::slab::{SlabAllocator, Threads};
/// use heap::source::Claim;
/// use heap::talc::TalcLock;
///
/// type Talc = TalcLock<spin::Mutex<()>, Claim>;
///
/// #[global_allocator]
/// static HEAP: SlabAllocator<Talc, Threads<16>, 16> = SlabAllocator::new(
///     TalcLock::new({
///         static mut MEMORY: [u8; 1 << 22] = [0; 1 << 22];
///         // SAFETY: `MEMORY` has no other user.
///         unsafe { Claim::array(&raw mut MEMORY) }
///     }),
///     Threads::new(),
/// );
///
/// let squares: Vec<Box<u64>> = (0..1000).map(|n| Box::new(n * n)).collect();
/// assert_eq!(*squares[31], 961);
/// ```
///
/// | request | from |
/// |---|---|
/// | up to [`MAX_BLOCK_SIZE`] bytes, aligned to 16 or less | a slab |
/// | up to [`MAX_BLOCK_ALIGN`] bytes, aligned to 32, 64, 128 or 256 | a slab |
/// | any other | the allocator behind |
///
/// When the allocator behind has no more memory, the slabs are [reaped](Self::reap) before a
/// request fails, and a small request may get a block of a larger size.
///
/// With the feature `hardened` every request goes to the allocator behind, so that each block has a
/// redzone and is checked as the documentation of that feature says.
///
/// Dropping a `SlabAllocator` drops the allocator behind, and gives no slab back before.
pub struct SlabAllocator<A, C, const CPUS: usize> {
    backing: A,
    cpus: C,
    locals: [LocalCell; CPUS],
    shared: Shared,
}

/// A CPU-local part. Parts of different CPUs are in different cache lines.
#[repr(align(128))]
struct LocalCell {
    local: UnsafeCell<Local>,
    counts: Counts,
    /// Asks the CPU to reap its part.
    reap_requested: AtomicBool,
}

// SAFETY: `Cpus` guarantees that one CPU at a time uses each part.
unsafe impl<A: Sync, C: Sync, const CPUS: usize> Sync for SlabAllocator<A, C, CPUS> {}
// SAFETY: slabs and blocks belong to no thread.
unsafe impl<A: Send, C: Send, const CPUS: usize> Send for SlabAllocator<A, C, CPUS> {}

impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    /// Returns an allocator without slabs. It fails to compile unless `CPUS` is `C::COUNT`.
    pub const fn new(backing: A, cpus: C) -> Self {
        const {
            assert!(CPUS == C::COUNT, "`CPUS` is not the number of parts of `C`");
            assert!(CPUS > 0 && CPUS < slab::NO_OWNER as usize);
        }
        Self {
            backing,
            cpus,
            locals: [const {
                LocalCell {
                    local: UnsafeCell::new(Local::new()),
                    counts: Counts::new(),
                    reap_requested: AtomicBool::new(false),
                }
            }; CPUS],
            shared: Shared::new(),
        }
    }

    /// Returns the allocator behind the slabs.
    pub const fn backing(&self) -> &A {
        &self.backing
    }

    /// Allocates, or returns null.
    ///
    /// # Safety
    /// The size is not zero.
    #[inline]
    unsafe fn allocate(&self, layout: Layout) -> *mut u8 {
        match Served::by(layout) {
            Served::Slab(granules) => {
                let block = self.take(granules);
                block.map_or_else(|| self.allocate_slow(granules, true), NonNull::as_ptr)
            }
            // SAFETY: the size is not zero.
            Served::Backing => unsafe { self.allocate_large(layout) },
            // SAFETY: the size is not zero.
            Served::ByAlignment => unsafe { self.allocate_aligned(layout) },
        }
    }

    /// The fast path of allocation: takes a free block of the current slab.
    #[inline]
    fn take(&self, granules: Granules) -> Option<Block> {
        self.with_local(|local, context| {
            let block = local.take(granules);
            context.counts.count_hit(block.is_some());
            block
        })
    }

    /// Frees a block.
    ///
    /// # Safety
    /// The block is in use, and has this layout.
    #[inline]
    unsafe fn deallocate(&self, block: *mut u8, layout: Layout) {
        match Served::by(layout) {
            Served::Slab(_) => {
                // SAFETY: a block is not null.
                let block = unsafe { NonNull::new_unchecked(block) };
                // SAFETY: slabs serve this layout, and the block is not used again.
                unsafe { self.put(block) };
            }
            // SAFETY: the block came from the allocator behind the slabs, with this layout.
            Served::Backing => unsafe { self.deallocate_large(block, layout) },
            // SAFETY: the block is in use, and has this layout.
            Served::ByAlignment => unsafe { self.deallocate_aligned(block, layout) },
        }
    }

    /// Frees a block that slabs serve. The fast path puts it into the list of its slab, if this CPU
    /// owns the slab and other blocks of it are in use.
    ///
    /// # Safety
    /// The block belongs to a slab of this allocator, and is not used again.
    #[inline]
    unsafe fn put(&self, block: Block) {
        let is_put = self.cpus.with(|cpu| {
            // SAFETY: the slab has a block in use, this one, and so exists.
            let slab = unsafe { Slab::of(block) };
            // There are fewer parts than `NO_OWNER`.
            if !slab.can_put_simply(cpu as u16) {
                return false;
            }
            // SAFETY: the block is not used again.
            unsafe { slab.put(block) };
            true
        });
        if !is_put {
            // The block counts as used until it is put back, so its slab still exists.
            // SAFETY: as for this function.
            unsafe { self.put_slow(block) };
        }
    }

    /// Frees a block after the fast path has refused to.
    ///
    /// # Safety
    /// As for [`put`](Self::put).
    #[cold]
    #[inline(never)]
    unsafe fn put_slow(&self, block: Block) {
        let mut released = Released::default();
        // SAFETY: the block belongs to a slab of this allocator, and is not used again.
        self.with_local(|local, context| unsafe { local.put(block, context, &mut released) });
        self.release(released);
    }

    /// Runs `work` with the part of this CPU.
    #[inline]
    fn with_local<R>(&self, work: impl FnOnce(&mut Local, Context<'_>) -> R) -> R {
        self.cpus.with(|cpu| {
            // SAFETY: `Cpus` guarantees that nothing else uses the part meanwhile.
            let local = unsafe { self.local(cpu) };
            work(local, self.context(cpu))
        })
    }

    /// Returns a part.
    ///
    /// # Safety
    /// Nothing else uses the part as long as the result is used: within [`Cpus::with`] or
    /// [`Cpus::with_unused`], which passed the number `cpu`.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "`Cpus` excludes other uses")]
    unsafe fn local(&self, cpu: usize) -> &mut Local {
        // SAFETY: the caller guarantees that nothing else uses the part.
        unsafe { &mut *self.cell(cpu).local.get() }
    }

    #[inline]
    fn cell(&self, cpu: usize) -> &LocalCell {
        debug_assert!(cpu < CPUS, "no such part");
        // SAFETY: `Cpus` guarantees that its numbers are below `C::COUNT`, which is `CPUS`.
        unsafe { self.locals.get_unchecked(cpu) }
    }

    #[inline]
    fn context(&self, cpu: usize) -> Context<'_> {
        Context {
            // There are fewer parts than `NO_OWNER`.
            index: cpu as u16,
            alone: CPUS == 1,
            counts: &self.cell(cpu).counts,
            shared: &self.shared,
        }
    }

    /// Gives pages back to the allocator behind the slabs.
    #[inline]
    fn release(&self, released: Released) {
        for slab in released {
            let page = slab.page();
            // SAFETY: the page came from this allocator, with this layout. No block of it is in
            // use, and no list contains the slab.
            unsafe { self.backing.dealloc(page.as_ptr(), PAGE) };
            self.shared.count_released();
        }
    }

    /// Allocates a block that is not free in the current slab, or returns null. With `borrow`, a
    /// larger block is better than none.
    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, granules: Granules, borrow: bool) -> *mut u8 {
        let or_null = |block: Option<Block>| block.map_or(ptr::null_mut(), NonNull::as_ptr);
        let block = self.or_retry(|| or_null(self.allocate_block_of(granules)));
        if block.is_null() && borrow {
            return or_null(self.with_local(|local, context| local.take_larger(granules, context)));
        }
        block
    }

    /// Allocates from the allocator behind the slabs, or returns null.
    ///
    /// # Safety
    /// The size is not zero.
    #[inline(never)]
    unsafe fn allocate_large(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not zero.
        self.or_retry(|| unsafe { self.backing.alloc(layout) })
    }

    /// Frees a block of the allocator behind the slabs. (Its code would need a stack frame, which
    /// the fast path does without.)
    ///
    /// # Safety
    /// The block came from the allocator behind the slabs, with this layout.
    #[inline(never)]
    unsafe fn deallocate_large(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from the allocator behind, with this layout.
        unsafe { self.backing.dealloc(block, layout) };
    }

    /// Allocates what has an alignment above that of every block, or returns null.
    ///
    /// # Safety
    /// The size is not zero.
    #[cold]
    #[inline(never)]
    unsafe fn allocate_aligned(&self, layout: Layout) -> *mut u8 {
        match Granules::of(layout) {
            // A larger block might not be aligned.
            Some(granules) => {
                let block = self.take(granules);
                block.map_or_else(|| self.allocate_slow(granules, false), NonNull::as_ptr)
            }
            // SAFETY: the size is not zero.
            None => unsafe { self.allocate_large(layout) },
        }
    }

    /// Frees what has an alignment above that of every block.
    ///
    /// # Safety
    /// The block is in use, and has this layout.
    #[cold]
    #[inline(never)]
    unsafe fn deallocate_aligned(&self, block: *mut u8, layout: Layout) {
        if Granules::of(layout).is_some() {
            // SAFETY: a block is not null.
            let block = unsafe { NonNull::new_unchecked(block) };
            // SAFETY: slabs serve this layout, and the block is not used again.
            unsafe { self.put(block) };
        } else {
            // SAFETY: the block came from the allocator behind the slabs, with this layout.
            unsafe { self.backing.dealloc(block, layout) };
        }
    }

    /// Runs `allocate`, which returns a block or null. If it returns null, runs it again after
    /// reaping.
    #[inline]
    fn or_retry(&self, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        let block = allocate();
        if block.is_null() {
            return self.retry(allocate);
        }
        block
    }

    /// Runs `allocate` after reaping, and again while other CPUs are giving back slabs.
    #[cold]
    #[inline(never)]
    fn retry(&self, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        self.reap();
        for _ in 0..MAX_ATTEMPTS {
            let before = self.shared.released();
            let block = allocate();
            let may_wait = CPUS > 1 && block.is_null() && self.cpus.may_wait();
            if !may_wait || !self.shared.wait_for_releases(before) {
                return block;
            }
        }
        ptr::null_mut()
    }

    /// Allocates a block of a class, if necessary from a new slab.
    fn allocate_block_of(&self, granules: Granules) -> Option<Block> {
        if let Some(block) = self.refill(granules) {
            return Some(block);
        }
        // The part is not in use meanwhile: the allocator behind may take its time.
        // SAFETY: a page is not zero-sized.
        let page = NonNull::new(unsafe { self.backing.alloc(PAGE) })?;
        debug_assert_eq!(
            page.addr().get() % SLAB_SIZE,
            0,
            "a page that is not aligned"
        );
        let (block, is_unneeded) = self.with_local(|local, context| {
            // An interrupt handler may have got a slab for this class since.
            if let Some(block) = local.refill(granules, context) {
                return (Some(block), true);
            }
            // SAFETY: the page was just allocated for a slab.
            let slab = unsafe { Slab::new(page, granules.class(), context.index) };
            (local.install(slab, context), false)
        });
        if is_unneeded {
            // SAFETY: the page was just allocated with this layout, and nothing uses it.
            unsafe { self.backing.dealloc(page.as_ptr(), PAGE) };
        }
        block
    }

    /// Takes a block of a slab that exists.
    fn refill(&self, granules: Granules) -> Option<Block> {
        let mut released = Released::default();
        let block = self.cpus.with(|cpu| {
            self.cell(cpu).counts.count_miss();
            if self.cell(cpu).reap_requested.load(Ordering::Relaxed) {
                self.reap_part(cpu, &mut released);
            }
            // SAFETY: `Cpus` guarantees that nothing else uses the part meanwhile.
            let local = unsafe { self.local(cpu) };
            local.refill(granules, self.context(cpu))
        });
        self.release(released);
        block
    }

    /// Gives back what is held back: all slabs without used blocks go to the allocator behind, and
    /// freed blocks that wait go to their slabs. With several parts, partial slabs become available
    /// to all of them.
    ///
    /// This reaches the part of the CPU or thread that calls, those that [no CPU or
    /// thread](Cpus::with_unused) uses, and the shared lists at once. Each other part follows when
    /// its CPU has used up a slab, or calls [`reap_own`](Self::reap_own), to which a
    /// `Cpus` may [bring it](Cpus::reap_others).
    ///
    /// O(slabs that the parts own).
    #[doc(alias("trim", "shrink", "kmem_reap"))]
    pub fn reap(&self) {
        if CPUS > 1 {
            for cell in &self.locals {
                cell.reap_requested.store(true, Ordering::Relaxed);
            }
        }
        self.reap_own();
        let mut released = Released::default();
        self.cpus
            .with_unused(|cpu| self.reap_part(cpu, &mut released));
        self.release(released);
        if CPUS > 1 {
            self.cpus.reap_others();
        }
    }

    /// Reaps the part of the CPU or thread that calls alone.
    ///
    /// A kernel's CPU that is [interrupted](Cpus::reap_others) because memory is short calls it.
    ///
    /// O(slabs that the part owns).
    pub fn reap_own(&self) {
        let mut released = Released::default();
        self.cpus.with(|cpu| self.reap_part(cpu, &mut released));
        self.release(released);
    }

    /// Reaps the part that [`Cpus`] passed the number of.
    fn reap_part(&self, cpu: usize, released: &mut Released) {
        self.cell(cpu)
            .reap_requested
            .store(false, Ordering::Relaxed);
        // SAFETY: `Cpus` guarantees that nothing else uses the part meanwhile.
        let local = unsafe { self.local(cpu) };
        // SAFETY: the batch has only blocks that were freed.
        unsafe { local.reap(self.context(cpu), released) };
    }
}

impl<A: fmt::Debug, C: fmt::Debug, const CPUS: usize> fmt::Debug for SlabAllocator<A, C, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabAllocator")
            .field("backing", &self.backing)
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}
