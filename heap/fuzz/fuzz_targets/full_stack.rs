//! See `src/full_stack.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heap_fuzz::full_stack::run(data));
