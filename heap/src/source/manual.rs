//! No source at all.

use core::alloc::Layout;

use super::Source;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;

/// Provides nothing: heaps are claimed, extended and truncated by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Manual;

// SAFETY: it does nothing.
unsafe impl Source for Manual {
    #[inline]
    fn acquire<B: Binning>(_talc: &mut Talc<Self, B>, _layout: Layout) -> Result<(), ()> {
        Err(())
    }
}
