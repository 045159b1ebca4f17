//! The whole path across processes: the binary as a user starts it, real sockets, real clients.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this is all test code, and a panic is how a test fails"
)]

mod bad_input;
mod bucket;
mod clients;
mod cold;
mod coverage;
mod demo;
mod durability;
mod fleet;
mod full_disk;
mod harness;
mod killed;
mod one_call;
mod openapi;
mod overload;
mod own_spans;
mod ports;
mod real_node;
mod reports;
mod sampling_rates;
mod sql_logic;
