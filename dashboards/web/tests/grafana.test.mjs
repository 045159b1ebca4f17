// Grafana's dashboard asks for names that this repository declares, and for reports by their names.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const dashboard = JSON.parse(read('../../grafana/dashboards/lariat.json'));
const expressions = dashboard.panels.flatMap((panel) => panel.targets.map((target) => target.expr));
const LABELS = ['profile', 'chain', 'provider_id', 'result', 'region', 'le'];

test('every metric is one that the schema declares', () => {
  const declared = [...read('../../../schema/src/metrics.rs').matchAll(/"([a-z_.]+)", ExponentialHistogram, "s"/g)].map((found) => `${found[1].replaceAll('.', '_')}_seconds`);
  assert.ok(declared.length > 0 && expressions.length > 0);
  for (const expression of expressions) {
    const names = [...expression.matchAll(/\b([a-z_]+?)_(?:count|bucket|sum)\{/g)].map((found) => found[1]);
    assert.ok(names.length > 0, expression);
    for (const name of names) assert.ok(declared.includes(name), name);
  }
});

test('every label is one that the metric has', () => {
  for (const expression of expressions) {
    const matched = [...expression.matchAll(/([a-z_]+)(?:=~|!=|!~|=)"/g)].map((found) => found[1]);
    const grouped = [...expression.matchAll(/by \(([^)]*)\)/g)].flatMap((found) => found[1].split(', '));
    for (const label of [...matched, ...grouped]) assert.ok(LABELS.includes(label), `${label} in ${expression}`);
  }
});

test('every panel begins with the name of a report and none covers another', () => {
  const reports = [...read('../../../schema/src/reports.rs').matchAll(/= "([a-z]+)",/g)].map((found) => found[1]);
  const taken = new Set();
  for (const { title, gridPos } of dashboard.panels) {
    assert.ok(reports.includes(title.split(':')[0]), title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
        assert.ok(!taken.has(`${x} ${y}`), title);
        taken.add(`${x} ${y}`);
      }
    }
  }
});

test('panels and data source agree on the uid', () => {
  const uid = /uid: (\S+)/.exec(read('../../grafana/provisioning/datasources/lariat.yaml'))[1];
  for (const panel of dashboard.panels) assert.equal(panel.datasource.uid, uid);
});
