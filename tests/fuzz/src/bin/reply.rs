//! See `lariat_proxy::fuzzing::reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lariat_proxy::fuzzing::reply(bytes));
