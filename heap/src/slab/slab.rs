//! A slab: a page of blocks of one size, and the header at its end.
//!
//! ```text
//!     multiple of 4096                                                      multiple of 4096
//!     ├───────┬───────┬───────┬───────┬──────────────────┬──────┬──────────────┬──────────┤
//!     │ used  │ free ─┼─────> │ used  │ never used yet   │ rest │ Header       │ tag      │
//!     └───────┴───────┴───────┴───────┴──────────────────┴──────┴──────────────┴──────────┘
//!     0       size    2·size  3·size  └ fresh                   └ BLOCKS_END     of Talc
//!
//!     Header   free │ links │ remote │ owner and used │ fresh │ class
//!     bytes      8  │   32  │   8    │   2        2   │   2   │   1       64-bit
//! ```
//!
//! The address of a block, rounded down to a multiple of [`SLAB_SIZE`], is that of its slab. A free
//! block begins with the address of the next free block of its slab.
//!
//! # Who may use a slab
//! The low bits of `remote` say it:
//!
//! | ownership | who uses the fields | how it ends |
//! |---|---|---|
//! | [`OWNED`](Ownership::Owned) | the CPU-local part that `owner` names | that part stores another |
//! | [`FULL`](Ownership::Full) | no CPU: no block is free, and the slab is in no list | the first free: its CPU becomes the owner |
//! | [`SHARED`](Ownership::Shared) | the holder of the lock of the shared lists | under that lock |
//!
//! The other bits of `remote` lead to a list of blocks that other CPUs have freed while the slab
//! was owned. A CPU that frees the block of another reads the word, and replaces it by one
//! compare-and-swap. Until that succeeds, the block is in use, and so the slab exists.

use core::cell::Cell;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::size_class::{block_size, capacity};
use crate::talc::base::CHUNK_OVERHEAD;

/// Bytes of a slab, its alignment, and the size of a page.
pub const SLAB_SIZE: usize = 4096;

/// Bytes of a slab that come from the allocator behind the slabs. The rest is for that allocator's
/// tag, so that slabs tile a heap without gaps.
pub(super) const REQUEST_SIZE: usize = SLAB_SIZE - CHUNK_OVERHEAD;

/// The offset of the header, and the bytes of a slab that are for blocks.
pub(super) const BLOCKS_END: usize =
    (REQUEST_SIZE - size_of::<Header>()) & !(align_of::<Header>() - 1);

/// The owner of a slab that no CPU-local part owns.
pub(super) const NO_OWNER: u16 = u16::MAX;

/// The flag in `used` of a slab that is counted as idle: see [`Header::is_idle`].
const IDLE: u16 = 1 << 15;

/// Returns the word of an owner and a number of used blocks.
const fn word(owner: u16, used: u16) -> u32 {
    (owner as u32) << 16 | used as u32
}

/// A free block.
pub(super) type Block = NonNull<u8>;

/// What a slab stores about itself. Except for the atomic fields, only those may access it whom the
/// [ownership](self) permits.
#[repr(C)]
pub(super) struct Header {
    /// The first free block, or null.
    free: Cell<*mut u8>,
    /// The neighbours in two lists: see [`SlabList`](super::list::SlabList).
    links: [Links; 2],
    /// The blocks that other CPUs have freed, and the ownership.
    remote: AtomicPtr<u8>,
    /// In the upper half, the index of the CPU-local part that owns the slab, or [`NO_OWNER`]. Only
    /// the part itself stores its index here and removes it, so that a part knows its own slabs by
    /// one load.
    ///
    /// In the lower half, the number of blocks that are in use, or on their way back through
    /// `remote` or a batch. With the flag [`IDLE`].
    ///
    /// Any CPU may read it, for the owner and for statistics. Only those write it who may use the
    /// slab.
    owner_and_used: AtomicU32,
    /// The offset of the first block that was never used.
    fresh: Cell<u16>,
    class: Cell<u8>,
}

/// The neighbours of a slab in a list.
pub(super) struct Links {
    pub(super) next: Cell<Option<Slab>>,
    pub(super) prev: Cell<Option<Slab>>,
}

impl Links {
    const fn new() -> Self {
        Self {
            next: Cell::new(None),
            prev: Cell::new(None),
        }
    }
}

/// Who may use a slab: see the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ownership {
    Owned,
    Full,
    Shared,
}

