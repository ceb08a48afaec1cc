//! What must not be touched faults, and the report says why.

use core::hint::black_box;

use kernel::kernel_test;

kernel_test! {
    /// A recursion without end runs into the guard page below the stack.
    fn a_stack_overflow_hits_the_guard_page(should_fault = "in the guard page below the kernel's stack") {
        #[expect(unconditional_recursion, reason = "the stack is to overflow")]
        fn recurse(depth: u64) -> u64 {
            black_box(recurse(black_box(depth) + 1) + 1)
        }
        black_box(recurse(0));
    }
}

kernel_test! {
    /// Constants are mapped read-only.
    fn constants_cannot_be_written(should_fault = "mapped, but not for that") {
        static CONSTANT: u64 = 1;
        let pointer = black_box(&raw const CONSTANT).cast_mut();
        // SAFETY: it is not: this is what the test shows.
        unsafe { pointer.write_volatile(2) };
    }
}

kernel_test! {
    /// Nothing is at address 0.
    fn null_cannot_be_read(should_fault = "in the page at address 0") {
        let pointer = black_box(core::ptr::null::<u64>()).wrapping_add(1);
        // SAFETY: it is not: this is what the test shows.
        unsafe { pointer.read_volatile() };
    }
}

kernel_test! {
    /// An address that the CPU does not have is no page fault.
    fn a_non_canonical_address_is_refused(should_fault = "general protection fault") {
        let pointer = core::ptr::without_provenance::<u64>(black_box(1 << 63));
        // SAFETY: it is not: this is what the test shows.
        unsafe { pointer.read_volatile() };
    }
}

kernel_test! {
    /// A panic ends the test with its message.
    fn a_panic_says_its_message(should_panic = "said on purpose: 17") {
        panic!("said on purpose: {}", black_box(17));
    }
}

kernel_test! {
    /// A value that panics while it is printed is reported although the serial port is locked.
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
