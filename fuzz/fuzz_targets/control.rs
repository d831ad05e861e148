//! Feeds `callgate_testkit::control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate_testkit::control(data));