impl Ownership {
    /// The bits of `remote` that hold the ownership. Blocks are multiples of 16.
    const MASK: usize = 3;

    const fn bits(self) -> usize {
        match self {
            Self::Owned => 0,
            Self::Full => 1,
            Self::Shared => 2,
        }
    }

    fn of(remote: *mut u8) -> Self {
        match remote.addr() & Self::MASK {
            0 => Self::Owned,
            1 => Self::Full,
            _ => Self::Shared,
        }
    }
}

/// A slab that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct Slab(NonNull<Header>);

impl Deref for Slab {
    type Target = Header;

    #[inline]
    fn deref(&self) -> &Header {
        // SAFETY: the functions that make a `Slab` require that the header exists as long as the
        // `Slab` is used.
        unsafe { self.0.as_ref() }
    }
}

/// Stands for "no slab" where a fast path expects one: no block of it is free.
struct NoSlab(Header);

// SAFETY: no function writes to it, because it has no block to take or to free.
unsafe impl Sync for NoSlab {}

static NO_SLAB: NoSlab = NoSlab(Header {
    free: Cell::new(ptr::null_mut()),
    links: [const { Links::new() }; 2],
    remote: AtomicPtr::new(ptr::null_mut()),
    owner_and_used: AtomicU32::new(word(NO_OWNER, 0)),
    fresh: Cell::new(0),
    class: Cell::new(0),
});

impl Slab {
    /// Returns the value that stands for "no slab". Only [`take`](Header::take) may be called on
    /// it, which finds no block.
    pub(super) const fn none() -> Self {
        // SAFETY: the address of a static is not null.
        Self(unsafe { NonNull::new_unchecked((&raw const NO_SLAB.0).cast_mut()) })
    }

    #[inline]
    pub(super) fn is_none(self) -> bool {
        self == Self::none()
    }

    /// Makes a page a slab without used blocks, owned by the part `owner`.
    ///
    /// # Safety
    /// The page is a multiple of [`SLAB_SIZE`]. Its first [`REQUEST_SIZE`] bytes are memory that
    /// nothing else uses as long as the slab exists.
    pub(super) unsafe fn new(page: NonNull<u8>, class: usize, owner: u16) -> Self {
        // `of` finds the page by its address alone.
        let _ = page.as_ptr().expose_provenance();
        // SAFETY: the header lies in the page.
        let header = unsafe { page.byte_add(BLOCKS_END) }.cast::<Header>();
        let contents = Header {
            free: Cell::new(ptr::null_mut()),
            links: [const { Links::new() }; 2],
            remote: AtomicPtr::new(ptr::null_mut()),
            owner_and_used: AtomicU32::new(word(owner, 0)),
            fresh: Cell::new(0),
            // There are 17 classes.
            class: Cell::new(class as u8),
        };
        // SAFETY: the header is aligned, and nothing else uses the page.
        unsafe { header.write(contents) };
        Self(header)
    }

    /// Returns the slab of a block.
    ///
    /// # Safety
    /// The block belongs to a slab, which exists as long as the result is used.
    #[inline]
    pub(super) unsafe fn of(block: Block) -> Self {
        let page = block.addr().get() & !(SLAB_SIZE - 1);
        // The block's own pointer may be one that permits access to the block only: that of a
        // `Box`, for instance.
        let page = ptr::with_exposed_provenance_mut::<u8>(page);
        let header = page.wrapping_add(BLOCKS_END).cast();
        // SAFETY: the header lies above the beginning of a page, so its address is not zero.
        Self(unsafe { NonNull::new_unchecked(header) })
    }

    /// Returns the beginning of the slab.
    pub(super) fn page(self) -> NonNull<u8> {
        // SAFETY: the header lies this far above the beginning of its page.
        unsafe { self.0.cast::<u8>().byte_sub(BLOCKS_END) }
    }

    /// Makes free blocks of memory that was never used: at first 8, then twice as many as there
    /// are. Returns whether any was left. Requires that no block is free.
    pub(super) fn carve(self) -> bool {
        let size = block_size(self.class());
        let fresh = usize::from(self.fresh.get());
        let carved = fresh / size;
        let count = carved.max(8).min((BLOCKS_END - fresh) / size);
        if count == 0 {
            return false;
        }
        let end = fresh + count * size;
        let mut next = ptr::null_mut();
        let mut offset = end;
        // From the highest down, so that the lowest becomes the first of the list.
        while offset > fresh {
            offset -= size;
            // SAFETY: the offset is below `BLOCKS_END`.
            let block = unsafe { self.page().byte_add(offset) };
            // SAFETY: nothing uses the block, which is aligned and has room for a pointer.
            unsafe { block.cast::<*mut u8>().write(next) };
            next = block.as_ptr();
        }
        // At most 4096.
        self.fresh.set(end as u16);
        self.free.set(next);
        true
    }
}

