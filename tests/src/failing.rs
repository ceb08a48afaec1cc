//! Everything fails once, and from then on: whatever a program is refused, it can go on, and what it gives back is all
//! that it had.

use core::alloc::Layout;

use heap::vmem::AllocPolicy;
use kernel::audit;
use kernel::kernel_test;
use kernel::memory::PAGE_SIZE;
use kernel::memory::fault_injection::{FRAMES, FailPoint, MAPPINGS};

use crate::support::{Blocks, Random, Snapshot, heap_pages_arena, kernel_addresses_arena};

/// Takes something from every layer, and gives all of it back. Returns how many requests were refused.
fn program() -> usize {
    let mut refused = 0;
    let mut random = Random::new(22);
    let mut blocks = Blocks::new();
    // The last needs more pages than are mapped in one batch.
    for (size, align) in [
        (100, 8),
        (5000, 16),
        (70_000, 8),
        (90_000, 4096),
        (1000, 64),
        (400_000, 8),
    ] {
        let layout = Layout::from_size_align(size, align).expect("a valid layout");
        refused += usize::from(blocks.allocate(layout).is_none());
        blocks.reallocate(&mut random);
    }
    // More addresses than one page has tags for.
    let mut addresses = [None; 80];
    for (index, address) in addresses.iter_mut().enumerate() {
        let size = (1 + index % 3) * PAGE_SIZE;
        *address = kernel_addresses_arena()
            .alloc(size, AllocPolicy::InstantFit)
            .ok();
        refused += usize::from(address.is_none());
    }
    let mut pages = [None; 4];
    for (index, base) in pages.iter_mut().enumerate() {
        *base = heap_pages_arena()
            .alloc((2 + index) * PAGE_SIZE, AllocPolicy::BestFit)
            .ok();
        let grown = base.map(|base| heap_pages_arena().resize(base, 7 * PAGE_SIZE));
        refused += usize::from(!matches!(grown, Some(Ok(()))));
    }
    blocks.verify();
    for base in pages.into_iter().flatten() {
        heap_pages_arena().free(base).expect("it was allocated");
    }
    for address in addresses.into_iter().flatten() {
        kernel_addresses_arena()
            .free(address)
            .expect("it was allocated");
    }
    refused
}

/// Runs the program with every call at `place` failing in turn, until it makes no more calls. Returns how many it makes,
/// and how often it was refused something.
fn fail_each(place: &FailPoint, fail: fn(&FailPoint, usize)) -> (usize, usize) {
    let before = Snapshot::take();
    let mut refusals = 0;
    for calls in 0.. {
        fail(place, calls);
        let refused = program();
        let failed = place.fail_never();
        assert_eq!(Snapshot::take(), before, "after {calls} calls");
        assert_eq!(audit::check(), Ok(()), "after {calls} calls");
        if failed == 0 {
            assert_eq!(refused, 0, "nothing failed");
            return (calls, refusals);
        }
        refusals += usize::from(refused > 0);
    }
    unreachable!("a program makes a finite number of calls")
}

kernel_test! {
    fn each_frame_that_cannot_be_had_is_survived(deadline = 240) {
        let (calls, refusals) = fail_each(&FRAMES, FailPoint::fail_once);
        // A single failure is made good by the second try or the smaller step, but for those of the arena's own users.
        assert!(calls > 100 && refusals > 10, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn no_frame_at_all_from_any_point_on_is_survived(deadline = 240) {
        let (calls, refusals) = fail_each(&FRAMES, FailPoint::fail_from);
        assert!(calls > 100 && refusals > calls / 2, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn each_page_that_cannot_be_mapped_is_survived(deadline = 240) {
        let (calls, refusals) = fail_each(&MAPPINGS, FailPoint::fail_once);
        assert!(calls > 100 && refusals > 10, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn no_page_mapped_from_any_point_on_is_survived(deadline = 240) {
        let (calls, refusals) = fail_each(&MAPPINGS, FailPoint::fail_from);
        assert!(calls > 100 && refusals > calls / 2, "{refusals} refusals in {calls}");
    }
}
