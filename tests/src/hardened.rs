//! Misuse of the kernel heap is reported, and then has not happened: with the feature `hardened`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heap::talc::hardened::{Misuse, Report};
use kernel::heap::{HEAP, misuse};
use kernel::interrupts::timer;
use kernel::kernel_test;
use kernel::memory::physical;
use kernel::sync::InterruptMutex;

use crate::support::{OwnedFrame, filled};

/// What the hook was told last.
static TOLD: InterruptMutex<Option<(Report, String)>> = InterruptMutex::new(None);

/// Runs `commit`, and returns what the hook was told meanwhile. The hook allocates: the heap is not locked.
fn report_of(commit: impl FnOnce()) -> Option<Report> {
    let before = misuse::set_hook(|report| {
        let text = format!("{report}");
        *TOLD.lock() = Some((*report, text));
    });
    commit();
    misuse::set_hook(before);
    let (report, text) = TOLD.lock().take()?;
    kernel::println!("{text}");
    Some(report)
}

fn layout() -> Layout {
    Layout::from_size_align(100, 8).expect("a valid layout")
}

fn allocate() -> *mut u8 {
    // SAFETY: the size is not zero.
    let block = unsafe { HEAP.alloc(layout()) };
    assert!(!block.is_null());
    black_box(block)
}

fn free(block: *mut u8) {
    // SAFETY: often it is not: this is what the tests show.
    unsafe { HEAP.dealloc(black_box(block), layout()) };
}

kernel_test! {
    fn a_double_free_is_reported_and_the_heap_goes_on() {
        let below = allocate();
        let block = allocate();
        let above = allocate();
        free(block);
        let report = report_of(|| free(block)).expect("it was found");
        assert_eq!(report.address, block.addr());
        let Misuse::DoubleFree { from, to } = report.misuse else {
            panic!("{report}");
        };
        assert!(below.addr() < from && from <= block.addr() && block.addr() + 100 <= to && to <= above.addr());
        assert_eq!(HEAP.core().lock().check(), Ok(()));
        free(below);
        free(above);
    }
}

kernel_test! {
    /// The handler of an interrupt that comes right after the heap was unlocked uses the heap too, and finds nothing.
    fn a_handler_never_tells_what_interrupted_code_did() {
        static IN_HANDLER: AtomicBool = AtomicBool::new(false);
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        static TOLD_IN_HANDLER: AtomicUsize = AtomicUsize::new(0);
        const FREES: usize = 60_000;

        let before = misuse::set_hook(|_| {
            let told = if IN_HANDLER.load(Ordering::Relaxed) { &TOLD_IN_HANDLER } else { &TOLD };
            told.fetch_add(1, Ordering::Relaxed);
        });
        let hook = timer::set_hook(Some(|| {
            IN_HANDLER.store(true, Ordering::Relaxed);
            free(allocate());
            IN_HANDLER.store(false, Ordering::Relaxed);
        }));
        let ticks = timer::ticks();
        // Under UEFI's clock, too, a tick takes longer than its handler.
        timer::start(20_000);
        for _ in 0..FREES {
            // No block begins there.
            free(black_box(core::ptr::without_provenance_mut(0x1000)));
        }
        timer::stop();
        timer::set_hook(hook);
        misuse::set_hook(before);
        let ticks = timer::ticks() - ticks;
        assert!(ticks > 100, "only {ticks} ticks");
        assert_eq!(TOLD_IN_HANDLER.load(Ordering::Relaxed), 0, "after {ticks} ticks");
        assert_eq!(TOLD.load(Ordering::Relaxed), FREES);
    }
}

