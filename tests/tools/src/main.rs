//! The tools on the command line. Each subcommand only reads its flags and calls the library, so that what a benchmark
//! measures by hand is what a test does in code. It prints a line for people, or JSON with `--json`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lariat_tools::bench_routing::{self, BenchRoutingSettings};
use lariat_tools::calls::Mix;
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::histogram::Quantiles;
use lariat_tools::load_otlp::template::Content;
use lariat_tools::load_otlp::{self, LoadOtlpReport, LoadOtlpSettings, Protocol, SpanSettings};
use lariat_tools::load_rpc::{self, LoadRpcReport, LoadRpcSettings};
use lariat_tools::provider::behaviour::{Behaviour, Latency};
use lariat_tools::provider::{Provider, ProviderSettings};
use lariat_tools::relay::RelayFaults;
use lariat_tools::{floor, relay};
use serde::Serialize;

/// Simulated providers, load generators, a faulty relay and a bare proxy.
#[derive(Debug, Parser)]
#[command(name = "lariat-tools", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a simulated Ethereum provider until interrupted.
    Provider(ProviderArgs),
    /// Sends OTLP spans and tells what was acknowledged.
    LoadOtlp(LoadOtlpArgs),
    /// Sends JSON-RPC calls and tells how long they took.
    LoadRpc(LoadRpcArgs),
    /// Relays TCP with faults until interrupted.
    Relay(RelayArgs),
    /// Forwards HTTP without looking at it until interrupted.
    Floor(FloorArgs),
    /// Compares a call through Lariat with one through a bare forwarder and with none between.
    BenchRouting(BenchRoutingArgs),
}

#[derive(Debug, Args)]
struct ProviderArgs {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name that web3_clientVersion tells.
    #[arg(long, default_value = "simulated")]
    name: String,
    /// Seed of the chain and of the behaviour.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Milliseconds between two blocks.
    #[arg(long, default_value_t = 2_000)]
    block_time_ms: u64,
    /// Median latency, milliseconds.
    #[arg(long, default_value_t = 0.0)]
    median_ms: f64,
    /// 99th percentile of latency, milliseconds.
    #[arg(long, default_value_t = 0.0)]
    p99_ms: f64,
    /// The whole behaviour as JSON, as GET /behaviour shows it; replaces the latency.
    #[arg(long, value_name = "JSON")]
    behaviour: Option<String>,
}

#[derive(Debug, Args)]
struct LoadOtlpArgs {
    /// The receiver; a path may follow for HTTP.
    #[arg(long, default_value = "http://127.0.0.1:4317")]
    url: String,
    /// How requests travel.
    #[arg(long, value_enum, default_value = "grpc")]
    protocol: Protocol,
    /// Compress bodies.
    #[arg(long)]
    gzip: bool,
    /// What the spans are.
    #[arg(long, value_enum, default_value = "plain")]
    content: Content,
    /// Spans per request.
    #[arg(long, default_value_t = 512)]
    spans_per_request: u32,
    /// Spans per second.
    #[arg(long, default_value_t = 10_000.0, conflicts_with = "max")]
    rate: f64,
    /// As fast as --in-flight allows, instead of a rate.
    #[arg(long)]
    max: bool,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Ends after that many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Requests under way at once, each on its own connection.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Seconds after which a try is given up.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Seconds after which a request is given up, retries included.
    #[arg(long, default_value_t = 60.0)]
    give_up: f64,
    /// Seed of the ids; two runs into one collector need two.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Node that seems to send them.
    #[arg(long, default_value = "load@127.0.0.1")]
    node_id: String,
    /// Region of that node.
    #[arg(long, default_value = "local")]
    region: String,
    /// File for the acknowledged requests.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Bearer token.
    #[arg(long, env = "CLUSTER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LoadRpcArgs {
    /// Where calls are posted.
    #[arg(long, default_value = "http://127.0.0.1:4000/rpc/ethereum")]
    url: String,
    /// Calls per second.
    #[arg(long, default_value_t = 1_000.0, conflicts_with = "max")]
    rps: f64,
    /// As fast as --connections allows, instead of a rate.
    #[arg(long)]
    max: bool,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Connections, each with one call at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds after which a call is given up.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// `realistic`, or method=weight,…
    #[arg(long, default_value = "realistic")]
    method_mix: Mix,
    /// Seed of the calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// URL of a simulated provider behind the proxy; repeatable.
    #[arg(long)]
    stats_url: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RelayArgs {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to relay to, host:port.
    #[arg(long)]
    target: String,
    /// Faults as JSON, for example {"delay_ms": 50}.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    faults: String,
}

#[derive(Debug, Args)]
struct FloorArgs {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to forward to, host:port.
    #[arg(long)]
    target: String,
}

#[derive(Debug, Args)]
struct BenchRoutingArgs {
    /// The lariat to measure.
    #[arg(long, default_value = "target/release/lariat")]
    lariat: PathBuf,
    /// Turns of each arm, after one that only warms up.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each of the loads, of which a round has eight.
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
    /// Connections, each with one call at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Calls per second of the paced load.
    #[arg(long, default_value_t = 1_000.0)]
    rps: f64,
    /// Print every round as JSON.
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Provider(args) => provider(args).await,
        Command::LoadOtlp(args) => load_otlp(args).await,
        Command::LoadRpc(args) => load_rpc(args).await,
        Command::Relay(args) => relay(args).await,
        Command::Floor(args) => floor(args).await,
        Command::BenchRouting(args) => bench_routing(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed the exit code still tells.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listening(name: &str, url: &str) -> io::Result<()> {
    writeln!(io::stdout(), "listening {name} {url}")?;
    io::stdout().flush()
}

async fn provider(args: ProviderArgs) -> Result<(), Failure> {
    let behaviour = match &args.behaviour {
        Some(json) => serde_json::from_str(json)?,
        None => {
            Behaviour { latency: Latency { median_ms: args.median_ms, p99_ms: args.p99_ms }, ..Behaviour::default() }
        }
    };
    let chain = ChainSettings { seed: args.seed, block_time_ms: args.block_time_ms, ..ChainSettings::default() };
    let settings = ProviderSettings {
        listen: args.listen,
        seed: args.seed,
        ..ProviderSettings::new(args.name, Arc::new(Chain::new(chain))).behaving(behaviour)
    };
    let provider = Provider::start(settings).await?;
    listening("provider", &provider.http_url())?;
    listening("provider-ws", &provider.ws_url())?;
    told_to_stop().await?;
    provider.shutdown().await;
    Ok(())
}

async fn relay(args: RelayArgs) -> Result<(), Failure> {
    let faults: RelayFaults = serde_json::from_str(&args.faults)?;
    let relay = relay::start(args.listen, &args.target).await?;
    relay.set_faults(faults);
    listening("relay", &format!("tcp://{}", relay.address()))?;
    told_to_stop().await?;
    relay.shutdown().await;
    Ok(())
}

async fn floor(args: FloorArgs) -> Result<(), Failure> {
    let floor = floor::start(args.listen, &args.target).await?;
    listening("floor", &format!("http://{}", floor.address()))?;
    told_to_stop().await?;
    floor.shutdown().await;
    Ok(())
}

async fn bench_routing(args: BenchRoutingArgs) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("lariat-bench-{}", std::process::id()));
    let settings = BenchRoutingSettings {
        lariat: args.lariat,
        tools: std::env::current_exe()?,
        dir: dir.clone(),
        rounds: args.rounds,
        duration: seconds(args.duration)?,
        connections: args.connections,
        calls_per_second: args.rps,
    };
    let report = bench_routing::run(&settings).await;
    std::fs::remove_dir_all(&dir)?;
    let report = report?;
    show(args.json, &report, bench_routing::table(&report))
}

/// Returns at SIGINT or SIGTERM.
async fn told_to_stop() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended,
        _ = terminate.recv() => Ok(()),
    }
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} s: {error}").into())
}

