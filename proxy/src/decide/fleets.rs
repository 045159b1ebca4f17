//! Arbitrary fleets for property tests: providers of which more or less is known, in every state that a snapshot can hold.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use lariat_schema::vocabulary::{CircuitState, Strategy};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::Ask;
use crate::health::evidence::Evidence;
use crate::health::{ChannelIndex, ChannelView, Height, Snapshot};
use crate::policy::{self, BlockNeed};
use crate::profiles::{self, Catalog, ProfileKey};

/// The method that all of it is known for.
pub(crate) const METHOD: &str = "eth_call";
const PROFILE: &str = "public";

/// A catalog of one chain, and what is known of its providers.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) catalog: Catalog,
    pub(crate) snapshot: Snapshot,
}

/// What is known of one provider.
#[derive(Debug, Clone)]
struct Known {
    circuit: CircuitState,
    limited: bool,
    prior_ms: Option<f64>,
    latency_ms: f64,
    successes: u32,
    failures: u32,
    height: Option<u64>,
}

fn known(latencies_ms: Range<f64>) -> impl proptest::strategy::Strategy<Value = Known> {
    let circuit = prop_oneof![
        6 => Just(CircuitState::Closed), 1 => Just(CircuitState::HalfOpen), 1 => Just(CircuitState::Open),
    ];
    let limited = prop_oneof![5 => Just(false), 1 => Just(true)];
    let prior_ms = proptest::option::of(latencies_ms.clone());
    let height = proptest::option::of(990_u64..1_000);
    (circuit, limited, prior_ms, latencies_ms, 0_u32..6, 0_u32..4, height).prop_map(
        |(circuit, limited, prior_ms, latency_ms, successes, failures, height)| Known {
            circuit,
            limited,
            prior_ms,
            latency_ms,
            successes,
            failures,
            height,
        },
    )
}

/// Fleets of so many providers with latencies in that range.
pub(crate) fn fleets(
    providers: Range<usize>,
    latencies_ms: Range<f64>,
) -> impl proptest::strategy::Strategy<Value = Fleet> {
    proptest::collection::vec(known(latencies_ms), providers).prop_map(|all| fleet(&all))
}

/// One of the strategies.
pub(crate) fn strategies() -> impl proptest::strategy::Strategy<Value = Strategy> {
    (0..Strategy::ALL.len()).prop_map(|at| Strategy::ALL[at])
}

fn fleet(all: &[Known]) -> Fleet {
    let mut text = "chains:\n  e:\n    chain_id: 1\n    selection: { max_lag_blocks: 5 }\n    providers:\n".to_owned();
    for at in 0..all.len() {
        writeln!(text, "      - {{ id: p{at}, priority: {}, url: 'http://h{at}' }}", at + 1).unwrap();
    }
    let catalog = profiles::parse(PROFILE, &text, &|_| None).unwrap();
    let channels = all.iter().flat_map(|known| [view(known), view(known)]).collect();
    let heights = all.iter().map(|known| known.height.map(|height| Height { height, at_ms: 0 })).collect();
    Fleet { catalog, snapshot: Snapshot { number: 7, channels, heights, ..Snapshot::default() } }
}

fn view(known: &Known) -> ChannelView {
    let mut evidence = Evidence::default();
    for _ in 0..known.successes {
        evidence.succeed(known.latency_ms, 0);
    }
    for _ in 0..known.failures {
        evidence.fail(0);
    }
    let cells = (known.successes > 0).then_some(((ProfileKey::of(PROFILE), METHOD), evidence));
    ChannelView {
        circuit: known.circuit,
        epoch: 1,
        open_until_ms: 0,
        trial_under_way: false,
        limited_until_ms: if known.limited { 1_000 } else { 0 },
        prior_ms: known.prior_ms,
        evidence: Arc::new(HashMap::from_iter(cells)),
    }
}

impl Fleet {
    /// A call to it.
    pub(crate) fn ask(&self, strategy: Strategy) -> Ask<'_> {
        Ask {
            profile: 0,
            profile_key: ProfileKey::of(PROFILE),
            chain_at: 0,
            chain: &self.catalog.profiles[0].chains[0],
            method: METHOD,
            policy: policy::of(METHOD),
            strategy,
            transport: None,
            pin: None,
            excluded: &[],
            leave_out_limited: false,
            need: BlockNeed::Recent,
            now_ms: 0,
        }
    }

    /// The channel of the provider at that place.
    pub(crate) fn channel(&self, provider: usize) -> ChannelIndex {
        ChannelIndex::new(self.catalog.profiles[0].chains[0].providers[provider].instance, super::Transport::Http)
    }
}
