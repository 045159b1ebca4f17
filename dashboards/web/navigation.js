// The URL as a store: everything on the page reads the state from it and changes it by going somewhere else.

import { link, parseState } from './pure/url_state.js';

const listeners = new Set();
let state = parseState(location.search);

export const current = () => state;

/** Goes to the state with this patch; `replace` leaves no step in the history. */
export function go(patch, { replace = false } = {}) {
  const address = link(state, patch);
  if (address === link(state, {})) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', address);
  announce();
}

/** Address of the current state with a patch, for links. */
export const to = (patch) => link(state, patch);

/** Calls back with (state, before) at each change; returns the way to stop that. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function announce() {
  const before = state;
  state = parseState(location.search);
  for (const listener of [...listeners]) listener(state, before);
}

window.addEventListener('popstate', announce);

// A plain click on a link to another state stays in the page; with a modifier it does what the browser does.
document.addEventListener('click', (event) => {
  const anchor = event.target.closest?.('a[href^="?"]');
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, '', anchor.getAttribute('href'));
  announce();
});
