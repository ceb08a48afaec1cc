//! Fault injection: each call fails once, or all calls fail from one on. The program continues, and
//! all memory is free at the end.

use core::alloc::Layout;

use heap::vmem::AllocPolicy;
use kernel::audit;
use kernel::kernel_test;
use kernel::memory::PAGE_SIZE;
use kernel::memory::fault_injection::{FRAMES, FailPoint, MAPPINGS};

use crate::support::{Blocks, Random, Snapshot, heap_pages_arena, kernel_addresses_arena};

/// Allocates from every layer, and frees everything. Returns the number of failed requests.
fn program() -> usize {
    let mut refused = 0;
    let mut random = Random::new(22);
    let mut blocks = Blocks::new();
    // The last block needs more pages than one batch.
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
    // More segments than the boundary tags of one page.
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

/// Runs the program with each call at `point` failing in turn. Returns the number of calls, and the
/// number of runs in which a request failed.
fn fail_each(point: &FailPoint, fail: fn(&FailPoint, usize)) -> (usize, usize) {
    let before = Snapshot::take();
    let mut refusals = 0;
    for calls in 0.. {
        fail(point, calls);
        let refused = program();
        let failed = point.fail_never();
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
    fn any_single_frame_may_fail(deadline = 240) {
        let (calls, refusals) = fail_each(&FRAMES, FailPoint::fail_once);
        // The heap recovers from single failures: it tries again, or grows by less. The program's
        // own requests to the arenas fail.
        assert!(calls > 100 && refusals > 10, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn all_frames_may_fail_from_any_call_on(deadline = 240) {
        let (calls, refusals) = fail_each(&FRAMES, FailPoint::fail_from);
        assert!(calls > 100 && refusals > calls / 2, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn any_single_mapping_may_fail(deadline = 240) {
        let (calls, refusals) = fail_each(&MAPPINGS, FailPoint::fail_once);
        assert!(calls > 100 && refusals > 10, "{refusals} refusals in {calls}");
    }
}

kernel_test! {
    fn all_mappings_may_fail_from_any_call_on(deadline = 240) {
        let (calls, refusals) = fail_each(&MAPPINGS, FailPoint::fail_from);
        assert!(calls > 100 && refusals > calls / 2, "{refusals} refusals in {calls}");
    }
}
