//! Interrupts come, go on where they interrupted, and can be masked.

use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::interrupts::timer;
use kernel::kernel_test;
use kernel::sync::InterruptMutex;
use x86_64::instructions::{hlt, interrupts};

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
