//! See `src/slab.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heap_fuzz::slab::run(data));
