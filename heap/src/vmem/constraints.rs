//! The layout of a constrained allocation.

/// Size, alignment and further constraints of an allocation.
///
/// All constraints apply to the range `[base, base + size)` with the size as it was asked for, not
/// as it is rounded up to the quantum.
///
/// Of size 0x3000, at an alignment of 0x4000 with a phase of 0x2000, not across a multiple of
/// 0x1_0000, and within these bounds, there is one range only:
///
/// ```text
///              0x8000          0xc000          0x1_0000        0x1_4000        0x1_8000
///  align       ├───────────────┼───────────────┼───────────────┼───────────────┼───
///  below min           ├──────────┤
///  crosses                             ├──────────┤
///  fits                                                ├──────────┤
///  above max                                                           ├──────────┤
///                          └ min 0xb000                max 0x1_5fff ──┘
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
/// arena.add_span(0x8000, 0x1_8000)?;
/// let layout = Layout::from_size_align(0x3000, 0x4000)
///     .and_then(|layout| layout.with_nocross(0x1_0000))
///     .unwrap()
///     .with_phase(0x2000)
///     .with_min(0xb000)
///     .with_max(0x1_5fff);
/// assert_eq!(arena.xalloc(layout, AllocPolicy::InstantFit), Ok(0x1_2000));
/// assert!(arena.xalloc(layout, AllocPolicy::InstantFit).is_err());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    size: usize,
    align: usize,
    phase: Option<usize>,
    nocross: Option<usize>,
    min: Option<usize>,
    max: Option<usize>,
}

impl Layout {
    /// A layout of `size` at multiples of `align`; `None` if the size is zero or the alignment is
    /// not a power of two.
    pub const fn from_size_align(size: usize, align: usize) -> Option<Self> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        Some(Self::unconstrained(size, align))
    }

    /// The layout of a value of type `T`. For a type of size zero this is a layout that every
    /// arena refuses.
    pub const fn new<T>() -> Self {
        Self::unconstrained(size_of::<T>(), align_of::<T>())
    }

    const fn unconstrained(size: usize, align: usize) -> Self {
        Self {
            size,
            align,
            phase: None,
            nocross: None,
            min: None,
            max: None,
        }
    }

    /// Asks for a base that lies `phase` after a multiple of the alignment: `base ≡ phase (mod
    /// align)`, as in the [diagram](Self). Of a phase of `align` or more the remainder counts.
    ///
    /// An arena refuses a remainder that is no multiple of its quantum, as
    /// [`Unsatisfiable`](super::Error::Unsatisfiable).
    #[must_use]
    pub const fn with_phase(mut self, phase: usize) -> Self {
        self.phase = Some(phase);
        self
    }

    /// Asks that no multiple of `align` lies strictly inside the range; `None` unless `align` is a
    /// power of two and at least the size. A range may begin or end at one:
    ///
    /// ```text
    ///              0x1_0000                                0x2_0000
    ///  ────────────────┼───────────────────────────────────────┼──────────
    ///                  ├──── allowed ────┤   ├──── allowed ────┤
    ///           ├──── crosses ────┤
    /// ```
    ///
    /// ```
    /// use heap::vmem::Layout;
    ///
    /// // A DMA buffer: below 16 MiB, not across a boundary of 64 KiB.
    /// let layout = Layout::from_size_align(0x3000, 0x1000).unwrap();
    /// let buffer = layout.with_nocross(0x1_0000).unwrap().with_max(0xff_ffff);
    /// assert_eq!((buffer.nocross(), buffer.max()), (Some(0x1_0000), Some(0xff_ffff)));
    /// assert_eq!(layout.with_nocross(0x2000), None);
    /// ```
    pub const fn with_nocross(mut self, align: usize) -> Option<Self> {
        if !align.is_power_of_two() || align < self.size {
            return None;
        }
        self.nocross = Some(align);
        Some(self)
    }

    /// Sets the lowest address that the range may contain: see the [diagram](Self).
    #[must_use]
    pub const fn with_min(mut self, min: usize) -> Self {
        self.min = Some(min);
        self
    }

    /// Sets the highest address that the range may contain, with its last byte: see the
    /// [diagram](Self).
    #[must_use]
    pub const fn with_max(mut self, max: usize) -> Self {
        self.max = Some(max);
        self
    }

    /// The size.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The alignment, a power of two.
    pub const fn align(&self) -> usize {
        self.align
    }

    /// The phase, if one was set.
    pub const fn phase(&self) -> Option<usize> {
        self.phase
    }

    /// The boundary not to cross, if one was set: a power of two, at least the size.
    pub const fn nocross(&self) -> Option<usize> {
        self.nocross
    }

    /// The lowest address that the range may contain, if one was set.
    pub const fn min(&self) -> Option<usize> {
        self.min
    }

    /// The highest address that the range may contain, if one was set.
    pub const fn max(&self) -> Option<usize> {
        self.max
    }
}

impl From<core::alloc::Layout> for Layout {
    fn from(layout: core::alloc::Layout) -> Self {
        Self::unconstrained(layout.size(), layout.align())
    }
}
