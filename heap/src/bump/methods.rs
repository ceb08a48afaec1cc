//! What a [`Bump`] and a [`BumpSlice`] both can do.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use super::leaked::LeakBox;
use super::region::Region;
use super::{Allocation, Bump, BumpSlice, Failure, LeakError, Level};

/// Implements allocation for a type that has `used`, `capacity()` and `data_ptr()`.
macro_rules! methods {
    ([$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> $type {
            /// Starts over. Nothing that was allocated can be alive, or else `self` would be
            /// borrowed. The memory is left as it is.
            ///
            /// ```text
            ///  before   │ used              │ unused        │     level 10
            ///  after    │ unused                            │     level 0
            /// ```
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

            pub(super) fn region(&self) -> Region<'_, AtomicUsize> {
                // SAFETY: the memory is this large, lives as long as `self` is borrowed, and this
                // count is the only one for it.
                unsafe { Region::new(self.data_ptr(), self.capacity(), &self.used) }
            }

            /// How much is used at this moment. Other threads may allocate before the caller can
            /// act on it; the [`alloc_at`](Self::alloc_at) family notices that. Levels never fall,
            /// but by a [`reset`](Self::reset). See the diagram of [`Level`].
            pub fn level(&self) -> Level {
                self.region().level()
            }

            /// A range of memory for `layout`, or `None` if there is not enough. It is the lowest
            /// unused range that is aligned; what is skipped for that is lost. O(1), but for races.
            ///
            /// ```text
            ///  byte                     0        3  4              9                    16
            ///  before                   │ used   │ unused                               │  level 3
            ///  alloc(5 bytes, align 4)  │ used   │  │ allocated    │ unused             │  level 9
            /// ```
            ///
            /// ```
            /// use core::alloc::Layout;
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// bump.leak([0_u8; 3]).unwrap();
            /// let ptr = bump.alloc(Layout::from_size_align(5, 4).unwrap()).unwrap();
            /// assert_eq!(ptr.addr().get() - bump.data_ptr().addr().get(), 4);
            /// assert_eq!(bump.level().byte_offset(), 9);
            /// ```
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
            /// ```text
            ///  byte                   0        4        8                 16
            ///  alloc_at(4, level 0)   │ ours   │ unused                   │   level 4
            ///  another thread         │ ours   │ theirs │ unused          │   level 8
            ///  alloc_at(4, level 4)   Mismatch { observed: 8 }, and nothing is taken
            /// ```
            ///
            /// ```
            /// use core::alloc::Layout;
            /// use heap::bump::{Bump, Failure};
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// let layout = Layout::from_size_align(4, 4).unwrap();
            /// let ours = bump.alloc_at(layout, bump.level()).unwrap();
            /// bump.alloc(layout).unwrap();
            /// let observed = bump.level();
            /// assert_eq!(bump.alloc_at(layout, ours.level), Err(Failure::Mismatch { observed }));
            /// ```
            ///
            /// # Errors
            /// [`Failure::Mismatch`], with the level that it is; [`Failure::Exhausted`].
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
            /// had: they are no part of the memory, and leave the level where it is.
            pub fn get_layout(&self, layout: Layout) -> Option<Allocation<'_>> {
                self.region().take(layout).ok()
            }

            /// As [`alloc_at`](Self::alloc_at). Zero bytes can always be had, whatever the level
            /// is: that of the allocation is `at`.
            ///
            /// # Errors
            /// [`Failure::Mismatch`], with the level that it is; [`Failure::Exhausted`].
            pub fn get_layout_at(
                &self,
                layout: Layout,
                at: Level,
            ) -> Result<Allocation<'_>, Failure> {
                self.region().take_at(layout, at)
            }

            /// Room for a `V`: an [`Allocation`], whose diagram shows where.
            pub fn get<V>(&self) -> Option<Allocation<'_, V>> {
                Some(self.get_layout(Layout::new::<V>())?.cast())
            }

            /// Room for a `V`, if nothing was allocated since the level was `level`.
            ///
            /// # Errors
            /// As [`get_layout_at`](Self::get_layout_at).
            pub fn get_at<V>(&self, level: Level) -> Result<Allocation<'_, V>, Failure> {
                Ok(self.get_layout_at(Layout::new::<V>(), level)?.cast())
            }

            /// Room for `len` of `V`, one after the other.
            ///
            /// ```text
            ///  byte                   0     2                                   14    16
            ///  get_slice::<u16>(1)    │ [0] │ unused                                  │
            ///  get_slice::<u16>(6)    │     │ [0] │ [1] │ [2] │ [3] │ [4] │ [5] │     │
            /// ```
            ///
            /// ```
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// bump.get_slice::<u16>(1).unwrap();
            /// let room = bump.get_slice::<u16>(6).unwrap();
            /// assert_eq!((room.level_start().byte_offset(), room.level.byte_offset()), (2, 14));
            /// assert!(bump.get_slice::<u16>(usize::MAX).is_none());
            /// ```
            pub fn get_slice<V>(&self, len: usize) -> Option<Allocation<'_, [V]>> {
                let layout = Layout::array::<V>(len).ok()?;
                Some(self.get_layout(layout)?.cast_slice(len))
            }

            /// The memory from `level` up, as a `V`. Nothing is allocated: this finds again what
            /// was.
            ///
            /// ```text
            ///  data_ptr()         level                        level of what is returned
            ///  │ used             │ size_of::<V>() bytes        │ used, or unused           │
            /// ```
            ///
            /// ```
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// let level = bump.get::<u32>().unwrap().level_start();
            /// // SAFETY: a `u32` was allocated there, to which nobody else has a pointer.
            /// let room = unsafe { bump.get_unchecked::<u32>(level) };
            /// assert_eq!((room.level, room.ptr.cast()), (bump.level(), bump.data_ptr()));
            /// ```
            ///
            /// # Safety
            /// * `level` is the [start](Allocation::level_start) of an allocation of this `Bump`,
            ///   and the memory there is aligned for `V`.
            /// * What is done with the pointer does not conflict with what others do with
            ///   allocations there.
            pub unsafe fn get_unchecked<V>(&self, level: Level) -> Allocation<'_, V> {
                // SAFETY: a level of this `Bump` is no higher than its capacity.
                let ptr = unsafe { self.data_ptr().byte_add(level.byte_offset()) };
                self.region()
                    .allocation(ptr, Level(level.0 + size_of::<V>()))
                    .cast()
            }

            /// Moves a value into the memory, for as long as that lives. It is not dropped.
            ///
            /// When there is no room the [error](LeakError) has the value in it.
            ///
            /// ```text
            ///  before        │ used         │ unused                     │
            ///  leak(value)   │ used         │ value      │ unused        │   level moved up
            /// ```
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
            ///
            /// ```
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// let (first, level) = bump.leak_at(1_u32, bump.level()).unwrap();
            /// let (second, _) = bump.leak_at(2_u32, level).unwrap();
            /// // They are neighbours, because nothing came between.
            /// assert_eq!((&raw const *first).wrapping_add(1), &raw const *second);
            /// ```
            ///
            /// # Errors
            /// As [`get_layout_at`](Self::get_layout_at), with the value in it.
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

            /// Moves a value into the memory. It is dropped when the box is; the level stays.
            /// `None` if there is no room: then the value has been dropped.
            ///
            /// ```text
            ///  leak_box(value)      │ used         │ value      │ unused        │
            ///  drop(the box)        │ used         │ nobody's   │ unused        │   until a reset
            /// ```
            ///
            /// ```
            /// use std::rc::Rc;
            /// use heap::bump::Bump;
            ///
            /// let (bump, value) = (Bump::<[u64; 2]>::uninit(), Rc::new(5));
            /// let boxed = bump.leak_box(value.clone()).unwrap();
            /// let level = bump.level();
            /// drop(boxed);
            /// assert_eq!((Rc::strong_count(&value), bump.level()), (1, level));
            /// ```
            pub fn leak_box<V>(&self, val: V) -> Option<LeakBox<'_, V>> {
                // SAFETY: the room is for a `V`, and nobody else's.
                Some(unsafe { self.get::<V>()?.boxed(val) })
            }

            /// As [`leak_box`](Self::leak_box), but only if nothing was allocated since the level
            /// was `level`.
            ///
            /// # Errors
            /// As [`get_layout_at`](Self::get_layout_at). Then the value has been dropped.
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
