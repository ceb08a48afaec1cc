//! A bump allocator for one thread.
//!
//! [`Bump`] is a piece of memory of a known size, [`BumpSlice`] of any size. The first is used as the
//! second, and so all that there is to do is said there.

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

use super::leaked::LeakBox;
use super::region::Region;
use super::slice::place;
use super::{Allocation, Failure, Level};

/// Memory of the size of `T`, for instance on the stack.
///
/// `T` is aligned to a word at most. It is never made, read or dropped. The storage begins as that
/// of the [`Bump`](super::Bump) for many threads, with [`uninit`](Self::uninit) or
/// [`zeroed`](Self::zeroed).
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
    /// With memory that is not initialised.
    pub const fn uninit() -> Self {
        Self {
            used: Cell::new(0),
            storage: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// With memory that is zero.
    pub const fn zeroed() -> Self {
        Self {
            used: Cell::new(0),
            storage: UnsafeCell::new(MaybeUninit::zeroed()),
        }
    }

    /// A `Bump` where there is room for one. Only the count is written, the rest stays as it is.
    pub const fn from_maybe_uninit(room: &mut MaybeUninit<Self>) -> &mut Self {
        let bump = room.as_mut_ptr();
        // SAFETY: the room is valid for writes.
        unsafe { (&raw mut (*bump).used).write(Cell::new(0)) };
        // SAFETY: the count is initialised, and the storage need not be.
        unsafe { &mut *bump }
    }

    /// Using it is a compile-time check.
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
        // SAFETY: both types begin with the count, which the storage follows without padding, and
        // both are padded to a multiple of a word. The pointer has as many bytes of storage.
        unsafe { &*(slice as *const BumpSlice) }
    }
}

impl<T> DerefMut for Bump<T> {
    fn deref_mut(&mut self) -> &mut BumpSlice {
        let () = Self::LAYOUT_IS_THAT_OF_A_SLICE;
        let slice = ptr::slice_from_raw_parts_mut(ptr::from_mut(self).cast::<u8>(), size_of::<T>());
        // SAFETY: as for `deref`, and the borrow is mutable.
        unsafe { &mut *(slice as *mut BumpSlice) }
    }
}

/// Memory of any size, which begins with a count of how much of it is used.
///
/// What is allocated lives as long as this is borrowed. Only [`reset`](BumpSlice::reset), which
/// nothing that was allocated survives, makes room again.
#[repr(C)]
pub struct BumpSlice {
    /// How many bytes from the base are handed out, at most `storage.len()`.
    used: Cell<usize>,
    storage: UnsafeCell<[MaybeUninit<u8>]>,
}

/// The memory has no room for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FromMemError(());

impl fmt::Display for FromMemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the memory has no room for a bump allocator")
    }
}

impl core::error::Error for FromMemError {}

