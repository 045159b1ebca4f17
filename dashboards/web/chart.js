// Charts over time, by hand: axes, a crosshair that several charts share, and the hatch that marks time of which the
// answer lacks a node. What is drawn comes from `pure/series.js`; here are only elements.

import { s, h } from './element.js';
import { axisTime, timeTicks } from './pure/time.js';

const LEFT = 44;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;
let serial = 0;

/** A crosshair that charts share: `{at, subscribe, set}`, `at` in milliseconds or null. */
export function createCrosshair() {
  const listeners = new Set();
  const cross = {
    at: null,
    set(at) { cross.at = at; for (const listener of listeners) listener(at); },
    subscribe(listener) { listeners.add(listener); return () => listeners.delete(listener); },
  };
  return cross;
}

/**
 * A chart whose element stays while its content changes. `draw(model)` with `{window, stepMs, top, ticks, format, label,
 * layers(scale), missing}`; `layers` returns SVG nodes for the scale `{x(at), y(value), left, right, top, bottom, width}`.
 */
export function createChart(crosshair, height) {
  const id = `hatch-${++serial}`;
  const canvas = s('svg', { class: 'chart', tabindex: '0', role: 'img', height, width: '100%' });
  const line = s('line', { class: 'crosshair', y1: TOP, y2: height - BOTTOM });
  let model = null;

  function render() {
    if (model === null) return;
    const width = Math.max(canvas.clientWidth, 200);
    const scale = scaleOf(model, width, height);
    canvas.setAttribute('viewBox', `0 0 ${width} ${height}`);
    canvas.setAttribute('aria-label', model.label);
    canvas.replaceChildren(hatch(id), ...gaps(model, scale, id), ...axes(model, scale), ...model.layers(scale), line);
    move();
  }

  function move() {
    const at = crosshair.at;
    const inside = model !== null && at !== null && at >= model.window.from && at <= model.window.to;
    line.classList.toggle('is-shown', inside);
    if (!inside) return;
    const x = scaleOf(model, Math.max(canvas.clientWidth, 200), height).x(at);
    line.setAttribute('x1', x);
    line.setAttribute('x2', x);
  }

  const atOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    return share < 0 || share > 1 ? null : model.window.from + share * (model.window.to - model.window.from);
  };
  canvas.addEventListener('pointermove', (event) => { if (model) crosshair.set(atOf(event)); });
  canvas.addEventListener('pointerleave', () => crosshair.set(null));
  canvas.addEventListener('blur', () => crosshair.set(null));
  canvas.addEventListener('keydown', (event) => step(event, model, crosshair));
  crosshair.subscribe(move);
  const watcher = new ResizeObserver(render);
  watcher.observe(canvas);
  return { element: canvas, draw(next) { model = next; render(); } };
}

function step(event, model, crosshair) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by === undefined || model === null) return;
  event.preventDefault();
  const at = (crosshair.at ?? model.window.open) + by * model.stepMs;
  crosshair.set(Math.min(model.window.to, Math.max(model.window.from, at)));
}

function scaleOf({ window, top }, width, height) {
  const span = Math.max(1, window.to - window.from);
  const [right, bottom] = [width - RIGHT, height - BOTTOM];
  return {
    left: LEFT, right, top: TOP, bottom, width,
    x: (at) => LEFT + ((at - window.from) / span) * (right - LEFT),
    y: (value) => bottom - (Math.min(value, top) / top) * (bottom - TOP),
  };
}

function axes({ window, ticks, format }, scale) {
  const across = ticks.map((tick) => s('g', { class: 'axis' },
    s('line', { x1: scale.left, x2: scale.right, y1: scale.y(tick), y2: scale.y(tick) }),
    s('text', { x: scale.left - 6, y: scale.y(tick) + 3.5, 'text-anchor': 'end' }, format(tick))));
  const most = Math.max(2, Math.floor((scale.right - scale.left) / 78));
  const along = timeTicks(window.from, window.to, most).map((at) => s('g', { class: 'axis axis-time' },
    s('line', { x1: scale.x(at), x2: scale.x(at), y1: scale.bottom, y2: scale.bottom + 3 }),
    s('text', { x: scale.x(at), y: scale.bottom + 14, 'text-anchor': 'middle' }, axisTime(at, window.to - window.from))));
  return [...across, ...along];
}

function hatch(id) {
  return s('defs', null, s('pattern', { id, width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
    s('rect', { width: 2, height: 6, class: 'hatch-line' })));
}

function gaps({ missing, window }, scale, id) {
  const open = s('rect', { class: 'open-slices', x: scale.x(window.open), y: scale.top, width: Math.max(0, scale.right - scale.x(window.open)), height: scale.bottom - scale.top },
    s('title', null, 'Open: rows of this time are still arriving'));
  return [open, ...missing.map((gap) => s('rect', { class: 'missing-time', fill: `url(#${id})`, x: scale.x(gap.from), y: scale.top, width: Math.max(2, scale.x(gap.to) - scale.x(gap.from)), height: scale.bottom - scale.top },
    s('title', null, `${gap.node_id} in ${gap.region}: ${gap.why}`)))];
}

/** A legend entry: a swatch with a name and a value. */
export const legend = (kind, name, value) => h('span', { class: `legend legend-${kind}` }, h('i', { 'aria-hidden': 'true' }), name, h('b', null, value));
