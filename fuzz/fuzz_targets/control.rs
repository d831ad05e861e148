//! Feeds `callgate::__fuzz::control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::control(data));
