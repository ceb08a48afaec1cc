//! A custom source: one heap at the bottom of a window of addresses, which grows and shrinks by
//! pages.
//!
//!     cargo run -p heap --example custom_source

use std::alloc::Layout;
use std::ptr::NonNull;

use heap::Span;
use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::source::Source;
use heap::talc::{TalcCell, min_first_heap_layout};

const PAGE: usize = 4096;

/// A source whose only heap begins at the base of the window. A kernel would map frames up to the
/// end of the heap, and none above.
#[derive(Debug)]
struct Window {
    addresses: Span,
    heap_end: Option<NonNull<u8>>,
}

impl Window {
    /// # Safety
    /// The addresses are valid, page-aligned memory that nothing else uses.
    unsafe fn new(addresses: Span) -> Self {
        Self {
            addresses,
            heap_end: None,
        }
    }

    fn pages(&self) -> usize {
        self.heap_end
            .map_or(0, |end| self.addresses.below(end.as_ptr()).size() / PAGE)
    }
}

// SAFETY: `acquire` uses only the `Talc` that it is called with, and grants memory of the window.
// The end that `resize` returns lies between `chunk_base` and `heap_end`.
unsafe impl Source for Window {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let Window {
            addresses,
            heap_end,
        } = talc.source;
        // With this slack the layout fits at any address, and a first heap has room for its
        // metadata.
        let slack = layout.align() + min_first_heap_layout::<B>().size();
        let needed = layout.size().checked_add(slack).ok_or(())?;
        let growth = needed.checked_next_multiple_of(PAGE).ok_or(())?;
        let old_end = heap_end.map_or(addresses.base(), NonNull::as_ptr);
        if growth > addresses.above(old_end).size() {
            return Err(());
        }
        // SAFETY: the caller of `new` vouched for all addresses of the window, and the heap ends at
        // `end`.
        let new_end = unsafe {
            match heap_end {
                None => talc.claim(addresses.base(), growth),
                Some(end) => Some(talc.extend(end, old_end.wrapping_add(growth))),
            }
        };
        talc.source.heap_end = new_end;
        println!("  {} pages: {growth} bytes more", talc.source.pages());
        new_end.map(|_| ()).ok_or(())
    }

    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, _: bool) -> *mut u8 {
        let free = heap_end.addr() - chunk_base.addr();
        if free < 4 * PAGE {
            return heap_end;
        }
        // One free page stays for the next allocation. The heap with the metadata is never empty.
        let retained = (chunk_base.addr() + PAGE).next_multiple_of(PAGE);
        let new_end = chunk_base.with_addr(retained);
        self.heap_end = NonNull::new(new_end);
        println!(
            "  {} pages: {} bytes less",
            self.pages(),
            heap_end.addr() - retained
        );
        new_end
    }
}

#[repr(align(4096))]
struct Memory([u8; 64 * PAGE]);

fn main() {
    let mut memory = Box::new(Memory([0; 64 * PAGE]));
    // SAFETY: the memory is aligned to pages, and nothing else uses it while `talc` does.
    let talc = TalcCell::new(unsafe { Window::new(Span::from_array(&raw mut memory.0)) });

    println!("twenty lists of 5,000 bytes");
    let lists: Vec<_> = (0..20_u8)
        .map(|n| {
            let mut list = allocator_api2::vec::Vec::new_in(&talc);
            list.resize(5000, n);
            list
        })
        .collect();
    assert!(lists.iter().zip(0..).all(|(list, n)| list[4999] == n));
    println!("free the lists");
    drop(lists);
    println!("freed: {talc:?}");
}
