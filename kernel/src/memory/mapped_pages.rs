//! The source of the arena "heap pages": ranges of addresses with frames mapped at them.

use heap_x86_64::MappedPages;

use super::heap_memory::HeapMemory;

/// The source of the arena "heap pages".
pub(super) static MAPPED_PAGES: MappedPages<HeapMemory> = MappedPages::new(&HeapMemory);

/// Returns the number of pages that are mapped for the heap.
pub fn mapped() -> usize {
    MAPPED_PAGES.mapped()
}

/// Returns the number of pages that were ever mapped for the heap, including pages that are
/// unmapped again.
pub fn ever_mapped() -> usize {
    MAPPED_PAGES.ever_mapped()
}

/// Returns the number of pages in ranges of the heap that are holes now: discarded, and neither
/// restored nor released since.
pub fn discarded() -> usize {
    MAPPED_PAGES.discarded()
}

/// Returns the number of holes that were ever mapped again. [`ever_mapped`] counts them too.
pub fn ever_restored() -> usize {
    MAPPED_PAGES.ever_restored()
}

/// Returns the number of ranges that are mapped for the heap. A guard page follows each range.
pub fn ranges() -> usize {
    MAPPED_PAGES.ranges()
}
