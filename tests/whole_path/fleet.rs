//! Fleets that lose nodes in every way a fleet does: what is answered equals what the load generator knows to have been
//! acknowledged by the nodes in the answer, and coverage says which those are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lariat_collector::{Collector, Policies, SamplingPolicy};
use lariat_query::ClusterConfig;
use lariat_schema::ids::BootId;
use lariat_schema::node_api::NodeIdentity;
use lariat_tools::load_otlp::{self, LoadOtlpSettings};
use lariat_tools::relay::{self, RelayFaults};
use serde_json::Value;

use super::harness::{Lariat, call, client, eventually, free_port, get_json, rows, run, sql_at};

pub(super) const TOKEN: &str = "the-fleets-token";
pub(super) const COUNT: &str = "SELECT count(*) AS n FROM spans WHERE service_name = 'checkout'";

/// A place for a node: its data, and an address that it keeps over restarts.
pub(super) struct Place {
    dir: PathBuf,
    port: u16,
}

impl Place {
    pub(super) fn new(dir: &Path, number: usize) -> Self {
        let dir = dir.join(format!("node-{number}"));
        std::fs::create_dir_all(dir.join("profiles")).unwrap();
        std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
        Self { dir, port: free_port() }
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn name(&self) -> String {
        format!("lariat@127.0.0.1:{}", self.port)
    }

    pub(super) async fn start(&self, part: &str) -> Lariat {
        self.start_with(part, &[]).await
    }

    /// The same with further variables.
    pub(super) async fn start_with(&self, part: &str, further: &[(&str, &str)]) -> Lariat {
        let (data, profiles) = (self.dir.join("data"), self.dir.join("profiles"));
        let arguments =
            [part, "--data-dir", &data.display().to_string(), "--profiles", &profiles.display().to_string()];
        let address = self.address();
        let mut variables = vec![
            ("CLUSTER_TOKEN", TOKEN),
            ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__NODE_API", &address),
        ];
        variables.extend(further);
        let node = Lariat::start_with(&arguments, &variables);
        node.ready("node_api").await;
        node
    }
}

async fn start_query(dir: &Path, nodes: &[String]) -> Lariat {
    start_query_with(&dir.join("query"), nodes, &[]).await
}

/// A query service in a directory of its own, with further variables.
pub(super) async fn start_query_with(dir: &Path, nodes: &[String], further: &[(&str, &str)]) -> Lariat {
    let nodes = serde_json::to_string(nodes).unwrap();
    let mut variables =
        vec![("CLUSTER_TOKEN", TOKEN), ("LARIAT_QUERY__HTTP", "127.0.0.1:0"), ("LARIAT_CLUSTER__NODES", &nodes)];
    variables.extend(further);
    let query = Lariat::start_with(&["query", "--data-dir", &dir.display().to_string()], &variables);
    query.ready("query").await;
    query
}

/// Sends so many requests of spans and returns how many spans were acknowledged.
pub(super) async fn load(url: &str, seed: u64, requests: u64) -> u64 {
    let mut settings = LoadOtlpSettings::new(url, 5_000.0);
    settings.spans.seed = seed;
    settings.spans_per_request = 20;
    settings.requests_max = Some(requests);
    settings.token = Some(TOKEN.to_owned());
    let report = load_otlp::run(settings).await.unwrap();
    assert_eq!((report.refused, report.given_up), (0, 0), "{report:?}");
    report.spans_acknowledged
}

/// The count and the coverage that a query service gives within four seconds.
async fn count(url: &str) -> (u64, Value) {
    count_within(url, Duration::from_secs(4)).await
}

/// The same with another deadline, which is kept.
pub(super) async fn count_within(url: &str, deadline: Duration) -> (u64, Value) {
    let answer = ask_within(url, COUNT, deadline).await;
    (rows(&answer)[0]["n"].as_u64().unwrap(), answer["coverage"].clone())
}

/// An answer by a deadline, which is kept.
async fn ask_within(url: &str, sql: &str, deadline: Duration) -> Value {
    let since = Instant::now();
    let within = format!("{}ms", deadline.as_millis());
    let response = client()
        .get(format!("{url}/api/v1/sql"))
        .query(&[("q", sql), ("deadline", within.as_str())])
        .send()
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    assert!(since.elapsed() < deadline + Duration::from_secs(2), "{:?}", since.elapsed());
    serde_json::from_str(&text).unwrap()
}

/// Names of the nodes that are not in an answer.
pub(super) fn without(coverage: &Value) -> Vec<String> {
    let nodes = coverage["nodes"].as_array().unwrap().iter().filter(|node| node["answered"] == false);
    nodes.map(|node| node["node_id"].as_str().unwrap().to_owned()).collect()
}

async fn whole(url: &str, wanted: u64, nodes: u64) {
    eventually(&format!("{wanted} spans of {nodes} nodes"), async || {
        let (found, coverage) = count(url).await;
        (found == wanted && coverage["answered"] == nodes && coverage["expected"] == nodes).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_paused_cut_off_killed_or_missing_node_equal_what_the_others_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let places: Vec<Place> = (0..4).map(|number| Place::new(dir.path(), number)).collect();
    let mut nodes = Vec::new();
    for place in &places[..3] {
        nodes.push(place.start("collector").await);
    }
    let mut given = Vec::new();
    for (node, requests) in nodes.iter().zip([5, 10, 15]) {
        given.push(load(&node.url("otlp_grpc").await, requests, requests).await);
    }
    let relay = relay::start("127.0.0.1:0".parse().unwrap(), &places[2].address()).await.unwrap();
    let addresses = [places[0].address(), places[1].address(), relay.address().to_string(), places[3].address()];
    let query = start_query(dir.path(), &addresses).await;
    let url = query.url("query").await;
    let all: u64 = given.iter().sum();
    let (found, coverage) = count(&url).await;
    assert_eq!((found, without(&coverage)), (all, vec![places[3].address()]), "{coverage}");
    assert_eq!(coverage["complete"], false);

    nodes.push(places[3].start("collector").await);
    whole(&url, all, 4).await;

    nodes[0].signal("STOP");
    let (found, coverage) = count(&url).await;
    assert_eq!((found, without(&coverage)), (all - given[0], vec![places[0].name()]), "{coverage}");
    nodes[0].signal("CONT");
    whole(&url, all, 4).await;

    relay.set_faults(RelayFaults { stalled: true, ..RelayFaults::default() });
    let (found, coverage) = count(&url).await;
    assert_eq!((found, without(&coverage)), (all - given[2], vec![places[2].name()]), "{coverage}");
    relay.set_faults(RelayFaults::default());
    relay.reset_connections();
    whole(&url, all, 4).await;

    nodes.remove(1).kill();
    let (found, coverage) = count(&url).await;
    assert_eq!((found, without(&coverage)), (all - given[1], vec![places[1].name()]), "{coverage}");
    nodes.push(places[1].start("collector").await);
    whole(&url, all, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_after_half_its_rows_dies_among_them_or_comes_too_late_costs_its_rows_whole_and_the_deadline_at_most()
 {
    /// Every row travels, so that it can stop half way.
    const ROWS: &str = "SELECT trace_id, span_id, name, time FROM spans WHERE service_name = 'checkout'";
    const DEADLINE: Duration = Duration::from_secs(8);
    /// More than anything but rows takes, and less than a quarter of them.
    const HALF_WAY_BYTES: u64 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let places = [Place::new(dir.path(), 0), Place::new(dir.path(), 1)];
    let nodes = [places[0].start("collector").await, places[1].start("collector").await];
    let whole_node = load(&nodes[0].url("otlp_grpc").await, 1, 10).await;
    let halved_node = load(&nodes[1].url("otlp_grpc").await, 2, 200).await;
    let relay = relay::start("127.0.0.1:0".parse().unwrap(), &places[1].address()).await.unwrap();
    let query = start_query(dir.path(), &[places[0].address(), relay.address().to_string()]).await;
    let url = query.url("query").await;
    whole(&url, whole_node + halved_node, 2).await;
    for faults in [
        RelayFaults { stall_after_bytes: Some(HALF_WAY_BYTES), ..RelayFaults::default() },
        RelayFaults { cut_after_bytes: Some(HALF_WAY_BYTES), ..RelayFaults::default() },
        RelayFaults { bytes_per_second: Some(HALF_WAY_BYTES / 8), ..RelayFaults::default() },
    ] {
        let before = relay.counts().bytes_down;
        relay.set_faults(faults.clone());
        relay.reset_connections();
        let answer = ask_within(&url, ROWS, DEADLINE).await;
        assert_eq!(rows(&answer).len() as u64, whole_node, "{faults:?}: {}", answer["coverage"]);
        assert_eq!(without(&answer["coverage"]), [places[1].name()], "{faults:?}");
        assert!(relay.counts().bytes_down > before, "{faults:?}: it never began");
        relay.set_faults(RelayFaults::default());
        relay.reset_connections();
        eventually("all rows again", async || {
            let answer = ask_within(&url, ROWS, DEADLINE).await;
            (rows(&answer).len() as u64 == whole_node + halved_node).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_processes_one_that_is_paused_is_missing_at_the_deadline_and_nothing_else() {
    const DEADLINE: Duration = Duration::from_secs(10);
    let dir = tempfile::tempdir().unwrap();
    let places: Vec<Place> = (0..16).map(|number| Place::new(dir.path(), number)).collect();
    let nodes = futures::future::join_all(places.iter().map(|place| place.start("collector"))).await;
    let mut given = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        given.push(load(&node.url("otlp_grpc").await, 200 + number as u64, 1 + number as u64 % 4).await);
    }
    let addresses: Vec<String> = places.iter().map(Place::address).collect();
    let query = start_query_with(&dir.path().join("query"), &addresses, &[("EXPECTED_NODE_COUNT", "16")]).await;
    let url = query.url("query").await;
    let all: u64 = given.iter().sum();
    eventually("all spans of sixteen processes", async || {
        let (found, coverage) = count_within(&url, DEADLINE).await;
        (found == all && coverage["answered"] == 16).then_some(())
    })
    .await;
    nodes[5].signal("STOP");
    let (found, coverage) = count_within(&url, DEADLINE).await;
    assert_eq!((found, without(&coverage)), (all - given[5], vec![places[5].name()]), "{coverage}");
    assert_eq!((coverage["expected"].as_u64(), coverage["answered"].as_u64()), (Some(16), Some(15)), "{coverage}");
    nodes[5].signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_said_farewell_or_was_retired_is_not_expected_also_after_a_restart_of_the_query_service() {
    let dir = tempfile::tempdir().unwrap();
    let places: Vec<Place> = (0..3).map(|number| Place::new(dir.path(), number)).collect();
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(place.start("collector").await);
    }
    let addresses: Vec<String> = places.iter().map(Place::address).collect();
    let query = start_query(dir.path(), &addresses).await;
    let url = query.url("query").await;
    let of = |coverage: &Value| (coverage["expected"].as_u64().unwrap(), coverage["answered"].as_u64().unwrap());
    let comes_to = async |url: &str, wanted: (u64, u64)| {
        eventually(&format!("{wanted:?} nodes"), async || (of(&count(url).await.1) == wanted).then_some(())).await;
    };
    comes_to(&url, (3, 3)).await;

    let stopped = nodes.remove(0);
    stopped.signal("TERM");
    comes_to(&url, (2, 2)).await;
    nodes.remove(0).kill();
    comes_to(&url, (2, 1)).await;

    let retire = |name: &str, token: &str| run(&["retire", name, "--url", &url, "--token", token], &[]);
    let (code, _, text) = retire(&places[1].name(), "wrong");
    assert_eq!(code, 1, "{text}");
    let (code, _, text) = retire(&places[2].name(), TOKEN);
    assert!(code == 1 && text.contains("answers"), "{text}");
    let (code, text, errors) = retire(&places[1].name(), TOKEN);
    assert!(code == 0 && text.contains("operator"), "{text}{errors}");
    comes_to(&url, (1, 1)).await;
    let answer = sql_at(&url, "SELECT node_id, ended_by FROM membership WHERE ended_by IS NOT NULL ORDER BY 2").await;
    let ended: Vec<(&str, &str)> =
        rows(&answer).iter().map(|row| (row["node_id"].as_str().unwrap(), row["ended_by"].as_str().unwrap())).collect();
    assert_eq!(ended, [(places[0].name().as_str(), "farewell"), (places[1].name().as_str(), "operator")]);

    drop(query);
    let query = start_query(dir.path(), &addresses).await;
    let url = query.url("query").await;
    comes_to(&url, (1, 1)).await;
    let _again = places[0].start("collector").await;
    comes_to(&url, (2, 2)).await;
}

/// Sixteen nodes share two cores with everything else here.
const SIXTEEN_DEADLINE: Duration = Duration::from_secs(20);

/// Sixteen collectors in this process, over real sockets.
async fn sixteen(dir: &Path) -> Vec<Collector> {
    let mut collectors = Vec::new();
    let loopback = "127.0.0.1:0".parse().unwrap();
    for number in 0..16_usize {
        let region = ["us-east", "eu-west", "ap-south"][number % 3];
        let identity = NodeIdentity {
            node_id: format!("lariat@{number}").as_str().into(),
            region: region.into(),
            boot_id: BootId(uuid::Uuid::new_v4()),
        };
        let mut config = lariat_collector::Config::default();
        (config.otlp_grpc, config.otlp_http, config.node_api) = (loopback, loopback, loopback);
        let every = SamplingPolicy { rate: 1.0, ..SamplingPolicy::default() };
        let settings = lariat_collector::Settings {
            config,
            data_dir: dir.join(number.to_string()),
            identity,
            token: Some(Arc::from(TOKEN)),
            policies: Policies::default().with("public", every),
            has_proxy: false,
        };
        collectors.push(lariat_collector::start(settings).await.unwrap());
    }
    collectors
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_nodes_five_of_them_killed_are_eleven_of_sixteen() {
    let dir = tempfile::tempdir().unwrap();
    let mut collectors = sixteen(dir.path()).await;
    let mut given = Vec::new();
    for (number, collector) in collectors.iter().enumerate() {
        let url = format!("http://{}", collector.addresses().otlp_grpc);
        given.push(load(&url, 100 + number as u64, 1 + number as u64).await);
    }
    let nodes = collectors.iter().map(|collector| collector.addresses().node_api.to_string()).collect();
    let free = "127.0.0.1:0".parse().unwrap();
    let config =
        lariat_query::Config { http: free, flight_sql: free, postgres: free, ..lariat_query::Config::default() };
    let token = serde_json::from_value(Value::from(TOKEN)).unwrap();
    let cluster = ClusterConfig { nodes, token: Some(token), expected_nodes: 16, ..ClusterConfig::default() };
    let settings = lariat_query::Settings { config, cluster, data_dir: Some(dir.path().join("query")), extra: None };
    let query = lariat_query::start(settings).await.unwrap();
    let url = format!("http://{}", query.http_address());
    let all: u64 = given.iter().sum();
    eventually("all spans of sixteen nodes", async || {
        let (found, coverage) = count_within(&url, SIXTEEN_DEADLINE).await;
        (found == all && coverage["answered"] == 16 && coverage["expected"] == 16).then_some(())
    })
    .await;

    let mut left = all;
    let mut killed = Vec::new();
    for number in [14, 11, 6, 3, 0] {
        let collector = collectors.remove(number);
        tokio::task::spawn_blocking(move || collector.kill()).await.unwrap();
        left -= given[number];
        killed.push(format!("lariat@{number}"));
    }
    let (found, coverage) = count_within(&url, SIXTEEN_DEADLINE).await;
    let mut missing = without(&coverage);
    missing.sort();
    killed.sort();
    assert_eq!((found, missing), (left, killed), "{coverage}");
    assert_eq!((coverage["expected"].as_u64(), coverage["answered"].as_u64()), (Some(16), Some(11)), "{coverage}");
    query.shutdown(Duration::from_secs(5)).await;
    for collector in collectors {
        collector.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_paused_and_then_killed_says_afterwards_when_it_was_down_and_what_is_not_known() {
    /// Long enough for whole slices without a heartbeat, whenever in a slice it begins.
    const OUTAGE: Duration = Duration::from_secs(35);
    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice","params":[]}"#;
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), 0);
    let node = place.start("node").await;
    let query = start_query(dir.path(), &[place.address()]).await;
    let proxy = node.url("proxy").await;
    for _ in 0..3 {
        call(&format!("{proxy}/rpc/ethereum"), CALL).await;
    }
    node.signal("STOP");
    // The outage itself, and not a wait for anything.
    tokio::time::sleep(OUTAGE).await;
    node.signal("CONT");
    for _ in 0..3 {
        call(&format!("{proxy}/rpc/ethereum"), CALL).await;
    }
    let sums = "SELECT sum(covered) AS covered, sum(down) AS down, sum(unknown) AS unknown, sum(lost) AS lost \
                FROM coverage('-5m', 'now', '10s')";
    let look = async || {
        let answer = query.sql(sums).await;
        let row = &rows(&answer)[0];
        ["covered", "down", "unknown", "lost"].map(|name| row[name].as_u64().unwrap_or(0))
    };
    eventually("the slices of the pause", async || (look().await[1] >= 2).then_some(())).await;
    // A slice that begins after the pause ends and is closed up to 35 s later.
    let paused = eventually("a slice after the pause", async || {
        let told = look().await;
        (told[0] >= 1).then_some(told)
    })
    .await;
    // Of 35 s at most four slices are touched by no heartbeat; nothing was lost, and nothing is unknown.
    assert!(paused[1] <= 4 && paused[2..] == [0, 0], "{paused:?}");

    node.kill();
    let _again = place.start("node").await;
    let killed = eventually("the tail of the killed boot", async || {
        let told = look().await;
        (told[2] >= 1).then_some(told)
    })
    .await;
    assert!(killed[2] <= 2 && killed[3] == 0, "{killed:?}");
    let url = query.url("query").await;
    let (status, told) = get_json(&format!("{url}/api/v1/coverage?from=-5m&step=1m&table=rollups")).await;
    assert_eq!((status, &rows(&told)[0]["table_name"]), (200, &Value::from("rollups")), "{told}");
    let down: u64 = rows(&told).iter().map(|row| row["down"].as_u64().unwrap()).sum();
    assert!(down >= 2 && told["coverage"]["complete"] == false, "{told}");
    let (status, _) = get_json(&format!("{url}/api/v1/coverage?table=nobody")).await;
    assert_eq!(status, 400);
}
