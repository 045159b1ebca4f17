// From rows to things that can be drawn, without knowing what draws them. A cell without a row had no calls: counts read
// zero there, percentiles do not exist, and a line is broken rather than carried across.

import { parseTime } from './time.js';

/** Rows over all regions (region null), sorted by time, with `at` in milliseconds. */
export function aggregate(rows) {
  return timed(rows.filter((row) => row.region === null || row.region === undefined));
}

/** Rows of each region: `[{region, rows}]`, by name. */
export function byRegion(rows) {
  const regions = Map.groupBy ? Map.groupBy(withRegion(rows), (row) => row.region) : group(withRegion(rows));
  return [...regions].map(([region, of]) => ({ region, rows: timed(of) })).sort((a, b) => a.region.localeCompare(b.region));
}

const withRegion = (rows) => rows.filter((row) => row.region !== null && row.region !== undefined);

function group(rows) {
  const regions = new Map();
  for (const row of rows) regions.set(row.region, [...(regions.get(row.region) ?? []), row]);
  return regions;
}

function timed(rows) {
  return rows
    .map((row) => ({ ...row, at: parseTime(row.time) }))
    .sort((a, b) => (a.at ?? 0) - (b.at ?? 0));
}

/** Sums of the counts of some traffic rows. */
export function totals(rows) {
  const sum = (key) => rows.reduce((all, row) => all + Number(row[key] ?? 0), 0);
  const [calls, success, application_errors, errors] = ['calls', 'success', 'application_errors', 'errors'].map(sum);
  return { calls, success, application_errors, errors, success_rate: calls > 0 ? (calls - errors) / calls : null };
}

/** Calls per second over the last closed minute, or the last closed cell where cells are longer; null if there is none. */
export function callsPerSecond(rows, window, stepSeconds) {
  const step = stepSeconds * 1000;
  const phase = rows.length > 0 ? rows[0].at % step : 0;
  const end = Math.floor((window.open - phase) / step) * step + phase;
  const first = Math.ceil((window.from - phase) / step) * step + phase;
  const start = Math.max(end - Math.max(1, Math.floor(60_000 / step)) * step, first);
  if (end <= start) return null;
  return totals(rows.filter((row) => row.at >= start && row.at < end)).calls / ((end - start) / 1000);
}

/** Round numbers from 0 up to at least `highest`, about `wanted` of them. */
export function linearTicks(highest, wanted = 4) {
  if (!(highest > 0)) return [0, 1];
  const rough = highest / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let value = 0; ticks.length === 0 || ticks.at(-1) < highest; value += step) ticks.push(Number(value.toPrecision(12)));
  return ticks;
}

/** Bounds of 1, 2 or 5 times a power of ten around values, for a logarithmic axis inside five decades; ticks at the powers. */
export function logBounds(values) {
  const usable = values.map(Number).filter((value) => value > 0);
  if (usable.length === 0) return { low: 1, high: 1000, ticks: [1, 10, 100, 1000] };
  const least = Math.min(...usable);
  const steps = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** (power - 4))).flat();
  const high = steps.find((step) => step >= Math.max(...usable) && step > least) ?? steps.at(-1);
  const low = Math.max(steps.findLast((step) => step <= least && step < high) ?? steps[0], high / 1e5);
  const decades = steps.filter((step) => step >= low && step <= high && Math.abs(Math.log10(step) % 1) < 1e-9);
  return { low, high, ticks: decades.length > 1 ? decades : [low, high] };
}

/** Position 0..1 on a logarithmic axis. */
export const logPosition = (value, { low, high }) =>
  Math.min(1, Math.max(0, Math.log10(Math.max(Number(value), low) / low) / Math.log10(high / low)));

/** SVG path through points, broken where a cell is missing or a value is null. */
export function linePath(points, maximumGapMs) {
  let path = '';
  let last = null;
  for (const point of points) {
    if (point.y === null || !Number.isFinite(point.y)) { last = null; continue; }
    const joined = last !== null && point.at - last <= maximumGapMs;
    path += `${joined ? 'L' : 'M'}${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
    last = point.at;
  }
  return path;
}

/** The row of the cell that holds a moment. */
export const rowAt = (rows, at, stepMs) => rows.find((row) => row.at <= at && at < row.at + stepMs) ?? null;
