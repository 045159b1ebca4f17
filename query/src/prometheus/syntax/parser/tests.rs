//! What the parser accepts, how it groups, and what it refuses.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample;

use super::super::ast::{BinaryOp, Node};
use super::*;

fn refused(query: &str) -> String {
    parse(query).unwrap_err().message
}

#[test]
fn powers_bind_to_the_right_and_tighter_than_a_sign() {
    let Node::Binary(outer) = parse("2 ^ 3 ^ 2").unwrap().node else { panic!("no binary") };
    assert!(matches!(outer.right.node, Node::Binary(_)));
    assert!(matches!(parse("-2 ^ 2").unwrap().node, Node::Negate(_)));
    let Node::Binary(product) = parse("-a * b").unwrap().node else { panic!("no binary") };
    assert_eq!(product.op, BinaryOp::Mul);
}

#[test]
fn words_are_keywords_only_where_they_can_be() {
    assert!(matches!(parse("sum").unwrap().node, Node::Selector(_)));
    assert!(matches!(parse("SUM BY (sum) (sum)").unwrap().node, Node::Aggregate(_)));
    assert!(matches!(parse("a + on (on, \"x y\") group_left b").unwrap().node, Node::Binary(_)));
    assert!(matches!(parse(r#"{"rpc.server"}"#).unwrap().node, Node::Selector(_)));
}

#[test]
fn ranges_and_shifts_may_be_computed() {
    for query in ["a[5m]", "a[5m * 2]", "a[5m:]", "sum(a)[1h:5m] offset -5m @ 3", "a offset (5m + step())", "a[step()]"]
    {
        parse(query).unwrap();
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    assert!(refused("").contains("no expression"));
    assert!(refused("a[5m").contains("end of input"));
    assert!(refused("rate(a)").contains("expected type range vector"));
    assert!(refused("1 > 2").contains("BOOL"));
    assert!(refused("{a=~\".*\"}").contains("non-empty matcher"));
    assert!(refused("nope(a)").contains("unknown function"));
    assert!(refused("topk(a)").contains("wrong number of arguments"));
    assert!(refused("a[0s]").contains("greater than 0"));
    assert_eq!(parse("a + ~").unwrap_err().at, 4);
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let query = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(refused(&query).contains("nested deeper"));
    assert!(refused(&"-".repeat(100_000)).contains("nested deeper"));
}

const PIECES: [&str; 64] = [
    "sum",
    "topk",
    "quantile",
    "count_values",
    "by",
    "without",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "5m",
    "1h30m",
    "7",
    "1e3",
    "0x1f",
    "0.5",
    "NaN",
    "Inf",
    "-",
    "+",
    "*",
    "/",
    "%",
    "^",
    "==",
    "!=",
    ">",
    "=",
    "=~",
    "!~",
    "and",
    "or",
    "unless",
    "atan2",
    "bool",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "offset",
    "@",
    "start()",
    "end()",
    "step()",
    "rate",
    "histogram_quantile",
    "label_replace",
    "time",
    "up",
    "a:b_c",
    "le",
    "\"x\\n\"",
    "'\\u00e9'",
    "`\\z`",
    "# c\n",
    " ",
    "anchored",
    "smoothed",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => sample::select(PIECES.to_vec()).prop_map(str::to_owned),
        1 => ".{0,3}",
        1 => "\"[^\"\\\\\n]{0,3}\"",
    ];
    (vec(piece, 0..24), any::<bool>()).prop_map(|(pieces, apart)| pieces.join(if apart { " " } else { "" }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_text_it_is_a_tree_or_refused_with_its_place(text in text()) {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.message.is_empty() && error.at <= text.len(), "{:?}", error);
        }
    }

    #[test]
    fn a_whole_query_with_one_piece_added_or_its_end_cut_off_is_a_tree_or_refused(
        at in any::<sample::Index>(), piece in sample::select(PIECES.to_vec()), query in sample::select(QUERIES.to_vec())
    ) {
        let starts: Vec<usize> = query.char_indices().map(|(at, _)| at).collect();
        let at = *at.get(&starts);
        for text in [format!("{}{piece}{}", &query[..at], &query[at..]), query[..at].to_owned()] {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.message.is_empty() && error.at <= text.len(), "{:?}", error);
            }
        }
    }
}

const QUERIES: [&str; 6] = [
    "sum by (le, \"x y\") (rate(rpc_server_call_duration_seconds_bucket{profile=~\"pub.*\",region!=\"a\"}[5m] offset -1h @ end()))",
    "histogram_quantile(0.95, sum without (instance) (rate(a[5m])) / ignoring (b) group_left (c, d) max_over_time(e[1h:5m] @ 3))",
    "topk(3, -a ^ 2 ^ b) or on () vector(1) unless (x == bool 1)",
    "label_replace(up, \"a\", \"$1\", \"b\", \"(.*)\") and {\"rpc.server\", a='b'}",
    "count_values(\"v\", a[5m * 2] > 0x1f % 1e3)",
    "absent(a offset (5m + step()))",
];
