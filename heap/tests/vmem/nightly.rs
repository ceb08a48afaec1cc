//! Any `core::alloc::Allocator` is a tag supply.

use std::alloc::{AllocError, Allocator, Global, Layout, System};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Arena, Error};

use super::support::TestLock;

#[test]
fn global_and_system_allocator_supply_tags_and_index_pages() {
    fn fill_and_empty(supply: impl Allocator) {
        let arena = Arena::<_, TestLock>::create("any", 0x1000, None, supply).unwrap();
        arena.add_span(0x1000, 0x1000 * 5000).unwrap();
        let bases: Vec<_> = (0..5000)
            .map(|_| arena.alloc(0x1000, InstantFit).unwrap())
            .collect();
        assert_eq!(arena.check(), Ok(()));
        for base in bases {
            arena.free(base).unwrap();
        }
        assert_eq!(arena.check(), Ok(()));
        assert_eq!(arena.largest_free(), 0x1000 * 5000);
    }
    fill_and_empty(Global);
    fill_and_empty(&System);
}

/// An allocator with a budget, which counts the allocated bytes.
struct Limited {
    budget: AtomicUsize,
    out: AtomicUsize,
}

// SAFETY: all memory comes from the global allocator, which keeps the contract.
unsafe impl Allocator for Limited {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.budget
            .fetch_update(SeqCst, SeqCst, |budget| budget.checked_sub(1))
            .map_err(|_| AllocError)?;
        self.out.fetch_add(layout.size(), SeqCst);
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        self.out.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the memory came from `allocate`, with this layout.
        unsafe { Global.deallocate(memory, layout) };
    }
}

#[test]
fn an_allocator_that_runs_out_is_an_error_and_loses_no_memory() {
    let supply = Limited {
        budget: AtomicUsize::new(20),
        out: AtomicUsize::new(0),
    };
    let arena = Arena::<_, TestLock>::create("any", 1, None, &supply).unwrap();
    arena.add_span(0, 1000).unwrap();
    let refused = (0..1000).find_map(|_| arena.alloc(1, InstantFit).err());
    assert_eq!(refused, Some(Error::AllocatorError));
    assert_eq!(arena.check(), Ok(()));
    drop(arena);
    assert_eq!(supply.out.load(SeqCst), 0);
}
