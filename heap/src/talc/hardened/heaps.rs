//! The list of heaps, by which pointers into heaps are told from others.
//!
//! ```text
//!     Talc          first - 6 words                                          first
//!    ┌──────────┐    ┌────────────────────┬────────────────────┬──────────┬─────┬──────────────┄┄
//!    │ latest   │    │ older: first, end  │ newer: first, end  │ checksum │ tag │ chunks and gaps
//!    │ oldest   │    └────────────────────┴────────────────────┴──────────┴─────┴──────────────┄┄
//!    └──────────┘     record of each heap: 5 words, below its base tag
//! ```
//!
//! The extent of a heap is not read from the heap itself. The allocator knows the latest and the
//! oldest heap, and each heap record holds the extents of the two neighbouring heaps in the list. A
//! record is followed only if its checksum is right, which covers its address and its words. A
//! damaged record interrupts the walk from the latest heap, which then continues from the oldest.
//! With one damaged record, every heap is thus still known, and the record can be restored.

use core::ptr::{NonNull, null_mut};

use super::super::chunk::{HEAP_OVERHEAD, distance};
use super::redzone::checksum;
use super::report::{Misuse, Report};

/// Bytes of a heap record.
pub(in super::super) const HEAP_RECORD_SIZE: usize = size_of::<HeapRecord>();

/// The extent of a heap: from its first chunk or gap to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Heap {
    pub(super) first: NonNull<u8>,
    pub(super) end: NonNull<u8>,
}

impl Heap {
    #[inline]
    pub(super) fn contains(&self, address: usize) -> bool {
        (self.first.addr().get()..self.end.addr().get()).contains(&address)
    }

    /// Returns where the record below the base tag lies.
    fn record(self) -> NonNull<HeapRecord> {
        // SAFETY: each heap has `HEAP_OVERHEAD` bytes below its first chunk or gap.
        unsafe { self.first.byte_sub(HEAP_OVERHEAD) }.cast()
    }
}

/// The extent of a heap in a record; null if there is no heap.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bounds {
    first: *mut u8,
    end: *mut u8,
}

impl Bounds {
    fn new(heap: Option<Heap>) -> Self {
        let null = (null_mut(), null_mut());
        let (first, end) = heap.map_or(null, |heap| (heap.first.as_ptr(), heap.end.as_ptr()));
        Self { first, end }
    }

    fn heap(self) -> Option<Heap> {
        let (first, end) = (NonNull::new(self.first)?, NonNull::new(self.end)?);
        Some(Heap { first, end })
    }
}

/// The record below the base tag of a heap. Any words may be found there.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeapRecord {
    older: Bounds,
    newer: Bounds,
    checksum: usize,
}

/// The words of a record.
const WORDS: usize = HEAP_RECORD_SIZE / size_of::<usize>();

impl HeapRecord {
    /// Returns the record of `heap` between two others in the list.
    fn new(heap: Heap, older: Option<Heap>, newer: Option<Heap>) -> Self {
        let (older, newer) = (Bounds::new(older), Bounds::new(newer));
        let mut record = Self {
            older,
            newer,
            checksum: 0,
        };
        record.checksum = record.expected_checksum(heap);
        record
    }

    /// Returns the checksum of this record if it is that of `heap`.
    fn expected_checksum(&self, heap: Heap) -> usize {
        let [older_first, older_end, newer_first, newer_end, _] = self.words();
        let address = heap.record().addr().get();
        checksum(&[address, older_first, older_end, newer_first, newer_end])
    }

    fn words(&self) -> [usize; WORDS] {
        let Self {
            older,
            newer,
            checksum,
        } = *self;
        [
            older.first.addr(),
            older.end.addr(),
            newer.first.addr(),
            newer.end.addr(),
            checksum,
        ]
    }
}

/// A damaged record, with the information from which it can be restored.
struct Damage {
    heap: Heap,
    newer: Option<Heap>,
    /// The heap where a walk from the oldest heap arrives, and the heap that is older than it.
    beyond: Option<(Heap, Option<Heap>)>,
}

impl Damage {
    /// Returns the original record, if no other is damaged.
    fn expected(&self) -> Option<HeapRecord> {
        match self.beyond {
            Some((heap, older)) if heap == self.heap => {
                Some(HeapRecord::new(heap, older, self.newer))
            }
            _ => None,
        }
    }

