//! Waiting for other CPUs and threads, for a bounded time: the code that waits may have interrupted
//! the code that it waits for, and then that would never end.

use core::hint::spin_loop;

/// How often [`wait`] looks.
const MAX_LOOKS: usize = 1000;

/// How long a [`pause`] is, in turns of a loop.
const TURNS: usize = 1000;

/// Waits for a moment.
pub(crate) fn pause() {
    (0..TURNS).for_each(|_| spin_loop());
}

/// Calls `look` again and again, with pauses, until it returns a result. Returns `None` if that
/// takes too long.
pub(crate) fn wait<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..MAX_LOOKS {
        let seen = look();
        if seen.is_some() {
            return seen;
        }
        pause();
    }
    None
}
