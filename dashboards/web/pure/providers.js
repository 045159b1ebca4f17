// Channels with their regions beside them. The service gives one row over all regions and one per region; a table wants
// one line per channel that holds both.

const keyOf = (row) => [row.profile, row.chain, row.provider_id, row.transport].join('\u0000');

/** `[{key, row, regions: {name: row}}]`, most calls first; a channel without an aggregate row takes none from its regions. */
export function channels(rows) {
  const found = new Map();
  for (const row of rows) {
    const key = keyOf(row);
    if (!found.has(key)) found.set(key, { key, row: null, regions: {} });
    if (row.region === null || row.region === undefined) found.get(key).row = row;
    else found.get(key).regions[row.region] = row;
  }
  return [...found.values()]
    .map((channel) => ({ ...channel, row: channel.row ?? lone(channel.regions) }))
    .filter((channel) => channel.row !== null)
    .sort((a, b) => Number(b.row.calls ?? 0) - Number(a.row.calls ?? 0) || a.key.localeCompare(b.key));
}

// With a region filter an answer may hold that region alone, which then is the aggregate.
function lone(regions) {
  const rows = Object.values(regions);
  return rows.length === 1 ? rows[0] : null;
}

/** Names of the regions in some rows. */
export const regionsOf = (rows) => [...new Set(rows.map((row) => row.region).filter((region) => region))].sort();

/** Worst state of a channel's circuits, and how many nodes see which: `{state, text}`. */
export function circuitOf(circuit) {
  const { closed = 0, half_open = 0, open = 0 } = circuit ?? {};
  const nodes = closed + half_open + open;
  if (nodes === 0) return { state: 'unknown', text: 'not known', nodes };
  const state = open > 0 ? 'open' : half_open > 0 ? 'half_open' : 'closed';
  const parts = [[open, 'open'], [half_open, 'half open'], [closed, 'closed']].filter(([n]) => n > 0);
  return { state, text: parts.map(([n, word]) => `${n} ${word}`).join(', '), nodes };
}

/** p99 ÷ p50 with a grade, as a hint of a heavy tail. */
export function tail(row) {
  const ratio = Number(row.p99_ms) / Number(row.p50_ms);
  if (!Number.isFinite(ratio) || Number(row.p50_ms) <= 0) return { ratio: null, grade: 'none' };
  return { ratio, grade: ratio < 2 ? 'good' : ratio < 5 ? 'fair' : 'poor' };
}

/** Options of a filter from what was ever seen, the chosen one included though nothing is seen of it. */
export function options(rows, key, chosen) {
  const values = new Set(rows.map((row) => row[key]).filter((value) => typeof value === 'string' && value !== ''));
  if (chosen !== '') values.add(chosen);
  return [...values].sort();
}
