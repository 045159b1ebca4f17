//! A node: a proxy and the collector beside it, or one of them alone. The proxy's telemetry goes to the collector over a
//! real socket even in one process, so that a node is the same thing however it is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lariat_collector::{Collector, Policies, SamplingPolicy};
use lariat_proxy::Proxy;
use lariat_proxy::profiles::Catalog;
use lariat_proxy::record::ExporterConfig;
use lariat_proxy::reload::{Beside, Source};
use lariat_schema::node_api::NodeIdentity;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{chain, left};
use crate::cli::Failure;
use crate::config::{self, Environment};
use crate::listening::Listening;

/// Part of a clean end that the proxy may take; the rest is for sealing what it recorded.
const PROXY_SHARE: f64 = 0.6;

/// What a node consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    Both,
    Proxy,
    Collector,
}

/// Everything that a node is started with; it can be started again with the same.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) parts: Parts,
    pub(crate) identity: NodeIdentity,
    pub(crate) proxy: lariat_proxy::Config,
    pub(crate) collector: lariat_collector::Config,
    pub(crate) data_dir: PathBuf,
    pub(crate) profiles: Arc<Catalog>,
    /// Where they are read again from.
    pub(crate) profiles_dir: PathBuf,
    pub(crate) token: Option<Arc<str>>,
    pub(crate) exporter: ExporterTuning,
}

/// What OpenTelemetry's own variables say of the exporter; absent ones leave Lariat's defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExporterTuning {
    pub(crate) endpoint: Option<String>,
    pub(crate) span_delay_ms: Option<u64>,
    pub(crate) queue: Option<usize>,
    pub(crate) batch: Option<usize>,
    pub(crate) metric_interval_ms: Option<u64>,
}

impl ExporterTuning {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_BSP_*` and `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds).
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, Failure> {
        let number = |name: &str| match environment.get(name) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| Failure::Usage(format!("{name}: `{text}` is no whole number"))),
        };
        let size = |name: &str| number(name).map(|value| value.and_then(|value| usize::try_from(value).ok()));
        Ok(Self {
            endpoint: environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
            span_delay_ms: number("OTEL_BSP_SCHEDULE_DELAY")?,
            queue: size("OTEL_BSP_MAX_QUEUE_SIZE")?,
            batch: size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")?,
            metric_interval_ms: number("OTEL_METRIC_EXPORT_INTERVAL")?,
        })
    }

    /// A proxy beside its own collector records there whatever the environment says, and the cluster's token goes to
    /// nobody else's endpoint.
    fn exporter(&self, parts: Parts, collector: SocketAddr, token: Option<Arc<str>>) -> ExporterConfig {
        let defaults = ExporterConfig::default();
        let foreign = self.endpoint.clone().filter(|_| parts == Parts::Proxy);
        if self.endpoint.is_some() && foreign.is_none() {
            tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT is for `lariat proxy`: a node records into its own collector");
        }
        let token = token.filter(|_| foreign.is_none());
        ExporterConfig {
            endpoint: foreign.unwrap_or_else(|| format!("http://{collector}")),
            span_delay_ms: self.span_delay_ms.unwrap_or(defaults.span_delay_ms),
            queue: self.queue.unwrap_or(defaults.queue),
            batch: self.batch.unwrap_or(defaults.batch),
            metric_interval_ms: self.metric_interval_ms.unwrap_or(defaults.metric_interval_ms),
            token: token.map(|token| token.to_string()),
            ..defaults
        }
    }
}

/// A running node.
pub(crate) struct Node {
    proxy: Option<Proxy>,
    collector: Option<Collector>,
    profiles_dir: PathBuf,
    exporter: ExporterConfig,
    /// Tells the collector of reloaded rates; ends with the proxy.
    following: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts the collector, then the proxy that sends to it.
    pub(crate) async fn start(settings: Settings) -> Result<Self, Failure> {
        let collector = match settings.parts {
            Parts::Proxy => None,
            Parts::Both | Parts::Collector => Some(start_collector(&settings).await?),
        };
        let otlp = collector.as_ref().map_or(settings.collector.otlp_grpc, |collector| collector.addresses().otlp_grpc);
        let exporter = settings.exporter.exporter(settings.parts, otlp, settings.token.clone());
        let proxy = match settings.parts {
            Parts::Collector => None,
            Parts::Both | Parts::Proxy => match start_proxy(&settings, exporter.clone(), collector.as_ref()).await {
                Ok(proxy) => Some(proxy),
                Err(failure) => {
                    // What was started is ended cleanly: the next start must find the log closed.
                    if let Some(collector) = collector {
                        collector.shutdown(Duration::from_secs(5)).await;
                    }
                    return Err(failure);
                }
            },
        };
        let following = proxy
            .as_ref()
            .zip(collector.as_ref())
            .map(|(proxy, collector)| tokio::spawn(follow(proxy.catalogs(), collector.policy_setter())));
        Ok(Self { proxy, collector, profiles_dir: settings.profiles_dir, exporter, following })
    }

