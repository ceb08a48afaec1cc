//! Forbidden accesses fault, and the report says why.

use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use heap::vmem::AllocPolicy;
use kernel::backtrace::Frames;
use kernel::kernel_test;
use kernel::memory::stacks::InterruptStack;
use kernel::memory::tags::TAGS;
use kernel::memory::{PAGE_SIZE, arenas, kernel_addresses, page_table};
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PageTableFlags};

use crate::support::{heap_pages_arena, kernel_addresses_arena};

kernel_test! {
    /// An infinite recursion runs into the guard page below the stack.
    fn a_stack_overflow_hits_the_guard_page(
        should_fault = "in the guard page below the kernel's stack",
    ) {
        #[expect(unconditional_recursion, reason = "the stack is to overflow")]
        fn recurse(depth: u64) -> u64 {
            black_box(recurse(black_box(depth) + 1) + 1)
        }
        black_box(recurse(0));
    }
}

kernel_test! {
    /// Constants are mapped read-only.
    fn constants_cannot_be_written(
        should_fault = "mapped, but not for this access; in the kernel's own code or data",
    ) {
        static CONSTANT: u64 = 1;
        let pointer = black_box(&raw const CONSTANT).cast_mut();
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pointer.write_volatile(2) };
    }
}

kernel_test! {
    /// The page at address 0 is not mapped.
    fn null_cannot_be_read(should_fault = "in the page at address 0") {
        let pointer = black_box(core::ptr::null::<u64>()).wrapping_add(1);
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pointer.read_volatile() };
    }
}

kernel_test! {
    /// An access to a non-canonical address is no page fault.
    fn a_non_canonical_address_is_refused(should_fault = "general protection fault") {
        let pointer = core::ptr::without_provenance::<u64>(black_box(1 << 63));
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pointer.read_volatile() };
    }
}

kernel_test! {
    /// A panic ends the test with its message.
    fn a_panic_reports_its_message(should_panic = "said on purpose: 17") {
        panic!("said on purpose: {}", black_box(17));
    }
}

kernel_test! {
    /// A panic in the `Display` of a value is reported, although the serial port is locked.
    fn a_panic_inside_a_print_is_reported(should_panic = "inside a print") {
        struct Panics;
        impl core::fmt::Display for Panics {
            fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                panic!("inside a print");
            }
        }
        kernel::println!("{Panics}");
    }
}

kernel_test! {
    /// With an invalid stack pointer, the CPU can handle a double fault only, on its own stack.
    fn a_broken_stack_pointer_ends_in_a_double_fault(should_fault = "double fault") {
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { asm!("mov rsp, {}", "ud2", in(reg) 1_u64 << 63, options(noreturn)) };
    }
}

kernel_test! {
    /// The interrupt stacks have guard pages too.
    fn an_interrupt_stack_guard_cannot_be_accessed(
        should_fault = "in the guard page below the stack for DoubleFault",
    ) {
        let guard = InterruptStack::DoubleFault.guard().start_address();
        let pointer = black_box(guard.as_ptr::<u8>());
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pointer.read_volatile() };
    }
}

kernel_test! {
    /// The first byte above a span is in its guard page.
    fn the_guard_page_above_a_span_cannot_be_accessed(
        should_fault = "in the guard page of the span",
    ) {
        let size = 3 * PAGE_SIZE;
        let base = heap_pages_arena()
            .alloc(size, AllocPolicy::InstantFit)
            .expect("memory is free");
        let end = ptr::with_exposed_provenance_mut::<u8>(base).wrapping_add(size);
        // SAFETY: the byte below the end is the test's own. The write at the end is undefined
        // behaviour on purpose: the test shows that it is caught.
        unsafe {
            end.wrapping_sub(1).write_volatile(1);
            end.write_volatile(1);
        }
    }
}

