//! The memory of one question: a bounded share of what all of them have. Without it the first large one takes everything, and
//! the small ones beside it fail.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

/// The environment of all, with memory of its own.
pub(crate) fn of_question(all: &RuntimeEnv, most_bytes: usize) -> Result<Arc<RuntimeEnv>> {
    let pool = QuestionPool { all: Arc::clone(&all.memory_pool), most_bytes, used_bytes: AtomicUsize::new(0) };
    RuntimeEnvBuilder::from_runtime_env(all).with_memory_pool(Arc::new(pool)).build_arc()
}

#[derive(Debug)]
struct QuestionPool {
    all: Arc<dyn MemoryPool>,
    most_bytes: usize,
    used_bytes: AtomicUsize,
}

impl fmt::Display for QuestionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl MemoryPool for QuestionPool {
    fn name(&self) -> &str {
        "question"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    /// For what cannot be refused, as rows that are already here.
    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used_bytes.fetch_add(additional, Ordering::Relaxed);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used_bytes.fetch_sub(shrink, Ordering::Relaxed);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let within = |used: usize| used.checked_add(additional).filter(|used| *used <= self.most_bytes);
        if self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            return Err(resources_datafusion_err!("a question may use {} bytes", self.most_bytes));
        }
        self.all.try_grow(reservation, additional).inspect_err(|_| {
            self.used_bytes.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.most_bytes)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn a_question_is_bounded_by_its_own_share_and_by_that_of_all() {
        let all: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(150));
        let env = RuntimeEnvBuilder::new().with_memory_pool(all).build_arc().unwrap();
        let (one, other) = (of_question(&env, 100).unwrap(), of_question(&env, 100).unwrap());
        let mine = MemoryConsumer::new("one").register(&one.memory_pool);
        assert!(mine.try_grow(101).is_err());
        mine.try_grow(100).unwrap();
        let theirs = MemoryConsumer::new("other").register(&other.memory_pool);
        assert!(theirs.try_grow(60).is_err());
        theirs.try_grow(50).unwrap();
        drop(mine);
        theirs.try_grow(50).unwrap();
        assert_eq!((one.memory_pool.reserved(), other.memory_pool.reserved()), (0, 100));
    }
}
