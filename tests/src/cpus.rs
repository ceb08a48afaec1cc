//! Several CPUs: that they run, and that the heap serves them all. On a machine with one CPU the
//! tests run on that one.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::x86_64::__cpuid;
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use heap::vmem::AllocPolicy;
use kernel::acpi::{self, AcpiError};
use kernel::cpus::{self, MAX_CPUS};
use kernel::heap::HEAP;
use kernel::interrupts::{self, local_timer};
use kernel::memory::PAGE_SIZE;
use kernel::sync::InterruptMutex;
use kernel::{audit, kernel_test, println};
use x86_64::instructions::interrupts::without_interrupts;

use crate::support::{Limit, Random, filled, heap_pages_arena};

/// Runs `work` on the last CPU, and waits until it has.
fn on_last(work: impl FnOnce() + Send + 'static) {
    let last = cpus::count() - 1;
    if last == 0 {
        return work();
    }
    let done = Arc::new(AtomicBool::new(false));
    let its_done = Arc::clone(&done);
    cpus::spawn_on(last, move || {
        work();
        its_done.store(true, Ordering::Release);
    });
    while !done.load(Ordering::Acquire) {
        spin_loop();
    }
}

kernel_test! {
    fn the_cpu_that_booted_is_the_first_in_the_tables() {
        let cpus = acpi::tables().unwrap().cpus().unwrap();
        // Bits 24 to 31 of EBX: the number of the interrupt controller of this CPU.
        let this = __cpuid(1).ebx >> 24;
        assert_eq!(cpus.apic_ids().first(), Some(&this));
        assert_eq!(cpus.left_out(), 0);
        assert_ne!(cpus.local_apic(), 0);
    }

    fn tables_that_a_machine_lacks_are_missing() {
        let tables = acpi::tables().unwrap();
        assert_eq!(tables.find(*b"NONE"), Err(AcpiError::Missing(*b"NONE")));
    }

    fn all_cpus_of_the_machine_run() {
        let expected = acpi::tables().unwrap().cpus().unwrap();
        let mut ids = [const { AtomicUsize::new(usize::MAX) }; MAX_CPUS];
        cpus::on_each(|number| {
            assert_eq!(cpus::this(), number);
            assert!(interrupts::enabled());
            ids[number].store((__cpuid(1).ebx >> 24) as usize, Ordering::Relaxed);
        });
        assert_eq!(cpus::count(), expected.apic_ids().len());
        let mut ids: Vec<_> = ids[..cpus::count()].iter_mut().map(|id| *id.get_mut()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), cpus::count(), "each number is another CPU");
        println!("{} CPUs", cpus::count());
    }

    fn each_closure_runs_once() {
        const COUNT: usize = 200;
        let ran: Arc<[AtomicUsize]> = (0..COUNT).map(|_| AtomicUsize::new(0)).collect();
        for index in 0..COUNT {
            let ran = Arc::clone(&ran);
            let work = move || {
                ran[index].fetch_add(1, Ordering::Relaxed);
            };
            match index % 2 {
                0 => cpus::spawn(work),
                _ => cpus::spawn_on(index % cpus::count(), work),
            }
        }
        // This CPU's own, and those that others have not begun.
        while cpus::run_one() {}
        while Arc::strong_count(&ran) > 1 {
            spin_loop();
        }
        assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1));
    }

    /// The first closure takes a CPU until the second has run, on another.
    fn no_closure_waits_while_a_cpu_is_idle() {
        if cpus::count() < 3 {
            return;
        }
        for _ in 0..100 {
            let ran = Arc::new([const { AtomicBool::new(false) }; 2]);
            let [first, second] = [(); 2].map(|()| Arc::clone(&ran));
            cpus::spawn(move || {
                while !first[1].load(Ordering::Acquire) {
                    spin_loop();
                }
                first[0].store(true, Ordering::Release);
            });
            cpus::spawn(move || second[1].store(true, Ordering::Release));
            while !ran[0].load(Ordering::Acquire) {
                spin_loop();
            }
        }
    }

    /// Also if this CPU is the only one.
    fn closures_have_run_when_the_others_are_idle_and_after_work_for_all() {
        let waits: [fn(); 2] = [
            || assert!(cpus::wait_until_idle()),
            || {
                cpus::on_each(|_| ());
                assert!(cpus::count() == 1 || cpus::wait_until_idle());
            },
        ];
        for wait in waits {
            let ran = Arc::new(AtomicBool::new(false));
            let its = Arc::clone(&ran);
            cpus::spawn(move || its.store(true, Ordering::Release));
            wait();
            assert!(ran.load(Ordering::Acquire));
        }
    }

    fn work_for_all_cpus_needs_interrupts(should_panic = "cannot interrupt this one") {
        without_interrupts(|| cpus::on_each(|_| ()));
    }

    fn each_cpu_has_a_timer_of_its_own(deadline = 120) {
        if cpus::count() == 1 {
            assert!(!local_timer::start(1000));
            return;
        }
        cpus::on_each(|number| {
            let before = local_timer::ticks(number);
            assert!(local_timer::start(1000));
            interrupts::wait_until(|| (local_timer::ticks(number) > before + 20).then_some(()));
            local_timer::stop();
        });
    }

    fn a_lock_excludes_all_other_cpus_and_handlers(deadline = 120) {
        const ROUNDS: usize = 5_000;
        static COUNTS: InterruptMutex<[usize; 2]> = InterruptMutex::new([0; 2]);
        fn count() {
            let mut counts = COUNTS.lock();
            counts[0] += 1;
            black_box(&mut *counts);
            counts[1] += 1;
        }

        *COUNTS.lock() = [0; 2];
        let ticks = || (0..cpus::count()).map(local_timer::ticks).sum::<u64>() as usize;
        let before = ticks();
        local_timer::set_hook(Some(count));
        cpus::on_each(|_| {
            local_timer::start(2000);
            for _ in 0..ROUNDS {
                count();
            }
            local_timer::stop();
        });
        // The last tick may come after the timer was stopped, and ends before the closure does.
        cpus::on_each(|_| ());
        local_timer::set_hook(None);
        let expected = ROUNDS * cpus::count() + (ticks() - before);
        assert_eq!(*COUNTS.lock(), [expected; 2]);
    }

    /// The last CPU has used the page, so that its TLB knows it.
    fn a_page_that_was_unmapped_is_gone_on_all_cpus(should_fault = "not mapped") {
        let base = heap_pages_arena().alloc(PAGE_SIZE, AllocPolicy::InstantFit).unwrap();
        let read = move || {
            let byte = core::ptr::with_exposed_provenance::<u8>(base);
            // SAFETY: the page is mapped at first. Later, the access faults: the test shows it.
            unsafe { byte.read_volatile() }
        };
        on_last(move || {
            black_box(read());
        });
        heap_pages_arena().free(base).unwrap();
        on_last(move || {
            black_box(read());
        });
    }

    fn a_stack_overflow_hits_the_guard_page_on_each_cpu(should_fault = "in the guard page below") {
        #[expect(unconditional_recursion, reason = "the stack is to overflow")]
        fn recurse(depth: u64) -> u64 {
            black_box(recurse(black_box(depth) + 1) + 1)
        }
        on_last(|| {
            black_box(recurse(0));
        });
    }

    fn a_panic_on_another_cpu_is_reported(should_panic = "on the last CPU") {
        // The others print meanwhile.
        for number in 1..cpus::count() - 1 {
            cpus::spawn_on(number, || loop {
                println!("this line is whole");
            });
        }
        on_last(|| panic!("on the last CPU"));
    }

    fn two_cpus_that_panic_make_one_report(should_panic = "on one of the CPUs") {
        let ready = AtomicUsize::new(0);
        cpus::on_each(|_| {
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < cpus::count() {
                spin_loop();
            }
            panic!("on one of the CPUs")
        });
    }

    /// What other CPUs hold back goes back too: the harness counts frames after the test. (The
    /// hardened heap has no slabs.)
    #[cfg(not(feature = "hardened"))]
    fn reaping_reaches_all_cpus() {
        cpus::on_each(|_| {
            for size in 1..32 {
                drop(filled(1, 16 * size));
            }
        });
        let unused = || {
            let mut count = 0;
            HEAP.visit_slabs(|slab| count += usize::from(slab.used == 0));
            count
        };
        assert!(unused() > cpus::count(), "{} are held back", unused());
        HEAP.reap();
        assert_eq!(unused(), 0);
    }

    /// (The hardened heap has no slabs.)
    #[cfg(not(feature = "hardened"))]
    fn each_cpu_counts_for_itself() {
        static LOCK: InterruptMutex<()> = InterruptMutex::new(());
        let last = cpus::count() - 1;
        let before = (HEAP.slabs_of_cpus(), [cpus::BOOT_CPU, last].map(cpus::stats));
        let page = heap_pages_arena().alloc(PAGE_SIZE, AllocPolicy::InstantFit).unwrap();
        heap_pages_arena().free(page).unwrap();
        let guard = LOCK.lock();
        cpus::spawn_on(last, || {
            HEAP.reap_own();
            drop(filled(1, 100));
            drop(LOCK.lock());
        });
        if last > 0 {
            while HEAP.slabs_of_cpus()[last].new_slabs == before.0[last].new_slabs {
                spin_loop();
            }
            // It is about to take the lock, or waits for it. A moment more, and it does.
            (0..100_000).for_each(|_| spin_loop());
        }
        drop(guard);
        while last == 0 && cpus::run_one() {}
        on_last(|| ());
        let after = (HEAP.slabs_of_cpus(), [cpus::BOOT_CPU, last].map(cpus::stats));
        assert!(after.0[last].misses > before.0[last].misses);
        assert!(after.0[last].held_back >= PAGE_SIZE);
        let [boot, other] = [0, 1].map(|cpu| after.1[cpu].shootdowns - before.1[cpu].shootdowns);
        assert_eq!((boot > 0, other > 0), (last > 0, false));
        let [boot, other] = [0, 1].map(|cpu| after.1[cpu].waits - before.1[cpu].waits);
        assert_eq!((boot, other > 0), (0, last > 0));
        assert_eq!(after.1[1].waited > before.1[1].waited, last > 0);
        println!("{:?}", after.1[1]);
    }

    fn pages_come_and_go_on_all_cpus_at_once(deadline = 240) {
        cpus::on_each(|number| {
            let mut random = Random::new(number as u64 + 1);
            for round in 0..60_u8 {
                let pages = 1 + random.below(100);
                let block = filled(round, pages * PAGE_SIZE);
                assert!(block.iter().all(|&byte| byte == round));
                drop(block);
                if round % 16 == 0 {
                    HEAP.reap();
                }
            }
        });
    }

    /// What one CPU has freed is there for the next, also while the others give it back.
    fn no_allocation_fails_because_another_cpu_is_busy(deadline = 240) {
        const ROUNDS: usize = 20;
        const LAYOUT: Layout = match Layout::from_size_align(1 << 20, 8) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        };
        HEAP.reap();
        let limit = Limit::new(LAYOUT.size() / 2 * 3);
        let turn = AtomicUsize::new(0);
        cpus::on_each(|number| {
            for now in 0..ROUNDS * cpus::count() {
                while turn.load(Ordering::Acquire) < now {
                    spin_loop();
                }
                if now % cpus::count() != number {
                    match now % 3 {
                        0 => HEAP.drain(),
                        1 => HEAP.reap(),
                        _ => HEAP.decay(),
                    };
                    continue;
                }
                // SAFETY: the size is not zero.
                let block = unsafe { HEAP.alloc(LAYOUT) };
                assert!(!block.is_null(), "turn {now} of CPU {number}");
                // Within a handler, the pages stay for others to give back.
                without_interrupts(|| {
                    // SAFETY: the block was allocated with this layout, and is not used any more.
                    unsafe { HEAP.dealloc(block, LAYOUT) }
                });
                turn.store(now + 1, Ordering::Release);
            }
        });
        drop(limit);
    }

    fn a_storm_of_all_cpus(deadline = 300) {
        storm(0, 20_000);
    }
}

