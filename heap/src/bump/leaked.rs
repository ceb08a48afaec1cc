//! [`LeakBox`]: owns a value, but not the memory of the value.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

pub use super::alloca::Alloca;

/// Owns a value in memory that lives for `'ctx`. Dropping the box drops the value, and does not
/// free the memory.
///
/// ```text
///                              memory of a Bump, of a static, of the stack
///  LeakBox ──── pointer ────▶  │ value │
///
///  drop(box)                   │ ├┄┄┄┤ │   value dropped
///  LeakBox::take(box)          │ ├┄┄┄┤ │   value moved to the caller
///  LeakBox::leak(box)          │ value │   &mut value, never dropped
///  LeakBox::into_raw(box)      │ value │   *mut value, dropped only after from_raw
/// ```
///
/// ```
/// use heap::bump::{Bump, leaked::LeakBox};
///
/// let bump: Bump<[usize; 64]> = Bump::uninit();
/// let mut name = bump.leak_box(String::from("heap")).expect("the storage has room");
/// name.push_str(" pages");
/// assert_eq!(LeakBox::take(name), "heap pages");
/// ```
pub struct LeakBox<'ctx, T: ?Sized> {
    /// Leads to an initialised value that only this box uses.
    pointer: NonNull<T>,
    lifetime: PhantomData<&'ctx ()>,
    /// Makes `T` invariant, as behind a mutable reference. The box may come from one, whose owner
    /// expects a value of the same type afterwards.
    value: PhantomData<*mut T>,
}

// SAFETY: the box owns the value, which may be sent.
unsafe impl<T: ?Sized + Send> Send for LeakBox<'_, T> {}
// SAFETY: a shared box gives only a shared reference to the value, which may be shared.
unsafe impl<T: ?Sized + Sync> Sync for LeakBox<'_, T> {}

impl<'ctx, T: ?Sized> LeakBox<'ctx, T> {
    /// Returns the pointer to the value. The value is not dropped any more.
    ///
    /// ```
    /// use heap::bump::{Bump, leaked::LeakBox};
    ///
    /// let bump: Bump<[usize; 8]> = Bump::uninit();
    /// let pointer = LeakBox::into_raw(bump.leak_box(String::from("raw")).unwrap());
    /// // SAFETY: `into_raw` returned the pointer, nothing else uses it, and the `Bump` lives.
    /// let text = unsafe { LeakBox::from_raw(pointer) };
    /// assert_eq!(*text, "raw");
    /// ```
    pub fn into_raw(this: Self) -> *mut T {
        ManuallyDrop::new(this).pointer.as_ptr()
    }

    /// Creates a box from a pointer, such as one of [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    /// The pointer leads to a valid value, in memory that lives for `'ctx`. Only the box uses the
    /// value while the box exists, and it may drop the value.
    pub unsafe fn from_raw(pointer: *mut T) -> Self {
        // SAFETY: a pointer to a value is not null.
        let pointer = unsafe { NonNull::new_unchecked(pointer) };
        Self {
            pointer,
            lifetime: PhantomData,
            value: PhantomData,
        }
    }

    /// Creates a box that owns the value behind a reference.
    ///
    /// # Safety
    /// The value is neither used nor dropped after the box has dropped it.
    pub unsafe fn from_mut_unchecked(val: &'ctx mut T) -> Self {
        // SAFETY: a mutable reference leads to a valid value and is exclusive for `'ctx`. The
        // caller vouches that the value is not used after its drop.
        unsafe { Self::from_raw(val) }
    }

    /// Returns a reference to the value for at most the lifetime of its memory. The value is never
    /// dropped.
    pub fn leak<'a>(this: Self) -> &'a mut T
    where
        'ctx: 'a,
    {
        // SAFETY: the value is valid, only the box uses it, and its memory lives for `'ctx`.
        unsafe { &mut *Self::into_raw(this) }
    }
}

impl<T: 'static> LeakBox<'static, T> {
    /// Pins the value. Its memory lives forever and holds nothing else.
    pub fn into_pin(this: Self) -> Pin<Self> {
        // SAFETY: the value never moves, and memory that is borrowed for `'static` is never reused.
        unsafe { Pin::new_unchecked(this) }
    }
}

impl<'ctx, T> LeakBox<'ctx, T> {
    /// Moves the value out of the box: see the [diagram](Self).
    pub fn take(this: Self) -> T {
        // SAFETY: the value is valid, and is not used or dropped in its memory any more.
        unsafe { Self::into_raw(this).read() }
    }

    /// Creates a box that owns the value behind a reference. The value needs no drop.
    ///
    /// A value of a shorter lifetime cannot replace it:
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
        // SAFETY: dropping a `Copy` value does nothing, so the value stays valid.
        unsafe { Self::from_mut_unchecked(val) }
    }
}

impl<'ctx, T> LeakBox<'ctx, MaybeUninit<T>> {
    /// Moves a value into the memory. A value that was there is not dropped.
    ///
    /// ```text
    ///  LeakBox<MaybeUninit<T>> ──▶ │ ??    │
    ///  LeakBox<T>              ──▶ │ value │   at the same address
    /// ```
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use heap::bump::leaked::LeakBox;
    ///
    /// let mut memory = MaybeUninit::uninit();
    /// let text = LeakBox::write(LeakBox::from(&mut memory), String::from("stack"));
    /// assert_eq!(text.len(), 5);
    /// ```
    pub fn write(mut this: Self, val: T) -> LeakBox<'ctx, T> {
        MaybeUninit::write(&mut this, val);
        // SAFETY: the value was written above.
        unsafe { Self::assume_init(this) }
    }

    /// Declares that the memory holds a value.
    ///
    /// # Safety
    /// The value is initialised.
    pub unsafe fn assume_init(this: Self) -> LeakBox<'ctx, T> {
        // SAFETY: the caller vouches for the value, and only the box used its memory.
        unsafe { LeakBox::from_raw(Self::into_raw(this).cast()) }
    }
}

impl<'ctx, T> From<&'ctx mut MaybeUninit<T>> for LeakBox<'ctx, MaybeUninit<T>> {
    fn from(uninit: &'ctx mut MaybeUninit<T>) -> Self {
        // SAFETY: dropping a `MaybeUninit` does nothing, and any bytes are a valid one.
        unsafe { Self::from_mut_unchecked(uninit) }
    }
}

impl<'ctx, T> From<&'ctx mut [MaybeUninit<T>]> for LeakBox<'ctx, [MaybeUninit<T>]> {
    fn from(uninit: &'ctx mut [MaybeUninit<T>]) -> Self {
        // SAFETY: dropping a `MaybeUninit` does nothing, and any bytes are a valid one.
        unsafe { Self::from_mut_unchecked(uninit) }
    }
}

impl<T: ?Sized> Drop for LeakBox<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the value is valid, only the box uses it, and the box is being dropped.
        unsafe { self.pointer.drop_in_place() }
    }
}

impl<T: ?Sized> Deref for LeakBox<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value is valid, and the reference borrows the box that owns it.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for LeakBox<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the value is valid, and the reference borrows the box that owns it.
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
