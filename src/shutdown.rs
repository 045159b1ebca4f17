//! The signals that ask for a clean end. They are caught from the first moment, so that one during a start ends cleanly
//! too; a second one ends the process at once: whoever asks twice does not want to wait. SIGHUP asks a node to read its
//! profiles again and ends nothing.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Failure;

/// The caught signals of this process.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Catches SIGINT and SIGTERM from now on.
pub(crate) fn catch() -> Result<Signals, Failure> {
    let cannot = |error: std::io::Error| Failure::Failed(format!("cannot listen for signals: {error}"));
    Ok(Signals {
        interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
        terminate: signal(SignalKind::terminate()).map_err(cannot)?,
    })
}

/// Catches SIGHUP from now on.
pub(crate) fn catch_hangups() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
}

impl Signals {
    /// Resolves at the next signal, with its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// From now on a signal ends the process with status 1.
    pub(crate) fn end_at_next(mut self) {
        tokio::spawn(async move {
            let signal = self.next().await;
            tracing::warn!(signal, "a signal while draining: ending at once");
            std::process::exit(1);
        });
    }
}
