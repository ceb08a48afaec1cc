//! The heaps, in a list, so that pointers into them can be told from others.
//!
//! ```text
//!     Talc          first - 6 words                                      first
//!    ┌──────────┐    ┌────────────────────┬────────────────────┬──────┬─────┬──────────────┄┄
//!    │ latest   │    │ older: first, end  │ newer: first, end  │ checksum │ tag │ chunks and gaps
//!    │ oldest   │    └────────────────────┴────────────────────┴──────┴─────┴──────────────┄┄
//!    └──────────┘     record, below the base tag of each heap
//! ```
//!
//! Where a heap lies is not read from the heap itself. The allocator knows the latest and the oldest
//! heap, and each record says where the two heaps beside it in the list lie. A record is followed
//! only when its checksum is right, which depends on its address and on all that it says. A record that
//! somebody has overwritten interrupts the walk from the latest heap, which goes on from the oldest:
//! with one damaged record every heap is still known, and the record can be restored.

use core::ptr::{NonNull, null_mut};

use super::super::chunk::{HEAP_OVERHEAD, distance};
use super::redzone::checksum;
use super::report::{Misuse, Report};

/// Bytes of a record.
pub(in super::super) const RECORD_SIZE: usize = size_of::<Record>();

/// A heap: from its first chunk or gap to its end.
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

    /// Where the record below the base tag is.
    fn record(self) -> NonNull<Record> {
        // SAFETY: each heap has so many bytes below its first chunk or gap.
        unsafe { self.first.byte_sub(HEAP_OVERHEAD) }.cast()
    }
}

/// Where a heap lies, as a record has it; null if there is none.
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

/// What lies below the base tag of a heap. Any words may be found there.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    older: Bounds,
    newer: Bounds,
    checksum: usize,
}

/// The words of a record.
const WORDS: usize = RECORD_SIZE / size_of::<usize>();

impl Record {
    /// The record of `heap` between two others.
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

    /// The checksum of a record below `heap` that says what this one says.
    fn expected_checksum(&self, heap: Heap) -> usize {
        let [older_first, older_end, newer_first, newer_end, _] = self.words();
        let place = heap.record().addr().get();
        checksum(&[place, older_first, older_end, newer_first, newer_end])
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

/// A record that is damaged, and what is known of what it was.
struct Damage {
    heap: Heap,
    newer: Option<Heap>,
    /// The next heap that is known, from the other end of the list, and the heap that is older than it.
    beyond: Option<(Heap, Option<Heap>)>,
}

impl Damage {
    /// What the record was, if it is the only one that is damaged.
    fn expected(&self) -> Option<Record> {
        match self.beyond {
            Some((heap, older)) if heap == self.heap => Some(Record::new(heap, older, self.newer)),
            _ => None,
        }
    }

    fn report(&self) -> Report {
        let place = self.heap.record();
        // SAFETY: the heap is known, and any words may be there.
        let found = unsafe { place.read() }.words();
        let differs = |expected: &[usize; WORDS]| (0..WORDS).find(|&at| expected[at] != found[at]);
        let expected = self.expected().map(|record| record.words());
        let at = expected.as_ref().and_then(differs);
        let index = at.unwrap_or(0);
        Report {
            address: place.addr().get() + index * size_of::<usize>(),
            misuse: Misuse::DamagedHeapRecord {
                expected: expected.filter(|_| at.is_some()).map(|words| words[index]),
                found: found[index],
            },
        }
    }
}

/// Every heap, the latest first.
pub(in super::super) struct Heaps {
    latest: Option<Heap>,
    oldest: Option<Heap>,
    count: usize,
    /// The list heads, as if they were a heap.
    heads: Option<Heap>,
    /// Most addresses that are looked for are in the latest heap: where it begins, without list heads, and
    /// its size.
    latest_first: *mut u8,
    latest_size: usize,
    /// What an operation came across when it could not be reported any more.
    pub(super) finding: Option<Report>,
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
            finding: None,
        }
    }

    /// The latest heap, without list heads, if an address is in it.
    #[inline]
    pub(super) fn latest_with(&self, address: usize) -> Option<Heap> {
        let offset = address.wrapping_sub(self.latest_first.addr());
        if offset >= self.latest_size {
            return None;
        }
        let first = NonNull::new(self.latest_first)?;
        // SAFETY: this is the heap's end.
        let end = unsafe { first.byte_add(self.latest_size) };
        Some(Heap { first, end })
    }

