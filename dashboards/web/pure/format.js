// Numbers as an instrument shows them: aligned, with a unit, and never better than they are. A success rate is cut, not
// rounded, so that one error in a million does not read 100 %; below five events a rate is a dash.

export const DASH = '—';
export const EVENTS_FOR_A_RATE = 5;

const present = (value) => value !== null && value !== undefined && Number.isFinite(Number(value));

/** A count in full digits below ten million, then in millions. */
export function count(value) {
  if (!present(value)) return DASH;
  const n = Number(value);
  if (Math.abs(n) >= 1e7) return `${(n / 1e6).toFixed(1)} M`;
  return Math.round(n).toLocaleString('en-US');
}

/** A weighted count: a tilde tells that it is an estimate. */
export const estimate = (value, weighted) => (weighted && present(value) ? `~${count(value)}` : count(value));

/** Events per second, three significant digits. */
export function rate(value) {
  if (!present(value)) return DASH;
  const n = Number(value);
  if (n === 0) return '0';
  if (n >= 100) return count(n);
  return n >= 10 ? n.toFixed(1) : n.toFixed(2);
}

/** A number on an axis: no digit that says nothing. */
export const tick = (value) => (value >= 10_000 ? `${Number((value / 1000).toPrecision(3))} k` : String(Number(value.toPrecision(3))));

/** A share of 0..1 in percent, cut to the digits shown. */
export function percent(share, digits = 1) {
  if (!present(share)) return DASH;
  const n = Number(share) * 100;
  if (n >= 100) return '100 %';
  const scale = 10 ** digits;
  const cut = Math.floor(n * scale + 1e-9) / scale;
  if (cut === 0 && n > 0) return `<${(1 / scale).toFixed(digits)} %`;
  return `${cut.toFixed(digits)} %`;
}

/** A success rate, which needs enough events to mean anything. */
export const successRate = (share, events) => (Number(events) >= EVENTS_FOR_A_RATE ? percent(share, 2) : DASH);

/** Milliseconds without the unit, for columns that name it. */
export function ms(value) {
  if (!present(value)) return DASH;
  const n = Number(value);
  if (n !== 0 && n < 1) return n.toFixed(2);
  if (n < 10) return n.toFixed(1);
  return Math.round(n).toLocaleString('en-US');
}

/** A duration with its unit, from milliseconds. */
export function duration(value) {
  if (!present(value)) return DASH;
  const n = Number(value);
  if (n === 0) return '0 ms';
  if (n < 1) return `${Math.round(n * 1000)} µs`;
  if (n < 10) return `${n.toFixed(1)} ms`;
  if (n < 1000) return `${Math.round(n)} ms`;
  return n < 60_000 ? `${(n / 1000).toFixed(2)} s` : span(n);
}

/** A long stretch of time: `42 s`, `3 min 20 s`, `5 h 02 min`, `3 d 4 h`. */
export function span(milliseconds) {
  if (!present(milliseconds)) return DASH;
  const seconds = Math.max(0, Math.round(Number(milliseconds) / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 === 0 ? `${minutes} min` : `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, '0')} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Bytes in binary units. */
export function bytes(value) {
  if (!present(value)) return DASH;
  let n = Number(value);
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024) return `${unit === 'B' || n >= 100 ? Math.round(n) : n.toFixed(1)} ${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)} TiB`;
}

/** A block height in full digits. */
export const height = (value) => (present(value) ? Math.round(Number(value)).toLocaleString('en-US') : DASH);

/** How many calls a kept record stands for: shown only when it is not one. */
export function weight(adjustedCount) {
  if (adjustedCount === null || adjustedCount === undefined) return '×?';
  const n = Number(adjustedCount);
  if (n === 1) return '';
  return `×${Number.isInteger(n) ? n : n.toFixed(1)}`;
}

/** Words of a closed vocabulary, for people: `circuit_open` → `circuit open`. */
export const words = (name) => String(name ?? DASH).replaceAll('_', ' ');

/** The part of a node id that tells nodes apart. */
export const shortNode = (nodeId) => String(nodeId).replace(/^[^@]*@/, '');
