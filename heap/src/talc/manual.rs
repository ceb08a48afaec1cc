//! [`Manual`]: the source of an allocator whose heaps its user manages.

use core::alloc::Layout;

use super::Talc;
use super::binning::Binning;
use super::source::Source;

/// Provides no memory: the user [claims](Talc::claim), [extends](Talc::extend) and
/// [truncates](Talc::truncate) heaps by hand. While no heap has room, allocations fail.
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::{DefaultBinning, base::Talc, source::Manual};
///
/// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
/// // SAFETY: the size is not zero.
/// assert_eq!(unsafe { talc.allocate(Layout::new::<u8>()) }, None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Manual;

// SAFETY: `acquire` grants nothing and uses no allocator; `resize` keeps each heap as it is.
unsafe impl Source for Manual {
    #[inline]
    fn acquire<B: Binning>(_talc: &mut Talc<Self, B>, _layout: Layout) -> Result<(), ()> {
        Err(())
    }
}
