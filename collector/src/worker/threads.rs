//! Threads for queries, apart from those that receive and route: a plan that computes for a second must not hold up an
//! acknowledgement for a second, which a shared runtime would do.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// Stack of a thread that plans or executes, in bytes. Plans are trees that are walked recursively; unoptimised builds
/// need more than the usual 2 MiB for the deep ones.
pub const STACK_BYTES: usize = 8 * 1024 * 1024;

/// A runtime that ends with its owner and never blocks whoever drops it.
#[derive(Debug)]
pub struct Threads {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    /// Starts `count` threads called `name`.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name(name)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Where to spawn on these threads.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