kernel_test! {
    fn a_write_past_the_end_is_reported_when_the_block_is_freed() {
        let block = allocate();
        let end = block.wrapping_add(100);
        // SAFETY: it is not: this is what the test shows. The byte is put back.
        let expected = unsafe {
            let expected = end.read_volatile();
            end.write_volatile(!expected);
            expected
        };
        let report = report_of(|| free(block)).expect("it was found");
        assert_eq!(report.address, end.addr());
        assert!(matches!(report.misuse, Misuse::WriteBeyondEnd { block: Some(base), .. } if base == block.addr()), "{report}");
        // SAFETY: as above. Then it is an allocation like any other, which was not freed.
        unsafe { end.write_volatile(expected) };
        assert_eq!(report_of(|| free(block)), None);
    }
}

kernel_test! {
    fn a_realloc_of_what_is_no_allocation_is_reported_and_reads_nothing() {
        let unmapped = core::ptr::without_provenance_mut(0x1000);
        let report = report_of(|| {
            // SAFETY: it is not: this is what the test shows. Were the block moved, its reading would fault.
            let moved = unsafe { HEAP.realloc(black_box(unmapped), layout(), 5000) };
            assert!(moved.is_null());
        });
        let misuse = Misuse::ForeignPointer;
        assert_eq!(report, Some(Report { address: 0x1000, misuse }));
    }
}

kernel_test! {
    fn a_write_after_free_is_reported_when_the_memory_is_used_again() {
        let (block, above) = (allocate(), allocate());
        free(block);
        let word = block.wrapping_add(48).cast::<usize>();
        // SAFETY: it is not: this is what the test shows.
        unsafe { word.write_volatile(0x600d) };
        let report = report_of(|| {
            let again = allocate();
            assert_eq!(again, block, "the same memory");
            free(again);
        });
        let report = report.expect("it was found");
        assert_eq!(report.address, word.addr());
        assert!(matches!(report.misuse, Misuse::WriteAfterFree { found: 0x600d, .. }), "{report}");
        assert_eq!(HEAP.core().lock().check(), Ok(()));
        free(above);
    }
}

kernel_test! {
    /// A pointer that leads elsewhere is not followed: here to memory, to nothing, and to a page that was given back.
    fn a_pointer_into_no_heap_is_reported() {
        let frame = OwnedFrame::take().expect("there is memory");
        let memory: *mut u8 = physical::pointer(frame.get().start_address()).as_ptr();
        let block = filled(1, 8 << 20);
        let returned = block.as_ptr().cast_mut();
        drop(block);
        HEAP.reap();
        for pointer in [memory, core::ptr::without_provenance_mut(0x1000), returned.wrapping_add(6 << 20)] {
            let report = report_of(|| free(pointer)).expect("it was found");
            assert_eq!(report, Report { address: pointer.addr(), misuse: Misuse::ForeignPointer });
        }
    }
}

kernel_test! {
    /// Regression scenario 19.
    fn a_pointer_into_a_block_is_reported() {
        let block = allocate();
        let report = report_of(|| free(block.wrapping_add(32))).expect("it was found");
        let expected = Misuse::InteriorPointer { block: block.addr() };
        assert_eq!(report, Report { address: block.addr() + 32, misuse: expected });
        free(block);
    }
}

kernel_test! {
    fn a_wrong_size_is_reported() {
        let block = allocate();
        let found = Layout::from_size_align(96, 8).expect("a valid layout");
        // SAFETY: it is not: this is what the test shows.
        let report = report_of(|| unsafe { HEAP.dealloc(block, found) }).expect("it was found");
        let expected = Misuse::WrongLayout { expected: layout(), found };
        assert_eq!(report, Report { address: block.addr(), misuse: expected });
        free(block);
    }
}

kernel_test! {
    /// Without a hook of somebody's, the kernel panics.
    fn misuse_that_nobody_wants_to_know_of_is_a_panic(should_panic = "heap misuse at 0x") {
        let block = Box::into_raw(Box::new(7_u64));
        // SAFETY: the second time it is not: this is what the test shows.
        unsafe {
            drop(Box::from_raw(black_box(block)));
            drop(Box::from_raw(black_box(block)));
        }
    }
}
