//! What the tests over real sockets share: a collector that keeps what it is sent, a client, and a proxy before the
//! simulated providers of `lariat-tools`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lariat_schema::ids::BootId;
use lariat_schema::node_api::NodeIdentity;
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::{Response, Status};

use crate::admit::Bounds;
use crate::record::ExporterConfig;
use crate::reload::Source;
use crate::{Config, Proxy, Settings, profiles};

/// Everything that arrived.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) traces: Mutex<Vec<ExportTraceServiceRequest>>,
    pub(super) metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    pub(super) logs: Mutex<Vec<ExportLogsServiceRequest>>,
    /// So many trace requests are refused as unavailable, but noted in `refused`.
    pub(super) refuse: AtomicUsize,
    pub(super) refused: Mutex<Vec<ExportTraceServiceRequest>>,
}

#[derive(Clone)]
struct Services(Arc<Inbox>);

#[tonic::async_trait]
impl TraceService for Services {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        let refuse = self.0.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if refuse {
            self.0.refused.lock().push(request);
            return Err(Status::unavailable("later"));
        }
        self.0.traces.lock().push(request);
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Services {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.metrics.lock().push(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Services {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.logs.lock().push(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

/// Serves OTLP over gRPC until the test ends.
pub(super) async fn collector(listener: TcpListener) -> Arc<Inbox> {
    let inbox = Arc::new(Inbox::default());
    let services = Services(inbox.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(services.clone()).max_decoding_message_size(64 << 20))
            .add_service(MetricsServiceServer::new(services.clone()))
            .add_service(LogsServiceServer::new(services))
            .serve_with_incoming(incoming),
    );
    inbox
}

impl Inbox {
    pub(super) fn spans(&self) -> Vec<Span> {
        let traces = self.traces.lock();
        traces
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| scope.spans.clone())
            .collect()
    }

    /// The boot that all spans name.
    pub(super) fn boot_id(&self) -> BootId {
        let traces = self.traces.lock();
        let mut named = traces.iter().flat_map(|request| &request.resource_spans).map(|spans| {
            let resource = attributes(&spans.resource.as_ref().unwrap().attributes);
            resource["lariat.boot_id"].parse::<BootId>().unwrap()
        });
        let boot_id = named.next().unwrap();
        assert!(named.all(|other| other == boot_id));
        boot_id
    }

    /// SERVER spans, by `decision_seq`.
    pub(super) fn decisions(&self) -> Vec<(Span, Attributes)> {
        let mut found: Vec<_> = self
            .spans()
            .into_iter()
            .filter(|span| span.kind == 2)
            .map(|span| (attributes(&span.attributes), span))
            .map(|(attributes, span)| (span, attributes))
            .collect();
        found.sort_by_key(|(_, attributes)| attributes["lariat.decision_seq"].parse::<u64>().unwrap());
        found
    }

    /// Attempts of a decision, by ordinal.
    pub(super) fn attempts_of(&self, decision: &Span) -> Vec<(Span, Attributes)> {
        let spans = self.spans().into_iter().filter(|span| span.kind == 3 && span.parent_span_id == decision.span_id);
        let mut found: Vec<_> = spans.map(|span| (attributes(&span.attributes), span)).map(|(a, s)| (s, a)).collect();
        found.sort_by_key(|(_, attributes)| attributes["lariat.ordinal"].parse::<u64>().unwrap());
        found
    }

    fn logs_of(&self, name: &str) -> Vec<LogRecord> {
        let logs = self.logs.lock();
        let records = logs.iter().flat_map(|request| &request.resource_logs).flat_map(|resource| &resource.scope_logs);
        records.flat_map(|scope| scope.log_records.clone()).filter(|record| record.event_name == name).collect()
    }

    pub(super) fn events(&self, name: &str) -> Vec<Attributes> {
        self.logs_of(name).iter().map(|record| attributes(&record.attributes)).collect()
    }

    /// Bodies of events, as text.
    pub(super) fn bodies(&self, name: &str) -> Vec<String> {
        let text = |record: LogRecord| match record.body.and_then(|body| body.value) {
            Some(Value::StringValue(text)) => text,
            _ => String::new(),
        };
        self.logs_of(name).into_iter().map(text).collect()
    }

    /// The newest values of a counter, with their attributes.
    pub(super) fn counter(&self, name: &str) -> Vec<(Attributes, i64)> {
        let metrics = self.metrics.lock();
        let all = metrics.iter().rev().flat_map(|it| &it.resource_metrics).flat_map(|it| &it.scope_metrics);
        let mut named = all.flat_map(|it| &it.metrics).filter(|metric| metric.name == name);
        let Some(Data::Sum(sum)) = named.next().and_then(|metric| metric.data.clone()) else { return Vec::new() };
        let value = |point: &NumberDataPoint| match point.value {
            Some(number_data_point::Value::AsInt(value)) => value,
            _ => panic!("{name} counts in whole numbers"),
        };
        sum.data_points.iter().map(|point| (attributes(&point.attributes), value(point))).collect()
    }
}

pub(super) type Attributes = HashMap<String, String>;

/// Attributes as text; lists joined by spaces.
pub(super) fn attributes(list: &[KeyValue]) -> Attributes {
    fn text(value: Option<&Value>) -> String {
        match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            Some(Value::BoolValue(flag)) => flag.to_string(),
            Some(Value::ArrayValue(list)) => {
                list.values.iter().map(|value| text(value.value.as_ref())).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }
    list.iter()
        .map(|pair| (pair.key.clone(), text(pair.value.as_ref().and_then(|value| value.value.as_ref()))))
        .collect()
}

/// Waits until the condition holds, at most 60 s.
pub(super) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A proxy before simulated providers, and the collector that it reports to.
pub(super) struct Fleet {
    pub(super) proxy: Proxy,
    pub(super) providers: Vec<ProviderHandle>,
    pub(super) inbox: Arc<Inbox>,
}

pub(super) async fn provider(
    name: &str,
    settings: impl FnOnce(ProviderSettings) -> ProviderSettings,
) -> ProviderHandle {
    let chain = Arc::new(Chain::manual(ChainSettings::default()));
    Provider::start(settings(ProviderSettings::new(name, chain))).await.unwrap()
}

/// Providers `p0`, `p1`… with ascending priority, strategy `priority`.
pub(super) fn profile(providers: &[ProviderHandle]) -> String {
    use std::fmt::Write as _;
    let mut text = "default_strategy: priority\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n".to_owned();
    for (i, provider) in providers.iter().enumerate() {
        let url = provider.http_url();
        writeln!(text, "      - {{ id: p{i}, priority: {}, url: '{url}' }}", i + 1).unwrap();
    }
    text
}

pub(super) fn exporter(collector: SocketAddr) -> ExporterConfig {
    let endpoint = format!("http://{collector}");
    ExporterConfig { endpoint, metric_interval_ms: 200, heartbeat_interval_ms: 200, ..ExporterConfig::default() }
}

pub(super) async fn proxy(providers: &[ProviderHandle], exporter: ExporterConfig) -> Proxy {
    proxy_of(&profile(providers), exporter).await
}

/// A proxy with that profile.
pub(super) async fn proxy_of(profile: &str, exporter: ExporterConfig) -> Proxy {
    let catalog = profiles::parse("public", profile, &|_| None).unwrap();
    start(catalog, None, exporter).await
}

pub(super) async fn start(catalog: profiles::Catalog, source: Option<Source>, exporter: ExporterConfig) -> Proxy {
    start_within(catalog, source, exporter, Bounds::new(Config::default().max_in_flight), None).await
}

/// A proxy that trusts the authorities of that file too.
pub(super) async fn start_trusting(
    catalog: profiles::Catalog,
    source: Option<Source>,
    exporter: ExporterConfig,
    ca_file: PathBuf,
) -> Proxy {
    start_within(catalog, source, exporter, Bounds::new(Config::default().max_in_flight), Some(ca_file)).await
}

async fn start_within(
    catalog: profiles::Catalog,
    source: Option<Source>,
    exporter: ExporterConfig,
    bounds: Bounds,
    ca_file: Option<PathBuf>,
) -> Proxy {
    let identity = NodeIdentity {
        node_id: "lariat@127.0.0.1".into(),
        region: "us-east".into(),
        boot_id: BootId(uuid::Uuid::new_v4()),
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen, circuit_recovery_ms: 60_000, ca_file, ..Config::default() };
    let admin_token = Some("t0ken".to_owned());
    let profiles = Arc::new(catalog);
    let settings = Settings { config, profiles, source, beside: None, identity, exporter, admin_token };
    crate::start_within(settings, bounds).await.unwrap()
}

pub(super) async fn fleet(providers: Vec<ProviderHandle>) -> Fleet {
    fleet_with("", providers).await
}

/// A fleet whose profile begins with these settings.
pub(super) async fn fleet_with(settings: &str, providers: Vec<ProviderHandle>) -> Fleet {
    let profile = format!("{settings}{}", profile(&providers));
    fleet_of(providers, &profile).await
}

/// The same under another profile.
pub(super) async fn fleet_of(providers: Vec<ProviderHandle>, profile: &str) -> Fleet {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inbox = collector(listener).await;
    let proxy = proxy_of(profile, exporter(address)).await;
    Fleet { proxy, providers, inbox }
}

impl Fleet {
    /// The attempts of a decision, in the order of their ordinals.
    pub(super) fn attempts(&self, decision: &Span) -> Vec<Attributes> {
        let spans = self.inbox.spans();
        let own = spans.iter().filter(|span| span.parent_span_id == decision.span_id);
        let mut found: Vec<_> = own.map(|span| attributes(&span.attributes)).collect();
        found.sort_by_key(|of| of[lariat_schema::attributes::ORDINAL].parse::<u32>().unwrap());
        found
    }

    /// One figure of `/metrics`.
    pub(super) async fn figure(&self, name: &str) -> u64 {
        let got = request(self.proxy.address(), Request::get("/"), "/metrics", "").await;
        let line = got.text().lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A fleet whose proxy has these bounds.
pub(super) async fn fleet_within(providers: Vec<ProviderHandle>, bounds: Bounds) -> Fleet {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exporter = exporter(listener.local_addr().unwrap());
    let inbox = collector(listener).await;
    let catalog = profiles::parse("public", &profile(&providers), &|_| None).unwrap();
    let proxy = start_within(catalog, None, exporter, bounds, None).await;
    Fleet { proxy, providers, inbox }
}

/// A reply over HTTP.
pub(super) struct Got {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Got {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(super) async fn request(
    address: SocketAddr,
    request: http::request::Builder,
    path: &str,
    body: impl Into<Bytes>,
) -> Got {
    let request: Request<Full<Bytes>> =
        request.uri(format!("http://{address}{path}")).body(Full::new(body.into())).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let (head, body) = response.into_parts();
    Got { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

pub(super) async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> Got {
    request(address, Request::post("/"), path, body).await
}

pub(super) fn call(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":[]}}"#)
}
