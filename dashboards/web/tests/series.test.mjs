import assert from 'node:assert/strict';
import { test } from 'node:test';
import { aggregate, byRegion, callsPerSecond, linearTicks, linePath, logBounds, logPosition, rowAt, totals } from '../pure/series.js';

const row = (second, region, more = {}) => ({ time: `2026-01-31T21:00:${String(second).padStart(2, '0')}Z`, region, calls: 100, success: 96, application_errors: 3, errors: 1, p95_ms: 10, ...more });
const rows = [row(20, null), row(0, null), row(10, null), row(0, 'us-east'), row(0, 'eu-west')];
const start = Date.parse('2026-01-31T21:00:00Z');

test('rows over all regions and rows of one are never added up together', () => {
  assert.deepEqual(aggregate(rows).map((of) => of.at - start), [0, 10_000, 20_000]);
  assert.deepEqual(byRegion(rows).map((of) => of.region), ['eu-west', 'us-east']);
});

test('only errors lower the success rate', () => {
  const sum = totals(aggregate(rows));
  assert.deepEqual([sum.calls, sum.application_errors, sum.errors], [300, 9, 3]);
  assert.equal(sum.success_rate, 0.99);
  assert.equal(totals([]).success_rate, null);
});

test('a rate is taken over closed cells, and cells without a row count as no calls', () => {
  const window = { from: start, to: start + 75_000, open: start + 60_000 };
  assert.equal(callsPerSecond(aggregate(rows), window, 10), 5);
  assert.equal(callsPerSecond(aggregate(rows), { from: start, to: start, open: start }, 10), null);
  const long = [{ at: start, calls: 960 }, { at: start + 960_000, calls: 1920 }, { at: start + 1_920_000, calls: 7 }];
  assert.equal(callsPerSecond(long, { from: start, to: start + 2_000_000, open: start + 1_985_000 }, 960), 2);
});

test('ticks of an axis reach the highest value', () => {
  for (const highest of [0.03, 1, 7.2, 99, 100, 123_456]) {
    const ticks = linearTicks(highest);
    assert.ok(ticks[0] === 0 && ticks.at(-1) >= highest && ticks.length <= 7, `${highest}: ${ticks}`);
  }
  assert.deepEqual(linearTicks(0), [0, 1]);
});

test('logarithmic bounds hold all values and positions grow with them', () => {
  const bounds = logBounds([13, 420, 1205]);
  assert.deepEqual([bounds.low, bounds.high], [10, 2000]);
  const positions = [13, 420, 1205].map((value) => logPosition(value, bounds));
  assert.ok(positions.every((x, index) => x > 0 && x < 1 && (index === 0 || x > positions[index - 1])), String(positions));
  assert.equal(logPosition(0, bounds), 0);
  assert.ok(logBounds([]).high > logBounds([]).low);
  assert.ok(logBounds([50, 50]).high > logBounds([50, 50]).low);
});

test('a line is broken where a cell or a value is missing', () => {
  const points = [0, 10, 20, 50, 60].map((at) => ({ at, x: at, y: at === 20 ? null : 1 }));
  assert.equal(linePath(points, 15), 'M0.0 1.0L10.0 1.0M50.0 1.0L60.0 1.0');
});

test('a cell holds its start and not its end', () => {
  const cells = aggregate(rows);
  assert.equal(rowAt(cells, start + 10_000, 10_000).at, start + 10_000);
  assert.equal(rowAt(cells, start + 30_000, 10_000), null);
});