    fn report(&self) -> Report {
        let record = self.heap.record();
        // SAFETY: a record lies below each known heap, and its type allows any words.
        let found = unsafe { record.read() }.words();
        let differs = |expected: &[usize; WORDS]| (0..WORDS).find(|&at| expected[at] != found[at]);
        let expected = self.expected().map(|record| record.words());
        let at = expected.as_ref().and_then(differs);
        let index = at.unwrap_or(0);
        Report {
            address: record.addr().get() + index * size_of::<usize>(),
            misuse: Misuse::DamagedHeapRecord {
                expected: expected.filter(|_| at.is_some()).map(|words| words[index]),
                found: found[index],
            },
        }
    }
}

/// All heaps, the latest first.
pub(in super::super) struct Heaps {
    latest: Option<Heap>,
    oldest: Option<Heap>,
    count: usize,
    /// The extent of the list heads.
    heads: Option<Heap>,
    /// Most look-ups are for addresses in the latest heap: its base, without list heads, and its
    /// size.
    latest_first: *mut u8,
    latest_size: usize,
    /// Damage that an operation found too late to be refused, and that is still to be reported.
    pub(super) pending_finding: Option<Report>,
}

impl Heaps {
    pub(in super::super) const fn new() -> Self {
        Self {
            latest: None,
            oldest: None,
            count: 0,
            heads: None,
            latest_first: null_mut(),
            latest_size: 0,
            pending_finding: None,
        }
    }

    /// Returns the latest heap, without list heads, if it contains the address.
    #[inline]
    pub(super) fn latest_with(&self, address: usize) -> Option<Heap> {
        let offset = address.wrapping_sub(self.latest_first.addr());
        if offset >= self.latest_size {
            return None;
        }
        let first = NonNull::new(self.latest_first)?;
        // SAFETY: `first` and the size delimit the latest heap.
        let end = unsafe { first.byte_add(self.latest_size) };
        Some(Heap { first, end })
    }

    /// Returns the part of a heap above its list heads, if it has any.
    pub(super) fn without_heads(&self, heap: Heap) -> Heap {
        match self.heads {
            Some(heads) if heads.first == heap.first => Heap {
                first: heads.end,
                ..heap
            },
            _ => heap,
        }
    }

    fn set_latest(&mut self, heap: Option<Heap>) {
        self.latest = heap;
        (self.latest_first, self.latest_size) = match heap.map(|heap| self.without_heads(heap)) {
            Some(Heap { first, end }) => (first.as_ptr(), distance(first, end)),
            None => (null_mut(), 0),
        };
    }

    /// Returns the known heaps: all heaps, unless more than one record is damaged.
    pub(super) fn iter(&self) -> impl Iterator<Item = Heap> {
        HeapIter {
            heaps: self,
            at: None,
            interrupted_at: None,
            left: self.count,
        }
    }

    /// Returns the record of a known heap, unless it is damaged.
    fn read(&self, heap: Heap) -> Option<HeapRecord> {
        // SAFETY: a known heap comes from the allocator itself or from a record with the right
        // checksum, so a record lies below it. Its type allows any words.
        let record = unsafe { heap.record().read() };
        (record.checksum == record.expected_checksum(heap)).then_some(record)
    }

    /// Returns whether the record of a known heap is undamaged.
    pub(super) fn has_intact_record(&self, heap: Heap) -> bool {
        self.read(heap).is_some()
    }

    /// Returns the first damaged record, from the latest heap on.
    fn damage(&self) -> Option<Damage> {
        let (mut newer, mut next) = (None, self.latest);
        let mut left = self.count;
        while let Some(heap) = next {
            let record = self.read(heap).filter(|it| it.newer.heap() == newer);
            let Some(record) = record.filter(|_| left > 0) else {
                let beyond = self.last_intact_from_oldest(heap);
                return Some(Damage {
                    heap,
                    newer,
                    beyond,
                });
            };
            left -= 1;
            (newer, next) = (next, record.older.heap());
        }
        None
    }

    /// Walks from the oldest heap to `until`, or to a damaged record. Returns the heap where the
    /// walk ends, and the one that is older.
    fn last_intact_from_oldest(&self, until: Heap) -> Option<(Heap, Option<Heap>)> {
        let (mut older, mut heap) = (None, self.oldest?);
        for _ in 0..self.count {
            let record = self.read(heap).filter(|it| it.older.heap() == older);
            let newer = record.and_then(|record| record.newer.heap());
            match newer.filter(|_| heap != until) {
                Some(newer) => (older, heap) = (Some(heap), newer),
                None => break,
            }
        }
        Some((heap, older))
    }

    /// Returns an error for the first damaged record.
    pub(super) fn verify(&self) -> Result<(), Report> {
        self.damage().map_or(Ok(()), |damage| Err(damage.report()))
    }

