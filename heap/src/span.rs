//! Half-open ranges of addresses.

use core::fmt;
use core::ops::Range;

/// The addresses from a base up to, but not including, an end.
///
/// ```text
///     0x1000            0x3000                           0x6000
/// ────┬─────────────────┬────────────────────────────────┬────
///     ├─────────────────────── a span ───────────────────┤
///     ^ base: in it                                      ^ end: the first address above it
/// ```
///
/// A value of this type is not a span of an arena: that is a range that an arena of `vmem` has as
/// a whole.
///
/// A value for computing with addresses: making one accesses no memory and promises nothing. A span
/// whose end is not above its base is empty, and all empty spans are equal. An end is an address
/// too, so the very last address is in no span.
///
/// Units are bytes, and every operation takes constant time. In the diagrams of the methods, `├` is
/// the first address of a span, and `┤` the first above it.
///
/// Operations that narrow a span keep the provenance of its pointers. [`extend`](Span::extend) and
/// [`fit_over`](Span::fit_over) move a pointer to an address that its provenance may not cover.
///
/// ```
/// use core::ptr::without_provenance_mut as at;
/// use heap::Span;
///
/// let span = |base, end| Span::new(at(base), at(end));
/// let (a, b) = (span(0x1000, 0x4000), span(0x3000, 0x6000));
/// assert_eq!(a.size(), 0x3000);
/// assert!(a.contains(at(0x3fff)) && !a.contains(at(0x4000)));
/// assert!(a.overlaps(b) && !a.contains_span(b));
/// assert_eq!(a.fit_within(b), span(0x3000, 0x4000));
/// assert_eq!(a.fit_over(span(0x5000, 0x6000)), span(0x1000, 0x6000));
/// assert_eq!(b.extend(0x1000, 0), span(0x2000, 0x6000));
/// assert_eq!(b.truncate(0, 0x2000), span(0x3000, 0x4000));
/// assert_eq!(b.below(at(0x5000)), span(0x3000, 0x5000));
/// assert_eq!(b.above(at(0x5000)), span(0x5000, 0x6000));
/// assert_eq!(span(0x1000, 0x6000).except(b), (a.below(b.base()), Span::empty()));
/// assert_eq!(span(0x1800, 0x4800).align_inward(0x1000), span(0x2000, 0x4000));
/// assert_eq!(span(0x2000, 0x1000), Span::empty());
/// ```
#[derive(Clone, Copy)]
pub struct Span {
    base: *mut u8,
    end: *mut u8,
}

// SAFETY: a span is two addresses; only unsafe code elsewhere can access memory through them.
unsafe impl Send for Span {}
// SAFETY: the same holds for shared references to a span.
unsafe impl Sync for Span {}

impl Span {
    /// Returns the addresses from `base` up to `end`.
    #[inline]
    pub const fn new(base: *mut u8, end: *mut u8) -> Self {
        Self { base, end }
    }

    /// Returns an empty span.
    #[inline]
    pub const fn empty() -> Self {
        Self::new(core::ptr::null_mut(), core::ptr::null_mut())
    }

    /// Returns `size` bytes from `base`, or `None` if the end would be above the last address.
    #[inline]
    pub fn from_base_size(base: *mut u8, size: usize) -> Option<Self> {
        base.addr().checked_add(size)?;
        Some(Self::new(base, base.wrapping_add(size)))
    }

    /// Returns the memory of a slice.
    ///
    /// ```text
    ///             0x1000  0x1004  0x1008  0x100c  0x1010  0x1014
    /// [u32; 5]    ├─ [0] ─┼─ [1] ─┼─ [2] ─┼─ [3] ─┼─ [4] ─┤
    /// span        ├───────────────────────────────────────┤  20 bytes
    /// ```
    #[inline]
    pub fn from_slice<T>(slice: *mut [T]) -> Self {
        let base: *mut T = slice.cast();
        Self::new(base.cast(), base.wrapping_add(slice.len()).cast())
    }

    /// Returns the memory of an array, as [that of a slice](Self::from_slice).
    #[inline]
    pub fn from_array<T, const N: usize>(array: *mut [T; N]) -> Self {
        Self::from_slice(array)
    }

    /// Returns the lowest address, as in the [diagram](Self). The base of an empty span has no
    /// meaning.
    #[inline]
    pub const fn base(self) -> *mut u8 {
        self.base
    }

    /// Returns the first address above, as in the [diagram](Self). The end of an empty span has no
    /// meaning.
    #[inline]
    pub const fn end(self) -> *mut u8 {
        self.end
    }

    /// Returns the number of addresses.
    #[inline]
    pub fn size(self) -> usize {
        self.end.addr().saturating_sub(self.base.addr())
    }