kernel_test! {
    /// The page below the lowest span is never mapped.
    fn the_leading_guard_cannot_be_accessed(
        should_fault = "in the leading guard page of the heap's window",
    ) {
        let guard = arenas::window().expect("memory is set up").leading_guard();
        let segment = kernel_addresses()
            .segment_of(guard.start)
            .expect("it is in the window");
        assert_eq!((segment.base, segment.last), (guard.start, guard.end - 1));
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { ptr::with_exposed_provenance::<u8>(guard.end - 1).read_volatile() };
    }
}

kernel_test! {
    /// Free addresses of the window are not mapped.
    fn unused_addresses_of_the_window_cannot_be_accessed(
        should_fault = "in unused addresses of the heap's window",
    ) {
        let base = kernel_addresses_arena()
            .alloc(PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("the window is large");
        kernel_addresses_arena()
            .free(base)
            .expect("allocated above");
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { ptr::with_exposed_provenance::<u8>(base).read_volatile() };
    }
}

kernel_test! {
    /// Looking up the kind of an address faults in its turn if boundary tags are damaged. The first
    /// line is printed before that. The second line reports the second fault, and the kernel ends.
    fn a_fault_with_damaged_boundary_tags_is_reported(
        should_fault = "crashed again while reporting a crash: page fault: cannot read from 0x2",
    ) {
        /// An address that is not mapped.
        const NOWHERE: usize = 0x2000;
        let window = arenas::window().expect("memory is set up").addresses();
        // The reserve of the pool has the first tags: those of the window's span.
        let tags = (&raw const TAGS).cast::<usize>().cast_mut();
        x86_64::instructions::interrupts::disable();
        for index in 0..size_of_val(&TAGS) / size_of::<usize>() {
            // SAFETY: the word is within the pool, which is a variable. Only the report uses it
            // now.
            unsafe { tags.add(index).write_volatile(NOWHERE) };
        }
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { ptr::with_exposed_provenance::<u8>(window.end - 1).read_volatile() };
    }
}

kernel_test! {
    /// A page whose flags say read-only cannot be written.
    fn a_protected_page_cannot_be_written(
        should_fault = "mapped, but not for this access; in the span of the heap",
    ) {
        let base = heap_pages_arena()
            .alloc(PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("memory is free");
        let page = Page::containing_address(VirtAddr::new(base as u64));
        let flags = PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE;
        // SAFETY: the page is the test's.
        unsafe { page_table::protect(page, flags) }.expect("it is mapped");
        let pointer = ptr::with_exposed_provenance_mut::<u8>(base);
        // SAFETY: the page can be read. The write faults on purpose.
        unsafe {
            black_box(pointer.read_volatile());
            pointer.write_volatile(1);
        }
    }
}

kernel_test! {
    /// A panic whose message refers to blocks of the heap is reported.
    fn a_panic_with_a_message_on_the_heap_is_reported(should_panic = "of 3 numbers: [7, 7, 7]") {
        let numbers = black_box(vec![7; 3]);
        panic!("of {} numbers: {numbers:?}", numbers.len());
    }
}

kernel_test! {
    /// A panic while the heap is locked is reported: the report does not allocate.
    fn a_panic_with_the_heap_locked_is_reported(should_panic = "the heap is locked") {
        let _guard = kernel::heap::HEAP.core().lock();
        panic!("the heap is locked");
    }
}

#[inline(never)]
fn inner() -> Vec<usize> {
    core::hint::black_box(Frames::of_caller().collect())
}

#[inline(never)]
fn outer() -> Vec<usize> {
    core::hint::black_box(inner())
}

kernel_test! {
    /// A backtrace has the callers in order, down to the kernel's entry.
    fn a_backtrace_has_the_callers_in_order() {
        let frames = outer();
        let outer = outer as fn() -> Vec<usize> as usize;
        let test = a_backtrace_has_the_callers_in_order as fn() as usize;
        assert!(frames.len() > 3, "{frames:x?}");
        assert!((outer..outer + 4096).contains(&frames[0]), "{frames:x?}");
        assert!((test..test + 4096).contains(&frames[1]), "{frames:x?}");
    }
}
