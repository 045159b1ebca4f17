// The live feed as a list of links: each decision opens its explanation. Rows are added in front, never redrawn, so that
// the focus and the reading eye stay where they are. Screen readers get a summary now and then, not every call.

import { h, s } from '../element.js';
import { current, go, onChange, to } from '../navigation.js';
import { choice } from '../panel.js';
import { spoken } from '../pure/feed_model.js';
import { count, duration, ms, weight, words } from '../pure/format.js';
import { logPosition } from '../pure/series.js';
import { clock, clockMillis, parseTime } from '../pure/time.js';

const SUMMARY_MS = 15_000;
const BAR = { low: 1, high: 10_000 };
const RESULTS = [['', 'all'], ['error', 'errors'], ['application_error', "caller's fault"], ['success', 'success']];
const LINKS = { connecting: 'connecting…', live: 'live', lost: 'connection lost, trying again' };

/** `{element, stop}`; `compact` shows fewer columns. */
export function feedPanel(feed, { compact }) {
  const list = h('ol', { class: 'feed-rows', 'aria-label': 'Decisions, newest first' });
  const status = h('span', { class: 'marks' });
  const tools = h('span', { class: 'tools' });
  const aloud = h('p', { class: 'hidden', 'aria-live': 'polite' });
  const state = h('p', { class: 'state state-reading' });
  // Without a chosen profile the service sends its default one, and that is said.
  const profile = h('small');
  const heading = h('h2', { id: 'panel-feed' }, 'Decisions', profile);
  const element = h('section', { class: `panel panel-feed ${compact ? 'is-compact' : 'is-wide'}`, 'aria-labelledby': 'panel-feed' },
    h('header', null, heading, status, tools), compact ? null : columns(), h('div', { class: 'feed-scroll' }, state, list), aloud);
  const rows = new Map();
  let told = { at: Date.now(), decisions: 0, errors: 0 };

  function draw() {
    sync(list, rows, feed.value.entries, compact);
    mark(rows);
    status.replaceChildren(h('span', { class: `mark mark-link-${feed.link}` }, LINKS[feed.link]),
      feed.value.missed > 0 ? h('span', { class: 'mark mark-partial', title: 'Events this page was not sent' }, `${count(feed.value.missed)} missed`) : '');
    state.hidden = feed.value.entries.length > 0;
    state.textContent = feed.link === 'live' ? 'Waiting for the first decision…' : feed.link === 'lost' ? 'The live feed cannot be reached; trying again.' : 'Connecting to the live feed…';
    pause.textContent = feed.paused ? `Go on${feed.held > 0 ? ` (${count(feed.held)} new)` : ''}` : 'Hold';
    pause.setAttribute('aria-pressed', String(feed.paused));
    told = summary(feed.value, told, aloud);
  }

  const pause = h('button', { type: 'button', class: 'quiet', title: 'Space holds the list', on: { click: () => feed.pause(!feed.paused) } }, 'Hold');
  const filters = () => { profile.textContent = `live, ${current().profile || 'profile public'}`; tools.replaceChildren(...(compact ? [] : [choice('Result', RESULTS, current().result, (result) => to({ result }))]), pause); };
  const stops = [feed.subscribe(draw), onChange(() => { filters(); refreshLinks(rows); mark(rows); })];
  element.addEventListener('keydown', (event) => walk(event, list));
  filters();
  draw();
  return { element, stop: () => stops.forEach((stop) => stop()) };
}

function sync(list, rows, entries, compact) {
  const keep = new Set(entries.map((entry) => entry.key));
  for (const [key, row] of rows) if (!keep.has(key)) { row.remove(); rows.delete(key); }
  const fresh = [];
  for (const entry of entries) {
    if (rows.has(entry.key)) break;
    const row = rowOf(entry, compact);
    rows.set(entry.key, row);
    fresh.push(row);
  }
  list.prepend(...fresh);
}

function rowOf(entry, compact) {
  if (entry.kind === 'gap') return h('li', { class: 'feed-gap' }, `${entry.missed > 0 ? count(entry.missed) : 'Some'} events are missing here: ${words(entry.reason)}`);
  if (entry.kind === 'circuit' || entry.kind === 'health') return transition(entry);
  return decision(entry, compact);
}

