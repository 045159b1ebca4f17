import assert from 'node:assert/strict';
import { test } from 'node:test';
import { asksDifferently, feedsDifferently, formatState, link, parseState, reportParams, streamParams } from '../pure/url_state.js';

test('a state survives the way through the address, markup and separators included', () => {
  const address = '?view=feed&range=1h&profile=a%26b%3Dc&provider_id=%3Cimg+src%3Dx%3E&result=error&decision=0198';
  const state = parseState(address);
  assert.equal(state.profile, 'a&b=c');
  assert.equal(state.provider_id, '<img src=x>');
  assert.deepEqual(parseState(formatState(state)), state);
});

test('unknown values fall back to the defaults and defaults are left out', () => {
  const state = parseState('?view=admin&range=9y&result=maybe&by=colour&extra=1');
  assert.deepEqual([state.view, state.range, state.result, state.by], ['overview', '15m', '', 'method']);
  assert.equal(formatState(state), '?');
});

test('a link changes one thing and keeps the rest', () => {
  const state = parseState('?chain=ethereum&range=6h');
  assert.equal(link(state, { decision: 'x' }), '?range=6h&chain=ethereum&decision=x');
});

test('reports are asked with the range and the filters that are set', () => {
  const state = parseState('?chain=ethereum&range=6h&result=error&decision=x');
  assert.equal(String(reportParams(state, { step: '240s' })), 'from=-21600s&chain=ethereum&result=error&step=240s');
  assert.equal(String(reportParams(state, {}, ['result'])), 'from=-21600s&chain=ethereum');
  assert.equal(String(streamParams(state)), 'chain=ethereum&result=error');
});

test('opening a decision asks nothing anew, a range asks the reports alone, a filter both', () => {
  const state = parseState('');
  const [opened, ranged, filtered] = [{ decision: 'x' }, { range: '1h' }, { chain: 'base' }].map((patch) => ({ ...state, ...patch }));
  assert.deepEqual([opened, ranged, filtered].map((other) => asksDifferently(state, other)), [false, true, true]);
  assert.deepEqual([opened, ranged, filtered].map((other) => feedsDifferently(state, other)), [false, false, true]);
});
