// The report `traffic`, twice: read-outs of the range with their regions beneath, and two charts over the same time axis,
// calls by result and latency. Time of which a node is missing is hatched in both.

import { createChart, createCrosshair, legend } from '../chart.js';
import { h, s } from '../element.js';
import { createPanel } from '../panel.js';
import { current } from '../navigation.js';
import { incompleteRegions, missingStretches, windowOf } from '../pure/coverage.js';
import { count, DASH, duration, EVENTS_FOR_A_RATE, percent, rate, span, successRate, tick } from '../pure/format.js';
import { aggregate, byRegion, callsPerSecond, linearTicks, linePath, rowAt, totals } from '../pure/series.js';
import { clock } from '../pure/time.js';
import { RANGES, reportParams } from '../pure/url_state.js';

/** The panel; its latest answer also feeds the read-outs given by `onTotals`. */
export function trafficPanel({ onTotals, onAge }) {
  const crosshair = createCrosshair();
  const charts = { calls: createChart(crosshair, 168), latency: createChart(crosshair, 168) };
  const legends = { calls: h('p', { class: 'legends', 'aria-live': 'polite' }), latency: h('p', { class: 'legends', 'aria-live': 'polite' }) };
  const content = h('div', { class: 'twin' },
    h('figure', null, h('figcaption', null, 'Calls per second', legends.calls), charts.calls.element),
    h('figure', null, h('figcaption', null, 'Latency, ms', legends.latency), charts.latency.element));
  let model = null;

  crosshair.subscribe(() => { if (model) tell(model, crosshair.at, legends); });
  return createPanel({
    report: 'traffic',
    title: 'Traffic',
    note: 'hatched: a node is missing',
    params: (state) => reportParams(state, { step: RANGES[state.range].step, limit: '10000' }),
    empty: 'No calls in this range.',
    isEmpty: () => false,
    onAge,
    onAnswer: (answer) => onTotals(readOuts(answer, current())),
    render(answer, state) {
      model = modelOf(answer, state);
      queueMicrotask(() => {
        charts.calls.draw(callsChart(model));
        charts.latency.draw(latencyChart(model));
        tell(model, crosshair.at, legends);
      });
      return [content];
    },
  });
}

function modelOf(answer, state) {
  const { seconds, step_seconds } = RANGES[state.range];
  const window = windowOf(answer.coverage, seconds, Date.now());
  return { rows: aggregate(answer.rows), window, stepSeconds: step_seconds, stepMs: step_seconds * 1000, missing: missingStretches(answer.coverage, window.from, window.to) };
}

/** The figures above the charts, over all regions and for each. */
export function readOuts(answer, state) {
  const { window, stepSeconds } = modelOf(answer, state);
  const lately = stepSeconds > 60 ? `last ${span(stepSeconds * 1000)}` : 'last minute';
  const of = (rows) => ({ ...totals(rows), per_second: callsPerSecond(rows, window, stepSeconds) });
  return { lately, weighted: answer.sampling?.weighted === true, incomplete: incompleteRegions(answer.coverage), all: of(aggregate(answer.rows)), regions: byRegion(answer.rows).map(({ region, rows }) => ({ region, ...of(rows) })) };
}

function tell(model, at, legends) {
  const row = at === null ? null : rowAt(model.rows, at, model.stepMs);
  const when = () => (at === null ? [] : [h('span', { class: 'legend-time' }, clock(at))]);
  const per = (key) => (at === null ? '' : rate(row === null ? 0 : row[key] / model.stepSeconds));
  legends.calls.replaceChildren(...when(), legend('success', 'success', per('success')), legend('application', "caller's fault", per('application_errors')), legend('error', 'errors', per('errors')));
  const value = (key) => (at === null ? '' : duration(row?.[key]));
  legends.latency.replaceChildren(...when(), legend('p95', 'p95', value('p95_ms')), legend('p50', 'p50', value('p50_ms')));
}

function callsChart(model) {
  const top = Math.max(...model.rows.map((row) => row.calls / model.stepSeconds), 0);
  const ticks = linearTicks(top, 3);
  const sum = totals(model.rows);
  return {
    ...model, ticks, top: ticks.at(-1), format: tick,
    label: `Calls per second by result: ${count(sum.calls)} calls, ${count(sum.errors)} errors. Arrow keys move the crosshair.`,
    layers: (scale) => model.rows.map((row) => column(row, model, scale)),
  };
}

