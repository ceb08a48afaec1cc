//! The methods that [`Bump`] and [`BumpSlice`] have in common.

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
            /// Frees all memory. No allocation can be alive, because each one borrows `self`. The
            /// storage keeps its contents.
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
                // SAFETY: the storage has this capacity and lives as long as the borrow of `self`.
                // Every region of it has this base, capacity and count.
                unsafe { Region::new(self.data_ptr(), self.capacity(), &self.used) }
            }

            /// Returns the current level: see the diagram of [`Level`]. Other threads may raise it
            /// at once; methods such as [`alloc_at`](Self::alloc_at) detect that. Only
            /// [`reset`](Self::reset) lowers the level.
            pub fn level(&self) -> Level {
                self.region().level()
            }

            /// Allocates the lowest unused range that is aligned for `layout`. Returns `None` if
            /// the memory does not suffice. Padding that alignment requires is lost. O(1), except
            /// for lost races.
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
            /// If the size of `layout` is zero.
            pub fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
                assert_ne!(
                    layout.size(),
                    0,
                    "zero bytes were asked of a bump allocator"
                );
                Some(self.get_layout(layout)?.ptr)
            }

            /// Allocates as [`alloc`](Self::alloc), but only if the level still is `level`.
            ///
            /// With this method a caller can build a structure piece by piece: a piece that is
            /// allocated at the level of the previous one follows it in memory. Only padding for
            /// alignment lies between them.
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
            /// [`Failure::Mismatch`] with the actual level, or [`Failure::Exhausted`].
            ///
            /// # Panics
            /// If the size of `layout` is zero.
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

            /// Allocates as [`alloc`](Self::alloc). Returns the lifetime and the level too.
            /// Zero-sized requests always succeed, and do not change the level.
            pub fn get_layout(&self, layout: Layout) -> Option<Allocation<'_>> {
                self.region().take(layout).ok()
            }

            /// Allocates as [`alloc_at`](Self::alloc_at). Zero-sized requests always succeed, at
            /// any level, and return `at`.
            ///
            /// # Errors
            /// [`Failure::Mismatch`] with the actual level, or [`Failure::Exhausted`].
            pub fn get_layout_at(
                &self,
                layout: Layout,
                at: Level,
            ) -> Result<Allocation<'_>, Failure> {
                self.region().take_at(layout, at)
            }

            /// Allocates memory for a `V`: see the diagram of [`Allocation`].
            pub fn get<V>(&self) -> Option<Allocation<'_, V>> {
                Some(self.get_layout(Layout::new::<V>())?.cast())
            }

            /// Allocates memory for a `V`, but only if the level still is `level`.
            ///
            /// # Errors
            /// The errors of [`get_layout_at`](Self::get_layout_at).
            pub fn get_at<V>(&self, level: Level) -> Result<Allocation<'_, V>, Failure> {
                Ok(self.get_layout_at(Layout::new::<V>(), level)?.cast())
            }

            /// Allocates memory for a slice of `len` elements.
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
            /// let slice = bump.get_slice::<u16>(6).unwrap();
            /// assert_eq!((slice.level_start().byte_offset(), slice.level.byte_offset()), (2, 14));
            /// assert!(bump.get_slice::<u16>(usize::MAX).is_none());
            /// ```
            pub fn get_slice<V>(&self, len: usize) -> Option<Allocation<'_, [V]>> {
                let layout = Layout::array::<V>(len).ok()?;
                Some(self.get_layout(layout)?.cast_slice(len))
            }

            /// Returns an existing allocation: the memory from `level` up, as a `V`. Allocates
            /// nothing.
            ///
            /// ```text
            ///  data_ptr()         level                        level of the result
            ///  │ used             │ size_of::<V>() bytes        │ used, or unused           │
            /// ```
            ///
            /// ```
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// let level = bump.get::<u32>().unwrap().level_start();
            /// // SAFETY: a `u32` was allocated at `level`, and nothing else uses it.
            /// let found = unsafe { bump.get_unchecked::<u32>(level) };
            /// assert_eq!((found.level, found.ptr.cast()), (bump.level(), bump.data_ptr()));
            /// ```
            ///
            /// # Safety
            /// * `level` is the [start](Allocation::level_start) of an allocation of this `Bump`,
            ///   and the memory there is aligned for `V`.
            /// * Accesses through the pointer do not conflict with accesses to allocations there.
            pub unsafe fn get_unchecked<V>(&self, level: Level) -> Allocation<'_, V> {
                // SAFETY: a level of this `Bump` is at most its capacity.
                let ptr = unsafe { self.data_ptr().byte_add(level.byte_offset()) };
                self.region()
                    .allocation(ptr, Level(level.0 + size_of::<V>()))
                    .cast()
            }

            /// Moves a value into the memory, for the lifetime of the memory. The value is never
            /// dropped.
            ///
            /// # Errors
            /// [`LeakError`], which returns the value, if the memory does not suffice.
            ///
            /// ```text
            ///  before        │ used         │ unused                     │
            ///  leak(value)   │ used         │ value      │ unused        │   level moved up
            /// ```
            #[expect(
                clippy::mut_from_ref,
                reason = "each reference leads to a range of its own"
            )]
            pub fn leak<V>(&self, val: V) -> Result<&mut V, LeakError<V>> {
                match self.get::<V>() {
                    // SAFETY: the range is new and fits a `V`.
                    Some(allocation) => Ok(unsafe { allocation.leak(val) }),
                    None => Err(LeakError::new(val, Failure::Exhausted)),
                }
            }

            /// Moves a value into the memory as [`leak`](Self::leak), but only if the level still
            /// is `level`. Returns the new level too.
            ///
            /// ```
            /// use heap::bump::Bump;
            ///
            /// let bump: Bump<[u64; 2]> = Bump::uninit();
            /// let (first, level) = bump.leak_at(1_u32, bump.level()).unwrap();
            /// let (second, _) = bump.leak_at(2_u32, level).unwrap();
            /// // They are neighbours: nothing was allocated between them.
            /// assert_eq!((&raw const *first).wrapping_add(1), &raw const *second);
            /// ```
            ///
            /// # Errors
            /// The errors of [`get_layout_at`](Self::get_layout_at), in a [`LeakError`] that
            /// returns the value.
            #[expect(
                clippy::mut_from_ref,
                reason = "each reference leads to a range of its own"
            )]
            pub fn leak_at<V>(
                &self,
                val: V,
                level: Level,
            ) -> Result<(&mut V, Level), LeakError<V>> {
                match self.get_at::<V>(level) {
                    Ok(allocation) => {
                        let after = allocation.level;
                        // SAFETY: the range is new and fits a `V`.
                        Ok((unsafe { allocation.leak(val) }, after))
                    }
                    Err(failure) => Err(LeakError::new(val, failure)),
                }
            }

            /// Moves a value into the memory, and returns a box that drops it. The level stays.
            /// Returns `None` and drops the value if the memory does not suffice.
            ///
            /// ```text
            ///  leak_box(value)      │ used         │ value      │ unused        │
            ///  drop(the box)        │ used         │ lost       │ unused        │   until a reset
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
                // SAFETY: the range is new and fits a `V`.
                Some(unsafe { self.get::<V>()?.boxed(val) })
            }

            /// Moves a value into the memory as [`leak_box`](Self::leak_box), but only if the level
            /// still is `level`.
            ///
            /// # Errors
            /// The errors of [`get_layout_at`](Self::get_layout_at). The value is dropped then.
            pub fn leak_box_at<V>(
                &self,
                val: V,
                level: Level,
            ) -> Result<LeakBox<'_, V>, Failure> {
                // SAFETY: the range is new and fits a `V`.
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
