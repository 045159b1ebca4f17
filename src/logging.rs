//! Logs go to stderr: text for a terminal, JSON lines otherwise. `RUST_LOG` filters; without it warnings and errors of
//! everything, and what our own parts say of themselves.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::own_spans::OwnSpans;

/// What is logged when `RUST_LOG` says nothing.
pub(crate) const SERVICE_FILTER: &str = "warn,lariat=info,lariat_proxy=info,lariat_collector=info,lariat_query=info";
/// The same for the demo, whose terminal belongs to its figures.
pub(crate) const DEMO_FILTER: &str = "error";

/// Installs the process's subscriber; a second call changes nothing.
pub(crate) fn start(default_filter: &str, own: &OwnSpans) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    if tracing_subscriber::registry().with(lines.with_filter(filter)).with(own.layer()).try_init().is_err() {
        tracing::debug!("logging is installed already");
    }
}
