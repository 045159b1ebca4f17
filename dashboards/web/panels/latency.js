// The report `latency`: each key's percentiles on one logarithmic axis. The bar runs from the median to p95, the thin line
// on to p99: what a caller usually waits, and what it sometimes waits.

import { h, s } from '../element.js';
import { to } from '../navigation.js';
import { choice, createPanel } from '../panel.js';
import { count, ms, tick as tickOf } from '../pure/format.js';
import { logBounds, logPosition } from '../pure/series.js';
import { reportParams } from '../pure/url_state.js';

const LINES = 9;
const KEYS = [['method', 'method'], ['provider_id', 'provider'], ['region', 'region']];

export function latencyPanel() {
  return createPanel({
    report: 'latency',
    title: 'Latency',
    note: 'p50 ▬ p95 ─ p99, log scale',
    params: (state) => reportParams(state, { by: state.by }),
    empty: 'No calls in this range, so no latency.',
    tools: (state) => choice('Latency by', KEYS, state.by, (by) => to({ by })),
    render: (answer, state) => draw(linesOf(answer.rows, state.by), KEYS.find(([key]) => key === state.by)[1]),
  });
}

function linesOf(rows, key) {
  const overall = key === 'region' ? rows : rows.filter((row) => row.region === null || row.region === undefined);
  return (overall.length > 0 ? overall : rows).map((row) => ({ ...row, name: row[key] ?? 'all' }))
    .sort((a, b) => (a.name === 'all') - (b.name === 'all') || Number(b.calls) - Number(a.calls)).slice(0, LINES);
}

function draw(rows, name) {
  const bounds = logBounds(rows.flatMap((row) => [row.p50_ms, row.p99_ms]));
  const head = h('tr', null, h('th', { scope: 'col' }, name), h('th', { scope: 'col', class: 'num' }, 'Calls'),
    h('th', { scope: 'col', class: 'axis-head' }, bounds.ticks.map((tick) => h('span', { vars: { '--x': logPosition(tick, bounds) } }, axisDuration(tick)))),
    h('th', { scope: 'col', class: 'num' }, 'p50'), h('th', { scope: 'col', class: 'num' }, 'p95'), h('th', { scope: 'col', class: 'num' }, 'p99'));
  return h('div', { class: 'scroll' }, h('table', { class: 'latency-table' }, h('caption', { class: 'hidden' }, 'Latency percentiles in milliseconds'), h('thead', null, head),
    h('tbody', null, rows.map((row) => line(row, bounds)))));
}

function line(row, bounds) {
  const at = (value) => `${(logPosition(value, bounds) * 100).toFixed(2)}%`;
  const length = (from, until) => `${((logPosition(until, bounds) - logPosition(from, bounds)) * 100).toFixed(2)}%`;
  const drawing = s('svg', { class: 'range', height: 14, width: '100%', 'aria-hidden': 'true' },
    bounds.ticks.map((tick) => s('line', { class: 'grid', x1: at(tick), x2: at(tick), y1: 0, y2: 14 })),
    s('line', { class: 'whisker', x1: at(row.p95_ms), x2: at(row.p99_ms), y1: 7, y2: 7 }),
    s('rect', { class: 'box', x: at(row.p50_ms), width: length(row.p50_ms, row.p95_ms), y: 4, height: 6 }),
    s('line', { class: 'cap', x1: at(row.p99_ms), x2: at(row.p99_ms), y1: 4, y2: 10 }),
    s('line', { class: 'median', x1: at(row.p50_ms), x2: at(row.p50_ms), y1: 2, y2: 12 }));
  return h('tr', null, h('th', { scope: 'row' }, row.name), h('td', { class: 'num dim' }, count(row.calls)), h('td', { class: 'range-cell' }, drawing),
    h('td', { class: 'num' }, ms(row.p50_ms)), h('td', { class: 'num' }, ms(row.p95_ms)), h('td', { class: 'num' }, ms(row.p99_ms)));
}

const axisDuration = (milliseconds) => (milliseconds < 1 ? `${tickOf(milliseconds * 1000)} µs` : milliseconds < 1000 ? `${tickOf(milliseconds)} ms` : `${tickOf(milliseconds / 1000)} s`);

/** Percentiles of all calls and of each region, as the read-outs want them, from an answer by region. */
export function regionLatencies(answer) {
  const all = answer.rows.find((row) => row.region === null || row.region === undefined) ?? (answer.rows.length === 1 ? answer.rows[0] : null);
  return { all, regions: answer.rows.filter((row) => row.region).sort((a, b) => a.region.localeCompare(b.region)) };
}
