//! Requests: the constraints of an allocation, and the bases at which they are met.

use super::{Error, Layout, Result};

/// A request, checked against the quantum of an arena.
///
/// Bases are multiples of the quantum, and so are the ends of segments. A segment with room for
/// `size` at such a base therefore has room for `rounded_size`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// The requested size; not zero.
    pub(super) size: usize,
    /// The size, rounded up to the quantum.
    pub(super) rounded_size: usize,
    quantum: usize,
    /// At least the quantum.
    align: usize,
    /// Less than `align`, and a multiple of the quantum.
    phase: usize,
    /// No multiple of this lies strictly inside the range. It is a multiple of the quantum.
    nocross: Option<usize>,
    min: usize,
    max: usize,
}

/// Rounds a caller's size up to the quantum.
///
/// # Errors
/// [`Error::AllocZeroSize`], [`Error::SizeOverflow`].
#[inline]
pub(super) fn round_up(size: usize, quantum: usize) -> Result<usize> {
    if size == 0 {
        return Err(Error::AllocZeroSize);
    }
    // `checked_next_multiple_of` would divide, but the quantum is a power of two.
    match size.checked_add(quantum - 1) {
        Some(sum) => Ok(sum & !(quantum - 1)),
        None => Err(Error::SizeOverflow { size }),
    }
}

impl Request {
    /// Creates a request without constraints.
    #[inline]
    pub(super) fn plain(size: usize, quantum: usize) -> Result<Self> {
        Ok(Self {
            size,
            rounded_size: round_up(size, quantum)?,
            quantum,
            align: quantum,
            phase: 0,
            nocross: None,
            min: 0,
            max: usize::MAX,
        })
    }

    /// Creates a request with constraints.
    ///
    /// # Errors
    /// [`Error::Unsatisfiable`] if no address can satisfy them, and those of [`round_up`].
    pub(super) fn new(layout: &Layout, quantum: usize) -> Result<Self> {
        let size = layout.size();
        let mut request = Self::plain(size, quantum)?;
        let unsatisfiable = Err(Error::Unsatisfiable { size });

        // Every base is a multiple of the quantum, so a phase cannot be finer than that.
        let phase = layout.phase().unwrap_or(0) & (layout.align() - 1);
        if phase & (quantum - 1) != 0 {
            return unsatisfiable;
        }
        request.align = layout.align().max(quantum);
        request.phase = phase;

        // `nocross` is at least the size. If it is below the quantum, a range that begins at a
        // multiple of the quantum cannot cross a boundary.
        if let Some(nocross) = layout.nocross().filter(|&nocross| nocross >= quantum) {
            // The least distance of a base above a multiple of `nocross`.
            let offset = phase & (nocross - 1);
            if nocross - offset < size {
                return unsatisfiable;
            }
            request.nocross = Some(nocross);
        }

        request.min = layout.min().unwrap_or(0);
        request.max = layout.max().unwrap_or(usize::MAX);
        if request.min > request.max || request.max - request.min < size - 1 {
            return unsatisfiable;
        }
        Ok(request)
    }

    /// Returns the same request at or above `min`.
    pub(super) fn above(self, min: usize) -> Self {
        Self {
            min: self.min.max(min),
            ..self
        }
    }

    /// Returns the lowest base at which the request fits into the range from `start` to `last`,
    /// inclusive. Both ends of the range are at multiples of the quantum.
    #[inline]
    pub(super) fn position(&self, start: usize, last: usize) -> Option<usize> {
        let low = start.max(self.min);
        let high = last.min(self.max);
        let base = self.align_up(low)?;
        let end = base.checked_add(self.size - 1)?;
        if end > high {
            return None;
        }
        match self.nocross {
            // The size is at most `nocross`, so exactly one boundary lies inside. `new` has made
            // sure that the first base above the boundary does not cross the next one.
            Some(nocross) if (base ^ end) >= nocross => {
                let base = self.align_up(end & !(nocross - 1))?;
                let end = base.checked_add(self.size - 1)?;
                debug_assert!((base ^ end) < nocross);
                (end <= high).then_some(base)
            }
            _ => Some(base),
        }
    }

    /// Returns the lowest address with the right phase at or above `address`.
    fn align_up(&self, address: usize) -> Option<usize> {
        address.checked_add(self.phase.wrapping_sub(address) & (self.align - 1))
    }

    /// Returns whether the request has neither `min` nor `max`.
    pub(super) fn is_unbounded(&self) -> bool {
        self.min == 0 && self.max == usize::MAX
    }

