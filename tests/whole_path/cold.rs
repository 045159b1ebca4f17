//! Cold history: nodes that die, give up their copies and return, and query services that read their past from the bucket,
//! as processes over one folder. What is counted is what the load generator knows to have been acknowledged.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lariat_schema::bucket::{MANIFESTS_DIR, StoreManifest};
use lariat_schema::tables::Table;
use serde_json::Value;

use super::fleet::{COUNT, Place, count_within, load, start_query_with};
use super::harness::{Lariat, client, eventually, free_port, rows, sql_at};

const DEADLINE: Duration = Duration::from_secs(10);
/// Less than the log of a new store alone: every copy of what is uploaded has to go.
const DISK_BUDGET: &str = "10000";

/// Nodes over one bucket.
struct Cold {
    dir: tempfile::TempDir,
    places: Vec<Place>,
    nodes: Vec<Lariat>,
    given: u64,
}

impl Cold {
    /// Nodes that have received something, all of which is in the bucket.
    async fn loaded(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places: Vec<Place> = (0..count).map(|number| Place::new(dir.path(), number)).collect();
        let mut cold = Self { dir, places, nodes: Vec::new(), given: 0 };
        for number in 0..count {
            let node = cold.start(number, &[]).await;
            cold.given += load(&node.url("otlp_grpc").await, number as u64, 5 + 5 * number as u64).await;
            cold.nodes.push(node);
        }
        let loaded = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        for place in &cold.places {
            eventually(&format!("the bucket to have all of {}", place.name()), async || {
                let told = cold.manifests().into_iter().find(|said| said.node_id.as_str() == place.name())?;
                let spans = told.tables.iter().find(|table| table.table == Table::Spans)?;
                (i128::from(spans.cut_unix_nanos) > i128::try_from(loaded).unwrap()).then_some(())
            })
            .await;
        }
        cold
    }

    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn url(&self) -> String {
        format!("file://{}", self.bucket().display())
    }

    async fn start(&self, number: usize, further: &[(&str, &str)]) -> Lariat {
        let url = self.url();
        let mut variables = vec![
            ("LARIAT_COLLECTOR__BUCKET__URL", url.as_str()),
            ("LARIAT_COLLECTOR__BUCKET__UPLOAD_AFTER", "1s"),
            ("LARIAT_COLLECTOR__FLUSH_AGE", "1s"),
            ("OTEL_SDK_DISABLED", "true"),
        ];
        variables.extend(further);
        self.places[number].start_with("collector", &variables).await
    }

    /// A query service over some of the nodes and the bucket.
    async fn query(&self, name: &str, nodes: &[usize], further: &[(&str, &str)]) -> Lariat {
        let nodes: Vec<String> = nodes.iter().map(|number| self.places[*number].address()).collect();
        let url = self.url();
        let mut variables = vec![("LARIAT_QUERY__BUCKET__URL", url.as_str())];
        variables.extend(further);
        start_query_with(&self.dir.path().join(name), &nodes, &variables).await
    }

    fn manifests(&self) -> Vec<StoreManifest> {
        let folder = std::fs::read_dir(self.bucket().join(MANIFESTS_DIR)).into_iter().flatten().flatten();
        let read = |path: &Path| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        folder.filter_map(|entry| read(&entry.path())).collect()
    }
}

