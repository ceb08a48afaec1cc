//! One range of memory, claimed when it is first needed.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::source::Source;

/// Claims one range of memory at the first allocation. After that it provides nothing more.
///
/// This is how a static allocator gets a static heap without anybody calling an `init`.
///
/// ```text
///     new, array ──> ready ────────── the first allocation ─────────> standby <── standby()
///                    base, size       claims base … base + size       the heap's end
///                                                                       └──> take_claim, once
/// ```
///
/// A range that is too small is not tried again: then there is no end to take.
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

// SAFETY: the memory that it points to belongs to it and goes where it goes.
unsafe impl Send for Claim {}
// SAFETY: nothing that takes `&self` touches that memory.
unsafe impl Sync for Claim {}

impl Claim {
    /// Will claim `size` bytes from `base`.
    ///
    /// # Safety
    /// When the first allocation comes, the range fulfils what [`Talc::claim`] asks of it.
    pub const unsafe fn new(base: *mut u8, size: usize) -> Self {
        Self(State::Ready { base, size })
    }

    /// Will claim an array, all of it.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub const unsafe fn array<T, const N: usize>(array: *mut [T; N]) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self::new(array.cast(), size_of::<[T; N]>()) }
    }

    /// Will claim nothing: a source to begin with, until there is memory.
    pub const fn standby() -> Self {
        Self(State::Standby { heap_end: None })
    }

    /// Whether there still is a range to claim.
    pub const fn is_ready(&self) -> bool {
        matches!(self.0, State::Ready { .. })
    }

    /// The end of the heap that was claimed, once, for whoever wants to extend or truncate it.
    /// `None` before the first allocation, after the first call, or if the range was too small.
    ///
    /// ```
    /// use core::{alloc::Layout, ptr::null_mut};
    /// use heap::source::Claim;
    /// use heap::talc::{DefaultBinning, base::Talc};
    ///
    /// let mut memory = [0_u64; 2048];
    /// // SAFETY: nobody else uses `memory` as long as `talc` does.
    /// let mut talc = Talc::<_, DefaultBinning>::new(unsafe { Claim::array(&raw mut memory) });
    /// assert!(talc.source.is_ready() && talc.source.take_claim().is_none());
    /// // SAFETY: the size is not zero; the end is that of the only heap.
    /// unsafe {
    ///     talc.allocate(Layout::new::<u64>()).expect("there is room");
    ///     let end = talc.source.take_claim().expect("there is a heap now");
    ///     assert!(talc.source.take_claim().is_none());
    ///     // Only what is in use stays.
    ///     assert!(talc.truncate(end, null_mut()).expect("a block is in it") < end);
    /// }
    /// ```
    pub fn take_claim(&mut self) -> Option<NonNull<u8>> {
        match &mut self.0 {
            State::Ready { .. } => None,
            State::Standby { heap_end } => heap_end.take(),
        }
    }
}

// SAFETY: it only claims, through the allocator that it was called with.
unsafe impl Source for Claim {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _layout: Layout) -> Result<(), ()> {
        let State::Ready { base, size } = talc.source.0 else {
            return Err(());
        };
        // SAFETY: whoever made this source vouched for the range; it is claimed once.
        let heap_end = unsafe { talc.claim(base, size) };
        // A range that is too small now will be too small later: it is not tried again.
        talc.source.0 = State::Standby { heap_end };
        heap_end.map(|_| ()).ok_or(())
    }
}
