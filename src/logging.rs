//! Logs go to stderr: text for a terminal, JSON lines otherwise. `RUST_LOG` filters; without it warnings and errors of
//! everything, and what our own parts say of themselves.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged when `RUST_LOG` says nothing.
pub(crate) const SERVICE_FILTER: &str = "warn,lariat=info,lariat_proxy=info,lariat_collector=info,lariat_query=info";
/// The same for the demo, whose terminal belongs to its figures.
pub(crate) const DEMO_FILTER: &str = "error";

/// Installs the process's subscriber; a second call changes nothing.
pub(crate) fn start(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if installed.is_err() {
        tracing::debug!("logging is installed already");
    }
}
