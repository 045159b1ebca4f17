//! Points of all five kinds.

use super::*;

fn request(metrics: &Value) -> Value {
    json!({"resourceMetrics": [{"resource": node(), "scopeMetrics": [{"scope": {"name": "s", "version": "2"}, "metrics": metrics}]}]})
}

fn decoded(metrics: &Value) -> Decoded {
    both(Signal::Metrics, true, &request(metrics)).decoded
}

fn gauge(point: Value) -> Value {
    json!([{"name": "load", "unit": "1", "gauge": {"dataPoints": [point]}}])
}

#[test]
fn a_gauge_and_a_sum_have_a_value_and_labels() {
    let point = json!({"timeUnixNano": AT, "startTimeUnixNano": "5", "asInt": "7", "attributes": [text("z", "1"), int("a", 2)]});
    let metrics = json!([
        {"name": "load", "unit": "1", "description": "d", "gauge": {"dataPoints": [point]}},
        {"name": "calls", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]}},
    ]);
    let rows = rows(&decoded(&metrics));
    assert_eq!(
        (&rows[0]["instrument"], &rows[0]["temporality"], &rows[0]["monotonic"]),
        (&json!("gauge"), &Value::Null, &Value::Null)
    );
    assert_eq!((&rows[0]["value"], &rows[0]["labels"]), (&json!(7.0), &json!({"a": "2", "z": "1"})));
    assert_eq!(
        (&rows[0]["unit"], &rows[0]["description"], &rows[0]["node_id"]),
        (&json!("1"), &json!("d"), &json!("lariat@10.0.0.1"))
    );
    assert_eq!(
        (&rows[1]["instrument"], &rows[1]["temporality"], &rows[1]["monotonic"]),
        (&json!("sum"), &json!("cumulative"), &json!(true))
    );
    assert_eq!(
        (&rows[1]["count"], &rows[1]["bounds"], &rows[1]["no_recorded_value"]),
        (&Value::Null, &Value::Null, &json!(false))
    );
    assert_eq!(rows[0]["resource_attributes"], json!({"otel.scope.version": "2", "service.version": "1.2.3"}));
}

#[test]
fn histograms_and_summaries_keep_every_number() {
    let metrics = json!([
        {"name": "h", "histogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": AT, "count": "3", "sum": 4.5,
            "min": 0.5, "max": 3.0, "explicitBounds": [1.0, 2.0], "bucketCounts": ["1", "0", "2"]}]}},
        {"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": AT, "count": "6",
            "sum": 9.0, "scale": 3, "zeroCount": "1", "zeroThreshold": 0.001, "positive": {"offset": -2, "bucketCounts": ["2", "3"]},
            "exemplars": [{"timeUnixNano": AT, "asDouble": 1.5, "traceId": "0192f0c48a5b7c3d9e1f0123456789ab",
                           "spanId": "00f067aa0ba902b7", "filteredAttributes": [text("k", "v")]}]}]}},
        {"name": "q", "summary": {"dataPoints": [{"timeUnixNano": AT, "count": "2", "sum": 3.0,
            "quantileValues": [{"quantile": 0.5, "value": 1.0}, {"quantile": 1.0, "value": 2.0}]}]}},
    ]);
    let rows = rows(&decoded(&metrics));
    assert_eq!((&rows[0]["bounds"], &rows[0]["bucket_counts"]), (&json!([1.0, 2.0]), &json!([1, 0, 2])));
    assert_eq!(
        (&rows[0]["count"], &rows[0]["sum"], &rows[0]["min"], &rows[0]["max"]),
        (&json!(3), &json!(4.5), &json!(0.5), &json!(3.0))
    );
    assert_eq!(
        (&rows[1]["scale"], &rows[1]["zero_count"], &rows[1]["zero_threshold"]),
        (&json!(3), &json!(1), &json!(0.001))
    );
    assert_eq!((&rows[1]["positive_offset"], &rows[1]["positive_counts"]), (&json!(-2), &json!([2, 3])));
    assert_eq!((&rows[1]["negative_offset"], &rows[1]["instrument"]), (&Value::Null, &json!("exponential_histogram")));
    let exemplar = &rows[1]["exemplars"][0];
    assert_eq!(
        (&exemplar["value"], &exemplar["span_id"], &exemplar["attributes"]),
        (&json!(1.5), &json!("00f067aa0ba902b7"), &json!({"k": "v"}))
    );
    assert_eq!(rows[2]["quantiles"], json!([{"quantile": 0.5, "value": 1.0}, {"quantile": 1.0, "value": 2.0}]));
    assert_eq!(
        (&rows[2]["count"], &rows[2]["sum"], &rows[2]["instrument"]),
        (&json!(2), &json!(3.0), &json!("summary"))
    );
}

