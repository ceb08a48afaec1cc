//! [`Cpus`]: which part of the allocator belongs to the code that runs.

use core::marker::PhantomData;

/// Says which CPU-local part of a [`SlabAllocator`](super::SlabAllocator) belongs to the CPU or
/// thread that runs, and keeps each operation on it whole.
///
/// ```text
///     CPU 0   ─┤ with: part 0 ├──────────────┤ with: part 0 ├───      never at the same time,
///     CPU 1   ────┤ with: part 1 ├───┤ with: part 1 ├──────────      and never one in another
/// ```
///
/// | implementation | for |
/// |---|---|
/// | [`OneThread`] | an allocator that one thread uses |
/// | [`OneCpu`] | a kernel with one CPU whose interrupt handlers do not allocate |
/// | `Threads` | programs with `std`, and the feature of that name |
/// | your own | a kernel: mask interrupts, and return the number of the CPU |
///
/// ```
/// use heap::slab::Cpus;
///
/// /// The CPUs of a kernel in which handlers of interrupts allocate too.
/// struct Masked;
///
/// # fn interrupts_are_enabled() -> bool { true }
/// # fn disable_interrupts() {}
/// # fn enable_interrupts() {}
/// # fn this_cpu() -> usize { 0 }
/// // SAFETY: while interrupts are masked, no other code runs on this CPU, and this code stays.
/// unsafe impl Cpus for Masked {
///     const COUNT: usize = 4;
///
///     fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
///         let were_enabled = interrupts_are_enabled();
///         disable_interrupts();
///         let result = work(this_cpu());
///         if were_enabled {
///             enable_interrupts();
///         }
///         result
///     }
/// }
/// # assert_eq!(Masked.with(|cpu| cpu), 0);
/// ```
///
/// # Safety
/// * The numbers that [`with`](Self::with) and [`with_unused`](Self::with_unused) pass are below
///   [`COUNT`](Self::COUNT).
/// * While `work` runs with a number, no other `work` of the same value runs with that number:
///   neither on another CPU or thread, nor in a handler that interrupts it.
/// * What one `work` has written is visible to the next that gets the same number.
pub unsafe trait Cpus {
    /// The number of CPU-local parts.
    const COUNT: usize;

    /// Runs `work` with the number of the part that belongs to the code that runs.
    ///
    /// `work` is short: a bounded number of instructions, apart from [`reap`]. It neither allocates
    /// nor waits, except for a spin lock that other CPUs hold for as short a time. That of
    /// [`visit`] is different: it calls code of the user, which may even run `with` again. It uses
    /// no part.
    ///
    /// [`reap`]: super::SlabAllocator::reap
    /// [`visit`]: super::SlabAllocator::visit
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R;

    /// Runs `work` with the number of each part that no CPU or thread uses at the moment, so that
    /// memory can be taken back from them. By default there are none.
    fn with_unused(&self, work: impl FnMut(usize)) {
        let _ = work;
    }

    /// Notes that the allocator wants memory back from all parts, before an allocation fails for
    /// instance. A kernel can interrupt the other CPUs here, so that each calls
    /// [`reap_own`](super::SlabAllocator::reap_own), and wait for them. By default nothing is done:
    /// they follow when they have used up a slab.
    ///
    /// Called by [`reap`](super::SlabAllocator::reap), outside of [`with`](Self::with).
    #[inline]
    fn reap_others(&self) {}

    /// Returns whether the code that runs may wait for slabs that other CPUs are giving back, for a
    /// bounded time, before an allocation fails. A kernel says no where interrupts are masked, for
    /// instance.
    #[inline]
    fn may_wait(&self) -> bool {
        true
    }
}

/// One part, for an allocator that cannot be shared between threads.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use heap::slab::{OneThread, SlabAllocator};
/// use heap::talc::{TalcCell, source::Claim};
///
/// let mut memory = [0_u64; 8192];
/// // SAFETY: only the cell uses `memory`, which outlives it.
/// let talc = TalcCell::new(unsafe { Claim::array(&raw mut memory) });
/// let slabs = SlabAllocator::<_, _, 1>::new(talc, OneThread::new());
/// let mut primes = Vec::new_in(&slabs);
/// primes.extend([2, 3, 5, 7]);
/// assert_eq!(primes, [2, 3, 5, 7]);
/// ```
#[derive(Debug, Default)]
pub struct OneThread {
    not_sync: PhantomData<*mut ()>,
}

impl OneThread {
    /// Returns the only part.
    pub const fn new() -> Self {
        Self {
            not_sync: PhantomData,
        }
    }
}

// SAFETY: the value cannot be shared, and moves with the allocator that it is in.
unsafe impl Send for OneThread {}

// SAFETY: the value is not `Sync`, so one thread at a time uses it. `work` calls no code of the
// user, so it cannot begin again before it ends. (That of `visit` does, and uses no part.)
unsafe impl Cpus for OneThread {
    const COUNT: usize = 1;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(0)
    }
}

/// One part, for a `#[global_allocator]` of a program with one CPU.
#[derive(Debug)]
pub struct OneCpu {
    _private: (),
}

impl OneCpu {
    /// Returns the only part.
    ///
    /// # Safety
    /// All code that uses the value runs on one CPU and in one thread, and no handler that
    /// interrupts this code uses the value.
    pub const unsafe fn new() -> Self {
        Self { _private: () }
    }
}

// SAFETY: the caller of `new` promised that calls follow each other.
unsafe impl Cpus for OneCpu {
    const COUNT: usize = 1;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(0)
    }
}
