//! The decision, filter by filter, and what holds for every one.

use std::sync::Arc;

use super::*;
use crate::health::{ChannelView, Height};
use crate::policy;
use crate::profiles::{self, Catalog};
use crate::upstream::LinkView;
use lariat_schema::vocabulary::Strategy;
use proptest::prelude::*;

const PROFILE: &str = "
chains:
  e:
    chain_id: 1
    block_time_ms: 1000
    selection: { max_lag_blocks: 2, archival_threshold: 100 }
    providers:
      - { id: a, priority: 1, url: 'http://a' }
      - { id: b, priority: 2, url: 'http://b', ws_url: 'ws://b', archival: false }
      - { id: c, priority: 3, url: 'http://c', capabilities: { unsupported_categories: [debug], limits: { max_block_range: 10 } } }
      - { id: d, priority: 4, ws_url: 'ws://d' }
";

fn catalog() -> Catalog {
    profiles::parse("public", PROFILE, &|_| None).unwrap()
}

fn view() -> ChannelView {
    ChannelView {
        circuit: CircuitState::Closed,
        epoch: 1,
        open_until_ms: 0,
        trial_under_way: false,
        limited_until_ms: 0,
        prior_ms: None,
        evidence: Arc::default(),
    }
}

fn snapshot() -> Snapshot {
    let heights = vec![Some(Height { height: 1_000, at_ms: 0 }); 4];
    Snapshot { number: 7, channels: vec![view(); 8], heights, ..Snapshot::default() }
}

fn ask<'a>(catalog: &'a Catalog, method: &'a str) -> Ask<'a> {
    Ask {
        profile: 0,
        profile_key: catalog.profiles[0].key,
        chain_at: 0,
        chain: &catalog.profiles[0].chains[0],
        method,
        policy: policy::of(method),
        strategy: Strategy::Priority,
        transport: None,
        pin: None,
        excluded: &[],
        leave_out_limited: false,
        need: BlockNeed::Recent,
        now_ms: 0,
    }
}

fn eligible(decision: &Decision) -> Vec<&str> {
    decision.eligible.iter().map(|candidate| &*candidate.name).collect()
}

fn reason(decision: &Decision, name: &str) -> ExclusionReason {
    decision.excluded.iter().find(|excluded| &*excluded.name == name).unwrap().reason
}

#[test]
fn every_channel_is_either_ranked_or_excluded_with_a_reason() {
    let catalog = catalog();
    let decision = decide(&ask(&catalog, "eth_call"), &snapshot(), &[], 1);
    assert_eq!(eligible(&decision), ["a:http", "b:http", "c:http"]);
    assert_eq!(reason(&decision, "b:ws"), ExclusionReason::NotConnected);
    assert_eq!(reason(&decision, "d:ws"), ExclusionReason::NotConnected);
    assert_eq!((decision.snapshot, decision.fail_open), (7, false));
}

#[test]
fn each_filter_has_its_reason() {
    let catalog = catalog();
    let mut snapshot = snapshot();
    snapshot.channels[0].circuit = CircuitState::Open;
    snapshot.channels[2].trial_under_way = true;
    snapshot.drained.insert((0, 0, 2));
    let decision = decide(&ask(&catalog, "eth_call"), &snapshot, &[], 1);
    assert!(decision.eligible.is_empty() && !decision.fail_open, "open circuits are never waived");
    assert_eq!(reason(&decision, "a:http"), ExclusionReason::CircuitOpen);
    assert_eq!(reason(&decision, "b:http"), ExclusionReason::HalfOpenBusy);
    assert_eq!(reason(&decision, "c:http"), ExclusionReason::Draining);
    let pinned = decide(&Ask { pin: Some(2), ..ask(&catalog, "eth_call") }, &super::tests::snapshot(), &[], 1);
    assert_eq!(eligible(&pinned), ["c:http"]);
    assert_eq!(reason(&pinned, "a:http"), ExclusionReason::PinnedElsewhere);
}

#[test]
fn a_provider_that_lags_or_keeps_no_old_state_or_lacks_the_method_is_left_out() {
    let catalog = catalog();
    let mut lagging = snapshot();
    lagging.heights[0] = Some(Height { height: 997, at_ms: 0 });
    let decision = decide(&ask(&catalog, "eth_call"), &lagging, &[], 1);
    assert_eq!(reason(&decision, "a:http"), ExclusionReason::Lagging);
    let old = Ask { need: BlockNeed::At(899), ..ask(&catalog, "eth_getBalance") };
    assert_eq!(reason(&decide(&old, &snapshot(), &[], 1), "b:http"), ExclusionReason::Archival);
    let recent = Ask { need: BlockNeed::At(901), ..old };
    assert!(eligible(&decide(&recent, &snapshot(), &[], 1)).contains(&"b:http"));
    let decision = decide(&ask(&catalog, "debug_traceCall"), &snapshot(), &[], 1);
    assert_eq!(reason(&decision, "c:http"), ExclusionReason::Method);
    let wide = Ask { need: BlockNeed::Range(900, 911), ..ask(&catalog, "eth_getLogs") };
    assert_eq!(reason(&decide(&wide, &snapshot(), &[], 1), "c:http"), ExclusionReason::Params);
}