#[test]
fn each_bad_point_is_rejected_with_its_reason() {
    let at = |rest: Value| {
        let mut point = json!({"timeUnixNano": AT, "asDouble": 1.0});
        point.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        point
    };
    let histogram = |point: Value| json!([{"name": "h", "histogram": {"dataPoints": [point]}}]);
    for (metrics, reason) in [
        (gauge(json!({"timeUnixNano": AT})), "no value"),
        (gauge(json!({"timeUnixNano": AT})), "no value"),
        (gauge(json!({"asDouble": 1.0})), "time_unix_nano is missing"),
        (json!([{"name": "x", "zigzag": {"dataPoints": []}}]), "unknown kind"),
        (json!([{"name": "", "gauge": {"dataPoints": [at(json!({}))]}}]), "no name"),
        (
            histogram(json!({"timeUnixNano": AT, "count": "1", "bucketCounts": ["1"], "explicitBounds": [1.0]})),
            "1 buckets between 1 bounds",
        ),
        (
            histogram(json!({"timeUnixNano": AT, "bucketCounts": ["1", "0", "0"], "explicitBounds": [2.0, 1.0]})),
            "do not ascend",
        ),
        (histogram(json!({"timeUnixNano": AT, "count": "18446744073709551615"})), "beyond 2^63"),
    ] {
        let decoded = decoded(&metrics);
        assert_eq!((decoded.rejected, decoded.batch.num_rows()), (1, 0), "{metrics}");
        assert!(decoded.reason.as_ref().unwrap().contains(reason), "{:?} for {metrics}", decoded.reason);
    }
}

#[test]
fn doubles_may_stand_in_quotes_and_be_no_number_as_protobufs_json_has_them() {
    let read = |metrics: Value| {
        let body = request(&metrics).to_string();
        decode(body.as_bytes(), form(Signal::Metrics, Encoding::Json), NOW).unwrap().decoded
    };
    let quoted = read(json!([
        {"name": "g", "gauge": {"dataPoints": [{"timeUnixNano": AT, "asDouble": "1.5",
            "exemplars": [{"timeUnixNano": AT, "asDouble": "-2e3"}]}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": AT, "count": "3", "sum": "4.5",
            "min": "0.5", "max": "3", "explicitBounds": ["1", 2.0], "bucketCounts": ["1", "0", "2"]}]}},
        {"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": AT, "count": "1",
            "sum": "9", "scale": 3, "zeroCount": "1", "zeroThreshold": "0.001"}]}},
        {"name": "q", "summary": {"dataPoints": [{"timeUnixNano": AT, "count": "2", "sum": "3",
            "quantileValues": [{"quantile": "0.5", "value": "1"}]}]}},
    ]));
    let plain = read(json!([
        {"name": "g", "gauge": {"dataPoints": [{"timeUnixNano": AT, "asDouble": 1.5,
            "exemplars": [{"timeUnixNano": AT, "asDouble": -2e3}]}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": AT, "count": "3", "sum": 4.5,
            "min": 0.5, "max": 3.0, "explicitBounds": [1.0, 2.0], "bucketCounts": ["1", "0", "2"]}]}},
        {"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": AT, "count": "1",
            "sum": 9.0, "scale": 3, "zeroCount": "1", "zeroThreshold": 0.001}]}},
        {"name": "q", "summary": {"dataPoints": [{"timeUnixNano": AT, "count": "2", "sum": 3.0,
            "quantileValues": [{"quantile": 0.5, "value": 1.0}]}]}},
    ]));
    assert_eq!((quoted.batch.num_rows(), quoted.rejected), (4, 0));
    assert_eq!(quoted.batch, plain.batch);
    let points: Vec<Value> =
        ["NaN", "Infinity", "-Infinity"].map(|text| json!({"timeUnixNano": AT, "asDouble": text})).to_vec();
    let special = read(json!([{"name": "load", "gauge": {"dataPoints": points}}]));
    assert_eq!(special.rejected, 0);
    let values = crate::columns::doubles(&special.batch, "value");
    assert!(values.value(0).is_nan() && values.value(1) == f64::INFINITY && values.value(2) == f64::NEG_INFINITY);
    // A member that is null beside one in quotes takes the slower way; a text that is none costs its point as before.
    let slower = read(gauge(json!({"timeUnixNano": AT, "asDouble": "7", "flags": null})));
    assert!((crate::columns::doubles(&slower.batch, "value").value(0) - 7.0).abs() < 1e-9);
    assert_eq!(read(gauge(json!({"timeUnixNano": AT, "asDouble": "seven"}))).rejected, 1);
    // What no reader understands is the request's fault and not silence.
    for bad in [json!({"timeUnixNano": AT, "asDouble": 1.0, "flags": "x"}), json!(7)] {
        let body = request(&gauge(bad)).to_string();
        let error = decode(body.as_bytes(), form(Signal::Metrics, Encoding::Json), NOW).unwrap_err().to_string();
        assert!(error.contains("\"load\""), "{error}");
    }
    let without = request(&json!([{"name": "load"}])).to_string();
    assert!(decode(without.as_bytes(), form(Signal::Metrics, Encoding::Json), NOW).is_ok());
}

