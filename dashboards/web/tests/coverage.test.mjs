import assert from 'node:assert/strict';
import { test } from 'node:test';
import { incompleteRegions, missingStretches, sentence, summarise, windowOf } from '../pure/coverage.js';

const from = '2026-01-31T21:00:00.000000000Z';
const to = '2026-01-31T21:15:00.000000000Z';
const at = (text) => Date.parse(`2026-01-31T${text}Z`);

function fleet(states) {
  const nodes = states.map(({ up = true, ratio = 1, missing = [] }, n) => ({ node_id: `lariat@10.0.0.${n}`, region: `region-${n}`, state: up ? 'ready' : 'unresponsive', answered: up, ratio, missing }));
  const answered = nodes.filter((node) => node.answered).length;
  const ratio = nodes.reduce((sum, node) => sum + node.ratio, 0) / nodes.length;
  return { complete: answered === nodes.length && ratio === 1, ratio, expected: nodes.length, answered, window: { from, to, open_from: '2026-01-31T21:14:40Z' }, nodes, regions: nodes.map((node) => ({ region: node.region, expected: 1, answered: node.answered ? 1 : 0, ratio: node.ratio })) };
}
const gone = { up: false, ratio: 0.9, missing: [{ from: '2026-01-31T21:13:30Z', to, why: 'unreachable' }] };

test('complete is the only green', () => {
  assert.equal(summarise(fleet([{}, {}, {}])).level, 'complete');
  assert.equal(summarise(fleet([{}, {}, { ratio: 0.999 }])).level, 'partial');
  assert.equal(summarise({ ...fleet([{}, {}]), complete: false }).level, 'partial');
});

test('a majority is amber, less is red, none is offline', () => {
  assert.equal(summarise(fleet([{}, {}, gone])).level, 'partial');
  assert.equal(summarise(fleet([{}, gone, gone])).level, 'critical');
  assert.equal(summarise(fleet([gone, gone])).level, 'offline');
});

test('what is missing is named with its region, its reason and since when', () => {
  const { label, missing } = summarise(fleet([{}, {}, gone]));
  assert.equal(label, '2/3 nodes');
  assert.deepEqual(missing, [{ node_id: 'lariat@10.0.0.2', region: 'region-2', absent: true, text: 'unreachable since 21:13:30' }]);
  assert.match(sentence(fleet([{}, {}, gone])), /lariat@10\.0\.0\.2 in region-2: unreachable since 21:13:30/);
});

test('a ratio just below one does not read as all', () => {
  assert.equal(summarise(fleet([{}, { ratio: 0.99999 }])).note, '99.9 % of node-time');
});

test('one node is a standalone node, and coverage that is absent is not known', () => {
  assert.equal(summarise(fleet([{}])).label, 'Standalone node');
  assert.equal(summarise(null).level, 'unknown');
  assert.equal(sentence(undefined), 'Coverage is not known.');
});

test('stretches are clipped to what is drawn', () => {
  assert.deepEqual(missingStretches(fleet([gone]), at('21:14:00'), at('21:20:00')).map((gap) => [gap.from, gap.to, gap.why]), [[at('21:14:00'), at('21:15:00'), 'unreachable']]);
  assert.deepEqual(missingStretches(fleet([gone]), at('21:00:00'), at('21:13:30')), []);
});

test('the window is the one of the answer, and a guess only without it', () => {
  assert.deepEqual(windowOf(fleet([{}]), 900, 0), { from: at('21:00:00'), to: at('21:15:00'), open: at('21:14:40') });
  assert.deepEqual(windowOf(null, 900, 1_000_000), { from: 100_000, to: 1_000_000, open: 985_000 });
});

test('a region that lacks a node or time is marked', () => {
  assert.deepEqual([...incompleteRegions(fleet([{}, gone, { ratio: 0.5 }]))], ['region-1', 'region-2']);
});