    /// Returns a size such that the request fits into every segment of at least that size.
    ///
    /// `None` if the request has bounds, or if that size overflows.
    #[inline]
    pub(super) fn guaranteed_size(&self) -> Option<usize> {
        if !self.is_unbounded() {
            return None;
        }
        let slack = self.align - self.quantum;
        let once = self.rounded_size.checked_add(slack)?;
        match self.nocross {
            None => Some(once),
            // In the worst case the range at the first aligned base crosses with its last quantum.
            Some(_) => once.checked_add(once),
        }
    }

    /// Returns the layout to import from a source of this `quantum`, at least that of the arena.
    /// Every range of this layout has room for the request.
    ///
    /// The request lies as low above a multiple of the quantum as its phase permits:
    ///
    /// ```text
    ///  multiples of the quantum   base                base + quantum      base + size
    ///  imported                   ├───────────────────┼───────────────────┤
    ///  the request                        ├─── self.size ─────────┤
    ///                             └ ahead ┘                       └ behind┘
    /// ```
    ///
    /// A request without constraints imports at least `minimum`. A constrained one imports no more
    /// than it needs.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub(super) fn import_layout(self, quantum: usize, minimum: usize) -> Result<Layout> {
        let size = self.size;
        let ahead = self.phase & (quantum - 1);
        let end = ahead
            .checked_add(size)
            .ok_or(Error::SizeOverflow { size })?;
        let mut space = round_up(end, quantum).map_err(|_| Error::SizeOverflow { size })?;
        let behind = space - end;
        if self.nocross.is_none() && self.is_unbounded() {
            space = space.max(minimum);
        }
        let mut layout = Layout::from_size_align(space, self.align.max(quantum))
            .expect("a size that is not zero");
        if self.phase != ahead {
            layout = layout.with_phase(self.phase - ahead);
        }
        // No multiple of the quantum lies between the base of the range and the base of the
        // request, nor between their ends. So both cross the same boundaries, if these are
        // multiples of the quantum. Finer boundaries depend on the phase alone.
        if let Some(nocross) = self.nocross.filter(|&nocross| nocross >= quantum) {
            // `nocross` is a multiple of the quantum, and at least `end`.
            layout = layout.with_nocross(nocross).expect("room for the size");
        }
        if self.min > ahead {
            layout = layout.with_min(self.min - ahead);
        }
        if self.max != usize::MAX {
            layout = layout.with_max(self.max.saturating_add(behind));
        }
        Ok(layout)
    }

    /// Returns a second layout to import, after the source refused the
    /// [first](Self::import_layout).
    ///
    /// It is the range around the lowest base above `min`, if that base lies higher above a
    /// multiple of the quantum than the phase demands. Otherwise `None`.
    ///
    /// ```text
    ///                             base                base + quantum      base + size
    ///  imported                   ├───────────────────┼───────────────────┤
    ///  the request                             ├─── self.size ────┤
    ///                                          └ at or above self.min
    /// ```
    pub(super) fn import_layout_at_min(self, quantum: usize) -> Option<Layout> {
        if self.align >= quantum || self.min == 0 {
            return None;
        }
        let lowest = self.position(0, usize::MAX)?;
        let ahead = lowest & (quantum - 1);
        if ahead == self.phase {
            return None;
        }
        let base = lowest - ahead;
        let space = round_up(ahead.checked_add(self.size)?, quantum).ok()?;
        let layout = Layout::from_size_align(space, quantum)?.with_min(base);
        Some(layout.with_max(base.checked_add(space - 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every base against the definition of the constraints.
    fn brute_force(layout: &Layout, quantum: usize, start: usize, last: usize) -> Option<usize> {
        (start..=last).find(|&base| {
            let Some(end) = base.checked_add(layout.size() - 1) else {
                return false;
            };
            base % quantum == 0
                && end <= last
                && base % layout.align() == layout.phase().unwrap_or(0) % layout.align()
                && base >= layout.min().unwrap_or(0)
                && end <= layout.max().unwrap_or(usize::MAX)
                && layout
                    .nocross()
                    .is_none_or(|nocross| (base..=end).skip(1).all(|inside| inside % nocross != 0))
        })
    }

    fn layouts() -> impl Iterator<Item = Layout> {
        let sizes = [1usize, 2, 3, 4, 5, 8, 13];
        sizes.into_iter().flat_map(|size| {
            [1, 2, 4, 8, 16].into_iter().flat_map(move |align| {
                [None, Some(1), Some(2), Some(4), Some(7), Some(20)]
                    .into_iter()
                    .flat_map(move |phase| {
                        [None, Some(2), Some(4), Some(8), Some(16)]
                            .into_iter()
                            .flat_map(move |nocross| {
                                [
                                    (None, None),
                                    (Some(9), None),
                                    (None, Some(40)),
                                    (Some(5), Some(21)),
                                ]
                                .into_iter()
                                .filter_map(move |(min, max)| {
                                    let mut layout = Layout::from_size_align(size, align)?;
                                    if let Some(phase) = phase {
                                        layout = layout.with_phase(phase);
                                    }
                                    if let Some(nocross) = nocross {
                                        layout = layout.with_nocross(nocross)?;
                                    }
                                    if let Some(min) = min {
                                        layout = layout.with_min(min);
                                    }
                                    if let Some(max) = max {
                                        layout = layout.with_max(max);
                                    }
                                    Some(layout)
                                })
                            })
                    })
            })
        })
    }

    #[test]
    fn a_request_fits_at_the_lowest_base_that_meets_each_constraint() {
        for layout in layouts() {
            for quantum in [1, 2, 4] {
                for start in (0..48).step_by(quantum) {
                    for last in (start + quantum - 1..48).step_by(quantum) {
                        let found = Request::new(&layout, quantum)
                            .ok()
                            .and_then(|request| request.position(start, last));
                        let expected = brute_force(&layout, quantum, start, last);
                        assert_eq!(
                            found, expected,
                            "{layout:?} in {start}..={last} by {quantum}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_lowest_base_is_found_at_the_end_of_the_address_space() {
        const TOP: usize = usize::MAX - 47;
        for layout in layouts().filter(|layout| layout.max().is_none()) {
            for start in TOP..=usize::MAX {
                let found = Request::new(&layout, 1)
                    .ok()
                    .and_then(|request| request.position(start, usize::MAX));
                assert_eq!(
                    found,
                    brute_force(&layout, 1, start, usize::MAX),
                    "{layout:?}"
                );
            }
        }
    }

    #[test]
    fn a_layout_is_refused_exactly_when_no_address_satisfies_it() {
        for layout in layouts() {
            for quantum in [1, 2, 4] {
                let refused = Request::new(&layout, quantum).is_err();
                let nowhere = brute_force(&layout, quantum, 0, 127).is_none();
                // `Request::new` does not notice bounds that exclude every aligned base.
                if refused || layout.min().is_none() && layout.max().is_none() {
                    assert_eq!(refused, nowhere, "{layout:?} by {quantum}");
                }
            }
        }
    }

    #[test]
    fn a_segment_of_the_guaranteed_size_always_has_room() {
        for layout in layouts() {
            for quantum in [1, 2, 4] {
                let Ok(request) = Request::new(&layout, quantum) else {
                    continue;
                };
                let Some(sure) = request.guaranteed_size() else {
                    continue;
                };
                for start in (0..64).step_by(quantum) {
                    assert!(
                        request.position(start, start + sure - 1).is_some(),
                        "{layout:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_range_of_the_import_layout_has_room_for_the_request() {
        for layout in layouts() {
            for (quantum, source) in [(1, 1), (2, 2), (4, 4), (1, 4), (2, 8), (1, 16), (4, 32)] {
                let Ok(request) = Request::new(&layout, quantum) else {
                    continue;
                };
                let imports = [
                    request.import_layout(source, 0).ok(),
                    request.import_layout_at_min(source),
                ];
                for import in imports.into_iter().flatten() {
                    for base in (0..128).step_by(source) {
                        let last = base + import.size() - 1;
                        if brute_force(&import, source, base, last) == Some(base) {
                            assert!(
                                request.position(base, last).is_some(),
                                "{layout:?} {import:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_of_the_import_layouts_finds_each_vacant_range_that_fits() {
        for layout in layouts() {
            for (quantum, source) in [(1, 4), (2, 8), (1, 16), (4, 32)] {
                let Ok(request) = Request::new(&layout, quantum) else {
                    continue;
                };
                let imports = [
                    request.import_layout(source, 0).ok(),
                    request.import_layout_at_min(source),
                ];
                // The source has no more than the pages around this base.
                for base in (0..96).filter(|&base| {
                    request.position(base, base + request.rounded_size - 1) == Some(base)
                }) {
                    let first = base - base % source;
                    let last = (base + request.size).next_multiple_of(source) - 1;
                    let lent = |import: &Layout| brute_force(import, source, first, last).is_some();
                    assert!(
                        imports.iter().flatten().any(lent),
                        "{layout:?} at {base} by {source}"
                    );
                }
            }
        }
    }
}
