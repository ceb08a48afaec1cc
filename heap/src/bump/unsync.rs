//! A bump allocator for one thread.
//!
//! The size of a [`Bump`] is known at compile time, that of a [`BumpSlice`] at run time. A `Bump`
//! dereferences to a `BumpSlice`, which has the methods.

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

use super::leaked::LeakBox;
use super::region::Region;
use super::slice::fit;
use super::{Allocation, Failure, Level};

/// Memory of the size of `T`, for instance on the stack.
///
/// `T` sets the size of the storage, and is never created, read or dropped. Its alignment must be
/// at most a word. The storage of [`uninit`](Self::uninit) and [`zeroed`](Self::zeroed) begins as
/// that of the [`Bump`](super::Bump) for many threads.
///
/// ```text
///  Bump<[usize; 64]>    │ used │ storage: 64 words │    derefs to
///  BumpSlice            │ used │ storage           │    the same memory, 64 words in the reference
/// ```
///
/// ```
/// use heap::bump::{leaked::LeakBox, unsync::Bump};
///
/// let mut scratch: Bump<[usize; 64]> = Bump::uninit();
/// let text = LeakBox::write(scratch.bump_box().unwrap(), String::from("scratch"));
/// assert_eq!(text.len(), 7);
/// drop(text);
/// scratch.reset();
/// ```
///
/// ```compile_fail,E0080
/// use heap::bump::unsync::Bump;
///
/// #[repr(align(32))]
/// struct HighlyAligned([u8; 128]);
///
/// let bump: Bump<HighlyAligned> = Bump::uninit();
/// bump.get::<u32>();
/// ```
#[repr(C)]
pub struct Bump<T> {
    used: Cell<usize>,
    storage: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Bump<T> {
    /// Creates a `Bump` whose memory is not initialised.
    pub const fn uninit() -> Self {
        Self {
            used: Cell::new(0),
            storage: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Creates a `Bump` whose memory is zero.
    pub const fn zeroed() -> Self {
        Self {
            used: Cell::new(0),
            storage: UnsafeCell::new(MaybeUninit::zeroed()),
        }
    }

    /// Creates a `Bump` in place. Writes the count only, and leaves the storage as it is.
    pub const fn from_maybe_uninit(room: &mut MaybeUninit<Self>) -> &mut Self {
        let bump = room.as_mut_ptr();
        // SAFETY: `bump` leads to memory of the size and the alignment of the type.
        let used = unsafe { &raw mut (*bump).used };
        // SAFETY: `room` is borrowed mutably, so its fields are valid for writes.
        unsafe { used.write(Cell::new(0)) };
        // SAFETY: the count is initialised, and the storage may be uninitialised.
        unsafe { &mut *bump }
    }

    /// Fails to compile where it is used, if `T` is aligned to more than a word.
    const LAYOUT_IS_THAT_OF_A_SLICE: () = assert!(
        align_of::<T>() <= align_of::<usize>(),
        "a type that is aligned to more than a word"
    );
}

impl<T> Deref for Bump<T> {
    type Target = BumpSlice;

    fn deref(&self) -> &BumpSlice {
        let () = Self::LAYOUT_IS_THAT_OF_A_SLICE;
        let slice = ptr::slice_from_raw_parts(ptr::from_ref(self).cast::<u8>(), size_of::<T>());
        // SAFETY: in both types the storage follows the count without padding, and the size is a
        // multiple of a word. The length of the pointer is the size of the storage.
        unsafe { &*(slice as *const BumpSlice) }
    }
}

impl<T> DerefMut for Bump<T> {
    fn deref_mut(&mut self) -> &mut BumpSlice {
        let () = Self::LAYOUT_IS_THAT_OF_A_SLICE;
        let slice = ptr::slice_from_raw_parts_mut(ptr::from_mut(self).cast::<u8>(), size_of::<T>());
        // SAFETY: both types have the same layout, as in `deref`, and the borrow is mutable.
        unsafe { &mut *(slice as *mut BumpSlice) }
    }
}

/// Memory of any size, after a count of its used bytes.
///
/// Allocations live as long as the borrow of this value. Only [`reset`](BumpSlice::reset) frees
/// memory, all of it, and the borrow checker ensures that no allocation survives.
#[repr(C)]
pub struct BumpSlice {
    /// Allocated bytes from the base, at most `storage.len()`.
    used: Cell<usize>,
    storage: UnsafeCell<[MaybeUninit<u8>]>,
}

/// The error of [`BumpSlice::from_mem`]: the memory has no room for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FromMemError(());

impl fmt::Display for FromMemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the memory has no room for a bump allocator")
    }
}

impl core::error::Error for FromMemError {}

impl BumpSlice {
    /// Creates a bump allocator in `mem`: all whole words from the first aligned address.
    ///
    /// ```text
    ///  mem              │ … aligned to a word │ used │ storage          │ less than a word │
    ///  from_mem(mem)                          └──── LeakBox ────────────┘
    ///  into_mem(box)                          └──── &mut [..] ──────────┘
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::unsync::BumpSlice;
    ///
    /// let mut memory = [MaybeUninit::uninit(); 128];
    /// let bump = BumpSlice::from_mem(&mut memory).unwrap();
    /// assert!(bump.get::<[u64; 14]>().is_some());
    ///
    /// let capacity = bump.capacity();
    /// let memory = BumpSlice::into_mem(bump);
    /// assert_eq!(memory.len(), size_of::<usize>() + capacity);
    /// ```
    ///
    /// # Errors
    /// [`FromMemError`] if the count, which is a word, does not fit.
    pub fn from_mem(mem: &mut [MaybeUninit<u8>]) -> Result<LeakBox<'_, Self>, FromMemError> {
        let (base, capacity) = fit::<Cell<usize>>(mem).ok_or(FromMemError(()))?;
        let slice = ptr::slice_from_raw_parts_mut(base.as_ptr(), capacity);
        // SAFETY: the range that `fit` returned is aligned for the count, which fits at its base.
        unsafe { base.cast::<Cell<usize>>().write(Cell::new(0)) };
        // SAFETY: the range holds the count, which is initialised, and the storage. It is borrowed
        // mutably.
        Ok(unsafe { LeakBox::from_raw(slice as *mut BumpSlice) })
    }

