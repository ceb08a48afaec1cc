//! The record that [`ArenaSource`](super::ArenaSource) keeps of each heap, and the lists that thread them.
//!
//! `talc::Source::resize` is told only where a heap ends. So that everything else is found from there, the
//! record lies exactly at Talc's end, in the last bytes of the pages that the heap keeps:
//!
//! ```text
//! base                                  Talc's end       base + kept            base + size
//! ├───────────── Talc's heap ───────────┼─── HeapRecord ─────┼──── to be given back ────┤ guard
//! └── page boundary                                      └── page boundary          └── page boundary
//! ```
//!
//! With `hardened` a record ends with a seal, which depends on its address and on all that it says. A record
//! that somebody has overwritten is not believed: its heap stays as it is, neither grows nor shrinks, and
//! lists end there.
//!
//! The record moves with the end. A heap that was deleted keeps nothing (`kept == 0`); its record stays
//! where it was until the pages are given back.

use core::mem::size_of;
use core::ptr::NonNull;

use super::drain::DrainSlot;
use crate::talc::base::CHUNK_UNIT;
use crate::talc::owner::OwnerRef;

/// Bytes between Talc's end and the end of the pages that a heap keeps.
pub(super) const RECORD_SIZE: usize = size_of::<HeapRecord>().next_multiple_of(CHUNK_UNIT);

/// The list of live heaps, the one to extend first.
pub(super) const HEAPS: usize = 0;
/// The queue of heaps that have pages to give back.
pub(super) const RELEASE_QUEUE: usize = 1;

/// With `hardened`, what the other words of a record are mixed to.
#[cfg(feature = "hardened")]
type Seal = usize;
#[cfg(not(feature = "hardened"))]
type Seal = [usize; 0];

/// What is known of one heap. All of its bytes are initialised.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct HeapRecord {
    /// Where the heap's segment of the arena begins.
    pub base: NonNull<u8>,
    /// Bytes of the arena's segment, all of them mapped. A multiple of the arena's quantum.
    pub size: usize,
    /// Bytes of it that the heap keeps, this record included. At most `size`, and a multiple of the
    /// quantum; zero once the heap is deleted.
    pub retained: usize,
    /// Where the pages from `kept` to `size` are on their way.
    pub state: ReleaseState,
    /// That of the source whose heap it is.
    pub owner: OwnerRef,
    /// Whoever is giving the pages above `kept` back, in the state [`Draining`](ReleaseState::DRAINING).
    pub drainer: Option<NonNull<DrainSlot>>,
    links: [Links; 2],
    seal: Seal,
}

/// Where the pages between a record's `kept` and `size` are on their way back to the arena. Any word is a value
/// of this type, so that a damaged one can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReleaseState(usize);

impl ReleaseState {
    /// There are none: `kept == size`.
    pub const IDLE: ReleaseState = ReleaseState(0);
    /// The record is in the list [`RELEASE_QUEUE`].
    pub const QUEUED: ReleaseState = ReleaseState(1);
    /// Somebody is giving them back just now, without the heap's lock. `size` stays until they are done.
    pub const DRAINING: ReleaseState = ReleaseState(2);
}

#[derive(Clone, Copy)]
struct Links {
    prev: Option<NonNull<HeapRecord>>,
    next: Option<NonNull<HeapRecord>>,
}

impl HeapRecord {
    /// A record that is in no list.
    pub fn new(base: NonNull<u8>, size: usize, owner: OwnerRef) -> Self {
        let links = [Links {
            prev: None,
            next: None,
        }; 2];
        HeapRecord {
            base,
            size,
            retained: size,
            state: ReleaseState::IDLE,
            owner,
            drainer: None,
            links,
            seal: Seal::default(),
        }
    }

    /// A copy of the record at `at`. `None` if somebody has overwritten it, as far as this build can tell.
    ///
    /// # Safety
    /// A live record must be at `at`, damaged or not.
    pub unsafe fn read(at: NonNull<HeapRecord>) -> Option<HeapRecord> {
        #[cfg(feature = "hardened")]
        {
            // SAFETY: a record consists of words, and any may be found there.
            let words = unsafe { at.cast::<seal::Words>().read() };
            if words[seal::WORDS - 1] != seal::of(at.addr().get(), &words) {
                return None;
            }
        }
        // SAFETY: the caller vouches for the record, and the seal for what is in it.
        Some(unsafe { at.read() })
    }

    /// Writes the record to `at`, where it lies from now on.
    ///
    /// # Safety
    /// The place must be valid for writes, aligned, and belong to the source.
    pub unsafe fn write_to(self, at: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for the place.
        unsafe { at.write(self) };
        #[cfg(feature = "hardened")]
        {
            // SAFETY: the record was written above, and consists of words.
            let words = unsafe { at.cast::<seal::Words>().read() };
            // SAFETY: the field is in the record that was just written.
            unsafe { (*at.as_ptr()).seal = seal::of(at.addr().get(), &words) };
        }
    }

    /// Changes the record at `at`, unless it is [damaged](Self::read): then nothing happens.
    ///
    /// # Safety
    /// As for [`read`](Self::read), and nobody else may use the record.
    pub unsafe fn update(at: NonNull<HeapRecord>, change: impl FnOnce(&mut HeapRecord)) {
        // SAFETY: the caller vouches for the record.
        if let Some(mut record) = unsafe { HeapRecord::read(at) } {
            change(&mut record);
            // SAFETY: the record is live, and nobody else uses it.
            unsafe { record.write_to(at) };
        }
    }

