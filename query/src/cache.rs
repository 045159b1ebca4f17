//! Answers over closed time, used again: the middle of a range is read once for everybody who looks at it, and its edges are
//! read each time. What is not closed is never kept, so that a cached answer lacks nothing that a fresh one would have
//! except what comes late; and what comes late is at most [`FRESH`] and one refresh away.
//!
//! For [`FRESH`] an answer is used as it is. After that it is still used, and one refresh is made behind it, however many ask
//! (stale while revalidate). It is kept with the stores that answered: a node that has come back is asked for what it alone
//! lacks, and one that has gone leaves its rows behind, which the coverage of the middle says. Sums over parts of time and
//! over stores add up in the reports' folds; nothing else can be asked for here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::common::utils::memory::get_record_batch_memory_size;
use lariat_collector::worker::wire::Pruned;
use lariat_schema::ids::StoreId;
use lariat_schema::time_range::TimeRange;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ask::{Answer, Ask, AskError, Question, Scope};
use crate::coverage::merge::{of_stores, of_times};

mod split;

#[cfg(test)]
mod tests;

/// How long an answer is used without a refresh: as long as a slice of time stays open.
pub(crate) const FRESH: Duration = Duration::from_secs(15);
/// How long an answer is used at all; whoever comes later waits for a new one.
pub(crate) const USABLE: Duration = Duration::from_secs(300);
/// How long a store that could not tell what it lacks is not asked again.
const FILL_PAUSE: Duration = Duration::from_secs(5);
/// Memory of all answers: some hundred reports of a busy fleet.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What an answer costs beside its rows: its question and its coverage.
const OVERHEAD_BYTES: usize = 8 * 1024;

/// A question whose answers add up over time and over stores.
pub(crate) struct Ranged<'a> {
    pub(crate) window: TimeRange,
    pub(crate) deadline: Option<Duration>,
    pub(crate) min_coverage: Option<f64>,
    /// The question over these times.
    pub(crate) sql: &'a (dyn Fn(&[TimeRange]) -> String + Send + Sync),
}

/// An answer, and since when it is true.
#[derive(Debug)]
struct Kept {
    answer: Answer,
    since: Instant,
    filled: Mutex<Instant>,
    refreshing: AtomicBool,
}

/// Questions that are being asked for the first time, and whose turn it is.
type Asking = HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>;

/// The kept answers of a query service.
#[derive(Clone)]
pub(crate) struct Cache {
    kept: moka::sync::Cache<Arc<str>, Arc<Kept>>,
    asking: Arc<Mutex<Asking>>,
}

