//! The query service: configuration, its three listeners, and the routes of all APIs over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::get;
use axum::serve::ListenerExt;
use lariat_collector::store::{BucketError, BucketPlace};
use lariat_schema::duration_text;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::admission::{Door, with_token};
use crate::ask::Ask;
use crate::bucket::history::{self, Chronicle};
use crate::bucket::poll::{LOOK_EVERY, Shelf};
use crate::bucket::services::Services;
use crate::bucket::worker::ServiceInfo;
use crate::engine::{Engine, EngineError};
use crate::feed::NodeDirectory;
use crate::limits::{self, Callers, Limits, by_caller};
use crate::membership::MembershipError;
use crate::ports::Shared;
use crate::ports::access::Access;
use crate::topology::{ClusterConfig, Secret, Topology, poll};
use crate::{api, dashboard, decisions, feed, flight_sql, postgres, prometheus, reports};

/// Section `query` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// HTTP: dashboard and APIs.
    pub http: SocketAddr,
    /// Flight SQL.
    pub flight_sql: SocketAddr,
    /// The Postgres protocol.
    pub postgres: SocketAddr,
    /// How long a question may take that does not say it, as `10s`.
    #[serde(deserialize_with = "duration_text::deserialize")]
    pub deadline: Duration,
    /// What clients have to give, whatever their protocol; none: nothing.
    pub token: Option<Secret>,
    /// Whether addresses beyond loopback may be bound although nobody is asked for a key.
    pub allow_open_access: bool,
    /// Rows of an answer that is complete before its first byte.
    pub max_rows: usize,
    /// Memory of one question, in bytes.
    pub max_query_bytes: usize,
    /// Bytes of files that one question may have read.
    pub max_scan_bytes: u64,
    /// Questions of one caller at a time.
    pub max_questions_per_caller: usize,
    /// Where the nodes' files are uploaded; none: the past of nodes that are gone is not read.
    pub bucket: Option<BucketPlace>,
}

/// Default deadline of a question.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            http: loopback(4_040),
            flight_sql: loopback(4_041),
            postgres: loopback(4_042),
            deadline: DEFAULT_DEADLINE,
            token: None,
            allow_open_access: false,
            max_rows: limits::DEFAULT_MAX_ROWS,
            max_query_bytes: limits::DEFAULT_MAX_QUERY_BYTES,
            max_scan_bytes: limits::DEFAULT_MAX_SCAN_BYTES,
            max_questions_per_caller: limits::DEFAULT_MAX_PER_CALLER,
            bucket: None,
        }
    }
}

impl Config {
    /// Listeners beyond loopback that would serve whoever comes, by the names of their keys.
    #[must_use]
    pub fn open_to_everybody(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = [("http", self.http), ("flight_sql", self.flight_sql), ("postgres", self.postgres)];
        let asks_nobody = self.token.is_none() && !self.allow_open_access;
        listeners.into_iter().filter(|(_, address)| asks_nobody && !address.ip().is_loopback()).collect()
    }

    fn limits(&self) -> Limits {
        Limits { max_rows: self.max_rows, max_query_bytes: self.max_query_bytes, max_scan_bytes: self.max_scan_bytes }
    }
}

