//! What a bump allocator hands out, and where it was when it did.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::leaked::LeakBox;

/// How much of a bump allocator's memory is used.
///
/// Each allocation raises it, so whoever allocates at the level that an allocation left behind knows
/// that nothing came between.
///
/// ```text
///  byte          0    1         4           8                       16
///  level 0       │ unused                                           │
///  leak(1_u8)    │ u8 │ unused                                      │   level 1
///  leak(2_u32)   │ u8 │ padding │ u32       │ unused                │   level 8
/// ```
///
/// ```
/// use heap::bump::Bump;
///
/// let bump: Bump<[u64; 2]> = Bump::uninit();
/// assert_eq!(bump.level().byte_offset(), 0);
/// bump.leak(1_u8).unwrap();
/// assert_eq!(bump.level().byte_offset(), 1);
/// bump.leak(2_u32).unwrap();
/// assert_eq!(bump.level().byte_offset(), 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub(super) usize);

impl Level {
    /// Bytes from the base of the memory.
    pub fn byte_offset(&self) -> usize {
        self.0
    }
}

/// Why there was no allocation at a level.
///
/// ```text
///  byte                 0               8       12      16
///                       │ used                  │       │   level 12, capacity 16
///  8 bytes at level 12                          ├───────────────┤   Exhausted
///  2 bytes at level 8                   ├───┤                       Mismatch { observed: 12 }
/// ```
///
/// ```
/// use core::alloc::Layout;
/// use heap::bump::{Bump, Failure};
///
/// let bump: Bump<[u64; 2]> = Bump::uninit();
/// bump.get::<u64>().unwrap();
/// let level = bump.level();
/// bump.get::<u32>().unwrap();
/// let layout = Layout::from_size_align(8, 4).unwrap();
/// assert_eq!(bump.alloc_at(layout, bump.level()), Err(Failure::Exhausted));
/// let observed = bump.level();
/// assert_eq!(bump.get_at::<u16>(level), Err(Failure::Mismatch { observed }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// There is not enough room above the level.
    Exhausted,
    /// The level is not the expected one.
    Mismatch {
        /// It was this one.
        observed: Level,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Exhausted => f.write_str("not enough room is left"),
            Failure::Mismatch { observed } => {
                write!(f, "something else was allocated, up to byte {}", observed.0)
            }
        }
    }
}

impl core::error::Error for Failure {}

/// A value that found no room, and why. No memory was taken.
///
/// ```
/// use heap::bump::{Bump, Failure};
///
/// let bump: Bump<u64> = Bump::uninit();
/// let error = bump.leak([7_u64, 9]).unwrap_err();
/// assert_eq!(error.kind(), Failure::Exhausted);
/// assert_eq!(error.into_inner(), [7, 9]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeakError<T> {
    val: T,
    failure: Failure,
}

impl<T> LeakError<T> {
    pub(super) fn new(val: T, failure: Failure) -> Self {
        Self { val, failure }
    }

    /// Why.
    pub fn kind(&self) -> Failure {
        self.failure
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.val
    }
}

/// For how long an [`Allocation`] may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AllocTime<'a>(PhantomData<&'a ()>);

/// Memory that nobody else has. It is not initialised.
///
/// ```text
///               level before                ptr
///                │                           │
///      │ used    │ padding for alignment     │ size bytes            │ unused        │
///                                            ▲                       ▲
///                                       level_start()              level
/// ```
///
/// ```
/// use heap::bump::Bump;
///
/// let bump: Bump<[u64; 4]> = Bump::uninit();
/// bump.leak(1_u8).unwrap();
/// let room = bump.get::<u32>().unwrap();
/// assert_eq!(room.level_start().byte_offset(), 4);
/// assert_eq!(room.level.byte_offset(), 8);
/// assert_eq!(room.ptr.addr().get(), bump.data_ptr().addr().get() + 4);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation<'a, T: ?Sized = u8> {
    /// Where it is.
    pub ptr: NonNull<T>,
    /// How long it is there: as long as the bump allocator is borrowed.
    pub lifetime: AllocTime<'a>,
    /// The level after it was allocated: where it ends.
    pub level: Level,
}

impl<'a> Allocation<'a> {
    /// `V` fits the layout that this was allocated with.
    pub(super) fn cast<V>(self) -> Allocation<'a, V> {
        Allocation {
            ptr: self.ptr.cast(),
            lifetime: self.lifetime,
            level: self.level,
        }
    }

    /// `[V; len]` fits the layout that this was allocated with.
    pub(super) fn cast_slice<V>(self, len: usize) -> Allocation<'a, [V]> {
        let ptr = NonNull::slice_from_raw_parts(self.ptr.cast(), len);
        Allocation {
            ptr,
            lifetime: self.lifetime,
            level: self.level,
        }
    }
}

impl<T> Allocation<'_, [T]> {
    /// The level where the memory begins, padding not included: see the [diagram](Self).
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>() * self.ptr.len())
    }
}

impl<'a, T> Allocation<'a, T> {
    /// The level where the memory begins, padding not included: see the [diagram](Self).
    ///
    /// Of a range without a type, as [`get_layout`](super::Bump::get_layout) returns it, `T` is a
    /// byte, and this is not where it begins: that is `level` less the size of the layout.
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>())
    }

    /// Moves a value in, for good. It is never dropped.
    ///
    /// # Safety
    /// The memory fits a `T`, and nobody else uses it.
    pub unsafe fn leak(self, val: T) -> &'a mut T {
        // SAFETY: the caller's duty.
        unsafe { self.uninit() }.write(val)
    }

    /// Moves a value in, which is dropped when the box is.
    ///
    /// # Safety
    /// The memory fits a `T`, and nobody else uses it.
    pub unsafe fn boxed(self, val: T) -> LeakBox<'a, T> {
        // SAFETY: the caller's duty; then the value is there, and nobody else uses it.
        unsafe {
            self.ptr.write(val);
            LeakBox::from_raw(self.ptr.as_ptr())
        }
    }

    /// The memory as room for a value.
    ///
    /// # Safety
    /// The memory fits a `T`, and nobody else uses it.
    pub unsafe fn uninit(self) -> &'a mut MaybeUninit<T> {
        // SAFETY: the caller's duty; what is not initialised is a valid `MaybeUninit`.
        unsafe { self.ptr.cast().as_mut() }
    }
}
