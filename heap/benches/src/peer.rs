//! The allocators that are compared, under one trait.
//!
//! Every operation is a call that is not inlined, including those of [`Null`]. The time beyond that
//! of `Null` is the allocator's own cost.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::{self, NonNull};

use lock_api::{GuardNoSend, RawMutex};

/// An allocator that manages one range of memory.
pub trait Peer: Sized {
    /// The name in the tables.
    const NAME: &'static str;

    /// Whether the allocator's memory is the range that it is given, and nothing else.
    const STAYS_IN_RANGE: bool = true;

    /// Returns an allocator of `size` bytes from `base`, or `None` if they are too few.
    ///
    /// # Safety
    /// * The range is aligned to a page, and only this value uses it.
    /// * The value is not moved after the first allocation. ([`Dlmalloc`] then has pointers into
    ///   itself.)
    unsafe fn new(base: *mut u8, size: usize) -> Option<Self>;

    /// Allocates, or returns null if no memory is left.
    ///
    /// # Safety
    /// The size is not zero.
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8;

    /// Frees a block.
    ///
    /// # Safety
    /// `ptr` is live and of that layout.
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout);

    /// Resizes a block, in place if the allocator can; returns null if no memory is left. By
    /// default it allocates, copies and frees.
    ///
    /// # Safety
    /// `ptr` is live and of that layout; the new size is not zero.
    unsafe fn reallocate(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the block is live, with this layout, and the new size is not zero.
        unsafe { move_block(self, ptr, layout, new_size) }
    }
}

/// Allocates, copies and frees.
///
/// # Safety
/// As for [`Peer::reallocate`].
unsafe fn move_block<P: Peer>(
    peer: &mut P,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: both blocks are live and have the sizes of their layouts.
    unsafe {
        let new = peer.allocate(resized(layout, new_size));
        if !new.is_null() {
            ptr::copy_nonoverlapping(ptr, new, layout.size().min(new_size));
            peer.deallocate(ptr, layout);
        }
        new
    }
}

fn resized(layout: Layout, new_size: usize) -> Layout {
    // SAFETY: the traces' sizes are far below `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) }
}

fn or_null(block: Option<NonNull<u8>>) -> *mut u8 {
    block.map_or(ptr::null_mut(), NonNull::as_ptr)
}

/// Defines the operations of a [`Peer`] as those of a `GlobalAlloc`.
#[macro_export]
macro_rules! forward_to_global {
    ($self:ident => $global:expr) => {
        #[inline(never)]
        unsafe fn allocate(&mut $self, layout: Layout) -> *mut u8 {
            let global = &$global;
            // SAFETY: the caller's duty.
            unsafe { global.alloc(layout) }
        }

        #[inline(never)]
        unsafe fn deallocate(&mut $self, ptr: *mut u8, layout: Layout) {
            let global = &$global;
            // SAFETY: the caller's duty.
            unsafe { global.dealloc(ptr, layout) }
        }

        #[inline(never)]
        unsafe fn reallocate(
            &mut $self,
            ptr: *mut u8,
            layout: Layout,
            new_size: usize,
        ) -> *mut u8 {
            let global = &$global;
            // SAFETY: the caller's duty.
            unsafe { global.realloc(ptr, layout, new_size) }
        }
    };
}

/// This project's `heap::talc`.
pub struct Heap(heap::talc::base::Talc<heap::talc::source::Manual, heap::talc::DefaultBinning>);

impl Peer for Heap {
    const NAME: &'static str = "heap";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let mut talc = heap::talc::base::Talc::new(heap::talc::source::Manual);
        // SAFETY: the caller gives the range.
        unsafe { talc.claim(base, size) }.map(|_| Self(talc))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty.
        or_null(unsafe { self.0.allocate(layout) })
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.deallocate(ptr, layout) }
    }

    #[inline(never)]
    unsafe fn reallocate(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe {
            if self.0.try_realloc_in_place(ptr, layout, new_size) {
                return ptr;
            }
            move_block(self, ptr, layout, new_size)
        }
    }
}

/// This project's `heap::slab` in front of `heap::talc`, for one thread.
pub struct Slabs(heap::slab::SlabAllocator<OneTalc, heap::slab::OneThread, 1>);

/// Talc without a lock, as in [`Heap`]. Its source is another, so that both are compiled as if they
/// were alone.
type OneTalc = heap::talc::TalcLock<NoLock, heap::source::Claim>;

/// A lock that does nothing.
pub struct NoLock;

// SAFETY: the guards of this lock are not `Send`, and a peer is used by one thread at a time, whose
// calls follow each other.
unsafe impl RawMutex for NoLock {
    const INIT: Self = NoLock;

    type GuardMarker = GuardNoSend;

    fn lock(&self) {}

    fn try_lock(&self) -> bool {
        true
    }

    unsafe fn unlock(&self) {}
}

impl Peer for Slabs {
    const NAME: &'static str = "slabs";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        // SAFETY: the caller gives the range.
        let talc = OneTalc::new(unsafe { heap::source::Claim::new(base, size) });
        let threads = heap::slab::OneThread::new();
        Some(Self(heap::slab::SlabAllocator::new(talc, threads)))
    }

    forward_to_global!(self => self.0);
}

/// The `talc` crate.
pub struct Talc(talc::base::Talc<talc::source::Manual, talc::DefaultBinning>);

impl Peer for Talc {
    const NAME: &'static str = "talc";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let mut talc = talc::base::Talc::new(talc::source::Manual);
        // SAFETY: the caller gives the range.
        unsafe { talc.claim(base, size) }.map(|_| Self(talc))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty.
        or_null(unsafe { self.0.allocate(layout) })
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.deallocate(ptr, layout) }
    }

    #[inline(never)]
    unsafe fn reallocate(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe {
            if self.0.try_realloc_in_place(ptr, layout, new_size) {
                return ptr;
            }
            move_block(self, ptr, layout, new_size)
        }
    }
}

