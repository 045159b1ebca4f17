//! `kill -9` at random moments of a load, of the collector that takes it and of the one that it sends on to, with a bucket
//! behind both: what was acknowledged is there exactly once in every place, and the ledger closes (I-1 to I-3).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lariat_tools::load_otlp::{self, LoadOtlpReport, LoadOtlpSettings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::bucket::{S3, figure, files, python, tables};
use super::harness::{Lariat, eventually, free_port, get_json, rows};

/// Times that something is killed.
const ROUNDS: usize = 5;
/// How long the load goes on: the kills fall into it, whatever the machine.
const LOAD: Duration = Duration::from_secs(20);

/// How long what was queued may take to reach the other side: two debug builds on a busy machine.
const SENT_ON: Duration = Duration::from_secs(180);

/// A collector that can be started again where it was.
struct Site {
    dir: PathBuf,
    port: u16,
    section: String,
    running: Option<Lariat>,
}

impl Site {
    async fn start(dir: &Path, section: String) -> Self {
        std::fs::create_dir_all(dir.join("profiles")).unwrap();
        std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
        let mut site = Self { dir: dir.to_owned(), port: free_port(), section, running: None };
        site.start_again().await;
        site
    }

    fn otlp(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn collector(&self) -> &Lariat {
        self.running.as_ref().expect("it runs between kills")
    }

    fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    async fn start_again(&mut self) {
        let config = self.dir.join("collector.yaml");
        let text = format!(
            "data_dir: {0}/data\nprofiles_dir: {0}/profiles\ncollector:\n  otlp_grpc: 127.0.0.1:{1}\n  otlp_http: 127.0.0.1:0\n  \
             node_api: 127.0.0.1:0\n  flush_age: 1s\n{2}",
            self.dir.display(),
            self.port,
            self.section
        );
        std::fs::write(&config, text).unwrap();
        let variables =
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("OTEL_SDK_DISABLED", "true")];
        let collector = Lariat::start_with(&["collector", "--config", &config.display().to_string()], &variables);
        collector.ready("node_api").await;
        self.running = Some(collector);
    }

    async fn query(&self) -> Lariat {
        let query = Lariat::query_over(&self.dir, self.collector(), &[]).await;
        eventually("the node to be met", async || {
            rows(&query.sql("SELECT count(*) AS n FROM spans").await)[0]["n"].as_u64().filter(|spans| *spans > 0)
        })
        .await;
        query
    }
}

/// A bucket: moto's S3 where it is installed, else a folder, which takes the same way in all but the protocol.
struct Away {
    s3: Option<S3>,
    folder: PathBuf,
}

impl Away {
    async fn open(dir: &Path) -> Self {
        let s3 = match python() {
            Some(python) => Some(S3::start(&python, free_port()).await),
            None => None,
        };
        Self { s3, folder: dir.join("bucket") }
    }

    fn section(&self, below: &str) -> String {
        match &self.s3 {
            Some(s3) => format!(
                "  bucket: {{ url: \"s3://lariat/{below}\", endpoint: \"{}\", region: us-east-1, upload_after: 1s }}\n",
                s3.url
            ),
            None => {
                let url = format!("file://{}", self.folder.join(below).display());
                format!("  bucket: {{ url: \"{url}\", upload_after: 1s }}\n")
            }
        }
    }

    /// What the one store below this path says that it has there.
    async fn said(&self, below: &str) -> Option<Value> {
        let bytes = match &self.s3 {
            Some(s3) => {
                let of_store = |key: &String| key.starts_with(&format!("{below}/manifests/"));
                let key = s3.keys().await.into_iter().find(of_store)?;
                s3.get(&format!("/{key}")).await
            }
            None => {
                let mut manifests = std::fs::read_dir(self.folder.join(below).join("manifests")).ok()?;
                std::fs::read(manifests.next()?.ok()?.path()).ok()?
            }
        };
        serde_json::from_slice(&bytes).ok()
    }
}

