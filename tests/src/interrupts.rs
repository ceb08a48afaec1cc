//! Interrupts and exceptions: handlers run and return, and interrupts can be masked.

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::interrupts::{Irq, IrqInUse, last_breakpoint, register, timer, unregister};
use kernel::kernel_test;
use kernel::sync::InterruptMutex;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// Waits for `count` ticks of the timer.
fn wait_for_ticks(count: u64) {
    let end = timer::ticks() + count;
    while timer::ticks() < end {
        hlt();
    }
}

kernel_test! {
    /// The handler reports the address after the breakpoint, and the program continues there.
    fn a_breakpoint_is_reported_and_returns() {
        let (before, address): (u64, u64);
        // SAFETY: the handler of breakpoints returns, and changes no register or memory in use.
        unsafe {
            core::arch::asm!(
                "lea {before}, [rip + 2f]",
                "int3",
                "2:",
                "lea {address}, [rip + 2b]",
                before = out(reg) before,
                address = out(reg) address,
            );
        }
        assert_eq!(before, address);
        let reported = last_breakpoint().expect("a breakpoint is reported");
        assert_eq!(reported.as_u64(), address);
    }
}

kernel_test! {
    /// The timer ticks, and calls its hook.
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
    /// With a divisor of 1, the hardware would not tick at all. The handler stops the timer: if
    /// instructions are counted in large steps, the program gets none in between.
    fn the_timer_ticks_at_its_highest_rate() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        timer::set_hook(Some(|| {
            if CALLS.fetch_add(1, Ordering::Relaxed) == 2 {
                timer::stop();
            }
        }));
        let rate = timer::start(u32::MAX);
        while CALLS.load(Ordering::Relaxed) < 3 {
            core::hint::spin_loop();
        }
        timer::set_hook(None);
        assert_eq!(rate, 596_591);
    }
}

kernel_test! {
    /// No interrupt arrives while a lock is held. The pending one arrives afterwards.
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
            // Many times the period of the timer.
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
    /// Locks may be released in any order: the last release enables interrupts.
    fn interrupts_stay_masked_until_the_last_lock_is_free() {
        static LOCKS: [InterruptMutex<()>; 3] = [const { InterruptMutex::new(()) }; 3];
        let [first, second, third] = [0, 1, 2].map(|index| LOCKS[index].lock());
        let mut enabled = [true; 3];
        drop(first);
        enabled[0] = interrupts::are_enabled();
        drop(third);
        enabled[1] = interrupts::are_enabled();
        // A failed attempt to lock does not count.
        assert!(LOCKS[1].try_lock().is_none());
        enabled[2] = interrupts::are_enabled();
        drop(second);
        assert_eq!(enabled, [false; 3]);
        assert!(interrupts::are_enabled());
    }
}

kernel_test! {
    /// A CPU that takes a lock twice would wait for ever: the kernel panics instead.
    fn a_lock_taken_twice_on_one_cpu_panics(should_panic = "waits for a lock that it holds") {
        static LOCK: InterruptMutex<()> = InterruptMutex::new(());
        let _first = LOCK.lock();
        let _second = LOCK.lock();
    }
}

kernel_test! {
    /// The report of a machine check has its name.
    fn a_machine_check_is_reported(should_fault = "machine check") {
        // SAFETY: the handler ends the kernel. The CPU pushes no error code for this vector.
        unsafe { core::arch::asm!("int 18") };
    }
}

kernel_test! {
    /// Without this bit, a machine check shuts the CPU down.
    fn machine_checks_are_enabled() {
        use x86_64::registers::control::{Cr4, Cr4Flags};
        assert!(Cr4::read().contains(Cr4Flags::MACHINE_CHECK_EXCEPTION));
    }
}

kernel_test! {
    /// The interrupt flag is unchanged by an allocation that maps pages, and by its release.
    fn growth_and_release_preserve_the_interrupt_flag() {
        let grow_and_shrink = || drop(core::hint::black_box(vec![1_u8; 5 << 20]));
        grow_and_shrink();
        assert!(interrupts::are_enabled());
        interrupts::without_interrupts(|| {
            grow_and_shrink();
            assert!(!interrupts::are_enabled());
        });
    }
}

/// Changes register `index` of the real-time clock, and returns its old value.
fn clock_register(index: u8, change: impl FnOnce(u8) -> u8) -> u8 {
    interrupts::without_interrupts(|| {
        let (mut select, mut data) = (Port::<u8>::new(0x70), Port::<u8>::new(0x71));
        // SAFETY: these are the ports of the real-time clock, which no other code uses. The
        // register that is selected is read and written before another one can be selected.
        unsafe {
            select.write(index);
            let old = data.read();
            select.write(index);
            data.write(change(old));
            old
        }
    })
}

kernel_test! {
    /// The handler of a device allocates and frees, and its interrupts come until it is removed.
    fn interrupts_of_a_device_reach_its_handler() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        fn handle() {
            drop(core::hint::black_box(Box::new([0_u8; 700])));
            CALLS.fetch_add(1, Ordering::Relaxed);
            // Without reading register C, no other interrupt comes.
            clock_register(0x0c, |unchanged| unchanged);
        }
        // 1,024 interrupts in a second.
        const PERIODIC: u8 = 1 << 6;
        register(Irq::CLOCK, handle).expect("no other code has the line");
        let taken = register(Irq::CLOCK, || {});
        clock_register(0x0b, |flags| flags | PERIODIC);
        while CALLS.load(Ordering::Relaxed) < 5 {
            drop(core::hint::black_box(Box::new([0_u8; 700])));
            hlt();
        }
        let removed = unregister(Irq::CLOCK);
        let calls = CALLS.load(Ordering::Relaxed);
        timer::start(1000);
        wait_for_ticks(20);
        timer::stop();
        clock_register(0x0b, |flags| flags & !PERIODIC);
        assert_eq!(taken, Err(IrqInUse(Irq::CLOCK)));
        assert!(removed.is_some() && unregister(Irq::CLOCK).is_none());
        assert_eq!(CALLS.load(Ordering::Relaxed), calls);
    }

    /// A controller that raises its last line without a reason does not call a handler.
    fn a_spurious_interrupt_reaches_no_handler() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let lines = [7, 15].map(|line| Irq::new(line).expect("a line of a controller"));
        for line in lines {
            register(line, || {
                CALLS.fetch_add(1, Ordering::Relaxed);
            })
            .expect("no other code has the line");
        }
        // SAFETY: the handlers of these vectors return. For the controllers, no line is in service.
        unsafe { core::arch::asm!("int 39", "int 47") };
        timer::start(1000);
        // The timer still ticks: its line is above the other two.
        wait_for_ticks(2);
        timer::stop();
        for line in lines {
            unregister(line);
        }
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    }
}
