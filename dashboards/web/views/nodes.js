// Nodes and coverage: which of the fleet is in the answers, and which time of it.

import { h } from '../element.js';
import { coveragePanel, nodesPanel } from '../panels/nodes.js';

export function nodesView() {
  const panels = [coveragePanel(), nodesPanel()];
  return {
    element: h('div', { class: 'view view-nodes' }, panels.map((panel) => panel.element)),
    restart: () => panels.forEach((panel) => panel.restart()),
    redraw: () => panels.forEach((panel) => panel.redraw()),
    stop: () => panels.forEach((panel) => panel.stop()),
  };
}