function column(row, { window, stepMs, stepSeconds }, scale) {
  const from = Math.max(scale.x(Math.max(row.at, window.from)), scale.left);
  const to = Math.min(scale.x(row.at + stepMs), scale.right);
  if (to - from < 0.3) return s('g');
  let below = 0;
  const parts = [['error', row.errors], ['application', row.application_errors], ['success', row.success]].map(([kind, n]) => {
    const [low, high] = [below, below + Number(n) / stepSeconds];
    below = high;
    return s('rect', { class: `bar bar-${kind}`, x: from + 0.5, width: Math.max(to - from - 1, 0.8), y: scale.y(high), height: Math.max(0, scale.y(low) - scale.y(high)) });
  });
  return s('g', null, ...parts);
}

function latencyChart(model) {
  const top = Math.max(...model.rows.map((row) => row.p95_ms ?? 0), 0);
  const ticks = linearTicks(top, 3);
  const points = (key, scale) => model.rows.map((row) => ({ at: row.at, x: scale.x(row.at + model.stepMs / 2), y: row[key] === null ? null : scale.y(row[key]) }));
  return {
    ...model, ticks, top: ticks.at(-1), format: tick,
    label: 'Latency in milliseconds, 50th and 95th percentile. Arrow keys move the crosshair.',
    layers: (scale) => ['p95', 'p50'].map((name) => s('path', { class: `line line-${name}`, d: linePath(points(`${name}_ms`, scale), model.stepMs * 1.5) })),
  };
}

/** The strip of read-outs: `update` takes what `onTotals` got, and percentiles from the report `latency` by region. */
export function readOutStrip() {
  const strip = h('div', { class: 'readouts', role: 'group', 'aria-label': 'Read-outs of the range' });
  const had = { traffic: null, latency: null };

  function draw() {
    const { traffic, latency } = had;
    const pairs = (of, text) => (of ?? []).map((one) => [one.region, text(one)]);
    const p = (key) => [duration(latency?.all?.[key]), pairs(latency?.regions, (one) => duration(one[key]))];
    const t = (text) => (traffic === null ? [DASH, []] : [text(traffic.all), pairs(traffic.regions, text)]);
    const tilde = traffic?.weighted ? '~' : '';
    const cell = (...parts) => readOut(traffic?.incomplete ?? new Set(), ...parts);
    strip.replaceChildren(
      cell('Calls per second', traffic?.lately ?? 'last minute', ...t((of) => rate(of.per_second))),
      cell('Success', traffic === null ? '' : `n ${tilde}${count(traffic.all.calls)}`, ...t((of) => successRate(of.success_rate, of.calls)), gradeOf(traffic?.all)),
      cell('Errors', traffic === null || traffic.all.calls === 0 ? '' : percent(traffic.all.errors / traffic.all.calls, 2), ...t((of) => tilde + count(of.errors))),
      cell('Median', 'p50', ...p('p50_ms')),
      cell('Tail', 'p95', ...p('p95_ms')),
    );
  }

  draw();
  return { element: strip, traffic(of) { had.traffic = of; draw(); }, latency(of) { had.latency = of; draw(); }, age: (old) => strip.classList.toggle('is-old', old) };
}

// The same limits as in the providers' table.
function gradeOf(all) {
  if (!all || all.calls < EVENTS_FOR_A_RATE || all.success_rate >= 0.99) return '';
  return all.success_rate >= 0.95 ? 'is-fair' : 'is-poor';
}

function readOut(incomplete, name, note, value, regions, grade = '') {
  const [number, ...unit] = value.split(' ');
  // A region's figure drops the unit that it shares with the figure above it.
  const tail = unit.length > 0 ? ` ${unit.join(' ')}` : '';
  return h('div', { class: `readout ${grade}` }, h('h3', null, name, h('small', null, note)),
    h('p', { class: 'readout-value' }, number, tail === '' ? null : h('span', null, tail)),
    h('dl', null, regions.map(([region, text]) => h('div', incomplete.has(region) ? { class: 'is-incomplete', title: `${region}: a node or some of its time is missing` } : null, h('dt', null, region), h('dd', null, text.endsWith(tail) ? text.slice(0, text.length - tail.length) : text)))));
}
