//! The providers of the demo: four per region, the same four names everywhere, different in how they behave there. The
//! figures are chosen so that within a minute a dashboard shows a fast provider that limits its rate, a steady one, an
//! archive that goes down now and then, and a cheap one that lags and fails. No name is a real company's.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::chain::Chain;
use crate::provider::behaviour::{Behaviour, Fault, FaultRate, Latency, Outage};
use crate::provider::{Provider, ProviderHandle, ProviderSettings, StartError};

/// Key of the demo's chain in its profile.
pub const CHAIN_NAME: &str = "ethereum";
/// Blocks a provider may be behind before the demo's profile leaves it out.
const LAG_MAX_BLOCKS: u64 = 3;

/// A provider to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderPlan {
    /// Its id in the profile.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// Its priority in the profile, lower first.
    pub priority: u32,
    /// Whether the profile calls it an archive.
    pub archival: bool,
    /// What its draws start from.
    pub seed: u64,
    /// How it behaves.
    pub behaviour: Behaviour,
}

/// The providers of one region.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionPlan {
    /// The region.
    pub region: String,
    /// Its providers, by priority.
    pub providers: Vec<ProviderPlan>,
}

/// How a region sees the four: latency (median, 99th percentile) in milliseconds.
const LATENCY_MS: [[(f64, f64); 4]; 3] = [
    [(9.0, 45.0), (24.0, 110.0), (58.0, 240.0), (38.0, 420.0)],
    [(42.0, 150.0), (11.0, 60.0), (36.0, 180.0), (27.0, 300.0)],
    [(95.0, 340.0), (64.0, 230.0), (22.0, 95.0), (48.0, 620.0)],
];
/// Blocks that the cheap one is behind.
const CHEAP_LAG_BLOCKS: [u64; 3] = [1, 2, 5];
/// Calls per second that the fast one allows.
const FAST_CALLS_PER_SECOND: [u32; 3] = [5, 12, 20];

/// Describes the demo's providers: the same for the same seed and regions.
#[must_use]
pub fn providers_for_demo(seed: u64, regions: &[&str]) -> Vec<RegionPlan> {
    let plan = |(i, region): (usize, &&str)| {
        let kind = i % LATENCY_MS.len();
        let seed = seed.wrapping_add((i as u64).wrapping_mul(1_000));
        RegionPlan { region: (*region).to_owned(), providers: four(kind, seed) }
    };
    regions.iter().enumerate().map(plan).collect()
}

fn four(kind: usize, seed: u64) -> Vec<ProviderPlan> {
    let latency = |place: usize| {
        let (median_ms, p99_ms) = LATENCY_MS[kind][place];
        Latency { median_ms, p99_ms }
    };
    let rate = |fault, probability| FaultRate { fault, probability };
    let no_debug = vec!["debug_traceTransaction".to_owned()];
    let fast = Behaviour {
        latency: latency(0),
        faults: vec![rate(Fault::RpcInternalError, 0.002)],
        rate_limit_per_second: Some(FAST_CALLS_PER_SECOND[kind]),
        missing_methods: no_debug.clone(),
        state_depth_blocks: Some(128),
        ..Behaviour::default()
    };
    let steady = Behaviour {
        latency: latency(1),
        faults: vec![rate(Fault::RpcLimitExceeded, 0.006), rate(Fault::ServerError, 0.002)],
        missing_methods: no_debug.clone(),
        outage: (kind == 1).then_some(outage_s(70, 9, 25, Fault::Reset)),
        ..Behaviour::default()
    };
    let archive = Behaviour {
        latency: latency(2),
        faults: vec![rate(Fault::ServerError, 0.004)],
        outage: (kind == 0).then_some(outage_s(60, 8, 15, Fault::ServerError)),
        max_block_range: 10_000,
        ..Behaviour::default()
    };
    let mut missing = no_debug;
    missing.extend((kind == 2).then(|| "eth_getLogs".to_owned()));
    missing.push("eth_feeHistory".to_owned());
    let cheap = Behaviour {
        latency: latency(3),
        faults: vec![
            rate(Fault::ServerError, 0.025),
            rate(Fault::RpcServerError, 0.012),
            rate(Fault::Reset, 0.006),
            rate(Fault::Hang, 0.003),
            rate(Fault::Garbage, 0.002),
            rate(Fault::WrongId, 0.001),
            rate(Fault::Truncated, 0.001),
        ],
        lag_blocks: CHEAP_LAG_BLOCKS[kind],
        missing_methods: missing,
        outage: (kind == 2).then_some(outage_s(45, 6, 10, Fault::Reset)),
        state_depth_blocks: Some(64),
        ..Behaviour::default()
    };
    let named = [
        ("northwind", "Northwind", false, fast),
        ("harbor", "Harbor", true, steady),
        ("basalt", "Basalt Archive", true, archive),
        ("lumen", "Lumen", false, cheap),
    ];
    (1..)
        .zip(named)
        .map(|(priority, (id, name, archival, behaviour))| ProviderPlan {
            id,
            name,
            priority,
            archival,
            seed: seed.wrapping_add(u64::from(priority)),
            behaviour,
        })
        .collect()
}

