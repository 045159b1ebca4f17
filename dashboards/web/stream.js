// The live feed's connection. EventSource reconnects and resumes by itself; what it cannot tell, that events may be
// missing between two connections, is told by the service's gap event and by the state shown here.

import { streamParams } from './pure/url_state.js';

const SILENCE_MS = 40_000;
const RETRY_MS = 3_000;
const EVENTS = ['snapshot', 'batch', 'topology', 'gap', 'heartbeat'];

/** Opens the feed of a state. `on(event, data)` gets events, `onLink(state)` `connecting`, `live` or `lost`. */
export function openStream(state, on, onLink) {
  let source = null;
  let watchdog = null;
  let retry = null;
  let closed = false;

  function heard() {
    clearTimeout(watchdog);
    watchdog = setTimeout(reopen, SILENCE_MS);
  }

  function reopen() {
    clearTimeout(retry);
    source?.close();
    if (!closed) { onLink('lost'); retry = setTimeout(open, RETRY_MS); }
  }

  function open() {
    onLink('connecting');
    source = new EventSource(`/api/v1/stream?${streamParams(state)}`);
    source.addEventListener('open', () => { onLink('live'); heard(); });
    source.addEventListener('error', () => {
      if (source.readyState === EventSource.CLOSED) reopen();
      else onLink('lost');
    });
    for (const name of EVENTS) {
      source.addEventListener(name, (message) => {
        heard();
        on(name, parse(message.data));
      });
    }
  }

  open();
  return () => {
    closed = true;
    clearTimeout(watchdog);
    clearTimeout(retry);
    source?.close();
  };
}

function parse(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
}
