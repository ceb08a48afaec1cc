//! The boundary tag at the end of every chunk.
//!
//! A chunk has its metadata in its last bytes, so that the allocation begins exactly where the
//! chunk does. The bytes below the base of a chunk or gap are thus either the tag of the chunk
//! below, or the last bytes of the gap below. The flag *allocated* distinguishes the two.
//!
//! On 64-bit little-endian machines a tag is one byte. A tag lies where a gap has the most
//! significant byte of its last extent. That byte is zero, because every gap is smaller than
//! [`MAX_GAP`]:
//!
//! ```text
//!            low address                                    high address
//!            +---------------------------------------+-----------------+
//!   chunk    | … the allocation …                    | tag             |
//!            +----+----+----+----+----+----+----+----+-----------------+
//!   gap      | …                | extent, byte 0 … 6 | extent, byte 7=0|
//!            +---------------------------------------+-----------------+
//! ```
//!
//! On other machines a tag is one word and lies where a gap has its last extent, whose lowest bits
//! are flags too. With `hardened` a tag is one word on every machine. The bits beyond its flags are
//! a *checksum* of the flags and of the tag's address.

use core::ptr::NonNull;

#[cfg(all(
    target_pointer_width = "64",
    target_endian = "little",
    not(feature = "hardened")
))]
type Bits = u8;
#[cfg(not(all(
    target_pointer_width = "64",
    target_endian = "little",
    not(feature = "hardened")
)))]
type Bits = usize;

/// The bits of a tag that are flags. The other bits are the checksum.
const FLAGS: Bits = if cfg!(feature = "hardened") {
    0xf
} else {
    Bits::MAX
};

/// Bytes of a tag, at the end of each chunk and below the first chunk of each heap.
pub(super) const TAG_SIZE: usize = size_of::<Bits>();

/// Every gap is smaller than this, so that the last byte of an extent is never taken for a tag. (Of
/// the machines with tags of one word, only those with 32-bit words can have a gap of that size.)
pub(crate) const MAX_GAP: usize = if usize::BITS == 64 {
    1 << (usize::BITS - 8)
} else {
    1 << (usize::BITS - 1)
};

/// The flag of an extent or a tag that ends where its heap ends.
pub(super) const HEAP_END: usize = 1 << 1;

// A one-byte tag must lie on the most significant byte of a word that ends at the same address.
const _: () = {
    let mut word = [0; size_of::<usize>()];
    word[size_of::<usize>() - 1] = 1;
    assert!(TAG_SIZE == size_of::<usize>() || usize::from_ne_bytes(word) == MAX_GAP);
};

/// A tag: what a chunk says about itself and about its upper neighbour.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(Bits);

impl Tag {
    /// A chunk, or a heap's base, ends here. Set in every tag; the same bit of a gap's extent is
    /// clear.
    pub(super) const ALLOCATED: Tag = Tag(1 << 0);
    /// A gap begins where this chunk ends.
    pub(super) const BELOW_GAP: Tag = Tag(1 << 2);
    /// The base tag of a heap: the heap's first chunk or gap begins above it.
    pub(super) const HEAP_BASE: Tag = Tag(1 << 3);
    /// The heap ends where this chunk ends.
    pub(super) const HEAP_END: Tag = Tag(HEAP_END as Bits);

    /// Reads the tag in the last bytes below `end`. If a gap ends there, the result is not
    /// [allocated](Tag::is_allocated).
    ///
    /// # Safety
    /// A chunk, a gap or the base tag of a heap ends at `end`.
    #[inline]
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Tag {
        // SAFETY: each of the three has at least `TAG_SIZE` bytes below its end.
        let tag = unsafe { end.byte_sub(TAG_SIZE) }.cast::<Bits>();
        // SAFETY: these bytes are initialised. Ends are multiples of `CHUNK_UNIT`, so a tag of one
        // word is aligned.
        Tag(unsafe { tag.read() } & FLAGS)
    }

    /// Writes the tag into the last bytes below `end`.
    ///
    /// # Safety
    /// A chunk or the base tag of a heap ends at `end`, or is about to.
    #[inline]
    pub(super) unsafe fn write_at(self, end: NonNull<u8>) {
        // SAFETY: a chunk or a base tag has at least `TAG_SIZE` bytes below its end.
        let tag = unsafe { end.byte_sub(TAG_SIZE) }.cast::<Bits>();
        // SAFETY: these bytes are metadata of this heap. Ends are multiples of `CHUNK_UNIT`, so a
        // tag of one word is aligned.
        unsafe { tag.write(self.word(end)) }
    }

    /// Clears the flag [`BELOW_GAP`](Tag::BELOW_GAP) of the tag below `end`, where a chunk is about
    /// to begin.
    ///
    /// # Safety
    /// A chunk or the base tag of a heap ends at `end`.
    #[inline]
    pub(super) unsafe fn clear_below_gap(end: NonNull<u8>) {
        // SAFETY: a chunk or a base tag ends at `end`.
        let tag = unsafe { Tag::ending_at(end) };
        // SAFETY: what is written replaces the tag of that chunk, or that base tag.
        unsafe { tag.without(Tag::BELOW_GAP).write_at(end) };
    }

    /// Returns the bits that [`write_at`](Self::write_at) writes below `end`.
    #[inline]
    pub(super) fn word(self, end: NonNull<u8>) -> Bits {
        #[cfg(feature = "hardened")]
        let checksum = super::hardened::checksum(&[end.addr().get(), self.0]) & !FLAGS;
        #[cfg(not(feature = "hardened"))]
        let checksum = {
            let _ = end;
            0
        };
        self.0 | checksum
    }

    /// Returns the tag of a chunk without a gap above it.
    #[inline]
    pub(super) const fn ending_chunk(heap_end: bool) -> Tag {
        if heap_end {
            Tag::ALLOCATED.with(Tag::HEAP_END)
        } else {
            Tag::ALLOCATED
        }
    }

    /// Returns the flags of both tags.
    #[inline]
    pub(super) const fn with(self, other: Tag) -> Tag {
        Tag(self.0 | other.0)
    }

    /// Returns this tag's flags except those of `other`.
    #[inline]
    pub(super) const fn without(self, other: Tag) -> Tag {
        Tag(self.0 & !other.0)
    }

    /// Returns whether a chunk (or a heap's base) ends here, not a gap.
    #[inline]
    pub(super) const fn is_allocated(self) -> bool {
        self.has(Tag::ALLOCATED)
    }

    /// Returns whether a gap begins here.
    #[inline]
    pub(super) const fn is_below_gap(self) -> bool {
        self.has(Tag::BELOW_GAP)
    }

    /// Returns whether this is the base tag of a heap.
    #[inline]
    pub(super) const fn is_heap_base(self) -> bool {
        self.has(Tag::HEAP_BASE)
    }

    /// Returns whether the heap ends here.
    #[inline]
    pub(super) const fn is_heap_end(self) -> bool {
        self.has(Tag::HEAP_END)
    }

    const fn has(self, flag: Tag) -> bool {
        self.0 & flag.0 != 0
    }
}
