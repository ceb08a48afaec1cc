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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub(super) usize);

impl Level {
    /// Bytes from the base of the memory.
    pub fn byte_offset(&self) -> usize {
        self.0
    }
}

/// Why there was no allocation at a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// There is not enough room.
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

/// A value that found no room, and why.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation<'a, T: ?Sized = u8> {
    /// Where it is.
    pub ptr: NonNull<T>,
    /// How long it is there.
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
    /// The level where the memory begins, padding not included.
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>() * self.ptr.len())
    }
}

impl<'a, T> Allocation<'a, T> {
    /// The level where the memory begins, padding not included.
    pub fn level_start(&self) -> Level {
        Level(self.level.0 - size_of::<T>())
    }

    /// Moves a value in, for good.
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
