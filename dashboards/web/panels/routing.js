// The report `routing`: what the strategies meant to do against what happened, and why channels were passed over. The bar
// is the share of first attempts, the tick what the strategy stated: a distance between the two is a strategy that does not
// do what it says. What a channel answered in the end differs from both by failover and stands beside.

import { h } from '../element.js';
import { createPanel } from '../panel.js';
import { count, percent, words } from '../pure/format.js';
import { exclusions, routingGroups } from '../pure/matrix.js';
import { reportParams } from '../pure/url_state.js';

const REASONS = 3;

export function routingPanel() {
  return createPanel({
    report: 'routing',
    title: 'Routing',
    note: 'of first attempts: bar actual, tick intended',
    params: (state) => reportParams(state, {}, ['result']),
    ignores: ['result'],
    empty: 'No selection was made in this range.',
    render: (answer) => h('div', { class: 'scroll' }, h('table', { class: 'routing-table' }, h('caption', { class: 'hidden' }, 'Intended and actual share of each channel'), head(), routingGroups(answer.rows).map(group))),
  });
}

function head() {
  return h('thead', null, h('tr', null, ['Channel', 'Share', 'Actual', 'Intended', 'Answered', 'Calls', 'Passed over'].map((name, index) =>
    h('th', { scope: 'col', class: index > 1 && index < 6 ? 'num' : null }, name))));
}

function group({ profile, chain, strategy, rows }) {
  const title = h('tr', { class: 'group' }, h('th', { scope: 'rowgroup', colspan: 7 }, words(strategy), h('small', null, ` ${profile} · ${chain}`)));
  return h('tbody', null, title, rows.map(line));
}

function line(row) {
  const apart = Math.abs(Number(row.actual_share ?? 0) - Number(row.intended_share ?? 0)) > 0.05;
  const bullet = h('span', { class: `bullet ${apart ? 'is-apart' : ''}`, 'aria-hidden': 'true', vars: { '--actual': row.actual_share ?? 0, '--intended': row.intended_share ?? 0 } });
  return h('tr', null, h('th', { scope: 'row' }, row.provider_id, h('small', null, ` ${row.transport}`)), h('td', { class: 'bullet-cell' }, bullet),
    h('td', { class: 'num' }, percent(row.actual_share)), h('td', { class: 'num dim' }, percent(row.intended_share)),
    h('td', { class: 'num' }, percent(row.answered_share)), h('td', { class: 'num' }, count(row.calls)),
    h('td', { class: 'reasons' }, reasons(row)));
}

function reasons(row) {
  const all = exclusions([row]);
  if (all.length === 0) return h('span', { class: 'dim' }, 'never');
  const shown = all.slice(0, REASONS).map(({ reason, n }) => h('span', { class: `reason reason-${/^[a-z_]+$/.test(reason) ? reason : 'other'}` }, `${words(reason)} `, h('b', null, count(n))));
  return all.length > REASONS ? [shown, h('span', { class: 'dim', title: all.slice(REASONS).map(({ reason, n }) => `${words(reason)} ${n}`).join(', ') }, `+${all.length - REASONS}`)] : shown;
}
