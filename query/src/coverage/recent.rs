//! The coverage of answers that were given lately, for `coverage_of(query_id)`: whoever got rows over a protocol without a
//! place for coverage can ask for it afterwards.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::coverage::Coverage;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long it can be asked for.
pub(crate) const KEPT: Duration = Duration::from_secs(600);
/// Answers that are remembered at most: about seven a second, at some kilobytes each. Beyond it the oldest is forgotten.
const MAX_KEPT: usize = 4_096;

/// The newest answers' coverage.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: Mutex<VecDeque<(Instant, Arc<Coverage>)>>,
}

impl Recent {
    pub(crate) fn keep(&self, coverage: &Coverage) {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        while kept.len() >= MAX_KEPT || kept.front().is_some_and(|(since, _)| now.duration_since(*since) > KEPT) {
            kept.pop_front();
        }
        kept.push_back((now, Arc::new(coverage.clone())));
    }

    pub(crate) fn find(&self, query_id: &str) -> Option<Arc<Coverage>> {
        let kept = self.kept.lock();
        let of =
            |(since, coverage): &&(Instant, Arc<Coverage>)| since.elapsed() <= KEPT && coverage.query_id == query_id;
        kept.iter().rev().find(of).map(|(_, coverage)| Arc::clone(coverage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn coverage_can_be_asked_for_ten_minutes_and_no_longer() {
        let recent = Recent::default();
        let none = crate::coverage::coverage(
            "q",
            crate::coverage::Input { table: None, window: None, without: None },
            0,
            &[],
            1,
        );
        recent.keep(&none);
        tokio::time::advance(KEPT).await;
        assert_eq!(recent.find("q").as_deref(), Some(&none));
        assert!(recent.find("other").is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(recent.find("q").is_none());
    }
}
