//! Half-open address ranges.

use core::fmt;
use core::ops::Range;

/// The addresses from a base up to, but not including, an end.
///
/// A value for reasoning about memory: making one touches nothing and promises nothing. Whatever its
/// pointers are, a span whose end is not above its base is empty, and all empty spans are equal.
///
/// Operations that narrow a span keep its pointers' provenance; [`extend`](Span::extend) and
/// [`fit_over`](Span::fit_over) move a pointer to an address that its provenance may not cover.
#[derive(Clone, Copy)]
pub struct Span {
    base: *mut u8,
    end: *mut u8,
}

// SAFETY: a span is two addresses; using them is somebody else's unsafe code.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// From `base` up to `end`.
    #[inline]
    pub const fn new(base: *mut u8, end: *mut u8) -> Self {
        Self { base, end }
    }

    /// Without any address.
    #[inline]
    pub const fn empty() -> Self {
        Self::new(core::ptr::null_mut(), core::ptr::null_mut())
    }

    /// `size` bytes from `base`, or `None` if that is beyond the last address.
    #[inline]
    pub fn from_base_size(base: *mut u8, size: usize) -> Option<Self> {
        base.addr().checked_add(size)?;
        Some(Self::new(base, base.wrapping_add(size)))
    }

    /// The memory of a slice.
    #[inline]
    pub fn from_slice<T>(slice: *mut [T]) -> Self {
        let base: *mut T = slice.cast();
        Self::new(base.cast(), base.wrapping_add(slice.len()).cast())
    }

    /// The memory of an array.
    #[inline]
    pub fn from_array<T, const N: usize>(array: *mut [T; N]) -> Self {
        Self::from_slice(array)
    }

    /// The lowest address. Of an empty span, anything.
    #[inline]
    pub const fn base(self) -> *mut u8 {
        self.base
    }

    /// The first address above. Of an empty span, anything.
    #[inline]
    pub const fn end(self) -> *mut u8 {
        self.end
    }

    /// The number of addresses.
    #[inline]
    pub fn size(self) -> usize {
        self.end.addr().saturating_sub(self.base.addr())
    }

    /// Whether there is no address in it.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.size() == 0
    }

    /// Whether the address is in it.
    #[inline]
    pub fn contains(self, ptr: *mut u8) -> bool {
        self.base <= ptr && ptr < self.end
    }

    /// Whether every address of `other` is in it.
    #[inline]
    pub fn contains_span(self, other: Span) -> bool {
        other.is_empty() || self.base <= other.base && other.end <= self.end
    }

    /// Whether an address is in both.
    #[inline]
    pub fn overlaps(self, other: Span) -> bool {
        !self.fit_within(other).is_empty()
    }

    /// The addresses that are in both.
    #[inline]
    pub fn fit_within(self, container: Span) -> Span {
        self.above(container.base).below(container.end)
    }

    /// The smallest span that has all addresses of both.
    #[inline]
    pub fn fit_over(self, other: Span) -> Span {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Span::new(
                self.base.with_addr(self.base.addr().min(other.base.addr())),
                self.end.with_addr(self.end.addr().max(other.end.addr())),
            ),
        }
    }

    /// With `low` addresses more below and `high` more above, as far as there are any. An empty span
    /// stays empty.
    #[inline]
    pub fn extend(self, low: usize, high: usize) -> Span {
        if self.is_empty() {
            return self;
        }
        Span::new(
            self.base.with_addr(self.base.addr().saturating_sub(low)),
            self.end.with_addr(self.end.addr().saturating_add(high)),
        )
    }

    /// Without its `low` lowest and its `high` highest addresses.
    #[inline]
    pub fn truncate(self, low: usize, high: usize) -> Span {
        Span::new(
            self.base.with_addr(self.base.addr().saturating_add(low)),
            self.end.with_addr(self.end.addr().saturating_sub(high)),
        )
    }

    /// Its addresses from `ptr` up.
    #[inline]
    pub fn above(self, ptr: *mut u8) -> Span {
        Span::new(
            self.base.with_addr(self.base.addr().max(ptr.addr())),
            self.end,
        )
    }

    /// Its addresses below `ptr`.
    #[inline]
    pub fn below(self, ptr: *mut u8) -> Span {
        Span::new(
            self.base,
            self.end.with_addr(self.end.addr().min(ptr.addr())),
        )
    }

    /// Its addresses below all of `hole`, and its addresses above. If the hole is empty, the span and
    /// nothing.
    #[inline]
    pub fn except(self, hole: Span) -> (Span, Span) {
        if hole.is_empty() {
            return (self, Span::empty());
        }
        (self.below(hole.base), self.above(hole.end))
    }

    /// The largest span in it whose base and end are multiples of `align`, a power of two.
    #[inline]
    pub fn align_inward(self, align: usize) -> Span {
        debug_assert!(align.is_power_of_two());
        let end = self.end.map_addr(|end| end & !(align - 1));
        match self.base.addr().checked_next_multiple_of(align) {
            Some(base) => Span::new(self.base.with_addr(base), end),
            None => Span::empty(),
        }
    }

    /// The largest span in it whose base and end are multiples of the size of a word.
    #[inline]
    pub fn word_align_inward(self) -> Span {
        self.align_inward(align_of::<usize>())
    }
}

impl PartialEq for Span {
    fn eq(&self, other: &Self) -> bool {
        self.is_empty() && other.is_empty() || self.base == other.base && self.end == other.end
    }
}

impl Eq for Span {}

impl Default for Span {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Range<*mut u8>> for Span {
    fn from(range: Range<*mut u8>) -> Self {
        Self::new(range.start, range.end)
    }
}

impl<T> From<&mut [T]> for Span {
    fn from(slice: &mut [T]) -> Self {
        Self::from_slice(slice)
    }
}

impl<T, const N: usize> From<&mut [T; N]> for Span {
    fn from(array: &mut [T; N]) -> Self {
        Self::from_array(array)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            f.write_str("empty")
        } else {
            write!(f, "{:#x}..{:#x}", self.base.addr(), self.end.addr())
        }
    }
}
