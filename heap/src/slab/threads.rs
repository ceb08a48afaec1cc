//! [`Threads`]: a part for each thread of a program with `std`.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Cpus;

/// A part of a [`SlabAllocator`](super::SlabAllocator) for each of up to `N` - 1 threads, and one
/// that all further threads share.
///
/// ```text
///     thread a begins     thread b begins    thread a ends      thread c begins
///     part 1 ────────────────────────────────┤ unused ├─────────part 1, with its slabs ────
///                         part 2 ──────────────────────────────────────────────────────────
///     part 0, behind a spin lock: threads without a part of their own
/// ```
///
/// A part that its thread leaves behind keeps its slabs for the next thread.
///
/// With `Threads<1>` all threads share one part behind a lock. A signal handler must not allocate.
#[derive(Debug)]
pub struct Threads<const N: usize> {
    /// The lock of part 0.
    common: AtomicBool,
    /// The thread that each part belongs to, or has belonged to: 0, [`RESERVED`] or its id.
    owners: [AtomicUsize; N],
}

/// The numbers below this belong to threads. All allocators number threads alike.
const MAX_THREADS: usize = 1024;

/// The id of the thread that has each number, or 0. No thread has number 0.
static THREADS: [AtomicUsize; MAX_THREADS] = [const { AtomicUsize::new(0) }; MAX_THREADS];

/// Releases the lock of part 0 when it is dropped.
struct Unlock<'a>(&'a AtomicBool);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A multiple of [`MAX_THREADS`] that no id has been made of.
static NEXT: AtomicUsize = AtomicUsize::new(MAX_THREADS);

/// Takes a multiple of [`MAX_THREADS`] from `next`, or returns `None` if all are taken: with 32
/// bits after four million threads. Further threads have no number, since an id that is used again
/// could be taken for that of a thread that has ended.
fn take_generation(next: &AtomicUsize) -> Option<usize> {
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |generation| {
        generation.checked_add(MAX_THREADS)
    })
    .ok()
}

/// In place of an id: the part is being reaped.
const RESERVED: usize = 1;

std::thread_local! {
    /// The id of this thread, whose low bits are its number. No two threads have the same, even one
    /// after the other. 0 if the thread has no number, or [`UNKNOWN`].
    static ID: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// Returns the number when the thread ends.
    static AT_EXIT: AtExit = const { AtExit };
}

/// The id of a thread that has not asked for one.
const UNKNOWN: usize = usize::MAX;

const fn number_of(id: usize) -> usize {
    id % MAX_THREADS
}

struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        // What other destructors free later goes to the common part.
        let id = ID.replace(0);
        if id != 0 && id != UNKNOWN {
            // Release: who sees that the thread has ended sees what it has written.
            THREADS[number_of(id)].store(0, Ordering::Release);
        }
    }
}

/// Takes the lowest number that no thread has, and makes an id of it.
#[cold]
#[inline(never)]
fn register() -> usize {
    // Registering the destructor may allocate, which then uses the common part.
    ID.set(0);
    let is_alive = AT_EXIT.try_with(|_| ()).is_ok();
    if let Some(generation) = is_alive.then(|| take_generation(&NEXT)).flatten() {
        let take = |&number: &usize| {
            let id = generation | number;
            THREADS[number]
                .compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let number = (1..MAX_THREADS).find(take);
        ID.set(number.map_or(0, |number| generation | number));
    }
    ID.get()
}

impl<const N: usize> Threads<N> {
    /// Returns the parts.
    pub const fn new() -> Self {
        const { assert!(0 < N && N <= MAX_THREADS, "there are 1 to 1024 parts") };
        Self {
            common: AtomicBool::new(false),
            owners: [const { AtomicUsize::new(0) }; N],
        }
    }

    /// Runs `work` with the part that threads share.
    #[cold]
    #[inline(never)]
    fn with_common<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        while self
            .common
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::thread::yield_now();
        }
        // A visitor of `SlabAllocator::visit` may panic.
        let _unlock = Unlock(&self.common);
        work(0)
    }

    /// Returns the part that belongs to this thread.
    #[inline]
    fn own_part(&self) -> Option<usize> {
        let id = ID.get();
        let number = number_of(id);
        let owner = self.owners.get(number)?.load(Ordering::Relaxed);
        (owner == id && id != 0).then_some(number)
    }

    /// Makes the part with this thread's number belong to this thread, and returns it, unless the
    /// part is being reaped.
    #[cold]
    #[inline(never)]
    fn attach(&self) -> Option<usize> {
        let mut id = ID.get();
        if id == UNKNOWN {
            id = register();
        }
        let number = number_of(id);
        if number == 0 || number >= N {
            return None;
        }
        let owner = self.owners[number].load(Ordering::Relaxed);
        // Any other owner had the number before, and has ended.
        // Release: who sees this owner sees that `THREADS` has its id.
        let is_own = owner != RESERVED
            && self.owners[number]
                .compare_exchange(owner, id, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        is_own.then_some(number)
    }
}

