//! The signals that ask for a clean end. A second one ends the process at once: whoever asks twice does not want to wait.

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;

/// Resolves at SIGINT or SIGTERM, with its name. From then on a further one exits with status 1.
pub(crate) async fn requested() -> Result<&'static str, Failure> {
    let cannot = |error: std::io::Error| Failure::Failed(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::warn!("second signal: ending without draining");
        std::process::exit(1);
    });
    Ok(name)
}
