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
//! | `leaked` | `LeakBox`, which owns a value, but not the memory that it is in |
//! | `global` | `Bump` as the `#[global_allocator]` |

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use self::leaked::LeakBox;
use self::room::Room;

mod allocation;
mod global;
pub mod leaked;
mod room;
#[cfg(test)]
mod tests;

pub use self::allocation::{AllocTime, Allocation, Failure, LeakError, Level};

/// The names of [`bump`](super::bump) where `static-alloc` has them.
#[expect(
    clippy::module_inception,
    reason = "that is where `static-alloc` has them"
)]
pub mod bump {
    pub use super::{Allocation, Bump, Failure, LeakError, Level};
}

/// Memory of the size and alignment of `T`, from which any number of threads may allocate.
///
/// What is allocated lives as long as the `Bump`. Only [`reset`](Bump::reset), which nothing that
/// was allocated survives, makes room again.
///
/// `T` is never made, read or dropped: it is a way to say how much memory there is, in the form of
/// `[u8; N]` or, for a certain alignment, `[u64; N]`.
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
    pub const fn from_maybe_uninit(room: &mut MaybeUninit<Self>) -> &mut Self {
        let bump = room.as_mut_ptr();
        // SAFETY: the room is valid for writes.
        unsafe { (&raw mut (*bump).used).write(AtomicUsize::new(0)) };
        // SAFETY: the count is initialised, and the storage need not be.
        unsafe { &mut *bump }
    }

    /// A `Bump` at the first aligned address of `memory`, if there is room for it.
    pub fn from_memory(memory: &mut [MaybeUninit<u8>]) -> Option<&mut Self> {
        let padding = memory.as_ptr().addr().wrapping_neg() & (align_of::<Self>() - 1);
        let room = memory.get_mut(padding..)?.get_mut(..size_of::<Self>())?;
        // SAFETY: the range is as large and as aligned as the type, which asks for nothing else, and
        // it is borrowed mutably.
        Some(Self::from_maybe_uninit(unsafe {
            &mut *room.as_mut_ptr().cast()
        }))
    }

    /// Starts over. Nothing that was allocated can be alive, or else `self` would be borrowed.
    ///
    /// ```compile_fail,E0502
    /// use heap::bump::Bump;
    ///
    /// let mut bump: Bump<u64> = Bump::uninit();
    /// let value = bump.leak(1_u64).unwrap();
    /// bump.reset();
    /// *value += 1;
    /// ```
    pub fn reset(&mut self) {
        *self.used.get_mut() = 0;
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

    fn room(&self) -> Room<'_> {
        // SAFETY: the memory is this large, lives as long as `self` is borrowed, and this count is
        // the only one for it.
        unsafe { Room::new(self.data_ptr(), self.capacity(), &self.used) }
    }

    /// How much is used at this moment. Other threads may allocate before the caller can act on it;
    /// the [`alloc_at`](Self::alloc_at) family notices that. Levels never fall, but by a
    /// [`reset`](Self::reset).
    pub fn level(&self) -> Level {
        self.room().level()
    }

    /// A range of memory for `layout`, or `None` if there is not enough.
    ///
    /// # Panics
    /// If the layout's size is zero.
    pub fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        assert_ne!(
            layout.size(),
            0,
            "zero bytes were asked of a bump allocator"
        );
        Some(self.get_layout(layout)?.ptr)
    }

    /// As [`alloc`](Self::alloc), but only if nothing was allocated since the level was `level`.
    ///
    /// This is how something is built piece by piece: pieces that follow each other at their levels
    /// also follow each other in memory, with padding for alignment between them at most.
    ///
    /// # Panics
    /// If the layout's size is zero.
    pub fn alloc_at(&self, layout: Layout, level: Level) -> Result<Allocation<'_>, Failure> {
        assert_ne!(
            layout.size(),
            0,
            "zero bytes were asked of a bump allocator"
        );
        self.get_layout_at(layout, level)
    }

    /// As [`alloc`](Self::alloc), with the lifetime and the level. Zero bytes can always be had.
    pub fn get_layout(&self, layout: Layout) -> Option<Allocation<'_>> {
        self.room().take(layout).ok()
    }

    /// As [`alloc_at`](Self::alloc_at). Zero bytes can always be had.
    pub fn get_layout_at(&self, layout: Layout, at: Level) -> Result<Allocation<'_>, Failure> {
        self.room().take_at(layout, at)
    }

    /// Room for a `V`.
    pub fn get<V>(&self) -> Option<Allocation<'_, V>> {
        Some(self.get_layout(Layout::new::<V>())?.cast())
    }

    /// Room for a `V`, if nothing was allocated since the level was `level`.
    pub fn get_at<V>(&self, level: Level) -> Result<Allocation<'_, V>, Failure> {
        Ok(self.get_layout_at(Layout::new::<V>(), level)?.cast())
    }

    /// Room for `len` of `V`, one after the other.
    pub fn get_slice<V>(&self, len: usize) -> Option<Allocation<'_, [V]>> {
        let layout = Layout::array::<V>(len).ok()?;
        Some(self.get_layout(layout)?.cast_slice(len))
    }

    /// The memory from `level` up.
    ///
    /// # Safety
    /// * `level` is the [start](Allocation::level_start) of an allocation of this `Bump`, and the
    ///   memory there is aligned for `V`.
    /// * What is done with the pointer does not conflict with what others do with allocations there.
    pub unsafe fn get_unchecked<V>(&self, level: Level) -> Allocation<'_, V> {
        // SAFETY: a level of this `Bump` is no higher than its capacity.
        let ptr = unsafe { self.data_ptr().byte_add(level.byte_offset()) };
        self.room()
            .allocation(ptr, Level(level.0 + size_of::<V>()))
            .cast()
    }

    /// Moves a value into the memory, for as long as that lives. It is not dropped.
    ///
    /// When there is no room the error has the value in it.
    #[expect(
        clippy::mut_from_ref,
        reason = "each is a reference to a range that nobody else has"
    )]
    pub fn leak<V>(&self, val: V) -> Result<&mut V, LeakError<V>> {
        match self.get::<V>() {
            // SAFETY: the room is for a `V`, and nobody else's.
            Some(room) => Ok(unsafe { room.leak(val) }),
            None => Err(LeakError::new(val, Failure::Exhausted)),
        }
    }

    /// As [`leak`](Self::leak), but only if nothing was allocated since the level was `level`.
    /// Returns the level after.
    #[expect(
        clippy::mut_from_ref,
        reason = "each is a reference to a range that nobody else has"
    )]
    pub fn leak_at<V>(&self, val: V, level: Level) -> Result<(&mut V, Level), LeakError<V>> {
        match self.get_at::<V>(level) {
            Ok(room) => {
                let after = room.level;
                // SAFETY: the room is for a `V`, and nobody else's.
                Ok((unsafe { room.leak(val) }, after))
            }
            Err(failure) => Err(LeakError::new(val, failure)),
        }
    }

    /// Moves a value into the memory. It is dropped when the box is.
    pub fn leak_box<V>(&self, val: V) -> Option<LeakBox<'_, V>> {
        // SAFETY: the room is for a `V`, and nobody else's.
        Some(unsafe { self.get::<V>()?.boxed(val) })
    }

    /// As [`leak_box`](Self::leak_box), but only if nothing was allocated since the level was
    /// `level`.
    pub fn leak_box_at<V>(&self, val: V, level: Level) -> Result<LeakBox<'_, V>, Failure> {
        // SAFETY: the room is for a `V`, and nobody else's.
        Ok(unsafe { self.get_at::<V>(level)?.boxed(val) })
    }
}

impl<T> fmt::Debug for Bump<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bump")
            .field("base", &self.data_ptr())
            .field("level", &self.level().byte_offset())
            .field("capacity", &self.capacity())
            .finish()
    }
}
