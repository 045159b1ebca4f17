// One decision, explained: a drawer beside whatever is open, addressed by the URL. Who was considered, why each was taken
// or passed over, what each attempt cost, and, when there is no record, which of the three reasons it is.

import { ask } from '../api.js';
import { h, s } from '../element.js';
import { current, go, to } from '../navigation.js';
import { sentence, summarise } from '../pure/coverage.js';
import { absence, channelName, explain, lanes, selections, splits } from '../pure/decision_model.js';
import { bytes, count, DASH, duration, ms, percent, span, weight, words } from '../pure/format.js';
import { dateClock, parseTime } from '../pure/time.js';

const LATE_MS = 2_000;
const LATE_TRIES = 4;

/** `{element, show(id)}`; an empty id closes it. */
export function decisionDrawer() {
  const body = h('div', { class: 'drawer-body' });
  const title = h('h2', { id: 'drawer-title', tabindex: '-1' }, 'Decision');
  const close = h('button', { type: 'button', class: 'quiet', 'aria-label': 'Close the decision', on: { click: () => go({ decision: '' }) } }, 'Close', h('kbd', null, 'Esc'));
  const element = h('aside', { class: 'drawer', role: 'dialog', 'aria-labelledby': 'drawer-title', hidden: true }, h('header', null, title, close), body);
  let controller = null;
  let before = null;

  async function show(id) {
    controller?.abort();
    if (id === '') return hide();
    if (element.hidden) before = document.activeElement;
    const first = element.hidden;
    element.hidden = false;
    controller = new AbortController();
    body.replaceChildren(h('p', { class: 'state state-reading' }, h('span', { class: 'pulse', 'aria-hidden': 'true' }), 'Asking every node…'));
    if (first && !before?.closest?.('.feed-rows')) title.focus({ preventScroll: true });
    await read(id, controller.signal, 1);
  }

  async function read(id, signal, attempt) {
    try {
      const answer = await ask(`decisions/${encodeURIComponent(id)}`, undefined, signal);
      body.replaceChildren(...drawn(answer));
    } catch (error) {
      if (signal.aborted) return;
      // A decision that the feed has just told of may not be committed yet: ask again before saying that it is unknown.
      if (error.code !== 'sampled_out' && error.status === 404 && attempt < LATE_TRIES) {
        await new Promise((resolve) => setTimeout(resolve, LATE_MS / 4 * attempt));
        if (!signal.aborted) await read(id, signal, attempt + 1);
        return;
      }
      body.replaceChildren(missing(id, error, () => show(id)));
    }
  }

  function hide() {
    if (element.hidden) return;
    element.hidden = true;
    body.replaceChildren();
    if (before?.isConnected) before.focus({ preventScroll: true });
  }

  return { element, show };
}

function missing(id, error, again) {
  const is = error.status === 404 ? absence(error.code, error.hint) : { title: 'No answer', text: error.message, hint: error.hint };
  return h('div', { class: `state ${error.status === 404 ? 'state-absent' : 'state-failed'}`, role: 'alert' }, h('h3', null, is.title), h('p', null, is.text),
    error.status === 404 && error.message ? h('p', { class: 'state-note' }, error.message) : null, is.hint ? h('p', { class: 'state-note' }, is.hint) : null,
    h('p', { class: 'mono' }, id), h('button', { type: 'button', on: { click: again } }, 'Ask again'));
}

function drawn({ decisions, coverage }) {
  const level = summarise(coverage).level;
  const partial = level === 'complete' ? null : h('p', { class: `note note-${level}` }, `The answer is partial. ${sentence(coverage)}`);
  return [partial, decisions.length > 1 ? h('p', { class: 'note' }, `A batch of ${decisions.length} calls, each its own decision.`) : null, ...decisions.map(one)].filter((node) => node !== null);
}

function one(decision) {
  const at = parseTime(decision.time);
  return h('article', { class: 'decision' },
    h('div', { class: 'decision-head' },
      h('h3', null, h('span', { class: `chip chip-${decision.result}` }, words(decision.result)), h('span', { class: 'mono' }, decision.method), decision.batch_size > 1 ? h('small', null, ` call ${decision.batch_index + 1} of ${decision.batch_size}`) : null),
      h('p', { class: 'decision-what' }, h('b', null, duration(Number(decision.duration_ns) / 1e6)), ` ${decision.profile} · ${decision.chain} · ${decision.region}`, at === null ? null : h('span', { class: 'dim' }, ` ${dateClock(at)} UTC, ${span(Date.now() - at)} ago`))),
    h('section', { 'aria-label': 'Why' }, h('h4', null, 'Why'), h('ul', { class: 'why-list' }, explain(decision).map((line) => h('li', null, line)))),
    timing(decision), attempts(decision), selections(decision).map(selection), facts(decision));
}

function timing(decision) {
  const parts = splits(decision);
  return h('section', { 'aria-label': 'Where the time went' }, h('h4', null, 'Time'),
    h('div', { class: 'split', 'aria-hidden': 'true' }, parts.map(({ part, share }) => h('i', { class: `split-${part}`, vars: { '--share': share } }))),
    h('p', { class: 'keys' }, parts.map(({ part, ms: took, share }) => h('span', { class: `key key-${part}` }, h('i'), `${part} `, h('b', null, duration(took)), ` ${percent(share)}`))));
}

