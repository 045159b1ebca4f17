// One question asked again and again, never twice at a time: the pause runs from answer to question, so that a slow
// service is not asked faster than it answers. A hidden page asks nothing.

/** `{restart, stop}`; `task(signal)` must not throw. */
export function startPoller(task, intervalMs) {
  let controller = new AbortController();
  let timer = null;
  let stopped = false;

  async function run() {
    clearTimeout(timer);
    if (stopped || document.hidden) return;
    controller.abort();
    const mine = (controller = new AbortController());
    await task(mine.signal);
    if (!mine.signal.aborted && !stopped) timer = setTimeout(run, intervalMs);
  }

  const shown = () => { if (!document.hidden) run(); };
  document.addEventListener('visibilitychange', shown);
  run();
  return {
    restart: run,
    stop() {
      stopped = true;
      clearTimeout(timer);
      controller.abort();
      document.removeEventListener('visibilitychange', shown);
    },
  };
}
