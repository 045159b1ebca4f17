// Rules that no reader can keep in mind: no markup from data, no reference to elsewhere, files that fit on a few screens.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));
const sources = readdirSync(web, { recursive: true }).map(String).filter((path) => /\.(js|html|css)$/.test(path) && !path.startsWith('tests'));
const text = (path) => readFileSync(web + path, 'utf8');
const LINES = { 'main.js': 100 };

test('no file makes markup or code out of text', () => {
  assert.ok(sources.length > 20);
  for (const path of sources.filter((name) => name.endsWith('.js'))) {
    const code = text(path).replaceAll(/^\s*\/\/.*$/gm, '');
    assert.doesNotMatch(code, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment/, path);
  }
});

test('only the element builder makes elements', () => {
  for (const path of sources.filter((name) => name !== 'element.js')) assert.doesNotMatch(text(path), /createElement/, path);
});

test('nothing is loaded from elsewhere', () => {
  for (const path of sources) assert.doesNotMatch(text(path).replaceAll('http://www.w3.org/2000/svg', ''), /https?:\/\//, path);
});

test('what is pure does not know the page', () => {
  for (const path of sources.filter((name) => name.startsWith('pure'))) assert.doesNotMatch(text(path), /\b(document\.|globalThis|fetch\(|new EventSource|addEventListener)/, path);
});

test('no file is longer than it may be', () => {
  for (const path of sources) assert.ok(text(path).split('\n').length <= (LINES[path] ?? 250) + 1, path);
});
