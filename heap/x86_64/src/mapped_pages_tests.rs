//! Ranges are mapped, extended, shrunk and released as a whole or not at all.

use std::boxed::Box;
use std::vec::Vec;

use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Source, TagPool};

use super::*;
use crate::host_memory::{Event, Fixture, HostMemory, WINDOW};
use crate::page_table::UnlinkedTables;
use crate::tags::TagFrames;

/// What a failed operation must not change.
fn counts(fixture: &Fixture) -> ((usize, usize), [usize; 4], usize) {
    let &Fixture { memory, pages, .. } = fixture;
    let addresses = pages.addresses().unwrap();
    (
        memory.in_use(),
        [
            pages.mapped(),
            pages.discarded(),
            pages.ranges(),
            addresses.allocated_space(),
        ],
        fixture.arena.allocated_space(),
    )
}

/// Runs `operation` with all calls for frames failing from the `i`-th on, for each `i` until the
/// operation succeeds. The same for mappings. Each failure must change nothing. `undo` undoes the
/// success. Returns how many failures there were.
fn fail_everywhere<T>(
    fixture: &Fixture,
    mut operation: impl FnMut() -> Result<T>,
    mut undo: impl FnMut(T),
) -> [usize; 2] {
    let state = || fixture.memory.state.lock();
    let before = counts(fixture);
    [false, true].map(|is_mapping| {
        for calls in 0.. {
            if is_mapping {
                state().mappings_left = Some(calls);
            } else {
                state().frames_left = Some(calls);
            }
            let result = operation();
            state().mappings_left = None;
            state().frames_left = None;
            match result {
                Ok(result) => {
                    undo(result);
                    assert_eq!(counts(fixture), before);
                    return calls;
                }
                Err(error) => assert_eq!(error, OUT_OF_FRAMES),
            }
            assert_eq!(counts(fixture), before, "after {calls} calls");
        }
        unreachable!()
    })
}

#[test]
fn a_range_is_mapped_between_guards_and_released() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let before = counts(&fixture);
    let lower = arena.alloc(3 * PAGE_SIZE, InstantFit).unwrap();
    let upper = arena.alloc(PAGE_SIZE, InstantFit).unwrap();
    assert_eq!((lower, upper), (WINDOW + PAGE_SIZE, WINDOW + 5 * PAGE_SIZE));
    let mapped: Vec<_> = (0..7)
        .filter(|page| memory.frame_at(WINDOW + page * PAGE_SIZE).is_some())
        .collect();
    assert_eq!(mapped, [1, 2, 3, 5]);
    assert_eq!(memory.in_use().0, 4);
    arena.free(lower).unwrap();
    arena.free(upper).unwrap();
    assert_eq!(counts(&fixture), before);
    assert_eq!(memory.in_use(), (0, 0), "the page tables are freed too");
}

#[test]
fn a_range_that_cannot_be_mapped_changes_nothing() {
    let fixture = Fixture::new(200);
    let arena = &fixture.arena;
    let alloc = || arena.alloc(40 * PAGE_SIZE, InstantFit);
    let failures = fail_everywhere(&fixture, alloc, |base| arena.free(base).unwrap());
    // A page of the first table, the rest in the second; two more tables above them.
    assert_eq!(failures, [44, 40]);
}

#[test]
fn a_range_that_cannot_be_extended_stays_as_it_is() {
    let fixture = Fixture::new(1000);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(PAGE_SIZE, InstantFit).unwrap();
    // SAFETY: the page is mapped, and the test owns it.
    unsafe { memory.byte(base).unwrap().write(7) };
    let extend = || arena.resize(base, 550 * PAGE_SIZE);
    let failures = fail_everywhere(&fixture, extend, |()| {
        arena.resize(base, PAGE_SIZE).unwrap();
    });
    // Pages, and two tables.
    assert_eq!(failures, [551, 549]);
    // SAFETY: the page is mapped.
    assert_eq!(unsafe { memory.byte(base).unwrap().read() }, 7);
}