function transition(entry) {
  const at = parseTime(entry.time);
  return h('li', { class: 'feed-event' }, h('time', null, at === null ? '' : clock(at)),
    `${entry.kind} of ${entry.provider_id} ${entry.transport} in ${entry.region}: ${words(entry.from)} → ${words(entry.to)} (${words(entry.reason)})`);
}

function decision(entry, compact) {
  const at = parseTime(entry.time);
  const took = Number(entry.duration_ns) / 1e6;
  const heavy = weight(entry.adjusted_count);
  const bar = s('svg', { class: 'feed-bar', width: 48, height: 6, 'aria-hidden': 'true' }, s('rect', { width: (2 + logPosition(took, BAR) * 46).toFixed(1), height: 6 }));
  const kept = ['rate', 'always', 'undecided'].includes(entry.keep_reason) ? '' : words(entry.keep_reason);
  const fields = [
    h('time', { datetime: entry.time }, at === null ? entry.time : compact ? clock(at) : clockMillis(at)),
    h('span', { class: 'f-region' }, entry.region), compact ? null : h('span', { class: 'f-chain' }, entry.chain),
    h('span', { class: 'f-method' }, entry.method),
    compact ? null : provider(entry, compact),
    compact ? null : h('span', { class: 'f-strategy' }, words(entry.strategy ?? '')),
    h('span', { class: 'f-failovers', title: entry.failovers > 0 ? `${entry.failovers} failover` : null }, entry.failovers > 0 ? `↻${entry.failovers}` : ''),
    h('span', { class: 'f-result' }, entry.error_category ? words(entry.error_category) : compact ? '' : words(entry.result)),
    compact ? null : h('span', { class: 'f-kept' }, kept),
    h('span', { class: 'f-weight', title: heavy === '' ? null : heavy === '×?' ? 'How many calls this stands for is not known' : `Stands for ${entry.adjusted_count} calls` }, heavy),
    compact ? provider(entry, compact) : h('span', { class: 'f-bar' }, bar),
    h('span', { class: 'f-ms' }, ms(took)),
  ];
  const link = h('a', { class: `feed-row is-${entry.result}`, href: to({ decision: entry.request_id }), data: { key: entry.key, request: entry.request_id }, 'aria-label': `${spoken(entry)}, ${duration(took)}` }, fields);
  return h('li', null, link);
}

const provider = (entry, compact) => h('span', { class: 'f-provider' }, entry.provider_id ?? words(entry.answered_by), entry.transport && !compact ? h('small', null, ` ${entry.transport}`) : null);

const columns = () => h('div', { class: 'feed-row feed-head', 'aria-hidden': 'true' }, ['Time', 'Region', 'Chain', 'Method', 'Provider', 'Strategy', '', 'Result', 'Kept for', 'Weight', '', 'ms'].map((name, index) =>
  h('span', { class: index >= 9 ? 'f-ms' : null }, name)));

function mark(rows) {
  const chosen = current().decision;
  for (const row of rows.values()) {
    const link = row.firstElementChild;
    const is = chosen !== '' && link?.dataset?.request === chosen;
    link?.classList?.toggle('is-chosen', is);
    if (is) link.setAttribute('aria-current', 'true');
    else link?.removeAttribute?.('aria-current');
  }
}

function refreshLinks(rows) {
  for (const row of rows.values()) {
    const request = row.firstElementChild?.dataset?.request;
    if (request) row.firstElementChild.setAttribute('href', to({ decision: request }));
  }
}

// J and K walk the list from wherever the focus is; Home goes back to the newest.
function walk(event, list) {
  if (!['j', 'k', 'ArrowDown', 'ArrowUp', 'Home'].includes(event.key)) return;
  const links = [...list.querySelectorAll('a')];
  const at = links.indexOf(document.activeElement);
  const next = event.key === 'Home' ? 0 : at + (event.key === 'j' || event.key === 'ArrowDown' ? 1 : -1);
  if (links[next] === undefined) return;
  event.preventDefault();
  links[next].focus();
  if (current().decision !== '') go({ decision: links[next].dataset.request }, { replace: true });
}

function summary(feed, told, aloud) {
  if (Date.now() - told.at < SUMMARY_MS) return told;
  const fresh = feed.decisions - told.decisions;
  const errors = feed.errors - told.errors;
  if (fresh > 0) aloud.textContent = `${count(fresh)} new decisions, ${count(errors)} of them errors.`;
  return { at: Date.now(), decisions: feed.decisions, errors: feed.errors };
}
