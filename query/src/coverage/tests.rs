//! Coverage of fleets that are whole, late, broken, young, and not there at all.

use lariat_schema::coverage::Why;

use super::*;

/// A moment that is the start of a slice.
const T0: i64 = 1_800_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn node(name: &str, region: &str, watermark: Option<i64>) -> NodeFacts {
    NodeFacts {
        node_id: name.to_owned(),
        region: Some(region.to_owned()),
        state: if watermark.is_some() { NodeState::Ready } else { NodeState::Disconnected },
        expected: Some(vec![TimeRange::new(T0, i64::MAX)]),
        left_unix_nanos: None,
        clock_offset_nanos: 0,
        answered: watermark.map(|watermark_unix_nanos| Part {
            told: Told { watermark_unix_nanos, ..Told::default() },
            rows: 7,
            elapsed_ms: 1.0,
            ..Part::default()
        }),
        error: watermark.is_none().then(|| "the node's address refuses connections".to_owned()),
    }
}

fn judge(nodes: &[NodeFacts], expected: u32, now: i64) -> Coverage {
    coverage("q", Input { table: None, window: Some(TimeRange::new(T0, now)), without: None }, now, nodes, expected)
}

#[test]
fn three_nodes_that_are_up_to_date_are_complete() {
    let now = T0 + 100 * SECOND;
    let nodes = [node("a", "us", Some(now)), node("b", "eu", Some(now)), node("c", "ap", Some(now))];
    let coverage = judge(&nodes, 3, now);
    assert!(coverage.complete, "{coverage:?}");
    assert_eq!((coverage.expected, coverage.answered, coverage.responding), (3, 3, 3));
    assert!((coverage.ratio - 1.0).abs() < f64::EPSILON);
    assert_eq!(coverage.window.open_from.as_deref(), Some(rfc3339(T0 + 80 * SECOND).as_str()));
}

#[test]
fn a_dead_node_lowers_the_ratio_and_is_named_with_its_region_and_the_time_that_is_missing() {
    let now = T0 + 100 * SECOND;
    let nodes = [node("a", "us", Some(now)), node("b", "eu", None), node("c", "ap", Some(now))];
    let coverage = judge(&nodes, 3, now);
    assert!(!coverage.complete);
    assert!((coverage.ratio - 2.0 / 3.0).abs() < 1e-9, "{}", coverage.ratio);
    let dead = coverage.nodes.iter().find(|node| !node.answered).unwrap();
    assert_eq!((dead.node_id.as_str(), dead.region.as_str()), ("b", "eu"));
    let missing = Missing { from: rfc3339(T0), to: rfc3339(T0 + 80 * SECOND), why: Why::Unreachable };
    assert_eq!(dead.missing, [missing]);
    let eu = coverage.regions.iter().find(|region| region.region == "eu").unwrap();
    assert_eq!((eu.expected, eu.answered), (1, 0));
}

#[test]
fn slices_after_the_watermark_are_late_and_open_slices_are_not() {
    let now = T0 + 100 * SECOND;
    let late = judge(&[node("a", "us", Some(T0 + 55 * SECOND))], 1, now);
    assert!(!late.complete);
    assert!((late.ratio - 5.0 / 8.0).abs() < 1e-9, "{}", late.ratio);
    assert_eq!(late.nodes[0].missing[0].why, Why::Late);
    let open = judge(&[node("a", "us", Some(T0 + 81 * SECOND))], 1, now);
    assert!(open.complete, "{open:?}");
}

#[test]
fn expected_nodes_that_nobody_has_met_are_listed_as_never_seen() {
    let now = T0 + 100 * SECOND;
    let coverage = judge(&[node("a", "us", Some(now))], 3, now);
    assert_eq!((coverage.expected, coverage.answered), (3, 1));
    assert_eq!(coverage.nodes.iter().filter(|node| node.state == NodeState::NeverSeen).count(), 2);
}

#[test]
fn without_any_data_the_ratio_counts_nodes_and_nothing_is_never_complete() {
    let none = coverage("q", Input { table: None, window: None, without: None }, T0, &[], 1);
    assert!(!none.complete);
    assert_eq!((none.expected, none.answered, none.window.from), (1, 0, None));
    let fresh = coverage(
        "q",
        Input { table: None, window: None, without: None },
        T0,
        &[node("a", "us", Some(T0)), node("b", "eu", None)],
        2,
    );
    assert!((fresh.ratio - 0.5).abs() < f64::EPSILON && !fresh.complete);
}

#[test]
fn a_node_that_joined_later_is_expected_from_then_on() {
    let now = T0 + 100 * SECOND;
    let mut late_joiner = node("b", "eu", None);
    late_joiner.expected = Some(vec![TimeRange::new(T0 + 40 * SECOND, i64::MAX)]);
    let coverage = judge(&[node("a", "us", Some(now)), late_joiner], 2, now);
    assert!((coverage.ratio - 8.0 / 12.0).abs() < 1e-9, "{}", coverage.ratio);
}

