//! Pages outside of the kernel heap: for the other allocators, and for tables that must not count
//! as the heap's memory.
//!
//! ```text
//! │<──────────────── the heap's window of addresses ────────────────>│
//! ├───────┬──────────────────────────┬──────────┬──────────┬─────────┤
//! │ heaps │ …                        │  region  │  region  │ …       │
//! ├───────┴──────────────────────────┼──────────┴──────────┴─────────┤
//! │            lower half            │          upper half           │
//! ```
//!
//! So the heaps in the lower half grow as if there were no regions.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::slice;

use heap::vmem::{AllocPolicy, Layout};
use kernel::memory::{HeapArena, PAGE_SIZE, arenas, heap_pages_arena, randomisation};

/// Pages of the kernel's arena, all mapped at the beginning.
pub(crate) struct Region {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: a shared region gives its address and size away, and accesses no memory.
unsafe impl Sync for Region {}

impl Region {
    /// Returns the arena of the heap's pages.
    fn arena() -> &'static HeapArena {
        // SAFETY: a region frees only its own pages, once, when it is dropped. It adds no span.
        unsafe { heap_pages_arena() }
    }

    /// Allocates at least `size` bytes. Returns `None` if not enough memory is free.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let size = size.max(1).checked_next_multiple_of(PAGE_SIZE)?;
        let upper_half = arenas::window()?.addresses().start + randomisation::SIZE / 2;
        let layout = Layout::from_size_align(size, PAGE_SIZE)?.with_min(upper_half);
        let base = Self::arena().xalloc(layout, AllocPolicy::InstantFit).ok()?;
        let base = NonNull::new(ptr::with_exposed_provenance_mut(base))?;
        Some(Region { base, size })
    }

    /// Returns the number of bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Returns a pointer to the first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        Self::arena()
            .free_sized(self.base.addr().get(), self.size)
            .expect("the region was allocated from this arena");
    }
}

/// A table in a region of its own.
pub(crate) struct Table<T> {
    region: Region,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Copy> Table<T> {
    /// Creates a table of `len` times `value`. Returns `None` if not enough memory is free.
    pub(crate) fn new(len: usize, value: T) -> Option<Self> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let region = Region::new(len.checked_mul(size_of::<T>())?)?;
        let base = region.base().cast::<MaybeUninit<T>>();
        // SAFETY: the region is aligned to pages, has room for `len` values, and is used by this
        // table only.
        let values = unsafe { slice::from_raw_parts_mut(base.as_ptr(), len) };
        values.fill(MaybeUninit::new(value));
        Some(Table {
            region,
            len,
            values: PhantomData,
        })
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` has written `len` values at the base of the region, and the borrow of the
        // table excludes changes.
        unsafe { slice::from_raw_parts(self.region.base().cast().as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` has written `len` values at the base of the region, and the exclusive
        // borrow of the table excludes other uses.
        unsafe { slice::from_raw_parts_mut(self.region.base().cast().as_ptr(), self.len) }
    }
}
