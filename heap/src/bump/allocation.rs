//! Allocations of a bump allocator, its level before and after them, and its errors.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::leaked::LeakBox;

/// How much of a bump allocator's memory is used.
///
/// Each allocation raises the level. An allocation *at* the level that another one left therefore
/// follows that one directly.
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
    /// Returns the level in bytes from the base of the memory.
    pub fn byte_offset(&self) -> usize {
        self.0
    }
}

/// The error of an allocation at a level.
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
    /// The memory above the level is too small.
    Exhausted,
    /// The level is not the expected one: something else was allocated.
    Mismatch {
        /// The actual level.
        observed: Level,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Exhausted => f.write_str("not enough memory is left"),
            Failure::Mismatch { observed } => {
                write!(f, "something else was allocated, up to byte {}", observed.0)
            }
        }
    }
}

impl core::error::Error for Failure {}

/// The error of moving a value into a bump allocator. It returns the value. No memory was taken.
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

    /// Returns the reason.
    pub fn kind(&self) -> Failure {
        self.failure
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.val
    }
}

/// The lifetime of an [`Allocation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AllocTime<'a>(PhantomData<&'a ()>);

/// A range of memory that belongs to the caller alone. It is not initialised.
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
/// let allocation = bump.get::<u32>().unwrap();
/// assert_eq!(allocation.level_start().byte_offset(), 4);
/// assert_eq!(allocation.level.byte_offset(), 8);
/// assert_eq!(allocation.ptr.addr().get(), bump.data_ptr().addr().get() + 4);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation<'a, T: ?Sized = u8> {
    /// The base of the range.
    pub ptr: NonNull<T>,
    /// The lifetime of the range: that of the borrow of the bump allocator.
    pub lifetime: AllocTime<'a>,
    /// The level after the allocation: where the range ends.
    pub level: Level,
}

impl<'a> Allocation<'a> {
    /// Changes the type. `V` must fit the layout of the allocation.
    pub(super) fn cast<V>(self) -> Allocation<'a, V> {
        Allocation {
            ptr: self.ptr.cast(),
            lifetime: self.lifetime,
            level: self.level,
        }
    }

    /// Changes the type. `[V; len]` must fit the layout of the allocation.
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
    /// Returns the level where the range begins, after the padding: see the [diagram](Self).
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>() * self.ptr.len())
    }
}

impl<'a, T> Allocation<'a, T> {
    /// Returns the level where the range begins, after the padding: see the [diagram](Self).
    ///
    /// The range must have the size of `T`. An untyped range of
    /// [`get_layout`](super::Bump::get_layout) has another size: it begins at `level` less the size
    /// of its layout.
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>())
    }

    /// Moves a value into the range. The value is never dropped.
    ///
    /// # Safety
    /// The range fits a `T`, and nothing else uses it.
    pub unsafe fn leak(self, val: T) -> &'a mut T {
        // SAFETY: the caller vouches that the range fits a `T` and that nothing else uses it.
        unsafe { self.uninit() }.write(val)
    }

    /// Moves a value into the range. The value is dropped with the box.
    ///
    /// # Safety
    /// The range fits a `T`, and nothing else uses it.
    pub unsafe fn boxed(self, val: T) -> LeakBox<'a, T> {
        // SAFETY: the caller vouches that the range fits a `T` and that nothing else uses it.
        unsafe { self.ptr.write(val) };
        // SAFETY: the range holds a value, which only the box uses.
        unsafe { LeakBox::from_raw(self.ptr.as_ptr()) }
    }

    /// Returns the range as memory for a value.
    ///
    /// # Safety
    /// The range fits a `T`, and nothing else uses it.
    pub unsafe fn uninit(self) -> &'a mut MaybeUninit<T> {
        // SAFETY: the caller vouches that the range fits a `T` and that nothing else uses it. Any
        // bytes are a valid `MaybeUninit`.
        unsafe { self.ptr.cast().as_mut() }
    }
}
