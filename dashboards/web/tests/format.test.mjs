import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytes, count, DASH, duration, ms, percent, rate, span, successRate, tick, weight } from '../pure/format.js';

test('a success rate is cut and never rounded up to a hundred', () => {
  assert.equal(successRate(0.999999, 1_000_000), '99.99 %');
  assert.equal(successRate(1, 1_000_000), '100 %');
  assert.equal(percent(0.29), '29.0 %');
});

test('a success rate of fewer than five events is a dash', () => {
  assert.equal(successRate(1, 4), DASH);
  assert.equal(successRate(0.8, 5), '80.00 %');
});

test('a share too small to show is not zero', () => {
  assert.equal(percent(0.00001), '<0.1 %');
  assert.equal(percent(0), '0.0 %');
});

test('what is absent or no number is a dash everywhere', () => {
  for (const format of [count, rate, percent, ms, duration, span, bytes]) {
    for (const value of [null, undefined, NaN]) assert.equal(format(value), DASH, format.name);
  }
});

test('durations have the unit of their size', () => {
  assert.deepEqual([0.041, 4.21, 42.1, 1240, 200_000].map(duration), ['41 µs', '4.2 ms', '42 ms', '1.24 s', '3 min 20 s']);
  assert.deepEqual([999, 65_000, 7_500_000, 360_000_000].map(span), ['1 s', '1 min 5 s', '2 h 05 min', '4 d 4 h']);
});

test('a weight is shown only where a record stands for more than itself', () => {
  assert.deepEqual([1, 20, 1.5, null].map(weight), ['', '×20', '×1.5', '×?']);
});

test('an axis shows no digit that says nothing', () => {
  assert.deepEqual([0, 20, 0.30000000000000004, 25_000].map(tick), ['0', '20', '0.3', '25 k']);
});
