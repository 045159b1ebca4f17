//! A disk that is full, and one that cannot be written: defined answers, nothing acknowledged lost, and work that goes
//! on when there is room. The disk is a small file system in memory, in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::harness::{Lariat, client, eventually, rows, tool};

/// Size of the disk.
const DISK_BYTES: usize = 16 << 20;
/// What something else holds of it.
const FILLER_BYTES: usize = 10 << 20;

/// A namespace in which `mounted` is a small disk. It ends with this value.
struct SmallDisk {
    holder: Child,
    mounted: PathBuf,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl SmallDisk {
    async fn mount(dir: &Path) -> Option<Self> {
        let mounted = dir.join("disk");
        std::fs::create_dir_all(&mounted).unwrap();
        let script = format!("mount -t tmpfs -o size={DISK_BYTES} tmpfs {} && exec sleep 600", mounted.display());
        let holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut disk = Self { holder, mounted };
        let found = eventually("the small disk", async || {
            if disk.holder.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", disk.holder.id())).unwrap_or_default();
            mounts.contains(&*disk.mounted.to_string_lossy()).then_some(true)
        })
        .await;
        found.then_some(disk)
    }

    /// A path on the disk as it is seen from outside the namespace.
    fn outside(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/{name}", self.holder.id(), self.mounted.display()))
    }

    fn inside(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "-t", &holder, "-U", "--preserve-credentials", "-m"].map(str::to_owned).to_vec()
    }

    fn start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Lariat {
        let by = self.inside();
        Lariat::start_under(&by.iter().map(String::as_str).collect::<Vec<_>>(), arguments, variables)
    }

    async fn collector_and_query(&self, dir: &Path) -> (Lariat, Lariat) {
        let config = dir.join("collector.yaml");
        std::fs::create_dir_all(dir.join("profiles")).unwrap();
        std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
        let text = format!(
            "data_dir: {}/data\nprofiles_dir: {}/profiles\ncollector: {{ otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, node_api: 127.0.0.1:0, flush_age: 1s }}\n",
            self.mounted.display(),
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let collector =
            self.start(&["collector", "--config", &config.display().to_string()], &[("OTEL_SDK_DISABLED", "true")]);
        collector.ready("node_api").await;
        let nodes = format!("[\"{}\"]", collector.url("node_api").await.trim_start_matches("http://"));
        let query = Lariat::start_with(
            &["query", "--data-dir", &dir.join("query").display().to_string()],
            &[("LARIAT_QUERY__HTTP", "127.0.0.1:0"), ("LARIAT_CLUSTER__NODES", &nodes)],
        );
        query.ready("query").await;
        (collector, query)
    }
}

async fn spans(query: &Lariat) -> (u64, u64) {
    let answer =
        query.sql("SELECT count(*) AS n, count(DISTINCT span_id) AS ids FROM spans WHERE service_name = 'checkout'");
    let answer = answer.await;
    let row = &rows(&answer)[0];
    (row["n"].as_u64().unwrap(), row["ids"].as_u64().unwrap())
}

async fn post_log(url: &str, body: &str) -> (u16, Option<String>) {
    let request =
        serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": body}}]}]}]});
    let response = client().post(format!("{url}/v1/logs")).json(&request).send().await.unwrap();
    let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), retry)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_says_when_to_come_back_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path()).await;
    let Some(disk) =
        tool("unshare and nsenter with user namespaces", disk.as_ref().map(|disk| disk.mounted.clone())).and(disk)
    else {
        return;
    };
    std::fs::write(disk.outside("filler"), vec![1; FILLER_BYTES]).unwrap();
    let (collector, query) = disk.collector_and_query(dir.path()).await;
    let http = collector.url("otlp_http").await;
    let ledger = dir.path().join("acknowledged");
    let load = super::clients::start_load(&collector.url("otlp_grpc").await, &ledger);
    let mut sent = 0;
    let refused = eventually("a refusal", async || {
        sent += 1;
        let (status, retry) = post_log(&http, &format!("{sent} {}", "x".repeat(200_000))).await;
        (status != 200).then_some((status, retry))
    })
    .await;
    assert_eq!(refused.0, 503);
    assert!(refused.1.is_some(), "no Retry-After");
    // What is there is still answered for.
    assert!(spans(&query).await.0 > 0);
    std::fs::remove_file(disk.outside("filler")).unwrap();
    eventually("room again", async || (post_log(&http, "after").await.0 == 200).then_some(())).await;
    let acknowledged = super::clients::end_load(load, &ledger);
    assert!(acknowledged.spans > 0);
    let (stored, ids) = spans(&query).await;
    assert!(stored >= acknowledged.spans && stored == ids, "{stored} stored, {} acknowledged", acknowledged.spans);
    drop(query);
    collector.kill();
    let (_collector, query) = disk.collector_and_query(dir.path()).await;
    let (stored, ids) = spans(&query).await;
    assert!(stored >= acknowledged.spans && stored == ids, "{stored} after a crash, {}", acknowledged.spans);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path()).await;
    let Some(disk) =
        tool("unshare and nsenter with user namespaces", disk.as_ref().map(|disk| disk.mounted.clone())).and(disk)
    else {
        return;
    };
    let by = disk.inside();
    let remounted =
        Command::new(&by[0]).args(&by[1..]).args(["mount", "-o", "remount,ro"]).arg(&disk.mounted).status().unwrap();
    assert!(remounted.success());
    let data = disk.mounted.join("data").display().to_string();
    let profiles = dir.path().join("profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    std::fs::write(profiles.join("public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    let mut collector = disk.start(
        &["collector", "--data-dir", &data, "--profiles", &profiles.display().to_string()],
        &[("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0")],
    );
    let status = collector.wait().await;
    assert_eq!(status.code(), Some(1));
    let text = collector.text();
    assert!(text.contains(&data) && text.contains("make it writable"), "{text}");
}