/// The `rlsf` crate: TLSF, with as many size classes as its documentation shows.
pub struct Rlsf(rlsf::Tlsf<'static, u32, u32, 24, 32>);

impl Peer for Rlsf {
    const NAME: &'static str = "rlsf";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let mut tlsf = rlsf::Tlsf::new();
        let pool = NonNull::new(ptr::slice_from_raw_parts_mut(base, size))?;
        // SAFETY: the caller gives the range.
        unsafe { tlsf.insert_free_block_ptr(pool) }.map(|_| Self(tlsf))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        or_null(self.0.allocate(layout))
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe {
            self.0
                .deallocate(NonNull::new_unchecked(ptr), layout.align())
        }
    }

    #[inline(never)]
    unsafe fn reallocate(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's duty.
        or_null(unsafe {
            self.0
                .reallocate(NonNull::new_unchecked(ptr), resized(layout, new_size))
        })
    }
}

/// The `dlmalloc` crate.
pub struct Dlmalloc(dlmalloc::Dlmalloc<OneRange>);

/// The system beneath [`Dlmalloc`]: it grants one range, once, and takes nothing back.
pub struct OneRange {
    range: Cell<Option<(*mut u8, usize)>>,
}

// SAFETY: the value moves with its allocator, and nothing is shared.
unsafe impl Send for OneRange {}

// SAFETY: the range is granted once and is not used otherwise.
unsafe impl dlmalloc::Allocator for OneRange {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        match self.range.take() {
            Some((base, available)) if available >= size => (base, available, 0),
            range => {
                self.range.set(range);
                (ptr::null_mut(), 0, 0)
            }
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        4096
    }
}

impl Peer for Dlmalloc {
    const NAME: &'static str = "dlmalloc";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let range = Cell::new(Some((base, size)));
        Some(Self(dlmalloc::Dlmalloc::new_with_allocator(OneRange {
            range,
        })))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe { self.0.malloc(layout.size(), layout.align()) }
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.free(ptr, layout.size(), layout.align()) }
    }

    #[inline(never)]
    unsafe fn reallocate(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe { self.0.realloc(ptr, layout.size(), layout.align(), new_size) }
    }
}

/// The `buddy_system_allocator` crate.
pub struct Buddy(buddy_system_allocator::Heap<33>);

impl Peer for Buddy {
    const NAME: &'static str = "buddy";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let mut buddy = buddy_system_allocator::Heap::empty();
        // SAFETY: the caller gives the range.
        unsafe { buddy.init(base.addr(), size) };
        Some(Self(buddy))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        or_null(self.0.alloc(layout).ok())
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.dealloc(NonNull::new_unchecked(ptr), layout) }
    }
}

/// The `linked_list_allocator` crate.
pub struct LinkedList(linked_list_allocator::Heap);

impl Peer for LinkedList {
    const NAME: &'static str = "linked_list";

    unsafe fn new(base: *mut u8, size: usize) -> Option<Self> {
        let mut list = linked_list_allocator::Heap::empty();
        // SAFETY: the caller gives the range.
        unsafe { list.init(base, size) };
        Some(Self(list))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        or_null(self.0.allocate_first_fit(layout).ok())
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.deallocate(NonNull::new_unchecked(ptr), layout) }
    }
}

/// The `mimalloc` crate: the C library of that name, which gets its memory from the system.
pub struct Mimalloc(());

impl Peer for Mimalloc {
    const NAME: &'static str = "mimalloc";
    const STAYS_IN_RANGE: bool = false;

    unsafe fn new(_: *mut u8, _: usize) -> Option<Self> {
        Some(Self(()))
    }

    forward_to_global!(self => mimalloc::MiMalloc);
}

/// Not an allocator: every block is the whole range. Its cost is that of the measurement.
pub struct Null(*mut u8);

impl Peer for Null {
    const NAME: &'static str = "null";

    unsafe fn new(base: *mut u8, _: usize) -> Option<Self> {
        Some(Self(base))
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        std::hint::black_box(layout.size());
        self.0
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, _: Layout) {
        std::hint::black_box(ptr);
    }

    #[inline(never)]
    unsafe fn reallocate(&mut self, _: *mut u8, _: Layout, new_size: usize) -> *mut u8 {
        std::hint::black_box(new_size);
        self.0
    }
}

/// Calls a generic function for the peer of a given name, or returns `None` for an unknown name.
#[macro_export]
macro_rules! with_peer {
    ($name:expr, $function:ident ( $($argument:expr),* )) => {
        $crate::with_peer!(@ $name, $function ( $($argument),* ),
            Slabs Heap Talc Rlsf Dlmalloc Mimalloc Buddy LinkedList Null)
    };
    (@ $name:expr, $function:ident $arguments:tt, $($peer:ident)*) => {
        match $name {
            $(name if name == <$crate::peer::$peer as $crate::peer::Peer>::NAME => {
                Some($crate::with_peer!(@call $function, $peer, $arguments))
            })*
            _ => None,
        }
    };
    (@call $function:ident, $peer:ident, ( $($argument:expr),* )) => {
        $function::<$crate::peer::$peer>($($argument),*)
    };
}

/// The peers that are measured by default. ([`LinkedList`] takes minutes for a trace.)
pub const NAMES: [&str; 7] = [
    Slabs::NAME,
    Heap::NAME,
    Talc::NAME,
    Rlsf::NAME,
    Dlmalloc::NAME,
    Mimalloc::NAME,
    Buddy::NAME,
];