#[test]
fn a_client_leaves_out_providers_by_name_and_limited_ones_only_where_it_asks_to() {
    let catalog = catalog();
    let without = ["a".to_owned(), "nobody".to_owned()];
    let decision = decide(&Ask { excluded: &without, ..ask(&catalog, "eth_call") }, &snapshot(), &[], 1);
    assert_eq!(reason(&decision, "a:http"), ExclusionReason::ExcludedByClient);
    assert_eq!(eligible(&decision), ["b:http", "c:http"]);
    let mut limited = snapshot();
    limited.channels[0].limited_until_ms = 1;
    assert_eq!(eligible(&decide(&ask(&catalog, "eth_call"), &limited, &[], 1)), ["b:http", "c:http", "a:http"]);
    let decision = decide(&Ask { leave_out_limited: true, ..ask(&catalog, "eth_call") }, &limited, &[], 1);
    assert_eq!(reason(&decision, "a:http"), ExclusionReason::RateLimited);
}

#[test]
fn limits_on_parameters_are_waived_only_before_anything_was_tried() {
    let catalog = catalog();
    let wide = Ask { need: BlockNeed::Range(900, 911), ..ask(&catalog, "eth_getLogs") };
    let only_c = ["a".to_owned(), "b".to_owned(), "d".to_owned()];
    let decision = decide(&Ask { excluded: &only_c, ..wide }, &snapshot(), &[], 1);
    assert_eq!((eligible(&decision), decision.fail_open), (vec!["c:http"], true));
    let only_a_and_c = ["b".to_owned(), "d".to_owned()];
    let tried = [Tried { channel: ChannelIndex(0), reason: ExclusionReason::Tried }];
    let decision = decide(&Ask { excluded: &only_a_and_c, ..wide }, &snapshot(), &tried, 1);
    assert!(eligible(&decision).is_empty() && !decision.fail_open);
    let denied = [Tried { channel: ChannelIndex(0), reason: ExclusionReason::CircuitOpen }];
    let decision = decide(&Ask { excluded: &only_a_and_c, ..wide }, &snapshot(), &denied, 1);
    assert_eq!(eligible(&decision), ["c:http"]);
}

#[test]
fn a_socket_is_a_candidate_while_it_stands_and_has_room() {
    let catalog = catalog();
    let mut snapshot = snapshot();
    snapshot.sockets = vec![LinkView::default(); 4];
    snapshot.sockets[1] = LinkView { connected: true, full: false };
    snapshot.sockets[3] = LinkView { connected: true, full: true };
    let decision = decide(&ask(&catalog, "eth_call"), &snapshot, &[], 1);
    assert_eq!(eligible(&decision), ["a:http", "b:http", "b:ws", "c:http"], "HTTP first of one provider");
    assert_eq!(reason(&decision, "d:ws"), ExclusionReason::Capacity);
    let over_ws = Ask { transport: Some(Transport::Ws), ..ask(&catalog, "eth_call") };
    assert_eq!(eligible(&decide(&over_ws, &snapshot, &[], 1)), ["b:ws"]);
}

#[test]
fn a_learned_time_between_blocks_is_what_a_height_is_credited_with() {
    let catalog = catalog();
    let mut snapshot = snapshot();
    snapshot.heights[0] = Some(Height { height: 990, at_ms: 0 });
    let later = Ask { now_ms: 2_000, ..ask(&catalog, "eth_call") };
    assert_eq!(reason(&decide(&later, &snapshot, &[], 1), "a:http"), ExclusionReason::Lagging);
    snapshot.block_times_ms.insert(1, 250.0);
    assert!(eligible(&decide(&later, &snapshot, &[], 1)).contains(&"a:http"), "eight blocks have come since");
}

#[test]
fn what_a_provider_is_said_to_lack_is_waived_where_nobody_else_is_left() {
    let catalog = catalog();
    let only_c = Ask { pin: Some(2), ..ask(&catalog, "debug_traceCall") };
    let decision = decide(&only_c, &snapshot(), &[], 1);
    assert_eq!(eligible(&decision), ["c:http"]);
    assert!(decision.fail_open);
}

proptest! {
    #[test]
    fn no_excluded_channel_is_ever_ranked(
        open in proptest::collection::vec(any::<bool>(), 8), busy in proptest::collection::vec(any::<bool>(), 8),
        tried in proptest::collection::vec(0usize..8, 0..4), heights in proptest::collection::vec(990u64..1_000, 4),
        pin in proptest::option::of(0usize..4), strategy in 0..Strategy::ALL.len(), seed: u64,
        method in prop_oneof![Just("eth_call"), Just("debug_traceCall"), Just("eth_getLogs"), Just("x_unknown")],
    ) {
        let catalog = catalog();
        let mut snapshot = snapshot();
        for (at, view) in snapshot.channels.iter_mut().enumerate() {
            if open[at] {
                view.circuit = CircuitState::Open;
            }
            view.trial_under_way = busy[at];
        }
        snapshot.heights = heights.into_iter().map(|height| Some(Height { height, at_ms: 0 })).collect();
        let tried: Vec<Tried> = tried
            .into_iter()
            .map(|at| Tried { channel: ChannelIndex(at), reason: ExclusionReason::Tried })
            .collect();
        let ask = Ask { pin, strategy: Strategy::ALL[strategy], ..ask(&catalog, method) };
        let decision = decide(&ask, &snapshot, &tried, seed);
        for candidate in &decision.eligible {
            let at = candidate.channel.0;
            prop_assert!(!open[at] && !busy[at]);
            prop_assert!(tried.iter().all(|tried| tried.channel != candidate.channel));
            prop_assert!(pin.is_none_or(|pin| pin == candidate.provider));
            prop_assert!(decision.excluded.iter().all(|excluded| excluded.name != candidate.name));
        }
        // Five channels are configured: three over HTTP, two over WebSocket.
        prop_assert_eq!(decision.eligible.len() + decision.excluded.len(), 5);
        let again = decide(&ask, &snapshot, &tried, seed);
        prop_assert_eq!(eligible(&again), eligible(&decision));
    }
}
