//! Several CPUs: what they want of each other.
//!
//! ```text
//!     CPU 0                      CPU 1                        CPU 2
//!     unmaps pages
//!     posts a request ─────────> inbox ─ its interrupt ─┐
//!                    └──────────────────────────────────┼───> inbox ─ its interrupt ─┐
//!     waits, and serves its      flushes, counts down <─┘    flushes, counts down <──┘
//!     own inbox
//!     all have flushed: frames and addresses are used again
//! ```
//!
//! A request lies on the stack of the CPU that waits for it. That CPU holds no lock, and serves its
//! own inbox while it waits; so does a CPU that waits for an
//! [`InterruptLock`](crate::sync::InterruptLock). So two CPUs never wait for each other, even if
//! both have masked interrupts.
//!
//! A kernel does this:
//!
//! 1. Each CPU calls [`set_number`] before it uses anything else of this crate, locks included.
//! 2. The kernel calls [`set_interrupt`] with a function that sends the interrupt, and
//!    [`set_reap`], so that one CPU gets back what others hold.
//! 3. The handler of the interrupt calls [`handle_interrupt`], and ends the interrupt.
//! 4. Each CPU calls [`start_cpu`] when it can take the interrupt. (The one that boots may do so
//!    before step 2.)
//! 5. Code that waits with interrupts masked, for a spin lock of the kernel's own for instance,
//!    calls [`serve_while_waiting`] again and again.

mod inbox;

// `inbox` uses them under these names: elsewhere they are others.
use core::cell;
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{self, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use spin::Once;
use x86_64::structures::paging::page::PageRangeInclusive;

use crate::cpu_local::{self, CPUS, CpuLocal};
use crate::{machine, time_stamp};
use inbox::{AbortOnUnwind, Inbox, Node, Request};

/// The largest number of CPUs.
pub const MAX_CPUS: usize = cpu_local::MAX_CPUS;

/// A bit for each CPU that has started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Sends a CPU the interrupt.
static INTERRUPT: Once<fn(usize)> = Once::new();

/// Makes a CPU give back what it holds.
static REAP: Once<fn()> = Once::new();

/// Makes the CPU that runs this code the one with the number `number`. Locks, and
/// [`this_cpu`], need the number.
///
/// # Panics
/// Panics if `number` is not below [`MAX_CPUS`].
///
/// # Safety
/// * Interrupts are masked, and the CPU has used nothing of this crate before.
/// * No other CPU has called this function with that number.
/// * No other code uses the `GS` base of the CPU, nor its `GS` selector. Code that runs in user
///   mode may have a base of its own, if the kernel swaps them.
/// * Until [`start_cpu`], the CPU accesses no page that may be unmapped, and no heap.
pub unsafe fn set_number(number: usize) {
    assert!(number < MAX_CPUS, "there is no CPU {number}");
    // SAFETY: the caller guarantees the same.
    unsafe { machine::set_this_cpu(number) };
}

/// Lets the CPU that runs this code use the heap. From now on, other CPUs wait for it when they
/// unmap pages.
///
/// # Safety
/// * The CPU has a [number](set_number), and interrupts are masked.
/// * As soon as it enables them, it can be interrupted as [`set_interrupt`] says. It does not stop
///   while other CPUs run.
///
/// # Panics
/// Panics if another CPU has started, and no [`set_interrupt`] has been called: the CPUs would wait
/// for each other for ever.
pub unsafe fn start_cpu() {
    let is_alone = other_cpus(this_cpu()) == 0;
    assert!(
        is_alone || INTERRUPT.is_completed(),
        "`set_interrupt` comes before a second CPU starts"
    );
    STARTED.fetch_or(1 << this_cpu(), Ordering::SeqCst);
    // A CPU that unmaps pages, and does not see the bit yet, has changed the page tables before.
    machine::flush_all();
}

/// Sets the function that interrupts the CPU with a given number. Only the first call has an
/// effect. The function may be called with interrupts masked, and takes no lock that is held while
/// pages are unmapped.
pub fn set_interrupt(send: fn(cpu: usize)) {
    INTERRUPT.call_once(|| send);
}

/// Sets the function that makes the CPU that runs it give back what it holds. It calls
/// [`SlabHeap::reap_own`](crate::SlabHeap::reap_own) of the kernel's heap. Only the first call has
/// an effect.
///
/// The function runs in the handler of the interrupt, on each CPU but the one that wants memory,
/// which waits. The heap gets it so when an allocation is about to fail, and in its method `reap`.
/// Where interrupts are masked, it does not wait: the other CPUs follow later.
pub fn set_reap(reap: fn()) {
    REAP.call_once(|| reap);
}

/// Makes the other CPUs give back what they hold.
pub(crate) fn reap_others() {
    if let Some(reap) = REAP.get() {
        call_others(&|_| reap());
    }
}

/// Returns the number of the CPU that runs this code, which has called [`set_number`].
///
/// Code that may be moved to another CPU masks interrupts first.
#[inline]
pub fn this_cpu() -> usize {
    machine::this_cpu().number
}

/// Returns a bit for each CPU that has started, apart from `this`.
fn other_cpus(this: usize) -> usize {
    STARTED.load(Ordering::SeqCst) & !(1 << this)
}

/// Returns the number of CPUs that have started.
pub fn cpu_count() -> usize {
    STARTED.load(Ordering::Relaxed).count_ones() as usize
}

/// What a CPU has done since it started: see [`cpu_stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuStats {
    /// How often it flushed pages on the other CPUs, 16 pages or fewer at a time.
    pub shootdowns: u64,
    /// How often it had to wait for an [`InterruptLock`](crate::sync::InterruptLock).
    pub waits: u64,
    /// For how long it waited for them, in units of the time-stamp counter.
    pub waited: u64,
}