/// Rows and distinct ids of the load's spans.
async fn spans(query: &Lariat) -> (u64, u64) {
    let sql = "SELECT count(*) AS n, count(DISTINCT span_id) AS ids FROM spans WHERE service_name = 'checkout'";
    let answer = query.sql(sql).await;
    let row = &rows(&answer)[0];
    (row["n"].as_u64().unwrap(), row["ids"].as_u64().unwrap())
}

fn start_load(url: &str, ledger: &Path) -> tokio::task::JoinHandle<LoadOtlpReport> {
    let mut settings = LoadOtlpSettings::new(url, 1_500.0);
    settings.spans_per_request = 20;
    settings.duration = LOAD;
    settings.in_flight = 16;
    settings.ledger = Some(ledger.to_owned());
    tokio::spawn(async move { load_otlp::run(settings).await.expect("the ledger can be written") })
}

/// Waits until everything that was queued was taken by the other side, and nothing was given up.
async fn sent_on(site: &Site) {
    let url = format!("{}/v1/info", site.collector().url("node_api").await);
    let deadline = Instant::now() + SENT_ON;
    loop {
        let (_, info) = get_json(&url).await;
        assert_eq!(info["forward"]["dropped_requests"], 0, "{info}");
        if info["forward"]["waiting_requests"] == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "not within {SENT_ON:?}: {info}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a store holds of the load, in the store and in its bucket, is what was acknowledged, once.
async fn holds(site: &Site, away: &Away, below: &str, acknowledged: u64) {
    let query = site.query().await;
    assert_eq!(spans(&query).await, (acknowledged, acknowledged), "each once, and no other");
    assert_eq!(figure(site.collector(), "ledger_unbalanced").await, 0);
    let sql = "SELECT time, received, received - stored - sampled_out - deduplicated - rejected - dropped - in_flight AS open \
               FROM ledger ORDER BY time DESC LIMIT 20";
    eventually("a row of the ledger after the last span", async || {
        let answer = query.sql(sql).await;
        let newest = || rows(&answer).iter().filter(|row| row["time"] == rows(&answer)[0]["time"]);
        assert!(newest().all(|row| row["open"] == 0), "{answer}");
        (newest().filter_map(|row| row["received"].as_u64()).sum::<u64>() >= acknowledged).then_some(())
    })
    .await;
    eventually(&format!("every span below {below} in the bucket"), async || {
        let said = away.said(below).await?;
        let of_spans = tables(&said).find(|table| table["table"] == "spans")?;
        let named: u64 = files(of_spans).filter_map(|file| file["rows"].as_u64()).sum();
        assert!(named <= acknowledged, "{named} rows in the bucket, {acknowledged} acknowledged");
        (named == acknowledged).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_with_forwarding_and_a_bucket_everything_acknowledged_is_there_exactly_once() {
    let seed = std::env::var("LARIAT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("LARIAT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let away = Away::open(dir.path()).await;
    let mut far = Site::start(&dir.path().join("far"), away.section("far")).await;
    let forward = format!("{}  forward: {{ endpoint: \"{}\" }}\n", away.section("near"), far.otlp());
    let mut near = Site::start(&dir.path().join("near"), forward).await;
    let ledger = dir.path().join("acknowledged");
    let load = start_load(&near.otlp(), &ledger);
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let (kill_near, kill_far) =
            [(true, false), (true, false), (true, true), (false, true)][random.random_range(0..4)];
        println!("round {round}: near {kill_near}, far {kill_far}");
        if kill_far {
            far.kill();
        }
        if kill_near {
            near.kill();
        }
        if kill_near {
            near.start_again().await;
        }
        if kill_far {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
            far.start_again().await;
        }
    }
    let report = load.await.unwrap();
    assert_eq!((report.refused, report.given_up), (0, 0), "{report:?}");
    let acknowledged = report.spans_acknowledged;
    assert!(acknowledged > 1_000, "{report:?}");
    let written = load_otlp::ledger::read(&ledger).unwrap();
    assert_eq!(written.iter().map(|line| u64::from(line.spans)).sum::<u64>(), acknowledged);
    holds(&near, &away, "near", acknowledged).await;
    sent_on(&near).await;
    holds(&far, &away, "far", acknowledged).await;
    println!("{acknowledged} spans after {} retries", report.retries);
}
