//! The command line: one binary for every part of a fleet, so that a node is one file to copy and DataFusion is linked
//! once. This crate wires parts together and talks to people; it routes, records and answers nothing itself.

mod cli;
mod client;
mod config;
mod demo;
mod listening;
mod logging;
mod own_spans;
mod processes;
mod replay;
mod shutdown;

use std::process::ExitCode;

use clap::Parser as _;

/// The system's allocator holds on to the arenas of threads that decoded a burst; this one gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stack of a runtime thread. Planning a nested query recurses; an unoptimised build needs more than the default.
const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(THREAD_STACK_BYTES)
        .thread_name("lariat")
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(&cli::Failure::Failed(format!("cannot start threads: {error}"))),
    };
    // Cannot fail: nothing installed a provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match runtime.block_on(arguments.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => cli::fail(&failure),
    }
}
