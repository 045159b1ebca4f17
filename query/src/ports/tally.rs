//! The account of the protocols: connections, and questions by the way in which they ended. A question that ends without
//! having been answered or refused was cancelled, by the client's word or by its leaving; that is counted when the
//! question's guard is dropped, so no way out can forget it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ask::AskError;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    FlightSql,
    Postgres,
    /// Of which only is counted who came without the token.
    Http,
}

/// The protocols beside HTTP.
const PORTS: [(Protocol, &str); 2] = [(Protocol::FlightSql, "flight_sql"), (Protocol::Postgres, "postgres")];

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Refused,
    Failed,
    Cancelled,
}

const ENDS: [(End, &str); 4] =
    [(End::Answered, "answered"), (End::Refused, "refused"), (End::Failed, "failed"), (End::Cancelled, "cancelled")];

/// Why a connection or an answer was not served, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// There were too many.
    TooMany,
    /// It gave no token, or a wrong one.
    Unauthenticated,
    /// What it sent is not of the protocol.
    Malformed,
    /// It did not read what it had asked for.
    Stalled,
}

const TURNED: [(Turned, &str); 4] = [
    (Turned::TooMany, "too_many"),
    (Turned::Unauthenticated, "unauthenticated"),
    (Turned::Malformed, "malformed"),
    (Turned::Stalled, "stalled"),
];

/// The counts of all ports of a query service.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    open: [AtomicU64; 3],
    questions: [[AtomicU64; 4]; 3],
    turned: [[AtomicU64; 4]; 3],
}

impl Tally {
    /// A connection begins; it ends when the guard is dropped.
    pub(crate) fn connected(self: &Arc<Self>, protocol: Protocol) -> Connected {
        self.open[protocol as usize].fetch_add(1, Ordering::Relaxed);
        Connected { tally: Arc::clone(self), protocol }
    }

    /// A question begins.
    pub(crate) fn asking(self: &Arc<Self>, protocol: Protocol) -> Asking {
        Asking { tally: Arc::clone(self), protocol, end: End::Cancelled }
    }

    /// A connection was turned away.
    pub(crate) fn turned(&self, protocol: Protocol, why: Turned) {
        self.turned[protocol as usize][why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as Prometheus text.
    pub(crate) fn render(&self, text: &mut String) {
        let mut line = |name: &str, labels: String, count: &AtomicU64| {
            writeln!(text, "{name}{{{labels}}} {}", count.load(Ordering::Relaxed)).ok();
        };
        for (protocol, name) in PORTS {
            let of = protocol as usize;
            line("lariat_query_connections", format!("protocol=\"{name}\""), &self.open[of]);
            for (end, word) in ENDS {
                let labels = format!("protocol=\"{name}\",end=\"{word}\"");
                line("lariat_query_questions_total", labels, &self.questions[of][end as usize]);
            }
            for (why, word) in TURNED {
                let labels = format!("protocol=\"{name}\",reason=\"{word}\"");
                line("lariat_query_turned_away_total", labels, &self.turned[of][why as usize]);
            }
        }
        let of_http = &self.turned[Protocol::Http as usize][Turned::Unauthenticated as usize];
        let labels = "protocol=\"http\",reason=\"unauthenticated\"".to_owned();
        line("lariat_query_turned_away_total", labels, of_http);
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connected {
    tally: Arc<Tally>,
    protocol: Protocol,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.tally.open[self.protocol as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A question that is being answered.
#[derive(Debug)]
pub(crate) struct Asking {
    tally: Arc<Tally>,
    protocol: Protocol,
    end: End,
}

impl Asking {
    /// Its last row has been handed over.
    pub(crate) fn answered(mut self) {
        self.end = End::Answered;
    }

    /// There is no answer, or no more of it.
    pub(crate) fn failed(mut self, error: &AskError) {
        self.end = match error {
            AskError::Internal { .. } | AskError::Deadline { .. } => End::Failed,
            _ => End::Refused,
        };
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.tally.questions[self.protocol as usize][self.end as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_an_end_was_cancelled() {
        let tally = Arc::new(Tally::default());
        drop(tally.asking(Protocol::Postgres));
        tally.asking(Protocol::Postgres).answered();
        tally.asking(Protocol::FlightSql).failed(&AskError::Busy { limit: 1 });
        let connected = tally.connected(Protocol::FlightSql);
        let mut text = String::new();
        tally.render(&mut text);
        for line in [
            "lariat_query_questions_total{protocol=\"postgres\",end=\"cancelled\"} 1",
            "lariat_query_questions_total{protocol=\"postgres\",end=\"answered\"} 1",
            "lariat_query_questions_total{protocol=\"flight_sql\",end=\"refused\"} 1",
            "lariat_query_connections{protocol=\"flight_sql\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        drop(connected);
        assert_eq!(tally.open[0].load(Ordering::Relaxed), 0);
    }
}
