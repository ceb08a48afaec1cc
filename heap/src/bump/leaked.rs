//! Owning a value, but not the memory that it is in.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

pub use super::alloca::Alloca;

/// A value in memory that outlives `'ctx`. The value is dropped when the box is, the memory is left.
///
/// ```text
///                              memory of a Bump, of a static, of the stack
///  LeakBox ──── pointer ────▶  │ value │
///
///  drop(box)                   │ ├┄┄┄┤ │   value dropped
///  LeakBox::take(box)          │ ├┄┄┄┤ │   value moved to the caller
///  LeakBox::leak(box)          │ value │   &mut value; nobody drops it
///  LeakBox::into_raw(box)      │ value │   *mut value; nobody drops it, or from_raw owns it again
/// ```
///
/// ```
/// use heap::bump::{Bump, leaked::LeakBox};
///
/// let bump: Bump<[usize; 64]> = Bump::uninit();
/// let mut name = bump.leak_box(String::from("heap")).expect("there is room");
/// name.push_str(" pages");
/// assert_eq!(LeakBox::take(name), "heap pages");
/// ```
pub struct LeakBox<'ctx, T: ?Sized> {
    /// To a value that is initialised and that only this box uses.
    pointer: NonNull<T>,
    lifetime: PhantomData<&'ctx ()>,
    /// Invariant, as behind a mutable reference: one may have been lent for this, and its owner
    /// expects to find the same type in it.
    value: PhantomData<*mut T>,
}

// SAFETY: it owns the value.
unsafe impl<T: ?Sized + Send> Send for LeakBox<'_, T> {}
// SAFETY: sharing the box is sharing the value.
unsafe impl<T: ?Sized + Sync> Sync for LeakBox<'_, T> {}

impl<'ctx, T: ?Sized> LeakBox<'ctx, T> {
    /// The pointer to the value, which nobody drops any more.
    ///
    /// ```
    /// use heap::bump::{Bump, leaked::LeakBox};
    ///
    /// let bump: Bump<[usize; 8]> = Bump::uninit();
    /// let pointer = LeakBox::into_raw(bump.leak_box(String::from("raw")).unwrap());
    /// // SAFETY: the pointer is a box's, nobody else has it, and the `Bump` is still there.
    /// let text = unsafe { LeakBox::from_raw(pointer) };
    /// assert_eq!(*text, "raw");
    /// ```
    pub fn into_raw(this: Self) -> *mut T {
        ManuallyDrop::new(this).pointer.as_ptr()
    }

    /// The opposite of [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    /// The pointer is to a valid value, which only the box uses as long as it is there, which may be
    /// `'ctx`, and which may be dropped then.
    pub unsafe fn from_raw(pointer: *mut T) -> Self {
        // SAFETY: what points to a value is not null.
        let pointer = unsafe { NonNull::new_unchecked(pointer) };
        Self {
            pointer,
            lifetime: PhantomData,
            value: PhantomData,
        }
    }

    /// Owns the value that a reference leads to.
    ///
    /// # Safety
    /// Nobody uses or drops the value when the box is gone.
    pub unsafe fn from_mut_unchecked(val: &'ctx mut T) -> Self {
        // SAFETY: a reference leads to a valid value, and is the only one.
        unsafe { Self::from_raw(val) }
    }

    /// The value for as long as its memory lives, or shorter. Nobody drops it.
    pub fn leak<'a>(this: Self) -> &'a mut T
    where
        'ctx: 'a,
    {
        // SAFETY: the value is valid, the box's own, and its memory lives for `'ctx`.
        unsafe { &mut *Self::into_raw(this) }
    }
}

impl<T: 'static> LeakBox<'static, T> {
    /// Pins the value. Its memory is there for good and only used for it.
    pub fn into_pin(this: Self) -> Pin<Self> {
        // SAFETY: the value is never moved, its memory never reused, as `'static` says.
        unsafe { Pin::new_unchecked(this) }
    }
}

impl<'ctx, T> LeakBox<'ctx, T> {
    /// Moves the value out: see the [diagram](Self).
    pub fn take(this: Self) -> T {
        // SAFETY: the value is valid, and not used where it was any more.
        unsafe { Self::into_raw(this).read() }
    }

    /// Owns the value that a reference leads to, and that needs no drop.
    ///
    /// Nothing that lives shorter can be put in its place:
    ///
    /// ```compile_fail,E0597
    /// use heap::bump::leaked::LeakBox;
    ///
    /// let mut name: &'static str = "static";
    /// {
    ///     let short = String::from("short");
    ///     let mut lent = LeakBox::from_mut(&mut name);
    ///     *lent = short.as_str();
    /// }
    /// assert_eq!(name, "static");
    /// ```
    pub fn from_mut(val: &'ctx mut T) -> Self
    where
        T: Copy,
    {
        // SAFETY: what is `Copy` does nothing when it is dropped, so it remains as it was.
        unsafe { Self::from_mut_unchecked(val) }
    }
}

impl<'ctx, T> LeakBox<'ctx, MaybeUninit<T>> {
    /// Moves a value in. What was there is not dropped.
    ///
    /// ```text
    ///  LeakBox<MaybeUninit<T>> ──▶ │ ??    │
    ///  LeakBox<T>              ──▶ │ value │   at the same place
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::leaked::LeakBox;
    ///
    /// let mut room = MaybeUninit::uninit();
    /// let text = LeakBox::write(LeakBox::from(&mut room), String::from("stack"));
    /// assert_eq!(text.len(), 5);
    /// ```
    pub fn write(mut this: Self, val: T) -> LeakBox<'ctx, T> {
        MaybeUninit::write(&mut this, val);
        // SAFETY: it was just written.
        unsafe { Self::assume_init(this) }
    }

    /// Says that there is a value in it.
    ///
    /// # Safety
    /// There is.
    pub unsafe fn assume_init(this: Self) -> LeakBox<'ctx, T> {
        // SAFETY: there is a valid value, and it was the box's own.
        unsafe { LeakBox::from_raw(Self::into_raw(this).cast()) }
    }
}

impl<'ctx, T> From<&'ctx mut MaybeUninit<T>> for LeakBox<'ctx, MaybeUninit<T>> {
    fn from(uninit: &'ctx mut MaybeUninit<T>) -> Self {
        // SAFETY: a `MaybeUninit` does nothing when it is dropped, and anything is a valid one.
        unsafe { Self::from_mut_unchecked(uninit) }
    }
}

impl<'ctx, T> From<&'ctx mut [MaybeUninit<T>]> for LeakBox<'ctx, [MaybeUninit<T>]> {
    fn from(uninit: &'ctx mut [MaybeUninit<T>]) -> Self {
        // SAFETY: a `MaybeUninit` does nothing when it is dropped, and anything is a valid one.
        unsafe { Self::from_mut_unchecked(uninit) }
    }
}

impl<T: ?Sized> Drop for LeakBox<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the value is valid and the box's own, and not used hereafter.
        unsafe { self.pointer.drop_in_place() }
    }
}

impl<T: ?Sized> Deref for LeakBox<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value is valid, and borrowed with the box.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for LeakBox<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the value is valid, and borrowed with the box.
        unsafe { self.pointer.as_mut() }
    }
}

impl<T: ?Sized> AsRef<T> for LeakBox<'_, T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized> AsMut<T> for LeakBox<'_, T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for LeakBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for LeakBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> fmt::Pointer for LeakBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pointer.fmt(f)
    }
}

impl<T: ?Sized + Hash> Hash for LeakBox<'_, T> {
    fn hash<H: Hasher>(&self, h: &mut H) {
        (**self).hash(h);
    }
}