impl Header {
    #[inline]
    pub(super) fn class(&self) -> usize {
        usize::from(self.class.get())
    }

    /// Returns the links of one of the two lists that a slab may be in.
    #[inline]
    pub(super) fn links(&self, list: usize) -> &Links {
        &self.links[list]
    }

    /// Returns whether the part `index` owns the slab.
    #[inline]
    pub(super) fn is_owned_by(&self, index: u16) -> bool {
        self.owner() == index
    }

    /// Takes a free block, or returns `None` if none is in the list.
    #[inline]
    pub(super) fn take(&self) -> Option<Block> {
        let block = NonNull::new(self.free.get())?;
        // SAFETY: a free block begins with the address of the next.
        self.free.set(unsafe { block.cast::<*mut u8>().read() });
        self.set_word(self.word().wrapping_add(1));
        Some(block)
    }

    /// Puts a block back. Returns whether the slab has become one that must be looked at: no block
    /// is in use, and the slab is not counted as idle.
    ///
    /// # Safety
    /// The block is one of this slab, and nothing uses it.
    #[inline]
    pub(super) unsafe fn put(&self, block: Block) -> bool {
        // SAFETY: nothing uses the block, which is aligned and has room for a pointer.
        unsafe { block.cast::<*mut u8>().write(self.free.get()) };
        self.free.set(block.as_ptr());
        let word = self.word().wrapping_sub(1);
        self.set_word(word);
        word as u16 == 0
    }

    /// Returns the number of blocks in use.
    #[inline]
    pub(super) fn used(&self) -> u16 {
        self.flagged_used() & !IDLE
    }

