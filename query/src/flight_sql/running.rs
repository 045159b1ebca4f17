//! The questions that are being answered, by their tickets: what `CancelFlightInfo` reaches.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Bounded by the connections and the streams of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<Bytes, Asked>>>);

#[derive(Debug, Default)]
struct Asked {
    cancelled: CancellationToken,
    times: usize,
}

impl Running {
    /// A question begins.
    pub(crate) fn begin(&self, ticket: Bytes) -> Run {
        let mut asked = self.0.lock();
        let entry = asked.entry(ticket.clone()).or_default();
        entry.times += 1;
        Run { running: self.clone(), ticket, cancelled: entry.cancelled.clone() }
    }

    /// Ends the question of a ticket; false if it is not being answered.
    pub(crate) fn cancel(&self, ticket: &[u8]) -> bool {
        let found = self.0.lock().get(ticket).map(|asked| asked.cancelled.clone());
        found.inspect(CancellationToken::cancel).is_some()
    }
}

/// A question that is being answered.
#[derive(Debug)]
pub(crate) struct Run {
    running: Running,
    ticket: Bytes,
    pub(crate) cancelled: CancellationToken,
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut asked = self.running.0.lock();
        if let Some(entry) = asked.get_mut(&self.ticket) {
            entry.times -= 1;
            if entry.times == 0 {
                asked.remove(&self.ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_being_answered_can_be_cancelled() {
        let running = Running::default();
        assert!(!running.cancel(b"a"));
        let run = running.begin(Bytes::from_static(b"a"));
        let same = running.begin(Bytes::from_static(b"a"));
        drop(same);
        assert!(running.cancel(b"a") && run.cancelled.is_cancelled());
        drop(run);
        assert!(!running.cancel(b"a") && running.0.lock().is_empty());
    }
}
