//! The examples of the recommendation, and what holds for any bytes.

use super::*;
use proptest::prelude::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn parent(text: &str) -> Option<TraceContext> {
    TraceContext::read(&headers(&[("traceparent", text)]))
}

fn state(lines: &[&str]) -> String {
    let mut pairs = vec![("traceparent", PARENT)];
    pairs.extend(lines.iter().map(|line| ("tracestate", *line)));
    TraceContext::read(&headers(&pairs)).unwrap().state.into()
}

#[test]
fn a_valid_parent_is_read_and_unknown_flags_are_not_passed_on() {
    let context = parent(PARENT).unwrap();
    assert_eq!(hex::encode(context.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((hex::encode(context.span_id).as_str(), context.flags), ("b7ad6b7169203331", 1));
    assert_eq!(parent(&PARENT.replace("-01", "-ff")).unwrap().flags, 3);
}

#[test]
fn a_malformed_parent_is_as_good_as_none() {
    for text in [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(parent(text), None, "{text}");
    }
    let twice = headers(&[("traceparent", PARENT), ("traceparent", PARENT)]);
    assert_eq!(TraceContext::read(&twice), None);
    assert_eq!(TraceContext::read(&headers(&[("tracestate", "a=1")])), None);
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    for text in [
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings",
    ] {
        assert_eq!(parent(text).unwrap().flags, 1);
    }
}

#[test]
fn states_of_several_lines_are_one_and_a_malformed_one_is_left_out_whole() {
    assert_eq!(state(&["foo=1 , ,bar=2", "baz=a b"]), "foo=1,bar=2,baz=a b");
    assert_eq!(state(&["foo=1,foo=2"]), "foo=1");
    assert_eq!(state(&["t@v=1,0a=2"]), "t@v=1,0a=2");
    for malformed in ["foo", "foo=", "Foo=1", "=1", "foo=1,bar=a=b", "foo bar=1", "foo=\u{e9}"] {
        assert_eq!(state(&[malformed]), "", "{malformed}");
    }
    let many = |n: usize| (0..n).map(|i| format!("k{i}=1")).collect::<Vec<_>>().join(",");
    assert_eq!(state(&[&many(32)]), many(32));
    assert_eq!(state(&[&many(33)]), "");
}

#[test]
fn a_state_that_is_too_long_loses_its_long_members_first() {
    let long = format!("long={}", "x".repeat(200));
    let short: Vec<String> = (0..20).map(|i| format!("k{i}={}", "y".repeat(16))).collect();
    let text = format!("{long},{}", short.join(","));
    assert_eq!(state(&[&text]), short.join(","));
}

#[test]
fn a_clients_threshold_goes_to_providers_and_not_into_the_record() {
    let pairs = [("traceparent", PARENT), ("tracestate", "a=1,ot=th:8;rv:00000000000001,b=2")];
    let context = Arc::new(TraceContext::read(&headers(&pairs)).unwrap());
    assert_eq!(context.recorded_state(), "a=1,b=2");
    let mut out = headers(&[("traceparent", "stale"), ("tracestate", "stale=1")]);
    Trace::of(Some(context.clone()), true).outgoing(&[1; 16], [2; 8]).unwrap().write(&mut out);
    assert_eq!(out[TRACEPARENT], "00-0af7651916cd43dd8448eb211c80319c-0202020202020202-01");
    assert_eq!(out[TRACESTATE], "a=1,ot=th:8;rv:00000000000001,b=2");
    Trace::of(Some(context), false).outgoing(&[1; 16], [2; 8]).unwrap().write(&mut out);
    assert_eq!(out[TRACEPARENT], format!("00-{}-0202020202020202-03", "01".repeat(16)));
    assert!(out.get(TRACESTATE).is_none(), "an untrusted client's state goes to nobody");
}

proptest! {
    #[test]
    fn what_is_read_of_any_bytes_is_valid_again(
        parent in "([0-9a-f]{2}-)?[0-9a-f]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-.{0,5})?", lines in proptest::collection::vec("[a-z0-9@=, \t;:!~]{0,80}", 0..5),
    ) {
        let mut all = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(parent.as_bytes()) {
            all.append(TRACEPARENT, value);
        }
        for line in &lines {
            all.append(TRACESTATE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        if let Some(context) = TraceContext::read(&all) {
            prop_assert!(context.state.len() <= MAX_STATE_BYTES);
            let trace = Trace::of(Some(Arc::new(context.clone())), true);
            let mut again = HeaderMap::new();
            trace.outgoing(&[1; 16], context.span_id).unwrap().write(&mut again);
            prop_assert_eq!(TraceContext::read(&again), Some(context));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(parent in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = read_parent(&parent);
    }
}
