// What a coverage object means to the person who reads the screen. Complete is the only green: an answer that lacks one
// slice of one node is amber, fewer than a majority of nodes is red, and one that is old says that it is old.

import { clock, parseTime } from './time.js';
import { percent } from './format.js';

/** After this long without an update a figure is marked stale. */
export const STALE_AFTER_MS = 30_000;

/** `{level, label, note, missing}`: level is complete, partial, critical, offline or unknown. */
export function summarise(coverage) {
  if (!coverage || !Number.isFinite(coverage.expected)) {
    return { level: 'unknown', label: 'coverage unknown', note: '', missing: [] };
  }
  const { answered, expected, ratio } = coverage;
  const missing = missingNodes(coverage);
  const label = expected === 1 ? (answered === 1 ? 'Standalone node' : '0/1 nodes') : `${answered}/${expected} nodes`;
  return { level: levelOf(coverage), label, note: ratio < 1 ? `${percent(ratio)} of node-time` : '', missing };
}

function levelOf({ answered, expected, ratio, complete }) {
  if (answered === 0) return 'offline';
  if (answered < Math.floor(expected / 2) + 1) return 'critical';
  if (answered < expected || ratio < 1 || complete === false) return 'partial';
  return 'complete';
}

/** Nodes that an answer lacks, wholly or in part, each with a sentence. */
export function missingNodes(coverage) {
  return (coverage.nodes ?? [])
    .filter((node) => !node.answered || node.ratio < 1)
    .map((node) => ({ node_id: node.node_id, region: node.region, absent: !node.answered, text: whyMissing(node) }));
}

function whyMissing(node) {
  const last = node.missing?.at(-1);
  const since = parseTime(last?.from);
  const from = since === null ? '' : ` since ${clock(since)}`;
  if (!node.answered) return `${last?.why ?? node.state}${from}`;
  const why = [...new Set((node.missing ?? []).map((stretch) => stretch.why))].join(', ') || 'incomplete';
  return `${percent(node.ratio)} covered (${why})`;
}

/** A coverage judged by its counts of nodes, which are of now, whatever time was missing before. */
export const ofNow = (coverage) => ({ ...coverage, ratio: 1, complete: coverage.answered === coverage.expected, nodes: (coverage.nodes ?? []).map((node) => (node.answered ? { ...node, ratio: 1 } : node)) });

/** Regions of which an answer lacks a node or some time: their figures beside the aggregate are too low. */
export const incompleteRegions = (coverage) =>
  new Set((coverage?.regions ?? []).filter((region) => region.answered < region.expected || region.ratio < 1).map((region) => region.region));

/** One sentence for a screen reader or a tooltip. */
export function sentence(coverage) {
  const { label, note, missing, level } = summarise(coverage);
  if (level === 'unknown') return 'Coverage is not known.';
  if (level === 'complete') return `${label} answered; nothing is missing.`;
  const names = missing.map((node) => `${node.node_id} in ${node.region}: ${node.text}`).join('; ');
  return [`${label} answered`, note, names].filter((part) => part !== '').join('; ') + '.';
}

/** Missing stretches of all nodes inside a range, clipped to it. */
export function missingStretches(coverage, fromMs, toMs) {
  return (coverage?.nodes ?? []).flatMap((node) =>
    (node.missing ?? []).flatMap((stretch) => {
      const from = Math.max(parseTime(stretch.from) ?? fromMs, fromMs);
      const to = Math.min(parseTime(stretch.to) ?? toMs, toMs);
      return to > from ? [{ node_id: node.node_id, region: node.region, from, to, why: stretch.why }] : [];
    }),
  );
}

/** The window of an answer in milliseconds; where it names none, `rangeSeconds` before now. */
export function windowOf(coverage, rangeSeconds, nowMs) {
  const to = parseTime(coverage?.window?.to) ?? nowMs;
  const from = to - rangeSeconds * 1000;
  const open = parseTime(coverage?.window?.open_from) ?? to - 15_000;
  return { from, to, open: Math.min(Math.max(open, from), to) };
}