function attempts(decision) {
  const { items } = lanes(decision);
  const lost = decision.attempts_complete === false ? h('p', { class: 'note note-partial' }, `Records of ${items.length} of ${decision.attempt_count} attempts are here.`) : null;
  if (items.length === 0 && lost === null) return h('section', { 'aria-label': 'Attempts' }, h('h4', null, 'Attempts'), h('p', { class: 'dim' }, `None: answered by ${words(decision.answered_by)}.`));
  return h('section', { 'aria-label': 'Attempts' }, h('h4', null, 'Attempts', h('small', null, ' from the decision’s start to its end')), lost, h('ol', { class: 'waterfall' }, items.map(({ attempt, offset_ms, length_ms, left, width }) =>
    h('li', null,
      h('div', { class: 'fall-name' }, h('b', null, `${attempt.ordinal}`), ` ${attempt.provider_id}`, h('small', null, ` ${attempt.transport} · ${words(attempt.kind)}`)),
      s('svg', { class: 'fall', width: '100%', height: 14, 'aria-hidden': 'true' }, s('line', { x1: 0, x2: '100%', y1: 7, y2: 7 }), s('rect', { class: `fall-${attempt.outcome}`, x: `${(left * 100).toFixed(2)}%`, y: 2, height: 10, width: `max(2px, ${(width * 100).toFixed(2)}%)` })),
      h('div', { class: 'fall-ms num' }, ms(length_ms), h('small', null, ' ms')),
      h('p', { class: 'fall-facts' }, [h('span', { class: `chip chip-${attempt.outcome}` }, words(attempt.outcome)), attempt.http_status ? `HTTP ${attempt.http_status}` : null, attempt.status_code ? `code ${attempt.status_code}` : null, attempt.error_category ? words(attempt.error_category) : null,
        attempt.circuit_state ? `circuit ${words(attempt.circuit_state)}` : null, attempt.dispatched ? words(attempt.dispatched) : null, attempt.censored ? 'censored: at least this long' : null, `started at ${ms(offset_ms)} ms`, attempt.server_address].filter(Boolean).map((fact) => (typeof fact === 'string' ? h('span', null, fact) : fact)))))));
}

function selection({ number, chosen, eligible, excluded }) {
  const best = Math.max(...eligible.map((of) => Number(of.score ?? 0)), 0);
  const line = (of) => h('tr', { class: of.channel === chosen ? 'is-chosen' : null },
    h('td', { class: 'num' }, of.rank), h('th', { scope: 'row' }, of.channel, of.channel === chosen ? h('span', { class: 'taken' }, ' taken') : null),
    h('td', { class: 'score' }, of.score === null ? DASH : [h('i', { 'aria-hidden': 'true', vars: { '--share': best > 0 ? of.score / best : 0 } }), Number(of.score.toPrecision?.(4) ?? of.score)]),
    h('td', { class: 'num' }, percent(of.probability)),
    h('td', { class: 'inputs' }, of.inputs.map(([key, value]) => h('span', null, key === '' ? '' : `${words(key)} `, h('b', null, value)))));
  return h('section', { 'aria-label': `Selection ${number}` }, h('h4', null, `Selection ${number}`, h('small', null, ` ${eligible.length} eligible, ${excluded.length} passed over`)),
    h('div', { class: 'scroll' }, h('table', { class: 'candidates' }, h('thead', null, h('tr', null, ['#', 'Candidate', 'Score', 'Prob.', 'Judged on'].map((name, index) => h('th', { scope: 'col', class: index === 0 || index === 3 ? 'num' : null }, name)))),
      h('tbody', null, eligible.map(line), excluded.map((of) => h('tr', { class: 'is-excluded' }, h('td', { class: 'num' }, '×'), h('th', { scope: 'row' }, of.channel), h('td', { colspan: 3 }, words(of.reason))))))));
}

function facts(decision) {
  const known = [['Request', decision.request_id], ['Trace', decision.trace_id], ['Node', decision.node_id], ['Boot', decision.boot_id], ['Sequence', decision.decision_seq], ['Chain id', decision.chain_id], ['Strategy', words(decision.strategy ?? '')],
    ['Provider', decision.provider_id ? channelName(decision) : null], ['Answered by', words(decision.answered_by ?? '')], ['Origin', decision.origin], ['Client over', decision.client_transport], ['Account', decision.account_id], ['Status', decision.status_code],
    ['Bytes', `${bytes(decision.bytes_in)} in, ${bytes(decision.bytes_out)} out`], ['Head lag', decision.head_lag_blocks === null || decision.head_lag_blocks === undefined ? null : `${count(decision.head_lag_blocks)} blocks`],
    ['Cache', decision.cache], ['Kept for', words(decision.keep_reason ?? '')], ['Stands for', decision.adjusted_count === null ? 'not known' : weight(decision.adjusted_count) || 'itself'], ['Policy', decision.policy_hash], ['Parameters', decision.params_digest], ['Response', decision.response_digest]];
  return h('section', { 'aria-label': 'Record' }, h('h4', null, 'Record'), h('dl', { class: 'facts' }, known.filter(([, value]) => value !== null && value !== undefined && value !== '').map(([name, value]) => h('div', null, h('dt', null, name), h('dd', null, String(value))))),
    h('p', { class: 'more' }, h('a', { href: to({ decision: '', view: 'feed', provider_id: decision.provider_id ?? '' }) }, 'Live decisions of this provider')),
    current().decision === decision.trace_id ? null : h('p', { class: 'more mono' }, `lariat explain ${decision.request_id}`));
}
