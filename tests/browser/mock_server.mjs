// Serves dashboards/web and the mock fleet's answers, live feed included. `node mock_server.mjs [port]`. It is a thing to
// look at and to test the page against; no test of the query service uses it.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { MockFleet } from './mock_fleet.mjs';
import { reports } from './mock_reports.mjs';

const WEB = fileURLToPath(new URL('../../dashboards/web/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };
const CSP = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'";
const UNITS = { s: 1000, m: 60_000, h: 3_600_000 };

const milliseconds = (text) => Number(text.slice(0, -1)) * UNITS[text.at(-1)];

/** Starts a mock; `{url, fleet, push, gap, fail, close}`. `fail` holds report names that answer 500. */
export async function startMock(port = 0) {
  const fleet = new MockFleet();
  const mock = { fleet, fail: new Set(), slow_ms: 0, subscribers: new Set(), sequence: 0, recent: [] };
  const server = createServer((request, response) => answer(mock, request, response).catch((error) => refuse(response, 500, 'internal', error.message)));
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const now = Date.now();
  for (let at = now - 8000; at < now; at += 140) tell(mock, at, false);
  const timer = setInterval(() => batch(mock), 500);
  mock.url = `http://127.0.0.1:${server.address().port}`;
  mock.push = (...events) => send(mock, 'batch', { topic: 'routing:decisions:public', events });
  mock.gap = (missed, reason) => send(mock, 'gap', { missed, reason });
  mock.close = () => {
    clearInterval(timer);
    for (const response of mock.subscribers) response.end();
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return mock;
}

function tell(mock, at) {
  const event = mock.fleet.decide(Math.round(at), mock.sequence++);
  if (event === null) return null;
  mock.recent = [event, ...mock.recent].slice(0, 100);
  return event;
}

function batch(mock) {
  const now = Date.now();
  const events = [400, 250, 90].map((before) => tell(mock, now - before)).filter((event) => event !== null);
  if (events.length > 0) send(mock, 'batch', { topic: 'routing:decisions:public', events });
}

function send(mock, event, data) {
  for (const response of mock.subscribers) write(response, event, data);
}

const write = (response, event, data) => response.write(`id: ${Date.now()}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);

async function answer(mock, request, response) {
  const url = new URL(request.url, 'http://mock');
  const api = /^\/api\/v1\/(.*)$/.exec(url.pathname)?.[1];
  if (api === undefined) return file(url.pathname, response);
  const demo = /^demo\/nodes\/(\d)\/(kill|stop|start)$/.exec(api);
  if (demo) return nodeSwitch(mock, Number(demo[1]), demo[2], response);
  if (api === 'stream') return stream(mock, request, response);
  if (api.startsWith('decisions/')) return decision(mock, decodeURIComponent(api.slice(10)), response);
  if (api === 'coverage') return coverage(mock, url.searchParams, response);
  if (reports[api] === undefined) return refuse(response, 404, 'not_found', `no report ${api}`);
  const unknown = [...url.searchParams.keys()].filter((key) => !accepted(api).includes(key));
  if (unknown.length > 0) return refuse(response, 400, 'bad_request', `\`${unknown[0]}\` is no parameter of this report`);
  if (mock.fail.has(api)) return refuse(response, 503, 'deadline', 'no answer within 10s', 'ask for a shorter range');
  if (mock.slow_ms > 0) await new Promise((resolve) => setTimeout(resolve, mock.slow_ms));
  return report(mock, api, url.searchParams, response);
}

// As the query service: an unknown parameter is refused, so that a filter is never silently ignored.
function accepted(report) {
  const own = { traffic: ['step', 'result'], latency: ['by', 'result'], errors: ['result'] }[report] ?? [];
  return report === 'nodes' ? [] : ['from', 'to', 'limit', 'profile', 'chain', 'provider_id', 'region', ...own];
}

function coverage(mock, params, response) {
  const to = Date.now();
  json(response, 200, { coverage: mock.fleet.coverage(to - milliseconds((params.get('from') ?? '-15m').slice(1)), to) });
}

function report(mock, name, params, response) {
  const to = Date.now();
  const from = to - milliseconds((params.get('from') ?? '-15m').slice(1));
  const cells = [...mock.fleet.cells(from, to)].filter((cell) =>
    (!params.has('region') || cell.node.region === params.get('region')) && (!params.has('provider_id') || cell.provider.provider_id === params.get('provider_id')) && (params.get('chain') ?? 'ethereum') === 'ethereum');
  const rows = reports[name]({ cells, fleet: mock.fleet, from, to, step: milliseconds(params.get('step') ?? '10s'), by: params.get('by') ?? 'provider_id' });
  const columns = Object.keys(rows[0] ?? {}).map((column) => ({ name: column, type: 'Utf8' }));
  json(response, 200, { columns, rows, coverage: mock.fleet.coverage(from, to), sampling: { weighted: false, min_probability: 1, unknown_weight_share: 0 }, stats: { elapsed_ms: 4.2, rows: rows.length, bytes_scanned: 81_204, files_scanned: 6, cached: false, age_ms: 0 } });
}

function decision(mock, id, response) {
  const found = mock.fleet.decisions.get(id) ?? [...mock.fleet.decisions.values()].find((of) => of.trace_id === id);
  const now = Date.now();
  const coverage = mock.fleet.coverage(now - 900_000, now);
  if (found) return json(response, 200, { decisions: [found], coverage, sampling: { weighted: false, min_probability: 1, unknown_weight_share: 0 } });
  if (id === 'sampled') return refuse(response, 404, 'sampled_out', 'the profile keeps 5 % of its calls', 'failed, slow and failed-over calls are kept whole');
  return refuse(response, 404, coverage.answered < coverage.expected ? 'unknown' : 'not_found', `no decision ${id}`);
}

function nodeSwitch(mock, n, verb, response) {
  mock.fleet.setUp(n, verb === 'start');
  const now = Date.now();
  const node = mock.fleet.nodes[n];
  send(mock, 'topology', { changes: [{ node_id: node.node_id, region: node.region, state: node.up ? 'ready' : 'unresponsive' }], coverage: mock.fleet.coverage(now - 900_000, now) });
  json(response, 200, { node: n, state: verb });
}

function stream(mock, request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  const now = Date.now();
  write(response, 'snapshot', { decisions: mock.recent, circuits: [], coverage: mock.fleet.coverage(now - 900_000, now) });
  mock.subscribers.add(response);
  request.on('close', () => mock.subscribers.delete(response));
}

async function file(path, response) {
  const inside = normalize(path === '/' ? '/index.html' : path);
  try {
    const body = await readFile(join(WEB, inside));
    response.writeHead(200, { 'content-type': TYPES[extname(inside)] ?? 'application/octet-stream', 'content-security-policy': CSP, 'cache-control': 'no-store' });
    response.end(body);
  } catch {
    refuse(response, 404, 'not_found', `no file ${inside}`);
  }
}

function json(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

const refuse = (response, status, code, message, hint = null) => json(response, status, { error: { code, message, hint } });

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const mock = await startMock(Number(process.argv[2] ?? 4940));
  console.log(`listening mock ${mock.url}`);
}
