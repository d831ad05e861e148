//! Feeds `callgate_testkit::loans`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate_testkit::loans(data));
