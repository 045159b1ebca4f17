// The real browser, without anything it would like to fetch on its own.

import { existsSync } from 'node:fs';

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const ARGUMENTS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** A browser, or the name of what is missing. */
export async function launch() {
  const executablePath = CANDIDATES.find((path) => path && existsSync(path));
  if (executablePath === undefined) return { missing: 'chromium' };
  const playwright = await import('playwright-core').catch(() => null);
  if (playwright === null) return { missing: 'playwright-core' };
  return { browser: await playwright.chromium.launch({ executablePath, args: ARGUMENTS }) };
}
