//! See `lariat_collector::fuzzing::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lariat_collector::fuzzing::manifest(bytes));
