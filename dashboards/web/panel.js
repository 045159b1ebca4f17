// The frame of every panel, and its states: reading, empty, failed, partial, old. A panel that fails keeps the figures it
// had and says how old they are; one whose answer lacks nodes wears that beside its title.

import { ask } from './api.js';
import { h, replaceKeepingFocus } from './element.js';
import { current } from './navigation.js';
import { startPoller } from './poller.js';
import { sentence, STALE_AFTER_MS, summarise } from './pure/coverage.js';
import { span } from './pure/format.js';

const REFRESH_MS = 5_000;
const REFRESH_LONG_MS = 30_000;

/**
 * A panel that reads one report. `definition`: `{report, title, note, path, params(state), render(answer, state), empty,
 * isEmpty(answer), tools(state), onAnswer(answer), onAge(old), judge(coverage), ignores}`. `ignores` names filters that the report does not
 * have, which a mark tells when they are set. `render` returns nodes. Returns `{element, restart, stop, redraw}`.
 */
export function createPanel(definition) {
  const marks = h('span', { class: 'marks' });
  const tools = h('span', { class: 'tools' });
  const body = h('div', { class: 'panel-body' }, reading());
  const heading = h('h2', { id: `panel-${definition.id ?? definition.report}` }, definition.title, definition.note ? h('small', null, definition.note) : null);
  const element = h('section', { class: `panel panel-${definition.id ?? definition.report}`, 'aria-labelledby': heading.id, 'aria-busy': 'true', data: { report: definition.report } },
    h('header', null, heading, marks, tools), body);
  // `other`: the answer is to a question that is no longer asked, and is dropped if the new one fails.
  const had = { answer: null, at: 0, error: null, other: false };

  function draw() {
    const state = current();
    if (definition.tools) replaceKeepingFocus(tools, definition.tools(state));
    marks.replaceChildren(...marksOf(had, definition, state));
    if (had.answer === null) {
      if (had.error) body.replaceChildren(failed(had.error, poller.restart));
      return;
    }
    const empty = (definition.isEmpty ?? ((answer) => answer.rows.length === 0))(had.answer);
    if (empty) body.replaceChildren(nothing(definition.empty, had.answer.coverage));
    else replaceKeepingFocus(body, definition.render(had.answer, state));
    element.classList.toggle('is-old', had.error !== null);
  }

  async function read(signal) {
    try {
      const state = current();
      had.answer = await ask(definition.path ?? definition.report, definition.params(state), signal);
      had.at = Date.now();
      had.error = null;
      had.other = false;
      definition.onAnswer?.(had.answer);
    } catch (error) {
      if (signal.aborted) return;
      had.error = error;
      if (had.other) had.answer = null;
    }
    definition.onAge?.(had.error !== null);
    element.setAttribute('aria-busy', 'false');
    draw();
  }

  const slow = ['6h', '24h'].includes(current().range);
  const poller = startPoller(read, slow ? REFRESH_LONG_MS : REFRESH_MS);
  return {
    element,
    redraw: draw,
    restart() {
      had.other = true;
      element.setAttribute('aria-busy', 'true');
      poller.restart();
    },
    stop: poller.stop,
  };
}

function marksOf({ answer, at, error }, { judge, ignores }, state) {
  const marks = (ignores ?? []).filter((key) => state[key] !== '').map((key) => h('span', { class: 'mark', title: `This report is not told apart by ${key}` }, `every ${key}`));
  const judged = answer?.coverage && judge ? judge(answer.coverage) : answer?.coverage;
  const coverage = summarise(judged);
  if (answer !== null && coverage.level !== 'complete') {
    const share = coverage.note === '' || judged.answered < judged.expected ? coverage.label : coverage.note;
    marks.push(h('span', { class: `mark mark-${coverage.level}`, title: sentence(judged) }, share, h('span', { class: 'hidden' }, `. ${sentence(judged)}`)));
  }
  if (answer?.sampling?.weighted) {
    marks.push(h('span', { class: 'mark', title: `Rows stand for more than themselves; lowest probability of being kept: ${answer.sampling.min_probability}` }, 'weighted'));
  }
  const age = Date.now() - at + Number(answer?.stats?.age_ms ?? 0);
  if (answer !== null && (error !== null || age > STALE_AFTER_MS)) {
    marks.push(h('span', { class: 'mark mark-partial', title: error?.message ?? 'The service answered from its cache.' }, `${span(age)} old`));
  }
  return marks;
}

const reading = () => h('p', { class: 'state state-reading' }, h('span', { class: 'pulse', 'aria-hidden': 'true' }), 'Reading…');

function nothing(text, coverage) {
  const incomplete = summarise(coverage).level !== 'complete';
  return h('div', { class: 'state' }, h('p', null, text), incomplete ? h('p', { class: 'state-note' }, `Nothing is not proof of nothing: ${sentence(coverage)}`) : null);
}

function failed(error, again) {
  return h('div', { class: 'state state-failed', role: 'alert' },
    h('p', null, error.message), error.hint ? h('p', { class: 'state-note' }, error.hint) : null,
    h('button', { type: 'button', data: { key: 'again' }, on: { click: again } }, 'Ask again'));
}

/** A small row of links that choose one value of a key of the URL. */
export function choice(label, values, chosen, address) {
  return h('span', { class: 'choice', role: 'group', 'aria-label': label }, values.map(([value, text]) =>
    h('a', { href: address(value), data: { key: `choice ${label} ${value}` }, 'aria-current': value === chosen ? 'true' : null }, text)));
}
