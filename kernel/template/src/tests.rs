//! Tests that run inside the kernel: `./run-qemu.sh test`.

use alloc::boxed::Box;
use alloc::vec;
use core::hint::black_box;

use kernel::kernel_test;

kernel_test! {
    fn a_box_holds_its_value() {
        let number = black_box(Box::new(7));
        assert_eq!(*number, 7);
    }

    fn a_vector_grows() {
        let mut numbers = vec![1; 1000];
        numbers.push(2);
        assert_eq!(numbers.len(), 1001);
    }

    fn an_index_behind_the_end_panics(should_panic = "index out of bounds") {
        let numbers = vec![1, 2, 3];
        let index = black_box(3);
        assert_ne!(numbers[index], 0);
    }
}