async fn load_rpc(args: LoadRpcArgs) -> Result<(), Failure> {
    let settings = LoadRpcSettings {
        url: args.url,
        calls_per_second: (!args.max).then_some(args.rps),
        duration: seconds(args.duration)?,
        connections: args.connections,
        timeout: seconds(args.timeout)?,
        mix: args.method_mix,
        seed: args.seed,
        stats_urls: args.stats_url,
    };
    let report = load_rpc::run(settings).await?;
    show(args.json, &report, rpc_line(&report))
}

async fn load_otlp(args: LoadOtlpArgs) -> Result<(), Failure> {
    let settings = LoadOtlpSettings {
        url: args.url,
        protocol: args.protocol,
        gzip: args.gzip,
        spans: SpanSettings { content: args.content, node_id: args.node_id, region: args.region, seed: args.seed },
        spans_per_request: args.spans_per_request,
        spans_per_second: (!args.max).then_some(args.rate),
        duration: seconds(args.duration)?,
        requests_max: args.requests,
        in_flight: args.in_flight,
        timeout: seconds(args.timeout)?,
        give_up: seconds(args.give_up)?,
        ledger: args.ledger,
        token: args.token,
    };
    let report = load_otlp::run(settings).await?;
    show(args.json, &report, otlp_line(&report))
}

fn show(json: bool, report: &impl Serialize, line: String) -> Result<(), Failure> {
    let text = if json { serde_json::to_string(report)? } else { line };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn quantiles(name: &str, q: &Quantiles) -> String {
    format!(
        "{name} p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
        q.p50_us, q.p90_us, q.p99_us, q.p999_us, q.max_us
    )
}

fn rpc_line(report: &LoadRpcReport) -> String {
    let upstream = match (report.upstream_calls, report.amplification) {
        (Some(calls), Some(amplification)) => format!("; upstream {calls} calls, {amplification:.3} per call"),
        _ => String::new(),
    };
    format!(
        "{} calls in {:.2} s, {:.0} answers/s: {} ok, {} JSON-RPC errors, {} not 200, {} invalid, {} timeouts, {} broken; {}; {}{upstream}",
        report.sent,
        report.elapsed_s,
        report.answers_per_second,
        report.ok,
        report.rpc_errors,
        report.http_errors,
        report.invalid,
        report.timeouts,
        report.broken,
        quantiles("latency", &report.latency),
        quantiles("service", &report.service),
    )
}

fn otlp_line(report: &LoadOtlpReport) -> String {
    let refusal = report.first_refusal.as_ref().map_or_else(String::new, |why| format!("; first refusal: {why}"));
    format!(
        "{} requests of {} bytes in {:.2} s: {} acknowledged, {} refused, {} given up, {} retries ({} put off, {} unanswered); {} spans ({} rejected), {:.0} spans/s, {} bytes sent; {}{refusal}",
        report.requests,
        report.bytes_per_request,
        report.elapsed_s,
        report.acknowledged,
        report.refused,
        report.given_up,
        report.retries,
        report.put_off + report.put_off_untimed,
        report.unanswered,
        report.spans_acknowledged,
        report.spans_rejected,
        report.spans_per_second,
        report.bytes_sent,
        quantiles("latency", &report.latency),
    )
}
