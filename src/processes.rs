//! The long-running parts as processes: configuration in, listeners announced, a signal awaited, a drain in order under
//! one deadline.

pub(crate) mod node;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lariat_schema::ids::{BootId, NodeId, Region};
use lariat_schema::node_api::NodeIdentity;
use uuid::Uuid;

use crate::cli::{Failure, ServeArguments};
use crate::config::{self, Config};
use crate::listening::Listening;
use crate::own_spans::OwnSpans;
use crate::shutdown::Signals;
use crate::{logging, shutdown};

/// Port of a node API that is left out of node ids.
const DEFAULT_NODE_API_PORT: u16 = 4319;

/// Part of a clean end that the last own spans may take.
const OWN_SPANS_DEADLINE: Duration = Duration::from_secs(1);

/// Which part a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Node,
    Proxy,
    Collector,
    Query,
}

/// Runs one part until a signal asks for its end.
pub(crate) async fn run(role: Role, arguments: ServeArguments) -> Result<(), Failure> {
    let signals = shutdown::catch()?;
    let config = config::load(&arguments)?;
    let environment = config::Environment::of_process();
    let own = OwnSpans::from_environment(&environment);
    logging::start(logging::SERVICE_FILTER, &own);
    match role {
        Role::Query => run_query(config, &environment, own, signals).await,
        Role::Node => run_node(config, node::Parts::Both, own, signals).await,
        Role::Proxy => run_node(config, node::Parts::Proxy, own, signals).await,
        Role::Collector => run_node(config, node::Parts::Collector, own, signals).await,
    }
}

async fn run_node(mut config: Config, parts: node::Parts, own: OwnSpans, mut signals: Signals) -> Result<(), Failure> {
    if config.collector.node_api.port() == 0 {
        // A node's name holds this port, so it is chosen before the node has one.
        if let [port] = free_ports(1)?[..] {
            config.collector.node_api.set_port(port);
        }
    }
    let mut hangups = shutdown::catch_hangups()?;
    let profiles = match parts {
        node::Parts::Collector => config::load_rates(&config.profiles_dir)?,
        node::Parts::Both | node::Parts::Proxy => config::load_profiles(&config.profiles_dir)?,
    };
    let token = config.cluster.token.as_ref().map(|token| Arc::clone(token.reveal()));
    let settings = node::Settings {
        parts,
        identity: identity(&config),
        proxy: config.proxy,
        collector: config.collector,
        data_dir: config.data_dir.clone(),
        profiles: Arc::new(profiles),
        profiles_dir: config.profiles_dir.clone(),
        token,
        exporter: node::ExporterTuning::from_environment(&config::Environment::of_process())?,
    };
    let identity = settings.identity.clone();
    let node = node::Node::start(settings).await?;
    let exporter = node.exporter();
    own.send_to(&exporter.endpoint, exporter.token.as_deref(), "lariat-node", &identity);
    let mut listening = Listening::default();
    node.announce(&mut listening);
    listening.write(&config.data_dir)?;
    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            _ = hangups.recv() => {}
        }
        tokio::select! {
            signal = signals.next() => break signal,
            () = node.reload() => {}
        }
    };
    signals.end_at_next();
    tracing::info!(signal, deadline_ms = millis(config.shutdown_deadline), "draining");
    own.finish(OWN_SPANS_DEADLINE).await;
    node.shutdown(config.shutdown_deadline).await;
    tracing::info!("ended");
    Ok(())
}

async fn run_query(
    config: Config,
    environment: &config::Environment,
    own: OwnSpans,
    mut signals: Signals,
) -> Result<(), Failure> {
    let region = config.cluster.region.clone();
    let mut of_query = config.query;
    if of_query.bucket.is_none() {
        // One file may configure both sides; the bucket is then written down once.
        of_query.bucket = config.collector.bucket.as_ref().map(lariat_collector::store::BucketConfig::place);
    }
    let settings = lariat_query::Settings {
        config: of_query,
        cluster: config.cluster,
        data_dir: Some(config.data_dir.clone()),
        extra: None,
    };
    let query = lariat_query::start(settings).await.map_err(|error| Failure::Failed(chain(&error)))?;
    let mut listening = Listening::default();
    for (name, url) in query.listeners() {
        listening.announce_url(name, url);
    }
    // It knows nodes by their APIs, not by where they take telemetry.
    if let Some(endpoint) = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") {
        let node_id = NodeId::from(format!("query@{}", query.http_address()));
        let identity = NodeIdentity { node_id, region: Region::from(region), boot_id: BootId(Uuid::new_v4()) };
        own.send_to(&endpoint, None, "lariat-query", &identity);
    }
    listening.write(&config.data_dir)?;
    let signal = signals.next().await;
    signals.end_at_next();
    tracing::info!(signal, deadline_ms = millis(config.shutdown_deadline), "draining");
    own.finish(OWN_SPANS_DEADLINE).await;
    query.shutdown(config.shutdown_deadline).await;
    tracing::info!("ended");
    Ok(())
}

/// Ports that systems give to nobody who does not ask for them: below those of outgoing connections, which Linux begins at
/// 32768 and others later. A port of that range could be gone before it is bound, or while its node is down.
const UNASSIGNED_PORTS: Range<u16> = 15_000..32_000;
/// Ports that are tried before giving up: more of them taken in a row is no chance.
const PORT_TRIES: usize = 1_000;

/// So many different ports of loopback that nobody listens on now.
pub(crate) fn free_ports(wanted: usize) -> Result<Vec<u16>, Failure> {
    let mut held = Vec::new();
    let mut last = None;
    for _ in 0..wanted + PORT_TRIES {
        if held.len() == wanted {
            break;
        }
        // Held until all are found, so that none is found twice.
        let port = rand::random_range(UNASSIGNED_PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => held.push((port, listener)),
            Err(error) => last = Some(error),
        }
    }
    if held.len() < wanted {
        let why = last.map_or_else(String::new, |error| format!(": {error}"));
        let (from, to) = (UNASSIGNED_PORTS.start, UNASSIGNED_PORTS.end);
        return Err(Failure::Failed(format!("too few ports from {from} to {to} are free{why}")));
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// Who this process is: `basename@ip`, with the node API's port when it is not the usual one.
fn identity(config: &Config) -> NodeIdentity {
    let port = config.collector.node_api.port();
    node_identity(&config.cluster.node_basename, &config.cluster.node_ip, port, &config.cluster.region)
}

/// An identity with a new boot id.
pub(crate) fn node_identity(basename: &str, ip: &str, node_api_port: u16, region: &str) -> NodeIdentity {
    let name = match node_api_port {
        DEFAULT_NODE_API_PORT => format!("{basename}@{ip}"),
        port => format!("{basename}@{ip}:{port}"),
    };
    NodeIdentity { node_id: NodeId::from(name), region: Region::from(region), boot_id: BootId(Uuid::new_v4()) }
}

/// An error and its causes as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let next = deeper.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = deeper.source();
    }
    text
}

/// What is left of `deadline` since `started`.
pub(crate) fn left(started: Instant, deadline: Duration) -> Duration {
    deadline.saturating_sub(started.elapsed())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