/// What coverage says of a node.
fn of<'a>(coverage: &'a Value, name: &str) -> &'a Value {
    let nodes = coverage["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node_id"] == name).unwrap_or_else(|| panic!("no {name} in {coverage}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_killed_nodes_is_in_the_answer_also_of_a_query_service_that_never_met_them() {
    let mut cold = Cold::loaded(2).await;
    let query = cold.query("query", &[0, 1], &[]).await;
    let url = query.url("query").await;
    eventually("both nodes", async || (count_within(&url, DEADLINE).await.1["answered"] == 2).then_some(())).await;
    cold.nodes.remove(1).kill();
    let (found, coverage) = count_within(&url, DEADLINE).await;
    let gone = of(&coverage, &cold.places[1].name());
    assert_eq!(
        (found, &gone["source"], &gone["answered"]),
        (cold.given, &"bucket".into(), &false.into()),
        "{coverage}"
    );
    assert!(gone["missing"].as_array().unwrap().iter().all(|missing| missing["why"] == "unreachable"), "{gone}");
    assert_eq!((&coverage["complete"], &coverage["expected"]), (&false.into(), &2.into()), "{coverage}");

    // This one has an empty directory and the address of the other node only.
    let fresh = cold.query("fresh", &[0], &[]).await;
    let fresh_url = fresh.url("query").await;
    let (found, coverage) = count_within(&fresh_url, DEADLINE).await;
    assert_eq!((found, &coverage["expected"]), (cold.given, &2.into()), "{coverage}");
    let members = sql_at(&fresh_url, "SELECT node_id FROM membership").await;
    assert_eq!(rows(&members).len(), 2, "{members}");
    cold.nodes.remove(0).kill();
    let (found, coverage) = count_within(&fresh_url, DEADLINE).await;
    assert_eq!(found, cold.given, "{coverage}");
    assert!(cold.places.iter().all(|place| of(&coverage, &place.name())["source"] == "bucket"), "{coverage}");

    let _back = cold.start(1, &[]).await;
    eventually("the node's return", async || {
        let (found, coverage) = count_within(&url, DEADLINE).await;
        assert_eq!(found, cold.given, "{coverage}");
        (of(&coverage, &cold.places[1].name())["source"] == "live").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_node_dies_returns_and_gives_up_its_copies_every_answer_is_exact() {
    let mut cold = Cold::loaded(1).await;
    let query = cold.query("query", &[0], &[]).await;
    let url = query.url("query").await;
    let exact = async |what: &str| {
        let (found, coverage) = count_within(&url, DEADLINE).await;
        assert_eq!(found, cold.given, "{what}: {coverage}");
    };
    exact("alive").await;
    let killed = cold.nodes.remove(0);
    tokio::join!(
        async {
            for _ in 0..5 {
                exact("while it dies").await;
            }
        },
        async { tokio::task::spawn_blocking(move || killed.kill()).await.unwrap() }
    );
    let _node = cold.start(0, &[("LARIAT_COLLECTOR__DISK_BUDGET", DISK_BUDGET)]).await;
    eventually("copies given up, and leaves that leave them out", async || {
        exact("while copies go").await;
        let plan = sql_at(&url, &format!("EXPLAIN {COUNT}")).await;
        rows(&plan)[0]["plan"].as_str().unwrap().contains("files_in_bucket=").then_some(())
    })
    .await;
    for _ in 0..3 {
        exact("with nothing on its own disk").await;
    }
    let (_, coverage) = count_within(&url, DEADLINE).await;
    assert_eq!(of(&coverage, &cold.places[0].name())["source"], "live", "{coverage}");
}

/// A figure of a query service.
async fn figure(url: &str, name: &str) -> u64 {
    let text = client().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_query_services_share_what_is_cold_and_one_that_is_paused_or_killed_costs_no_row() {
    let mut cold = Cold::loaded(2).await;
    let ports = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let both = serde_json::to_string(&ports).unwrap();
    let start = async |name: &str, own: &str| {
        cold.query(name, &[0, 1], &[("LARIAT_QUERY__HTTP", own), ("LARIAT_CLUSTER__QUERIES", &both)]).await
    };
    let (query, other) = (start("one", &ports[0]).await, start("two", &ports[1]).await);
    let (url, other_url) = (query.url("query").await, other.url("query").await);
    cold.nodes.drain(..).for_each(Lariat::kill);
    let shares = async || {
        let plan = sql_at(&url, &format!("EXPLAIN {COUNT}")).await;
        rows(&plan)[0]["plan"].as_str().unwrap().contains(&format!("service={other_url}")).then_some(())
    };
    eventually("both in one plan", shares).await;
    let read = "lariat_query_bucket_files_read_total ";
    let before = (figure(&url, read).await, figure(&other_url, read).await);
    let (found, coverage) = count_within(&url, DEADLINE).await;
    assert_eq!(found, cold.given, "{coverage}");
    let after = (figure(&url, read).await, figure(&other_url, read).await);
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");

    other.signal("STOP");
    let (found, coverage) = count_within(&url, DEADLINE).await;
    assert_eq!(found, cold.given, "{coverage}");
    other.signal("CONT");
    eventually("both in one plan again", shares).await;
    other.kill();
    let (found, coverage) = count_within(&url, DEADLINE).await;
    assert_eq!(found, cold.given, "{coverage}");
}