    /// The record after this one in the list `which`.
    pub fn next(&self, which: usize) -> Option<NonNull<HeapRecord>> {
        self.links[which].next
    }

    /// The record before this one in the list `which`.
    pub fn previous(&self, which: usize) -> Option<NonNull<HeapRecord>> {
        self.links[which].prev
    }

    /// Where the record of a heap that begins at `base` and keeps `kept` bytes lies; also Talc's end.
    ///
    /// # Safety
    /// `base` to `base + kept` must lie in one mapped segment, and `kept` be at least [`RECORD_SIZE`].
    pub unsafe fn location(base: NonNull<u8>, retained: usize) -> NonNull<HeapRecord> {
        // SAFETY: the caller vouches that the offset stays inside the segment.
        unsafe { base.byte_add(retained - RECORD_SIZE) }.cast()
    }
}

#[cfg(feature = "hardened")]
mod seal {
    use super::HeapRecord;
    use crate::talc::hardened::checksum;

    /// The words of a record. The seal is the last.
    pub(super) const WORDS: usize = size_of::<HeapRecord>() / size_of::<usize>();
    pub(super) type Words = [usize; WORDS];

    const _: () = assert!(
        size_of::<Words>() == size_of::<HeapRecord>()
            && align_of::<Words>() == align_of::<HeapRecord>()
    );

    /// The seal of a record at `address` with these words.
    pub(super) fn of(address: usize, words: &Words) -> usize {
        let mut sealed = *words;
        sealed[WORDS - 1] = address;
        checksum(&sealed)
    }
}

/// A doubly linked list through the links `WHICH` of records.
pub(super) struct List<const WHICH: usize> {
    first: Option<NonNull<HeapRecord>>,
    last: Option<NonNull<HeapRecord>>,
    len: usize,
}

impl<const WHICH: usize> List<WHICH> {
    pub const fn new() -> Self {
        List {
            first: None,
            last: None,
            len: 0,
        }
    }

    pub fn first(&self) -> Option<NonNull<HeapRecord>> {
        self.first
    }

    /// How many records are in the list. O(1).
    pub fn len(&self) -> usize {
        self.len
    }

    /// The record after `record`. `None` also if `record` is damaged.
    ///
    /// # Safety
    /// `record` must be in this list.
    pub unsafe fn after(&self, record: NonNull<HeapRecord>) -> Option<NonNull<HeapRecord>> {
        // SAFETY: records in a list are live.
        unsafe { HeapRecord::read(record) }.and_then(|record| record.links[WHICH].next)
    }

    /// Enters `record` as the first.
    ///
    /// # Safety
    /// `record` must be live, stay so while it is in the list, and not be in it yet.
    pub unsafe fn push(&mut self, record: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for `record`, and the first of the list is in it.
        unsafe { self.insert(None, record, self.first) };
    }

    /// Enters `record` as the last.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    pub unsafe fn push_last(&mut self, record: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for `record`, and the last of the list is in it.
        unsafe { self.insert(self.last, record, None) };
    }

    /// # Safety
    /// As for [`push`](Self::push); `prev` and `next` must be neighbours in this list.
    unsafe fn insert(
        &mut self,
        prev: Option<NonNull<HeapRecord>>,
        record: NonNull<HeapRecord>,
        next: Option<NonNull<HeapRecord>>,
    ) {
        // SAFETY: the caller vouches for `record`.
        unsafe { HeapRecord::update(record, |it| it.links[WHICH] = Links { prev, next }) };
        // SAFETY: the neighbours are in the list.
        unsafe { self.join(prev, Some(record), next, Some(record)) };
        self.len += 1;
    }

    /// Takes `record` out, unless it is damaged: then it stays.
    ///
    /// # Safety
    /// `record` must be in this list.
    pub unsafe fn remove(&mut self, record: NonNull<HeapRecord>) {
        // SAFETY: records in a list are live.
        let Some(found) = (unsafe { HeapRecord::read(record) }) else {
            return;
        };
        let Links { prev, next } = found.links[WHICH];
        // SAFETY: the neighbours are in the list.
        unsafe { self.join(prev, next, next, prev) };
        self.len -= 1;
    }

    /// Makes the neighbours of a record that has moved point to where it is now.
    ///
    /// # Safety
    /// `record` must be a copy of a record that is in this list, which it replaces.
    pub unsafe fn moved(&mut self, record: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for `record`.
        let Some(found) = (unsafe { HeapRecord::read(record) }) else {
            return;
        };
        let Links { prev, next } = found.links[WHICH];
        // SAFETY: the neighbours are in the list.
        unsafe { self.join(prev, Some(record), next, Some(record)) };
    }

    /// Writes the link that leads forwards out of `prev` and the one that leads backwards out of `next`.
    ///
    /// # Safety
    /// `prev` and `next` must be neighbours in this list, but for one record between them.
    unsafe fn join(
        &mut self,
        prev: Option<NonNull<HeapRecord>>,
        forwards: Option<NonNull<HeapRecord>>,
        next: Option<NonNull<HeapRecord>>,
        backwards: Option<NonNull<HeapRecord>>,
    ) {
        match prev {
            // SAFETY: records in a list are live.
            Some(prev) => unsafe { HeapRecord::update(prev, |it| it.links[WHICH].next = forwards) },
            None => self.first = forwards,
        }
        match next {
            // SAFETY: records in a list are live.
            Some(next) => unsafe {
                HeapRecord::update(next, |it| it.links[WHICH].prev = backwards)
            },
            None => self.last = backwards,
        }
    }
}
