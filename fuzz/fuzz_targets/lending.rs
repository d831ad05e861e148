//! Feeds `callgate::__fuzz::lending`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::lending(data));
