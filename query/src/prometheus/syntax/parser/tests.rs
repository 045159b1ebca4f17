//! What the parser accepts, how it groups, and what it refuses.

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
