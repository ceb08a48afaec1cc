//! The allocator before there is an allocator.
//!
//! A [`Bump`] is a piece of memory, usually a static, and a count of how much of it is used.
//! It hands out what is unused and takes nothing back.
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
//! | `room` | how a range is taken, by any number of threads |
//! | `allocation` | levels, untyped and typed ranges, why one could not be had |
//! | `methods`, `slice` | `BumpSlice`, a `Bump` of any size, and what it can do as well as a `Bump` |
//! | `unsync` | the same for one thread |
//! | `leaked` | `LeakBox`, which owns a value, but not the memory that it is in |
//! | `alloca` | a slice on the stack, of a length that is only known when the program runs |
//! | `global`, `local` | `Bump` as the `#[global_allocator]`, and as a `LocalAlloc` |

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

/// The names of [`bump`](super::bump) where `static-alloc` has them.
#[expect(
    clippy::module_inception,
    reason = "that is where `static-alloc` has them"
)]
pub mod bump {
    pub use super::{Allocation, Bump, BumpSlice, Failure, LeakError, Level};
}

/// Memory of the size and alignment of `T`, from which any number of threads may allocate.
///
/// What is allocated lives as long as the `Bump`. Only [`reset`](Bump::reset), which nothing that
/// was allocated survives, makes room again.
///
/// `T` is never made, read or dropped: it is a way to say how much memory there is, in the form of
/// `[u8; N]` or, for a certain alignment, `[u64; N]`. Only if `T` is aligned to more than a word,
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
/// let answer: &'static mut u32 = BOOT.leak(42).expect("there is room");
/// assert_eq!(*answer, 42);
/// assert_eq!(BOOT.level().byte_offset(), 4);
/// ```
#[repr(C)]
pub struct Bump<T> {
    /// How many bytes from the base are handed out, at most the size of `T`.
    used: AtomicUsize,
    storage: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: there is no `T` in it, only memory, and `used` gives each byte of that to one thread.
unsafe impl<T> Sync for Bump<T> {}

impl<T> Bump<T> {
    /// With memory that is not initialised.
    pub const fn uninit() -> Self {
        Self::from_storage(MaybeUninit::uninit())
    }

    /// With memory that is zero, which in a static takes no room in the program's file.
    pub const fn zeroed() -> Self {
        Self::from_storage(MaybeUninit::zeroed())
    }

    /// With the memory that `storage` is in. There is no way to get it back, and it is not dropped.
    pub const fn new(storage: T) -> Self {
        Self::from_storage(MaybeUninit::new(storage))
    }

    const fn from_storage(storage: MaybeUninit<T>) -> Self {
        Self {
            used: AtomicUsize::new(0),
            storage: UnsafeCell::new(storage),
        }
    }

    /// A `Bump` where there is room for one. Only the count is written, the rest stays as it is.
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
        // SAFETY: the room is valid for writes.
        unsafe { (&raw mut (*bump).used).write(AtomicUsize::new(0)) };
        // SAFETY: the count is initialised, and the storage need not be.
        unsafe { &mut *bump }
    }

    /// A `Bump` at the first aligned address of `memory`; `None` if there is no room for it.
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
        // SAFETY: the range is as large and as aligned as the type, which asks for nothing else, and
        // it is borrowed mutably.
        Some(Self::from_maybe_uninit(unsafe {
            &mut *room.as_mut_ptr().cast()
        }))
    }

    /// The size of the memory, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        size_of::<T>()
    }

    /// Where the memory begins. It is valid for [`capacity`](Self::capacity) bytes, parts of which
    /// others may be using.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: a field is not at null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }

    /// The same memory without its type. `None` if `T` is aligned to more than a word: then the two do
    /// not lie in memory alike.
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
        // SAFETY: both types begin with the count, which the storage follows without padding, and
        // both are padded to a multiple of a word. The pointer has as many bytes of storage.
        Some(unsafe { &*(slice as *const BumpSlice) })
    }

    /// As [`as_bump_slice`](Self::as_bump_slice), for [`reset`](BumpSlice::reset).
    pub const fn as_mut_bump_slice(&mut self) -> Option<&mut BumpSlice> {
        if align_of::<T>() > align_of::<usize>() {
            return None;
        }
        let slice = ptr::slice_from_raw_parts_mut(ptr::from_mut(self).cast::<u8>(), size_of::<T>());
        // SAFETY: as there, and the borrow is mutable.
        Some(unsafe { &mut *(slice as *mut BumpSlice) })
    }
}
