//! See `lariat_collector::fuzzing::otlp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lariat_collector::fuzzing::otlp(bytes));
