//! [`Claim`]: one range of memory, claimed when it is first needed.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::source::Source;

/// Claims one range of memory at the first allocation, and provides nothing after that.
///
/// With this source a static allocator has a static heap, and needs no initialisation at run time.
///
/// ```text
///     new, array ──> ready ────────── the first allocation ─────────> standby <── standby()
///                    base, size       claims base … base + size       the heap's end
///                                                                       └──> take_claim, once
/// ```
///
/// The claim is tried once. If the range is too small, all allocations fail, and
/// [`take_claim`](Self::take_claim) returns `None`.
///
/// ```
/// use heap::source::Claim;
/// use heap::talc::{DefaultBinning, TalcLock, min_first_heap_size};
///
/// static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
///     const SIZE: usize = min_first_heap_size::<DefaultBinning>() + 10_000;
///     static mut MEMORY: [u8; SIZE] = [0; SIZE];
///     // SAFETY: nothing else uses `MEMORY`.
///     unsafe { Claim::array(&raw mut MEMORY) }
/// });
/// ```
#[derive(Debug)]
pub struct Claim(State);

#[derive(Debug)]
enum State {
    Ready { base: *mut u8, size: usize },
    Standby { heap_end: Option<NonNull<u8>> },
}

// SAFETY: the caller of `new` gave the range to this source, which may claim it on any thread.
unsafe impl Send for Claim {}
// SAFETY: methods that take `&self` do not access the range.
unsafe impl Sync for Claim {}

impl Claim {
    /// Creates a source that claims `size` bytes from `base`.
    ///
    /// # Safety
    /// At the first allocation the range meets the conditions of [`Talc::claim`].
    pub const unsafe fn new(base: *mut u8, size: usize) -> Self {
        Self(State::Ready { base, size })
    }

    /// Creates a source that claims all of an array.
    ///
    /// # Safety
    /// At the first allocation the array meets the conditions of [`Talc::claim`].
    pub const unsafe fn array<T, const N: usize>(array: *mut [T; N]) -> Self {
        // SAFETY: the caller promises that the array meets the conditions of `Talc::claim`.
        unsafe { Self::new(array.cast(), size_of::<[T; N]>()) }
    }

    /// Creates a source that claims nothing, to be replaced when there is memory.
    pub const fn standby() -> Self {
        Self(State::Standby { heap_end: None })
    }

    /// Returns whether the range is still to be claimed.
    pub const fn is_ready(&self) -> bool {
        matches!(self.0, State::Ready { .. })
    }

    /// Takes the end of the heap that was claimed, so that the caller can extend or truncate the
    /// heap.
    ///
    /// Returns `None` before the first allocation, after the first `Some`, and if the range was too
    /// small.
    ///
    /// ```
    /// use core::{alloc::Layout, ptr::null_mut};
    /// use heap::source::Claim;
    /// use heap::talc::{DefaultBinning, base::Talc};
    ///
    /// let mut memory = [0_u64; 2048];
    /// // SAFETY: nothing else uses `memory` while `talc` does.
    /// let mut talc = Talc::<_, DefaultBinning>::new(unsafe { Claim::array(&raw mut memory) });
    /// assert!(talc.source.is_ready() && talc.source.take_claim().is_none());
    /// // SAFETY: the size is not zero; `end` is the end of the only heap.
    /// unsafe {
    ///     talc.allocate(Layout::new::<u64>()).expect("the array has room");
    ///     let end = talc.source.take_claim().expect("the array was claimed");
    ///     assert!(talc.source.take_claim().is_none());
    ///     // Keeps only the part that is in use.
    ///     assert!(talc.truncate(end, null_mut()).expect("a block is in the heap") < end);
    /// }
    /// ```
    pub fn take_claim(&mut self) -> Option<NonNull<u8>> {
        match &mut self.0 {
            State::Ready { .. } => None,
            State::Standby { heap_end } => heap_end.take(),
        }
    }
}

// SAFETY: `acquire` uses only the `Talc` that it is called with. The range stays where it is when
// the source is moved. `resize` keeps the heap as it is.
unsafe impl Source for Claim {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _layout: Layout) -> Result<(), ()> {
        let State::Ready { base, size } = talc.source.0 else {
            return Err(());
        };
        // SAFETY: the caller of `new` promised that the range meets the conditions of
        // `Talc::claim`, and `Standby` below keeps it from being claimed again.
        let heap_end = unsafe { talc.claim(base, size) };
        talc.source.0 = State::Standby { heap_end };
        heap_end.map(|_| ()).ok_or(())
    }
}
