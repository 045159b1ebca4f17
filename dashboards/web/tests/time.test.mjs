import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clockMillis, parseTime, timeTicks } from '../pure/time.js';

test('a time with nanoseconds is read to the microsecond', () => {
  const at = parseTime('2026-01-31T21:03:10.042123456Z');
  assert.equal(Math.floor(at), Date.UTC(2026, 0, 31, 21, 3, 10, 42));
  assert.ok(Math.abs(at - Math.floor(at) - 0.123) < 0.01);
  assert.equal(clockMillis(at), '21:03:10.042');
});

test('a time without a fraction or with an offset is read too', () => {
  assert.equal(parseTime('2026-01-31T21:03:10Z'), Date.UTC(2026, 0, 31, 21, 3, 10));
  assert.equal(parseTime('2026-01-31T23:03:10.5+02:00'), Date.UTC(2026, 0, 31, 21, 3, 10, 500));
});

test('what is no time is null', () => {
  for (const text of ['', 'now', '2026-01-31', null, 12, '2026-13-41T00:00:00Z']) assert.equal(parseTime(text), null);
});

test('ticks are round moments inside the range and no more than asked for', () => {
  const from = Date.UTC(2026, 0, 31, 21, 3, 10);
  const ticks = timeTicks(from, from + 900_000, 6);
  assert.ok(ticks.length >= 3 && ticks.length <= 6);
  for (const at of ticks) assert.ok(at >= from && at % 60_000 === 0);
});
