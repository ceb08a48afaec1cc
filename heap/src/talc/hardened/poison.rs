//! What free memory contains, so that writing to it is noticed.
//!
//! All of a gap is poison but for what describes it: its first three words and its last, or in a
//! sliver both.

use core::ptr::NonNull;

use super::super::gap_header::{Gap, GapHeader};
use super::report::{Misuse, Report};

/// A word of free memory, as in illumos' kmem.
pub(super) const POISON: usize = 0xdead_beef_dead_beef_u64 as usize;

/// Makes free memory poison. What describes gaps is written after that.
///
/// # Safety
/// The range consists of words that nobody uses.
pub(in super::super) unsafe fn poison(from: NonNull<u8>, to: NonNull<u8>) {
    let words = to.addr().get().saturating_sub(from.addr().get()) / size_of::<usize>();
    for index in 0..words {
        // SAFETY: the caller's duty.
        unsafe { from.cast::<usize>().add(index).write(POISON) };
    }
}

/// The poisoned words of a gap that lie between two addresses.
fn poisoned(gap: Gap, from: NonNull<u8>, to: NonNull<u8>) -> (NonNull<usize>, usize) {
    const WORD: usize = size_of::<usize>();
    // SAFETY: a gap that is no sliver has room for a header and one more word.
    let (first, last) = unsafe {
        if gap.is_sliver() {
            (gap.base, gap.base)
        } else {
            (
                gap.base.byte_add(size_of::<GapHeader>()),
                gap.end().byte_sub(WORD),
            )
        }
    };
    let (first, last) = (first.max(from), last.min(to));
    let count = last.addr().get().saturating_sub(first.addr().get()) / WORD;
    (first.cast(), count)
}

/// The first word of a gap, of those between two addresses, that is poison no more.
///
/// # Safety
/// It is a gap of a heap, and the addresses are multiples of a word's size.
pub(super) unsafe fn check_poison(
    gap: Gap,
    from: NonNull<u8>,
    to: NonNull<u8>,
) -> Result<(), Report> {
    let (first, count) = poisoned(gap, from, to);
    // SAFETY: these words are in the gap, and initialised. Nobody writes to them meanwhile who
    // follows the rules.
    let words = unsafe { core::slice::from_raw_parts(first.as_ptr(), count) };
    // Many at once, which the machine can do; then the one.
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

/// Makes the words of a gap between two addresses poison again.
///
/// # Safety
/// As for [`check_poison`].
pub(super) unsafe fn restore_poison(gap: Gap, from: NonNull<u8>, to: NonNull<u8>) {
    let (first, count) = poisoned(gap, from, to);
    // SAFETY: these words are in the gap, and describe nothing.
    unsafe { poison(first.cast(), first.add(count).cast()) };
}
