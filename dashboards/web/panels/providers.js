// The report `providers`: a line per channel, its regions beside it. A success rate stands with its n, a circuit with the
// number of nodes that see it so, a height with its lag.

import { h } from '../element.js';
import { current, to } from '../navigation.js';
import { createPanel } from '../panel.js';
import { incompleteRegions } from '../pure/coverage.js';
import { count, DASH, EVENTS_FOR_A_RATE, height, ms, percent, successRate } from '../pure/format.js';
import { channels, circuitOf, regionsOf, tail } from '../pure/providers.js';
import { reportParams } from '../pure/url_state.js';

export function providersPanel() {
  return createPanel({
    report: 'providers',
    title: 'Providers',
    note: 'latency in ms; a region column is its p95',
    params: (state) => reportParams(state, {}, ['result']),
    ignores: ['result'],
    empty: 'No provider was called in this range.',
    render: (answer) => draw(channels(answer.rows), regionsOf(answer.rows), incompleteRegions(answer.coverage)),
  });
}

function draw(lines, regions, incomplete) {
  const numeric = (name, title) => h('th', { scope: 'col', class: 'num', title }, name);
  const head = h('tr', null, h('th', { scope: 'col' }, 'Provider'), h('th', { scope: 'col' }, 'Circuit'), h('th', { scope: 'col' }, 'Share'), numeric('Calls'), numeric('Success'), numeric('Errors'),
    numeric('mean'), numeric('p50'), numeric('p95'), numeric('p99'), numeric('tail', 'p99 ÷ p50'), regions.map((region) => h('th', { scope: 'col', class: `num region-head ${incomplete.has(region) ? 'is-incomplete' : ''}` }, region)), numeric('Head', 'height, and blocks behind the consensus'));
  const chosen = current().provider_id;
  const several = new Set(lines.map(({ row }) => `${row.profile} ${row.chain}`)).size > 1;
  return h('div', { class: 'scroll' }, h('table', { class: 'providers-table' }, h('caption', { class: 'hidden' }, 'Providers over all regions, with each region’s 95th percentile'),
    h('thead', null, head), h('tbody', null, lines.map((line) => providerLine(line, regions, chosen, several)))));
}

function providerLine({ key, row, regions: of }, regions, chosen, several) {
  const target = chosen === row.provider_id ? '' : row.provider_id;
  const grade = tail(row);
  return h('tr', { class: chosen === row.provider_id ? 'is-chosen' : null },
    h('th', { scope: 'row' }, h('a', { href: to({ provider_id: target }), data: { key: `provider ${key}` }, title: target === '' ? 'Show all providers' : 'Show only this provider' }, row.provider_id),
      h('small', null, ` ${row.transport}`), several ? h('small', null, ` ${row.profile}/${row.chain}`) : null),
    h('td', null, circuit(row.circuit)),
    h('td', null, h('span', { class: 'share' }, h('i', { vars: { '--share': row.share ?? 0 }, 'aria-hidden': 'true' }), percent(row.share))),
    h('td', { class: 'num' }, count(row.calls)),
    h('td', { class: `num ${successGrade(row)}`, title: `n = ${count(row.calls)}` }, successRate(row.success_rate, row.calls)),
    h('td', { class: `num ${Number(row.errors) > 0 ? '' : 'dim'}` }, count(row.errors)),
    ['mean_ms', 'p50_ms', 'p95_ms', 'p99_ms'].map((name) => h('td', { class: 'num' }, ms(row[name]))),
    h('td', { class: `num tail-${grade.grade}` }, grade.ratio === null ? DASH : `${grade.ratio.toFixed(1)}×`),
    regions.map((region) => regionCell(of[region], row)),
    h('td', { class: 'num' }, height(row.height), h('span', { class: `lag ${Number(row.lag) < 0 ? 'is-fair' : 'dim'}` }, lagText(row.lag))));
}

// More than half again the channel's own p95 makes a region stand out.
function regionCell(row, overall) {
  if (row === undefined) return h('td', { class: 'num dim' }, DASH);
  const slow = Number(row.p95_ms) > 1.5 * Number(overall.p95_ms);
  const poor = Number(row.calls) >= EVENTS_FOR_A_RATE && row.success_rate < 0.95;
  return h('td', { class: `num region-cell ${poor ? 'is-poor' : slow ? 'is-fair' : ''}`, title: `${row.region}: ${successRate(row.success_rate, row.calls)} success of ${count(row.calls)}, p50 ${ms(row.p50_ms)} ms` }, ms(row.p95_ms));
}

const lagText = (lag) => (lag === null || lag === undefined ? '' : Number(lag) < 0 ? `−${-Number(lag)}` : '±0');

function successGrade(row) {
  if (Number(row.calls) < EVENTS_FOR_A_RATE || row.success_rate >= 0.99) return '';
  return row.success_rate >= 0.95 ? 'is-fair' : 'is-poor';
}

function circuit(counts) {
  const { state, text } = circuitOf(counts);
  const dots = ['open', 'half_open', 'closed'].flatMap((name) => Array.from({ length: Math.min(Number(counts?.[name] ?? 0), 5) }, () => h('i', { class: `dot dot-${name}`, 'aria-hidden': 'true' })));
  return h('span', { class: `circuit circuit-${state}`, title: text }, dots, h('span', { class: state === 'closed' ? 'hidden' : null }, state === 'closed' ? text : state.replace('_', ' ')));
}
