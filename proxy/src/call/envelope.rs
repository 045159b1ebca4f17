//! The bounds within which a call may try: one absolute deadline, so many channels asked for, so many dispatches, and how
//! long each attempt may take of what is left. Pure, and apart from the loop that keeps to it, since this is where a
//! transaction would be sent twice.

use std::time::Duration;

use lariat_schema::vocabulary::{Dispatched, ErrorCategory};

use crate::classify;
use crate::policy::Safety;
use crate::record::AttemptEnd;
use crate::upstream::Answer;

/// Channels asked for at most, refused ones included.
const MAX_ADMISSIONS: usize = 16;
/// Requests that may have reached a provider, of a call that may be sent again. Any other call is sent once; it goes to a
/// second provider only where the first surely did nothing with it.
const MAX_DISPATCHES: usize = 3;
/// Less time than this is not worth an attempt.
pub(super) const MIN_USEFUL: Duration = Duration::from_millis(25);
/// Share of the time that the first attempt gets where others could follow.
const FIRST_SHARE: f64 = 0.6;

/// What a call has used of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    pub(super) admissions: usize,
    pub(super) dispatches: usize,
}

impl Used {
    /// True where one more channel may be asked for, with so much time left.
    pub(super) fn allows_another(self, left: Duration) -> bool {
        left >= MIN_USEFUL && self.admissions < MAX_ADMISSIONS && self.dispatches < MAX_DISPATCHES
    }
}

/// Time for the next attempt: the first of several leaves the others some, later ones get what is left.
pub(super) fn attempt_timeout(left: Duration, first: bool, others_could_follow: bool) -> Duration {
    if first && others_could_follow { left.mul_f64(FIRST_SHARE).max(MIN_USEFUL) } else { left }
}

/// True where another provider may be asked after this answer; `before` is the last answer that was a reply.
pub(super) fn may_go_on(safety: Safety, answer: &Answer, before: Option<AttemptEnd>) -> bool {
    let Some(category) = answer.end.category else { return false };
    // Another provider's reply would find as little room.
    if classify::is_the_calls_own(category) || category == ErrorCategory::LocalCapacity {
        return false;
    }
    // Two providers that say the same thing that is nobody's fault in particular are believed.
    let agreed = category == ErrorCategory::UnclassifiedServerError
        && before.is_some_and(|end| end.category == Some(category) && end.code == answer.end.code);
    if agreed {
        return false;
    }
    safety == Safety::ReplaySafe
        || answer.end.dispatched == Dispatched::NotDispatched
        || (answer.reply.is_some() || answer.end.http_status == Some(429)) && classify::surely_refused(category)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lariat_schema::vocabulary::Outcome;

    fn answer(category: ErrorCategory, dispatched: Dispatched, http_status: Option<u16>) -> Answer {
        let outcome = Outcome::ServiceFailure;
        let category = Some(category);
        let end = AttemptEnd { outcome, category, code: Some(-32000), http_status, dispatched, failure: None };
        Answer { end, reply: None, retry_after_ms: None, took: Duration::ZERO, is_echo: false }
    }

    #[test]
    fn the_first_of_several_attempts_gets_six_tenths_and_a_later_one_all_that_is_left() {
        let left = Duration::from_secs(1);
        assert_eq!(attempt_timeout(left, true, true), Duration::from_millis(600));
        assert_eq!(attempt_timeout(left, true, false), left);
        assert_eq!(attempt_timeout(left, false, true), left);
        assert_eq!(attempt_timeout(Duration::from_millis(30), true, true), MIN_USEFUL);
    }

    #[test]
    fn a_call_ends_after_sixteen_admissions_three_dispatches_or_when_too_little_time_is_left() {
        let used = |admissions, dispatches| Used { admissions, dispatches };
        assert!(used(15, 2).allows_another(MIN_USEFUL));
        assert!(!used(16, 2).allows_another(MIN_USEFUL));
        assert!(!used(15, 3).allows_another(MIN_USEFUL));
        assert!(!used(0, 0).allows_another(MIN_USEFUL.saturating_sub(Duration::from_nanos(1))));
    }

    #[test]
    fn what_may_be_sent_once_goes_on_only_where_the_provider_surely_did_nothing() {
        use ErrorCategory::{NetworkError, RateLimit, ServerError, Timeout};
        for (category, dispatched, status, replayed, once) in [
            (NetworkError, Dispatched::NotDispatched, None, true, true),
            (NetworkError, Dispatched::Indeterminate, None, true, false),
            (Timeout, Dispatched::Indeterminate, None, true, false),
            (ServerError, Dispatched::Dispatched, Some(500), true, false),
            (RateLimit, Dispatched::Dispatched, Some(429), true, true),
            (ErrorCategory::ExecutionRevert, Dispatched::Dispatched, Some(200), false, false),
            (ErrorCategory::LocalCapacity, Dispatched::Dispatched, Some(200), false, false),
        ] {
            let answer = answer(category, dispatched, status);
            assert_eq!(may_go_on(Safety::ReplaySafe, &answer, None), replayed, "{category}");
            for safety in [Safety::Broadcast, Safety::Affine, Safety::Unknown] {
                assert_eq!(may_go_on(safety, &answer, None), once, "{category} {safety:?}");
            }
        }
    }

    #[test]
    fn two_providers_that_agree_on_an_error_of_nobody_are_believed() {
        let answer = answer(ErrorCategory::UnclassifiedServerError, Dispatched::Dispatched, Some(200));
        assert!(may_go_on(Safety::ReplaySafe, &answer, None));
        assert!(!may_go_on(Safety::ReplaySafe, &answer, Some(answer.end)));
        let other = AttemptEnd { code: Some(-32099), ..answer.end };
        assert!(may_go_on(Safety::ReplaySafe, &answer, Some(other)));
    }
}
