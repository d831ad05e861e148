//! Feeds `callgate::__fuzz::loans`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::loans(data));
