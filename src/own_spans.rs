//! The services' own spans: queries, flushes and reloads through OpenTelemetry's SDK, beside the log lines of the process.
//!
//! They go to the node's own collector, which has an address only once it listens, while the one subscriber of the process
//! is there from the start: so what is installed is a processor that lets spans go until it is told where to send them.
//! The record of calls does not come this way: it must neither be dropped silently nor depend on a subscriber. Nothing on a
//! call's way opens a span, and nothing that takes an export in does: an export would be the cause of the next one. Spans of
//! libraries, which the exporter's own connection makes too, are left out by their target.
//!
//! The SDK's queue is bounded and never waited for; what finds it full is lost, and said in the log. The demo sends none:
//! its nodes share one subscriber, which cannot tell whose span it sees.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lariat_schema::attributes as key;
use lariat_schema::node_api::NodeIdentity;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanProcessor,
};
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Environment;

/// Spans that may wait for the exporter: minutes of a busy query service.
const QUEUE: usize = 2_048;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// Bound on one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Crates whose spans are ours.
const OURS: [&str; 4] = ["lariat", "lariat_proxy", "lariat_collector", "lariat_query"];

/// Where own spans go; nowhere while it is not told, or for good where they are switched off.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnSpans(Option<Arc<Destination>>);

#[derive(Debug, Default)]
struct Destination(OnceLock<BatchSpanProcessor>);

/// The end of the SDK's pipeline.
#[derive(Debug)]
struct Processor(Arc<Destination>);

impl SpanProcessor for Processor {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(processor) = self.0.0.get() {
            processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.0.get().map_or(Ok(()), BatchSpanProcessor::force_flush)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.0.get().map_or(Ok(()), |processor| processor.shutdown_with_timeout(timeout))
    }
}

impl OwnSpans {
    /// Switched off by `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`; `OTEL_TRACES_SAMPLER` is the SDK's.
    pub(crate) fn from_environment(environment: &Environment) -> Self {
        let is = |name: &str, value: &str| environment.get(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
        let off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
        Self((!off).then(Arc::default))
    }

    /// The layer that makes spans of OpenTelemetry of our own ones.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let destination = self.0.clone()?;
        let provider = SdkTracerProvider::builder().with_span_processor(Processor(destination)).build();
        let ours = Targets::new().with_targets(OURS.map(|target| (target, LevelFilter::INFO)));
        // An event would only repeat the log line in its span.
        // With the bound on the level, what libraries trace of every frame and stream is not even made.
        let spans = filter_fn(|metadata| metadata.is_span()).with_max_level_hint(LevelFilter::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("lariat"));
        Some(layer.with_location(false).with_threads(false).with_filter(ours.and(spans)))
    }

    /// Sends them to that OTLP endpoint over gRPC from now on, under that name. Needs a runtime.
    pub(crate) fn send_to(&self, endpoint: &str, token: Option<&str>, service: &'static str, identity: &NodeIdentity) {
        let Some(destination) = &self.0 else { return };
        let mut metadata = MetadataMap::new();
        if let Some(Ok(value)) = token.map(|token| format!("Bearer {token}").parse::<MetadataValue<_>>()) {
            metadata.insert("authorization", value);
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .with_metadata(metadata)
            .build();
        match exporter {
            Ok(exporter) => {
                let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(DELAY);
                let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
                processor.set_resource(&resource(service, identity));
                if destination.0.set(processor).is_err() {
                    tracing::debug!("own spans have a destination already");
                }
            }
            Err(error) => tracing::warn!(%error, endpoint, "own spans are not sent"),
        }
    }

    /// Sends what waits, for so long at most.
    pub(crate) async fn finish(&self, deadline: Duration) {
        let Some(destination) = self.0.clone() else { return };
        let finished = tokio::task::spawn_blocking(move || Processor(destination).shutdown_with_timeout(deadline));
        if !matches!(finished.await, Ok(Ok(()))) {
            tracing::debug!("own spans were not all sent");
        }
    }
}

fn resource(service: &'static str, identity: &NodeIdentity) -> Resource {
    let attributes = [
        (key::SERVICE_NAME, service.to_owned()),
        (key::SERVICE_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (key::SERVICE_INSTANCE_ID, identity.node_id.to_string()),
        (key::CLOUD_REGION, identity.region.to_string()),
        (key::BOOT_ID, identity.boot_id.to_string()),
    ];
    Resource::builder_empty().with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value))).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::trace::SpanExporter;
    use std::sync::Mutex;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// Keeps the names of what it is given.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch.into_iter().map(|span| span.name.to_string()));
            Ok(())
        }
    }

    #[test]
    fn own_spans_are_sent_once_it_is_known_where_to_and_those_of_libraries_never() {
        let own = OwnSpans(Some(Arc::default()));
        let kept = Kept::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(own.layer()), || {
            tracing::info_span!("too early").in_scope(|| {});
            let processor = BatchSpanProcessor::builder(kept.clone()).build();
            own.0.as_ref().unwrap().0.set(processor).unwrap();
            tracing::info_span!("query").in_scope(|| tracing::info!("an event is no span"));
            tracing::info_span!(target: "lariat_query::engine", "deeper").in_scope(|| {});
            tracing::debug_span!("too fine").in_scope(|| {});
            tracing::info_span!(target: "h2::client", "of a library").in_scope(|| {});
        });
        // The subscriber's end was that of the provider, which sent what waited.
        assert_eq!(*kept.0.lock().unwrap(), ["query", "deeper"]);
    }

    #[test]
    fn the_variables_of_opentelemetry_switch_them_off() {
        let with = |pairs: &[(&str, &str)]| OwnSpans::from_environment(&Environment::of(pairs)).0.is_some();
        assert!(with(&[]) && with(&[("OTEL_TRACES_EXPORTER", "otlp")]));
        assert!(!with(&[("OTEL_TRACES_EXPORTER", "none")]) && !with(&[("OTEL_SDK_DISABLED", "TRUE")]));
    }
}
