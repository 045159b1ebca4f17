// The live feed as a value: newest first, bounded, each decision once, and every hole in it an entry of its own. Events
// arrive at most once and without order across nodes; what is shown is the order of arrival, which is what live means.

/** Entries kept; the report endpoints answer for anything older. */
export const FEED_LIMIT = 300;

export const emptyFeed = () => ({ entries: [], seen: new Set(), decisions: 0, errors: 0, missed: 0 });

/** The feed after a snapshot: a reconnection keeps what is there and adds what it did not have. */
export function applySnapshot(feed, snapshot) {
  const decisions = (snapshot.decisions ?? []).map((decision) => ({ kind: 'decision', ...decision }));
  decisions.sort((a, b) => String(a.time).localeCompare(String(b.time)));
  return add(feed, decisions);
}

/** The feed after a batch `{topic, events}`. */
export function applyBatch(feed, batch) {
  return add(feed, (batch.events ?? []).map((event) => ({ kind: kindOf(batch.topic, event), ...event })));
}

/** The feed after a gap that the service or this page tells of. */
export function applyGap(feed, gap) {
  const missed = Number(gap.missed ?? 0);
  const entry = { kind: 'gap', key: `gap ${feed.decisions} ${feed.missed} ${gap.time ?? ''}`, missed, reason: gap.reason ?? 'unknown', time: gap.time };
  return { ...trim(feed, [entry]), missed: feed.missed + missed };
}

function kindOf(topic, event) {
  if (typeof event.kind === 'string') return event.kind;
  if (String(topic).startsWith('routing:')) return 'decision';
  if (String(topic).startsWith('circuit:')) return 'circuit';
  return String(topic).startsWith('provider_pool:') ? 'health' : 'block';
}

/** What names an entry: a decision is (request id, batch index). */
export function keyOf(event) {
  if (event.kind === 'decision') return `${event.request_id}/${event.batch_index}`;
  return [event.kind, event.time, event.node_id, event.chain, event.provider_id, event.transport, event.to ?? event.height].join(' ');
}

function add(feed, events) {
  const fresh = [];
  const seen = new Set(feed.seen);
  for (const event of events) {
    if (event.kind === 'block' || event.kind === 'heartbeat') continue;
    const key = keyOf(event);
    if (seen.has(key)) continue;
    seen.add(key);
    fresh.unshift({ ...event, key });
  }
  if (fresh.length === 0) return feed;
  const decisions = fresh.filter((event) => event.kind === 'decision');
  const errors = decisions.filter((event) => event.result === 'error').length;
  return { ...trim({ ...feed, seen }, fresh), decisions: feed.decisions + decisions.length, errors: feed.errors + errors };
}

function trim(feed, fresh) {
  const entries = [...fresh, ...feed.entries].slice(0, FEED_LIMIT);
  // The seen set is bounded by what is listed, so a duplicate older than that would be listed again: it is that old.
  const seen = feed.seen.size > FEED_LIMIT * 4 ? new Set(entries.map((entry) => entry.key)) : feed.seen;
  return { ...feed, entries, seen };
}

/** How an entry reads aloud. */
export function spoken(decision) {
  const to = decision.provider_id ? `to ${decision.provider_id} over ${decision.transport}` : `answered by ${decision.answered_by ?? 'nobody'}`;
  const failovers = decision.failovers > 0 ? `, ${decision.failovers} failover${decision.failovers > 1 ? 's' : ''}` : '';
  const category = decision.error_category ? ` (${decision.error_category.replaceAll('_', ' ')})` : '';
  return `${decision.method} on ${decision.chain} ${to} in ${decision.region}, ${decision.result.replaceAll('_', ' ')}${category}${failovers}`;
}
