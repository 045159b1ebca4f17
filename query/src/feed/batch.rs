//! Events of one subscriber on their way out, by topic: pure. All topics leave together, so that the cursor of the last
//! batch stands for everything before it; a cursor per topic would let a resumed stream skip a slower topic's events.

use std::sync::Arc;

use super::hub::Published;

/// Events of one topic that make all pending ones leave at once.
pub(super) const MAX_BATCH: usize = 100;

/// Events of one topic, in the order in which they came.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) topic: Arc<str>,
    pub(super) events: Vec<Arc<Published>>,
}

/// What has not left yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    batches: Vec<Batch>,
    highest_seq: Option<u64>,
}

impl Pending {
    /// Adds an event under its topics; true if it is time to leave.
    pub(super) fn push(&mut self, topics: Vec<Arc<str>>, event: Arc<Published>) -> bool {
        self.highest_seq = Some(event.seq);
        let mut full = false;
        for topic in topics {
            let at = self.batches.iter().position(|batch| batch.topic == topic).unwrap_or_else(|| {
                self.batches.push(Batch { topic, events: Vec::new() });
                self.batches.len() - 1
            });
            self.batches[at].events.push(Arc::clone(&event));
            full |= self.batches[at].events.len() >= MAX_BATCH;
        }
        full
    }

    /// Everything pending, and the sequence that it reaches to.
    pub(super) fn take(&mut self) -> (Vec<Batch>, Option<u64>) {
        (std::mem::take(&mut self.batches), self.highest_seq.take())
    }
}
