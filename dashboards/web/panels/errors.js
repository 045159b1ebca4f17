// The report `errors`: what failed down, where it failed across. Only what lowers the success rate is here; a revert is
// the caller's own fault and is here only when the filter asks for it.

import { h } from '../element.js';
import { createPanel } from '../panel.js';
import { to } from '../navigation.js';
import { incompleteRegions } from '../pure/coverage.js';
import { count, percent, words } from '../pure/format.js';
import { errorLines } from '../pure/matrix.js';
import { regionsOf } from '../pure/providers.js';
import { reportParams } from '../pure/url_state.js';

const LINES = 9;

export function errorsPanel() {
  return createPanel({
    report: 'errors',
    title: 'Errors',
    note: 'by category, provider and region',
    params: (state) => reportParams(state, { result: state.result === 'application_error' ? state.result : 'error' }, ['result']),
    empty: 'No errors in this range.',
    render: (answer) => draw(errorLines(answer.rows), regionsOf(answer.rows), incompleteRegions(answer.coverage)),
  });
}

function draw(lines, regions, incomplete) {
  const most = Math.max(...lines.flatMap((line) => Object.values(line.regions)), 1);
  const head = h('tr', null, h('th', { scope: 'col' }, 'Category'), h('th', { scope: 'col' }, 'Provider'), h('th', { scope: 'col', class: 'num' }, 'All'), h('th', { scope: 'col', class: 'num' }, 'Share'),
    regions.map((region) => h('th', { scope: 'col', class: `num ${incomplete.has(region) ? 'is-incomplete' : ''}` }, region)));
  const body = lines.slice(0, LINES).map((line) => h('tr', null,
    h('th', { scope: 'row' }, words(line.category)),
    h('td', null, line.provider_id ? h('a', { href: to({ provider_id: line.provider_id }), data: { key: `error ${line.key}` } }, line.provider_id) : 'none'),
    h('td', { class: 'num' }, count(line.count)), h('td', { class: 'num dim' }, percent(line.share)),
    regions.map((region) => heat(line.regions[region] ?? 0, most))));
  const rest = lines.length - LINES;
  return [h('div', { class: 'scroll' }, h('table', null, h('caption', { class: 'hidden' }, 'Errors by category, provider and region'), h('thead', null, head), h('tbody', null, body))),
    rest > 0 ? h('p', { class: 'more' }, `${rest} more lines at /api/v1/errors`) : null];
}

function heat(n, most) {
  return h('td', { class: 'num heat', vars: { '--heat': Math.sqrt(n / most).toFixed(3) } }, n === 0 ? h('span', { class: 'dim' }, '0') : count(n));
}
