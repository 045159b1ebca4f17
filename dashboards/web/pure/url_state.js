// The URL's query is the only state: what is on the screen can be sent to somebody else as an address. Defaults are left
// out, unknown values fall back to them, so that an old link still opens.

export const VIEWS = ['overview', 'feed', 'nodes'];

/** Ranges and the step of their charts: about ninety cells each. */
export const RANGES = {
  '5m': { seconds: 300, step: '10s', step_seconds: 10 },
  '15m': { seconds: 900, step: '10s', step_seconds: 10 },
  '1h': { seconds: 3600, step: '40s', step_seconds: 40 },
  '6h': { seconds: 21_600, step: '300s', step_seconds: 300 },
  '24h': { seconds: 86_400, step: '900s', step_seconds: 900 },
};

export const LATENCY_KEYS = ['provider_id', 'method', 'region'];
const RESULTS = ['success', 'application_error', 'error'];
const DEFAULTS = {
  view: 'overview', range: '15m', by: 'method', profile: '', chain: '', region: '', provider_id: '', result: '', decision: '',
};
const CLOSED = { view: VIEWS, range: Object.keys(RANGES), by: LATENCY_KEYS, result: RESULTS };
const FILTERS = ['profile', 'chain', 'region', 'provider_id', 'result'];

/** State from `location.search`. */
export function parseState(search) {
  const params = new URLSearchParams(search);
  const state = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) {
    const value = params.get(key) ?? '';
    if (value !== '' && (CLOSED[key] === undefined || CLOSED[key].includes(value))) state[key] = value;
  }
  return Object.freeze(state);
}

/** The address of a state, relative to the page. */
export function formatState(state) {
  const params = new URLSearchParams();
  for (const [key, standard] of Object.entries(DEFAULTS)) {
    if (state[key] !== standard && state[key] !== '') params.set(key, state[key]);
  }
  return `?${params}`;
}

/** The address of a state with some of it changed. */
export const link = (state, patch) => formatState({ ...state, ...patch });

/** The range alone, in seconds, which every endpoint reads. */
export const rangeParams = (state) => new URLSearchParams({ from: `-${RANGES[state.range].seconds}s` });

/** Parameters of a report: the range and the filters that are set. `leave` names filters the report must not have. */
export function reportParams(state, extra = {}, leave = []) {
  const params = rangeParams(state);
  for (const key of FILTERS) {
    if (state[key] !== '' && !leave.includes(key)) params.set(key, state[key]);
  }
  for (const [key, value] of Object.entries(extra)) params.set(key, value);
  return params;
}

/** Parameters of the live feed. */
export function streamParams(state) {
  const params = new URLSearchParams();
  for (const key of FILTERS) if (state[key] !== '') params.set(key, state[key]);
  return params;
}

const differ = (one, other, keys) => keys.some((key) => one[key] !== other[key]);

/** True if the two differ in what reports are asked for. */
export const asksDifferently = (one, other) => differ(one, other, ['range', 'by', ...FILTERS]);

/** True if the two differ in what the live feed is asked for. */
export const feedsDifferently = (one, other) => differ(one, other, FILTERS);
