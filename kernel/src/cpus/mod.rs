//! The CPUs of the machine, and work for them.
//!
//! [`init`](crate::init) starts all CPUs, up to [`MAX_CPUS`], if the machine has more than one. The
//! boot CPU then runs the kernel's main function. Each other CPU [runs](run) the closures that it
//! is given:
//!
//! ```text
//!     spawn(closure) ──────> shared queue ──┐
//!     spawn_on(2, closure) ─> CPU 2's queue ─┴─> CPU 2: run ──> closure, with interrupts enabled
//! ```
//!
//! A fork with threads gives each CPU a closure that does not return: its scheduler. (Then
//! [`on_each`] would wait for ever.)
//!
//! * A closure runs on a stack of 256 KiB, with interrupts enabled. If it panics, the kernel ends.
//! * Each CPU besides the first takes 96 frames, for its stacks.
//! * On a machine with one CPU, closures wait until that CPU [runs](run_one) them, calls
//!   [`on_each`], or [waits](wait_until_idle). Code that spins until a closure has run calls
//!   [`run_one`] meanwhile.
//! * A CPU that unmaps pages waits until all others have flushed them. So no CPU may keep
//!   interrupts masked for long, nor hold an
//!   [`InterruptMutex`](crate::sync::InterruptMutex) for long: frees on other CPUs wait for it.
//!   Code that must wait with interrupts masked calls [`serve_while_waiting`] again and again.

mod queue;
mod start;

use alloc::boxed::Box;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

use heap_x86_64::smp;
pub use heap_x86_64::smp::{CpuStats, serve_while_waiting};

use crate::{interrupts, time_stamp};
use queue::Queue;
pub(crate) use start::start_all;

/// The largest number of CPUs that run.
pub const MAX_CPUS: usize = smp::MAX_CPUS;

/// The number of the CPU that boots.
pub const BOOT_CPU: usize = 0;

/// The closures for any CPU.
static SHARED: Queue = Queue::new();
/// The closures for each CPU.
static OWN: [Queue; MAX_CPUS] = [const { Queue::new() }; MAX_CPUS];
/// A bit for each CPU that halts until there is work.
static IDLE: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of CPUs that run. Their numbers are those from 0 on.
pub fn count() -> usize {
    smp::cpu_count().max(1)
}

/// Returns how often a CPU has flushed pages on the others, and waited for locks.
///
/// # Panics
/// Panics if `number` is not below [`MAX_CPUS`].
pub fn stats(number: usize) -> CpuStats {
    smp::cpu_stats(number)
}

/// Returns the number of the CPU that runs this code.
#[inline]
pub fn this() -> usize {
    smp::this_cpu()
}

/// Gives a closure to the first CPU that has nothing else to do. Handlers of interrupts may call
/// this function.
///
/// The boot CPU is not among them unless it calls [`run`], [`run_one`] or [`on_each`]: on a machine
/// with one CPU, the closure waits for that.
pub fn spawn(work: impl FnOnce() + Send + 'static) {
    SHARED.push(Box::new(work));
    wake_idle();
}

/// Gives a closure to the CPU `number`. That of the CPU that boots waits as [`spawn`] says.
///
/// # Panics
/// Panics if there is no such CPU.
#[track_caller]
pub fn spawn_on(number: usize, work: impl FnOnce() + Send + 'static) {
    assert!(number < count(), "there is no CPU {number}");
    OWN[number].push(Box::new(work));
    if number != this() {
        wake(number);
    }
}