impl<const N: usize> Default for Threads<N> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `owners` gives each part from 1 up to one thread at a time: a number belongs to one
// thread, and only that thread stores its id. Who reaps a part has replaced the id of a thread that
// has ended. Part 0 is behind a lock. `work` calls no code of the user, so it cannot begin again in
// the same thread before it ends. (That of `visit` does, and uses no part.) A thread's end is a
// release, and each that follows acquires it.
unsafe impl<const N: usize> Cpus for Threads<N> {
    const COUNT: usize = N;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        match self.own_part().or_else(|| self.attach()) {
            Some(part) => work(part),
            None => self.with_common(work),
        }
    }

    fn with_unused(&self, mut work: impl FnMut(usize)) {
        let own = ID.get();
        for (number, part) in self.owners.iter().enumerate().skip(1) {
            // Acquire: `THREADS` has, or had, the owner's id. An older value would say that the
            // owner has ended.
            let owner = part.load(Ordering::Acquire);
            if owner == 0 || owner == RESERVED || owner == own {
                continue;
            }
            // Acquire: if the owner has ended, all that it has written is visible.
            let has_ended = THREADS[number].load(Ordering::Acquire) != owner;
            let reserve = || {
                part.compare_exchange(owner, RESERVED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            };
            if has_ended && reserve() {
                work(number);
                part.store(owner, Ordering::Release);
            }
        }
        if self.own_part().is_some() {
            self.with_common(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;
    use std::time::Duration;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// Enough parts for all threads of the tests.
    type Parts = Threads<MAX_THREADS>;

    fn unused(parts: &Parts) -> Vec<usize> {
        let mut unused = Vec::new();
        parts.with_unused(|part| unused.push(part));
        unused
    }

    fn part_of_new_thread(parts: &Parts) -> usize {
        thread::scope(|scope| {
            let thread = scope.spawn(|| parts.with(|part| part));
            thread.join().expect("the thread ends")
        })
    }

    #[test]
    fn the_part_of_an_ended_thread_can_be_reaped_again_and_again() {
        let parts = Parts::new();
        let own = parts.with(|part| part);
        let ended = part_of_new_thread(&parts);
        assert!(own != 0 && ended != 0 && own != ended);
        for _ in 0..3 {
            // The common part is in use only while a thread uses it.
            assert_eq!(unused(&parts), [ended, 0]);
        }
    }

    #[test]
    fn the_part_of_a_running_thread_is_not_reaped() {
        let parts = Parts::new();
        let parts = &parts;
        thread::scope(|scope| {
            let (begun, begin) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                let part = parts.with(|part| part);
                begun.send(part).expect("the test waits");
                let _ = ended.recv();
            });
            let part = begin.recv().expect("the thread runs");
            assert_ne!(part, 0);
            assert!(!unused(parts).contains(&part));
            drop(end);
        });
    }

    #[test]
    fn the_common_part_is_used_by_one_thread_at_a_time() {
        let parts = &Threads::<1>::new();
        thread::scope(|scope| {
            let (entered, entry) = mpsc::channel();
            parts.with(|_| {
                scope.spawn(move || parts.with(|_| entered.send(()).expect("the test waits")));
                // A thread that does not wait for this one has entered long before.
                let early = entry.recv_timeout(Duration::from_millis(200));
                assert_eq!(early, Err(RecvTimeoutError::Timeout));
            });
            assert_eq!(entry.recv(), Ok(()));
        });
    }

    /// Returns the part of this thread, and whether it is one behind its lock.
    fn part_and_lock(parts: &Parts) -> (usize, bool) {
        parts.with(|part| (part, parts.common.load(Ordering::Relaxed)))
    }

    #[test]
    fn a_thread_without_a_number_has_the_common_part_behind_its_lock() {
        let parts = &Parts::new();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                ID.set(0);
                part_and_lock(parts)
            });
            assert_eq!(thread.join().expect("the thread ends"), (0, true));
        });
    }

    #[test]
    fn what_a_thread_frees_at_its_end_goes_to_the_common_part() {
        let parts = &Parts::new();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let (own, is_common) = part_and_lock(parts);
                assert!(own != 0 && !is_common);
                // As if other destructors followed.
                drop(AtExit);
                part_and_lock(parts)
            });
            assert_eq!(thread.join().expect("the thread ends"), (0, true));
        });
    }

    #[test]
    fn a_new_thread_does_not_get_a_part_that_is_being_reaped() {
        let parts = &Parts::new();
        parts.with(|part| assert_ne!(part, 0));
        let ended = part_of_new_thread(parts);
        parts.with_unused(|part| {
            if part == ended {
                // The lowest number is that of the thread that has ended, unless other tests have
                // taken it.
                assert_ne!(part_of_new_thread(parts), ended);
            }
        });
    }

    #[test]
    fn more_threads_than_numbers_may_follow_each_other() {
        let parts = Parts::new();
        for _ in 0..if cfg!(miri) { 10 } else { 2 * MAX_THREADS } {
            assert_ne!(part_of_new_thread(&parts), 0);
        }
    }

    #[test]
    fn a_part_that_is_being_reaped_is_not_reaped_by_another() {
        let parts = Parts::new();
        parts.with(|part| assert_ne!(part, 0));
        let ended = part_of_new_thread(&parts);
        let mut reaped = vec![];
        parts.with_unused(|part| {
            reaped.push(part);
            if part == ended {
                assert_eq!(unused(&parts), [0]);
            }
        });
        assert_eq!(reaped, [ended, 0]);
    }

    #[test]
    fn no_id_is_used_again_after_the_last() {
        let next = AtomicUsize::new(usize::MAX - 2 * MAX_THREADS + 1);
        let last = take_generation(&next).expect("one is left");
        // `UNKNOWN` is no id.
        assert!(last + MAX_THREADS - 1 < UNKNOWN);
        assert_eq!(take_generation(&next), None);
        assert_eq!(take_generation(&next), None);
    }
}