impl BumpSlice {
    /// A bump allocator of what `mem` has from the first aligned address up, in whole words.
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
    /// [`FromMemError`] if there is no room for the count, which is a word.
    pub fn from_mem(mem: &mut [MaybeUninit<u8>]) -> Result<LeakBox<'_, Self>, FromMemError> {
        let (base, capacity) = place::<Cell<usize>>(mem).ok_or(FromMemError(()))?;
        let slice = ptr::slice_from_raw_parts_mut(base.as_ptr(), capacity);
        // SAFETY: there is room for the count and the storage, aligned, and borrowed mutably.
        unsafe {
            base.cast::<Cell<usize>>().write(Cell::new(0));
            Ok(LeakBox::from_raw(slice as *mut BumpSlice))
        }
    }

    /// The bump allocator that is already there, with its level as it was: the opposite of
    /// [`into_mem`](Self::into_mem).
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
    /// // SAFETY: it comes from `into_mem`, and is as it was.
    /// let bump = unsafe { BumpSlice::from_mem_unchecked(memory) };
    /// assert_eq!(bump.level().byte_offset(), 12);
    /// ```
    ///
    /// # Safety
    /// `mem` is what [`into_mem`](Self::into_mem) returned, and its first word was not changed.
    /// Pointers into it from before are not used.
    ///
    /// # Panics
    /// If the memory cannot be that, because it has no room for the count.
    pub unsafe fn from_mem_unchecked(mem: &mut [MaybeUninit<u8>]) -> LeakBox<'_, Self> {
        let capacity = mem.len().checked_sub(size_of::<usize>());
        let capacity = capacity.expect("the memory of a bump allocator");
        let slice = ptr::slice_from_raw_parts_mut(mem.as_mut_ptr(), capacity);
        // SAFETY: the memory is aligned, has a count and as much storage, and is borrowed mutably.
        unsafe { LeakBox::from_raw(slice as *mut BumpSlice) }
    }

    /// The memory of a bump allocator, its count included: see the diagram of
    /// [`from_mem`](Self::from_mem).
    pub fn into_mem<'lt>(this: LeakBox<'lt, Self>) -> &'lt mut [MaybeUninit<u8>] {
        let size = size_of_val(&*this);
        let base = LeakBox::into_raw(this).cast();
        // SAFETY: the memory was the box's, for `'lt`. Nothing in it needs to be dropped.
        unsafe { core::slice::from_raw_parts_mut(base, size) }
    }

    /// The size of the memory, used or not, in bytes.
    pub const fn capacity(&self) -> usize {
        self.storage.get().len()
    }

    /// Where the memory begins. It is valid for [`capacity`](Self::capacity) bytes, parts of which
    /// others may be using.
    pub const fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: a field is not at null.
        unsafe { NonNull::new_unchecked(self.storage.get().cast()) }
    }

    fn region(&self) -> Region<'_, Cell<usize>> {
        // SAFETY: the memory is this large, lives as long as `self` is borrowed, and this count is
        // the only one for it.
        unsafe { Region::new(self.data_ptr(), self.capacity(), &self.used) }
    }

    /// A range of memory for `layout`, or `None` if there is not enough: the lowest unused one that
    /// is aligned, as with [`Bump::alloc`](super::Bump::alloc). O(1).
    ///
    /// # Panics
    /// If the layout's size is zero.
    pub fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.alloc_at(layout, self.level()).ok()
    }

    /// As [`alloc`](Self::alloc), but only if nothing was allocated since the level was `level`:
    /// see the diagram of [`Bump::alloc_at`](super::Bump::alloc_at).
    ///
    /// # Errors
    /// [`Failure::Mismatch`], with the level that it is; [`Failure::Exhausted`].
    ///
    /// # Panics
    /// If the layout's size is zero.
    pub fn alloc_at(&self, layout: Layout, level: Level) -> Result<NonNull<u8>, Failure> {
        assert_ne!(
            layout.size(),
            0,
            "zero bytes were asked of a bump allocator"
        );
        Ok(self.region().take_at(layout, level)?.ptr)
    }

    /// Room for a `V`: an [`Allocation`], whose diagram shows where.
    pub fn get<V>(&self) -> Option<Allocation<'_, V>> {
        self.get_at(self.level()).ok()
    }

    /// Room for a `V`, if nothing was allocated since the level was `level`. Zero bytes can always
    /// be had.
    ///
    /// # Errors
    /// [`Failure::Mismatch`], with the level that it is; [`Failure::Exhausted`].
    pub fn get_at<V>(&self, level: Level) -> Result<Allocation<'_, V>, Failure> {
        Ok(self.region().take_at(Layout::new::<V>(), level)?.cast())
    }

    /// The memory from `level` up, as a `V`: see the diagram of
    /// [`Bump::get_unchecked`](super::Bump::get_unchecked). Nothing is allocated.
    ///
    /// # Safety
    /// * `level` is the [start](Allocation::level_start) of an allocation of this allocator, and the
    ///   memory there is aligned for `V`.
    /// * What is done with the pointer does not conflict with what others do with allocations there.
    pub unsafe fn get_unchecked<V>(&self, level: Level) -> Allocation<'_, V> {
        // SAFETY: a level of this allocator is no higher than its capacity.
        let ptr = unsafe { self.data_ptr().byte_add(level.byte_offset()) };
        self.region()
            .allocation(ptr, Level(level.0 + size_of::<V>()))
            .cast()
    }

    /// Room for a `T`, in a box: [`LeakBox::write`] moves a value in.
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
        let room = self.get_at::<T>(self.level())?;
        // SAFETY: the room is for a `T`, and nobody else's.
        Ok(LeakBox::from(unsafe { room.uninit() }))
    }

    /// Room for `n` of `T`, one after the other, in a box.
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
    /// for (room, number) in numbers.iter_mut().zip(1..) {
    ///     room.write(number);
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
        let room = self.region().take(layout)?.ptr.cast();
        // SAFETY: the room is for so many, and nobody else's for as long as `self` is borrowed.
        let slice = unsafe { core::slice::from_raw_parts_mut(room.as_ptr(), n) };
        Ok(LeakBox::from(slice))
    }

    /// How much is used: see the diagram of [`Level`].
    pub fn level(&self) -> Level {
        self.region().level()
    }

    /// Starts over, at level 0. Nothing that was allocated can be alive, or else `self` would be
    /// borrowed. The memory is left as it is.
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