    /// Restores damaged records. Heaps between two damaged records are unknown, and are dropped
    /// from the list.
    pub(super) fn restore(&mut self) {
        // Each iteration restores one record.
        for _ in 0..self.count {
            let Some(damage) = self.damage() else { break };
            let Damage {
                heap,
                newer,
                beyond,
            } = damage;
            let older = match beyond {
                Some((other, older)) if other == heap => older,
                Some((other, older)) => {
                    self.write(other, older, Some(heap));
                    Some(other)
                }
                None => None,
            };
            self.write(heap, older, newer);
        }
        self.count = self.iter().count();
    }

    /// Notes and restores damage, before records are changed.
    fn note_damage(&mut self) {
        if let Err(report) = self.verify() {
            self.pending_finding.get_or_insert(report);
            self.restore();
        }
    }

    /// Writes the record of a known heap.
    fn write(&mut self, heap: Heap, older: Option<Heap>, newer: Option<Heap>) {
        // SAFETY: the record of a known heap lies below the heap.
        unsafe { heap.record().write(HeapRecord::new(heap, older, newer)) };
    }

    /// Links two heaps as neighbours in the list. `None` stands for the end of the list.
    fn join(&mut self, older: Option<Heap>, newer: Option<Heap>) {
        match newer.map(|heap| (heap, self.read(heap))) {
            Some((heap, record)) => {
                self.write(heap, older, record.and_then(|it| it.newer.heap()));
            }
            None => self.set_latest(older),
        }
        match older.map(|heap| (heap, self.read(heap))) {
            Some((heap, record)) => {
                self.write(heap, record.and_then(|it| it.older.heap()), newer);
            }
            None => self.oldest = newer,
        }
    }

    /// Returns the heap that ends at `end`, the older and the newer one.
    fn find(&self, end: NonNull<u8>) -> Option<(Heap, Option<Heap>, Option<Heap>)> {
        let heap = self.iter().find(|heap| heap.end == end)?;
        let record = self.read(heap)?;
        Some((heap, record.older.heap(), record.newer.heap()))
    }

    /// Inserts the heap from `first` to `end`. Its list heads lie below `parts`, if that is not
    /// `first`. O(heaps).
    ///
    /// # Safety
    /// The [`HEAP_OVERHEAD`] bytes below `first` belong to the heap. The heap is not in the list.
    pub(in super::super) unsafe fn insert(
        &mut self,
        first: NonNull<u8>,
        parts: NonNull<u8>,
        end: NonNull<u8>,
    ) {
        self.note_damage();
        if parts != first {
            self.heads = Some(Heap { first, end: parts });
        }
        let heap = Heap { first, end };
        self.write(heap, None, None);
        self.join(self.latest, Some(heap));
        self.set_latest(Some(heap));
        self.count += 1;
    }

    /// Removes the heap that ends at `end` from the list. O(heaps).
    pub(in super::super) fn remove(&mut self, end: NonNull<u8>) {
        self.note_damage();
        if let Some((_, older, newer)) = self.find(end) {
            self.join(older, newer);
            self.count -= 1;
        }
    }

    /// Records that the heap which ended at `old_end` now ends at `new_end`. O(heaps).
    pub(in super::super) fn move_end(&mut self, old_end: NonNull<u8>, new_end: NonNull<u8>) {
        if old_end == new_end {
            return;
        }
        self.note_damage();
        if let Some((mut heap, older, newer)) = self.find(old_end) {
            heap.end = new_end;
            self.join(older, Some(heap));
            self.join(Some(heap), newer);
        }
    }
}

/// An iterator from the latest heap to the oldest. After a damaged record it continues from the
/// oldest heap.
struct HeapIter<'a> {
    heaps: &'a Heaps,
    at: Option<Heap>,
    /// The heap whose record is damaged, once the iteration continues from the oldest.
    interrupted_at: Option<Heap>,
    /// A bound on the iterations, for any contents of the records.
    left: usize,
}

impl Iterator for HeapIter<'_> {
    type Item = Heap;

    fn next(&mut self) -> Option<Heap> {
        self.left = self.left.checked_sub(1)?;
        let next = match self.at {
            None => self.heaps.latest,
            Some(heap) => match (self.heaps.read(heap), self.interrupted_at) {
                (Some(record), None) => record.older.heap(),
                (Some(record), Some(_)) => record.newer.heap(),
                (None, None) => {
                    self.interrupted_at = Some(heap);
                    self.heaps.oldest
                }
                (None, Some(_)) => None,
            },
        };
        // (When the iteration from the oldest heap arrives there, it has visited all heaps.)
        self.at = next.filter(|_| next != self.interrupted_at);
        if self.at.is_none() {
            self.left = 0;
        }
        self.at
    }
}
