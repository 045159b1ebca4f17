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
use lariat_schema::duration_text;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ask::Ask;
use crate::engine::{Engine, EngineError};
use crate::feed::NodeDirectory;
use crate::limits::{self, Callers, Limits, by_caller};
use crate::membership::MembershipError;
use crate::ports::Shared;
use crate::ports::access::Access;
use crate::ports::tally::Tally;
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
    /// What clients of Flight SQL and Postgres have to give; none: nothing. HTTP does not ask for it.
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
        }
    }
}

impl Config {
    /// Listeners beyond loopback that would serve whoever comes, by the names of their keys.
    #[must_use]
    pub fn open_to_everybody(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = [
            ("http", self.http, true),
            ("flight_sql", self.flight_sql, self.token.is_none()),
            ("postgres", self.postgres, self.token.is_none()),
        ];
        let open = |(_, address, unguarded): &(&str, SocketAddr, bool)| *unguarded && !address.ip().is_loopback();
        let open = listeners.into_iter().filter(|listener| !self.allow_open_access && open(listener));
        open.map(|(key, address, _)| (key, address)).collect()
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
    polling: JoinHandle<()>,
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
    let topology = Topology::open(&cluster, data_dir)?;
    let token = cluster.token.as_ref().map(|token| Arc::clone(token.reveal()));
    let engine = Arc::new(Engine::start(Arc::clone(&topology), token.as_deref(), config.deadline, config.limits())?);
    let callers = Callers::new(config.max_questions_per_caller);
    let (for_http, address) = bind(config.http).await?;
    let (for_flight, flight_sql) = bind(config.flight_sql).await?;
    let (for_postgres, postgres) = bind(config.postgres).await?;
    let stop = CancellationToken::new();
    let polling = tokio::spawn(poll::run(Arc::clone(&topology), cluster.dns_query, stop.clone()));
    let ask: Arc<dyn Ask> = Arc::clone(&engine) as _;
    let shared = Shared::new(Arc::clone(&ask), Access::new(config.token), Arc::clone(&callers));
    let figures = Figures { topology, callers: Arc::clone(&callers), tally: Arc::clone(&shared.tally) };
    let serving = [
        serve_http(for_http, routes(ask, figures, stop.clone(), extra), stop.clone()),
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
        self.polling.abort();
    }
}

/// Every route of the service. Starts the live feed, which ends with the last of them.
fn routes(ask: Arc<dyn Ask>, figures: Figures, stop: CancellationToken, extra: Option<Router>) -> Router {
    let topology = Arc::clone(&figures.topology);
    let feed = feed::start(Arc::clone(&topology) as Arc<dyn NodeDirectory>);
    let asking = api::sql::router(Arc::clone(&ask))
        .merge(api::nodes::router(Arc::clone(&ask)))
        .merge(api::coverage::router(Arc::clone(&ask)))
        .merge(reports::router(Arc::clone(&ask)))
        .merge(decisions::router(Arc::clone(&ask)))
        .merge(prometheus::router(Arc::clone(&ask)))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&figures.callers), by_caller));
    let own = Router::new()
        .route("/metrics", get(metrics))
        .with_state(figures)
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready).with_state(Arc::clone(&topology)))
        .merge(api::retire::router(topology))
        .merge(api::openapi::router())
        .merge(asking)
        .merge(feed::router(feed, ask, stop))
        .merge(dashboard::router());
    match extra {
        Some(extra) => own.merge(extra),
        None => own,
    }
}

/// What is counted in a query service.
#[derive(Clone)]
struct Figures {
    topology: Arc<Topology>,
    callers: Arc<Callers>,
    tally: Arc<Tally>,
}

async fn ready(State(topology): State<Arc<Topology>>) -> (StatusCode, &'static str) {
    if topology.settled() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "some nodes are neither ready nor known to be down\n")
    }
}

/// Nodes by state, and what was refused, as Prometheus text.
async fn metrics(State(Figures { topology, callers, tally }): State<Figures>) -> String {
    use std::fmt::Write;
    let view = topology.view();
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
    let refused = callers.refused();
    writeln!(text, "# TYPE lariat_query_callers_refused_total counter\nlariat_query_callers_refused_total {refused}")
        .ok();
    tally.render(&mut text);
    text
}
