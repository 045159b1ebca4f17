// The entry: puts the frame up, opens the view that the URL names, and moves both along with it.

import { h } from './element.js';
import { createFeed } from './feed.js';
import { createFleet } from './fleet.js';
import { current, onChange } from './navigation.js';
import { asksDifferently, feedsDifferently } from './pure/url_state.js';
import { createShell, listenToKeys } from './shell.js';
import { decisionDrawer } from './views/decision.js';
import { feedPanel } from './views/feed.js';
import { nodesView } from './views/nodes.js';
import { overview } from './views/overview.js';

function feedView(feed) {
  const panel = feedPanel(feed, { compact: false });
  return { element: h('div', { class: 'view view-feed' }, panel.element), restart() {}, redraw() {}, stop: panel.stop };
}

const open = { overview, feed: feedView, nodes: nodesView };

function main() {
  let shell = null;
  const fleet = createFleet(() => shell?.update());
  const feed = createFeed((coverage) => { fleet.coverage(coverage); fleet.askAgain(); });
  const drawer = decisionDrawer();
  shell = createShell(fleet, drawer);
  document.getElementById('app').replaceChildren(...shell.element);

  let view = null;
  function mount(state) {
    view?.stop();
    view = open[state.view](feed);
    shell.main.replaceChildren(view.element);
  }

  onChange((state, before) => {
    shell.update();
    fleet.redraw();
    if (state.view !== before.view || state.range !== before.range) mount(state);
    else if (asksDifferently(state, before)) view.restart();
    else if (state.decision === before.decision) view.redraw();
    if (feedsDifferently(state, before)) feed.restart(state);
    if (state.decision !== before.decision) drawer.show(state.decision);
  });

  shell.update();
  feed.restart(current());
  mount(current());
  listenToKeys(feed);
  if (current().decision !== '') drawer.show(current().decision);
}

main();
