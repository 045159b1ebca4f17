//! `lariat demo`: a whole fleet in one process over real sockets: simulated providers, nodes in three regions, traffic and
//! a query service. It is made of the same parts as a real fleet, configured as an operator would; only the providers and
//! the callers are simulated.

mod controls;
mod figures;
mod fleet;
mod ports;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lariat_query::Query;
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::fleet::RegionFleet;
use lariat_tools::traffic::{self, TrafficHandle, TrafficSettings};
use tokio::sync::OnceCell;

use crate::cli::{DemoArguments, Failure};
use crate::own_spans::OwnSpans;
use crate::processes::node::{ExporterTuning, Parts, Settings};
use crate::processes::{chain as causes, left, node_identity};
use crate::{config, logging, shutdown};
use fleet::{Fleet, SharedFleet};

/// Regions, in the order of the nodes.
const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
/// Age at which hot rows are sealed: short, so that a first look finds files.
const FLUSH_AGE: &str = "10s";
/// Interval of the nodes' metrics.
const METRIC_INTERVAL_MS: u64 = 1_000;
/// Longest time that the whole demo takes to end.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the demo until a signal or `--duration`.
pub(crate) async fn run(arguments: DemoArguments) -> Result<(), Failure> {
    let mut signals = shutdown::catch()?;
    logging::start(logging::DEMO_FILTER, &OwnSpans::default());
    if !(arguments.rps.is_finite() && arguments.rps >= 0.0) {
        return Err(Failure::Usage(format!("--rps {}: a rate is a number from 0 up", arguments.rps)));
    }
    let demo = Demo::start(&arguments).await?;
    demo.introduce(&arguments).await;
    let ended_by = tokio::select! {
        signal = signals.next() => signal,
        () = elapse(arguments.duration) => "--duration",
        () = figures::show(&demo) => "the figures",
    };
    signals.end_at_next();
    figures::end_line();
    tracing::info!(ended_by, "draining");
    demo.shutdown().await;
    Ok(())
}

/// Everything that runs.
struct Demo {
    providers: Vec<RegionFleet>,
    fleet: SharedFleet,
    query: Query,
    traffic: TrafficHandle,
    nodes: u16,
}

impl Demo {
    async fn start(arguments: &DemoArguments) -> Result<Self, Failure> {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        let providers = lariat_tools::fleet::start(arguments.seed, &REGIONS, &chain)
            .await
            .map_err(|error| Failure::Failed(causes(&error)))?;
        let token: Arc<str> = Arc::from(hex::encode(rand::random::<[u8; 16]>()));
        let ports = ports::choose(arguments.port_base, arguments.nodes)?;
        let mut settings = Vec::new();
        for (number, ports) in (0..).zip(ports.nodes) {
            settings.push(node_settings(arguments, number, ports, &providers, &token)?);
        }
        let nodes = Fleet::start(settings).await?;
        nodes.announce().await?;
        let node_apis = nodes.node_api_addresses().await;
        let targets = nodes.proxy_urls().await;
        let fleet: SharedFleet = Arc::new(OnceCell::new_with(Some(nodes)));
        let query = match start_query(arguments, ports.query, node_apis, &token, Arc::clone(&fleet)).await {
            Ok(query) => query,
            Err(failure) => {
                if let Some(fleet) = fleet.get() {
                    fleet.shutdown(SHUTDOWN_DEADLINE).await;
                }
                return Err(failure);
            }
        };
        let mut load = TrafficSettings::new(targets, arguments.rps);
        load.seed = arguments.seed;
        load.chain = Some(Arc::clone(&chain));
        let traffic = traffic::start(load);
        Ok(Self { providers, fleet, query, traffic, nodes: arguments.nodes })
    }

    /// Addresses, and three commands to try.
    async fn introduce(&self, arguments: &DemoArguments) {
        let url = format!("http://{}", self.query.http_address());
        let proxies = match self.fleet.get() {
            Some(fleet) => fleet.proxy_urls().await,
            None => Vec::new(),
        };
        figures::introduce(&url, &proxies, &arguments.data_dir);
    }

    /// Traffic first, then the nodes, then who asks them, then who answers them, within one deadline.
    async fn shutdown(self) {
        let started = Instant::now();
        self.traffic.stop(Duration::from_secs(2)).await;
        if let Some(fleet) = self.fleet.get() {
            fleet.shutdown(left(started, SHUTDOWN_DEADLINE)).await;
        }
        self.query.shutdown(left(started, SHUTDOWN_DEADLINE)).await;
        for region in self.providers {
            region.shutdown().await;
        }
    }
}

async fn elapse(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A node's settings, its profile written where an operator would look for it.
fn node_settings(
    arguments: &DemoArguments,
    number: u16,
    ports: ports::NodePorts,
    providers: &[RegionFleet],
    token: &Arc<str>,
) -> Result<Settings, Failure> {
    let place = usize::from(number) % REGIONS.len();
    let data_dir = fleet::node_dir(&arguments.data_dir, number);
    let profiles_dir = data_dir.join("profiles");
    write_profile(&profiles_dir, &providers[place].profile_yaml())?;
    let sections = serde_json::json!({
        "proxy": {"listen": ports.proxy},
        "collector": {"otlp_grpc": ports.otlp_grpc, "otlp_http": ports.otlp_http, "node_api": ports.node_api, "flush_age": FLUSH_AGE},
    });
    let config = config::from_tree(sections).map_err(|errors| config::failure(&errors))?;
    Ok(Settings {
        parts: Parts::Both,
        identity: node_identity("lariat", "127.0.0.1", ports.node_api.port(), REGIONS[place]),
        proxy: config.proxy,
        collector: config.collector,
        data_dir,
        profiles: Arc::new(config::load_profiles(&profiles_dir)?),
        profiles_dir,
        token: Some(Arc::clone(token)),
        exporter: ExporterTuning { metric_interval_ms: Some(METRIC_INTERVAL_MS), ..ExporterTuning::default() },
    })
}

fn write_profile(dir: &Path, yaml: &str) -> Result<(), Failure> {
    let path = dir.join("public.yml");
    std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, yaml)).map_err(|error| {
        Failure::Failed(format!("cannot write {}: {error}; choose another --data-dir", path.display()))
    })
}

async fn start_query(
    arguments: &DemoArguments,
    ports: ports::QueryPorts,
    nodes: Vec<String>,
    token: &Arc<str>,
    fleet: SharedFleet,
) -> Result<Query, Failure> {
    let sections = serde_json::json!({
        "query": {"http": ports.http, "flight_sql": ports.flight_sql, "postgres": ports.postgres},
        "cluster": {"nodes": nodes, "expected_nodes": arguments.nodes, "token": token},
    });
    let config = config::from_tree(sections).map_err(|errors| config::failure(&errors))?;
    let data_dir = arguments.data_dir.join("query");
    let settings = lariat_query::Settings {
        config: config.query,
        cluster: config.cluster,
        data_dir: Some(data_dir.clone()),
        extra: Some(controls::router(fleet)),
    };
    let query = lariat_query::start(settings).await.map_err(|error| Failure::Failed(causes(&error)))?;
    let mut listening = crate::listening::Listening::default();
    for (name, url) in query.listeners() {
        listening.announce_url(name, url);
    }
    listening.write(&data_dir)?;
    Ok(query)
}