impl Default for Cache {
    fn default() -> Self {
        let weight = |key: &Arc<str>, kept: &Arc<Kept>| {
            let rows: usize = kept.answer.batches.iter().map(get_record_batch_memory_size).sum();
            u32::try_from(rows + key.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        let kept = moka::sync::Cache::builder().weigher(weight).max_capacity(MAX_BYTES).time_to_live(USABLE).build();
        Self { kept, asking: Arc::default() }
    }
}

impl Cache {
    /// The answer: its closed middle from here, its edges from the nodes.
    pub(crate) async fn answer(
        &self,
        ask: &Arc<dyn Ask>,
        asked: &Ranged<'_>,
        now_unix_nanos: i64,
    ) -> Result<Answer, AskError> {
        let split::Split { middle, edges } = split::split(asked.window, now_unix_nanos);
        let question = |times: &[TimeRange], window: TimeRange, without: Option<TimeRange>| Question {
            window: Some(window),
            deadline: asked.deadline,
            scope: Scope { without, only: None },
            ..Question::new((asked.sql)(times))
        };
        let of_middle = middle.map(|middle| question(&[middle], middle, None));
        let of_edges = (!edges.is_empty()).then(|| question(&edges, asked.window, middle));
        let answer = match (of_middle, of_edges) {
            (Some(of_middle), Some(of_edges)) => {
                let (middle, edges) = tokio::try_join!(self.kept(ask, of_middle), ask.ask(of_edges))?;
                joined(middle, edges, asked.window)
            }
            (Some(of_middle), None) => self.kept(ask, of_middle).await?,
            (None, Some(of_edges)) => ask.ask(of_edges).await?,
            (None, None) => ask.ask(question(&[asked.window], asked.window, None)).await?,
        };
        match asked.min_coverage {
            Some(wanted) if answer.coverage.ratio < wanted => {
                let coverage = Box::new(answer.coverage);
                Err(AskError::NotCovered { ratio: coverage.ratio, wanted, coverage })
            }
            _ => Ok(answer),
        }
    }

    /// An answer over closed time.
    async fn kept(&self, ask: &Arc<dyn Ask>, question: Question) -> Result<Answer, AskError> {
        let key: Arc<str> = question.sql.as_str().into();
        if let Some(kept) = self.usable(&key) {
            return Ok(self.again(ask, &key, kept, &question).await);
        }
        let turn = Arc::clone(self.asking.lock().entry(Arc::clone(&key)).or_default());
        let asked = {
            let _turn = turn.lock().await;
            match self.usable(&key) {
                Some(kept) => Ok(told_again(&kept)),
                None => ask.ask(question).await.inspect(|answer| self.keep(&key, answer.clone())),
            }
        };
        drop(turn);
        let mut asking = self.asking.lock();
        if asking.get(&key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            asking.remove(&key);
        }
        asked
    }

    fn usable(&self, key: &Arc<str>) -> Option<Arc<Kept>> {
        self.kept.get(key).filter(|kept| kept.since.elapsed() < USABLE)
    }

    fn keep(&self, key: &Arc<str>, answer: Answer) {
        let since = Instant::now();
        self.keep_since(key, answer, since);
    }

    fn keep_since(&self, key: &Arc<str>, answer: Answer, since: Instant) {
        let kept = Kept { answer, since, filled: Mutex::new(Instant::now()), refreshing: AtomicBool::new(false) };
        self.kept.insert(Arc::clone(key), Arc::new(kept));
    }

    /// An answer that is there already, with what stores that have come back add to it.
    async fn again(&self, ask: &Arc<dyn Ask>, key: &Arc<str>, kept: Arc<Kept>, question: &Question) -> Answer {
        let lacking: Vec<StoreId> =
            ask.present().into_iter().filter(|store| !kept.answer.stores.contains(store)).collect();
        if !lacking.is_empty() && may_fill(&kept) {
            let scope = Scope { only: Some(lacking.into()), ..Scope::default() };
            let added = ask.ask(Question { scope, ..question.clone() }).await;
            if let Ok(added) = added
                && !added.stores.is_empty()
            {
                let filled = filled(kept.answer.clone(), added);
                self.keep_since(key, filled.clone(), kept.since);
                return told(filled, kept.since);
            }
        }
        if kept.since.elapsed() >= FRESH && !kept.refreshing.swap(true, Ordering::AcqRel) {
            let (cache, ask, key) = (self.clone(), Arc::clone(ask), Arc::clone(key));
            let (question, kept) = (question.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                match ask.ask(question).await {
                    Ok(answer) => cache.keep(&key, answer),
                    // The next one who asks tries again; until then the old answer is what there is.
                    Err(_) => kept.refreshing.store(false, Ordering::Release),
                }
            });
        }
        told_again(&kept)
    }
}

/// Whether it is time to ask stores for what they lack; the answer to that is one caller's.
fn may_fill(kept: &Kept) -> bool {
    let mut filled = kept.filled.lock();
    let may = filled.elapsed() >= FILL_PAUSE;
    if may {
        *filled = Instant::now();
    }
    may
}

fn told_again(kept: &Kept) -> Answer {
    told(kept.answer.clone(), kept.since)
}

/// An answer that nobody was asked for now.
fn told(mut answer: Answer, since: Instant) -> Answer {
    let stats = &mut answer.stats;
    (stats.cached, stats.age_ms) = (true, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    (stats.elapsed_ms, stats.bytes_scanned, stats.files_scanned, stats.bytes_received) = (0.0, 0, 0, 0);
    stats.pruned = Pruned::default();
    answer
}

/// The middle and the edges as one answer.
fn joined(middle: Answer, edges: Answer, window: TimeRange) -> Answer {
    let coverage = of_times(&middle.coverage, &edges.coverage, window);
    summed(middle, edges, coverage)
}

/// An answer and what further stores add to it.
fn filled(kept: Answer, added: Answer) -> Answer {
    let coverage = of_stores(&kept.coverage, &added.coverage);
    summed(kept, added, coverage)
}

fn summed(mut first: Answer, second: Answer, coverage: lariat_schema::coverage::Coverage) -> Answer {
    first.batches.extend(second.batches);
    first.coverage = coverage;
    first.sampling.weighted |= second.sampling.weighted;
    first.sampling.min_probability = first.sampling.min_probability.min(second.sampling.min_probability);
    first.sampling.unknown_weight_share = first.sampling.unknown_weight_share.max(second.sampling.unknown_weight_share);
    first.stats.elapsed_ms = first.stats.elapsed_ms.max(second.stats.elapsed_ms);
    first.stats.rows += second.stats.rows;
    first.stats.bytes_scanned += second.stats.bytes_scanned;
    first.stats.files_scanned += second.stats.files_scanned;
    first.stats.pruned = first.stats.pruned.and(second.stats.pruned);
    first.stats.bytes_received += second.stats.bytes_received;
    let new = second.stores.iter().filter(|store| !first.stores.contains(store));
    first.stores = first.stores.iter().chain(new).copied().collect();
    first.hint = first.hint.or(second.hint);
    first
}