/// What one CPU counts. (Code that may be moved to another CPU counts for either.)
pub(crate) struct Counts {
    shootdowns: AtomicU64,
    waits: AtomicU64,
    waited: AtomicU64,
}

impl Counts {
    pub(crate) const fn new() -> Self {
        Self {
            shootdowns: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// Runs `wait`, and counts it as one that was for a lock.
    pub(crate) fn count_wait(&self, wait: impl FnOnce()) {
        let begin = time_stamp();
        wait();
        self.waits.fetch_add(1, Ordering::Relaxed);
        let waited = time_stamp().saturating_sub(begin);
        self.waited.fetch_add(waited, Ordering::Relaxed);
    }
}

/// Returns what the CPU `number` has done.
///
/// # Panics
/// Panics if `number` is not below [`MAX_CPUS`].
pub fn cpu_stats(number: usize) -> CpuStats {
    let counts = &CPUS[number].counts;
    CpuStats {
        shootdowns: counts.shootdowns.load(Ordering::Relaxed),
        waits: counts.waits.load(Ordering::Relaxed),
        waited: counts.waited.load(Ordering::Relaxed),
    }
}

/// Does what other CPUs want of this one, with interrupts masked. The handler of the interrupt
/// calls this function.
pub fn handle_interrupt() {
    machine::without_interrupts(|cpu| {
        cpu.inboxes.flushes.serve(cpu.number);
        cpu.inboxes.calls.serve(cpu.number);
    });
}

/// Removes pages from the TLB of each CPU, and waits until they are removed.
///
/// The caller holds no lock for which other CPUs wait with interrupts masked, unless they
/// [serve requests](serve_while_waiting) meanwhile, as those do that wait for an
/// [`InterruptLock`](crate::sync::InterruptLock).
pub fn flush(pages: PageRangeInclusive) {
    // The changes of the page tables come before the look at the CPUs that have started.
    fence(Ordering::SeqCst);
    let cpu = machine::this_cpu();
    if other_cpus(cpu.number) == 0 {
        machine::flush(pages);
        return;
    }
    cpu.counts.shootdowns.fetch_add(1, Ordering::Relaxed);
    let flush = |_| machine::flush(pages);
    on_others(&flush, |inboxes| &inboxes.flushes, || machine::flush(pages));
}

/// Runs `work` with the number of each other CPU, on that CPU, in the handler of its interrupt.
/// Waits until all of them have. Does nothing if interrupts are masked.
///
/// `work` may take locks, allocate, and free. It may not wait for other code, and does not unmap
/// pages.
pub fn call_others(work: &(dyn Fn(usize) + Sync)) {
    if !machine::are_interrupts_enabled() || other_cpus(this_cpu()) == 0 {
        return;
    }
    on_others(work, |inboxes| &inboxes.calls, || ());
}

/// Posts `work` to an inbox of each other CPU, does `own` meanwhile, on this CPU, and waits until
/// all have done it.
fn on_others(work: &(dyn Fn(usize) + Sync), inbox: fn(&Inboxes) -> &Inbox, own: impl FnOnce()) {
    let request = Request::new(work);
    let nodes = Nodes::default();
    let guard = AbortOnUnwind;
    machine::without_interrupts(|cpu| {
        // SAFETY: this function waits below until the request is served.
        unsafe { nodes.post(&request, cpu, inbox) };
        own();
    });
    request.wait(|| {
        serve_while_waiting();
        spin_loop();
    });
    core::mem::forget(guard);
}

/// Does what other CPUs need of this one without a delay: to flush pages. Code that waits while
/// interrupts may be masked calls this function again and again, so that others need not wait.
#[inline]
pub fn serve_while_waiting() {
    // Masking interrupts takes longer than the look, after which the code may be on another CPU:
    // it looks again.
    if !machine::this_cpu().inboxes.flushes.is_empty() {
        machine::without_interrupts(|cpu| cpu.inboxes.flushes.serve(cpu.number));
    }
}

/// The nodes of one request: one for each CPU.
struct Nodes([Node; MAX_CPUS]);

impl Default for Nodes {
    fn default() -> Self {
        Self(
            [const {
                Node {
                    next: cell::Cell::new(ptr::null()),
                    request: cell::Cell::new(ptr::null()),
                }
            }; MAX_CPUS],
        )
    }
}

impl Nodes {
    /// Posts the request to an inbox of all CPUs that have started, apart from `this` one, and
    /// interrupts them.
    ///
    /// # Safety
    /// The caller keeps the request and the nodes until no CPU is pending.
    unsafe fn post(&self, request: &Request<'_>, this: &CpuLocal, inbox: fn(&Inboxes) -> &Inbox) {
        let others = other_cpus(this.number);
        request
            .pending
            .store(others.count_ones() as usize, Ordering::Relaxed);
        let others = (0..MAX_CPUS).filter(|number| others >> number & 1 != 0);
        for number in others {
            let inbox = inbox(&CPUS[number].inboxes);
            // SAFETY: the caller keeps both until no CPU is pending, which the CPU is.
            let was_empty = unsafe { inbox.push(&self.0[number], request) };
            // Who finds another request there leaves it to that one's interrupt.
            if let (true, Some(send)) = (was_empty, INTERRUPT.get()) {
                send(number);
            }
        }
    }
}

const fn new_inbox() -> Inbox {
    Inbox {
        first: AtomicPtr::new(ptr::null_mut()),
    }
}

/// The requests that a CPU has not served yet, by what may serve them.
pub(crate) struct Inboxes {
    /// Served in the handler of the interrupt, and wherever the CPU waits.
    flushes: Inbox,
    /// Served in the handler only: where no lock is held.
    calls: Inbox,
}

impl Inboxes {
    pub(crate) const fn new() -> Self {
        Self {
            flushes: new_inbox(),
            calls: new_inbox(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::mem;
    use std::sync::Mutex;
    use std::thread;
    use std::vec::Vec;

    use x86_64::VirtAddr;
    use x86_64::structures::paging::Page;

    use super::*;
    use crate::host_memory::WINDOW;
    use crate::machine::FLUSHED;

    /// The tests share the CPUs.
    pub(crate) static TURN: Mutex<()> = Mutex::new(());

    /// The number of interrupts that each CPU got.
    static INTERRUPTS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

    /// Counts when it is dropped, also if a test fails.
    struct Done<'a>(&'a AtomicUsize);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Runs `work` on `count` CPUs: each is a thread that handles its interrupts afterwards, until
    /// all have done it. Returns the CPUs and addresses that were flushed.
    fn with_cpus(count: usize, work: impl Fn(usize) + Sync) -> Vec<(usize, u64)> {
        let _turn = TURN.lock();
        FLUSHED.lock().clear();
        set_interrupt(|number| {
            INTERRUPTS[number].fetch_add(1, Ordering::SeqCst);
        });
        let is_done = AtomicUsize::new(0);
        let started = AtomicUsize::new(0);
        let cpu = |number| {
            // SAFETY: each thread has a number of its own.
            unsafe { set_number(number) };
            // SAFETY: the thread handles its interrupts below.
            unsafe { start_cpu() };
            started.fetch_add(1, Ordering::SeqCst);
            while started.load(Ordering::SeqCst) < count {
                thread::yield_now();
            }
            let done = Done(&is_done);
            work(number);
            drop(done);
            let mut handled = 0;
            while is_done.load(Ordering::SeqCst) < count {
                let sent = INTERRUPTS[number].load(Ordering::SeqCst);
                if sent != handled {
                    handled = sent;
                    handle_interrupt();
                }
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            for number in 0..count {
                scope.spawn(move || cpu(number));
            }
        });
        STARTED.store(0, Ordering::SeqCst);
        let mut flushed = mem::take(&mut *FLUSHED.lock());
        // Other tests flush pages of their windows.
        flushed.retain(|&(_, address)| address < WINDOW as u64 / 2);
        flushed
    }

    fn page(number: usize) -> Page {
        Page::containing_address(VirtAddr::new(number as u64 * 4096))
    }

    #[test]
    fn pages_are_flushed_on_each_cpu_before_flush_returns() {
        const ROUNDS: usize = 100;
        const CPUS: usize = 4;
        let before = [0, 1, 2, 3].map(|number| cpu_stats(number).shootdowns);
        let flushed = with_cpus(CPUS, |number| {
            // All at once: each waits for the others, and serves them meanwhile.
            for round in 0..ROUNDS {
                let page = page(number * ROUNDS + round);
                flush(Page::range_inclusive(page, page));
                let address = page.start_address().as_u64();
                let mut by: Vec<_> = FLUSHED
                    .lock()
                    .iter()
                    .filter(|(_, flushed)| *flushed == address)
                    .map(|(cpu, _)| *cpu)
                    .collect();
                by.sort_unstable();
                assert_eq!(by, [0, 1, 2, 3]);
            }
        });
        assert_eq!(flushed.len(), CPUS * CPUS * ROUNDS);
        let counted = [0, 1, 2, 3].map(|number| cpu_stats(number).shootdowns);
        let counted: Vec<_> = counted
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        assert_eq!(counted, [ROUNDS as u64; CPUS]);
    }

    #[test]
    fn only_the_first_request_in_an_inbox_sends_an_interrupt() {
        let inbox = new_inbox();
        let nodes = Nodes::default();
        let request = Request::new(&|_| ());
        request.pending.store(4, Ordering::Relaxed);
        // SAFETY: request and nodes exist until the inbox was served twice.
        let push = |index: usize| unsafe { inbox.push(&nodes.0[index], &request) };
        assert_eq!([0, 1, 2].map(push), [true, false, false]);
        inbox.serve(0);
        assert!(push(3));
        inbox.serve(0);
        assert_eq!(request.pending.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn work_for_the_others_runs_once_on_each_of_them() {
        let ran = [const { AtomicUsize::new(0) }; 3];
        with_cpus(3, |number| {
            if number == 1 {
                call_others(&|cpu| {
                    ran[cpu].fetch_add(1, Ordering::Relaxed);
                });
                let ran = [0, 1, 2].map(|cpu| ran[cpu].load(Ordering::Relaxed));
                assert_eq!(ran, [1, 0, 1]);
            }
        });
    }

    #[test]
    fn any_number_of_cpus_flush_for_each_other() {
        for count in [2, 3, MAX_CPUS] {
            let flushed = with_cpus(count, |number| {
                let page = page(number);
                flush(Page::range_inclusive(page, page));
            });
            assert_eq!(flushed.len(), count * count, "{count} CPUs");
        }
    }

    #[test]
    fn who_waits_leaves_work_that_needs_locks_to_the_handler() {
        let ran = AtomicUsize::new(0);
        with_cpus(2, |number| {
            if number == 1 {
                call_others(&|_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                });
                assert_eq!(ran.load(Ordering::SeqCst), 1);
                return;
            }
            while CPUS[0].inboxes.calls.is_empty() {
                thread::yield_now();
            }
            // Another CPU posts a request to flush pages, and this one waits for a lock.
            let request = Request::new(&|_| ());
            let nodes = Nodes::default();
            request.pending.store(1, Ordering::Relaxed);
            // SAFETY: request and node exist until the inbox is served.
            unsafe { CPUS[0].inboxes.flushes.push(&nodes.0[0], &request) };
            serve_while_waiting();
            assert_eq!(request.pending.load(Ordering::Relaxed), 0);
            assert_eq!(ran.load(Ordering::SeqCst), 0, "this CPU may hold locks");
        });
    }

    #[test]
    fn a_single_cpu_waits_for_no_other() {
        let flushed = with_cpus(1, |_| {
            flush(Page::range_inclusive(page(1), page(3)));
            call_others(&|_| panic!("there is no other"));
        });
        assert_eq!(flushed, [1, 2, 3].map(|page| (0, page * 4096)));
    }
}
