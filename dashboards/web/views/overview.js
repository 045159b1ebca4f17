// The overview: read-outs, traffic, providers and why they were chosen, with the tape of decisions at the side.

import { ask } from '../api.js';
import { h } from '../element.js';
import { current } from '../navigation.js';
import { circuitsPanel } from '../panels/circuits.js';
import { errorsPanel } from '../panels/errors.js';
import { latencyPanel, regionLatencies } from '../panels/latency.js';
import { providersPanel } from '../panels/providers.js';
import { readOutStrip, trafficPanel } from '../panels/traffic.js';
import { routingPanel } from '../panels/routing.js';
import { startPoller } from '../poller.js';
import { reportParams } from '../pure/url_state.js';
import { feedPanel } from './feed.js';

const REFRESH_MS = 5_000;

export function overview(feed) {
  const strip = readOutStrip();
  const panels = [trafficPanel({ onTotals: strip.traffic, onAge: strip.age }), providersPanel(), routingPanel(), latencyPanel(), errorsPanel(), circuitsPanel()];
  const tape = feedPanel(feed, { compact: true });
  const percentiles = startPoller(async (signal) => {
    // Percentiles of a range come from the union of sketches; those of the chart's cells must not be averaged.
    const answer = await ask('latency', reportParams(current(), { by: 'region' }), signal).catch(() => null);
    if (!signal.aborted) strip.latency(answer === null ? null : regionLatencies(answer));
  }, REFRESH_MS);
  const element = h('div', { class: 'view view-overview' }, h('div', { class: 'deck' }, strip.element, panels.map((panel) => panel.element)), tape.element);
  const parts = [...panels, percentiles];
  return {
    element,
    restart: () => parts.forEach((part) => part.restart()),
    redraw: () => panels.forEach((panel) => panel.redraw()),
    stop: () => [...parts, tape].forEach((part) => part.stop()),
  };
}