#[test]
fn a_hole_that_cannot_be_restored_stays_a_hole() {
    let fixture = Fixture::new(200);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(60 * PAGE_SIZE, InstantFit).unwrap();
    let at = |page| base + page * PAGE_SIZE;
    for page in 0..60 {
        // SAFETY: the page is mapped, and the test owns it.
        unsafe { memory.byte(at(page)).unwrap().write(page as u8 + 1) };
    }
    for (first, count) in [(0, 1), (3, 20), (30, 1), (40, 20)] {
        arena.discard(at(first), count * PAGE_SIZE).unwrap();
    }
    let holes = || {
        (0..60)
            .filter(|&page| memory.frame_at(at(page)).is_none())
            .collect::<Vec<_>>()
    };
    let before = holes();
    assert_eq!(before.len(), 42);
    let restore = || arena.restore(base, 60 * PAGE_SIZE);
    let failures = fail_everywhere(&fixture, restore, |()| {
        for page in 0..60 {
            let expected = if before.contains(&page) {
                0
            } else {
                page as u8 + 1
            };
            // SAFETY: the page is mapped.
            assert_eq!(unsafe { memory.byte(at(page)).unwrap().read() }, expected);
        }
        for &page in &before {
            arena.discard(at(page), PAGE_SIZE).unwrap();
        }
        assert_eq!(holes(), before);
    });
    // The first page has a table of its own.
    assert_eq!(failures, [43, 42]);
    arena.free(base).unwrap();
    assert_eq!((fixture.pages.discarded(), memory.in_use()), (0, (0, 0)));
}

#[test]
fn restored_pages_are_zero() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(30 * PAGE_SIZE, InstantFit).unwrap();
    let page = |page: usize| memory.byte(base + page * PAGE_SIZE).unwrap();
    for index in 0..30 {
        // SAFETY: the page is mapped, and the test owns it.
        unsafe { page(index).write_bytes(7, PAGE_SIZE) };
    }
    let (first, count) = (5, 20);
    let hole = base + first * PAGE_SIZE;
    arena.discard(hole, count * PAGE_SIZE).unwrap();
    // The frames of the hole, which are zero. Those that are left are not.
    let other = arena.alloc(count * PAGE_SIZE, InstantFit).unwrap();
    arena.restore(hole, count * PAGE_SIZE).unwrap();
    for index in 0..30 {
        let expected = if (first..first + count).contains(&index) {
            0
        } else {
            7
        };
        // SAFETY: the page is mapped, and the test owns it.
        let bytes = unsafe { core::slice::from_raw_parts(page(index), PAGE_SIZE) };
        assert!(bytes.iter().all(|&byte| byte == expected), "page {index}");
    }
    arena.free(other).unwrap();
    arena.free(base).unwrap();
}

#[test]
fn pages_of_the_heap_are_writable_and_not_executable() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(20 * PAGE_SIZE, InstantFit).unwrap();
    arena.discard(base, 2 * PAGE_SIZE).unwrap();
    arena.restore(base, PAGE_SIZE).unwrap();
    let flags = |page| memory.flags_at(base + page * PAGE_SIZE);
    assert_eq!(
        [flags(0), flags(1), flags(19)],
        [Some(FLAGS), None, Some(FLAGS)]
    );
    // The upper levels permit to write, and leave it to the last one what is not permitted.
    let parent = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    assert_eq!(memory.parent_flags_at(base), [parent; 3]);
    assert!(FLAGS.contains(PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE));
}

#[test]
fn frames_are_freed_after_the_flush_of_their_batch() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(18 * PAGE_SIZE, InstantFit).unwrap();
    memory.state.lock().events.clear();
    arena.free(base).unwrap();
    let events = memory.state.lock().events.clone();
    let table = || Event::Free(Purpose::PageTables, 1);
    assert_eq!(
        events,
        [
            Event::WillUnmap(base..base + 18 * PAGE_SIZE, base),
            Event::Flush(16),
            Event::Free(Purpose::Heap, 16),
            // The first page has a table of its own.
            table(),
            Event::Flush(2),
            Event::Free(Purpose::Heap, 2),
            table(),
            table(),
            table(),
        ]
    );
}

#[test]
fn the_memory_is_told_which_pages_will_be_unmapped() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(10 * PAGE_SIZE, InstantFit).unwrap();
    let at = |page| base + page * PAGE_SIZE;
    let told = |operation: &dyn Fn() -> Result<()>| {
        memory.state.lock().events.clear();
        operation().unwrap();
        memory.state.lock().events[0].clone()
    };
    assert_eq!(
        [
            told(&|| arena.discard(at(3), 2 * PAGE_SIZE)),
            told(&|| arena.resize(base, 7 * PAGE_SIZE)),
            told(&|| arena.free(base)),
        ],
        [
            Event::WillUnmap(at(3)..at(5), base),
            Event::WillUnmap(at(7)..at(10), base),
            Event::WillUnmap(base..at(7), base),
        ]
    );
}