    /// Returns whether the span has no address.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.size() == 0
    }

    /// Returns whether the address is in the span.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000
    /// self                 ├────────┤
    /// contains    ^ no     ^ yes    ^ no
    /// ```
    #[inline]
    pub fn contains(self, ptr: *mut u8) -> bool {
        self.base <= ptr && ptr < self.end
    }

    /// Returns whether every address of `other` is in the span. That is true of an empty `other`.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000
    /// self        ├──────────────────────────┤
    /// contains             ├─────────────────┤  true
    /// contains                      ├─────────────────┤  false
    /// ```
    #[inline]
    pub fn contains_span(self, other: Span) -> bool {
        other.is_empty() || self.base <= other.base && other.end <= self.end
    }

    /// Returns whether an address is in both.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000
    /// self        ├─────────────────┤
    /// overlaps             ├─────────────────┤  true
    /// overlaps                      ├─────────────────┤  false: they only touch
    /// ```
    #[inline]
    pub fn overlaps(self, other: Span) -> bool {
        !self.fit_within(other).is_empty()
    }

    /// Returns the addresses that are in both.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000   0x6000
    /// self        ├──────────────────────────┤
    /// container                     ├──────────────────────────┤
    /// result                        ├────────┤
    /// ```
    #[inline]
    pub fn fit_within(self, container: Span) -> Span {
        self.above(container.base).below(container.end)
    }

    /// Returns the smallest span that has all addresses of both, and so the addresses between them.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000
    /// self, other ├────────┤                 ├────────┤
    /// result      ├───────────────────────────────────┤
    /// ```
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

    /// Adds `low` addresses below and `high` above, as far as the address space reaches. An empty
    /// span stays empty.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000   0x6000
    /// self                          ├────────┤
    /// result               ├───────────────────────────────────┤  extend(0x1000, 0x2000)
    /// ```
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

    /// Removes the `low` lowest and the `high` highest addresses. The result is empty if the span
    /// has no more than that.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000   0x6000
    /// self        ├────────────────────────────────────────────┤
    /// result               ├────────┤  truncate(0x1000, 0x3000)
    /// ```
    #[inline]
    pub fn truncate(self, low: usize, high: usize) -> Span {
        Span::new(
            self.base.with_addr(self.base.addr().saturating_add(low)),
            self.end.with_addr(self.end.addr().saturating_sub(high)),
        )
    }

    /// Returns its addresses from `ptr` up.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000
    /// self        ├───────────────────────────────────┤
    /// ptr                           ^
    /// below(ptr)  ├─────────────────┤
    /// above(ptr)                    ├─────────────────┤
    /// ```
    #[inline]
    pub fn above(self, ptr: *mut u8) -> Span {
        Span::new(
            self.base.with_addr(self.base.addr().max(ptr.addr())),
            self.end,
        )
    }

    /// Returns its addresses below `ptr`: see [`above`](Self::above).
    #[inline]
    pub fn below(self, ptr: *mut u8) -> Span {
        Span::new(
            self.base,
            self.end.with_addr(self.end.addr().min(ptr.addr())),
        )
    }

    /// Returns the addresses below all of `hole`, and those above it. If the hole is empty, returns
    /// the whole span and an empty one.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000   0x6000
    /// self        ├────────────────────────────────────────────┤
    /// hole                 ├─────────────────┤
    /// results     ├────────┤                 ├─────────────────┤
    /// ```
    #[inline]
    pub fn except(self, hole: Span) -> (Span, Span) {
        if hole.is_empty() {
            return (self, Span::empty());
        }
        (self.below(hole.base), self.above(hole.end))
    }

    /// Returns the largest span in it whose base and end are multiples of `align`, a power of two.
    ///
    /// ```text
    ///             0x1000   0x2000   0x3000   0x4000   0x5000
    /// self            ├───────────────────────────┤
    /// result               ├─────────────────┤  align_inward(0x1000)
    /// ```
    ///
    /// # Panics
    /// With debug assertions, if `align` is not a power of two.
    #[inline]
    pub fn align_inward(self, align: usize) -> Span {
        debug_assert!(align.is_power_of_two());
        let end = self.end.map_addr(|end| end & !(align - 1));
        match self.base.addr().checked_next_multiple_of(align) {
            Some(base) => Span::new(self.base.with_addr(base), end),
            None => Span::empty(),
        }
    }

    /// Returns the largest span in it whose base and end are multiples of the size of a word:
    /// [`align_inward`](Self::align_inward) with 8, or 4 on 32-bit machines.
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

#[cfg(test)]
mod tests {
    use core::ptr::without_provenance_mut;
    use std::format;

