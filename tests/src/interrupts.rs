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
    /// Locks are released in whatever order: interrupts come back with the last one.
    fn locks_released_out_of_order_keep_interrupts_masked() {
        static LOCKS: [InterruptMutex<()>; 3] = [const { InterruptMutex::new(()) }; 3];
        let [first, second, third] = [0, 1, 2].map(|index| LOCKS[index].lock());
        let mut enabled = [true; 3];
        drop(first);
        enabled[0] = interrupts::are_enabled();
        drop(third);
        enabled[1] = interrupts::are_enabled();
        // One that cannot be had is not held, either.
        assert!(LOCKS[1].try_lock().is_none());
        enabled[2] = interrupts::are_enabled();
        drop(second);
        assert_eq!(enabled, [false; 3]);
        assert!(interrupts::are_enabled());
    }
}

kernel_test! {
    /// A lock that is taken twice on one CPU would never be had: the kernel says so.
    fn a_lock_taken_twice_on_one_cpu_panics(should_panic = "waits for a lock that it holds") {
        static LOCK: InterruptMutex<()> = InterruptMutex::new(());
        let _first = LOCK.lock();
        let _second = LOCK.lock();
    }
}

kernel_test! {
    /// An exception that nothing can repair has a name, as all others have.
    fn a_machine_check_is_reported(should_fault = "machine check") {
        // SAFETY: it is not: this is what the test shows. The CPU pushes no error code for this vector.
        unsafe { core::arch::asm!("int 18") };
    }
}

kernel_test! {
    /// Without this bit a machine check shuts the CPU down.
    fn machine_checks_are_enabled() {
        use x86_64::registers::control::{Cr4, Cr4Flags};
        assert!(Cr4::read().contains(Cr4Flags::MACHINE_CHECK_EXCEPTION));
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