#[test]
fn tables_that_are_kept_serve_again() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    memory.state.lock().keeps_tables = true;
    for _ in 0..2 {
        let base = arena.alloc(4 * PAGE_SIZE, InstantFit).unwrap();
        assert_eq!(memory.in_use(), (4, 4));
        arena.free(base).unwrap();
        assert_eq!(memory.in_use(), (0, 4));
    }
}

#[test]
fn a_request_for_more_than_all_frames_takes_none() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    memory.state.lock().events.clear();
    let refused = arena.alloc(101 * PAGE_SIZE, InstantFit);
    assert_eq!(refused, Err(OUT_OF_FRAMES));
    assert_eq!(memory.state.lock().events, [], "none was freed");

    let base = arena.alloc(50 * PAGE_SIZE, InstantFit).unwrap();
    arena.discard(base, 50 * PAGE_SIZE).unwrap();
    let free = memory.free_frame_count();
    let other = arena.alloc((free - 40) * PAGE_SIZE, InstantFit).unwrap();
    memory.state.lock().events.clear();
    assert_eq!(arena.restore(base, 50 * PAGE_SIZE), Err(OUT_OF_FRAMES));
    assert_eq!(memory.state.lock().events, [], "none was freed");
    arena.free(other).unwrap();
}

/// Takes frames until `count` are free.
fn leave_frames(memory: &HostMemory, count: usize) {
    while memory.free_frame_count() > count {
        memory.allocate_frame(Purpose::Heap).unwrap();
    }
}

#[test]
fn a_request_for_exactly_all_frames_succeeds() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(30 * PAGE_SIZE, InstantFit).unwrap();
    arena.discard(base + 10 * PAGE_SIZE, 3 * PAGE_SIZE).unwrap();
    leave_frames(memory, 3);
    arena.restore(base, 30 * PAGE_SIZE).unwrap();
    assert_eq!(memory.free_frame_count(), 0);

    arena.resize(base, 25 * PAGE_SIZE).unwrap();
    assert_eq!(memory.free_frame_count(), 5);
    arena.resize(base, 30 * PAGE_SIZE).unwrap();
    assert_eq!(memory.free_frame_count(), 0);
}

#[test]
fn pages_are_counted_each_time_they_are_mapped() {
    let fixture = Fixture::new(100);
    let &Fixture {
        pages, ref arena, ..
    } = &fixture;
    let counts = || {
        [
            pages.mapped(),
            pages.ever_mapped(),
            pages.discarded(),
            pages.ever_restored(),
        ]
    };
    let base = arena.alloc(20 * PAGE_SIZE, InstantFit).unwrap();
    arena.discard(base + 10 * PAGE_SIZE, 5 * PAGE_SIZE).unwrap();
    assert_eq!(counts(), [15, 20, 5, 0]);
    arena.restore(base, 12 * PAGE_SIZE).unwrap();
    assert_eq!(counts(), [17, 22, 3, 2]);
    // One of the three holes is in the tail.
    arena.resize(base, 14 * PAGE_SIZE).unwrap();
    assert_eq!(counts(), [12, 22, 2, 2]);
    arena.resize(base, 12 * PAGE_SIZE).unwrap();
    assert_eq!(counts(), [12, 22, 0, 2]);
    arena.free(base).unwrap();
    assert_eq!(counts(), [0, 22, 0, 2]);
}

#[test]
fn a_page_that_other_code_has_mapped_is_left_alone() {
    let fixture = Fixture::new(100);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let base = arena.alloc(20 * PAGE_SIZE, InstantFit).unwrap();
    arena.resize(base, PAGE_SIZE).unwrap();
    // The page is in the window, against the rules.
    let stray = page(base + 18 * PAGE_SIZE);
    let frame = memory.allocate_frame(Purpose::Heap).unwrap();
    // SAFETY: no code uses the page or the frame.
    unsafe {
        page_table::map(
            memory,
            &UnlinkedTables::new(),
            PageSet::all(stray, 1),
            &[frame],
            FLAGS,
        )
    }
    .unwrap();
    let before = counts(&fixture);
    let in_use = Error::Other("a page of the heap's window is mapped already");
    assert_eq!(arena.resize(base, 20 * PAGE_SIZE), Err(in_use));
    assert_eq!(counts(&fixture), before);
    assert_eq!(memory.frame_at(base + 18 * PAGE_SIZE), Some(frame));
}

#[test]
fn a_source_without_a_window_lends_nothing() {
    let memory = HostMemory::new(10);
    let pages = MappedPages::new(memory);
    let layout = Layout::from_size_align(PAGE_SIZE, PAGE_SIZE).unwrap();
    assert!(Source::import(&pages, layout).is_err());
    assert!(pages.addresses().is_none());
}

