import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyBatch, applyGap, applySnapshot, emptyFeed, FEED_LIMIT, spoken } from '../pure/feed_model.js';

const decision = (n, more = {}) => ({ time: `2026-01-31T21:00:${String(n % 60).padStart(2, '0')}Z`, request_id: `r${n}`, batch_index: 0, result: 'success', ...more });
const batch = (...events) => ({ topic: 'routing:decisions:public', events });

test('a decision is listed once, however often it comes', () => {
  let feed = applySnapshot(emptyFeed(), { decisions: [decision(2), decision(1)] });
  feed = applyBatch(feed, batch(decision(2), decision(3), decision(3)));
  assert.deepEqual(feed.entries.map((entry) => entry.request_id), ['r3', 'r2', 'r1']);
  assert.equal(feed.decisions, 3);
});

test('the calls of a batch are decisions of their own', () => {
  const feed = applyBatch(emptyFeed(), batch(decision(1), decision(1, { batch_index: 1 })));
  assert.equal(feed.entries.length, 2);
});

test('the list is bounded and so is what remembers duplicates', () => {
  let feed = emptyFeed();
  for (let n = 0; n < FEED_LIMIT * 8; n += 1) feed = applyBatch(feed, batch(decision(n)));
  assert.equal(feed.entries.length, FEED_LIMIT);
  assert.ok(feed.seen.size <= FEED_LIMIT * 4 + 1);
  assert.equal(feed.entries[0].request_id, `r${FEED_LIMIT * 8 - 1}`);
});

test('a gap is an entry of its own and is counted', () => {
  let feed = applyBatch(emptyFeed(), batch(decision(1, { result: 'error' })));
  feed = applyGap(feed, { missed: 37, reason: 'slow_subscriber' });
  feed = applyGap(feed, { missed: 3, reason: 'slow_subscriber' });
  assert.deepEqual(feed.entries.map((entry) => entry.kind), ['gap', 'gap', 'decision']);
  assert.equal(new Set(feed.entries.map((entry) => entry.key)).size, 3);
  assert.deepEqual([feed.missed, feed.errors], [40, 1]);
});

test('transitions are told by their kind or their topic, heights are left out', () => {
  const event = { time: 't', node_id: 'n', chain: 'c', provider_id: 'p', transport: 'http', from: 'closed', to: 'open' };
  let feed = applyBatch(emptyFeed(), { topic: 'circuit:events:public:ethereum', events: [event] });
  feed = applyBatch(feed, batch({ kind: 'health', ...event }, { kind: 'block', height: 1 }));
  assert.deepEqual(feed.entries.map((entry) => entry.kind), ['health', 'circuit']);
});

test('a row is spoken as a sentence', () => {
  assert.equal(spoken(decision(1, { method: 'eth_call', chain: 'ethereum', provider_id: 'basalt', transport: 'http', region: 'eu-west', result: 'error', error_category: 'server_error', failovers: 1 })),
    'eth_call on ethereum to basalt over http in eu-west, error (server error), 1 failover');
});
