//! What many callers, a refresh, and nodes that come and go make of a kept answer, by a fleet that counts what it is asked.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use lariat_schema::coverage::{Coverage, NodeCoverage, NodeState, RegionCoverage, Sampling, Slices, Window};
use lariat_schema::time_range::{NANOS_PER_SECOND, SLICE_NANOS};

use super::*;
use crate::ask::Stats;

const NOW: i64 = 1_763_726_400_000_000_000;

/// Nodes that answer with their numbers, or are away.
struct Fleet {
    stores: Vec<StoreId>,
    away: Mutex<Vec<usize>>,
    asked: Mutex<Vec<Question>>,
    pause: Duration,
    failing: AtomicUsize,
}

impl Fleet {
    fn of(count: u128) -> Arc<Self> {
        let stores = (1..=count).map(|id| StoreId(uuid::Uuid::from_u128(id))).collect();
        let (away, asked) = (Mutex::default(), Mutex::default());
        Arc::new(Self { stores, away, asked, pause: Duration::from_millis(50), failing: AtomicUsize::new(0) })
    }

    fn asks(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock())
    }

    fn there(&self) -> Vec<(usize, StoreId)> {
        let away = self.away.lock();
        self.stores.iter().copied().enumerate().filter(|(node, _)| !away.contains(node)).collect()
    }
}

#[async_trait]
impl Ask for Fleet {
    fn present(&self) -> Vec<StoreId> {
        self.there().into_iter().map(|(_, store)| store).collect()
    }

    async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        tokio::time::sleep(self.pause).await;
        self.asked.lock().push(question.clone());
        if self.failing.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            return Err(AskError::Busy { limit: 1 });
        }
        let wanted = |store: &StoreId| question.scope.only.as_ref().is_none_or(|only| only.contains(store));
        let there: Vec<_> = self.there().into_iter().filter(|(_, store)| wanted(store)).collect();
        let answered = |node: usize| there.iter().any(|(of, _)| *of == node);
        let window = question.window.unwrap();
        let without = question.scope.without.map_or(0, |gap| gap.nanos());
        let expected = u64::try_from((window.nanos() - without) / SLICE_NANOS).unwrap();
        let nodes: Vec<NodeCoverage> = (0..self.stores.len())
            .map(|node| NodeCoverage {
                node_id: format!("n{node}"),
                region: "r".to_owned(),
                state: NodeState::Ready,
                answered: answered(node),
                source: None,
                ratio: f64::from(u8::from(answered(node))),
                missing: Vec::new(),
                watermark: None,
                rows: u64::from(answered(node)),
                elapsed_ms: 1.0,
                error: None,
                slices: Slices { expected, covered: if answered(node) { expected } else { 0 } },
            })
            .collect();
        let count = u32::try_from(self.stores.len()).unwrap();
        let here = u32::try_from(there.len()).unwrap();
        let ratio = f64::from(here) / f64::from(count);
        let numbers = Int64Array::from_iter_values(there.iter().map(|(node, _)| 1 << node));
        let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap();
        Ok(Answer {
            schema: batch.schema(),
            batches: vec![batch],
            coverage: Coverage {
                complete: here == count,
                ratio,
                expected: count,
                connected: here,
                responding: here,
                answered: here,
                window: Window { from: None, to: None, open_from: None },
                query_id: "q".to_owned(),
                regions: vec![RegionCoverage { region: "r".to_owned(), expected: count, answered: here, ratio }],
                nodes,
            },
            sampling: Sampling::default(),
            stats: Stats { elapsed_ms: 3.0, rows: 1, bytes_scanned: 7, ..Stats::default() },
            hint: None,
            stores: there.into_iter().map(|(_, store)| store).collect(),
        })
    }
}

fn numbers(answer: &Answer) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        answer.batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    numbers.sort_unstable();
    numbers
}

async fn report(cache: &Cache, fleet: &Arc<Fleet>, window: TimeRange) -> Result<Answer, AskError> {
    let ask = Arc::clone(fleet) as Arc<dyn Ask>;
    let sql = |times: &[TimeRange]| format!("{times:?}");
    let asked = Ranged { window, deadline: None, min_coverage: None, sql: &sql };
    cache.answer(&ask, &asked, NOW).await
}

async fn hundred(cache: &Cache, fleet: &Arc<Fleet>, window: TimeRange) -> Vec<Answer> {
    let asks = (0..100).map(|_| report(cache, fleet, window));
    futures::future::join_all(asks).await.into_iter().map(Result::unwrap).collect()
}

