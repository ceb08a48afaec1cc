//! Programs on all layers at once: a Talc over an `ArenaSource`, an arena and a window of pages.
//! Pages for the heap and pages for boundary tags can run out at any call.

use std::alloc::GlobalAlloc;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::{Arena, Page, PageSupply, TagPool};

use crate::common::shadow::Shadow;
use crate::common::window::{PAGE, Pages, SpinLock, Window};
use crate::input::Input;

/// A limited supply of pages for boundary tags.
struct TagPages {
    left: AtomicUsize,
    out: AtomicUsize,
}

// SAFETY: all pages come from another supply, which keeps the contract.
unsafe impl PageSupply for &TagPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        self.left
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .ok()?;
        self.out.fetch_add(1, SeqCst);
        Pages.allocate_page()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        self.out.fetch_sub(1, SeqCst);
        // SAFETY: the page came from `Pages`.
        unsafe { Pages.deallocate_page(page) };
    }
}

type Tags<'a> = TagPool<SpinLock, &'a TagPages, 24>;

/// Runs a program.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let window = Window::new(96);
    let pages = TagPages {
        left: AtomicUsize::new(100),
        out: AtomicUsize::new(0),
    };
    {
        let tags: Tags = TagPool::new(SpinLock::new(), &pages);
        {
            let arena = Arena::<_, SpinLock>::create("pages", PAGE, Some(&window), &tags)
                .unwrap()
                .with_retained_spans(0);
            program(&mut input, &window, &pages, &arena);
            assert_eq!(arena.total_space(), 0);
        }
        assert_eq!(tags.counts().in_use, 0, "tags leaked");
    }
    assert_eq!(pages.out.load(SeqCst), 0, "pages leaked");
    assert_eq!(window.lent(), 0);
    window.assert_vacant_untouched();
}

fn program<'a>(
    input: &mut Input,
    window: &Window,
    pages: &TagPages,
    arena: &'a Arena<'a, 'a, &'a Tags<'a>, SpinLock>,
) {
    // SAFETY: the window's pages are memory that only the heaps of this source use.
    let source = unsafe { ArenaSource::new(arena) };
    let heap: TalcLock<spin::Mutex<()>, _> = TalcLock::new(source);
    let mut shadow = Shadow::new();
    while !input.is_over() {
        match input.below(16) {
            0..=5 => {
                let layout = if input.below(8) == 0 {
                    input.layout(15, 13)
                } else {
                    input.layout(10, 5)
                };
                // SAFETY: the size is not zero.
                let block = unsafe { heap.alloc(layout) };
                if !block.is_null() {
                    shadow.insert(block, layout);
                }
            }
            6..=9 if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                // SAFETY: the block is live.
                unsafe { heap.dealloc(block.ptr, block.layout) };
            }
            10 | 11 if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                let new_size = input.size(12);
                // SAFETY: the block is live, and the size neither zero nor large.
                let moved = unsafe { heap.realloc(block.ptr, block.layout, new_size) };
                if moved.is_null() {
                    shadow.put_back(block, block.ptr, block.layout.size());
                } else {
                    shadow.put_back(block, moved, new_size);
                }
            }
            // A refused release stays in the release queue.
            12 => drop(heap.drain()),
            13 => heap.lock().trim(),
            14 => window.fail_after(input.below(6)),
            _ if input.below(2) == 0 => pages.left.store(input.below(3), SeqCst),
            _ => {
                window.fail_after(usize::MAX);
                pages.left.store(100, SeqCst);
            }
        }
        heap.lock().check().unwrap();
        arena.check().unwrap();
    }

    window.fail_after(usize::MAX);
    pages.left.store(100, SeqCst);
    shadow.assert_all_intact();
    while !shadow.is_empty() {
        let block = shadow.take_at(0);
        // SAFETY: the block is live.
        unsafe { heap.dealloc(block.ptr, block.layout) };
    }
    heap.lock().trim();
    heap.drain().unwrap();
    let talc = heap.lock();
    talc.check().unwrap();
    assert_eq!(talc.counters().allocated_bytes, 0);
    // Only the heap that contains Talc's own metadata is left.
    assert!(talc.arena_heaps().count() <= 1);
    let sum: usize = talc.arena_heaps().map(|heap| heap.size).sum();
    assert_eq!(sum, talc.source.claimed());
    assert_eq!(sum, arena.allocated_space());
    assert_eq!(sum, arena.borrowed_space());
    assert_eq!(sum, window.lent());
}
