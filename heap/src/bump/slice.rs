//! [`BumpSlice`]: a bump allocator whose size is known only at run time.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicUsize;

/// A [`Bump`](super::Bump) of any size. It begins with its count, and the storage follows.
///
/// ```text
///      ├──────┬───────────────────────────────────────┤
///      │ used │ storage                               │
///      └──────┴───────────────────────────────────────┘
///      multiples of a word
/// ```
///
/// ```
/// use core::mem::MaybeUninit;
/// use heap::bump::BumpSlice;
///
/// let mut memory = [MaybeUninit::uninit(); 100];
/// let bump = BumpSlice::from_memory(&mut memory).expect("the memory has room for the count");
/// assert!(bump.capacity() >= 80);
/// assert_eq!(bump.leak(5_u16).copied(), Ok(5));
/// ```
#[repr(C)]
pub struct BumpSlice {
    /// Allocated bytes from the base, at most `storage.len()`.
    pub(super) used: AtomicUsize,
    storage: UnsafeCell<[MaybeUninit<u8>]>,
}

// SAFETY: the atomic `used` gives each byte of the storage to one thread.
unsafe impl Sync for BumpSlice {}

impl BumpSlice {
    /// Creates a bump allocator in `memory`: all whole words from the first aligned address.
    /// Returns `None` if the count does not fit.
    ///
    /// ```text
    ///  address   0x1003  0x1008      0x1010                              0x1060  0x1067
    ///  100 bytes │       │ used      │ storage: 80 bytes                 │       │
    ///            not used                                                not used
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::BumpSlice;
    ///
    /// #[repr(align(8))]
    /// struct Memory([MaybeUninit<u8>; 103]);
    /// let mut memory = Memory([MaybeUninit::uninit(); 103]);
    /// let bump = BumpSlice::from_memory(&mut memory.0[3..]).unwrap();
    /// # #[cfg(target_pointer_width = "64")]
    /// assert_eq!(bump.capacity(), 80);
    /// ```
    pub fn from_memory(memory: &mut [MaybeUninit<u8>]) -> Option<&mut Self> {
        let (base, capacity) = fit::<AtomicUsize>(memory)?;
        let slice = ptr::slice_from_raw_parts_mut(base.as_ptr(), capacity);
        // SAFETY: the range that `fit` returned is aligned for the count, which fits at its base.
        unsafe { base.cast::<AtomicUsize>().write(AtomicUsize::new(0)) };
        // SAFETY: the range holds the count, which is initialised, and the storage. It is borrowed
        // mutably.
        Some(unsafe { &mut *(slice as *mut BumpSlice) })
    }

    /// Returns the size of the storage, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        self.storage.get().len()
    }

    /// Returns a pointer to the storage, valid for [`capacity`](Self::capacity) bytes. Allocations
    /// may be in use there.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }
}

/// Returns where in `memory` a count of type `C` and as much storage as possible fit, and the bytes
/// of the storage. Returns `None` if the count does not fit.
///
/// The size of count and storage together is a multiple of the count's alignment.
pub(super) fn fit<C>(memory: &mut [MaybeUninit<u8>]) -> Option<(NonNull<u8>, usize)> {
    const { assert!(align_of::<C>() == size_of::<C>()) };
    let padding = memory.as_ptr().addr().wrapping_neg() & (align_of::<C>() - 1);
    let memory = memory.get_mut(padding..)?;
    let size = memory.len() & !(align_of::<C>() - 1);
    Some((
        NonNull::from(memory).cast(),
        size.checked_sub(size_of::<C>())?,
    ))
}
