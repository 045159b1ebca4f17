//! How many questions are answered at a time, and for how long an answer holds the place of its question.
//!
//! One bound over everything would be simpler, and a few readers who read slowly would then keep everybody from asking.
//! So a question holds a place while it is answered. An answer that is too large to be held goes on as one of few streams,
//! which last as long as their readers like; one that is held and complete only waits for its reader, and that takes no
//! place from those who ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ask::AskError;

/// Questions answered at a time; each may hold an answer of up to `query.max_query_bytes`.
const MAX_QUESTIONS: usize = 32;
/// Answers that flow to their readers at a time, apart from the others: each holds files on nodes.
const MAX_STREAMS: usize = 8;
/// Complete answers that wait for their readers at a time, each of [`super::delivery::HELD_BYTES`] at most. Beyond them an
/// answer keeps its question's place.
const MAX_UNREAD: usize = 256;
/// Part of the deadline that a question may wait for a place.
const QUEUE_SHARE: f64 = 0.25;

/// All places of an engine.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    questions: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    unread: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { questions: places(MAX_QUESTIONS), streams: places(MAX_STREAMS), unread: places(MAX_UNREAD) }
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Places,
    permit: OwnedSemaphorePermit,
    /// How long it waits for another.
    wait: Duration,
}

impl Places {
    /// A place for a question.
    pub(crate) async fn enter(&self, deadline: Duration) -> Result<Place, AskError> {
        let wait = deadline.mul_f64(QUEUE_SHARE);
        let permit = acquired(&self.questions, MAX_QUESTIONS, wait).await?;
        Ok(Place { all: self.clone(), permit, wait })
    }
}

impl Place {
    /// The answer becomes a stream; its question's place is another's.
    pub(crate) async fn become_stream(&mut self) -> Result<(), AskError> {
        self.permit = acquired(&self.all.streams, MAX_STREAMS, self.wait).await?;
        Ok(())
    }

    /// The answer is complete and waits for its reader.
    pub(crate) fn become_unread(&mut self) {
        if let Ok(permit) = Arc::clone(&self.all.unread).try_acquire_owned() {
            self.permit = permit;
        }
    }
}

async fn acquired(places: &Arc<Semaphore>, limit: usize, wait: Duration) -> Result<OwnedSemaphorePermit, AskError> {
    let acquiring = Arc::clone(places).acquire_owned();
    tokio::time::timeout(wait, acquiring).await.ok().and_then(Result::ok).ok_or(AskError::Busy { limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(4);

    async fn entered(places: &Places, count: usize) -> Vec<Place> {
        let entering = (0..count).map(|_| places.enter(DEADLINE));
        futures::future::join_all(entering).await.into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_wait_for_their_readers_keep_nobody_from_asking() {
        let places = Places::default();
        let mut unread = Vec::new();
        for _ in 0..MAX_UNREAD / MAX_QUESTIONS {
            let mut answered = entered(&places, MAX_QUESTIONS).await;
            assert!(matches!(places.enter(DEADLINE).await, Err(AskError::Busy { limit: MAX_QUESTIONS })));
            answered.iter_mut().for_each(Place::become_unread);
            unread.extend(answered);
        }
        let mut more = entered(&places, MAX_QUESTIONS).await;
        more[0].become_unread();
        assert!(places.enter(DEADLINE).await.is_err(), "beyond the bound it keeps its question's place");
        drop(unread);
        more[0].become_unread();
        places.enter(DEADLINE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_few_and_leave_the_places_of_questions_alone() {
        let places = Places::default();
        let mut streams = entered(&places, MAX_STREAMS + 1).await;
        for stream in &mut streams[..MAX_STREAMS] {
            stream.become_stream().await.unwrap();
        }
        assert!(matches!(streams[MAX_STREAMS].become_stream().await, Err(AskError::Busy { limit: MAX_STREAMS })));
        assert_eq!(entered(&places, MAX_QUESTIONS - 1).await.len(), MAX_QUESTIONS - 1);
        streams.remove(0);
        streams[MAX_STREAMS - 1].become_stream().await.unwrap();
    }
}
