// Asking the query service. An answer is used whole: rows with their coverage; an error keeps its code, for 404s differ.

const DEADLINE_MS = 15_000;

/** An error of the service, or of the way to it (`code` is then `unreachable`). */
export class ApiError extends Error {
  constructor(code, message, hint, status) {
    super(message);
    this.code = code;
    this.hint = hint ?? null;
    this.status = status;
  }
}

/** GET `/api/v1/<path>`; `signal` ends it early. */
export async function ask(path, params, signal) {
  const query = params === undefined ? '' : `?${params}`;
  const limit = AbortSignal.timeout(DEADLINE_MS);
  let response;
  try {
    response = await fetch(`/api/v1/${path}${query}`, { signal: signal ? AbortSignal.any([signal, limit]) : limit, headers: { accept: 'application/json' } });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError('unreachable', limit.aborted ? 'The query service did not answer in time.' : 'The query service cannot be reached.', null, 0);
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const told = body?.error ?? {};
  throw new ApiError(told.code ?? 'http', told.message ?? `The query service answered HTTP ${response.status}.`, told.hint, response.status);
}
