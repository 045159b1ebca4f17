// The page in a real browser. With LARIAT_URL it looks at a running query service (the demo, whose node 2 it kills and
// starts again) and calls LARIAT_PROXY_URL if that is set; without, at the mock. What needs a prepared answer always uses
// the mock. Without a browser it says `not run` and passes, unless LARIAT_REQUIRE_ALL=1.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { startMock } from './mock_server.mjs';

const TIMEOUT_MS = 30_000;
const EVIL = '<img src=x onerror="globalThis.owned=1"><script>globalThis.owned=2</script>';
let browser = null;
let mock = null;
let real = null;

before(async () => {
  const launched = await launch();
  if (launched.missing) {
    console.log(`not run: ${launched.missing}`);
    assert.notEqual(process.env.LARIAT_REQUIRE_ALL, '1', `${launched.missing} is required`);
    return;
  }
  browser = launched.browser;
  mock = await startMock();
  real = process.env.LARIAT_URL?.replace(/\/$/, '') ?? mock.url;
});

after(async () => {
  await browser?.close();
  await mock?.close();
});

/** A test on a page of its own, which fails on any error in the console or a violated policy. */
function look(name, at, run, { allowed = /^$/ } = {}) {
  test(name, { timeout: 90_000 }, async (t) => {
    if (browser === null) return t.diagnostic('not run: chromium');
    const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
    page.setDefaultTimeout(TIMEOUT_MS);
    const errors = [];
    page.on('console', (message) => { if (message.type() === 'error' && !allowed.test(message.text())) errors.push(message.text()); });
    page.on('pageerror', (error) => errors.push(String(error)));
    try {
      await run(page, at());
      assert.deepEqual(errors, []);
    } finally {
      await page.close();
    }
  });
}

const live = () => real;
const mocked = () => mock.url;

look('the overview draws every panel with figures', live, async (page, url) => {
  await page.goto(`${url}/`);
  for (const report of ['traffic', 'providers', 'routing', 'latency', 'errors', 'circuits']) {
    await page.waitForSelector(`.panel[data-report="${report}"][aria-busy="false"]`);
    assert.equal(await page.locator(`.panel[data-report="${report}"] .state-failed`).count(), 0, report);
  }
  await page.waitForSelector('.chart .bar-success');
  await page.waitForSelector('.providers-table tbody tr');
  await page.waitForFunction(() => /\d/.test(document.querySelector('.readout-value')?.textContent ?? ''));
  assert.match(await page.locator('.pill').innerText(), /\d+\/\d+ nodes|Standalone node/);
});

