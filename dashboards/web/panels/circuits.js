// The report `circuits`: transitions, newest first. Each node has its own breaker per channel, so the region stands first.

import { h } from '../element.js';
import { createPanel } from '../panel.js';
import { words } from '../pure/format.js';
import { clock, dateClock, parseTime } from '../pure/time.js';
import { reportParams } from '../pure/url_state.js';

const LINES = 9;
const STATES = ['closed', 'half_open', 'open'];

export function circuitsPanel() {
  return createPanel({
    report: 'circuits',
    title: 'Circuits',
    note: 'transitions, newest first, UTC',
    params: (state) => reportParams(state, { limit: '100' }, ['result']),
    ignores: ['result'],
    empty: 'No circuit changed its state in this range.',
    render: (answer) => draw(answer.rows),
  });
}

function draw(rows) {
  const rest = rows.length - LINES;
  return [h('ol', { class: 'transitions' }, rows.slice(0, LINES).map(line)), rest > 0 ? h('p', { class: 'more' }, `${rest} more in this range`) : null];
}

function line(row) {
  const at = parseTime(row.time);
  return h('li', null,
    h('time', { datetime: row.time, title: at === null ? null : dateClock(at) }, at === null ? row.time : clock(at)),
    h('span', { class: 'region' }, row.region), h('span', { class: 'who' }, row.provider_id, h('small', null, ` ${row.transport}`)),
    h('span', { class: 'change' }, state(row.from), h('span', { 'aria-label': 'to' }, '→'), state(row.to)),
    h('span', { class: 'dim why' }, words(row.reason)));
}

const state = (name) => h('span', { class: `chip chip-${STATES.includes(name) ? name : 'unknown'}` }, words(name));
