//! Poison: the contents of free memory, by which writes after free are detected.
//!
//! All of a gap is poison, except for its header of three words and its last word. A sliver has no
//! poison.

use core::ptr::NonNull;

use super::super::gap_header::{Gap, GapHeader};
use super::report::{Misuse, Report};

/// A word of free memory, as in illumos' kmem.
pub(super) const POISON: usize = 0xdead_beef_dead_beef_u64 as usize;

/// Fills free memory with poison. The words that describe a gap are written after that.
///
/// # Safety
/// The range consists of words that are not in use.
pub(in super::super) unsafe fn poison(from: NonNull<u8>, to: NonNull<u8>) {
    let words = to.addr().get().saturating_sub(from.addr().get()) / size_of::<usize>();
    let first = from.cast::<usize>().as_ptr();
    for index in 0..words {
        // SAFETY: the word is in the range, which is not in use.
        unsafe { first.wrapping_add(index).write(POISON) };
    }
}

/// Returns the poisoned words of a gap that lie between two addresses: the first one and their
/// number.
fn poisoned(gap: Gap, from: NonNull<u8>, to: NonNull<u8>) -> (NonNull<usize>, usize) {
    const WORD: usize = size_of::<usize>();
    if gap.is_sliver() {
        return (gap.base.cast(), 0);
    }
    // SAFETY: a gap that is no sliver has a header.
    let first = unsafe { gap.base.byte_add(size_of::<GapHeader>()) };
    // SAFETY: every gap ends with a word.
    let last = unsafe { gap.end().byte_sub(WORD) };
    let (first, last) = (first.max(from), last.min(to));
    let count = last.addr().get().saturating_sub(first.addr().get()) / WORD;
    (first.cast(), count)
}

/// Returns an error for the first word of a gap, between two addresses, that is no longer poison.
///
/// # Safety
/// `gap` is a gap of a heap. `from` and `to` are multiples of a word's size.
pub(super) unsafe fn check_poison(
    gap: Gap,
    from: NonNull<u8>,
    to: NonNull<u8>,
) -> Result<(), Report> {
    let (first, count) = poisoned(gap, from, to);
    // SAFETY: the words are in the gap and initialised. Only misuse writes to them.
    let words = unsafe { core::slice::from_raw_parts(first.as_ptr(), count) };
    // Groups of words are compared with vector instructions, and then the words of the first group
    // that differs.
    let mut chunks = words.chunks_exact(16);
    let is_changed =
        |words: &&[usize]| words.iter().fold(0, |all, word| all | (word ^ POISON)) != 0;
    let words = chunks.find(is_changed).unwrap_or(chunks.remainder());
    match words.iter().find(|&&word| word != POISON) {
        None => Ok(()),
        Some(word) => Err(Report {
            address: (&raw const *word).addr(),
            misuse: Misuse::WriteAfterFree {
                expected: POISON,
                found: *word,
            },
        }),
    }
}

/// Restores the poison of a gap between two addresses.
///
/// # Safety
/// As for [`check_poison`].
pub(super) unsafe fn restore_poison(gap: Gap, from: NonNull<u8>, to: NonNull<u8>) {
    let (first, count) = poisoned(gap, from, to);
    // SAFETY: the gap has this number of words from `first`.
    let end = unsafe { first.add(count) };
    // SAFETY: the words are in the gap, outside its header and its last word.
    unsafe { poison(first.cast(), end.cast()) };
}
