//! No source at all.

use core::alloc::Layout;

use super::Source;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;

/// Provides nothing: heaps are [claimed](Talc::claim), [extended](Talc::extend) and
/// [truncated](Talc::truncate) by hand. Without one, or when all are full, allocations fail.
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

// SAFETY: it does nothing.
unsafe impl Source for Manual {
    #[inline]
    fn acquire<B: Binning>(_talc: &mut Talc<Self, B>, _layout: Layout) -> Result<(), ()> {
        Err(())
    }
}
