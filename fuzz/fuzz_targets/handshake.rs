//! Feeds `callgate_testkit::handshake`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate_testkit::handshake(data));
