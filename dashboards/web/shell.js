// The frame: views, filters, a box for ids, the clock, and the strip at the bottom. Keys do what the mouse does.

import { h } from './element.js';
import { current, go, to } from './navigation.js';
import { options } from './pure/providers.js';
import { clock } from './pure/time.js';
import { RANGES, VIEWS } from './pure/url_state.js';

const TITLES = { overview: 'Overview', feed: 'Feed', nodes: 'Nodes' };
const KEYS = [['1 2 3', 'views'], ['/', 'find an id'], ['r', 'range'], ['space', 'hold the feed'], ['j k', 'walk'], ['Esc', 'close']];

/** `{element, main, update(fleet)}`. */
export function createShell(fleet, drawer) {
  const main = h('main', { id: 'main', tabindex: '-1' });
  const tabs = h('nav', { 'aria-label': 'Views' });
  const filters = h('div', { class: 'filters', role: 'group', 'aria-label': 'Filters' });
  const now = h('time', { class: 'now', title: 'All times are UTC' });
  const tick = () => { now.textContent = `${clock(Date.now())} UTC`; };
  tick();
  setInterval(tick, 1000);
  const skip = h('a', { class: 'skip', href: '#main' }, 'Skip to the figures');
  const header = h('header', { class: 'top' }, h('a', { class: 'mark-name', href: '?', 'aria-label': 'Lariat, overview' }, h('span', { class: 'knot', 'aria-hidden': 'true' }), 'Lariat'), tabs, filters, find(), now);
  const footer = h('footer', { class: 'bottom' }, fleet.pill, h('ul', { class: 'keys-help', 'aria-label': 'Keys' }, KEYS.map(([key, what]) => h('li', null, h('kbd', null, key), what))));

  function update() {
    const state = current();
    tabs.replaceChildren(...VIEWS.map((view) => h('a', { href: to({ view }), 'aria-current': view === state.view ? 'page' : null }, TITLES[view])));
    if (!filters.contains(document.activeElement)) filters.replaceChildren(...selects(state, fleet));
    main.className = `is-${state.view}`;
    document.title = `Lariat · ${state.decision ? 'Decision' : TITLES[state.view]}`;
  }

  return { element: [skip, header, main, drawer.element, footer], main, update };
}

function selects(state, fleet) {
  const names = (key) => options(fleet.rows, key, state[key]);
  const regions = [...new Set([...fleet.regions, ...(state.region ? [state.region] : [])])];
  const chosen = ['provider_id', 'result'].filter((key) => state[key] !== '').map((key) =>
    h('a', { class: 'unfilter', href: to({ [key]: '' }), 'aria-label': `Show all, not only ${state[key]}` }, state[key].replaceAll('_', ' '), h('span', { 'aria-hidden': 'true' }, ' ×')));
  return [...chosen, select('profile', 'all profiles', names('profile'), state), select('chain', 'all chains', names('chain'), state), select('region', 'all regions', regions, state), select('range', null, Object.keys(RANGES), state)];
}

function select(key, all, values, state) {
  const option = (value, text) => h('option', { value, selected: value === state[key] }, text);
  return h('select', { 'aria-label': key, name: key, class: state[key] !== '' && all !== null ? 'is-set' : null, on: { change: (event) => { event.target.blur(); go({ [key]: event.target.value }); } } },
    all === null ? null : option('', all), values.map((value) => option(value, value)));
}

function find() {
  const input = h('input', { type: 'search', name: 'find', placeholder: 'request or trace id', 'aria-label': 'Explain the decision of a request or trace id', spellcheck: 'false', autocomplete: 'off' });
  return h('form', { class: 'find', role: 'search', on: { submit: (event) => { event.preventDefault(); if (input.value.trim() !== '') go({ decision: input.value.trim() }); } } }, input);
}

/** Keyboard: single keys, outside of fields and without modifiers. */
export function listenToKeys(feed) {
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') {
      if (document.activeElement?.matches('input')) document.activeElement.blur();
      else go({ decision: '' });
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, select, textarea')) return;
    const ranges = Object.keys(RANGES);
    const act = {
      1: () => go({ view: 'overview' }), 2: () => go({ view: 'feed' }), 3: () => go({ view: 'nodes' }),
      '/': () => document.querySelector('.find input')?.focus(),
      r: () => go({ range: ranges[(ranges.indexOf(current().range) + 1) % ranges.length] }),
      ' ': event.target.matches('button, a') ? null : () => feed.pause(!feed.paused),
      j: event.target.closest('.panel-feed') ? null : () => document.querySelector('.feed-rows a')?.focus(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
