// A fleet that never was, for looking at the dashboard without one: three nodes, four providers, an outage now and then,
// all from the clock and a hash, so that two requests for the same cell agree.

export const REGIONS = ['us-east', 'eu-west', 'ap-south'];
const PROVIDERS = [
  { provider_id: 'northwind', transport: 'http', base: 38, share: 0.42, errors: 0.004 },
  { provider_id: 'harbor', transport: 'http', base: 61, share: 0.27, errors: 0.011 },
  { provider_id: 'basalt', transport: 'http', base: 24, share: 0.2, errors: 0.03 },
  { provider_id: 'basalt', transport: 'ws', base: 21, share: 0.07, errors: 0.006 },
  { provider_id: 'lumen', transport: 'http', base: 118, share: 0.04, errors: 0.002 },
];
const METHODS = [['eth_call', 0.38], ['eth_getBalance', 0.2], ['eth_blockNumber', 0.16], ['eth_getLogs', 0.1], ['eth_getBlockByNumber', 0.1], ['eth_getTransactionReceipt', 0.06]];
const STRATEGIES = ['fastest', 'load_balanced'];
const STEP_MS = 10_000;

/** A number in 0..1 that depends on its arguments alone. */
export function noise(...parts) {
  let hash = 2166136261;
  for (const char of parts.join('|')) hash = Math.imul(hash ^ char.charCodeAt(0), 16777619);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 1274126177);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

