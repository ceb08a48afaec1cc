//! The kernel's arenas, on real page tables.

use core::ptr;

use heap::vmem::{AllocPolicy, Error, Layout};
use kernel::kernel_test;
use kernel::memory::{PAGE_SIZE, frames, heap_pages, kernel_addresses, mapped_pages};

use crate::support::{Random, heap_pages_arena, kernel_addresses_arena};

const POLICIES: [AllocPolicy; 3] = [
    AllocPolicy::InstantFit,
    AllocPolicy::BestFit,
    AllocPolicy::NextFit,
];

/// Writes to and reads from every page of a range.
fn touch(base: usize, size: usize) {
    let at = |offset: usize| ptr::with_exposed_provenance_mut::<usize>(base + offset);
    for offset in (0..size).step_by(PAGE_SIZE) {
        // SAFETY: the range is mapped, writable and the test's own.
        unsafe { at(offset).write_volatile(offset ^ 0x5555) };
    }
    for offset in (0..size).step_by(PAGE_SIZE) {
        // SAFETY: the range is mapped, readable and the test's own.
        assert_eq!(unsafe { at(offset).read_volatile() }, offset ^ 0x5555);
    }
}

kernel_test! {
    fn an_import_maps_pages_and_a_release_unmaps_them() {
        let (mapped, used) = (mapped_pages::mapped(), frames::usage().heap);
        for pages in [1, 2, 17, 512, 700] {
            let base = heap_pages_arena()
                .alloc(pages * PAGE_SIZE, AllocPolicy::InstantFit)
                .expect("memory is free");
            assert_eq!(mapped_pages::mapped(), mapped + pages);
            assert_eq!(frames::usage().heap, used + pages);
            touch(base, pages * PAGE_SIZE);
            heap_pages_arena().free(base).expect("allocated above");
            assert_eq!(
                (mapped_pages::mapped(), frames::usage().heap),
                (mapped, used)
            );
        }
    }
}

