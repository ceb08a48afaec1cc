//! The program's allocator takes pages from an arena when it grows, and gives them back.
//!
//!     cargo run -p heap --example arena_global
//!
//! A kernel does the same. Its arena borrows from a `vmem::Source` that maps frames; here the arena
//! has a span of static memory, so that the example runs anywhere. As in a kernel, nothing may
//! allocate before the heap has its arena. The standard library does so before it calls a `main` of
//! Rust, so this `main` is C's.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use heap::bump::Bump;
use heap::source::{ArenaSource, PageHeap};
use heap::vmem::{Arena, Error, LockApi, PAGE_SIZE, Page, PageSupply, TagPool};

type ArenaLock = LockApi<spin::Mutex<()>>;
type Tags = &'static TagPool<ArenaLock, TagPages>;
type PageArena = Arena<'static, 'static, Tags, ArenaLock>;

/// Supplies pages for boundary tags beyond the reserve of the pool. A kernel takes frames for them:
/// the heap itself waits for the arena, so it must not be asked.
struct TagPages;

// SAFETY: each page is an allocation of its own.
unsafe impl PageSupply for TagPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: the size of a page is not zero.
        NonNull::new(unsafe { System.alloc(Layout::new::<Page>()) }.cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: it came from `allocate_page`, as the caller promises.
        unsafe { System.dealloc(page.as_ptr().cast(), Layout::new::<Page>()) }
    }
}

static TAGS: TagPool<ArenaLock, TagPages> = TagPool::new(ArenaLock::new(), TagPages);

/// Memory for the arena, which exists before the heap does and lives as long as the program.
static BOOT: Bump<[u64; 1024]> = Bump::uninit();

#[global_allocator]
static HEAP: PageHeap<spin::Mutex<()>, Tags, ArenaLock> = PageHeap::new(ArenaSource::detached());

/// Creates an arena of `pages`, and attaches the heap to it. Allocations fail until then.
///
/// # Safety
/// The pages are valid memory for the rest of the program, and no other code uses them.
unsafe fn start_heap(pages: *mut [Page]) -> Result<&'static PageArena, Error> {
    // The heap decides how much stays with it, so the arena keeps no free spans.
    let arena = Arena::create("heap pages", PAGE_SIZE, None, &TAGS)?.with_retained_spans(0);
    arena.add_span(pages.expose_provenance(), pages.len() * PAGE_SIZE)?;
    let arena: &'static PageArena = BOOT.leak(arena).expect("there is room for one arena");
    // SAFETY: the pages are memory, as the caller promises, and no other code allocates from the
    // arena or frees in it.
    unsafe { HEAP.attach(arena) };
    Ok(arena)
}

/// Shows what the heap has of the arena. `println!` may allocate, so no lock is held.
fn show(arena: &PageArena, when: &str) {
    let pages = arena.allocated_space() / PAGE_SIZE;
    println!("{pages:>5} pages {when}");
}

// SAFETY: a program has one `main`, and there is none but this.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    /// 16 MiB.
    static mut PAGES: MaybeUninit<[Page; 4096]> = MaybeUninit::uninit();
    let pages: *mut [Page; 4096] = (&raw mut PAGES).cast();
    // SAFETY: nothing else uses `PAGES`.
    let arena = unsafe { start_heap(pages) }.expect("the pages are aligned and there are tags");

    show(arena, "at the beginning");
    let lists: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 50_000]).collect();
    show(arena, "with a hundred lists of 50,000 bytes");
    assert!(lists.iter().zip(0..).all(|(list, n)| list[49_999] == n));
    drop(lists);
    show(arena, "when they are freed");
    HEAP.reap();
    show(arena, "without the slack that waits for more growth");

    let checked = HEAP.talc().lock().check();
    checked.expect("all invariants hold");
    0
}
