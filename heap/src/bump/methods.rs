//! What a [`Bump`] and a [`BumpSlice`] both can do.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use super::leaked::LeakBox;
use super::room::Room;
use super::{Allocation, Bump, BumpSlice, Failure, LeakError, Level};

/// Implements allocation for a type that has `used`, `capacity()` and `data_ptr()`.
macro_rules! methods {
    ([$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> $type {
            /// Starts over. Nothing that was allocated can be alive, or else `self` would be
            /// borrowed.
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

            pub(super) fn room(&self) -> Room<'_, AtomicUsize> {
                // SAFETY: the memory is this large, lives as long as `self` is borrowed, and this
                // count is the only one for it.
                unsafe { Room::new(self.data_ptr(), self.capacity(), &self.used) }
            }

            /// How much is used at this moment. Other threads may allocate before the caller can
            /// act on it; the [`alloc_at`](Self::alloc_at) family notices that. Levels never fall,
            /// but by a [`reset`](Self::reset).
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

            /// As [`alloc`](Self::alloc), but only if nothing was allocated since the level was
            /// `level`.
            ///
            /// This is how something is built piece by piece: pieces that follow each other at
            /// their levels also follow each other in memory, with padding for alignment between
            /// them at most.
            ///
            /// # Panics
            /// If the layout's size is zero.
            pub fn alloc_at(
                &self,
                layout: Layout,
                level: Level,
            ) -> Result<Allocation<'_>, Failure> {
                assert_ne!(
                    layout.size(),
                    0,
                    "zero bytes were asked of a bump allocator"
                );
                self.get_layout_at(layout, level)
            }

            /// As [`alloc`](Self::alloc), with the lifetime and the level. Zero bytes can always be
            /// had.
            pub fn get_layout(&self, layout: Layout) -> Option<Allocation<'_>> {
                self.room().take(layout).ok()
            }

            /// As [`alloc_at`](Self::alloc_at). Zero bytes can always be had.
            pub fn get_layout_at(
                &self,
                layout: Layout,
                at: Level,
            ) -> Result<Allocation<'_>, Failure> {
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
            /// * `level` is the [start](Allocation::level_start) of an allocation of this `Bump`,
            ///   and the memory there is aligned for `V`.
            /// * What is done with the pointer does not conflict with what others do with
            ///   allocations there.
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

            /// As [`leak`](Self::leak), but only if nothing was allocated since the level was
            /// `level`. Returns the level after.
            #[expect(
                clippy::mut_from_ref,
                reason = "each is a reference to a range that nobody else has"
            )]
            pub fn leak_at<V>(
                &self,
                val: V,
                level: Level,
            ) -> Result<(&mut V, Level), LeakError<V>> {
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

            /// As [`leak_box`](Self::leak_box), but only if nothing was allocated since the level
            /// was `level`.
            pub fn leak_box_at<V>(
                &self,
                val: V,
                level: Level,
            ) -> Result<LeakBox<'_, V>, Failure> {
                // SAFETY: the room is for a `V`, and nobody else's.
                Ok(unsafe { self.get_at::<V>(level)?.boxed(val) })
            }
        }

        impl<$($generics)*> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Bump")
                    .field("base", &self.data_ptr())
                    .field("level", &self.level().byte_offset())
                    .field("capacity", &self.capacity())
                    .finish()
            }
        }
    };
}

methods!([T] Bump<T>);
methods!([] BumpSlice);