#[test]
fn a_node_whose_clock_is_off_makes_the_answer_incomplete() {
    let now = T0 + 100 * SECOND;
    let mut off = node("a", "us", Some(now));
    off.clock_offset_nanos = 3 * SECOND;
    let coverage = judge(&[off], 1, now);
    assert!(!coverage.complete);
    assert!(coverage.nodes[0].error.as_deref().unwrap().contains("clock_suspect"));
}

#[test]
fn a_node_that_left_is_missing_from_its_own_time_and_is_not_among_the_nodes_of_now() {
    let now = T0 + 100 * SECOND;
    let mut left = node("b", "eu", None);
    left.left_unix_nanos = Some(T0 + 20 * SECOND);
    left.expected = Some(vec![TimeRange::new(T0, T0 + 20 * SECOND)]);
    let nodes = [node("a", "us", Some(now)), left];
    let whole = judge(&nodes, 1, now);
    assert_eq!((whole.expected, whole.answered, whole.complete), (1, 1, false), "{whole:?}");
    assert!((whole.ratio - 8.0 / 10.0).abs() < 1e-9, "{}", whole.ratio);
    let since = Input { table: None, window: Some(TimeRange::new(T0 + 20 * SECOND, now)), without: None };
    let later = coverage("q", since, now, &nodes, 1);
    assert!(later.complete && later.nodes.len() == 1, "{later:?}");
}

#[test]
fn a_fleet_that_should_be_larger_names_who_left_before_it_names_nobody() {
    let now = T0 + 100 * SECOND;
    let mut left = node("b", "eu", None);
    left.left_unix_nanos = Some(T0 + 20 * SECOND);
    left.expected = Some(vec![TimeRange::new(T0, T0 + 20 * SECOND)]);
    let coverage = judge(&[node("a", "us", Some(now)), left], 3, now);
    assert_eq!((coverage.expected, coverage.answered), (3, 1));
    let named: Vec<&str> = coverage.nodes.iter().map(|node| node.node_id.as_str()).collect();
    assert_eq!(named, ["a", "b", "never-seen-1"]);
    let whys: Vec<Why> = coverage.nodes[1].missing.iter().map(|missing| missing.why).collect();
    assert_eq!(whys, [Why::Unreachable, Why::Down]);
}

#[test]
fn the_coverage_of_a_join_is_the_lowest_of_its_inputs() {
    let now = T0 + 100 * SECOND;
    let nodes = [node("a", "us", Some(T0 + 55 * SECOND))];
    let input = |from: i64, to: i64| Input {
        table: Some(Table::Spans),
        window: Some(TimeRange::new(T0 + from * SECOND, T0 + to * SECOND)),
        without: None,
    };
    let early = lowest("q", &[input(0, 50)], now, &nodes, 1);
    assert!(early.complete);
    let joined = lowest("q", &[input(0, 50), input(40, 80)], now, &nodes, 1);
    assert!((joined.ratio - 1.0 / 4.0).abs() < 1e-9 && !joined.complete, "{joined:?}");
}

#[test]
fn steps_add_up_to_the_slices_of_the_window() {
    let now = T0 + 100 * SECOND;
    let nodes = [node("a", "us", Some(T0 + 55 * SECOND)), node("b", "eu", None)];
    let window = TimeRange::new(T0, now);
    let rows = steps::steps(Some(Table::Spans), window, 30 * SECOND, now, &nodes, 2).unwrap();
    let told: Vec<_> =
        rows.iter().map(|step| (step.node_id.as_str(), step.covered, step.late, step.unreachable)).collect();
    assert_eq!(told, [("b", 0, 0, 3), ("a", 3, 0, 0), ("b", 0, 0, 3), ("a", 2, 1, 0), ("b", 0, 0, 2), ("a", 0, 2, 0)]);
    assert!(steps::steps(None, TimeRange::new(0, now), 10 * SECOND, now, &nodes, 2).is_err());
}

#[test]
fn steps_of_a_window_of_all_time_are_told_too() {
    let now = T0 + 100 * SECOND;
    let nodes = [node("a", "us", Some(T0 + 55 * SECOND)), node("b", "eu", None)];
    for window in [TimeRange::new(i64::MIN, now), TimeRange::new(-9_000_000_000 * SECOND, i64::MAX)] {
        for step_nanos in [i64::MAX, window.nanos(), i64::MAX / 3] {
            assert!(steps::steps(Some(Table::Spans), window, step_nanos, now, &nodes, 2).is_ok(), "{window:?}");
        }
    }
}
