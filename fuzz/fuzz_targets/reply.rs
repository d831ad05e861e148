//! Feeds `callgate::__fuzz::reply`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::reply(data));
