//! The record that [`ArenaSource`](super::ArenaSource) keeps of each heap.
//!
//! Talc tells a source only where a heap ends. The record of the heap begins exactly there, and
//! takes the last bytes of the pages that the heap retains:
//!
//! ```text
//! base                                Talc's end       base + retained       base + size
//! ├───────────── Talc's heap ─────────┼─ SegmentRecord ┼──── to be given back ───┤ guard page
//! └── page boundary                                    └── page boundary         └── page boundary
//!
//! SegmentRecord: 10 words, 11 with `hardened`
//! ┌──────┬──────┬──────────┬───────┬───────┬─────────┬───────────────┬───────────────┬──────────┐
//! │ base │ size │ retained │ state │ owner │ drainer │ links of heaps│ links of queue│ checksum │
//! └──────┴──────┴──────────┴───────┴───────┴─────────┴───────────────┴───────────────┴──────────┘
//! ```
//!
//! With `hardened` the last word is a checksum of the address and of all other words. A record
//! whose checksum does not match is *damaged*: nothing in it is used. The heap neither grows nor
//! shrinks any more, and walks through a list end at the record.
//!
//! The record moves with the end of its heap. A deleted heap retains nothing (`retained == 0`), and
//! its record stays where it was until the pages are given back.

use core::mem::size_of;
use core::ptr::NonNull;

use super::drain::DrainSlot;
use crate::talc::base::CHUNK_UNIT;
use crate::talc::owner::OwnerRef;

/// Bytes between Talc's end of a heap and the end of the pages that the heap retains.
pub(super) const RECORD_SIZE: usize = size_of::<SegmentRecord>().next_multiple_of(CHUNK_UNIT);

/// The checksum of a record; nothing without `hardened`.
#[cfg(feature = "hardened")]
type Checksum = usize;
#[cfg(not(feature = "hardened"))]
type Checksum = [usize; 0];

/// The record of one heap. All of its bytes are initialised.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct SegmentRecord {
    /// The base of the heap, and of its segment of the arena.
    pub(super) base: NonNull<u8>,
    /// Bytes of the arena's segment, all of them mapped. A multiple of the arena's quantum.
    pub(super) size: usize,
    /// Bytes of the segment that the heap retains, this record included. At most `size`, a multiple
    /// of the quantum, and zero once the heap is deleted.
    pub(super) retained: usize,
    /// What happens to the pages between `retained` and `size`.
    pub(super) state: ReleaseState,
    /// The owner of the source that the heap belongs to.
    pub(super) owner: OwnerRef,
    /// The call of `drain` that gives the pages back, in the state [`ReleaseState::DRAINING`].
    pub(super) drainer: Option<NonNull<DrainSlot>>,
    /// The links of each list that the record can be in: see
    /// [`RecordList`](super::list::RecordList).
    pub(super) links: [Links; 2],
    checksum: Checksum,
}

/// What happens to the pages between `retained` and `size` of a record. Any word is a value of this
/// type, so reading a damaged record is sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReleaseState(usize);

impl ReleaseState {
    /// There are no such pages: `retained == size`.
    pub(super) const IDLE: ReleaseState = ReleaseState(0);
    /// The record is in the release queue.
    pub(super) const QUEUED: ReleaseState = ReleaseState(1);
    /// A call of `drain` gives the pages back, without the lock of the heap. `size` includes them
    /// until that is done.
    pub(super) const DRAINING: ReleaseState = ReleaseState(2);
    /// A call extends the segment, without the lock of the heap. Meanwhile the record stays where
    /// it is, with the sizes that it has, and the segment may be larger than `size`.
    pub(super) const GROWING: ReleaseState = ReleaseState(3);
}

/// The neighbours of a record in one list.
#[derive(Clone, Copy)]
pub(super) struct Links {
    pub(super) previous: Option<NonNull<SegmentRecord>>,
    pub(super) next: Option<NonNull<SegmentRecord>>,
}

impl SegmentRecord {
    /// Creates the record of a heap that retains all of its segment. It is in no list.
    pub(super) fn new(base: NonNull<u8>, size: usize, owner: OwnerRef) -> Self {
        let links = [Links {
            previous: None,
            next: None,
        }; 2];
        SegmentRecord {
            base,
            size,
            retained: size,
            state: ReleaseState::IDLE,
            owner,
            drainer: None,
            links,
            checksum: Checksum::default(),
        }
    }

    /// Returns a copy of the record at `at`, or `None` if its checksum does not match.
    ///
    /// # Safety
    /// `at` must lead to a live record, damaged or not.
    pub(super) unsafe fn read(at: NonNull<SegmentRecord>) -> Option<SegmentRecord> {
        #[cfg(feature = "hardened")]
        {
            // SAFETY: a record consists of words, and any word is a valid `usize`.
            let words = unsafe { at.cast::<checksum::Words>().read() };
            if words[checksum::WORDS - 1] != checksum::expected(at.addr().get(), &words) {
                return None;
            }
        }
        // SAFETY: the caller vouches that a record was written there, and any word in the place of
        // a field is a valid value of that field.
        Some(unsafe { at.read() })
    }

    /// Writes the record to `at`, with a new checksum.
    ///
    /// # Safety
    /// `at` must be valid for writes, aligned, and belong to the source.
    pub(super) unsafe fn write_to(self, at: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches that `at` is valid for writes and aligned.
        unsafe { at.write(self) };
        #[cfg(feature = "hardened")]
        {
            // SAFETY: the record was written above, and consists of words.
            let words = unsafe { at.cast::<checksum::Words>().read() };
            // SAFETY: the field lies in the record that was written above.
            unsafe { (*at.as_ptr()).checksum = checksum::expected(at.addr().get(), &words) };
        }
    }

    /// Changes the record at `at`. Leaves a damaged record as it is.
    ///
    /// # Safety
    /// `at` must lead to a live record, and no reference to it may exist.
    pub(super) unsafe fn update(
        at: NonNull<SegmentRecord>,
        change: impl FnOnce(&mut SegmentRecord),
    ) {
        // SAFETY: the caller vouches that the record is live.
        if let Some(mut record) = unsafe { SegmentRecord::read(at) } {
            change(&mut record);
            // SAFETY: a live record is valid for writes, and the caller vouches that no reference
            // to it exists.
            unsafe { record.write_to(at) };
        }
    }

    /// Returns where the record of a heap lies that begins at `base` and retains `retained` bytes.
    /// Talc's heap ends at the same address.
    ///
    /// # Safety
    /// `base` to `base + retained` must lie in one mapped segment, and `retained` must be at least
    /// [`RECORD_SIZE`].
    pub(super) unsafe fn location(base: NonNull<u8>, retained: usize) -> NonNull<SegmentRecord> {
        // SAFETY: the caller vouches that the offset stays inside the segment.
        unsafe { base.byte_add(retained - RECORD_SIZE) }.cast()
    }
}

#[cfg(feature = "hardened")]
mod checksum {
    use super::SegmentRecord;

    /// The words of a record. The checksum is the last.
    pub(super) const WORDS: usize = size_of::<SegmentRecord>() / size_of::<usize>();
    pub(super) type Words = [usize; WORDS];

    const _: () = assert!(
        size_of::<Words>() == size_of::<SegmentRecord>()
            && align_of::<Words>() == align_of::<SegmentRecord>()
    );

    /// Returns the checksum of a record at `address` with these words. The last word is ignored.
    pub(super) fn expected(address: usize, words: &Words) -> usize {
        let mut input = *words;
        input[WORDS - 1] = address;
        crate::talc::hardened::checksum(&input)
    }
}
