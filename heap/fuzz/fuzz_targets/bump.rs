//! See `src/bump.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heap_fuzz::bump::run(data));
