//! Feeds `callgate_testkit::ring`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate_testkit::ring(data));