    /// The part of a heap that is above list heads.
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

    /// All heaps that are known: all, unless more than one record is damaged.
    pub(super) fn iter(&self) -> impl Iterator<Item = Heap> {
        Walk {
            heaps: self,
            at: None,
            interrupted_at: None,
            left: self.count,
        }
    }

    /// What the record of a heap that is known says, unless it is damaged.
    fn read(&self, heap: Heap) -> Option<Record> {
        // SAFETY: the heap is known from the allocator itself or from a record whose checksum was right, so
        // there is a record below it. Any words may be in it.
        let record = unsafe { heap.record().read() };
        (record.checksum == record.expected_checksum(heap)).then_some(record)
    }

    /// Whether the record of a heap that is known is undamaged.
    pub(super) fn has_sound_record(&self, heap: Heap) -> bool {
        self.read(heap).is_some()
    }

    /// The first damaged record, from the latest heap on.
    fn damage(&self) -> Option<Damage> {
        let (mut newer, mut next) = (None, self.latest);
        let mut left = self.count;
        while let Some(heap) = next {
            let record = self.read(heap).filter(|it| it.newer.heap() == newer);
            let Some(record) = record.filter(|_| left > 0) else {
                let beyond = self.last_sound_from_oldest(heap);
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

    /// Walks from the oldest heap to `until`, or to a damaged record. Returns which heap that is, and
    /// which is older than it.
    fn last_sound_from_oldest(&self, until: Heap) -> Option<(Heap, Option<Heap>)> {
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

    /// Whether all records are undamaged; if not, the first that is.
    pub(super) fn verify(&self) -> Result<(), Report> {
        self.damage().map_or(Ok(()), |damage| Err(damage.report()))
    }

    /// Restores damaged records. Of heaps between two damaged records nothing is known any more: they are
    /// left out from now on.
    pub(super) fn restore(&mut self) {
        // Each turn mends one record.
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

    /// Before records are changed: what is damaged is noted and restored.
    fn note_damage(&mut self) {
        if let Err(report) = self.verify() {
            self.finding.get_or_insert(report);
            self.restore();
        }
    }

    /// Writes the record of a heap that is known.
    fn write(&mut self, heap: Heap, older: Option<Heap>, newer: Option<Heap>) {
        // SAFETY: the place below a heap that is known is its record's.
        unsafe { heap.record().write(Record::new(heap, older, newer)) };
    }

    /// Makes two heaps neighbours in the list. None is beyond either end.
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

    /// The heap that ends at `end`, and those beside it: the older and the newer one.
    fn find(&self, end: NonNull<u8>) -> Option<(Heap, Option<Heap>, Option<Heap>)> {
        let heap = self.iter().find(|heap| heap.end == end)?;
        let record = self.read(heap)?;
        Some((heap, record.older.heap(), record.newer.heap()))
    }

    /// Enters the heap from `first` to `end`, which has the list heads below `parts` if that is not `first`.
    /// O(heaps).
    ///
    /// # Safety
    /// The bytes below `first`, up to [`HEAP_OVERHEAD`], are the heap's. It is not in the list.
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

    /// Takes the heap that ends at `end` out of the list. O(heaps).
    pub(in super::super) fn remove(&mut self, end: NonNull<u8>) {
        self.note_damage();
        if let Some((_, older, newer)) = self.find(end) {
            self.join(older, newer);
            self.count -= 1;
        }
    }

    /// Records that the heap which ended at `old_end` ends at `new_end`. O(heaps).
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

/// From the latest heap to the oldest; where a record is damaged, on from the oldest.
struct Walk<'a> {
    heaps: &'a Heaps,
    at: Option<Heap>,
    /// The heap whose record is damaged, once the walk goes on from the oldest.
    interrupted_at: Option<Heap>,
    /// A bound, whatever records say.
    left: usize,
}

impl Iterator for Walk<'_> {
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
        // (Where the walk from the oldest heap arrives there, it has met all.)
        self.at = next.filter(|_| next != self.interrupted_at);
        if self.at.is_none() {
            self.left = 0;
        }
        self.at
    }
}
