//! Room for answers that clients have not taken yet. The engine bounds how many questions are answered at a time; an answer
//! outlives its question by as long as its client reads, and many slow readers would hold as many answers.

use std::sync::Arc;

use datafusion::common::utils::memory::get_record_batch_memory_size;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ask::Answer;

/// Room for the answers of both ports together: four of the largest.
const ROOM_KIB: u32 = 1024 * 1024;

/// What a client reads that found no room: the same question succeeds when others have read their answers.
pub(crate) const NO_ROOM: &str = "answers that clients have not read yet take all the room there is";

/// The room.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB as usize)))
    }
}

impl Room {
    /// Room for an answer, until this is dropped; none if there is none.
    pub(crate) fn hold(&self, answer: &Answer) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = answer.batches.iter().map(get_record_batch_memory_size).sum();
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(1, ROOM_KIB);
        Arc::clone(&self.0).try_acquire_many_owned(kib).ok()
    }
}