const fn outage_s(period_s: u64, length_s: u64, phase_s: u64, fault: Fault) -> Outage {
    Outage { period_ms: period_s * 1_000, length_ms: length_s * 1_000, phase_ms: phase_s * 1_000, fault }
}

/// The running providers of one region.
#[derive(Debug)]
pub struct RegionFleet {
    /// What was planned.
    pub plan: RegionPlan,
    /// The providers, in the plan's order.
    pub providers: Vec<ProviderHandle>,
    chain: Arc<Chain>,
}

/// Starts the demo's providers, each on a free port of loopback, all on one chain.
///
/// # Errors
/// When a port cannot be bound.
pub async fn start(seed: u64, regions: &[&str], chain: &Arc<Chain>) -> Result<Vec<RegionFleet>, StartError> {
    let mut fleets = Vec::with_capacity(regions.len());
    for plan in providers_for_demo(seed, regions) {
        let mut providers = Vec::with_capacity(plan.providers.len());
        for provider in &plan.providers {
            let settings = ProviderSettings {
                name: format!("{}-{}", provider.id, plan.region),
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                chain: Arc::clone(chain),
                seed: provider.seed,
                behaviour: provider.behaviour.clone(),
                script: None,
                tls: None,
            };
            providers.push(Provider::start(settings).await?);
        }
        fleets.push(RegionFleet { plan, providers, chain: Arc::clone(chain) });
    }
    Ok(fleets)
}

impl RegionFleet {
    /// A profile `public` of this region's providers, as the file `public.yml` holds it.
    #[must_use]
    pub fn profile_yaml(&self) -> String {
        let chain = self.chain.settings();
        let mut yaml = format!(
            "---\nname: \"Public\"\nslug: public\n---\n\
             default_strategy: load_balanced\n\
             sampling: {{ rate: 1.0 }}\n\
             chains:\n  {CHAIN_NAME}:\n    chain_id: {}\n    name: \"Ethereum (simulated)\"\n    block_time_ms: {}\n\
             \x20   monitoring: {{ probe_interval_ms: 5000 }}\n    selection: {{ max_lag_blocks: {LAG_MAX_BLOCKS} }}\n\
             \x20   providers:\n",
            chain.chain_id, chain.block_time_ms,
        );
        for (plan, handle) in self.plan.providers.iter().zip(&self.providers) {
            // Writing into a string cannot fail.
            let _ = write!(
                yaml,
                "      - id: {}\n        name: \"{}\"\n        priority: {}\n        archival: {}\n        url: \"{}\"\n        ws_url: \"{}\"\n",
                plan.id,
                plan.name,
                plan.priority,
                plan.archival,
                handle.http_url(),
                handle.ws_url(),
            );
        }
        yaml
    }

    /// Ends all of its providers.
    pub async fn shutdown(self) {
        futures::future::join_all(self.providers.into_iter().map(ProviderHandle::shutdown)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainSettings;

    #[test]
    fn the_same_seed_plans_the_same_fleet_and_regions_differ() {
        let regions = ["us-east", "eu-west", "ap-south"];
        let plans = providers_for_demo(4, &regions);
        assert_eq!(plans, providers_for_demo(4, &regions));
        for pair in plans.windows(2) {
            for (here, there) in pair[0].providers.iter().zip(&pair[1].providers) {
                assert_eq!(here.id, there.id);
                assert_ne!(here.behaviour, there.behaviour, "{} is the same in two regions", here.id);
            }
        }
    }

    #[tokio::test]
    async fn a_regions_profile_names_each_of_its_providers_once() {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        let fleets = start(1, &["us-east"], &chain).await.unwrap();
        let yaml = fleets[0].profile_yaml();
        for provider in &fleets[0].providers {
            assert_eq!(yaml.matches(&format!("url: \"{}\"", provider.http_url())).count(), 1, "{yaml}");
        }
        for fleet in fleets {
            fleet.shutdown().await;
        }
    }
}
