// The report `nodes` and its coverage: which node-time the fleet should have, which of it is there, and why the rest is
// not. A lane per node; a title and the key below tell the reason too, not the colour alone.

import { h, s } from '../element.js';
import { createPanel } from '../panel.js';
import { missingStretches, ofNow, windowOf } from '../pure/coverage.js';
import { count, DASH, percent, shortNode, span, words } from '../pure/format.js';
import { axisTime, clock, dateClock, parseTime, timeTicks } from '../pure/time.js';
import { RANGES, rangeParams } from '../pure/url_state.js';

const REASONS = [['down', 'no heartbeat'], ['unreachable', 'did not answer'], ['late', 'not committed yet'], ['lost', 'a hole in the sequence'], ['expired', 'past retention'], ['unknown', 'cannot be shown']];
const CLOCK_SUSPECT_MS = 1000;

export function nodesPanel() {
  return createPanel({
    report: 'nodes',
    title: 'Nodes',
    note: 'now',
    params: () => new URLSearchParams(),
    empty: 'No node is known yet.',
    judge: ofNow,
    render: (answer) => table(answer),
  });
}

/** The lanes: the coverage of the chosen range, as any other question about it would get it. */
export function coveragePanel() {
  return createPanel({
    report: 'nodes',
    id: 'coverage',
    path: 'coverage',
    title: 'Coverage',
    note: 'node-time of the range, 10 s slices',
    params: rangeParams,
    empty: 'No node is expected yet.',
    isEmpty: (answer) => (answer.coverage.nodes ?? []).length === 0,
    render: (answer, state) => lanes(answer.coverage, state),
  });
}

function lanes(coverage, state) {
  const { seconds } = RANGES[state.range];
  const window = windowOf(coverage, seconds, Date.now());
  const x = (at) => `${(((at - window.from) / (window.to - window.from)) * 100).toFixed(3)}%`;
  const stretches = missingStretches(coverage, window.from, window.to);
  const lane = (node) => h('div', { class: 'lane' },
    h('div', { class: 'lane-name' }, h('b', null, node.region), h('span', null, shortNode(node.node_id))),
    s('svg', { class: 'lane-time', height: 18, width: '100%', role: 'img', 'aria-label': `${node.node_id}: ${percent(node.ratio)} covered` },
      s('rect', { class: 'covered', x: 0, y: 3, height: 12, width: '100%' }),
      stretches.filter((gap) => gap.node_id === node.node_id).map((gap) => s('rect', { class: `gap gap-${gap.why}`, x: x(gap.from), y: 3, height: 12, width: `${(((gap.to - gap.from) / (window.to - window.from)) * 100).toFixed(3)}%` },
        s('title', null, `${gap.why}: ${clock(gap.from)} to ${clock(gap.to)}`))),
      s('rect', { class: 'open-slices', x: x(window.open), y: 3, height: 12, width: `${(((window.to - window.open) / (window.to - window.from)) * 100).toFixed(3)}%` }, s('title', null, 'open: still arriving'))),
    h('div', { class: `lane-ratio num ${node.ratio < 1 ? 'is-fair' : ''}` }, percent(node.ratio, 2)));
  const ticks = timeTicks(window.from, window.to, 8).map((at) => h('span', { vars: { '--x': (at - window.from) / (window.to - window.from) } }, axisTime(at, window.to - window.from)));
  const present = new Set(stretches.map((gap) => gap.why));
  return [h('div', { class: 'lanes' }, coverage.nodes.map(lane)), h('div', { class: 'lane-axis', 'aria-hidden': 'true' }, ticks),
    h('p', { class: 'keys' }, h('span', { class: 'key key-covered' }, h('i'), 'covered'), REASONS.map(([why, text]) => h('span', { class: `key key-${why} ${present.has(why) ? '' : 'is-absent'}` }, h('i'), h('span', null, `${why}: ${text}`))), h('span', { class: 'key key-open' }, h('i'), 'open: still arriving')), regions(coverage)];
}

const td = (...children) => h('td', null, children);
const num = (text, title, grade) => h('td', { class: `num ${grade ?? ''}`, title }, text);

// A column is left out where the service does not tell what it `needs`.
const COLUMNS = [
  { name: 'Node', cell: (row) => h('th', { scope: 'row' }, row.node_id ?? row.address ?? DASH) },
  { name: 'Region', cell: (row) => td(row.region ?? DASH) },
  { name: 'State', cell: (row) => td(h('span', { class: `chip chip-${row.state}` }, words(row.state))) },
  { name: 'Answered', cell: (_, of) => td(of === undefined ? DASH : of.answered ? `${of.source ?? 'yes'}, ${Number(of.elapsed_ms).toFixed(1)} ms` : h('span', { class: 'is-poor' }, 'no')) },
  { name: 'Watermark', kind: 'num', cell: (row) => num(row.watermark ? `${ago(row.watermark)} ago` : DASH, titled(row.watermark)) },
  { name: 'Clock', kind: 'num', cell: (row) => num(offset(row.clock_offset_ms), null, Math.abs(Number(row.clock_offset_ms ?? 0)) > CLOCK_SUSPECT_MS ? 'is-poor' : '') },
  { name: 'Rows', kind: 'num', needs: 'rows', cell: (row) => num(count(row.rows)) },
  { name: 'Up', kind: 'num', needs: 'started', cell: (row) => num(ago(row.started), titled(row.started)) },
  { name: 'Version', cell: (row) => td(row.version ?? DASH) },
  { name: 'Store', cell: (row) => id(row.store_id) },
  { name: 'Boot', cell: (row) => id(row.boot_id) },
  { name: 'Address', needs: 'address', cell: (row) => h('td', { class: 'mono' }, row.address ?? DASH) },
  { name: 'Error', cell: (row) => h('td', { class: 'is-poor' }, row.error ?? '') },
];

function ago(text) {
  const at = parseTime(text);
  return at === null ? DASH : span(Date.now() - at);
}

function titled(text) {
  const at = parseTime(text);
  return at === null ? null : dateClock(at);
}

const offset = (ms) => (ms === null || ms === undefined ? DASH : `${Number(ms) > 0 ? '+' : ''}${Number(ms).toFixed(1)} ms`);

function table(answer) {
  const told = new Set(answer.rows.flatMap((row) => Object.keys(row)));
  const columns = COLUMNS.filter(({ needs }) => needs === undefined || told.has(needs));
  const answered = new Map((answer.coverage.nodes ?? []).map((node) => [node.node_id, node]));
  return h('div', { class: 'scroll' }, h('table', { class: 'nodes-table' }, h('caption', { class: 'hidden' }, 'Nodes as the query service knows them'),
    h('thead', null, h('tr', null, columns.map(({ name, kind }) => h('th', { scope: 'col', class: kind }, name)))),
    h('tbody', null, answer.rows.map((row) => h('tr', null, columns.map(({ cell }) => cell(row, answered.get(row.node_id))))))));
}

const id = (text) => h('td', { class: 'mono', title: text ?? null }, text ? String(text).slice(-8) : DASH);

function regions(coverage) {
  return h('ul', { class: 'region-cards', 'aria-label': 'Regions' }, (coverage.regions ?? []).map((region) =>
    h('li', { class: region.answered < region.expected || region.ratio < 1 ? 'is-partial' : '' }, h('b', null, region.region), h('span', null, `${region.answered}/${region.expected} nodes`), h('span', null, `${percent(region.ratio, 2)} of node-time`))));
}
