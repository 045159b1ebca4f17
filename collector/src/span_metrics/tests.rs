//! Figures counted by hand, and totals that stay exact whatever collapses.

use lariat_schema::tables::Table;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::columns::{doubles, longs, moments};
use crate::fixtures::{SECOND, START, batch, identity, span};

fn fold(metrics: &mut SpanMetrics, rows: &[Value], commit: i64) {
    metrics.fold(&batch(Table::Spans, rows), commit);
}

/// Each row as its name, its labels without quotes, and its value or count.
fn read(metrics: &mut SpanMetrics, now: i64) -> Vec<(String, String, f64)> {
    let Some(rows) = metrics.rows(now, &identity()).unwrap() else { return Vec::new() };
    let labels: &MapArray = column(&rows, "labels");
    let mut found: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let entries = labels.value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let keys: &StringArray = keys.as_any().downcast_ref().unwrap();
            let values: &StringArray = values.as_any().downcast_ref().unwrap();
            let labels: Vec<_> = (0..keys.len()).map(|at| format!("{}={}", keys.value(at), values.value(at))).collect();
            let value = doubles(&rows, "value");
            let value = if value.is_valid(row) { value.value(row) } else { longs(&rows, "count").value(row) as f64 };
            (texts(&rows, "name").value(row).to_owned(), labels.join(" "), value)
        })
        .collect();
    found.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    found
}

fn of(found: &[(String, String, f64)], name: &str) -> Vec<(String, f64)> {
    found.iter().filter(|(metric, ..)| metric == name).map(|(_, labels, value)| (labels.clone(), *value)).collect()
}

fn sum(found: &[(String, String, f64)], name: &str) -> f64 {
    of(found, name).iter().map(|(_, value)| value).sum()
}

#[test]
fn spans_count_by_service_name_kind_and_status_with_tempos_labels_and_bounds() {
    let mut metrics = SpanMetrics::default();
    let server = |id, duration: i64, status: &str| {
        span(
            1,
            id,
            None,
            json!({"service_name": "a", "name": "get", "span_kind": "server", "duration_ns": duration, "status": status}),
        )
    };
    fold(&mut metrics, &[server(1, 2_000_000, "ok"), server(2, 2_000_001, "ok"), server(3, 1, "error")], START);
    let rows = metrics.rows(START + 5, &identity()).unwrap().unwrap();
    let latency = (0..rows.num_rows())
        .find(|row| {
            texts(&rows, "name").value(*row) == "traces_spanmetrics_latency" && longs(&rows, "count").value(*row) == 2
        })
        .unwrap();
    let counts: &arrow::array::ListArray = column(&rows, "bucket_counts");
    let counts = counts.value(latency);
    let counts: &arrow::array::Int64Array = counts.as_any().downcast_ref().unwrap();
    assert_eq!((counts.len(), counts.value(0), counts.value(1)), (15, 1, 1));
    assert!((doubles(&rows, "sum").value(latency) - 0.004_000_001).abs() < 1e-12);
    assert_eq!((moments(&rows, "start_time").value(0), moments(&rows, "time").value(0)), (START, START + 5));
    assert_eq!(texts(&rows, "node_id").value(0), "lariat@test");

    fold(&mut metrics, &[server(4, 1, "error")], START + 7);
    let found = read(&mut metrics, START + 10 * SECOND);
    assert_eq!(
        of(&found, "traces_spanmetrics_calls"),
        [("service=a span_kind=SPAN_KIND_SERVER span_name=get status_code=STATUS_CODE_ERROR".to_owned(), 2.0)],
        "only what has changed is written, and its count goes on"
    );
    assert_eq!(read(&mut metrics, START + 20 * SECOND), []);
    assert_eq!(of(&read(&mut metrics, START + 200 * SECOND), "traces_spanmetrics_calls").len(), 2, "all are repeated");
}

