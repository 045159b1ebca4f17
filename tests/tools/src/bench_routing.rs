//! What a call through Lariat costs, beside a bare forwarder and no proxy at all, in one run. Every part is a process of
//! its own, talked to over real sockets, and its processor time is read from the system's own account: a benchmark inside
//! one process could not tell the proxy's time from that of the load. The arms take turns, so that a machine that
//! becomes slower does so for all of them; what is worth quoting are the ratios within a round.
//!
//! "Not recording" is a proxy whose recorder's queue holds a single decision: the request's thread does all it ever does,
//! and nearly every record is refused and counted, so that nothing is encoded or sent.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use crate::calls::Mix;
use crate::load_rpc::{self, LoadRpcReport, LoadRpcSettings};

/// Thread that encodes records, as the system names it.
const RECORDER_THREAD: &str = "lariat-recorder";

/// What to compare, and how long.
#[derive(Debug, Clone)]
pub struct BenchRoutingSettings {
    /// The `lariat` to measure.
    pub lariat: PathBuf,
    /// This program, which also is the provider and the forwarder.
    pub tools: PathBuf,
    /// A directory of its own for data and profiles.
    pub dir: PathBuf,
    /// Turns of each arm.
    pub rounds: usize,
    /// Length of each load.
    pub duration: Duration,
    /// Connections of the load.
    pub connections: usize,
    /// Calls per second of the paced load.
    pub calls_per_second: f64,
}

/// One arm in one round. Processor time is per answered call of the load at full speed, in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Answers per second at full speed.
    pub answers_per_second: f64,
    /// Median latency at the paced rate, microseconds.
    pub p50_us: f64,
    /// 99th percentile of it, microseconds.
    pub p99_us: f64,
    /// Processor time of the process without its recorder.
    pub request_cpu_us: f64,
    /// Processor time of its recorder thread.
    pub recorder_cpu_us: f64,
    /// Processor time of the collector behind it.
    pub collector_cpu_us: f64,
}

/// All rounds of each arm, by its name.
pub type Report = BTreeMap<&'static str, Vec<Figures>>;

/// A process that ends with its handle.
struct Running {
    child: Child,
    url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process and waits until it prints where `listener` listens.
fn start(command: &mut Command, listener: &str) -> io::Result<Running> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
    let mut running = Running { child, url: String::new() };
    let mut lines = BufReader::new(stdout).lines();
    let prefix = format!("listening {listener} ");
    for line in &mut lines {
        if let Some(url) = line?.strip_prefix(&prefix) {
            url.clone_into(&mut running.url);
            // Whoever writes to a closed pipe fails, so the rest is read and dropped.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(running);
        }
    }
    Err(io::Error::other(format!("{:?} ended before it listened", command.get_program())))
}

/// Nanoseconds of processor time of a process: of its recorder thread, and of all others.
fn cpu_ns(process: &Running) -> io::Result<(u64, u64)> {
    let (mut recorder, mut others) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{}/task", process.child.id()))? {
        let task = task?.path();
        // A thread can end between being listed and being read.
        let (Ok(name), Ok(account)) =
            (std::fs::read_to_string(task.join("comm")), std::fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        let ns: u64 = account.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        *(if name.trim() == RECORDER_THREAD { &mut recorder } else { &mut others }) += ns;
    }
    Ok((recorder, others))
}

fn lariat(settings: &BenchRoutingSettings, part: &str, name: &str) -> Command {
    let mut command = Command::new(&settings.lariat);
    command
        .arg(part)
        .arg("--data-dir")
        .arg(settings.dir.join(name))
        .arg("--profiles")
        .arg(settings.dir.join("profiles"));
    for key in ["PROXY__LISTEN", "COLLECTOR__OTLP_GRPC", "COLLECTOR__OTLP_HTTP", "COLLECTOR__NODE_API"] {
        command.env(format!("LARIAT_{key}"), "127.0.0.1:0");
    }
    command
}

fn write_profile(dir: &Path, provider: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir.join("profiles"))?;
    let profile = format!(
        "---\nname: Bench\nslug: public\nsampling: {{ rate: 1.0 }}\n---\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n      - {{ id: only, url: \"{provider}\" }}\n"
    );
    std::fs::write(dir.join("profiles/public.yml"), profile)
}