    /// Returns the bump allocator that already exists in `mem`, at its level. This is the inverse
    /// of [`into_mem`](Self::into_mem).
    ///
    /// ```text
    ///  mem     │ 12   │ allocated 12 bytes │ unused     │   level 12
    ///            used
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::unsync::BumpSlice;
    ///
    /// let mut memory = [MaybeUninit::uninit(); 128];
    /// let bump = BumpSlice::from_mem(&mut memory).unwrap();
    /// bump.get::<[u8; 12]>().unwrap();
    /// let memory = BumpSlice::into_mem(bump);
    /// // SAFETY: `into_mem` returned the memory, and its first word has not changed.
    /// let bump = unsafe { BumpSlice::from_mem_unchecked(memory) };
    /// assert_eq!(bump.level().byte_offset(), 12);
    /// ```
    ///
    /// # Safety
    /// [`into_mem`](Self::into_mem) returned `mem`, and its first word has not changed since. Older
    /// pointers into the memory are not used.
    ///
    /// # Panics
    /// If the count does not fit, so that `mem` cannot come from `into_mem`.
    pub unsafe fn from_mem_unchecked(mem: &mut [MaybeUninit<u8>]) -> LeakBox<'_, Self> {
        let capacity = mem.len().checked_sub(size_of::<usize>());
        let capacity = capacity.expect("the memory of a bump allocator");
        let slice = ptr::slice_from_raw_parts_mut(mem.as_mut_ptr(), capacity);
        // SAFETY: the caller vouches that `into_mem` returned the memory: it is aligned and holds
        // the count and the storage. It is borrowed mutably.
        unsafe { LeakBox::from_raw(slice as *mut BumpSlice) }
    }

    /// Returns the memory of a bump allocator, its count included: see the diagram of
    /// [`from_mem`](Self::from_mem).
    pub fn into_mem<'lt>(this: LeakBox<'lt, Self>) -> &'lt mut [MaybeUninit<u8>] {
        let size = size_of_val(&*this);
        let base = LeakBox::into_raw(this).cast();
        // SAFETY: the box owned the memory for `'lt`, and its contents need no drop.
        unsafe { core::slice::from_raw_parts_mut(base, size) }
    }

    /// Returns the size of the storage, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        self.storage.get().len()
    }

    /// Returns a pointer to the storage, valid for [`capacity`](Self::capacity) bytes. Allocations
    /// may be in use there.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }

    fn region(&self) -> Region<'_, Cell<usize>> {
        // SAFETY: the storage has this capacity and lives as long as the borrow of `self`. Every
        // region of it has this base, capacity and count.
        unsafe { Region::new(self.data_ptr(), self.capacity(), &self.used) }
    }

    /// Allocates the lowest unused range that is aligned for `layout`, as
    /// [`Bump::alloc`](super::Bump::alloc). Returns `None` if the memory does not suffice. O(1).
    ///
    /// # Panics
    /// If the size of `layout` is zero.
    pub fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.alloc_at(layout, self.level()).ok()
    }

    /// Allocates as [`alloc`](Self::alloc), but only if the level still is `level`: see the diagram
    /// of [`Bump::alloc_at`](super::Bump::alloc_at).
    ///
    /// # Errors
    /// [`Failure::Mismatch`] with the actual level, or [`Failure::Exhausted`].
    ///
    /// # Panics
    /// If the size of `layout` is zero.
    pub fn alloc_at(&self, layout: Layout, level: Level) -> Result<NonNull<u8>, Failure> {
        assert_ne!(
            layout.size(),
            0,
            "zero bytes were asked of a bump allocator"
        );
        Ok(self.region().take_at(layout, level)?.ptr)
    }

    /// Allocates memory for a `V`: see the diagram of [`Allocation`].
    pub fn get<V>(&self) -> Option<Allocation<'_, V>> {
        self.get_at(self.level()).ok()
    }

    /// Allocates memory for a `V`, but only if the level still is `level`. Zero-sized requests
    /// always succeed.
    ///
    /// # Errors
    /// [`Failure::Mismatch`] with the actual level, or [`Failure::Exhausted`].
    pub fn get_at<V>(&self, level: Level) -> Result<Allocation<'_, V>, Failure> {
        Ok(self.region().take_at(Layout::new::<V>(), level)?.cast())
    }

    /// Returns an existing allocation: the memory from `level` up, as a `V`. Allocates nothing. See
    /// the diagram of [`Bump::get_unchecked`](super::Bump::get_unchecked).
    ///
    /// # Safety
    /// * `level` is the [start](Allocation::level_start) of an allocation of this allocator, and
    ///   the memory there is aligned for `V`.
    /// * Accesses through the pointer do not conflict with accesses to allocations there.
    pub unsafe fn get_unchecked<V>(&self, level: Level) -> Allocation<'_, V> {
        // SAFETY: a level of this allocator is at most its capacity.
        let ptr = unsafe { self.data_ptr().byte_add(level.byte_offset()) };
        self.region()
            .allocation(ptr, Level(level.0 + size_of::<V>()))
            .cast()
    }

    /// Allocates memory for a `T`, in a box: [`LeakBox::write`] moves a value in.
    ///
    /// ```text
    ///  bump_box::<u32>()         │ used   │ ??    │ unused                   │
    ///  LeakBox::write(box, 5)    │ used   │ 5     │ unused                   │
    /// ```
    ///
    /// # Errors
    /// [`Failure::Exhausted`].
    pub fn bump_box<'bump, T: 'bump>(
        &'bump self,
    ) -> Result<LeakBox<'bump, MaybeUninit<T>>, Failure> {
        let allocation = self.get_at::<T>(self.level())?;
        // SAFETY: the range is new and fits a `T`.
        Ok(LeakBox::from(unsafe { allocation.uninit() }))
    }

    /// Allocates memory for a slice of `n` elements, in a box.
    ///
    /// ```text
    ///  bump_array::<u16>(3)      │ used   │ ?? │ ?? │ ?? │ unused            │
    /// ```
    ///
    /// ```
    /// use heap::bump::unsync::Bump;
    ///
    /// let bump: Bump<[usize; 2]> = Bump::uninit();
    /// let mut numbers = bump.bump_array::<u16>(3).unwrap();
    /// for (element, number) in numbers.iter_mut().zip(1..) {
    ///     element.write(number);
    /// }
    /// assert_eq!((numbers.len(), bump.level().byte_offset()), (3, 6));
    /// ```
    ///
    /// # Errors
    /// [`Failure::Exhausted`].
    pub fn bump_array<'bump, T: 'bump>(
        &'bump self,
        n: usize,
    ) -> Result<LeakBox<'bump, [MaybeUninit<T>]>, Failure> {
        let layout = Layout::array::<T>(n).map_err(|_| Failure::Exhausted)?;
        let base = self.region().take(layout)?.ptr.cast();
        // SAFETY: the range is new, fits `n` elements, and lives as long as the borrow of `self`.
        let slice = unsafe { core::slice::from_raw_parts_mut(base.as_ptr(), n) };
        Ok(LeakBox::from(slice))
    }

    /// Returns the current level: see the diagram of [`Level`].
    pub fn level(&self) -> Level {
        self.region().level()
    }

    /// Frees all memory: the level is 0 again. No allocation can be alive, because each one borrows
    /// `self`. The storage keeps its contents.
    pub fn reset(&mut self) {
        self.used.set(0);
    }
}

impl fmt::Debug for BumpSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BumpSlice")
            .field("base", &self.data_ptr())
            .field("level", &self.level().byte_offset())
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl<T> fmt::Debug for Bump<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bump")
            .field("level", &self.used.get())
            .field("capacity", &size_of::<T>())
            .finish()
    }
}