#[test]
fn an_attribute_may_be_a_double_in_quotes() {
    let record = json!({"timeUnixNano": AT, "attributes": [{"key": "a", "value": {"doubleValue": "-Infinity"}},
        {"key": "b", "value": {"arrayValue": {"values": [{"doubleValue": "1.5"}]}}},
        {"key": "c", "value": {"stringValue": "1.5"}}]});
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).to_string();
    let decoded = decode(body.as_bytes(), form(Signal::Logs, Encoding::Json), NOW).unwrap().decoded;
    let attributes = rows(&decoded)[0]["attributes"].clone();
    assert_eq!((&attributes["b"], &attributes["c"]), (&json!("[1.5]"), &json!("1.5")));
    assert!(attributes["a"].as_str().is_some_and(|text| text.contains("nf")), "{attributes}");
}

#[test]
fn the_end_of_a_series_has_no_value_and_says_so() {
    let rows = rows(&decoded(&gauge(json!({"timeUnixNano": AT, "asDouble": 3.0, "flags": 1}))));
    assert_eq!((&rows[0]["value"], &rows[0]["no_recorded_value"]), (&Value::Null, &json!(true)));
}

fn series(change: impl Fn(&mut Value)) -> (Value, u128) {
    let point = json!({"timeUnixNano": AT, "asDouble": 3.0, "attributes": [text("a", "1"), text("b", "2")]});
    let mut request = request(&gauge(point));
    change(&mut request);
    let decoded = both(Signal::Metrics, true, &request).decoded;
    (rows(&decoded)[0]["series_id"].clone(), decoded.keys[0])
}

#[test]
fn a_series_survives_a_restart_and_the_order_of_its_labels_and_nothing_else() {
    let point = "/resourceMetrics/0/scopeMetrics/0/metrics/0/gauge/dataPoints/0";
    let plain = series(|_| {});
    let rebooted = series(|request| {
        *request.pointer_mut("/resourceMetrics/0/resource/attributes/3").unwrap() = text("lariat.boot_id", "another");
    });
    assert_eq!(plain, rebooted);
    let swapped = series(|request| {
        request.pointer_mut(&format!("{point}/attributes")).unwrap().as_array_mut().unwrap().reverse();
    });
    assert_eq!(plain, swapped);
    let later = series(|request| request.pointer_mut(point).unwrap()["timeUnixNano"] = json!("1760000000000000002"));
    assert_eq!(plain.0, later.0);
    assert_ne!(plain.1, later.1);
    let others = [
        series(|request| *request.pointer_mut(&format!("{point}/attributes/0")).unwrap() = text("a", "3")),
        series(|request| *request.pointer_mut("/resourceMetrics/0/scopeMetrics/0/scope/name").unwrap() = json!("t")),
        series(|request| {
            *request.pointer_mut("/resourceMetrics/0/scopeMetrics/0/metrics/0/unit").unwrap() = json!("s")
        }),
        series(|request| {
            *request.pointer_mut("/resourceMetrics/0/resource/attributes/1").unwrap() =
                text("service.instance.id", "n");
        }),
    ];
    for other in others {
        assert_ne!(plain.0, other.0);
    }
}
