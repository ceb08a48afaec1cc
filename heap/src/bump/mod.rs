//! A bump allocator: memory before the kernel has a heap.
//!
//! A [`Bump`] is a range of memory, usually a static, and a count of how much of it is used.
//! Allocating advances the count. Freeing does nothing.
//!
//! ```text
//!     base           level                            base + capacity
//!      ├──────┬──┬────┼──────────────────────────────────┤
//!      │ used │  │used│ unused                           │
//!      └──────┴──┴────┴──────────────────────────────────┘
//!              padding for alignment
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `region` | how ranges are taken from a region, by any number of threads |
//! | `allocation` | levels, untyped and typed ranges, and errors |
//! | `methods`, `slice` | `BumpSlice`, a `Bump` of any size, and the methods of both |
//! | `unsync` | the same for one thread |
//! | `leaked` | `LeakBox`, which owns a value, but not the memory of the value |
//! | `alloca` | a slice on the stack, whose length is known only at run time |
//! | `global`, `local` | `Bump` as the `#[global_allocator]`, and as a `LocalAlloc` |
#![warn(clippy::multiple_unsafe_ops_per_block)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicUsize;

mod alloca;
mod allocation;
mod global;
pub mod leaked;
#[cfg(feature = "local-alloc")]
mod local;
mod methods;
mod region;
mod slice;
#[cfg(test)]
mod tests;
pub mod unsync;

pub use self::allocation::{AllocTime, Allocation, Failure, LeakError, Level};
pub use self::slice::BumpSlice;

/// Compatibility with crate `static-alloc`, which has these items in a module `bump`.
#[expect(clippy::module_inception, reason = "`static-alloc` has this module")]
pub mod bump {
    pub use super::{Allocation, Bump, BumpSlice, Failure, LeakError, Level};
}

/// Memory of the size and alignment of `T`, from which any number of threads may allocate.
///
/// Allocations live as long as the `Bump`. Only [`reset`](Bump::reset) frees memory, all of it, and
/// the borrow checker ensures that no allocation survives.
///
/// `T` is never created, read or dropped. It sets the size and the alignment of the storage:
/// `[u8; N]`, or `[u64; N]` for the alignment of a `u64`. If `T` is aligned to more than a word,
/// padding lies between the count and the storage.
///
/// ```text
///  T = [u8; 8]        used     storage
///  uninit()           │ 0      │ ?? ?? ?? ?? ?? ?? ?? ?? │
///  zeroed()           │ 0      │ 00 00 00 00 00 00 00 00 │
///  new(*b"abcdefgh")  │ 0      │ 61 62 63 64 65 66 67 68 │
///                     │ a word │ capacity() bytes from data_ptr() on, aligned for T
/// ```
///
/// ```
/// use heap::bump::Bump;
///
/// static BOOT: Bump<[u64; 512]> = Bump::uninit();
///
/// let answer: &'static mut u32 = BOOT.leak(42).expect("the storage has room");
/// assert_eq!(*answer, 42);
/// assert_eq!(BOOT.level().byte_offset(), 4);
/// ```
#[repr(C)]
pub struct Bump<T> {
    /// Allocated bytes from the base, at most the size of `T`.
    used: AtomicUsize,
    storage: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: no `T` is accessed, only memory. The atomic `used` gives each byte to one thread.
unsafe impl<T> Sync for Bump<T> {}

impl<T> Bump<T> {
    /// Creates a `Bump` whose memory is not initialised.
    pub const fn uninit() -> Self {
        Self::from_storage(MaybeUninit::uninit())
    }

    /// Creates a `Bump` whose memory is zero. Such a static takes no space in the executable.
    pub const fn zeroed() -> Self {
        Self::from_storage(MaybeUninit::zeroed())
    }

    /// Creates a `Bump` whose memory is that of `storage`. The value is lost, and never dropped.
    pub const fn new(storage: T) -> Self {
        Self::from_storage(MaybeUninit::new(storage))
    }

    const fn from_storage(storage: MaybeUninit<T>) -> Self {
        Self {
            used: AtomicUsize::new(0),
            storage: UnsafeCell::new(storage),
        }
    }