const iso = (at) => `${new Date(at).toISOString().slice(0, -1)}000000Z`;
const uuid = (at, seed) => {
  const hex = at.toString(16).padStart(12, '0') + [0, 1, 2].map((n) => Math.floor(noise(seed, n) * 2 ** 32).toString(16).padStart(8, '0')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-7${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
};

export class MockFleet {
  constructor(now = Date.now()) {
    this.started = now - 40 * 60_000;
    this.nodes = REGIONS.map((region, n) => ({
      n, region, node_id: `lariat@127.0.0.1:${4319 + n * 100}`, address: `127.0.0.1:${4319 + n * 100}`, up: true, outages: [],
      store_id: uuid(this.started, `store${n}`), boot_id: uuid(this.started, `boot${n}`),
    }));
    this.nodes[2].outages.push({ from: now - 380_000, to: now - 310_000, why: 'down' });
    this.decisions = new Map();
  }

  setUp(n, up) {
    const node = this.nodes[n];
    if (node.up === up) return;
    node.up = up;
    if (up) node.outages.at(-1).to = Date.now();
    else node.outages.push({ from: Date.now(), to: null, why: 'unreachable' });
  }

  coverage(from, to) {
    const open = to - 15_000;
    const nodes = this.nodes.map((node) => {
      const missing = node.outages.map((gap) => ({ from: Math.max(gap.from, from), to: Math.min(gap.to ?? to, to), why: gap.why })).filter((gap) => gap.to > gap.from);
      const lost = missing.reduce((sum, gap) => sum + gap.to - gap.from, 0);
      return {
        node_id: node.node_id, region: node.region, state: node.up ? 'ready' : 'unresponsive', answered: node.up, source: node.up ? 'live' : null,
        ratio: Math.max(0, 1 - lost / (to - from)), missing: missing.map((gap) => ({ from: iso(gap.from), to: iso(gap.to), why: gap.why })),
        watermark: iso((node.up ? to : node.outages.at(-1).from) - 400), rows: node.up ? 1800 + node.n * 97 : 0,
        elapsed_ms: 3.1 + node.n, error: node.up ? null : 'connection refused',
      };
    });
    const answered = nodes.filter((node) => node.answered).length;
    const ratio = nodes.reduce((sum, node) => sum + node.ratio, 0) / nodes.length;
    return {
      complete: answered === nodes.length && ratio === 1, ratio, expected: nodes.length, connected: answered, responding: answered, answered,
      window: { from: iso(from), to: iso(to), open_from: iso(open) }, query_id: uuid(to, 'query'),
      regions: nodes.map((node) => ({ region: node.region, expected: 1, answered: node.answered ? 1 : 0, ratio: node.ratio })), nodes,
    };
  }

  running(node, at) {
    return !node.outages.some((gap) => at >= gap.from && at < (gap.to ?? Infinity));
  }

  /** Cells of 10 s: one per node and channel, with calls by result and latencies. */
  *cells(from, to) {
    for (let at = Math.ceil(from / STEP_MS) * STEP_MS; at < to; at += STEP_MS) {
      for (const node of this.nodes) {
        if (!this.running(node, at)) continue;
        const wave = 1 + 0.35 * Math.sin(at / 140_000 + node.n) + 0.25 * (noise(at, node.n) - 0.5);
        for (const provider of PROVIDERS) {
          const outage = provider.provider_id === 'basalt' && node.region === 'eu-west' && at % 420_000 < 70_000;
          const calls = Math.round(78 * wave * provider.share * (outage ? 0.25 : 1) * (0.8 + 0.4 * noise(at, node.n, provider.provider_id, provider.transport)));
          if (calls === 0) continue;
          const rate = outage ? 0.45 : provider.errors;
          const errors = Math.min(calls, Math.floor(calls * rate + noise(at, node.n, provider.provider_id, 'e')));
          const reverts = Math.floor(calls * 0.02 + noise(at, node.n, 'r') * 0.9);
          const p50 = provider.base * (1 + node.n * 0.42) * (0.85 + 0.3 * noise(at, provider.provider_id, node.n)) * (outage ? 3.2 : 1);
          yield { at, node, provider, calls, errors, reverts: Math.min(reverts, calls - errors), p50, p95: p50 * (2.1 + 0.7 * noise(at, 'p', node.n)), outage };
        }
      }
    }
  }

  /** The decision number `seq`, as the live feed tells it; the record behind it is kept for the page that explains it. */
  decide(at, seq) {
    const node = this.nodes[Math.floor(noise(seq, 'node') * 3)];
    if (!node.up) return null;
    const method = pick(METHODS, noise(seq, 'method'));
    const strategy = STRATEGIES[noise(seq, 'strategy') < 0.7 ? 0 : 1];
    const ranked = [...PROVIDERS].sort((a, b) => a.base * (0.8 + noise(seq, a.base)) - b.base * (0.8 + noise(seq, b.base)));
    const excluded = ranked.splice(noise(seq, 'x') < 0.3 ? 2 : 4, 1);
    const failed = noise(seq, 'fail');
    const failovers = failed < 0.07 ? 1 : 0;
    const result = failed < 0.012 ? 'error' : noise(seq, 'revert') < 0.03 ? 'application_error' : 'success';
    const winner = ranked[failovers];
    const latency = winner.base * (1 + node.n * 0.4) * (0.6 + 1.6 * noise(seq, 'l') ** 3) + failovers * 160;
    const event = {
      time: iso(at), request_id: uuid(at, seq), batch_index: 0, trace_id: uuid(at, seq).replaceAll('-', ''), node_id: node.node_id, region: node.region,
      profile: 'public', account_id: null, chain: 'ethereum', method, strategy, provider_id: winner.provider_id, transport: winner.transport,
      client_transport: 'http', origin: 'client', answered_by: result === 'error' ? 'none' : 'provider', result,
      error_category: result === 'error' ? 'server_error' : result === 'application_error' ? 'execution_revert' : null,
      status_code: result === 'error' ? '-32000' : result === 'application_error' ? '3' : null, attempts: 1 + failovers, failovers,
      duration_ns: Math.round(latency * 1e6), adjusted_count: failovers || result === 'error' ? 1 : noise(seq, 'w') < 0.1 ? 20 : 1,
      keep_reason: result === 'error' ? 'error' : failovers ? 'failover' : 'rate',
    };
    this.remember(event, ranked, excluded, at);
    return event;
  }

  remember(event, ranked, excluded, at) {
    const ms = event.duration_ns / 1e6;
    const candidate = (of, index) => ({ rank: index + 1, channel: `${of.provider_id}:${of.transport}`, score: Number((of.base * 1.07).toFixed(2)), probability: event.strategy === 'fastest' ? (index === 0 ? 0.93 : 0.07 / (ranked.length - 1)) : 1 / ranked.length, inputs: { ewma_ms: of.base * 1.031, samples: 212 + index * 31, lag_blocks: -index } });
    const eligible = ranked.map(candidate);
    const selections = [{ chosen: eligible[0]?.channel ?? null, eligible, excluded: excluded.map((of) => ({ channel: `${of.provider_id}:${of.transport}`, reason: of.base > 100 ? 'lagging' : 'circuit_open' })) }];
    const attempt = (ordinal, of, offset, length, outcome, status) => ({ time: iso(Math.round(at + offset)), trace_id: event.trace_id, span_id: event.trace_id.slice(0, 16), ordinal, kind: ordinal === 1 ? 'primary' : 'failover', outcome, provider_id: of.provider_id, transport: of.transport, circuit_state: 'closed', http_status: status, status_code: outcome === 'success' ? null : '-32000', error_category: outcome === 'success' ? null : 'server_error', duration_ns: Math.round(length * 1e6), dispatched: 'dispatched', server_address: `${of.provider_id}.example:443` });
    const attempts = [];
    if (event.failovers > 0) {
      selections.push({ chosen: eligible[1].channel, eligible: ranked.slice(1).map(candidate), excluded: [{ channel: eligible[0].channel, reason: 'tried' }, ...selections[0].excluded] });
      attempts.push(attempt(1, ranked[0], 0.1, 158, 'service_failure', 503), attempt(2, ranked[1], 159, ms - 160, event.result === 'error' ? 'timeout' : 'success', 200));
    } else if (ranked.length > 0) attempts.push(attempt(1, ranked[0], 0.1, ms - 0.3, event.result === 'error' ? 'service_failure' : event.result === 'application_error' ? 'application_error' : 'success', 200));
    this.decisions.set(event.request_id, { ...event, decision_seq: this.decisions.size + 1, chain_id: 1, boot_id: this.nodes.find((node) => node.node_id === event.node_id)?.boot_id, selection_ns: 41_000, provider_ns: event.duration_ns - 180_000, overhead_ns: 139_000, bytes_in: 142, bytes_out: 2210, head_lag_blocks: 0, policy_hash: '9f86d081884c7d65', selections, attempts });
    if (this.decisions.size > 2000) this.decisions.delete(this.decisions.keys().next().value);
  }
}

function pick(weighted, at) {
  let sum = 0;
  for (const [name, share] of weighted) if ((sum += share) >= at) return name;
  return weighted[0][0];
}
