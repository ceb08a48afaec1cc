//! The size classes: which block size a layout has.
//!
//! ```text
//!     size       1 … 16  17 … 32  …  113 … 128  129 … 144  …  289 … 336  337 … 400  401 … 496
//!     block        16       32    …     128        144     …     336        400        496
//!     class         0        1    …      7          8      …     14         15         16
//! ```
//!
//! Up to 128 bytes a block wastes less than 16 bytes. Above, it wastes less than a quarter of
//! the requested size. The larger sizes are those that divide a slab with little rest. With more
//! classes blocks waste less, but more slabs are partly filled: `DESIGN.md` has figures.

use core::alloc::Layout;

use super::slab::BLOCKS_END;

/// The unit of block sizes, in bytes, and the alignment of every block.
pub(super) const GRANULE: usize = 16;

/// The block size of each class, in bytes.
pub(super) const BLOCK_SIZES: [u16; CLASSES] = [
    16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 288, 336, 400, 496,
];

/// The number of classes.
pub(super) const CLASSES: usize = 17;

/// The largest size, in bytes, that is served from slabs. Larger requests go to the allocator
/// behind the slabs.
pub const MAX_BLOCK_SIZE: usize = BLOCK_SIZES[CLASSES - 1] as usize;

/// The largest alignment, in bytes, that is served from slabs.
pub const MAX_BLOCK_ALIGN: usize = 256;

/// The number of sizes in granules that a block may have, from 0.
pub(super) const GRANULES: usize = MAX_BLOCK_SIZE / GRANULE + 1;

/// What serves a layout, as far as its alignment is at most [`GRANULE`].
#[derive(Clone, Copy)]
pub(super) enum Served {
    /// A slab.
    Slab(Granules),
    /// The allocator behind the slabs.
    Backing,
    /// [`Granules::of`] says it.
    ByAlignment,
}

impl Served {
    /// Decides what serves a layout. The fast paths begin with this.
    #[inline]
    pub(super) const fn by(layout: Layout) -> Self {
        if layout.align() > GRANULE {
            Self::ByAlignment
        } else if layout.size() > MAX_BLOCK_SIZE || !SERVES {
            Self::Backing
        } else {
            Self::Slab(Granules(layout.size().div_ceil(GRANULE)))
        }
    }
}

/// A size in granules, from 1 to [`GRANULES`] - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Granules(usize);

impl Granules {
    /// Returns the granules that a layout needs, or `None` if slabs do not serve it.
    ///
    /// A larger alignment than [`GRANULE`] rounds the size up to a multiple of the alignment. Each
    /// multiple up to 256 is the block size of a class. Blocks lie at multiples of their size from
    /// the beginning of a page, so each of them is aligned.
    #[inline]
    pub(super) const fn of(layout: Layout) -> Option<Self> {
        match Served::by(layout) {
            Served::Slab(granules) => return Some(granules),
            Served::Backing => return None,
            Served::ByAlignment => {}
        }
        if layout.align() > MAX_BLOCK_ALIGN || layout.size() > MAX_BLOCK_ALIGN || !SERVES {
            return None;
        }
        let size = layout.size().next_multiple_of(layout.align());
        Some(Self(size / GRANULE))
    }

    /// Returns the granules of the blocks of a class.
    pub(super) const fn largest_of(class: usize) -> Self {
        Self(block_size(class) / GRANULE)
    }

    #[inline]
    pub(super) const fn get(self) -> usize {
        self.0
    }

    /// Returns the class with the smallest blocks of at least this size.
    #[inline]
    pub(super) fn class(self) -> usize {
        usize::from(CLASS_OF[self.0])
    }
}

/// Whether slabs serve anything. With `hardened` every block has a redzone and is a chunk of its
/// own, so that all of that feature's checks apply to it.
const SERVES: bool = cfg!(not(feature = "hardened"));

/// The class of each size in granules.
const CLASS_OF: [u8; GRANULES] = {
    let mut classes = [0; GRANULES];
    let mut granules = 1;
    let mut class = 0;
    while granules < GRANULES {
        if granules * GRANULE > BLOCK_SIZES[class] as usize {
            class += 1;
        }
        classes[granules] = class as u8;
        granules += 1;
    }
    classes
};

/// Returns the block size of a class, in bytes.
#[inline]
pub(super) const fn block_size(class: usize) -> usize {
    BLOCK_SIZES[class] as usize
}

/// Returns the number of blocks in a slab of a class.
#[inline]
pub(super) const fn capacity(class: usize) -> u16 {
    // At most 4096 / 16.
    (BLOCKS_END / block_size(class)) as u16
}

/// Returns the sizes in granules that belong to a class.
#[inline]
pub(super) const fn granules_of(class: usize) -> core::ops::RangeInclusive<usize> {
    let first = match class {
        // No request has size zero, but its place exists.
        0 => 0,
        _ => block_size(class - 1) / GRANULE + 1,
    };
    first..=block_size(class) / GRANULE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a small layout")
    }

    /// Returns the class that serves a layout.
    fn class(size: usize, align: usize) -> Option<usize> {
        Granules::of(layout(size, align)).map(Granules::class)
    }

    #[test]
    #[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
    fn each_size_has_the_smallest_block_that_holds_it() {
        for size in 1..=MAX_BLOCK_SIZE {
            let class = class(size, 1).expect("slabs serve it");
            assert!(block_size(class) >= size);
            assert!(class == 0 || block_size(class - 1) < size, "{size}");
            let granules = size.div_ceil(GRANULE);
            assert!(granules_of(class).contains(&granules), "{size}");
        }
        assert_eq!(class(MAX_BLOCK_SIZE + 1, 1), None);
    }

    #[test]
    fn a_block_wastes_no_more_than_the_documentation_says() {
        for class in 0..CLASSES {
            let smallest = match class {
                0 => 1,
                _ => block_size(class - 1) + 1,
            };
            let waste = block_size(class) - smallest;
            assert!(waste < 16 || waste * 4 < smallest, "class {class}");
        }
    }

    #[test]
    #[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
    fn each_alignment_divides_the_block_size_of_its_class() {
        for align in [32, 64, 128, 256] {
            for size in 1..=MAX_BLOCK_ALIGN {
                let class = class(size, align).expect("slabs serve it");
                assert!(block_size(class) >= size);
                assert_eq!(block_size(class) % align, 0, "{size} at {align}");
            }
            assert_eq!(class(MAX_BLOCK_ALIGN + 1, align), None);
        }
        assert_eq!(class(16, 512), None);
    }

    #[test]
    fn the_blocks_of_a_class_leave_less_than_a_block_of_a_slab() {
        for class in 0..CLASSES {
            let blocks = usize::from(capacity(class));
            assert!(blocks >= 8, "class {class}");
            assert!(BLOCKS_END - blocks * block_size(class) < block_size(class));
        }
    }
}
