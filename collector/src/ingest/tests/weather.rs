//! Bad weather of a whole store: a slow disk, a disk that may not be written any more, records that are made to hurt.

use std::io;
use std::sync::atomic::AtomicBool;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::decode::{Encoding, Form, decode};
use crate::fixtures::START;
use crate::keep::{Policies, SamplingPolicy};
use crate::store::steps::Steps;

/// A disk whose syncs wait until it is told to go on.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }
}

struct Slow {
    file: Box<dyn SegmentFile>,
    gate: Arc<Gate>,
}

impl SegmentFile for Slow {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

#[tokio::test]
async fn behind_a_slow_disk_so_many_wait_the_others_are_refused_at_once_and_each_answer_is_true() {
    let place = Place::new();
    let gate = Arc::new(Gate::default());
    let of_segments = Arc::clone(&gate);
    let spine = place.open_with(Box::new(move |path: &Path| {
        Ok(Box::new(Slow { file: create_on_disk(path)?, gate: Arc::clone(&of_segments) }) as Box<dyn SegmentFile>)
    }));
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    gate.set(true);
    let mut under_way: FuturesUnordered<_> =
        (2..1_600_u128).map(|trace| spine.ingest(spans(&[decision(trace, json!({}))]))).collect();
    let first = under_way.next().await.unwrap();
    assert!(matches!(first, Err(Refused::Overloaded { .. })), "{first:?}");
    assert_eq!(kept(&*spine.core).len(), 1, "nothing is visible that is not durable");
    gate.set(false);
    let (mut accepted, mut refused) = (1, 1);
    while let Some(answer) = under_way.next().await {
        match answer {
            Ok(_) => accepted += 1,
            Err(Refused::Overloaded { .. } | Refused::NotDurable { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(accepted > 200 && refused > 100, "{accepted} and {refused}");
    assert_eq!(kept(&*spine.core).len(), accepted);
    assert_eq!(spine.core.counters.refused_requests.load(Ordering::Relaxed), refused);
    total(&spine);
}

#[tokio::test]
async fn where_permission_is_lost_while_it_runs_requests_are_refused_rows_stay_and_it_goes_on_when_it_is_back() {
    let mut place = Place::new();
    let lost = Arc::new(AtomicBool::new(false));
    let denied = |lost: &Arc<AtomicBool>| {
        let lost = Arc::clone(lost);
        move || if lost.load(Ordering::SeqCst) { Err(io::Error::from(io::ErrorKind::PermissionDenied)) } else { Ok(()) }
    };
    let (of_files, of_segments) = (denied(&lost), denied(&lost));
    place.store.steps = Steps::observed_by(move |_| of_files());
    let spine = place.open_with(Box::new(move |path: &Path| of_segments().and_then(|()| create_on_disk(path))));
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    lost.store(true, Ordering::SeqCst);
    assert!(spine.core.seal(false).is_err());
    // What is open stays open; new policies begin another segment, which cannot be made.
    spine.set_policies(
        Policies::default()
            .with("public", SamplingPolicy::with_rate(1.0))
            .with("other", SamplingPolicy::with_rate(0.5)),
    );
    let refused = spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap_err();
    assert!(matches!(&refused, Refused::NotDurable { reason, .. } if reason.contains("ermission")), "{refused:?}");
    assert_eq!(kept(&*spine.core).len(), 1);
    let counters = &spine.core.counters;
    assert!(counters.log_failures.load(Ordering::Relaxed) > 0 && counters.seal_failures.load(Ordering::Relaxed) == 1);
    lost.store(false, Ordering::SeqCst);
    spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap();
    spine.core.seal(false).unwrap();
    assert_eq!(kept(&*spine.core).len(), 2);
    total(&spine);
    spine.kill();
    drop(spine);
    assert_eq!(kept(&*place.open().core).len(), 2);
}

#[tokio::test]
async fn one_id_with_two_contents_is_two_rows_and_a_conflict_and_a_retry_of_either_adds_nothing() {
    let place = Place::new();
    let spine = place.open();
    let with = |duration_ns: i64| spans(&[decision(1, json!({"duration_ns": duration_ns}))]);
    for (duration_ns, accepted) in [(5, 1), (6, 1), (5, 0), (6, 0)] {
        assert_eq!(spine.ingest(with(duration_ns)).await.unwrap().accepted, accepted);
    }
    assert_eq!(kept(&*spine.core).len(), 2);
    assert_eq!(spine.core.counters.conflicts.load(Ordering::Relaxed), 1);
    assert_eq!(total(&spine).deduplicated, 2);
}

fn span_with_keys(trace: u64, keys: std::ops::Range<u64>) -> Span {
    let value = |n: u64| Some(AnyValue { value: Some(Value::IntValue(i64::try_from(n).unwrap())) });
    Span {
        trace_id: [[0; 8], (trace + 1).to_be_bytes()].concat(),
        span_id: vec![1; 8],
        start_time_unix_nano: u64::try_from(START).unwrap(),
        attributes: keys.map(|n| KeyValue { key: format!("k{n}"), value: value(n), ..KeyValue::default() }).collect(),
        ..Span::default()
    }
}

fn decoded(spans: Vec<Span>) -> Decoded {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let form = Form { signal: Signal::Traces, encoding: Encoding::Protobuf, trusted: true };
    decode(&request.encode_to_vec(), form, START).unwrap().decoded
}

#[tokio::test]
async fn a_million_attribute_keys_are_a_record_too_many_and_nothing_grows_by_the_names_of_any() {
    let one = decoded(vec![span_with_keys(1, 0..1_000_000), span_with_keys(2, 0..3)]);
    assert_eq!((one.batch.num_rows(), one.rejected), (1, 1));
    assert!(one.reason.unwrap().contains("parts"));
    let place = Place::with_rate(1.0);
    let spine = place.open();
    spine.set_policies(Policies::default());
    for request in 0..20 {
        let spans = (0..10).map(|n| request * 10 + n).map(|span| span_with_keys(span, span * 500..(span + 1) * 500));
        let committed = spine.ingest(decoded(spans.collect())).await.unwrap();
        assert_eq!(committed.accepted, 10);
        if request % 5 == 0 {
            spine.core.seal(false).unwrap();
        }
    }
    let (series, _) = spine.core.state.lock().span_metrics.figures();
    let figures = spine.core.state.lock().figures();
    assert!(series <= 3 && figures.cells <= 1 && spine.core.state.lock().ledger().len() <= 2);
    while spine.core.compact().unwrap() {}
    let total = total(&spine);
    assert_eq!((total.received, total.stored + total.sampled_out), (200, 200));
    assert_eq!(rows(&visible(&*spine.core, Table::Spans)), usize::try_from(total.stored).unwrap());
}
