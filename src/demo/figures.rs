//! What the demo's terminal shows: how to look at it, then one line of live figures, redrawn in place on a terminal and as
//! JSON lines otherwise.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use lariat_query::ask::Question;

use super::Demo;

/// Time between two lines on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two lines elsewhere.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Recorded calls of the last minute, so that the line says what was recorded and not only what was sent.
const RECORDED: &str = "SELECT CAST(COALESCE(sum(adjusted_count), 0) AS BIGINT) AS recorded FROM routing_decisions \
                        WHERE time >= now() - INTERVAL '1 minute'";

/// Addresses and three commands to try.
#[allow(clippy::print_stdout, reason = "what the command is for")]
pub(super) fn introduce(query: &str, proxies: &[String], data_dir: &Path) {
    let proxy = proxies.first().map_or("http://127.0.0.1:4000", String::as_str);
    let binary = std::env::args().next().unwrap_or_else(|| "lariat".to_owned());
    let at = if query.ends_with(":4040") { String::new() } else { format!(" --url {query}") };
    println!("\n  Lariat is recording. Dashboard: {query}/   data: {}\n", data_dir.display());
    println!("  Try, in another terminal:");
    println!(
        "    curl -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_blockNumber\",\"params\":[]}}' {proxy}/rpc/ethereum"
    );
    println!(
        "    {binary} sql{at} \"select provider_id, region, count(*) as calls from routing_decisions group by all order by calls desc\""
    );
    println!("    curl -X POST {query}/api/v1/demo/nodes/1/kill    # then ask again: the answer says what it lacks\n");
    println!("  Ctrl-C ends it and keeps the data.\n");
}

/// Draws figures until dropped.
pub(super) async fn show(demo: &Demo) {
    let terminal = std::io::stdout().is_terminal();
    let interval = if terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    ticks.reset_after(TERMINAL_INTERVAL);
    let (mut before, mut then) = (demo.traffic.counts().sent, Instant::now());
    loop {
        ticks.tick().await;
        let counts = demo.traffic.counts();
        let rate = (counts.sent - before) as f64 / then.elapsed().as_secs_f64().max(0.001);
        (before, then) = (counts.sent, Instant::now());
        let answered = counts.ok + counts.application_errors + counts.errors;
        let success = 100.0 * (counts.ok + counts.application_errors) as f64 / (answered.max(1)) as f64;
        let (recorded, nodes) = recorded(demo).await;
        let line = if terminal {
            format!(
                "\r\x1b[2K  {} calls · {rate:.1}/s · {success:.1} % answered (n={answered}) · {recorded} recorded in the last minute · {nodes}/{} nodes",
                counts.sent, demo.nodes
            )
        } else {
            format!(
                "{{\"calls\":{},\"calls_per_second\":{rate:.1},\"answered_percent\":{success:.1},\"recorded_last_minute\":{recorded},\"nodes_answered\":{nodes},\"nodes_expected\":{}}}\n",
                counts.sent, demo.nodes
            )
        };
        write(&line);
    }
}

/// Ends the line that is redrawn in place.
pub(super) fn end_line() {
    if std::io::stdout().is_terminal() {
        write("\n");
    }
}

async fn recorded(demo: &Demo) -> (i64, u32) {
    let mut question = Question::new(RECORDED);
    question.deadline = Some(Duration::from_secs(2));
    match demo.query.engine().ask(question).await {
        Ok(answer) => {
            let count = answer
                .batches
                .iter()
                .find(|batch| batch.num_rows() > 0)
                .and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>().map(|column| column.value(0)));
            (count.unwrap_or(0), answer.coverage.answered)
        }
        Err(error) => {
            tracing::warn!(%error, "the figures could not be asked for");
            (0, 0)
        }
    }
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    // Figures for nobody: a closed terminal is no reason to end the fleet.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
