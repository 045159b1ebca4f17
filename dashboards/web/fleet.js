// What the page knows of the fleet, whatever is open: the coverage of the last minute, asked for now and then and at
// once when the feed tells of a change, and the names
// that filters offer. The pill at the bottom left is drawn from it.

import { ask } from './api.js';
import { h } from './element.js';
import { to } from './navigation.js';
import { startPoller } from './poller.js';
import { sentence, STALE_AFTER_MS, summarise } from './pure/coverage.js';
import { span } from './pure/format.js';

const COVERAGE_MS = 5_000;
const NAMES_MS = 60_000;
const AGE_CHECK_MS = 5_000;

/** `{pill, coverage(of), askAgain, regions, rows}`; `onNames` is called when the filters' names may have changed. */
export function createFleet(onNames) {
  const link = h('a', { class: 'pill', href: to({ view: 'nodes' }) });
  const aloud = h('span', { class: 'hidden', 'aria-live': 'polite' });
  const fleet = { pill: h('div', { class: 'pill-place' }, link, aloud), rows: [], regions: [], latest: null, at: Date.now() };
  let spokenLevel = null;

  function draw() {
    const age = Date.now() - fleet.at;
    const is = summarise(fleet.latest);
    const stale = fleet.latest !== null && age > STALE_AFTER_MS;
    const names = is.missing.map((node) => `${node.region} ${node.node_id}: ${node.text}`);
    link.className = `pill pill-${stale ? 'stale' : is.level}`;
    link.setAttribute('href', to({ view: 'nodes' }));
    link.title = sentence(fleet.latest);
    link.replaceChildren(h('i', { 'aria-hidden': 'true' }), h('b', null, fleet.latest === null ? 'asking…' : is.label),
      h('span', null, stale ? `last heard ${span(age)} ago` : names.length > 0 ? names.join('; ') : is.note));
    if (is.level !== spokenLevel && fleet.latest !== null) aloud.textContent = sentence(fleet.latest);
    spokenLevel = is.level;
  }

  fleet.coverage = (of) => {
    fleet.latest = of;
    fleet.at = Date.now();
    const regions = (of.regions ?? []).map((region) => region.region);
    if (regions.join() !== fleet.regions.join()) { fleet.regions = regions; onNames(fleet); }
    draw();
  };
  const poller = startPoller(async (signal) => {
    const answer = await ask('coverage', new URLSearchParams({ from: '-60s' }), signal).catch(() => null);
    if (answer?.coverage) fleet.coverage(answer.coverage);
  }, COVERAGE_MS);
  fleet.askAgain = poller.restart;
  startPoller(async (signal) => {
    const answer = await ask('providers', new URLSearchParams({ from: '-3600s' }), signal).catch(() => null);
    if (answer !== null) { fleet.rows = answer.rows; onNames(fleet); }
  }, NAMES_MS);
  setInterval(draw, AGE_CHECK_MS);
  draw();
  fleet.redraw = draw;
  return fleet;
}
