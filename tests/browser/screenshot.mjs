// A picture of the dashboard: `LARIAT_URL=http://127.0.0.1:4040 node tests/browser/screenshot.mjs [file]`. Settings by
// environment: VIEWPORT=1440x900, SCHEME=dark|light, QUERY=?view=nodes, WAIT_MS. Without LARIAT_URL it pictures the mock.

import { fileURLToPath } from 'node:url';
import { launch } from './browser.mjs';
import { startMock } from './mock_server.mjs';

const file = process.argv[2] ?? fileURLToPath(new URL('../../docs/dashboard.png', import.meta.url));
const [width, height] = (process.env.VIEWPORT ?? '1440x900').split('x').map(Number);
const mock = process.env.LARIAT_URL ? null : await startMock();
const { browser, missing } = await launch();
if (missing) {
  console.error(`not run: ${missing}`);
  process.exit(1);
}
const page = await browser.newPage({ viewport: { width, height }, colorScheme: process.env.SCHEME ?? 'dark', deviceScaleFactor: Number(process.env.SCALE ?? 1) });
page.on('console', (message) => { if (message.type() === 'error') console.error(`page: ${message.text()}`); });
page.on('pageerror', (error) => console.error(`page: ${error.message}`));
await page.goto(`${process.env.LARIAT_URL ?? mock.url}/${process.env.QUERY ?? ''}`);
await page.waitForSelector('.feed-row[href], .lane', { timeout: 30_000 });
await page.waitForTimeout(Number(process.env.WAIT_MS ?? 3000));
await page.screenshot({ path: file, fullPage: process.env.FULL === '1' });
console.log(file);
await browser.close();
await mock?.close();
