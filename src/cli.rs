//! Commands and their flags, and how a command ends: 0 clean, 2 bad configuration or usage, 1 anything else.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{client, config, demo, processes, replay};

/// A flight recorder for RPC routing.
#[derive(Debug, Parser)]
#[command(name = "lariat", version, about, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole fleet in this process: simulated providers, nodes in three regions, traffic, query service, dashboard
    Demo(DemoArguments),
    /// Run the proxy and the collector of this host
    Node(ServeArguments),
    /// Run a proxy alone; its telemetry goes to collector.otlp_grpc
    Proxy(ServeArguments),
    /// Run a collector alone
    Collector(ServeArguments),
    /// Run the query service: dashboard, SQL, reports, Prometheus API
    Query(ServeArguments),
    /// Ask in SQL; prints a table and the coverage of the answer
    Sql(SqlArguments),
    /// Explain one decision by its request id or trace id
    Explain(ExplainArguments),
    /// List the nodes as the query service knows them
    Nodes(NodesArguments),
    /// Say that a node will not come back: it is no longer expected from now on
    Retire(RetireArguments),
    /// Run recorded selections again and compare: exit 0 if all come out as recorded, 1 if not, 2 if unreadable
    Replay(ReplayArguments),
    /// Validate a configuration and its profiles; prints every error at once
    Check {
        /// The configuration file
        config: PathBuf,
    },
}

/// Flags of the long-running parts; each overrides the environment, which overrides the file.
#[derive(Debug, Args, Default)]
pub(crate) struct ServeArguments {
    /// Configuration file, YAML or TOML
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Where data lies [default: ./data]
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Folder of the profiles [default: ./profiles]
    #[arg(long)]
    pub(crate) profiles: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Number of nodes; node n is in region n mod 3 of us-east, eu-west, ap-south
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Calls per second of the whole fleet
    #[arg(long, default_value_t = 20.0)]
    pub(crate) rps: f64,
    /// Stop by itself after this time, such as 30s or 5m
    #[arg(long, value_parser = config::duration)]
    pub(crate) duration: Option<Duration>,
    /// First port: proxy +0, query +40, collector +317 to +319, node n adds 100 n; 0 lets the system choose
    #[arg(long, default_value_t = 4000)]
    pub(crate) port_base: u16,
    /// Where the fleet's data lies
    #[arg(long, default_value = "./lariat-data")]
    pub(crate) data_dir: PathBuf,
    /// Seed of the providers' story
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceUrl {
    /// Address of the query service
    #[arg(long, env = "LARIAT_URL", default_value = "http://127.0.0.1:4040")]
    pub(crate) url: String,
}

/// The query service, and what it wants from who asks.
#[derive(Clone, Args)]
pub(crate) struct Service {
    /// Address of the query service
    #[arg(long, env = "LARIAT_URL", default_value = "http://127.0.0.1:4040")]
    pub(crate) url: String,
    /// Token of the query service, where it has one
    #[arg(long, env = "LARIAT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Service {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("url", &self.url).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    Json,
    Ndjson,
    Csv,
    Arrow,
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArguments {
    /// The query; `-` reads it from standard input; without it a session begins, `\?` tells its commands
    pub(crate) query: Option<String>,
    #[command(flatten)]
    pub(crate) service: Service,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Fail if the answer covers less than this share of the fleet
    #[arg(long)]
    pub(crate) min_coverage: Option<f64>,
    /// How long to wait for nodes, such as 500ms
    #[arg(long)]
    pub(crate) deadline: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Request id (UUID) or trace id (32 hexadecimal digits)
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) service: Service,
    /// Print the service's JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodesArguments {
    #[command(flatten)]
    pub(crate) service: Service,
}

#[derive(Args)]
pub(crate) struct RetireArguments {
    /// Node id or store id
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) service: ServiceUrl,
    /// The cluster's token
    #[arg(long, env = "CLUSTER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for RetireArguments {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetireArguments")
            .field("node", &self.node)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// What `lariat explain --json` or `lariat sql --format json` printed, or a Parquet file of spans; `-` reads standard input
    pub(crate) file: String,
}

/// Why a command did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad configuration or usage: exit 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else: exit 1.
    #[error("{0}")]
    Failed(String),
}

impl Command {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Demo(arguments) => demo::run(arguments).await,
            Self::Node(arguments) => processes::run(processes::Role::Node, arguments).await,
            Self::Proxy(arguments) => processes::run(processes::Role::Proxy, arguments).await,
            Self::Collector(arguments) => processes::run(processes::Role::Collector, arguments).await,
            Self::Query(arguments) => processes::run(processes::Role::Query, arguments).await,
            Self::Sql(arguments) => client::sql::run(arguments).await,
            Self::Explain(arguments) => client::explain::run(arguments).await,
            Self::Nodes(arguments) => client::fleet::nodes(arguments).await,
            Self::Retire(arguments) => client::fleet::retire(arguments).await,
            Self::Replay(arguments) => replay::run(&arguments),
            Self::Check { config } => config::check(&config),
        }
    }
}

/// Prints why and turns it into the exit code.
#[allow(clippy::print_stderr, reason = "the last word of a command goes to the person who typed it")]
pub(crate) fn fail(failure: &Failure) -> ExitCode {
    eprintln!("lariat: {failure}");
    match failure {
        Failure::Usage(_) => ExitCode::from(2),
        Failure::Failed(_) => ExitCode::FAILURE,
    }
}