#[test]
fn a_window_that_no_pages_can_be_mapped_at_is_refused() {
    let memory = HostMemory::new(10);
    let tags = Box::leak(Box::new(TagPool::new(
        PageLock::new(),
        TagFrames::new(memory),
    )));
    let pages = MappedPages::new(memory);
    let hole = 0x8000_0000_0000..0xffff_8000_0000_0000;
    for window in [
        hole.start - PAGE_SIZE..hole.start + PAGE_SIZE,
        hole.start..hole.end,
        hole.start - PAGE_SIZE..hole.end + PAGE_SIZE,
        PAGE_SIZE + 1..5 * PAGE_SIZE,
        PAGE_SIZE..PAGE_SIZE,
    ] {
        // SAFETY: the memory is usable, and its page tables map nothing.
        let refused = unsafe { pages.init(window.clone(), tags) };
        assert!(refused.is_err(), "{window:#x?}");
        assert!(pages.addresses().is_none());
    }
}

#[test]
fn a_window_may_end_with_the_lower_half_of_the_addresses() {
    let end = 0x8000_0000_0000;
    let fixture = Fixture::with_window(100, end - 20 * PAGE_SIZE..end);
    let arena = &fixture.arena;
    // All pages but the leading guard and the guard page of the range.
    let base = arena.alloc(18 * PAGE_SIZE, InstantFit).unwrap();
    assert_eq!(base + 19 * PAGE_SIZE, end);
    arena.free(base).unwrap();
    assert_eq!(fixture.memory.in_use(), (0, 0));
}

#[test]
fn boundary_tags_are_frames_which_come_back() {
    let fixture = Fixture::new(400);
    let &Fixture {
        memory, ref arena, ..
    } = &fixture;
    let blocks: Vec<_> = (0..100)
        .map(|_| arena.alloc(PAGE_SIZE, InstantFit).unwrap())
        .collect();
    assert!(memory.state.lock().tags > 3);
    for base in blocks {
        arena.free(base).unwrap();
    }
    // The pool retains a little.
    assert!(memory.state.lock().tags <= 2);
}

const SIZE: usize = 0x1_0000;

#[test]
fn the_guard_page_may_lie_above_the_bounds() {
    let layout = Layout::from_size_align(SIZE, 0x2000).unwrap();
    let layout = layout
        .with_phase(0x1000)
        .with_min(0x5000)
        .with_max(0x1_4fff);
    let guarded = with_guard(layout).unwrap();
    assert_eq!(guarded.size(), SIZE + PAGE_SIZE);
    assert_eq!((guarded.align(), guarded.phase()), (0x2000, Some(0x1000)));
    assert_eq!(
        (guarded.min(), guarded.max()),
        (Some(0x5000), Some(0x1_5fff))
    );
}

#[test]
fn a_range_as_long_as_its_boundaries_is_aligned_to_them() {
    let layout = Layout::from_size_align(SIZE, PAGE_SIZE).unwrap();
    let exact = with_guard(layout.with_nocross(SIZE).unwrap()).unwrap();
    assert_eq!((exact.align(), exact.nocross()), (SIZE, None));
    let loose = with_guard(layout.with_nocross(2 * SIZE).unwrap()).unwrap();
    assert_eq!(
        (loose.align(), loose.nocross()),
        (PAGE_SIZE, Some(2 * SIZE))
    );
}

#[test]
fn a_range_as_long_as_its_boundaries_has_no_phase() {
    let layout = Layout::from_size_align(SIZE, 0x2000).unwrap();
    let exact = layout.with_phase(0x1000).with_nocross(SIZE).unwrap();
    let size = SIZE + PAGE_SIZE;
    assert_eq!(with_guard(exact), Err(Error::Unsatisfiable { size }));
}

#[test]
fn an_upper_bound_that_excludes_nothing_stays_so() {
    let layout = Layout::from_size_align(SIZE, PAGE_SIZE).unwrap();
    let guarded = with_guard(layout.with_max(usize::MAX)).unwrap();
    assert_eq!(guarded.max(), Some(usize::MAX));
}

#[test]
fn a_size_that_overflows_with_its_guard_page_is_refused() {
    let size = usize::MAX - PAGE_SIZE + 1;
    let layout = Layout::from_size_align(size, PAGE_SIZE).unwrap();
    assert_eq!(with_guard(layout), Err(Error::SizeOverflow { size }));
}