#[test]
fn the_two_ends_of_a_call_make_one_edge_in_any_order_and_in_requests_of_their_own() {
    let mut metrics = SpanMetrics::default();
    let client = |trace, status: &str| {
        span(
            trace,
            1,
            None,
            json!({"service_name": "front", "span_kind": "client", "duration_ns": 9_000_000, "status": status,
            "attributes": {"peer.service": "unused"}}),
        )
    };
    let server = |trace| {
        span(trace, 2, Some(1), json!({"service_name": "back", "span_kind": "server", "duration_ns": 1_000_000}))
    };
    fold(&mut metrics, &[client(1, "unset"), server(1)], START);
    fold(&mut metrics, &[server(2)], START + 1);
    fold(&mut metrics, &[client(2, "error")], START + 9 * SECOND);
    let found = read(&mut metrics, START + 30 * SECOND);
    let ends = "client=front connection_type= server=back".to_owned();
    for (name, value) in [
        ("traces_service_graph_request", 2.0),
        ("traces_service_graph_request_failed", 1.0),
        ("traces_service_graph_request_server_seconds", 2.0),
        ("traces_service_graph_request_client_seconds", 2.0),
    ] {
        assert_eq!(of(&found, name), [(ends.clone(), value)], "{name}");
    }
}

#[test]
fn ends_that_send_no_spans_are_named_by_what_the_other_says_and_callers_without_a_span_are_users() {
    let mut metrics = SpanMetrics::default();
    let rows = [
        span(1, 1, None, json!({"service_name": "proxy", "span_kind": "server"})),
        span(1, 2, Some(1), json!({"service_name": "proxy", "span_kind": "client", "provider_id": "p1"})),
        span(
            2,
            1,
            None,
            json!({"service_name": "shop", "span_kind": "client", "attributes": {"db.system": "redis", "peer.service": "cache"}}),
        ),
        span(
            3,
            1,
            None,
            json!({"service_name": "shop", "span_kind": "client", "attributes": {"peer.service": "bank"}}),
        ),
        span(4, 1, None, json!({"service_name": "shop", "span_kind": "client"})),
        // Its parent's span never comes: who called is not known, and was no user.
        span(5, 1, Some(9), json!({"service_name": "shop", "span_kind": "server"})),
    ];
    fold(&mut metrics, &rows, START);
    let found = read(&mut metrics, START + 10 * SECOND);
    assert_eq!(
        of(&found, "traces_service_graph_request"),
        [
            ("client=proxy connection_type=virtual_node server=p1".to_owned(), 1.0),
            ("client=shop connection_type=database server=cache".to_owned(), 1.0),
            ("client=shop connection_type=virtual_node server=bank".to_owned(), 1.0),
            ("client=user connection_type=virtual_node server=proxy".to_owned(), 1.0),
        ]
    );
}

#[test]
fn what_finds_no_room_to_wait_is_counted_and_the_number_of_edges_is_bounded() {
    let mut metrics = SpanMetrics::default();
    let rows: Vec<_> = (0..11_000_u64)
        .map(|id| span(1, id + 1, Some(id + 50_000), json!({"service_name": "s", "span_kind": "server"})))
        .collect();
    fold(&mut metrics, &rows, START);
    assert_eq!(metrics.figures().1, 1_000);
    let rows: Vec<_> = (0..3_000_u64)
        .map(|id| {
            let fields = json!({"service_name": format!("s{}", id % 600), "span_kind": "client", "provider_id": format!("p{id}")});
            span(1, id + 1, None, fields)
        })
        .collect();
    fold(&mut metrics, &rows, START);
    let found = read(&mut metrics, START + 1);
    assert!(of(&found, "traces_service_graph_request").len() <= 751);
    assert!((sum(&found, "traces_service_graph_request") - 3_000.0).abs() < 1e-9);
}

#[test]
fn counts_that_begin_anew_have_a_new_start() {
    let mut metrics = SpanMetrics::default();
    fold(&mut metrics, &[span(1, 1, None, json!({"service_name": "a"}))], START);
    metrics.begin_anew(START);
    assert_eq!(read(&mut metrics, START), []);
    fold(&mut metrics, &[span(1, 1, None, json!({"service_name": "a"}))], START + 9);
    let rows = metrics.rows(START + 10, &identity()).unwrap().unwrap();
    assert_eq!(moments(&rows, "start_time").value(0), START + 9);
}