kernel_test! {
    fn a_segment_grows_and_shrinks_in_place() {
        let mapped = mapped_pages::mapped();
        let base = heap_pages_arena()
            .alloc(PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("memory is free");
        for pages in [4, 600, 599, 3, 64, 1] {
            heap_pages_arena()
                .resize(base, pages * PAGE_SIZE)
                .expect("nothing lies above");
            assert_eq!(mapped_pages::mapped(), mapped + pages);
            touch(base, pages * PAGE_SIZE);
        }
        heap_pages_arena()
            .free_sized(base, PAGE_SIZE)
            .expect("allocated above");
        assert_eq!(mapped_pages::mapped(), mapped);
    }
}

kernel_test! {
    fn growth_stops_at_the_next_segment() {
        let low = heap_pages_arena()
            .alloc(PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("memory is free");
        let obstacle = low + 4 * PAGE_SIZE;
        kernel_addresses_arena()
            .xalloc_at(obstacle, PAGE_SIZE)
            .expect("nothing lies there");
        let mapped = mapped_pages::mapped();
        assert!(heap_pages_arena().resize(low, 5 * PAGE_SIZE).is_err());
        assert!(
            heap_pages_arena().resize(low, 4 * PAGE_SIZE).is_err(),
            "there would be no room for the guard"
        );
        assert_eq!(
            mapped_pages::mapped(),
            mapped,
            "a failed growth maps nothing"
        );
        heap_pages_arena()
            .resize(low, 3 * PAGE_SIZE)
            .expect("room for three pages and the guard");
        kernel_addresses_arena()
            .free(obstacle)
            .expect("allocated above");
        heap_pages_arena().free(low).expect("allocated above");
    }
}

kernel_test! {
    fn spans_are_separated_by_guard_pages() {
        let size = 3 * PAGE_SIZE;
        let mut bases = [0; 8];
        for base in &mut bases {
            *base = heap_pages_arena()
                .alloc(size, AllocPolicy::InstantFit)
                .expect("memory is free");
        }
        let mut sorted = bases;
        sorted.sort_unstable();
        assert!(
            sorted
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= size + PAGE_SIZE)
        );
        for base in bases {
            heap_pages_arena().free(base).expect("allocated above");
        }
    }
}

kernel_test! {
    fn every_policy_meets_every_constraint() {
        let before = kernel_addresses().allocated_space();
        for policy in POLICIES {
            let plain = kernel_addresses_arena()
                .alloc(5 * PAGE_SIZE, policy)
                .expect("the window is large");
            let aligned = Layout::from_size_align(3 * PAGE_SIZE, 1 << 21)
                .expect("valid")
                .with_phase(PAGE_SIZE);
            let base = kernel_addresses_arena()
                .xalloc(aligned, policy)
                .expect("the window is large");
            assert_eq!(base % (1 << 21), PAGE_SIZE);
            let within = Layout::from_size_align(2 * PAGE_SIZE, PAGE_SIZE)
                .expect("valid")
                .with_min(base)
                .with_max(base + (1 << 24) - 1);
            let inside = kernel_addresses_arena()
                .xalloc(within, policy)
                .expect("the range is free but for five pages");
            assert!(inside >= base && inside + 2 * PAGE_SIZE <= base + (1 << 24));
            let uncrossed = Layout::from_size_align(3 * PAGE_SIZE, PAGE_SIZE)
                .expect("valid")
                .with_nocross(4 * PAGE_SIZE)
                .expect("larger than the size");
            let whole = kernel_addresses_arena()
                .xalloc(uncrossed, policy)
                .expect("the window is large");
            assert_eq!(
                whole / (4 * PAGE_SIZE),
                (whole + 3 * PAGE_SIZE - 1) / (4 * PAGE_SIZE)
            );
            for base in [plain, base, inside, whole] {
                kernel_addresses_arena()
                    .free(base)
                    .expect("allocated above");
            }
            assert_eq!(kernel_addresses().allocated_space(), before, "{policy:?}");
            kernel_addresses().check().expect("no invariant is broken");
        }
    }
}

kernel_test! {
    fn bad_frees_are_errors_and_change_nothing() {
        let arena = heap_pages_arena();
        let base = arena
            .alloc(4 * PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("memory is free");
        let before = (
            arena.allocated_space(),
            arena.total_space(),
            mapped_pages::mapped(),
        );
        assert!(
            matches!(
                arena.free(base + PAGE_SIZE),
                Err(Error::NoSuchAllocation { .. })
            ),
            "interior"
        );
        assert!(
            matches!(
                arena.free(base - PAGE_SIZE),
                Err(Error::NoSuchAllocation { .. })
            ),
            "foreign"
        );
        assert!(
            matches!(
                arena.free_sized(base, PAGE_SIZE),
                Err(Error::WrongSize { .. })
            ),
            "wrong size"
        );
        assert!(arena.alloc(0, AllocPolicy::InstantFit).is_err());
        assert!(arena.alloc(usize::MAX, AllocPolicy::InstantFit).is_err());
        assert!(
            arena
                .alloc((1 << 63) + PAGE_SIZE, AllocPolicy::BestFit)
                .is_err()
        );
        assert_eq!(
            (
                arena.allocated_space(),
                arena.total_space(),
                mapped_pages::mapped()
            ),
            before
        );
        arena.free(base).expect("allocated above");
        assert!(
            matches!(arena.free(base), Err(Error::NoSuchAllocation { .. })),
            "double"
        );
        arena.check().expect("no invariant is broken");
    }
}

kernel_test! {
    fn random_programs_of_pages_leak_nothing() {
        let before = (
            mapped_pages::mapped(),
            heap_pages().allocated_space(),
            kernel_addresses().allocated_space(),
        );
        for seed in 1..=3 {
            let mut random = Random::new(seed);
            let mut held = [(0, 0); 24];
            for _ in 0..600 {
                let slot = random.below(held.len());
                let (base, pages) = held[slot];
                let wanted = 1 + random.below(20);
                if pages == 0 {
                    let policy = POLICIES[random.below(3)];
                    let base = heap_pages_arena()
                        .alloc(wanted * PAGE_SIZE, policy)
                        .expect("memory is free");
                    touch(base, wanted * PAGE_SIZE);
                    held[slot] = (base, wanted);
                } else if random.below(3) > 0 {
                    heap_pages_arena()
                        .free_sized(base, pages * PAGE_SIZE)
                        .expect("allocated before");
                    held[slot] = (0, 0);
                } else if heap_pages_arena().resize(base, wanted * PAGE_SIZE).is_ok() {
                    touch(base, wanted * PAGE_SIZE);
                    held[slot].1 = wanted;
                }
            }
            for (base, pages) in held {
                if pages > 0 {
                    heap_pages_arena()
                        .free_sized(base, pages * PAGE_SIZE)
                        .expect("allocated before");
                }
            }
            heap_pages().check().expect("no invariant is broken");
            kernel_addresses().check().expect("no invariant is broken");
        }
        let after = (
            mapped_pages::mapped(),
            heap_pages().allocated_space(),
            kernel_addresses().allocated_space(),
        );
        assert_eq!(after, before);
    }
}

kernel_test! {
    fn segments_are_listed_in_address_order() {
        let bases = [(); 6].map(|()| {
            heap_pages_arena()
                .alloc(2 * PAGE_SIZE, AllocPolicy::InstantFit)
                .expect("memory is free")
        });
        let mut last = None;
        let mut seen = 0;
        for segment in heap_pages().segments() {
            assert!(last < Some(segment.base));
            last = Some(segment.base);
            seen += usize::from(bases.contains(&segment.base));
        }
        assert_eq!(seen, bases.len());
        assert!(heap_pages().contains(bases[0] + 100));
        assert!(
            heap_pages()
                .segment_of(bases[0] + 100)
                .is_some_and(|segment| segment.base == bases[0])
        );
        for base in bases {
            heap_pages_arena().free(base).expect("allocated above");
        }
    }
}
