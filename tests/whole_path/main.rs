//! The whole path across processes: the binary as a user starts it, real sockets, real clients.

mod bad_input;
mod clients;
mod coverage;
mod demo;
mod durability;
mod harness;
mod one_call;
mod real_node;
mod reports;