/// An hour that has ended long ago.
fn closed() -> TimeRange {
    TimeRange::new(NOW - 7_200 * NANOS_PER_SECOND, NOW - 3_600 * NANOS_PER_SECOND)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_ask_once_then_are_served_the_old_answer_while_one_refresh_is_made() {
    let (cache, fleet) = (Cache::default(), Fleet::of(2));
    let first = hundred(&cache, &fleet, closed()).await;
    assert_eq!(fleet.asks().len(), 1);
    assert_eq!(first.iter().filter(|answer| !answer.stats.cached).count(), 1);
    tokio::time::advance(FRESH - Duration::from_secs(1)).await;
    let again = hundred(&cache, &fleet, closed()).await;
    assert!(fleet.asks().is_empty());
    assert!(
        again
            .iter()
            .all(|answer| answer.stats.cached && answer.stats.age_ms >= 14_000 && answer.stats.bytes_scanned == 0)
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    let stale = hundred(&cache, &fleet, closed()).await;
    assert!(stale.iter().all(|answer| answer.stats.cached && answer.stats.age_ms >= 16_000));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.asks().len(), 1, "one refresh for a hundred callers");
    let fresh = report(&cache, &fleet, closed()).await.unwrap();
    assert!(fresh.stats.cached && fresh.stats.age_ms <= 2_000, "{:?}", fresh.stats);
    assert_eq!(numbers(&fresh), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_open_end_is_read_each_time_and_the_closed_middle_once() {
    let (cache, fleet) = (Cache::default(), Fleet::of(2));
    let window = TimeRange::new(NOW - 900 * NANOS_PER_SECOND, NOW);
    let answers = hundred(&cache, &fleet, window).await;
    let (edges, middles): (Vec<_>, Vec<_>) = fleet.asks().into_iter().partition(|asked| asked.scope.without.is_some());
    assert_eq!((edges.len(), middles.len()), (100, 1));
    // Both parts are in each answer, and together they cover the window.
    assert!(answers.iter().all(|answer| numbers(answer) == [1, 1, 2, 2] && answer.coverage.complete));
    let slices = answers[0].coverage.nodes[0].slices;
    assert_eq!((slices.expected, slices.covered), (90, 90));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_asked_for_what_it_alone_lacks() {
    let (cache, fleet) = (Cache::default(), Fleet::of(3));
    fleet.away.lock().push(2);
    let without = report(&cache, &fleet, closed()).await.unwrap();
    assert_eq!((numbers(&without), without.coverage.answered, without.coverage.complete), (vec![1, 2], 2, false));
    fleet.asks();
    fleet.away.lock().clear();
    tokio::time::advance(FILL_PAUSE).await;
    let with = report(&cache, &fleet, closed()).await.unwrap();
    let asked = fleet.asks();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].scope.only.as_deref(), Some(&fleet.stores[2..]));
    assert_eq!((numbers(&with), with.coverage.answered, with.coverage.complete), (vec![1, 2, 4], 3, true));
    // It is kept with the rest, and asked no further.
    let kept = report(&cache, &fleet, closed()).await.unwrap();
    assert_eq!((numbers(&kept), fleet.asks().len()), (vec![1, 2, 4], 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_leaves_its_closed_rows_and_is_missing_in_the_open_end() {
    let (cache, fleet) = (Cache::default(), Fleet::of(2));
    let window = TimeRange::new(NOW - 900 * NANOS_PER_SECOND, NOW);
    report(&cache, &fleet, window).await.unwrap();
    fleet.away.lock().push(1);
    let answer = report(&cache, &fleet, window).await.unwrap();
    assert_eq!(numbers(&answer), [1, 1, 2]);
    let nodes: BTreeMap<_, _> =
        answer.coverage.nodes.iter().map(|node| (node.node_id.as_str(), (node.answered, node.slices))).collect();
    assert_eq!(nodes["n0"].1.covered, 90);
    assert!(!nodes["n1"].0 && (1..90).contains(&nodes["n1"].1.covered), "{nodes:?}");
    assert!(!answer.coverage.complete && (0.5..1.0).contains(&answer.coverage.ratio), "{:?}", answer.coverage);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_not_kept_and_a_failed_refresh_leaves_the_old_answer() {
    let (cache, fleet) = (Cache::default(), Fleet::of(1));
    fleet.failing.store(1, Ordering::Release);
    assert!(report(&cache, &fleet, closed()).await.is_err());
    report(&cache, &fleet, closed()).await.unwrap();
    tokio::time::advance(FRESH).await;
    fleet.failing.store(1, Ordering::Release);
    fleet.asks();
    for _ in 0..2 {
        assert!(report(&cache, &fleet, closed()).await.unwrap().stats.cached);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fleet.asks().len(), 2, "the one after a failed refresh tries again");
    tokio::time::advance(USABLE).await;
    assert!(!report(&cache, &fleet, closed()).await.unwrap().stats.cached);
}

#[tokio::test(start_paused = true)]
async fn min_coverage_is_of_the_whole_answer() {
    let (cache, fleet) = (Cache::default(), Fleet::of(2));
    fleet.away.lock().push(0);
    let ask = Arc::clone(&fleet) as Arc<dyn Ask>;
    let sql = |times: &[TimeRange]| format!("{times:?}");
    let asked = Ranged { window: closed(), deadline: None, min_coverage: Some(0.9), sql: &sql };
    assert!(matches!(cache.answer(&ask, &asked, NOW).await, Err(AskError::NotCovered { .. })));
    assert!(fleet.asks().iter().all(|asked| asked.min_coverage.is_none()));
}