    use super::*;

    fn span(base: usize, end: usize) -> Span {
        Span::new(without_provenance_mut(base), without_provenance_mut(end))
    }

    /// Returns all spans over addresses from 0 to 7, including those whose end is below the base.
    fn all() -> impl Iterator<Item = Span> + Clone {
        (0..8).flat_map(|base| (0..8).map(move |end| span(base, end)))
    }

    fn addresses(span: Span) -> impl Iterator<Item = usize> + Clone {
        (0..8).filter(move |&addr| span.contains(without_provenance_mut(addr)))
    }

    #[test]
    fn sizes_and_equality_are_those_of_the_set_of_addresses() {
        for a in all() {
            assert_eq!(a.size(), addresses(a).count(), "{a}");
            assert_eq!(a.is_empty(), addresses(a).next().is_none(), "{a}");
            for b in all() {
                assert_eq!(a == b, addresses(a).eq(addresses(b)), "{a} == {b}");
            }
        }
        assert!(span(5, 5) == Span::empty() && span(6, 2) == Span::default());
    }

    #[test]
    fn operations_are_those_of_the_set_of_addresses() {
        let has = |span: Span, addr| span.contains(without_provenance_mut(addr));
        for (a, b) in all().flat_map(|a| all().map(move |b| (a, b))) {
            assert!(addresses(a.fit_within(b)).eq(addresses(a).filter(|&at| has(b, at))));
            assert_eq!(a.overlaps(b), addresses(a).any(|at| has(b, at)), "{a} {b}");
            assert_eq!(
                a.contains_span(b),
                addresses(b).all(|at| has(a, at)),
                "{a} {b}"
            );
            let over = a.fit_over(b);
            assert!(over.contains_span(a) && over.contains_span(b), "{a} {b}");
            let ends = [a, b].into_iter().flat_map(addresses);
            assert_eq!(addresses(over).min(), ends.clone().min());
            assert_eq!(addresses(over).max(), ends.max());
            let (below, above) = a.except(b);
            assert!(
                addresses(below)
                    .chain(addresses(above))
                    .eq(addresses(a).filter(|&at| !has(b, at))),
                "{a} except {b}"
            );
        }
        for (a, at) in all().flat_map(|a| (0..8).map(move |at| (a, at))) {
            let ptr = without_provenance_mut(at);
            assert!(addresses(a.above(ptr)).eq(addresses(a).filter(|&addr| addr >= at)));
            assert!(addresses(a.below(ptr)).eq(addresses(a).filter(|&addr| addr < at)));
        }
    }

    #[test]
    fn sizes_and_addresses_never_wrap_around() {
        assert!(Span::from_base_size(without_provenance_mut(10), usize::MAX - 9).is_none());
        assert_eq!(
            Span::from_base_size(without_provenance_mut(10), usize::MAX - 10),
            Some(span(10, usize::MAX))
        );
        assert_eq!(span(5, 10).extend(6, usize::MAX), span(0, usize::MAX));
        assert_eq!(span(5, 10).truncate(2, 1), span(7, 9));
        assert!(span(5, 10).truncate(usize::MAX, 0).is_empty());
        assert!(span(5, 10).truncate(0, usize::MAX).is_empty());
        assert!(span(5, 10).truncate(3, 3).is_empty());
        assert!(span(10, 5).extend(100, 100).is_empty());
        assert!(span(usize::MAX - 2, usize::MAX).align_inward(16).is_empty());
    }

    #[test]
    fn aligning_inward_removes_as_little_as_possible() {
        assert_eq!(span(1, 31).align_inward(8), span(8, 24));
        assert_eq!(span(8, 24).align_inward(8), span(8, 24));
        assert!(span(9, 15).align_inward(8).is_empty());
        assert_eq!(
            span(1, 100).word_align_inward(),
            span(1, 100).align_inward(size_of::<usize>())
        );
    }

    #[test]
    fn slices_and_arrays_convert_to_their_memory() {
        let mut array = [0_u32; 5];
        let base: *mut u8 = array.as_mut_ptr().cast();
        let expected = Span::new(base, base.wrapping_add(20));
        assert_eq!(Span::from_array(&raw mut array), expected);
        assert_eq!(Span::from(&mut array), expected);
        assert_eq!(Span::from(&mut array[..]), expected);
        assert_eq!(Span::from(base..base.wrapping_add(20)), expected);
        assert_eq!(expected.size(), 20);
        assert!(Span::from(&mut array[1..1]).is_empty());
        assert_eq!(format!("{}", span(16, 32)), "0x10..0x20");
        assert_eq!(format!("{:?}", span(32, 16)), "empty");
    }
}
