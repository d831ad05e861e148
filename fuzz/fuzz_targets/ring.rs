//! Feeds `callgate::__fuzz::ring`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::ring(data));