    /// Creates a `Bump` in place. Writes the count only, and leaves the storage as it is.
    ///
    /// ```text
    ///              used   storage
    ///  before    │ ??   │ 2a 2a 2a 2a 2a 2a 2a 2a │
    ///  after     │ 0    │ 2a 2a 2a 2a 2a 2a 2a 2a │
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::Bump;
    ///
    /// let mut room = MaybeUninit::<Bump<[u64; 512]>>::uninit();
    /// let bump = Bump::from_maybe_uninit(&mut room);
    /// assert_eq!((bump.level().byte_offset(), bump.capacity()), (0, 4096));
    /// ```
    pub const fn from_maybe_uninit(room: &mut MaybeUninit<Self>) -> &mut Self {
        let bump = room.as_mut_ptr();
        // SAFETY: `bump` leads to memory of the size and the alignment of the type.
        let used = unsafe { &raw mut (*bump).used };
        // SAFETY: `room` is borrowed mutably, so its fields are valid for writes.
        unsafe { used.write(AtomicUsize::new(0)) };
        // SAFETY: the count is initialised, and the storage may be uninitialised.
        unsafe { &mut *bump }
    }

    /// Creates a `Bump` at the first aligned address of `memory`. Returns `None` if it does not
    /// fit.
    ///
    /// ```text
    ///  memory   │ … to an aligned address │ used │ storage: size_of::<T>() │ not used │
    ///                                     └──────── the Bump<T> ─────────┘
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::Bump;
    ///
    /// let mut memory = [MaybeUninit::uninit(); 100];
    /// let bump = Bump::<[u64; 8]>::from_memory(&mut memory).unwrap();
    /// assert_eq!(bump.capacity(), 64);
    /// assert!(Bump::<[u64; 16]>::from_memory(&mut memory).is_none());
    /// ```
    pub fn from_memory(memory: &mut [MaybeUninit<u8>]) -> Option<&mut Self> {
        let padding = memory.as_ptr().addr().wrapping_neg() & (align_of::<Self>() - 1);
        let room = memory.get_mut(padding..)?.get_mut(..size_of::<Self>())?;
        // SAFETY: the range has the size and the alignment of the type, any bytes are a valid
        // `MaybeUninit`, and the range is borrowed mutably.
        Some(Self::from_maybe_uninit(unsafe {
            &mut *room.as_mut_ptr().cast()
        }))
    }

    /// Returns the size of the storage, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        size_of::<T>()
    }

    /// Returns a pointer to the storage, valid for [`capacity`](Self::capacity) bytes. Allocations
    /// may be in use there.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }

    /// Returns the same allocator without the type of its storage. Returns `None` if `T` is aligned
    /// to more than a word: then the two types differ in layout.
    ///
    /// ```text
    ///  &Bump<[u16; 5]>   ──▶ │ used │ storage: 10 bytes │
    ///  &BumpSlice, 10    ──▶ │ used │ storage: 10 bytes │    the size is in the reference
    /// ```
    ///
    /// ```
    /// use heap::bump::Bump;
    ///
    /// let bump: Bump<[u16; 5]> = Bump::uninit();
    /// bump.leak(1_u16).unwrap();
    /// let slice = bump.as_bump_slice().unwrap();
    /// assert_eq!((slice.capacity(), slice.level().byte_offset()), (10, 2));
    /// ```
    pub const fn as_bump_slice(&self) -> Option<&BumpSlice> {
        if align_of::<T>() > align_of::<usize>() {
            return None;
        }
        let slice = ptr::slice_from_raw_parts(ptr::from_ref(self).cast::<u8>(), size_of::<T>());
        // SAFETY: in both types the storage follows the count without padding, and the size is a
        // multiple of a word. The length of the pointer is the size of the storage.
        Some(unsafe { &*(slice as *const BumpSlice) })
    }

    /// Does the same as [`as_bump_slice`](Self::as_bump_slice), for [`reset`](BumpSlice::reset).
    pub const fn as_mut_bump_slice(&mut self) -> Option<&mut BumpSlice> {
        if align_of::<T>() > align_of::<usize>() {
            return None;
        }
        let slice = ptr::slice_from_raw_parts_mut(ptr::from_mut(self).cast::<u8>(), size_of::<T>());
        // SAFETY: both types have the same layout, as in `as_bump_slice`, and the borrow is
        // mutable.
        Some(unsafe { &mut *(slice as *mut BumpSlice) })
    }
}
