//! A slice on the stack, of a length that is only known when the program runs.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// No slice on the stack is larger than this, in bytes.
const LIMIT: usize = 1 << 16;

/// Runs functions with a slice of a certain length on the stack, 64 KiB at most.
///
/// There are functions with room in their stack frames of 64 bytes and each power of two up to 64
/// KiB, and that with the smallest that is enough is called. Less than half of it is unused, if it
/// is not the first.
///
/// ```text
///  Alloca::<u32>::new(25)    100 bytes
///                 ┌──────────────────────────────────────────┬────────┐
///  run            │ the slice: 25 × 4 bytes                  │ 28     │   128 bytes on the stack
///                 └──────────────────────────────────────────┴────────┘
///                  not initialised, aligned for u32           unused
/// ```
///
/// ```
/// use core::mem::MaybeUninit;
/// use heap::bump::leaked::Alloca;
///
/// let words = ["stack", "heap"];
/// let length = words.iter().map(|word| word.len()).sum();
/// let alloca = Alloca::<u8>::new(length).expect("it is no more than 64 KiB");
/// alloca.run(|room: &mut [MaybeUninit<u8>]| {
///     for (byte, room) in words.iter().flat_map(|word| word.bytes()).zip(&mut *room) {
///         room.write(byte);
///     }
///     assert_eq!(room.len(), 9);
/// });
/// assert!(Alloca::<u8>::new(1 << 30).is_none());
/// ```
#[derive(Debug)]
pub struct Alloca<T> {
    /// So many of `T` are no larger than [`LIMIT`].
    len: usize,
    element: PhantomData<T>,
}

impl<T> Alloca<T> {
    /// For slices of `len` elements. `None` if those are more than 64 KiB. Takes no room yet.
    pub fn new(len: usize) -> Option<Self> {
        let size = len.checked_mul(size_of::<T>())?;
        (size <= LIMIT).then_some(Self {
            len,
            element: PhantomData,
        })
    }

    /// Calls `run` with a slice that is not initialised, and is gone when it returns. Nothing in it
    /// is dropped.
    pub fn run<R>(&self, run: impl FnOnce(&mut [MaybeUninit<T>]) -> R) -> R {
        match (self.len * size_of::<T>()).next_power_of_two() {
            0..=64 => self.run_in::<64, R>(run),
            128 => self.run_in::<128, R>(run),
            256 => self.run_in::<256, R>(run),
            512 => self.run_in::<512, R>(run),
            1024 => self.run_in::<1024, R>(run),
            2048 => self.run_in::<2048, R>(run),
            4096 => self.run_in::<4096, R>(run),
            8192 => self.run_in::<8192, R>(run),
            16_384 => self.run_in::<16_384, R>(run),
            32_768 => self.run_in::<32_768, R>(run),
            _ => self.run_in::<LIMIT, R>(run),
        }
    }

    /// Calls `run` with a part of `SIZE` bytes, which are enough.
    #[inline(never)]
    fn run_in<const SIZE: usize, R>(&self, run: impl FnOnce(&mut [MaybeUninit<T>]) -> R) -> R {
        /// Room of a size, aligned for elements.
        #[repr(C)]
        struct Room<T, const SIZE: usize> {
            aligned: [T; 0],
            bytes: [MaybeUninit<u8>; SIZE],
        }

        let mut room = MaybeUninit::<Room<T, SIZE>>::uninit();
        // SAFETY: the room is aligned and has `SIZE` bytes, and the slice has no more. It is not
        // initialised, and need not be.
        run(unsafe { core::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), self.len) })
    }
}
