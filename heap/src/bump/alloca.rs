//! [`Alloca`]: a slice on the stack, whose length is known only at run time.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// The most bytes of a slice on the stack.
const LIMIT: usize = 1 << 16;

/// Calls a function with a slice on the stack whose length is known only at run time. The slice has
/// at most 64 KiB.
///
/// The buffer of the slice has 64 bytes, or the next power of two up to 64 KiB. Less than half of
/// a buffer of more than 64 bytes is unused.
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
/// let alloca = Alloca::<u8>::new(length).expect("9 bytes are less than 64 KiB");
/// alloca.run(|text: &mut [MaybeUninit<u8>]| {
///     for (byte, slot) in words.iter().flat_map(|word| word.bytes()).zip(&mut *text) {
///         slot.write(byte);
///     }
///     assert_eq!(text.len(), 9);
/// });
/// assert!(Alloca::<u8>::new(1 << 30).is_none());
/// ```
#[derive(Debug)]
pub struct Alloca<T> {
    /// Elements of the slice, which together have at most [`LIMIT`] bytes.
    len: usize,
    element: PhantomData<T>,
}

impl<T> Alloca<T> {
    /// Prepares for slices of `len` elements. Returns `None` if those have more than 64 KiB. Uses
    /// no stack yet.
    pub fn new(len: usize) -> Option<Self> {
        let size = len.checked_mul(size_of::<T>())?;
        (size <= LIMIT).then_some(Self {
            len,
            element: PhantomData,
        })
    }

    /// Calls `run` with a slice that is not initialised and lives until `run` returns. Its elements
    /// are not dropped.
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

    /// Calls `run` with a slice in a buffer of `SIZE` bytes, which must be enough.
    #[inline(never)]
    fn run_in<const SIZE: usize, R>(&self, run: impl FnOnce(&mut [MaybeUninit<T>]) -> R) -> R {
        /// A buffer of `SIZE` bytes, aligned for `T`.
        #[repr(C)]
        struct Buffer<T, const SIZE: usize> {
            aligned: [T; 0],
            bytes: [MaybeUninit<u8>; SIZE],
        }

        let mut buffer = MaybeUninit::<Buffer<T, SIZE>>::uninit();
        // SAFETY: the buffer is aligned for `T` and has `SIZE` bytes, which hold the slice. Its
        // elements are `MaybeUninit`, which need no initialisation.
        run(unsafe { core::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), self.len) })
    }
}
