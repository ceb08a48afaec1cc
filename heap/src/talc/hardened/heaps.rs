//! The heaps, in a list, so that pointers into them can be told from others.
//!
//! ```text
//!             first - 3 words              first - 1 word   first
//!      ┄┄┄┄┄┄┄┬────────────┬──────────────┬─────┬────────────────────────┄┄┄
//!      unused │ next heap  │ end          │ tag │ chunks and gaps
//!      ┄┄┄┄┄┄┄┴────────────┴──────────────┴─────┴────────────────────────┄┄┄
//! ```

use core::ptr::NonNull;

use super::super::chunk::HEAP_OVERHEAD;

/// Bytes of a record.
pub(in super::super) const RECORD_SIZE: usize = size_of::<Record>();

/// What lies below the base tag of a heap.
#[repr(C)]
struct Record {
    next: Option<NonNull<Record>>,
    /// Where the heap ends.
    end: NonNull<u8>,
}

/// A heap: from its first chunk or gap to its end.
#[derive(Clone, Copy)]
pub(super) struct Heap {
    pub(super) first: NonNull<u8>,
    pub(super) end: NonNull<u8>,
}

impl Heap {
    pub(super) fn contains(&self, address: usize) -> bool {
        (self.first.addr().get()..self.end.addr().get()).contains(&address)
    }
}

/// Every heap, the latest first.
pub(in super::super) struct Heaps {
    latest: Option<NonNull<Record>>,
}

impl Heaps {
    pub(in super::super) const fn new() -> Self {
        Self { latest: None }
    }

    fn records(&self) -> impl Iterator<Item = NonNull<Record>> {
        // SAFETY: records in the list are valid.
        core::iter::successors(self.latest, |record| unsafe { (*record.as_ptr()).next })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Heap> {
        self.records().map(|record| Heap {
            // SAFETY: that far above a record, its heap begins.
            first: unsafe { record.byte_add(HEAP_OVERHEAD) }.cast(),
            // SAFETY: records in the list are valid.
            end: unsafe { (*record.as_ptr()).end },
        })
    }

    /// Enters the heap that begins at `first`.
    ///
    /// # Safety
    /// The bytes below `first`, up to [`HEAP_OVERHEAD`], are the heap's. It is not in the list.
    pub(in super::super) unsafe fn insert(&mut self, first: NonNull<u8>, end: NonNull<u8>) {
        // SAFETY: the caller gives the place, which is aligned because `first` is.
        unsafe {
            let record = first.byte_sub(HEAP_OVERHEAD).cast::<Record>();
            let next = self.latest.replace(record);
            record.write(Record { next, end });
        }
    }

    /// Takes the heap that ends at `end` out of the list.
    pub(in super::super) fn remove(&mut self, end: NonNull<u8>) {
        let mut link = &raw mut self.latest;
        // SAFETY: the links lead to records, which are valid, and end with none.
        unsafe {
            while let Some(record) = *link {
                if (*record.as_ptr()).end == end {
                    *link = (*record.as_ptr()).next;
                    return;
                }
                link = &raw mut (*record.as_ptr()).next;
            }
        }
    }

    /// Records that the heap which ended at `old_end` ends at `new_end`.
    pub(in super::super) fn move_end(&mut self, old_end: NonNull<u8>, new_end: NonNull<u8>) {
        // SAFETY: records in the list are valid, and nobody else looks at them now.
        let record = self
            .records()
            .find(|record| unsafe { (*record.as_ptr()).end == old_end });
        if let Some(record) = record {
            // SAFETY: as before.
            unsafe { (*record.as_ptr()).end = new_end };
        }
    }
}
