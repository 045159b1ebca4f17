// The feed as a value that changes: the connection's events go in, views are told. One for the page, whatever it shows.

import { applyBatch, applyGap, applySnapshot, emptyFeed } from './pure/feed_model.js';
import { openStream } from './stream.js';

/** `{value, link, restart(state), subscribe(listener), pause(bool)}`; `onCoverage` gets what the feed says of the fleet. */
export function createFeed(onCoverage) {
  const listeners = new Set();
  const feed = { value: emptyFeed(), link: 'connecting', paused: false, held: 0 };
  let close = () => {};
  let frozen = null;

  const announce = () => { for (const listener of [...listeners]) listener(feed); };

  function take(next) {
    if (frozen === null) feed.value = next;
    else { feed.held += next.decisions - frozen.decisions; frozen = next; }
    announce();
  }

  const latest = () => frozen ?? feed.value;

  function on(event, data) {
    if (data.coverage) onCoverage(data.coverage);
    if (event === 'snapshot') take(applySnapshot(latest(), data));
    if (event === 'batch') take(applyBatch(latest(), data));
    if (event === 'gap') take(applyGap(latest(), { ...data, time: new Date().toISOString() }));
  }

  feed.restart = (state) => {
    close();
    Object.assign(feed, { value: emptyFeed(), held: 0 });
    if (frozen !== null) frozen = emptyFeed();
    announce();
    close = openStream(state, on, (link) => { feed.link = link; announce(); });
  };
  feed.pause = (paused) => {
    if (paused === feed.paused) return;
    if (paused) frozen = feed.value;
    else { feed.value = frozen; frozen = null; feed.held = 0; }
    feed.paused = paused;
    announce();
  };
  feed.subscribe = (listener) => { listeners.add(listener); return () => listeners.delete(listener); };
  return feed;
}