/// All CPUs allocate, write, verify and free each other's blocks, of all sizes, while timers
/// interrupt each of them and pages go back and come again. Each CPU does so `rounds` times.
pub(crate) fn storm(seed: u64, rounds: usize) {
    const SLOTS: usize = 256;
    static SLOTS_OF_ALL: [InterruptMutex<Vec<u8>>; SLOTS] =
        [const { InterruptMutex::new(Vec::new()) }; SLOTS];
    static TICKED: AtomicU64 = AtomicU64::new(0);

    fn exchange(slot: usize, size: usize) {
        let block = filled(size as u8, size);
        // Neither allocated nor freed with the slot locked.
        let block = core::mem::replace(&mut *SLOTS_OF_ALL[slot % SLOTS].lock(), block);
        assert!(
            block.iter().all(|&byte| byte == block.len() as u8),
            "a block of {} bytes changed",
            block.len()
        );
    }

    local_timer::set_hook(Some(|| {
        let tick = TICKED.fetch_add(1, Ordering::Relaxed) as usize;
        exchange(tick * 7919, tick % 600);
    }));
    cpus::on_each(|number| {
        let mut random = Random::new(seed.wrapping_mul(MAX_CPUS as u64) + number as u64);
        local_timer::start(500);
        for round in 0..rounds {
            let size = match random.below(64) {
                0 => random.below(40 * PAGE_SIZE),
                1..8 => random.below(4000),
                _ => random.below(500),
            };
            exchange(random.below(SLOTS), size);
            match (round % 1000, number % 4) {
                (300, 0) => _ = HEAP.decay(),
                (600, 1) => _ = HEAP.reap(),
                (900, 2) => _ = HEAP.drain(),
                _ => {}
            }
        }
        local_timer::stop();
    });
    // The last tick may come after the timer was stopped, and ends before the closure does.
    cpus::on_each(|_| ());
    local_timer::set_hook(None);
    for slot in &SLOTS_OF_ALL {
        let block = core::mem::take(&mut *slot.lock());
        drop(block);
    }
    audit::quiesce();
    assert_eq!(audit::check(), Ok(()));
}
