//! See `src/arena.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heap_fuzz::arena::run(data));
