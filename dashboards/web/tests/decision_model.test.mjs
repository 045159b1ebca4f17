import assert from 'node:assert/strict';
import { test } from 'node:test';
import { absence, channelName, explain, lanes, selections, splits } from '../pure/decision_model.js';

const decision = {
  time: '2026-01-31T21:00:00.000Z', strategy: 'fastest', result: 'success', duration_ns: 200_000_000, selection_ns: 50_000, provider_ns: 199_000_000, overhead_ns: 940_000,
  selections: [
    { chosen: 'basalt/http', eligible: [{ rank: 2, channel: 'harbor/http', score: 61.2, probability: 0.07, inputs: null }, { rank: 1, channel: 'basalt/http', score: 24, probability: 0.93, inputs: '{"ewma_ms":24.123456}' }], excluded: [{ channel: { provider_id: 'lumen', transport: 'ws' }, reason: 'circuit_open' }] },
    { chosen: { provider_id: 'harbor', transport: 'http' }, eligible: [{ rank: 1, channel: { provider_id: 'harbor', transport: 'http' }, score: 61.2, probability: 1 }], excluded: [{ channel: 'basalt/http', reason: 'tried' }] },
  ],
  attempts: [{ ordinal: 2, time: '2026-01-31T21:00:00.150Z', duration_ns: 50_000_000 }, { ordinal: 1, time: '2026-01-31T21:00:00.000Z', duration_ns: 149_000_000 }],
};

test('a channel has one name whichever form it comes in', () => {
  assert.equal(channelName('basalt/http'), 'basalt · http');
  assert.equal(channelName('eu:basalt:ws'), 'eu:basalt · ws');
  assert.equal(channelName({ provider_id: 'basalt', transport: 'http' }), 'basalt · http');
});

test('the explanation says who was taken, at which rank and odds, and who was passed over why', () => {
  assert.deepEqual(explain(decision), [
    'basalt · http ranked 1 of 2 eligible under fastest, chosen with probability 93.0 %; passed over: lumen · ws (circuit open).',
    'After a failure, selection 2: harbor · http ranked 1 of 1 eligible under fastest; passed over: basalt · http (tried).',
    'Answered in 200 ms after 2 attempts.',
  ]);
});

test('an answer without a selection says where it came from', () => {
  const [first, second] = explain({ answered_by: 'cache', result: 'success', duration_ns: 40_000, selections: [], attempts: [] });
  assert.match(first, /No provider was considered: the answer came from cache/);
  assert.match(second, /Answered in 40 µs without an attempt/);
});

test('a failure names its category, and the caller’s own fault is called that', () => {
  assert.match(explain({ ...decision, result: 'error', error_category: 'server_error' }).at(-1), /^Failed after 2 attempts in 200 ms: server error/);
  assert.match(explain({ ...decision, result: 'application_error', error_category: 'execution_revert' }).at(-1), /^The call's own fault: execution revert/);
});

test('candidates stand in rank order with their inputs as pairs', () => {
  const [first] = selections(decision);
  assert.deepEqual(first.eligible.map((of) => of.rank), [1, 2]);
  assert.deepEqual(first.eligible[0].inputs, [['ewma_ms', '24.12']]);
  assert.deepEqual(selections({ selections: [{ eligible: [{ rank: 1, channel: 'a/http', inputs: 'not json' }] }] })[0].eligible[0].inputs, [['', 'not json']]);
});

test('attempts stand in order and inside the decision', () => {
  const { total_ms, items } = lanes(decision);
  assert.equal(total_ms, 200);
  assert.deepEqual(items.map((item) => [item.attempt.ordinal, item.offset_ms, item.left, item.width]), [[1, 0, 0, 0.745], [2, 150, 0.75, 0.25]]);
});

test('shares of time do not exceed the whole', () => {
  assert.deepEqual(splits(decision).map(({ part, share }) => [part, Number(share.toFixed(4))]), [['selection', 0.0003], ['provider', 0.995], ['overhead', 0.0047]]);
  assert.equal(splits({ duration_ns: 0 })[0].share, 0);
});

test('not kept, not known and not there are three things', () => {
  assert.deepEqual(['sampled_out', 'unknown', 'not_found'].map((code) => absence(code).title), ['Sampled out', 'Not known', 'Not found']);
});