    /// Reads the profiles and the mapping file again, as SIGHUP asks; what came of it is in the log.
    pub(crate) async fn reload(&self) {
        if let Some(collector) = &self.collector {
            match collector.reload_mapping().await {
                Ok(true) => tracing::info!("the mapping file is in force as it is now"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the old mapping stays"),
            }
        }
        tracing::info!(profiles_dir = %self.profiles_dir.display(), "reading the profiles again");
        match (&self.proxy, &self.collector) {
            (Some(proxy), _) => match proxy.reload().await {
                Ok(changes) if changes.applied => {}
                Ok(_) => tracing::info!("the profiles are as they were"),
                Err(error) => tracing::error!(%error, "no reload"),
            },
            (None, Some(collector)) => match config::load_rates(&self.profiles_dir) {
                Ok(profiles) => collector.set_policies(policies(&profiles)),
                Err(error) => tracing::error!(%error, "the old sampling rates stay"),
            },
            (None, None) => {}
        }
    }

    /// Where its telemetry goes.
    pub(crate) const fn exporter(&self) -> &ExporterConfig {
        &self.exporter
    }

    /// Notes every listener.
    pub(crate) fn announce(&self, listening: &mut Listening) {
        if let Some(collector) = &self.collector {
            let addresses = collector.addresses();
            listening.announce("otlp_grpc", addresses.otlp_grpc);
            listening.announce("otlp_http", addresses.otlp_http);
            listening.announce("node_api", addresses.node_api);
        }
        if let Some(proxy) = &self.proxy {
            listening.announce("proxy", proxy.address());
        }
    }

    /// Where its proxy listens, if it has one.
    pub(crate) fn proxy_address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref().map(Proxy::address)
    }

    /// Where its node API listens, if it has a collector.
    pub(crate) fn node_api_address(&self) -> Option<SocketAddr> {
        self.collector.as_ref().map(|collector| collector.addresses().node_api)
    }

    /// Ends cleanly: the proxy first, so that its last decisions reach the collector.
    pub(crate) async fn shutdown(self, deadline: Duration) {
        let started = Instant::now();
        if let Some(following) = &self.following {
            following.abort();
        }
        if let Some(proxy) = self.proxy {
            proxy.shutdown(left(started, deadline).mul_f64(PROXY_SHARE)).await;
        }
        if let Some(collector) = self.collector {
            collector.shutdown(left(started, deadline)).await;
        }
    }

    /// Ends at once, as a crash would: no farewell, nothing sealed.
    pub(crate) fn kill(self) {
        if let Some(following) = &self.following {
            following.abort();
        }
        if let Some(proxy) = self.proxy {
            proxy.kill();
        }
        if let Some(collector) = self.collector {
            collector.kill();
        }
    }
}

async fn start_collector(settings: &Settings) -> Result<Collector, Failure> {
    let settings = lariat_collector::Settings {
        config: settings.collector.clone(),
        data_dir: settings.data_dir.clone(),
        identity: settings.identity.clone(),
        token: settings.token.clone(),
        policies: policies(&settings.profiles),
        has_proxy: settings.parts == Parts::Both,
    };
    lariat_collector::start(settings).await.map_err(|error| Failure::Failed(chain(&error)))
}

async fn start_proxy(
    settings: &Settings,
    exporter: ExporterConfig,
    collector: Option<&Collector>,
) -> Result<Proxy, Failure> {
    let proxy = lariat_proxy::Settings {
        config: settings.proxy.clone(),
        profiles: Arc::clone(&settings.profiles),
        source: Some(Source { dir: settings.profiles_dir.clone(), env: config::variable }),
        beside: collector.map(beside),
        identity: settings.identity.clone(),
        exporter,
        admin_token: settings.token.as_ref().map(ToString::to_string),
    };
    lariat_proxy::start(proxy).await.map_err(|error| match error {
        lariat_proxy::StartError::Open { .. } | lariat_proxy::StartError::CaFile(_) => {
            Failure::Usage(error.to_string())
        }
        _ => Failure::Failed(chain(&error)),
    })
}

/// The mapping file of the collector beside a proxy, which an operator's reload reads too.
fn beside(collector: &Collector) -> Beside {
    let reload = collector.mapping_reloader();
    Beside(Arc::new(move || {
        let reading = reload();
        Box::pin(async move { reading.await.map_err(|error| error.to_string()) })
    }))
}

/// Hands the rates of each reload to the collector beside the proxy.
async fn follow(mut catalogs: watch::Receiver<Arc<Catalog>>, set: impl Fn(Policies)) {
    while catalogs.changed().await.is_ok() {
        let rates = policies(&catalogs.borrow_and_update());
        set(rates);
    }
}

/// What the collector must know of each profile.
fn policies(profiles: &Catalog) -> Policies {
    profiles.profiles.iter().fold(Policies::default(), |policies, profile| {
        let sampling = profile.sampling;
        let policy = SamplingPolicy {
            rate: sampling.rate,
            slow_ms: sampling.slow_ms,
            kept_whole_per_second: sampling.kept_whole_per_second,
        };
        policies.with(profile.slug.as_str(), policy)
    })
}
