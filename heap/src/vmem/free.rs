//! Freeing.

use super::segment::Tag;
use super::state::{State, is_idle};
use super::{Allocator, Arena, Error, Lock, Result, fit};

impl<A: Allocator, L: Lock> Arena<'_, '_, A, L> {
    /// Frees the segment that was allocated at `base`. Needs no tag.
    ///
    /// If that leaves a borrowed span entirely free, and more such spans are there than the arena
    /// keeps, the span goes back to the source. If the source does not take it, it is kept.
    ///
    /// # Errors
    /// [`Error::NoSuchAllocation`] unless an allocated segment starts at `base`, [`Error::Busy`] if
    /// it is being resized.
    pub fn free(&self, base: usize) -> Result<()> {
        self.free_if(base, |_| Ok(()))
    }

    /// Frees the segment of `size`, rounded up to the quantum, that was allocated at `base`.
    ///
    /// # Errors
    /// As [`free`](Self::free), and [`Error::WrongSize`] if the segment has another size.
    pub fn free_sized(&self, base: usize, size: usize) -> Result<()> {
        let space = fit::round_up(size, self.quantum)?;
        self.free_if(base, |segment| {
            if segment.size() == space {
                Ok(())
            } else {
                Err(Error::WrongSize {
                    base,
                    expected: segment.size(),
                    found: size,
                })
            }
        })
    }

    #[inline]
    fn free_if(&self, base: usize, check: impl FnOnce(Tag) -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        let segment = state.index.take(base, |segment| {
            if segment.busy.get() {
                return Err(Error::Busy { base });
            }
            check(segment)
        })?;
        let merged = state.release(segment);
        let above = merged.above();
        if above.is_borrowed_span() {
            if is_idle(merged) {
                state.idle.push(above);
            }
            self.give_back(state, above, self.kept_spans);
        } else {
            self.finish(state);
        }
        Ok(())
    }
}

impl State {
    /// The allocated segment that starts at `base`, unless another operation on it is under way.
    pub(super) fn allocated_at(&self, base: usize) -> Result<Tag> {
        let segment = self
            .index
            .find(base)
            .ok_or(Error::NoSuchAllocation { base })?;
        if segment.busy.get() {
            return Err(Error::Busy { base });
        }
        Ok(segment)
    }
}
