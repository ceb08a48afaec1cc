//! The lists that thread the records of heaps.

use core::ptr::NonNull;

use super::record::{Links, SegmentRecord};

/// The list of live heaps. The first is the one to extend.
pub(super) const HEAPS: usize = 0;
/// The release queue: heaps with pages to give back. The first is the next to be drained.
pub(super) const RELEASE_QUEUE: usize = 1;

/// A doubly linked list through the links `WHICH` of records. Every operation takes constant time.
///
/// ```text
///     RecordList      record            record            record
///     first ────────> previous: None <─ previous <─────── previous
///     last ──────┐    next ───────────> next ───────────> next: None
///     len: 3     └──────────────────────────────────────> ^
/// ```
pub(super) struct RecordList<const WHICH: usize> {
    first: Option<NonNull<SegmentRecord>>,
    last: Option<NonNull<SegmentRecord>>,
    len: usize,
}

impl<const WHICH: usize> RecordList<WHICH> {
    pub(super) const fn new() -> Self {
        RecordList {
            first: None,
            last: None,
            len: 0,
        }
    }

    pub(super) fn first(&self) -> Option<NonNull<SegmentRecord>> {
        self.first
    }

    /// Returns how many records are in the list.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the record after `record`, or `None` if `record` is the last or damaged.
    ///
    /// # Safety
    /// `record` must be in this list.
    pub(super) unsafe fn after(
        &self,
        record: NonNull<SegmentRecord>,
    ) -> Option<NonNull<SegmentRecord>> {
        // SAFETY: records in a list are live.
        unsafe { SegmentRecord::read(record) }.and_then(|record| record.links[WHICH].next)
    }

    /// Enters `record` as the first.
    ///
    /// # Safety
    /// `record` must be live, stay live while it is in the list, and not be in it yet.
    pub(super) unsafe fn push_front(&mut self, record: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches for `record`, and the first record is in the list.
        unsafe { self.insert(None, record, self.first) };
    }

    /// Enters `record` as the last.
    ///
    /// # Safety
    /// As for [`push_front`](Self::push_front).
    pub(super) unsafe fn push_back(&mut self, record: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches for `record`, and the last record is in the list.
        unsafe { self.insert(self.last, record, None) };
    }

    /// Enters `record` between `previous` and `next`.
    ///
    /// # Safety
    /// As for [`push_front`](Self::push_front); `previous` and `next` must be neighbours in this
    /// list.
    unsafe fn insert(
        &mut self,
        previous: Option<NonNull<SegmentRecord>>,
        record: NonNull<SegmentRecord>,
        next: Option<NonNull<SegmentRecord>>,
    ) {
        // SAFETY: the caller vouches that `record` is live.
        unsafe { SegmentRecord::update(record, |it| it.links[WHICH] = Links { previous, next }) };
        // SAFETY: the caller vouches that the neighbours are in the list.
        unsafe { self.join(previous, Some(record), next, Some(record)) };
        self.len += 1;
    }

    /// Takes `record` out. Leaves a damaged record in the list.
    ///
    /// # Safety
    /// `record` must be in this list.
    pub(super) unsafe fn remove(&mut self, record: NonNull<SegmentRecord>) {
        // SAFETY: records in a list are live.
        let Some(found) = (unsafe { SegmentRecord::read(record) }) else {
            return;
        };
        let Links { previous, next } = found.links[WHICH];
        // SAFETY: the links of a record in the list lead to its neighbours.
        unsafe { self.join(previous, next, next, previous) };
        self.len -= 1;
    }

    /// Makes the neighbours of a record that has moved point to its new address.
    ///
    /// # Safety
    /// `record` must be a copy of a record that is in this list, and replace that record.
    pub(super) unsafe fn moved(&mut self, record: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches that `record` is live.
        let Some(found) = (unsafe { SegmentRecord::read(record) }) else {
            return;
        };
        let Links { previous, next } = found.links[WHICH];
        // SAFETY: the links of a record in the list lead to its neighbours.
        unsafe { self.join(previous, Some(record), next, Some(record)) };
    }

    /// Sets the forward link of `previous` and the backward link of `next`, or the ends of the list
    /// where `previous` or `next` is `None`.
    ///
    /// # Safety
    /// `previous` and `next` must be neighbours in this list, except for one record between them.
    unsafe fn join(
        &mut self,
        previous: Option<NonNull<SegmentRecord>>,
        forward: Option<NonNull<SegmentRecord>>,
        next: Option<NonNull<SegmentRecord>>,
        backward: Option<NonNull<SegmentRecord>>,
    ) {
        match previous {
            // SAFETY: records in a list are live.
            Some(previous) => unsafe {
                SegmentRecord::update(previous, |it| it.links[WHICH].next = forward)
            },
            None => self.first = forward,
        }
        match next {
            // SAFETY: records in a list are live.
            Some(next) => unsafe {
                SegmentRecord::update(next, |it| it.links[WHICH].previous = backward)
            },
            None => self.last = backward,
        }
    }
}
