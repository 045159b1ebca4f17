// The report `nodes` and its coverage: which node-time the fleet should have, which of it is there, and why the rest is
// not. A lane per node; colour and pattern both tell the reason.

import { h, s } from '../element.js';
import { createPanel } from '../panel.js';
import { missingStretches, windowOf } from '../pure/coverage.js';
import { count, DASH, percent, shortNode, span, words } from '../pure/format.js';
import { axisTime, clock, dateClock, parseTime, timeTicks } from '../pure/time.js';
import { RANGES } from '../pure/url_state.js';

const REASONS = [['down', 'no heartbeat'], ['unreachable', 'did not answer'], ['late', 'not committed yet'], ['lost', 'a hole in the sequence'], ['expired', 'past retention'], ['unknown', 'cannot be shown']];
const CLOCK_SUSPECT_MS = 1000;

export function nodesPanel({ onAnswer }) {
  return createPanel({
    report: 'nodes',
    title: 'Nodes',
    note: 'now',
    params: (state) => new URLSearchParams({ from: `-${state.range}` }),
    empty: 'No node is known yet.',
    onAnswer,
    render: (answer) => [table(answer), regions(answer.coverage)],
  });
}

/** The lanes, drawn from the same answer; a panel of its own for its height. */
export function coveragePanel() {
  return createPanel({
    report: 'nodes',
    id: 'coverage',
    title: 'Coverage',
    note: 'node-time of the range, 10 s slices',
    params: (state) => new URLSearchParams({ from: `-${state.range}` }),
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
    h('p', { class: 'keys' }, h('span', { class: 'key key-covered' }, h('i'), 'covered'), REASONS.map(([why, text]) => h('span', { class: `key key-${why} ${present.has(why) ? '' : 'is-absent'}` }, h('i'), h('span', null, `${why}: ${text}`))), h('span', { class: 'key key-open' }, h('i'), 'open: still arriving'))];
}

function table(answer) {
  const names = [['Node'], ['Region'], ['State'], ['Answered'], ['Watermark', 'num'], ['Clock', 'num'], ['Rows', 'num'], ['Up', 'num'], ['Version'], ['Store'], ['Boot'], ['Error']];
  const answered = new Map((answer.coverage.nodes ?? []).map((node) => [node.node_id, node]));
  return h('div', { class: 'scroll' }, h('table', { class: 'nodes-table' }, h('caption', { class: 'hidden' }, 'Nodes as the query service knows them'),
    h('thead', null, h('tr', null, names.map(([name, kind]) => h('th', { scope: 'col', class: kind }, name)))),
    h('tbody', null, answer.rows.map((row) => line(row, answered.get(row.node_id))))));
}

function line(row, coverage) {
  const now = Date.now();
  const ago = (text) => { const at = parseTime(text); return at === null ? DASH : span(now - at); };
  const skewed = Math.abs(Number(row.clock_offset_ms ?? 0)) > CLOCK_SUSPECT_MS;
  const titled = (text) => { const at = parseTime(text); return at === null ? null : dateClock(at); };
  return h('tr', null, h('th', { scope: 'row' }, row.node_id), h('td', null, row.region ?? DASH),
    h('td', null, h('span', { class: `chip chip-${row.state}` }, words(row.state))),
    h('td', null, coverage === undefined ? DASH : coverage.answered ? `${coverage.source ?? 'yes'}, ${Number(coverage.elapsed_ms).toFixed(1)} ms` : h('span', { class: 'is-poor' }, 'no')),
    h('td', { class: 'num', title: titled(row.watermark) }, row.watermark ? `${ago(row.watermark)} ago` : DASH),
    h('td', { class: `num ${skewed ? 'is-poor' : ''}` }, row.clock_offset_ms === null || row.clock_offset_ms === undefined ? DASH : `${Number(row.clock_offset_ms) > 0 ? '+' : ''}${Number(row.clock_offset_ms).toFixed(1)} ms`),
    h('td', { class: 'num' }, count(row.rows)), h('td', { class: 'num', title: titled(row.started) }, ago(row.started)),
    h('td', null, row.version ?? DASH), id(row.store_id), id(row.boot_id), h('td', { class: 'is-poor' }, row.error ?? ''));
}

const id = (text) => h('td', { class: 'mono', title: text ?? null }, text ? String(text).slice(-8) : DASH);

function regions(coverage) {
  return h('ul', { class: 'region-cards', 'aria-label': 'Regions' }, (coverage.regions ?? []).map((region) =>
    h('li', { class: region.answered < region.expected || region.ratio < 1 ? 'is-partial' : '' }, h('b', null, region.region), h('span', null, `${region.answered}/${region.expected} nodes`), h('span', null, `${percent(region.ratio, 2)} of node-time`))));
}
