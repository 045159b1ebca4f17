//! Shows a person that an answer is being waited for. On a terminal only, on stderr, and only when it takes a moment: an
//! answer that comes at once leaves nothing to erase, and a program that reads the output never sees it.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// An answer within this time shows no progress.
const QUIET: Duration = Duration::from_millis(400);
/// Time between two drawings.
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(100);
/// What turns.
const WHEEL: [char; 4] = ['|', '/', '-', '\\'];

/// Waits for `work`, with the time that it has taken on the last line of the terminal.
pub(super) async fn shown<T>(work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let started = Instant::now();
    let mut drawings = tokio::time::interval_at(tokio::time::Instant::now() + QUIET, BETWEEN_DRAWINGS);
    let _line = ErasedAtTheEnd;
    tokio::pin!(work);
    for turn in WHEEL.iter().cycle() {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = drawings.tick() => draw(&format!("\r{turn} asking, {:.1} s (Ctrl-C ends it)", started.elapsed().as_secs_f64())),
        }
    }
    work.await
}

/// Erases the line also when the wait is given up.
struct ErasedAtTheEnd;

impl Drop for ErasedAtTheEnd {
    fn drop(&mut self) {
        draw("\r\x1b[K");
    }
}

fn draw(text: &str) {
    let mut terminal = std::io::stderr().lock();
    // A terminal that has gone away shows no progress; the answer's own writing will tell.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}