/// What the service is made of.
#[derive(Debug, Default)]
pub struct Settings {
    /// Section `query`.
    pub config: Config,
    /// Section `cluster`.
    pub cluster: ClusterConfig,
    /// Where members are remembered; none: they are not.
    pub data_dir: Option<PathBuf>,
    /// Further routes, as the demo's.
    pub extra: Option<Router>,
}

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Binding beyond loopback would open the system to everybody.
    #[error("{address} is not loopback, and nobody would be asked for a key: set query.allow_open_access to bind it")]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The members cannot be remembered.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The engine cannot start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The id of this service cannot be kept.
    #[error("cannot keep the query service's id in its data directory")]
    Identity(#[source] std::io::Error),
    /// The bucket cannot be used as configured.
    #[error("query.bucket: {0}")]
    Bucket(#[from] BucketError),
}

/// A running query service.
pub struct Query {
    address: SocketAddr,
    flight_sql: SocketAddr,
    postgres: SocketAddr,
    engine: Arc<Engine>,
    callers: Arc<Callers>,
    stop: CancellationToken,
    serving: [JoinHandle<()>; 3],
    polling: Vec<JoinHandle<()>>,
}

/// Starts the service; it accepts requests when this returns.
///
/// # Errors
/// When an address cannot be bound, or the data directory cannot be used.
pub async fn start(settings: Settings) -> Result<Query, StartError> {
    let Settings { config, cluster, data_dir, extra } = settings;
    if let Some((_, address)) = config.open_to_everybody().first() {
        return Err(StartError::Open { address: *address });
    }
    let service_id = match (&data_dir, &config.bucket) {
        (Some(data_dir), Some(_)) => Some(history::service_id(data_dir).map_err(StartError::Identity)?),
        _ => None,
    };
    let topology = Topology::open(&cluster, data_dir)?;
    let shelf = config.bucket.as_ref().map(Shelf::open).transpose()?.map(Arc::new);
    let token = cluster.token.as_ref().map(|token| Arc::clone(token.reveal()));
    let callers = Callers::new(config.max_questions_per_caller);
    let (for_http, address) = bind(config.http).await?;
    let (for_flight, flight_sql) = bind(config.flight_sql).await?;
    let (for_postgres, postgres) = bind(config.postgres).await?;
    let reading = shelf.map(|shelf| {
        let services = Services::new(own_info(&shelf), &cluster.queries);
        (shelf, Arc::new(services))
    });
    let limits = (config.deadline, config.limits());
    let engine = Engine::start(Arc::clone(&topology), token.as_deref(), limits, reading.clone(), address)?;
    let engine = Arc::new(engine);
    let stop = CancellationToken::new();
    let mut polling = vec![tokio::spawn(poll::run(Arc::clone(&topology), cluster.dns_query, stop.clone()))];
    if let Some((shelf, services)) = reading {
        let chronicle = Chronicle::new(Arc::clone(&shelf), Arc::clone(&topology), service_id);
        polling.push(tokio::spawn(keep_looking(shelf, chronicle, stop.clone())));
        let (client, stop) = (topology.client.clone(), stop.clone());
        polling.push(tokio::spawn(async move { services.keep_looking(&client, stop).await }));
    }
    let ask: Arc<dyn Ask> = Arc::clone(&engine) as _;
    let shared = Shared::new(Arc::clone(&ask), Access::new(config.token), Arc::clone(&callers));
    let door = Door { access: shared.access.clone(), tally: Arc::clone(&shared.tally) };
    let watched = Watched { topology, engine: Arc::clone(&engine), callers: Arc::clone(&callers), door };
    let routes = routes(ask, watched, stop.clone(), extra);
    // Without a token nobody could be told from a query service.
    let routes = routes.merge(token.as_ref().map(|token| engine.bucket_routes(token)).unwrap_or_default());
    let serving = [
        serve_http(for_http, routes, stop.clone()),
        flight_sql::serve(for_flight, shared.clone(), stop.clone()),
        postgres::serve(for_postgres, shared, stop.clone()),
    ];
    Ok(Query { address, flight_sql, postgres, engine, callers, stop, serving, polling })
}

/// A listener, and the address that it got.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn serve_http(listener: TcpListener, routes: Router, stop: CancellationToken) -> JoinHandle<()> {
    let listener = listener.tap_io(|connection| {
        // Small answers must not wait for a full packet; without it they are slower, and right all the same.
        connection.set_nodelay(true).ok();
    });
    tokio::spawn(async move {
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the query service stopped serving");
        }
    })
}

impl Query {
    /// The address of HTTP, with the port that the system chose.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.address
    }

    /// Every listener: its name and its URL.
    #[must_use]
    pub fn listeners(&self) -> [(&'static str, String); 3] {
        [
            ("query", format!("http://{}", self.address)),
            ("flight_sql", flight_sql::url(self.flight_sql)),
            ("postgres", postgres::url(self.postgres)),
        ]
    }

    /// The engine, for other protocols.
    #[must_use]
    pub fn engine(&self) -> Arc<dyn Ask> {
        Arc::clone(&self.engine) as Arc<dyn Ask>
    }

    /// The places of callers, for other protocols.
    #[must_use]
    pub fn callers(&self) -> Arc<Callers> {
        Arc::clone(&self.callers)
    }

    /// Stops accepting, lets running requests finish until the deadline, and ends.
    pub async fn shutdown(self, deadline: Duration) {
        self.stop.cancel();
        let ends = tokio::time::Instant::now() + deadline;
        for mut serving in self.serving {
            if tokio::time::timeout_at(ends, &mut serving).await.is_err() {
                tracing::warn!("requests were still running at the deadline and are cut off");
                serving.abort();
            }
        }
        self.polling.iter().for_each(JoinHandle::abort);
    }
}

