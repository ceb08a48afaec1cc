//! The feature `hardened`: misuse of the kernel heap is reported, and has no effect.

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

/// The last report that the hook received, and its text.
static REPORTED: InterruptMutex<Option<(Report, String)>> = InterruptMutex::new(None);

/// Runs `commit`, and returns the last report. The hook allocates, which shows that the heap is not
/// locked.
fn report_of(commit: impl FnOnce()) -> Option<Report> {
    let before = misuse::set_hook(|report| {
        let text = format!("{report}");
        *REPORTED.lock() = Some((*report, text));
    });
    commit();
    misuse::set_hook(before);
    let (report, text) = REPORTED.lock().take()?;
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
    // SAFETY: often this call is misuse on purpose: the tests show that the heap reports it.
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
        assert!(
            below.addr() < from
                && from <= block.addr()
                && block.addr() + 100 <= to
                && to <= above.addr()
        );
        assert_eq!(HEAP.core().lock().check(), Ok(()));
        free(below);
        free(above);
    }
}

kernel_test! {
    /// A handler that runs right after the heap was unlocked uses the heap too, and reports
    /// nothing.
    fn a_handler_never_reports_misuse_of_interrupted_code() {
        static IN_HANDLER: AtomicBool = AtomicBool::new(false);
        static REPORTED: AtomicUsize = AtomicUsize::new(0);
        static REPORTED_IN_HANDLER: AtomicUsize = AtomicUsize::new(0);
        const FREES: usize = 60_000;

        let before = misuse::set_hook(|_| {
            let count = if IN_HANDLER.load(Ordering::Relaxed) {
                &REPORTED_IN_HANDLER
            } else {
                &REPORTED
            };
            count.fetch_add(1, Ordering::Relaxed);
        });
        let hook = timer::set_hook(Some(|| {
            IN_HANDLER.store(true, Ordering::Relaxed);
            free(allocate());
            IN_HANDLER.store(false, Ordering::Relaxed);
        }));
        let ticks = timer::ticks();
        // With the clock of UEFI too, the time between ticks is longer than the handler takes.
        timer::start(20_000);
        for _ in 0..FREES {
            // A pointer to no block.
            free(black_box(core::ptr::without_provenance_mut(0x1000)));
        }
        timer::stop();
        timer::set_hook(hook);
        misuse::set_hook(before);
        let ticks = timer::ticks() - ticks;
        assert!(ticks > 100, "only {ticks} ticks");
        assert_eq!(
            REPORTED_IN_HANDLER.load(Ordering::Relaxed),
            0,
            "after {ticks} ticks"
        );
        assert_eq!(REPORTED.load(Ordering::Relaxed), FREES);
    }
}

kernel_test! {
    fn a_write_past_the_end_is_reported_at_free() {
        let block = allocate();
        let end = block.wrapping_add(100);
        // SAFETY: this write is undefined behaviour on purpose. The byte is restored below.
        let expected = unsafe {
            let expected = end.read_volatile();
            end.write_volatile(!expected);
            expected
        };
        let report = report_of(|| free(block)).expect("it was found");
        assert_eq!(report.address, end.addr());
        assert!(
            matches!(
                report.misuse,
                Misuse::WriteBeyondEnd { block: Some(base), .. } if base == block.addr()
            ),
            "{report}"
        );
        // SAFETY: the redzone is restored, so that the block, which was not freed, is valid again.
        unsafe { end.write_volatile(expected) };
        assert_eq!(report_of(|| free(block)), None);
    }
}

kernel_test! {
    fn realloc_of_a_foreign_pointer_is_reported() {
        let unmapped = core::ptr::without_provenance_mut(0x1000);
        let report = report_of(|| {
            // SAFETY: this call is misuse on purpose. Reading the block to move it would fault.
            let moved = unsafe { HEAP.realloc(black_box(unmapped), layout(), 5000) };
            assert!(moved.is_null());
        });
        let misuse = Misuse::ForeignPointer;
        assert_eq!(report, Some(Report { address: 0x1000, misuse }));
    }
}

kernel_test! {
    fn a_write_after_free_is_reported_at_reuse() {
        let (block, above) = (allocate(), allocate());
        free(block);
        let word = block.wrapping_add(48).cast::<usize>();
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
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
    /// The heap does not dereference a foreign pointer: here to a frame, to no memory, and to a
    /// page that was unmapped.
    fn a_pointer_outside_all_heaps_is_reported() {
        let frame = OwnedFrame::take().expect("memory is free");
        let memory: *mut u8 = physical::pointer(frame.get().start_address()).as_ptr();
        let block = filled(1, 8 << 20);
        let returned = block.as_ptr().cast_mut();
        drop(block);
        HEAP.reap();
        for pointer in [
            memory,
            core::ptr::without_provenance_mut(0x1000),
            returned.wrapping_add(6 << 20),
        ] {
            let report = report_of(|| free(pointer)).expect("it was found");
            assert_eq!(
                report,
                Report {
                    address: pointer.addr(),
                    misuse: Misuse::ForeignPointer
                }
            );
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
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        let report = report_of(|| unsafe { HEAP.dealloc(block, found) }).expect("it was found");
        let expected = Misuse::WrongLayout { expected: layout(), found };
        assert_eq!(report, Report { address: block.addr(), misuse: expected });
        free(block);
    }
}

kernel_test! {
    /// The first hook panics.
    fn misuse_without_a_hook_panics(should_panic = "heap misuse at 0x") {
        let block = Box::into_raw(Box::new(7_u64));
        // SAFETY: the second drop is a double free on purpose: the test shows that it is caught.
        unsafe {
            drop(Box::from_raw(black_box(block)));
            drop(Box::from_raw(black_box(block)));
        }
    }
}
