//! The tag that ends every chunk.
//!
//! A chunk carries its metadata in its last bytes, so that the allocation can begin exactly where
//! its chunk begins. Whoever looks down from an address that begins a chunk or a gap finds either
//! the tag of the chunk below or the last bytes of the gap below; the flag *allocated* tells which.
//!
//! On 64-bit little-endian machines a tag is one byte. It shares its place with the most
//! significant byte of the extent that ends a gap, and that byte is zero, because no gap reaches
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
//! Elsewhere a tag is one word, in the same place as the extent, whose lowest bits are flags too. With
//! `hardened` it is one word everywhere, and what its flags leave of it is a *checksum* that only a tag
//! with these flags at this address has.

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

/// The flags of a tag. What else there is is the checksum.
const FLAGS: Bits = if cfg!(feature = "hardened") {
    0xf
} else {
    Bits::MAX
};

/// Bytes that a tag takes at the end of each chunk and below the first chunk of each heap.
pub(super) const TAG_SIZE: usize = size_of::<Bits>();

/// No gap is this large or larger, so that the last byte of its extent is never taken for a tag. (Of
/// machines with larger tags only those with small words can have gaps of that size.)
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

/// What a chunk says about itself and about what lies above it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(Bits);

impl Tag {
    /// In use. Set in every tag, never set at this place in a gap.
    pub(super) const ALLOCATED: Tag = Tag(1 << 0);
    /// A gap begins where this chunk ends.
    pub(super) const BELOW_GAP: Tag = Tag(1 << 2);
    /// There is no chunk under this tag: a heap's first chunk or gap begins above it.
    pub(super) const HEAP_BASE: Tag = Tag(1 << 3);
    /// The heap ends where this chunk ends.
    pub(super) const HEAP_END: Tag = Tag(HEAP_END as Bits);

    /// The tag in the last bytes under `end`, or, if a gap ends there, something that is not
    /// [allocated](Tag::is_allocated).
    ///
    /// # Safety
    /// A chunk, a gap or the base tag of a heap ends at `end`.
    #[inline]
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Tag {
        // SAFETY: each of the three has at least `TAG_SIZE` initialised bytes under its end.
        // Ends are multiples of `CHUNK_UNIT`, so a tag of one word is aligned.
        Tag(unsafe { end.byte_sub(TAG_SIZE).cast::<Bits>().read() } & FLAGS)
    }

    /// Writes the tag into the last bytes under `end`.
    ///
    /// # Safety
    /// A chunk or the base tag of a heap ends, or is about to end, at `end`.
    #[inline]
    pub(super) unsafe fn write_at(self, end: NonNull<u8>) {
        // SAFETY: the bytes under `end` are metadata of this heap, aligned as for `ending_at`.
        unsafe { end.byte_sub(TAG_SIZE).cast::<Bits>().write(self.word(end)) }
    }

    /// What is written for this tag under `end`.
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

    /// The tag of a chunk with no gap above it.
    #[inline]
    pub(super) const fn ending_chunk(heap_end: bool) -> Tag {
        if heap_end {
            Tag::ALLOCATED.with(Tag::HEAP_END)
        } else {
            Tag::ALLOCATED
        }
    }

    /// Both tags' flags.
    #[inline]
    pub(super) const fn with(self, other: Tag) -> Tag {
        Tag(self.0 | other.0)
    }

    /// This tag's flags except those of `other`.
    #[inline]
    pub(super) const fn without(self, other: Tag) -> Tag {
        Tag(self.0 & !other.0)
    }

    /// A chunk (or a heap's base) ends here, not a gap.
    #[inline]
    pub(super) const fn is_allocated(self) -> bool {
        self.has(Tag::ALLOCATED)
    }

    /// A gap begins here.
    #[inline]
    pub(super) const fn is_below_gap(self) -> bool {
        self.has(Tag::BELOW_GAP)
    }

    /// Nothing of the heap lies under this tag.
    #[inline]
    pub(super) const fn is_heap_base(self) -> bool {
        self.has(Tag::HEAP_BASE)
    }

    /// The heap ends here.
    #[inline]
    pub(super) const fn is_heap_end(self) -> bool {
        self.has(Tag::HEAP_END)
    }

    const fn has(self, flag: Tag) -> bool {
        self.0 & flag.0 != 0
    }
}
