//! Keeping a connection: dial, carry, wait, again, until no handle is left. What is queued while there is no connection
//! is thrown away; whoever queued it has been told.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Out;
use super::carry::{Ended, carry};
use super::dial::Dial;
use super::link::Link;
use super::pace::Pace;

/// First connections are spread over at most this time.
const STARTUP_JITTER: Duration = Duration::from_secs(3);

/// A random wait before the first connection.
pub(super) fn first_wait(spread: Duration) -> Duration {
    STARTUP_JITTER.min(spread).mul_f64(rand::random::<f64>())
}

pub(super) async fn keep<D: Dial>(link: Arc<Link>, dial: D, mut outbox: mpsc::Receiver<Out>, first: Duration) {
    let mut pace = Pace::new();
    let mut wait = first;
    while is_wanted_after(&mut outbox, dial.rest(wait)).await {
        link.dial();
        wait = match dial.dial().await {
            Ok(stream) => {
                let since = Instant::now();
                let connection = link.connect();
                let ended = carry(stream, &link, &mut outbox, connection, D::PING_EVERY).await;
                let Ended::Lost(lost) = ended else { return };
                tracing::debug!(reason = lost.as_str(), "a provider's socket is lost");
                link.lose(lost);
                pace.after_loss(since.elapsed(), link.is_circuit_open(), rand::random())
            }
            Err(error) => {
                let wait = pace.after_refusal(&error, link.is_circuit_open(), rand::random());
                link.refuse(error);
                wait
            }
        };
    }
}

/// Rests; false where the last handle was dropped meanwhile.
async fn is_wanted_after(outbox: &mut mpsc::Receiver<Out>, rest: impl Future<Output = ()>) -> bool {
    let mut rest = pin!(rest);
    loop {
        tokio::select! {
            () = rest.as_mut() => return true,
            out = outbox.recv() => if out.is_none() { return false },
        }
    }
}
