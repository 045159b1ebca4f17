//! Far more than a collector can take: its memory stays within what is stated, what it puts off is told and counted
//! exactly, and what it acknowledged is there, once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array as _, FixedSizeBinaryArray};
use lariat_tools::load_otlp::template::Content;
use lariat_tools::load_otlp::{self, LoadOtlpSettings};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::harness::{Lariat, client, eventually};

/// The process before anybody sends: its code, threads and tables. Measured: 73 MiB unoptimised, 45 optimised, most of it
/// pages of the binary.
const BASE_BYTES: u64 = 96 << 20;
/// From the first byte to the log: 32 MiB under way, 32 MiB of the filter of keys, and keys, verdicts and waiting spans.
const RECEIVE_TO_LOG_BYTES: u64 = 128 << 20;
/// Rows that no file has yet, those being sealed included.
const HOT_BYTES: u64 = 64 << 20;
/// What sealing takes beside them: a column in the order of its file, and the columns that are encoded.
const SEALING_BYTES: u64 = 48 << 20;
/// What merging files takes: batches of its inputs, and a row group.
const MERGING_BYTES: u64 = 96 << 20;
/// What all of it may take.
const BOUND_BYTES: u64 = BASE_BYTES + RECEIVE_TO_LOG_BYTES + HOT_BYTES + SEALING_BYTES + MERGING_BYTES;

/// Connections that each send the next request as soon as the last one is answered, and again when they are put off:
/// together they offer more than ten times what an unoptimised collector takes.
const SENDERS: usize = 48;
const SPANS_PER_REQUEST: u32 = 1_000;
const REQUESTS: u64 = 72;

async fn collector(dir: &Path) -> Lariat {
    let config = dir.join("collector.yaml");
    let text = format!(
        "data_dir: {}\nprofiles_dir: {}\ncollector: {{ otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, node_api: 127.0.0.1:0, flush_age: 2s }}\n",
        dir.join("data").display(),
        dir.join("profiles").display(),
    );
    std::fs::create_dir_all(dir.join("profiles")).unwrap();
    std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    std::fs::write(&config, text).unwrap();
    let collector =
        Lariat::start_with(&["collector", "--config", &config.display().to_string()], &[("OTEL_SDK_DISABLED", "true")]);
    collector.ready("node_api").await;
    collector
}

/// A number of `/metrics`.
async fn metric(collector: &Lariat, name: &str) -> u64 {
    let url = collector.url("node_api").await;
    let text = client().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// The most memory that a process ever had in use.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Rows of a table's files, and how many of their span ids differ.
fn stored(folder: &Path) -> (u64, usize) {
    let (mut rows, mut ids) = (0, HashSet::new());
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
            let mask = ProjectionMask::columns(builder.parquet_schema(), ["span_id"]);
            for batch in builder.with_projection(mask).build().unwrap() {
                let batch = batch.unwrap();
                let found: &FixedSizeBinaryArray = batch.column(0).as_any().downcast_ref().unwrap();
                rows += u64::try_from(found.len()).unwrap();
                ids.extend((0..found.len()).map(|row| found.value(row).to_vec()));
            }
        }
    }
    (rows, ids.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_ten_times_what_it_takes_memory_is_bounded_refusals_are_exact_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = collector(dir.path()).await;
    let pid = collector.pid();
    let base = peak_bytes(pid);
    let mut settings = LoadOtlpSettings::new(collector.url("otlp_grpc").await, 0.0);
    settings.spans.content = Content::Decisions;
    settings.spans_per_request = SPANS_PER_REQUEST;
    settings.spans_per_second = None;
    settings.in_flight = SENDERS;
    settings.requests_max = Some(REQUESTS);
    settings.duration = Duration::from_secs(600);
    settings.timeout = Duration::from_secs(120);
    settings.give_up = Duration::from_secs(600);
    let report = load_otlp::run(settings).await.unwrap();

    let peak = peak_bytes(pid);
    println!("{} MiB at rest, {} MiB at most of {}; {report:?}", base >> 20, peak >> 20, BOUND_BYTES >> 20);
    assert!(peak < BOUND_BYTES, "{peak} bytes were in use");
    assert!(base < BASE_BYTES, "{base} bytes before anybody sent");
    let held = metric(&collector, "lariat_collector_receive_to_log_peak_bytes").await;
    println!("{} MiB from the first byte to the log at most of {}", held >> 20, RECEIVE_TO_LOG_BYTES >> 20);
    assert!(held <= RECEIVE_TO_LOG_BYTES, "{held} bytes between the first byte and the log");
    // What the process had in use and nobody accounts for would be missing here.
    assert!(
        peak - base <= held + HOT_BYTES + SEALING_BYTES + MERGING_BYTES,
        "{peak} bytes in use, {held} accounted for"
    );
    assert!(report.put_off > 0, "it was never too much: {report:?}");
    assert_eq!(
        (report.refused, report.given_up, report.put_off_untimed, report.unanswered),
        (0, 0, 0, 0),
        "{report:?}"
    );
    assert_eq!(metric(&collector, "lariat_receive_refused_requests_total").await, report.put_off);
    assert_eq!(metric(&collector, "lariat_receive_acknowledged_requests_total").await, report.acknowledged);
    assert_eq!(report.acknowledged, REQUESTS);

    eventually("all rows are sealed", async || {
        (metric(&collector, "lariat_collector_waiting_spans").await == 0).then_some(())
    })
    .await;
    collector.signal("TERM");
    let status = collector.wait().await;
    assert!(status.success(), "{}", collector.text());
    let spans = report.spans_acknowledged;
    assert_eq!(stored(&dir.path().join("data/parquet/spans")), (spans, usize::try_from(spans).unwrap()));
}
