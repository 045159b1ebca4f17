// The reports of the mock fleet, in the shape of the query service's answers.

import { REGIONS, noise } from './mock_fleet.mjs';

const iso = (at) => `${new Date(at).toISOString().slice(0, -1)}000000Z`;
const METHODS = [['eth_call', 1, 0.38], ['eth_getBalance', 0.7, 0.2], ['eth_blockNumber', 0.5, 0.16], ['eth_getLogs', 3.4, 0.1], ['eth_getBlockByNumber', 1.5, 0.1], ['eth_getTransactionReceipt', 0.9, 0.06]];

const sum = (cells, key) => cells.reduce((all, cell) => all + cell[key], 0);
const mean = (cells, key) => cells.reduce((all, cell) => all + cell[key] * cell.calls, 0) / Math.max(1, sum(cells, 'calls'));

function grouped(cells, keys) {
  const groups = new Map();
  for (const cell of cells) {
    const key = JSON.stringify(keys(cell));
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(cell);
  }
  return [...groups].map(([key, of]) => [JSON.parse(key), of]);
}

/** The cells over all regions, and those of each. */
const scopes = (cells) => [[null, cells], ...REGIONS.map((region) => [region, cells.filter((cell) => cell.node.region === region)])].filter(([, of]) => of.length > 0);

const latencies = (of, factor = 1) => ({ mean_ms: mean(of, 'p50') * 1.2 * factor, p50_ms: mean(of, 'p50') * factor, p90_ms: mean(of, 'p50') * 1.75 * factor, p95_ms: mean(of, 'p95') * factor, p99_ms: mean(of, 'p95') * 2.3 * factor });

const counts = (of) => {
  const [calls, errors, application_errors] = [sum(of, 'calls'), sum(of, 'errors'), sum(of, 'reverts')];
  return { calls, success: calls - errors - application_errors, application_errors, errors, success_rate: (calls - errors) / calls };
};

const channel = (of) => ({ profile: 'public', chain: 'ethereum', provider_id: of[0].provider.provider_id, transport: of[0].provider.transport });
const byChannel = (cells) => grouped(cells, (cell) => [cell.provider.provider_id, cell.provider.transport]);

export const reports = {
  traffic({ cells, step }) {
    return scopes(cells).flatMap(([region, scope]) => grouped(scope, (cell) => Math.floor(cell.at / step) * step).map(([at, of]) =>
      ({ time: iso(at), region, ...counts(of), calls_per_second: sum(of, 'calls') / (step / 1000), p50_ms: mean(of, 'p50'), p95_ms: mean(of, 'p95') })));
  },
  latency({ cells, by }) {
    return scopes(cells).flatMap(([region, scope]) => {
      if (by === 'region') return [{ region, calls: sum(scope, 'calls'), ...latencies(scope), error_bound: 0.0055 }];
      if (by === 'method') return METHODS.map(([method, factor, share]) => ({ method, region, calls: Math.round(sum(scope, 'calls') * share), ...latencies(scope, factor), error_bound: 0.0055 }));
      return grouped(scope, (cell) => cell.provider.provider_id).map(([provider_id, of]) => ({ provider_id, region, calls: sum(of, 'calls'), ...latencies(of), error_bound: 0.0055 }));
    });
  },
  errors({ cells }) {
    const all = sum(cells, 'errors');
    return scopes(cells).flatMap(([region, scope]) => grouped(scope.filter((cell) => cell.errors > 0), (cell) =>
      [cell.provider.provider_id, cell.outage ? 'server_error' : noise(cell.at, cell.node.n) < 0.6 ? 'timeout' : 'rate_limit']).map(([[provider_id, error_category], of]) =>
      ({ region, provider_id, error_category, count: sum(of, 'errors'), share: sum(of, 'errors') / all })));
  },
  routing({ cells }) {
    return scopes(cells).flatMap(([region, scope]) => byChannel(scope).flatMap(([, of]) => ['fastest', 'load_balanced'].map((strategy, index) => {
      const part = index === 0 ? 0.7 : 0.3;
      const actual = sum(of, 'calls') / sum(scope, 'calls');
      return { ...channel(of), strategy, region, selections: Math.round(sum(of, 'calls') * part), intended_share: index === 0 ? actual * (0.93 + 0.14 * noise(of[0].provider.base)) : 0.2,
        actual_share: index === 0 ? actual : 0.2 + (noise(of[0].provider.base, 2) - 0.5) * 0.03, first_attempts: Math.round(sum(of, 'calls') * part), answered_share: actual, calls: Math.round(sum(of, 'calls') * part),
        excluded: of[0].provider.provider_id === 'basalt' ? { circuit_open: Math.round(140 * part), tried: 31 } : of[0].provider.provider_id === 'lumen' ? { lagging: Math.round(420 * part), method: 55 } : {} };
    })));
  },
  providers({ cells, fleet }) {
    return scopes(cells).flatMap(([region, scope]) => byChannel(scope).map(([, of]) => {
      const nodes = fleet.nodes.filter((node) => node.up && (region === null || node.region === region));
      const open = of[0].provider.provider_id === 'basalt' ? nodes.filter((node) => node.region === 'eu-west').length : 0;
      return { ...channel(of), region, calls: sum(of, 'calls'), share: sum(of, 'calls') / sum(scope, 'calls'), success_rate: counts(of).success_rate, ...latencies(of), errors: sum(of, 'errors'),
        height: 21_480_112 - (of[0].provider.provider_id === 'lumen' ? 4 : 0), lag: of[0].provider.provider_id === 'lumen' ? -4 : 0, circuit: { closed: nodes.length - open, half_open: 0, open } };
    }));
  },
  circuits({ fleet, from, to }) {
    const rows = [];
    for (let at = Math.floor(to / 420_000) * 420_000; at > from; at -= 420_000) {
      for (const [offset, a, b, reason] of [[74_000, 'half_open', 'closed', 'trial_succeeded'], [71_000, 'open', 'half_open', 'backoff_elapsed'], [8_000, 'closed', 'open', 'failure_threshold']]) {
        if (at + offset < to) rows.push({ time: iso(at + offset), node_id: fleet.nodes[1].node_id, region: 'eu-west', profile: 'public', chain: 'ethereum', provider_id: 'basalt', transport: 'http', from: a, to: b, reason });
      }
    }
    return rows;
  },
  nodes({ fleet, to }) {
    return fleet.nodes.map((node) => ({ node_id: node.node_id, region: node.region, state: node.up ? 'ready' : 'unresponsive', store_id: node.store_id, boot_id: node.boot_id, version: '0.1.0', started: iso(fleet.started), watermark: iso((node.up ? to : node.outages.at(-1).from) - 400),
      clock_offset_ms: [0.4, -1.2, 12.7][node.n], rows: 48_211 + node.n * 913, address: node.address, error: node.up ? null : 'connection refused' }));
  },
};