    #[inline]
    fn word(&self) -> u32 {
        self.owner_and_used.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_word(&self, word: u32) {
        self.owner_and_used.store(word, Ordering::Relaxed);
    }

    fn owner(&self) -> u16 {
        (self.word() >> 16) as u16
    }

    /// Returns the part that holds back the slab: its owner, if no block is in use.
    pub(super) fn holding_part(&self) -> Option<usize> {
        let word = self.word();
        let (owner, used) = ((word >> 16) as u16, word as u16 & !IDLE);
        (used == 0 && owner != NO_OWNER).then_some(usize::from(owner))
    }

    fn set_owner(&self, owner: u16) {
        self.set_word(word(owner, self.flagged_used()));
    }

    fn flagged_used(&self) -> u16 {
        self.word() as u16
    }

    /// Returns whether the part `index` owns the slab, and can free a block without looking at the
    /// slab afterwards: other blocks are in use, or the slab is counted as idle.
    #[inline]
    pub(super) fn can_put_simply(&self, index: u16) -> bool {
        // With another owner, the upper half is not zero.
        let used = self.word() ^ word(index, 0);
        used.wrapping_sub(2) <= u32::from(u16::MAX) - 2
    }

    /// Returns whether the slab is counted as idle: a current slab without a used block, which its
    /// part keeps. It may have been used again since.
    pub(super) fn is_idle(&self) -> bool {
        self.flagged_used() & IDLE != 0
    }

    pub(super) fn set_idle(&self, idle: bool) {
        let used = self.used() | if idle { IDLE } else { 0 };
        self.set_word(word(self.owner(), used));
    }

    /// Returns the number of blocks that can be allocated.
    pub(super) fn available(&self) -> u16 {
        capacity(self.class()) - self.used()
    }

    /// Returns the first free block, for a walk along the list.
    pub(super) fn first_free(&self) -> *mut u8 {
        self.free.get()
    }

    /// Returns the number of blocks that were never used.
    pub(super) fn fresh_blocks(&self) -> u16 {
        capacity(self.class()) - self.fresh.get() / block_size(self.class()) as u16
    }

    /// Returns the ownership. It may change unless the caller owns the slab or has a block of it.
    pub(super) fn ownership(&self) -> Ownership {
        Ownership::of(self.remote.load(Ordering::Acquire))
    }

    /// Makes a slab that was full belong to the part `index`. Returns whether the slab was still
    /// full: another CPU may be first.
    ///
    /// `alone` says that there is only one part, which needs no atomic operation.
    pub(super) fn adopt(&self, index: u16, alone: bool) -> bool {
        let full = ptr::without_provenance_mut(Ownership::Full.bits());
        if alone {
            if self.remote.load(Ordering::Relaxed) != full {
                return false;
            }
            self.remote.store(ptr::null_mut(), Ordering::Relaxed);
        } else {
            let adopted = self.remote.compare_exchange(
                full,
                ptr::null_mut(),
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if adopted.is_err() {
                return false;
            }
        }
        self.set_owner(index);
        true
    }

    /// Ends the ownership of this CPU-local part. Returns `false`, and changes nothing, if other
    /// CPUs have freed blocks meanwhile.
    pub(super) fn disown(&self, ownership: Ownership, alone: bool) -> bool {
        let index = self.owner();
        self.set_owner(NO_OWNER);
        let disowned = ptr::without_provenance_mut(ownership.bits());
        if alone {
            self.remote.store(disowned, Ordering::Relaxed);
            return true;
        }
        // Release: who adopts the slab sees its list of free blocks.
        let swapped = self.remote.compare_exchange(
            ptr::null_mut(),
            disowned,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if swapped.is_err() {
            self.set_owner(index);
        }
        swapped.is_ok()
    }

    /// Makes a shared slab belong to the part `index`. The caller holds the lock of the shared
    /// lists.
    pub(super) fn unshare(&self, index: u16) {
        self.remote.store(ptr::null_mut(), Ordering::Relaxed);
        self.set_owner(index);
    }

    /// Puts blocks that other CPUs have freed into the list of free blocks. Returns their number.
    pub(super) fn collect(&self) -> u16 {
        if self.remote.load(Ordering::Relaxed).is_null() {
            return 0;
        }
        let mut rest = self.remote.swap(ptr::null_mut(), Ordering::Acquire);
        let mut count = 0;
        while let Some(block) = NonNull::new(rest) {
            // SAFETY: a block in the list begins with the address of the next.
            rest = unsafe { block.cast::<*mut u8>().read() };
            // SAFETY: its user has freed the block.
            unsafe { self.put(block) };
            count += 1;
        }
        count
    }

    /// Gives blocks to the CPU that owns the slab. Returns `false`, and changes nothing, if no CPU
    /// owns it. Afterwards the slab may be gone.
    ///
    /// # Safety
    /// `first` to `last` are blocks of this slab, linked, that nothing uses.
    pub(super) unsafe fn give_remotely(&self, first: Block, last: Block) -> bool {
        let mut head = self.remote.load(Ordering::Relaxed);
        loop {
            if Ownership::of(head) != Ownership::Owned {
                return false;
            }
            // SAFETY: nothing uses the last block, which is aligned and has room for a pointer.
            unsafe { last.cast::<*mut u8>().write(head) };
            // Release: the owner sees the links.
            let swapped = self.remote.compare_exchange_weak(
                head,
                first.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return true,
                Err(present) => head = present,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; SLAB_SIZE]);

    /// A thread comes here only if it loses a race, so no test of the whole allocator is certain
    /// to.
    #[test]
    fn blocks_are_not_given_to_a_slab_without_an_owner() {
        let mut page = Page([0; SLAB_SIZE]);
        let base = NonNull::from(&mut page.0).cast::<u8>();
        base.as_ptr().expose_provenance();
        // SAFETY: the page is aligned, and nothing else uses it while the slab exists.
        let slab = unsafe { Slab::new(base, 0, 3) };
        assert!(slab.carve());
        let [first, second] = [(); 2].map(|()| slab.take().expect("8 blocks are free"));
        // SAFETY: nothing uses the block.
        let is_given = unsafe { slab.give_remotely(first, first) };
        assert!(is_given, "a part owns it");
        assert_eq!(slab.collect(), 1);
        for ownership in [Ownership::Full, Ownership::Shared] {
            assert!(slab.disown(ownership, false));
            // SAFETY: nothing uses the block.
            assert!(!unsafe { slab.give_remotely(second, second) });
            assert_eq!(slab.ownership(), ownership, "nothing has changed");
            slab.unshare(3);
        }
    }
}