/// Runs `work` with the number of each CPU on that CPU, at the same time, and waits until all have.
///
/// Other CPUs begin when they have finished what they do. The boot CPU is among them: called on
/// another one, this function waits until the boot CPU [runs closures](run_one). While this CPU
/// waits, it runs other closures; if it is the only one, all that there are.
///
/// # Panics
/// Panics if interrupts are masked: the other CPUs could not interrupt this one.
#[track_caller]
pub fn on_each(work: impl Fn(usize) + Sync) {
    /// Another CPU's share: it counts down when it is dropped.
    struct Share<'a> {
        work: &'a (dyn Fn(usize) + Sync),
        left: &'a AtomicUsize,
        number: usize,
    }

    impl Share<'_> {
        fn run(self) {
            (self.work)(self.number);
            // From now on, neither reference may be valid.
            self.left.fetch_sub(1, Ordering::Release);
        }
    }

    assert!(
        interrupts::enabled(),
        "interrupts are masked: the other CPUs cannot interrupt this one"
    );
    let this = this();
    let left = AtomicUsize::new(count() - 1);
    for number in (0..count()).filter(|&number| number != this) {
        let share = Share {
            work: &work,
            left: &left,
            number,
        };
        // SAFETY: this function returns only when all shares have counted down, after which they
        // use the references no more. (A panic ends the kernel.)
        let share = unsafe { core::mem::transmute::<Share<'_>, Share<'static>>(share) };
        spawn_on(number, move || share.run());
    }
    work(this);
    while left.load(Ordering::Acquire) > 0 {
        if !run_one() {
            spin_loop();
        }
    }
    // There is no other that could run them.
    while count() == 1 && run_one() {}
}

/// Waits until all other CPUs halt in [`run`], because they have no work. (A closure is freed after
/// it has run, by the CPU that ran it.) Returns whether they do: some may work for long.
///
/// If there is no other CPU, this one runs all closures.
pub fn wait_until_idle() -> bool {
    /// Half a second or more, in ticks of the time-stamp counter.
    const LIMIT: u64 = 1 << 31;

    let others = (0..count()).filter(|&number| number != this());
    let others = others.fold(0, |bits, number| bits | 1 << number);
    while others == 0 && run_one() {}
    let is_idle = || {
        let mut queues = OWN.iter().enumerate();
        let has_work = queues.any(|(number, queue)| others >> number & 1 != 0 && !queue.is_empty())
            || (others != 0 && !SHARED.is_empty());
        !has_work && IDLE.load(Ordering::SeqCst) & others == others
    };
    let began = time_stamp();
    while !is_idle() {
        if time_stamp() - began > LIMIT {
            return false;
        }
        spin_loop();
    }
    true
}

/// Runs one closure, of this CPU's queue or of the shared one. Returns whether there was one.
pub fn run_one() -> bool {
    let Some(work) = OWN[this()].pop().or_else(|| SHARED.pop()) else {
        return false;
    };
    // This CPU may have been woken for another closure than this one, which may take long.
    if !SHARED.is_empty() {
        wake_idle();
    }
    work();
    true
}

/// Runs closures for ever. Halts the CPU while there are none.
pub fn run() -> ! {
    let this = this();
    loop {
        interrupts::wait_until(|| {
            // From now on, who adds a closure wakes this CPU.
            IDLE.fetch_or(1 << this, Ordering::SeqCst);
            let has_work = !(OWN[this].is_empty() && SHARED.is_empty());
            if has_work {
                IDLE.fetch_and(!(1 << this), Ordering::SeqCst);
            }
            has_work.then_some(())
        });
        while run_one() {}
    }
}

/// Ends the halt of the CPU `number`, so that it looks again at what it waits for: in
/// [`interrupts::wait_until`], for instance. Does nothing to a CPU that runs.
///
/// # Panics
/// Panics if there is no such CPU.
pub fn wake(number: usize) {
    assert!(number < count(), "there is no CPU {number}");
    interrupts::apic::interrupt(number);
}

/// Wakes one CPU that is idle, if there is one. Each is woken for one closure only.
///
/// A CPU that is not idle yet looks into the queues before it halts.
fn wake_idle() {
    loop {
        let idle = IDLE.load(Ordering::SeqCst);
        if idle == 0 {
            return;
        }
        let number = idle.trailing_zeros();
        if IDLE.fetch_and(!(1 << number), Ordering::SeqCst) >> number & 1 != 0 {
            wake(number as usize);
            return;
        }
    }
}
