// Sends spans, metrics and logs with OpenTelemetry's own SDK for Node.
// node send_otlp.mjs <grpc|http-protobuf|http-json> <endpoint> <marker>
// The marker is the service's name and an attribute of every record, so that a test can find its own.

import { SpanKind, SpanStatusCode } from '@opentelemetry/api';
import { SeverityNumber } from '@opentelemetry/api-logs';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { LoggerProvider, SimpleLogRecordProcessor } from '@opentelemetry/sdk-logs';

const [protocol, endpoint, marker] = process.argv.slice(2);
const packageSuffix = { grpc: 'grpc', 'http-protobuf': 'proto', 'http-json': 'http' }[protocol];
if (!packageSuffix || !endpoint || !marker) {
  console.error('usage: send_otlp.mjs <grpc|http-protobuf|http-json> <endpoint> <marker>');
  process.exit(2);
}

const url = (signal) => (protocol === 'grpc' ? endpoint : `${endpoint}/v1/${signal}`);
const { OTLPTraceExporter } = await import(`@opentelemetry/exporter-trace-otlp-${packageSuffix}`);
const { OTLPMetricExporter } = await import(`@opentelemetry/exporter-metrics-otlp-${packageSuffix}`);
const { OTLPLogExporter } = await import(`@opentelemetry/exporter-logs-otlp-${packageSuffix}`);
const resource = resourceFromAttributes({ 'service.name': marker, 'service.instance.id': 'sdk', 'cloud.region': 'lab' });

const tracers = new BasicTracerProvider({
  resource,
  spanProcessors: [new SimpleSpanProcessor(new OTLPTraceExporter({ url: url('traces') }))],
});
const tracer = tracers.getTracer('clients', '1.0');
const parent = tracer.startSpan('work', { kind: SpanKind.SERVER, attributes: { marker, 'answer.to.everything': 42 } });
parent.addEvent('halfway', { step: 1 });
parent.setStatus({ code: SpanStatusCode.ERROR, message: 'on purpose' });
parent.end();
const other = tracer.startSpan('rest', { kind: SpanKind.INTERNAL, attributes: { marker, list: ['a', 'b'] } });
other.end();

const meters = new MeterProvider({
  resource,
  readers: [new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter({ url: url('metrics') }), exportIntervalMillis: 60_000 })],
});
const meter = meters.getMeter('clients');
meter.createCounter('jobs.done', { unit: '{job}' }).add(7, { marker });
meter.createHistogram('job.duration', { unit: 's' }).record(0.25, { marker });
meter.createGauge('queue.length').record(3, { marker });

const loggers = new LoggerProvider({
  resource,
  processors: [new SimpleLogRecordProcessor({ exporter: new OTLPLogExporter({ url: url('logs') }) })],
});
const logger = loggers.getLogger('clients');
logger.emit({ severityNumber: SeverityNumber.WARN, severityText: 'WARN', body: 'something odd', attributes: { marker } });
logger.emit({ eventName: 'clients.done', severityNumber: SeverityNumber.INFO, body: 'done', attributes: { marker } });

await tracers.shutdown();
await meters.shutdown();
await loggers.shutdown();
console.log('sent');
