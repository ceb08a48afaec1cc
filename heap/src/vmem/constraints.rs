//! The constraints of an allocation, as a layout.

/// Size, alignment and further constraints of an allocation.
///
/// The constraints apply to the range `[base, base + size)` with the requested size, before it is
/// rounded up to the quantum.
///
/// The picture shows a layout of size 0x3000, aligned to 0x4000 with a phase of 0x2000. It must not
/// cross a multiple of `0x1_0000`, and it has bounds. One range satisfies all that:
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
    /// Creates a layout of `size`, aligned to `align`. `None` if `size` is zero or `align` is no
    /// power of two.
    pub const fn from_size_align(size: usize, align: usize) -> Option<Self> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        Some(Self::unconstrained(size, align))
    }

    /// Creates the layout of a value of type `T`. Every arena refuses the layout of a zero-sized
    /// type.
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

    /// Demands a base that lies `phase` above a multiple of the alignment: `base % align == phase %
    /// align`, as in the [picture](Self).
    ///
    /// If `phase % align` is no multiple of an arena's quantum, allocations there fail with
    /// [`Unsatisfiable`](super::Error::Unsatisfiable).
    #[must_use]
    pub const fn with_phase(mut self, phase: usize) -> Self {
        self.phase = Some(phase);
        self
    }

    /// Demands that no multiple of `align` lies strictly inside the range. The range may begin or
    /// end at a multiple. `None` unless `align` is a power of two and at least the size.
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
    /// // A buffer for ISA DMA: below 16 MiB, not across a multiple of 64 KiB.
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

    /// Sets the lowest address that the range may contain: see the [picture](Self).
    #[must_use]
    pub const fn with_min(mut self, min: usize) -> Self {
        self.min = Some(min);
        self
    }

    /// Sets the highest address that the range may contain, inclusive: see the [picture](Self).
    #[must_use]
    pub const fn with_max(mut self, max: usize) -> Self {
        self.max = Some(max);
        self
    }

    /// Returns the size.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Returns the alignment, a power of two.
    pub const fn align(&self) -> usize {
        self.align
    }

    /// Returns the phase, if one was set.
    pub const fn phase(&self) -> Option<usize> {
        self.phase
    }

    /// Returns the boundary not to cross, if one was set: a power of two, at least the size.
    pub const fn nocross(&self) -> Option<usize> {
        self.nocross
    }

    /// Returns the lowest address that the range may contain, if one was set.
    pub const fn min(&self) -> Option<usize> {
        self.min
    }

    /// Returns the highest address that the range may contain, if one was set.
    pub const fn max(&self) -> Option<usize> {
        self.max
    }
}

impl From<core::alloc::Layout> for Layout {
    fn from(layout: core::alloc::Layout) -> Self {
        Self::unconstrained(layout.size(), layout.align())
    }
}