look('the feed lists a decision made after it was opened', live, async (page, url) => {
  await page.goto(`${url}/?view=feed`);
  await page.waitForSelector('.feed-row[href]');
  const first = await page.locator('.feed-row[href]').first().getAttribute('data-key');
  if (process.env.LARIAT_URL && process.env.LARIAT_PROXY_URL) {
    await fetch(`${process.env.LARIAT_PROXY_URL}/rpc/ethereum`, { method: 'POST', body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_blockNumber', params: [] }) });
  }
  await page.waitForFunction((key) => document.querySelector('.feed-row[href]').dataset.key !== key, first);
  const keys = await page.locator('.feed-row[href]').evaluateAll((rows) => rows.map((row) => row.dataset.key));
  assert.equal(new Set(keys).size, keys.length, 'a decision is listed once');
});

look('killing a node turns the pill amber and names it, and its return turns it back', live, async (page, url) => {
  await page.goto(`${url}/`);
  await page.waitForFunction(() => /3\/3 nodes/.test(document.querySelector('.pill')?.textContent ?? ''));
  const killed = await fetch(`${url}/api/v1/demo/nodes/2/kill`, { method: 'POST' });
  assert.ok(killed.ok, `kill answered ${killed.status}`);
  try {
    await page.waitForSelector('.pill-partial');
    await page.waitForFunction(() => /2\/3 nodes/.test(document.querySelector('.pill').textContent));
    assert.match(await page.locator('.pill').innerText(), /ap-south lariat@/);
    await page.waitForSelector('.panel[data-report="traffic"] .mark-partial');
    assert.match(await page.locator('.panel[data-report="traffic"] .mark-partial').first().getAttribute('title'), /ap-south/);
    await page.goto(`${url}/?view=nodes`);
    await page.waitForSelector('.nodes-table .is-poor');
  } finally {
    await fetch(`${url}/api/v1/demo/nodes/2/start`, { method: 'POST' });
  }
  await page.waitForFunction(() => /3\/3 nodes/.test(document.querySelector('.pill').textContent));
});

look('a decision opens by its address, is closed by Escape, and walking the tape changes the address', live, async (page, url) => {
  await page.goto(`${url}/?view=feed`);
  const link = page.locator('.feed-row[href]').nth(2);
  const id = await link.getAttribute('data-request');
  await page.goto(`${url}/?decision=${id}`);
  await page.waitForSelector('.drawer .decision .why-list li');
  // A request that was a batch is as many decisions, each with its record.
  const records = await page.locator('.drawer .facts').allInnerTexts();
  assert.ok(records.length > 0 && records.every((record) => record.includes(id)), records.join());
  await page.keyboard.press('Escape');
  await page.waitForSelector('.drawer', { state: 'hidden' });
  assert.ok(!new URL(page.url()).searchParams.has('decision'));
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.drawer:not([hidden])');
  assert.ok(new URL(page.url()).searchParams.get('decision'));
});

look('text from outside stays text wherever it is shown', mocked, async (page, url) => {
  const event = { ...mock.recent[0], request_id: EVIL, method: EVIL, provider_id: EVIL, chain: EVIL, region: EVIL, error_category: EVIL, result: 'error', time: EVIL };
  const rows = [{ region: null, profile: EVIL, chain: EVIL, provider_id: EVIL, transport: EVIL, strategy: EVIL, method: EVIL, error_category: EVIL, node_id: EVIL, state: EVIL, reason: EVIL, from: EVIL, to: EVIL, time: EVIL, calls: 9, count: 9, share: 1, p50_ms: 1, p95_ms: 2, p99_ms: 3, excluded: { [EVIL]: 3 }, circuit: { open: 1 }, error: EVIL }];
  const coverage = mock.fleet.coverage(Date.now() - 900_000, Date.now());
  Object.assign(coverage.nodes[0], { node_id: EVIL, region: EVIL, answered: false, missing: [{ from: EVIL, to: EVIL, why: EVIL }] });
  const decision = { ...event, selections: [{ chosen: EVIL, eligible: [{ rank: 1, channel: EVIL, score: 1, inputs: JSON.stringify({ [EVIL]: EVIL }) }], excluded: [{ channel: EVIL, reason: EVIL }] }], attempts: [{ ordinal: 1, kind: EVIL, outcome: EVIL, provider_id: EVIL, duration_ns: 1, time: EVIL }] };
  await page.route('**/api/v1/*', (route) => (route.request().url().includes('/stream') ? route.continue() : route.fulfill({ json: { columns: [], rows, coverage, sampling: {}, stats: {} } })));
  await page.route('**/api/v1/decisions/**', (route) => route.fulfill({ json: { decisions: [decision], coverage } }));
  for (const view of ['overview', 'feed', 'nodes']) {
    await page.goto(`${url}/?view=${view}&provider_id=${encodeURIComponent(EVIL)}&decision=${encodeURIComponent(EVIL)}`);
    await page.waitForSelector('.drawer .why-list');
    if (view !== 'nodes') {
      mock.push(event);
      await page.waitForFunction((evil) => document.querySelector('.feed-rows')?.textContent.includes(evil), EVIL);
    } else await page.waitForSelector('.lane');
    assert.ok((await page.locator('body').innerText()).includes('<img src=x'));
    assert.equal(await page.locator('img, #app script').count(), 0, view);
    assert.equal(await page.evaluate(() => globalThis.owned), undefined, view);
  }
});

look('a gap in the feed is told where it happened', mocked, async (page, url) => {
  await page.goto(`${url}/?view=feed`);
  await page.waitForSelector('.feed-row[href]');
  mock.gap(37, 'slow_subscriber');
  await page.waitForSelector('.feed-gap');
  assert.match(await page.locator('.feed-gap').innerText(), /37 events are missing here: slow subscriber/);
  assert.match(await page.locator('.panel-feed header').innerText(), /37 missed/);
});

look('a report that fails says so and keeps its old figures', mocked, async (page, url) => {
  await page.goto(`${url}/`);
  await page.waitForSelector('.providers-table tbody tr');
  mock.fail.add('providers').add('errors');
  await page.waitForSelector('.panel[data-report="providers"].is-old .mark-partial');
  assert.ok((await page.locator('.providers-table tbody tr').count()) > 0);
  await page.reload();
  await page.waitForSelector('.panel[data-report="providers"] .state-failed button');
  mock.fail.clear();
  await page.locator('.panel[data-report="providers"] .state-failed button').click();
  await page.waitForSelector('.providers-table tbody tr');
}, { allowed: /503/ });

look('figures of another question do not stay when the new one fails', mocked, async (page, url) => {
  await page.goto(`${url}/`);
  await page.waitForSelector('.providers-table tbody tr');
  await page.waitForSelector('select[name=region] option[value="eu-west"]', { state: 'attached' });
  mock.fail.add('providers');
  try {
    await page.selectOption('select[name=region]', 'eu-west');
    await page.waitForSelector('.panel[data-report="providers"] .state-failed');
    assert.equal(await page.locator('.providers-table').count(), 0);
  } finally {
    mock.fail.clear();
  }
}, { allowed: /503/ });

look('the keyboard moves the crosshair and its values are read out', mocked, async (page, url) => {
  await page.goto(`${url}/`);
  await page.waitForSelector('.chart .bar-success');
  await page.locator('.chart').first().focus();
  await page.keyboard.press('ArrowLeft');
  await page.waitForSelector('.crosshair.is-shown', { state: 'attached' });
  assert.match(await page.locator('.legends').first().innerText(), /\d\d:\d\d:\d\d[\s\S]*success\s*[\d.]+/);
  await page.waitForResponse((response) => response.url().includes('/traffic'));
  await page.keyboard.press('ArrowLeft');
  assert.ok(await page.locator('.chart').first().evaluate((chart) => chart === document.activeElement), 'a refresh keeps the focus');
});

look('an empty answer of an incomplete fleet is not shown as nothing', mocked, async (page, url) => {
  mock.fleet.setUp(0, false);
  try {
    await page.goto(`${url}/?chain=nosuch`);
    await page.waitForSelector('.panel[data-report="providers"] .state');
    await page.waitForFunction(() => /No provider was called[\s\S]*Nothing is not proof of nothing[\s\S]*us-east/.test(document.querySelector('.panel[data-report="providers"] .panel-body').innerText));
  } finally {
    mock.fleet.setUp(0, true);
  }
});

look('what was sampled out is told apart from what is not found', mocked, async (page, url) => {
  await page.goto(`${url}/?decision=sampled`);
  await page.waitForSelector('.drawer .state-absent');
  assert.match(await page.locator('.drawer').innerText(), /Sampled out[\s\S]*keeps 5 %/);
  await page.goto(`${url}/?decision=0198`);
  await page.waitForSelector('.drawer .state-absent');
  assert.match(await page.locator('.drawer').innerText(), /Not found/);
}, { allowed: /404/ });

look('filters, range and view are in the address and the way back works', mocked, async (page, url) => {
  await page.goto(`${url}/`);
  await page.waitForSelector('select[name=region] option[value="eu-west"]', { state: 'attached' });
  await page.selectOption('select[name=region]', 'eu-west');
  await page.selectOption('select[name=range]', '1h');
  await page.keyboard.press('3');
  await page.waitForSelector('.lane');
  assert.equal(new URL(page.url()).search, '?view=nodes&range=1h&region=eu-west');
  await page.goBack();
  await page.waitForSelector('.providers-table');
  assert.equal(await page.locator('select[name=region]').inputValue(), 'eu-west');
});

look('nothing is wider than a phone', mocked, async (page, url) => {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const query of ['', '?view=feed', '?view=nodes', `?decision=${mock.recent[0].request_id}`]) {
    await page.goto(`${url}/${query}`);
    await page.waitForSelector('.feed-row[href], .lane');
    await page.waitForFunction(() => document.querySelectorAll('[aria-busy=true]').length === 0);
    // Where the ticks of a time axis stand depends on the minute; one at its very end must fit too.
    await page.evaluate(() => document.querySelectorAll('.lane-axis span').forEach((tick) => tick.style.setProperty('--x', '1')));
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 390, query);
    if (query.includes('decision')) {
      await page.waitForSelector('.drawer .why-list');
      assert.ok(await page.locator('.drawer-body').evaluate((body) => body.scrollWidth <= body.clientWidth), 'the drawer');
    }
  }
});
