//! A bump allocator whose size is not known when the program is compiled.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicUsize;

/// A [`Bump`](super::Bump) of any size. It lies in memory that begins with its count.
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
/// let bump = BumpSlice::from_memory(&mut memory).expect("there is room for the count");
/// assert!(bump.capacity() >= 80);
/// assert_eq!(bump.leak(5_u16).copied(), Ok(5));
/// ```
#[repr(C)]
pub struct BumpSlice {
    /// How many bytes from the base are handed out, at most `storage.len()`.
    pub(super) used: AtomicUsize,
    storage: UnsafeCell<[MaybeUninit<u8>]>,
}

// SAFETY: `used` gives each byte of memory to one thread.
unsafe impl Sync for BumpSlice {}

impl BumpSlice {
    /// A bump allocator of what `memory` has from the first aligned address up, in whole words.
    /// `None` if there is no room for the count.
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
        let (base, capacity) = place::<AtomicUsize>(memory)?;
        let slice = ptr::slice_from_raw_parts_mut(base.as_ptr(), capacity);
        // SAFETY: there is room for the count and the storage, aligned, and borrowed mutably.
        unsafe {
            base.cast::<AtomicUsize>().write(AtomicUsize::new(0));
            Some(&mut *(slice as *mut BumpSlice))
        }
    }

    /// The size of the memory, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        self.storage.get().len()
    }

    /// Where the memory begins. It is valid for [`capacity`](Self::capacity) bytes, parts of which
    /// others may be using.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: a field is not at null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }
}

/// Where in `memory` a count and as many bytes of storage as possible can lie, and how many that are.
///
/// Together with the count they are a multiple of its alignment, which is as large as the count.
pub(super) fn place<C>(memory: &mut [MaybeUninit<u8>]) -> Option<(NonNull<u8>, usize)> {
    const { assert!(align_of::<C>() == size_of::<C>()) };
    let padding = memory.as_ptr().addr().wrapping_neg() & (align_of::<C>() - 1);
    let memory = memory.get_mut(padding..)?;
    let size = memory.len() & !(align_of::<C>() - 1);
    Some((
        NonNull::from(memory).cast(),
        size.checked_sub(size_of::<C>())?,
    ))
}
