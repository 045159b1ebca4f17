// Times travel as RFC 3339 with nanoseconds; the page works in milliseconds since the epoch, and shows UTC, so that two
// people in two time zones read the same figure.

/** Milliseconds since the epoch, fraction kept to the microsecond; null for what is no time. */
export function parseTime(text) {
  if (typeof text !== 'string') return null;
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (match === null) return null;
  const seconds = Date.parse(match[1] + match[3]);
  if (Number.isNaN(seconds)) return null;
  return seconds + Number(`0.${match[2] ?? 0}`) * 1000;
}

const two = (n) => String(n).padStart(2, '0');

/** `21:03:10`. */
export function clock(milliseconds) {
  const at = new Date(milliseconds);
  return `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
}

/** `21:03:10.042`. */
export const clockMillis = (milliseconds) =>
  `${clock(milliseconds)}.${String(Math.floor(((milliseconds % 1000) + 1000) % 1000)).padStart(3, '0')}`;

/** `2026-01-31 21:03:10`. */
export const dateClock = (milliseconds) => `${new Date(milliseconds).toISOString().slice(0, 10)} ${clock(milliseconds)}`;

/** `21:03`, or the day too where the range is long. */
export function axisTime(milliseconds, rangeMs) {
  const at = new Date(milliseconds);
  const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
  return rangeMs > 24 * 3600_000 ? `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ${time}` : time;
}

const AXIS_STEPS_S = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/** Round moments inside a range, at most `most` of them. */
export function timeTicks(fromMs, toMs, most) {
  const step = AXIS_STEPS_S.find((seconds) => (toMs - fromMs) / (seconds * 1000) <= most) ?? 86_400;
  const ticks = [];
  for (let at = Math.ceil(fromMs / (step * 1000)) * step * 1000; at <= toMs; at += step * 1000) ticks.push(at);
  return ticks;
}
