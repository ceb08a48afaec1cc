//! Where an arena gets spans from.

use super::{Error, Layout, Result};

/// Something that lends spans to an arena: another arena, or the pages behind addresses.
///
/// An arena calls its source with none of its locks held. No function here may panic.
pub trait Source: Sync {
    /// Lends a range that satisfies `layout`, and returns its base.
    ///
    /// The layout's size is a multiple of the borrowing arena's quantum, and its alignment is at
    /// least that quantum.
    ///
    /// # Errors
    /// Any error; nothing is lent then.
    fn import(&self, layout: Layout) -> Result<usize>;

    /// Takes back a range, all of it.
    ///
    /// # Errors
    /// Any error; the range is then still lent.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, has now exactly
    /// this size, and is not used any more.
    unsafe fn release(&self, base: usize, size: usize) -> Result<()>;

    /// Makes a lent range longer at its end, in place.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default; any error leaves the range as it was.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, and has now exactly
    /// this size. `new_size` is more than `size`. No other call concerns this range meanwhile.
    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }

    /// Takes back the end of a lent range, `[base + new_size, base + size)`.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default; any error leaves the range as it was.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, and has now exactly
    /// this size. `new_size` is less than `size` and not zero; what lies above it is not used any
    /// more. No other call concerns this range meanwhile.
    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }
}
