//! Timer interrupts that allocate and free while the interrupted code does so too.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::heap::HEAP;
use kernel::interrupts::timer;
use kernel::memory::PAGE_SIZE;
use kernel::sync::InterruptMutex;
use kernel::{kernel_test, time_stamp};
use x86_64::instructions::{hlt, nop};

use crate::support::{Blocks, Random, filled};

/// The blocks that the handler has allocated. Each is filled with its size.
static BLOCKS: InterruptMutex<[Vec<u8>; 8]> = InterruptMutex::new([const { Vec::new() }; 8]);

/// The number of calls of the handler.
static TICKS: AtomicU64 = AtomicU64::new(0);
/// The time of all calls of the handler, in ticks of the time-stamp counter.
static TIME: AtomicU64 = AtomicU64::new(0);
/// The number of calls after which the handler stops the timer. A timer that is too fast would
/// leave no time for the program.
static LAST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Frees a block of an earlier tick, and allocates a block. Now and then the heap must grow for the
/// block.
pub(crate) fn allocate_at_a_tick() {
    let began = time_stamp();
    let tick = TICKS.fetch_add(1, Ordering::Relaxed);
    if tick >= LAST.load(Ordering::Relaxed) {
        timer::stop();
    }
    let mut blocks = BLOCKS.lock();
    let block = &mut blocks[tick as usize % 8];
    assert!(
        block.iter().all(|&byte| byte == block.len() as u8),
        "a block of a tick changed"
    );
    let size = if tick % 1024 == 1000 {
        64 * PAGE_SIZE + 1
    } else {
        (tick * 7919 % 600) as usize
    };
    *block = vec![size as u8; size];
    drop(blocks);
    TIME.fetch_add(time_stamp() - began, Ordering::Relaxed);
}

/// Starts the handler for `count` ticks, at a rate at which the program gets about half of the
/// instructions. Returns the number of the last tick, and the rate in hertz.
pub(crate) fn start_for(count: u64) -> (u64, u32) {
    let (handler, period) = measure();
    let hertz = 1000 * period / (2 * handler).max(1);
    let last = ticks() + count;
    LAST.store(last, Ordering::Relaxed);
    let rate = timer::start(u32::try_from(hertz).unwrap_or(u32::MAX));
    assert!(rate >= 2_000, "a tick takes {handler} of {period}");
    (last, rate)
}

/// Returns the number of calls of the handler.
pub(crate) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Stops the handler, and frees its blocks.
pub(crate) fn stop() {
    timer::stop();
    timer::set_hook(None);
    clear();
}

/// Frees the blocks of all ticks.
pub(crate) fn clear() {
    let blocks = core::mem::take(&mut *BLOCKS.lock());
    drop(blocks);
}

/// Starts a timer with this handler at 1000 Hz. Returns the time of one call and the time between
/// two calls, in ticks of the time-stamp counter.
fn measure() -> (u64, u64) {
    const CALLS: usize = 64;
    LAST.store(u64::MAX, Ordering::Relaxed);
    timer::set_hook(Some(allocate_at_a_tick));
    timer::start(1000);
    let wait_until = |end| {
        while ticks() < end {
            hlt();
        }
        (time_stamp(), TIME.load(Ordering::Relaxed))
    };
    let (mut before, used) = wait_until(ticks() + 2);
    let mut times = [0; CALLS];
    for time in &mut times {
        let (after, _) = wait_until(ticks() + 1);
        *time = after - before;
        before = after;
    }
    let handler = (TIME.load(Ordering::Relaxed) - used) / CALLS as u64;
    // On a busy host the machine is halted for too long, and misses ticks. The median is right.
    times.sort_unstable();
    (handler, times[CALLS / 2])
}

kernel_test! {
    /// The timer runs at the rate at which the program gets about half of the instructions.
    fn handlers_allocate_during_growth_and_release(deadline = 240) {
        const COUNT: u64 = 20_000;
        let (last, rate) = start_for(COUNT);
        let mut random = Random::new(7);
        let mut blocks = Blocks::new();
        let mut operations = 0_u64;
        while ticks() <= last {
            operations += 1;
            match random.below(16) {
                0 => blocks.reallocate(&mut random),
                // Mapped, and unmapped immediately.
                1 if operations.is_multiple_of(16) => {
                    drop(filled(operations as u8, 80 * PAGE_SIZE))
                }
                choice if choice * 50_000 > blocks.bytes() => {
                    let layout =
                        Layout::from_size_align(1 + random.below(1000), 1 << random.below(7));
                    assert!(blocks.allocate(layout.expect("valid")).is_some());
                }
                _ => blocks.free_any(&mut random),
            }
        }
        stop();
        blocks.verify();
        kernel::println!("{COUNT} ticks at {rate} Hz, {operations} operations");
        assert!(
            operations > COUNT / 10,
            "the program did little: {operations} operations at {rate} Hz"
        );
    }
}

kernel_test! {
    /// Regression scenario 20: the tick arrives at the moment when the heap is unlocked, and
    /// allocates.
    fn a_handler_allocates_right_after_the_heap_is_unlocked(
        deadline = 120,
        counts_instructions = true,
    ) {
        let (_, period) = measure();
        timer::start(4_000);
        for _ in 0..200 {
            let guard = HEAP.core().lock();
            let seen = timer::ticks();
            let began = time_stamp();
            // Four times the time between two ticks at the new rate.
            while time_stamp() - began < period {
                core::hint::spin_loop();
            }
            assert_eq!(timer::ticks(), seen, "no tick comes while the heap is locked");
            drop(guard);
            // The CPU executes one instruction after it has enabled interrupts.
            nop();
            assert_ne!(timer::ticks(), seen, "it came as soon as the heap was unlocked");
            drop(filled(1, 100));
        }
        stop();
    }
}
