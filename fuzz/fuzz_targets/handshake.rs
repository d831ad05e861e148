//! Feeds `callgate::__fuzz::handshake`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate::__fuzz::handshake(data));