#[test]
fn what_was_not_written_counts_on_in_the_next_process_and_what_was_does_not_count_twice() {
    let mut metrics = SpanMetrics::default();
    let call = |id: u64| span(1, id, None, json!({"service_name": "a", "span_kind": "client", "provider_id": "p"}));
    let half =
        |id, kind: &str, service: &str| span(2, id, Some(7), json!({"service_name": service, "span_kind": kind}));
    fold(&mut metrics, &[call(1), call(2)], START);
    assert!((sum(&read(&mut metrics, START + 5), "traces_spanmetrics_calls") - 2.0).abs() < 1e-9);
    fold(&mut metrics, &[call(3), half(7, "client", "b")], START + 6);
    let memory = metrics.memory();
    let text = serde_json::to_vec(&memory).unwrap();
    assert_eq!(serde_json::from_slice::<memory::Memory>(&text).unwrap(), memory);
    let mut next = SpanMetrics::default();
    next.recall(memory);
    // The other end of the call comes to the next process.
    fold(&mut next, &[half(8, "server", "c")], START + 9);
    let rows = next.rows(START + 10, &identity()).unwrap().unwrap();
    assert_eq!(moments(&rows, "start_time").values().iter().min(), Some(&(START + 5)), "it starts when it was written");
    next.all_written_unix_nanos = i64::MIN;
    let found = read(&mut next, START + 11);
    assert!((sum(&found, "traces_spanmetrics_calls") - 3.0).abs() < 1e-9, "{found:?}");
    let edges = of(&found, "traces_service_graph_request");
    let names: Vec<_> = edges.iter().map(|(labels, value)| format!("{labels} {value}")).collect();
    assert_eq!(names, ["client=a connection_type=virtual_node server=p 1", "client=b connection_type= server=c 1",]);
    assert_eq!(next.memory().spans_and_edges(), (0, 0), "all of it is written");
}

proptest! {
    /// However many names and services there are, none is lost, and the number of series is bounded.
    #[test]
    fn totals_are_exact_whatever_collapses(
        calls in prop::collection::vec((0_u32..40, 0_u32..40, any::<bool>()), 1..300),
        max_series in 1_usize..30,
    ) {
        let mut metrics = SpanMetrics { max_series, ..SpanMetrics::default() };
        let rows: Vec<_> = calls.iter().enumerate().map(|(id, (service, name, failed))| {
            let status = if *failed { "error" } else { "unset" };
            span(1, id as u64 + 1, None, json!({"service_name": format!("s{service}"), "name": format!("n{name}"), "status": status}))
        }).collect();
        fold(&mut metrics, &rows, START);
        let found = read(&mut metrics, START);
        let errors: f64 = of(&found, "traces_spanmetrics_calls").iter()
            .filter(|(labels, _)| labels.contains("STATUS_CODE_ERROR")).map(|(_, value)| value).sum();
        prop_assert_eq!(sum(&found, "traces_spanmetrics_calls"), calls.len() as f64);
        prop_assert_eq!(sum(&found, "traces_spanmetrics_latency"), calls.len() as f64);
        prop_assert_eq!(errors, calls.iter().filter(|(_, _, failed)| *failed).count() as f64);
        // What is named at all is named rightly: an exact series never holds another's spans.
        for (labels, value) in of(&found, "traces_spanmetrics_calls") {
            if !labels.contains(OVERFLOW) {
                let exact = calls.iter().filter(|(service, name, failed)| {
                    labels.starts_with(&format!("service=s{service} ")) && labels.contains(&format!("span_name=n{name} "))
                        && labels.contains("ERROR") == *failed
                }).count();
                prop_assert!(value <= exact as f64);
            }
        }
        prop_assert!(of(&found, "traces_spanmetrics_calls").len() <= max_series + max_series / 2 + 2);
    }
}