/// How this service tells of itself to others.
fn own_info(shelf: &Shelf) -> ServiceInfo {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    ServiceInfo { instance_id: Uuid::new_v4(), version, bucket: shelf.place.clone() }
}

/// Looks into the bucket now and then.
async fn keep_looking(shelf: Arc<Shelf>, mut chronicle: Chronicle, stop: CancellationToken) {
    loop {
        shelf.look().await;
        chronicle.round().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What readiness and figures are told of.
#[derive(Clone)]
struct Watched {
    topology: Arc<Topology>,
    engine: Arc<Engine>,
    callers: Arc<Callers>,
    door: Door,
}

/// Every route of the service. Starts the live feed, which ends with the last of them.
fn routes(ask: Arc<dyn Ask>, watched: Watched, stop: CancellationToken, extra: Option<Router>) -> Router {
    let topology = Arc::clone(&watched.topology);
    let callers = Arc::clone(&watched.callers);
    let feed = feed::start(Arc::clone(&topology) as Arc<dyn NodeDirectory>);
    let asking = api::sql::router(Arc::clone(&ask))
        .merge(api::nodes::router(Arc::clone(&ask)))
        .merge(api::coverage::router(Arc::clone(&ask)))
        .merge(reports::router(Arc::clone(&ask)))
        .merge(decisions::router(Arc::clone(&ask)))
        .merge(prometheus::router(Arc::clone(&ask)))
        .route_layer(middleware::from_fn_with_state(callers, by_caller));
    let with_token = middleware::from_fn_with_state(watched.door.clone(), with_token);
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .with_state(watched.clone())
        .merge(api::openapi::router())
        .merge(asking)
        .merge(feed::router(feed, ask, stop))
        .merge(dashboard::router())
        .route_layer(with_token);
    // Retiring asks for the cluster's token, which is another.
    let own = Router::new()
        .route("/ready", get(ready))
        .with_state(watched)
        .route("/health", get(|| async { "ok\n" }))
        .merge(api::retire::router(topology))
        .merge(guarded);
    match extra {
        Some(extra) => own.merge(extra),
        None => own,
    }
}

async fn ready(State(watched): State<Watched>) -> (StatusCode, &'static str) {
    if !watched.topology.settled() {
        (StatusCode::SERVICE_UNAVAILABLE, "some nodes are neither ready nor known to be down\n")
    } else if !watched.engine.has_looked() {
        (StatusCode::SERVICE_UNAVAILABLE, "the first look into the bucket has not ended\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// Nodes by state, what the bucket holds and what was refused, as Prometheus text.
async fn metrics(State(watched): State<Watched>) -> String {
    use std::fmt::Write;
    let view = watched.topology.view();
    let mut text = String::from("# TYPE lariat_query_nodes gauge\n");
    for state in lariat_schema::coverage::NodeState::ALL {
        let count = view.known.iter().filter(|node| node.progress.state == *state).count();
        writeln!(text, "lariat_query_nodes{{state=\"{state}\"}} {count}").ok();
    }
    let members = view.members.iter().filter(|member| member.is_expected()).count();
    writeln!(text, "# TYPE lariat_query_members gauge\nlariat_query_members {members}").ok();
    let refused = view.members_refused;
    writeln!(text, "# TYPE lariat_query_members_refused_total counter\nlariat_query_members_refused_total {refused}")
        .ok();
    let refused = watched.callers.refused();
    writeln!(text, "# TYPE lariat_query_callers_refused_total counter\nlariat_query_callers_refused_total {refused}")
        .ok();
    watched.door.tally.render(&mut text);
    text.push_str(&watched.engine.bucket_figures());
    text
}
