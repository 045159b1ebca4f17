import assert from 'node:assert/strict';
import { test } from 'node:test';
import { channels, circuitOf, options, tail } from '../pure/providers.js';
import { errorLines, exclusions, routingGroups } from '../pure/matrix.js';

const provider = (provider_id, region, calls) => ({ profile: 'public', chain: 'ethereum', provider_id, transport: 'http', region, calls });

test('a channel is one line with its regions beside it, the aggregate being the service’s own', () => {
  const lines = channels([provider('a', 'us', 4), provider('a', null, 9), provider('a', 'eu', 4), provider('b', null, 20)]);
  assert.deepEqual(lines.map((line) => [line.row.provider_id, line.row.calls, Object.keys(line.regions).sort()]), [['b', 20, []], ['a', 9, ['eu', 'us']]]);
});

test('a channel of which only one region came shows that region, of several none is made up', () => {
  assert.equal(channels([provider('a', 'us', 4)])[0].row.calls, 4);
  assert.deepEqual(channels([provider('a', 'us', 4), provider('a', 'eu', 4)]), []);
});

test('the worst circuit names the channel and the count of nodes is told', () => {
  assert.deepEqual(circuitOf({ closed: 2, half_open: 0, open: 1 }), { state: 'open', text: '1 open, 2 closed', nodes: 3 });
  assert.equal(circuitOf({ closed: 3 }).state, 'closed');
  assert.equal(circuitOf(null).state, 'unknown');
});

test('a tail is graded by p99 over p50', () => {
  assert.deepEqual([{ p50_ms: 10, p99_ms: 19 }, { p50_ms: 10, p99_ms: 49 }, { p50_ms: 10, p99_ms: 50 }, { p50_ms: 0, p99_ms: 5 }].map((row) => tail(row).grade), ['good', 'fair', 'poor', 'none']);
});

test('a chosen filter stays on offer when nothing is seen of it', () => {
  assert.deepEqual(options([{ chain: 'base' }, { chain: null }, { chain: 'base' }], 'chain', 'gnosis'), ['base', 'gnosis']);
});

test('errors of all regions are not added to those of each', () => {
  const rows = [{ region: null, provider_id: 'a', error_category: 'timeout', count: 5, share: 1 }, { region: 'us', provider_id: 'a', error_category: 'timeout', count: 3 }, { region: 'eu', provider_id: 'a', error_category: 'timeout', count: 2 }];
  const [line] = errorLines(rows);
  assert.deepEqual([line.count, line.regions], [5, { us: 3, eu: 2 }]);
});

test('exclusions are summed by reason, most first', () => {
  assert.deepEqual(exclusions([{ excluded: { tried: 1, circuit_open: 4 } }, { excluded: { tried: 2 } }, { excluded: null }]), [{ reason: 'circuit_open', n: 4 }, { reason: 'tried', n: 3 }]);
});

test('routing is grouped by strategy over all regions', () => {
  const row = (strategy, region, actual_share) => ({ profile: 'p', chain: 'c', strategy, region, actual_share, calls: actual_share * 100 });
  const groups = routingGroups([row('fastest', 'us', 0.9), row('priority', null, 0.1), row('fastest', null, 0.4), row('fastest', null, 0.6)]);
  assert.deepEqual(groups.map((group) => [group.strategy, group.rows.map((of) => of.actual_share)]), [['fastest', [0.6, 0.4]], ['priority', [0.1]]]);
});