async fn load(settings: &BenchRoutingSettings, url: &str, rate: Option<f64>, seed: u64) -> io::Result<LoadRpcReport> {
    let mix: Mix = "eth_getBalance=1".parse().map_err(io::Error::other)?;
    let load = LoadRpcSettings {
        calls_per_second: rate,
        duration: settings.duration,
        connections: settings.connections,
        mix,
        seed,
        ..LoadRpcSettings::new(url, 1.0)
    };
    load_rpc::run(load).await.map_err(io::Error::other)
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
fn per_call(before: u64, after: u64, calls: u64) -> f64 {
    after.saturating_sub(before) as f64 / 1_000.0 / calls.max(1) as f64
}

/// Runs everything; some `rounds × 8 × duration` long.
///
/// # Errors
/// A process that cannot be started, or a load that got no answer.
pub async fn run(settings: &BenchRoutingSettings) -> io::Result<Report> {
    let tools = |part: &str| {
        let mut command = Command::new(&settings.tools);
        command.arg(part);
        command
    };
    let provider = start(&mut tools("provider"), "provider")?;
    let target = provider.url.trim_start_matches("http://").to_owned();
    let floor = start(tools("floor").args(["--target", &target]), "floor")?;
    write_profile(&settings.dir, &provider.url)?;
    let collector = start(&mut lariat(settings, "collector", "collector"), "otlp_grpc")?;
    let proxy = |name: &str, queue: &str| {
        let mut command = lariat(settings, "proxy", name);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env("OTEL_BSP_MAX_QUEUE_SIZE", queue);
        start(&mut command, "proxy")
    };
    let (recording, not_recording) = (proxy("recording", "65536")?, proxy("not-recording", "1")?);
    let arms: [(&'static str, &Running, &str); 4] = [
        ("direct", &provider, "/"),
        ("floor", &floor, "/"),
        ("lariat, not recording", &not_recording, "/rpc/ethereum"),
        ("lariat", &recording, "/rpc/ethereum"),
    ];
    let mut report = Report::new();
    let mut seed = 0;
    for round in 0..=settings.rounds {
        for (name, process, path) in arms {
            let url = format!("{}{path}", process.url);
            seed += 1;
            let (before, collected) = (cpu_ns(process)?, cpu_ns(&collector)?);
            let full = load(settings, &url, None, seed).await?;
            let (after, collected_after) = (cpu_ns(process)?, cpu_ns(&collector)?);
            if full.ok == 0 {
                return Err(io::Error::other(format!("{name} answered no call; {} were sent", full.sent)));
            }
            seed += 1;
            let paced = load(settings, &url, Some(settings.calls_per_second), seed).await?;
            // The first round only warms everything up.
            if round > 0 {
                report.entry(name).or_default().push(Figures {
                    answers_per_second: full.answers_per_second,
                    p50_us: paced.latency.p50_us,
                    p99_us: paced.latency.p99_us,
                    request_cpu_us: per_call(before.1, after.1, full.ok),
                    recorder_cpu_us: per_call(before.0, after.0, full.ok),
                    collector_cpu_us: per_call(
                        collected.0 + collected.1,
                        collected_after.0 + collected_after.1,
                        full.ok,
                    ),
                });
            }
        }
    }
    Ok(report)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The report as a table: the median of the rounds, and the median of the ratios to the floor of the same round.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut out = String::from(
        "| | answers/s | of the floor's | p50 µs | × floor | p99 µs | × floor | CPU/call µs | × floor | recorder µs | collector µs |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let floor = report.get("floor").cloned().unwrap_or_default();
    for (name, rounds) in report {
        let of = |read: fn(&Figures) -> f64| median(rounds.iter().map(read).collect());
        let ratio = |read: fn(&Figures) -> f64| {
            median(rounds.iter().zip(&floor).map(|(arm, floor)| read(arm) / read(floor)).collect())
        };
        out.push_str(&format!(
            "| {name} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {:.1} | {:.2} | {:.1} | {:.1} |\n",
            of(|it| it.answers_per_second),
            ratio(|it| it.answers_per_second),
            of(|it| it.p50_us),
            ratio(|it| it.p50_us),
            of(|it| it.p99_us),
            ratio(|it| it.p99_us),
            of(|it| it.request_cpu_us),
            ratio(|it| it.request_cpu_us),
            of(|it| it.recorder_cpu_us),
            of(|it| it.collector_cpu_us),
        ));
    }
    out
}
