// One decision, explained: sentences, shares of its time, and lanes for its attempts. Everything said here is read off
// the record; nothing is guessed, and what the record lacks is left out.

import { duration, percent, words } from './format.js';
import { parseTime } from './time.js';

/** `basalt · http`, whichever form the channel has. */
export function channelName(channel) {
  if (channel === null || channel === undefined) return 'none';
  if (typeof channel === 'string') return channel.replace(/[/:|](?=[^/:|]*$)/, ' · ');
  return `${channel.provider_id ?? '?'} · ${channel.transport ?? '?'}`;
}

const channelOf = (candidate) => channelName(candidate.channel ?? candidate);

/** Selections in a shape that no longer varies: names, numbers, reasons. */
export function selections(decision) {
  return (decision.selections ?? []).map((selection, index) => {
    const eligible = (selection.eligible ?? [])
      .map((of) => ({ rank: of.rank, channel: channelOf(of), score: of.score ?? null, probability: of.probability ?? null, inputs: inputsOf(of.inputs) }))
      .sort((a, b) => a.rank - b.rank);
    const chosen = selection.chosen ? channelName(selection.chosen) : (eligible[0]?.channel ?? null);
    const excluded = (selection.excluded ?? []).map((of) => ({ channel: channelOf(of), reason: of.reason }));
    return { number: index + 1, chosen, eligible, excluded };
  });
}

function inputsOf(inputs) {
  if (inputs === null || inputs === undefined || inputs === '') return [];
  let value = inputs;
  if (typeof inputs === 'string') {
    try { value = JSON.parse(inputs); } catch { return [['', inputs]]; }
  }
  return value !== null && typeof value === 'object' ? Object.entries(value).map(([key, of]) => [key, plain(of)]) : [['', plain(value)]];
}

const plain = (value) =>
  typeof value === 'number' && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : typeof value === 'object' ? JSON.stringify(value) : String(value);

/** Why it went where it went, as sentences. */
export function explain(decision) {
  const said = selections(decision).map((selection) => choice(selection, decision));
  if (said.length === 0) said.push(`No provider was considered: the answer came from ${decision.answered_by === 'none' ? 'nobody' : words(decision.answered_by)}.`);
  said.push(ending(decision));
  return said;
}

function choice(selection, decision) {
  const lead = selection.number === 1 ? '' : `After a failure, selection ${selection.number}: `;
  if (selection.chosen === null) return `${lead}nobody was eligible; ${excludedPhrase(selection.excluded)}.`;
  const chosen = selection.eligible.find((candidate) => candidate.channel === selection.chosen);
  const under = decision.strategy ? ` under ${words(decision.strategy)}` : '';
  const rank = chosen ? ` ranked ${chosen.rank} of ${selection.eligible.length} eligible${under}` : ` was taken${under}`;
  const odds = chosen?.probability !== null && chosen?.probability !== undefined && chosen.probability < 1 ? `, chosen with probability ${percent(chosen.probability)}` : '';
  const others = selection.excluded.length > 0 ? `; ${excludedPhrase(selection.excluded)}` : '';
  return `${lead}${selection.chosen}${rank}${odds}${others}.`;
}

function excludedPhrase(excluded) {
  const byReason = new Map();
  for (const of of excluded) byReason.set(of.reason, [...(byReason.get(of.reason) ?? []), of.channel]);
  const parts = [...byReason].map(([reason, who]) => `${who.length > 2 ? `${who.length} channels` : who.join(' and ')} (${words(reason)})`);
  return `passed over: ${parts.join(', ')}`;
}

function ending(decision) {
  const took = duration(Number(decision.duration_ns) / 1e6);
  const n = Number(decision.attempt_count ?? (Array.isArray(decision.attempts) ? decision.attempts.length : decision.attempts) ?? 0);
  const after = n === 0 ? 'without an attempt' : n === 1 ? 'after one attempt' : `after ${n} attempts`;
  if (decision.result === 'success') return `Answered in ${took} ${after}.`;
  const category = decision.error_category ? `: ${words(decision.error_category)}` : '';
  return decision.result === 'application_error' ? `The call's own fault${category}; answered in ${took} ${after}.` : `Failed ${after} in ${took}${category}.`;
}

/** Where the time went: selection, provider, overhead as shares of the whole. */
export function splits(decision) {
  const total = Number(decision.duration_ns);
  return ['selection', 'provider', 'overhead']
    .map((part) => ({ part, ns: Number(decision[`${part}_ns`] ?? 0) }))
    .map(({ part, ns }) => ({ part, ms: ns / 1e6, share: total > 0 ? Math.min(1, ns / total) : 0 }));
}

/** Attempts as lanes: start and length as shares of the time from the decision's start to its end. */
export function lanes(decision) {
  const attempts = Array.isArray(decision.attempts) ? decision.attempts : [];
  const start = parseTime(decision.time) ?? 0;
  const ends = attempts.map((attempt) => (parseTime(attempt.time) ?? start) - start + Number(attempt.duration_ns) / 1e6);
  const total = Math.max(Number(decision.duration_ns) / 1e6, ...ends, 0.001);
  const items = [...attempts].sort((a, b) => a.ordinal - b.ordinal).map((attempt) => {
    const offset = Math.max(0, (parseTime(attempt.time) ?? start) - start);
    const length = Number(attempt.duration_ns) / 1e6;
    return { attempt, offset_ms: offset, length_ms: length, left: Math.min(1, offset / total), width: Math.min(1, length / total) };
  });
  return { total_ms: total, items };
}

/** What a 404 means to the reader. */
export function absence(code, hint) {
  if (code === 'sampled_out') return { title: 'Sampled out', text: 'The call was routed and counted, but its record was not kept.', hint };
  if (code === 'unknown') return { title: 'Not known', text: 'Not found, and part of the fleet did not answer: it may be there.', hint };
  return { title: 'Not found', text: 'No node of the fleet has a decision of this request or trace id.', hint };
}
