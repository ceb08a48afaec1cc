//! Interrupts come, go on where they interrupted, and can be masked.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::interrupts::timer;
use kernel::kernel_test;
use kernel::sync::InterruptMutex;
use x86_64::instructions::{hlt, interrupts};

use crate::support::{Blocks, Random};

/// Waits until the timer has ticked so many times.
fn wait_for_ticks(count: u64) {
    let end = timer::ticks() + count;
    while timer::ticks() < end {
        hlt();
    }
}

kernel_test! {
    /// The program goes on after the breakpoint.
    fn a_breakpoint_returns() {
        interrupts::int3();
    }
}

kernel_test! {
    /// The timer ticks, and calls what is hooked into it.
    fn the_timer_ticks_at_1000_hertz() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        timer::set_hook(Some(|| {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }));
        let rate = timer::start(1000);
        wait_for_ticks(20);
        timer::stop();
        timer::set_hook(None);
        assert!((1000..1010).contains(&rate), "{rate} Hz");
        assert!(CALLS.load(Ordering::Relaxed) >= 20);
    }
}

kernel_test! {
    /// While a lock is held no interrupt comes; afterwards it does.
    fn a_lock_masks_interrupts() {
        static LOCK: InterruptMutex<()> = InterruptMutex::new(());
        timer::start(1000);
        wait_for_ticks(1);
        let inner_disabled;
        let (before, after);
        {
            let _guard = LOCK.lock();
            inner_disabled = !interrupts::are_enabled();
            before = timer::ticks();
            // Many times the tick's period.
            for _ in 0..20_000_000 {
                core::hint::spin_loop();
            }
            after = timer::ticks();
        }
        let enabled = interrupts::are_enabled();
        wait_for_ticks(1);
        timer::stop();
        assert!(inner_disabled && enabled);
        assert_eq!(before, after);
    }
}

/// Blocks that the timer interrupt has allocated, each filled with its number.
static FROM_TICKS: InterruptMutex<[Vec<u8>; 8]> = InterruptMutex::new([const { Vec::new() }; 8]);

/// Frees a block that an earlier tick has allocated, and allocates another.
fn allocate_at_a_tick() {
    let tick = timer::ticks();
    let mut blocks = FROM_TICKS.lock();
    let block = &mut blocks[tick as usize % 8];
    assert!(
        block.iter().all(|&byte| byte == block.len() as u8),
        "a block of a tick changed"
    );
    let size = (tick * 7919 % 600) as usize;
    *block = vec![size as u8; size];
}

kernel_test! {
    /// The timer interrupt allocates and frees while the program does: regression scenario 20.
    fn a_timer_that_allocates_interrupts_a_program_that_does(deadline = 240) {
        const TICKS: u64 = 10_000;
        let end = timer::ticks() + TICKS;
        timer::set_hook(Some(allocate_at_a_tick));
        timer::start(5_000);
        let mut random = Random::new(7);
        let mut blocks = Blocks::new();
        let mut operations = 0_u64;
        while timer::ticks() < end {
            operations += 1;
            match random.below(16) {
                0 => blocks.reallocate(&mut random),
                // More frees than allocations when there are many blocks.
                choice if choice * 50_000 > blocks.bytes() => {
                    let size = 1 + random.below(1000);
                    let layout = Layout::from_size_align(size, 1 << random.below(7)).expect("valid");
                    assert!(blocks.allocate(layout).is_some());
                }
                _ => blocks.free_any(&mut random),
            }
        }
        timer::stop();
        timer::set_hook(None);
        blocks.verify();
        drop(blocks);
        *FROM_TICKS.lock() = [const { Vec::new() }; 8];
        assert!(operations > TICKS / 4, "the program did little: {operations} operations");
    }
}

kernel_test! {
    /// Interrupts are as they were after an allocation that had to map pages, and after its free.
    fn growing_and_shrinking_leave_the_interrupt_flag_alone() {
        let grow_and_shrink = || drop(core::hint::black_box(vec![1_u8; 5 << 20]));
        grow_and_shrink();
        assert!(interrupts::are_enabled());
        interrupts::without_interrupts(|| {
            grow_and_shrink();
            assert!(!interrupts::are_enabled());
        });
    }
}
