// Errors and exclusions as tables of counts: what happened down, where it happened across.

/** Lines of the report `errors`: one per (category, provider), most first, with a count for each region. */
export function errorLines(rows) {
  const lines = new Map();
  for (const row of rows) {
    const key = `${row.error_category}\u0000${row.provider_id ?? ''}`;
    if (!lines.has(key)) lines.set(key, { key, category: row.error_category, provider_id: row.provider_id ?? null, count: null, share: null, regions: {} });
    const line = lines.get(key);
    if (row.region === null || row.region === undefined) Object.assign(line, { count: Number(row.count), share: row.share });
    else line.regions[row.region] = Number(row.count);
  }
  for (const line of lines.values()) line.count ??= Object.values(line.regions).reduce((sum, n) => sum + n, 0);
  return [...lines.values()].sort((a, b) => b.count - a.count || a.key.localeCompare(b.key));
}

/** Exclusions of some routing rows summed by reason, most first. */
export function exclusions(rows) {
  const sums = new Map();
  for (const row of rows) {
    for (const [reason, n] of Object.entries(row.excluded ?? {})) sums.set(reason, (sums.get(reason) ?? 0) + Number(n));
  }
  return [...sums].map(([reason, n]) => ({ reason, n })).sort((a, b) => b.n - a.n);
}

/** Lines of the report `routing` over all regions, grouped by profile, chain and strategy. */
export function routingGroups(rows) {
  const overall = rows.filter((row) => row.region === null || row.region === undefined);
  const groups = new Map();
  for (const row of overall.length > 0 ? overall : rows) {
    const key = [row.profile, row.chain, row.strategy].join('\u0000');
    if (!groups.has(key)) groups.set(key, { key, profile: row.profile, chain: row.chain, strategy: row.strategy, rows: [] });
    groups.get(key).rows.push(row);
  }
  for (const group of groups.values()) group.rows.sort((a, b) => Number(b.actual_share ?? 0) - Number(a.actual_share ?? 0));
  const calls = (group) => group.rows.reduce((sum, row) => sum + Number(row.calls ?? 0), 0);
  return [...groups.values()].sort((a, b) => calls(b) - calls(a));
}
