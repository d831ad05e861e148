//! Feeds `callgate_testkit::reply`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callgate_testkit::reply(data));
