//! What a row costs at rest, by column. `LARIAT_SIZES_OF=<folder of Parquet files of spans> cargo test -p lariat-collector
//! bytes_per_row -- --nocapture` writes these rows as one merged file and prints what docs/data.md shows.
//!
//! Without a folder it is a made-up minute of a busy proxy, the same at every run: a column that loses its encoding, or a
//! record that grows, is noticed without a measurement.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parquet::basic::Encoding;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// Decisions of the made-up minute, each with an attempt.
const DECISIONS: u64 = 3_600;
/// What each may take at most, indexes and filters included: it takes 118.
const BYTES_PER_DECISION: u64 = 125;

#[test]
fn bytes_per_row_by_column() {
    let folder = tempfile::tempdir().unwrap();
    let given = std::env::var_os("LARIAT_SIZES_OF");
    let batches = match &given {
        Some(given) => files_below(std::path::Path::new(&given)).iter().flat_map(|path| read(path)).collect(),
        None => vec![crate::fixtures::batch(Table::Spans, &Minute::default().rows())],
    };
    let target = write::Target {
        parquet: folder.path().to_owned(),
        store_id: StoreId(uuid::Uuid::nil()),
        steps: Steps::default(),
    };
    let files = target.write(Table::Spans, &batches, &|| 1, Stage::Merge).unwrap();
    let decisions: u64 = batches.iter().map(crate::live::count_decisions).sum();
    let (mut columns, mut bytes, mut rows) = (BTreeMap::new(), 0, 0);
    for file in &files {
        (bytes, rows) = (bytes + file.bytes, rows + file.rows);
        let reader = SerializedFileReader::new(File::open(folder.path().join(&file.path)).unwrap()).unwrap();
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let size: &mut (u64, Vec<Encoding>) = columns.entry(column.column_path().string()).or_default();
            size.0 += u64::try_from(column.compressed_size()).unwrap();
            size.1.extend(column.encodings());
        }
    }
    let mut sizes: Vec<_> = columns.iter().map(|(name, (size, _))| (*size, name.clone())).collect();
    sizes.sort_by(|a, b| b.cmp(a));
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let per = |size: u64| size as f64 / if decisions == 0 { rows } else { decisions } as f64;
    println!("{decisions} decisions, {rows} rows, {:.1} bytes per decision (per row where there is none)", per(bytes));
    for (size, name) in &sizes {
        println!("{:8.2} {name}", per(*size));
    }
    assert!(sizes.iter().map(|(size, _)| size).sum::<u64>() <= bytes);
    for (name, encoding) in [
        ("time", Encoding::DELTA_BINARY_PACKED),
        ("span_id", Encoding::DELTA_BYTE_ARRAY),
        ("eligible.list.item.score", Encoding::BYTE_STREAM_SPLIT),
    ] {
        assert!(columns[name].1.contains(&encoding), "{name} in {:?}", columns[name].1);
    }
    if given.is_none() {
        assert_eq!(decisions, DECISIONS);
        assert!(columns["decision_seq"].0 < decisions && columns["span_id"].0 < 4 * decisions, "numbers in order");
        assert!(bytes <= BYTES_PER_DECISION * decisions, "{:.1} bytes per decision", per(bytes));
    }
}

const METHODS: [&str; 12] = [
    "eth_blockNumber",
    "eth_call",
    "eth_getBalance",
    "eth_getLogs",
    "eth_getTransactionReceipt",
    "eth_chainId",
    "eth_gasPrice",
    "eth_getBlockByNumber",
    "eth_estimateGas",
    "eth_getCode",
    "eth_getTransactionCount",
    "eth_feeHistory",
];
const STRATEGIES: [&str; 4] = ["load_balanced", "fastest", "load_balanced", "latency_weighted"];
const PROVIDERS: [(&str, u32); 4] = [("northwind", 9), ("harbor", 24), ("basalt", 41), ("lumen", 33)];
const TRANSPORTS: [&str; 2] = ["http", "ws"];

/// Draws that are the same at every run, and latencies as they are averaged from call to call.
#[derive(Default)]
struct Minute {
    drawn: u64,
    latencies_ms: BTreeMap<(u64, usize), f64>,
}

impl Minute {
    fn rows(&mut self) -> Vec<Value> {
        (1..=DECISIONS).flat_map(|number| self.decision(number)).collect()
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        xxh3_64(&self.drawn.to_be_bytes())
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    fn digest(&mut self) -> String {
        format!("{:016x}", self.draw())
    }

    /// A decision and its attempt, as a proxy numbers and a collector commits them.
    fn decision(&mut self, number: u64) -> [Value; 2] {
        let time = START + i64::try_from(number * 16_666_667 + self.below(1_000_000)).unwrap();
        let milliseconds = u128::try_from(time / 1_000_000).unwrap();
        let drawn = (u128::from(self.draw()) << 64 | u128::from(self.draw())) >> 48;
        let request_id = format!("{:032x}", milliseconds << 80 | drawn & !(0xf << 76 | 3 << 62) | 7 << 76 | 2 << 62);
        let method = self.below(12);
        let strategy = STRATEGIES[usize::try_from(self.below(4)).unwrap()];
        let (selection_ns, overhead_ns) = (6_000 + self.below(40_000), 60_000 + self.below(400_000));
        let eligible = self.candidates(method, strategy);
        let chosen = &eligible[0];
        let provider_ns = self.answer(method, chosen);
        let span = 0x4d1c_88a5_903b_11e7_u64 + (number << 5);
        let named = json!({
            "observed_time": START + i64::try_from(number / 12).unwrap() * 200_000_000, "name": METHODS[usize::try_from(method).unwrap()],
            "method": METHODS[usize::try_from(method).unwrap()], "service_name": "lariat-proxy", "node_id": "lariat@127.0.0.1",
            "region": "us-east", "boot_id": "0192f0c4-8a5b-4c3d-9e1f-0123456789ab", "trace_id": request_id,
            "request_id": request_id, "batch_index": 0, "profile": "public", "chain": "ethereum", "chain_id": 1,
            "strategy": strategy, "origin": "client", "provider_id": chosen["provider_id"], "transport": chosen["transport"],
            "instance_id": format!("1:127.0.0.1:{}", chosen["provider_id"]), "keep_reason": "rate",
        });
        let mut server = crate::fixtures::span(0, span, None, named.clone());
        let mut client = crate::fixtures::span(0, span + 1, Some(span), named);
        let bytes_out = 40 + self.below(8) * self.below(300);
        crate::fixtures::merge(
            &mut server,
            json!({
                "time": time, "duration_ns": selection_ns + overhead_ns + provider_ns, "span_kind": "server", "batch_size": 1,
                "decision_seq": number, "client_transport": "http", "answered_by": "provider", "result": "success",
                "attempts": 1, "failovers": 0, "selection_ns": selection_ns, "provider_ns": provider_ns, "overhead_ns": overhead_ns,
                "jsonrpc_id": number.to_string(), "bytes_in": 80 + self.below(60), "bytes_out": bytes_out, "billable_units": 1.0,
                "head_lag_blocks": 0, "params_digest": self.digest(), "response_digest": self.digest(),
                "policy_hash": "5f0c1a77e2d94b36", "eligible": eligible, "excluded": [], "fail_open": false, "missing_attempts": 0,
                "attributes": {"jsonrpc.protocol.version": "2.0", "lariat.snapshot": (number * 5 / 6).to_string(),
                    "otel.span.parent.origin": "remote", "rpc.system.name": "jsonrpc"},
            }),
        );
        crate::fixtures::merge(
            &mut client,
            json!({
                "time": time + i64::try_from(selection_ns + overhead_ns / 3).unwrap(), "duration_ns": provider_ns - self.below(9_000),
                "span_kind": "client", "ordinal": 1, "kind": "primary", "outcome": "success", "circuit_state": "closed",
                "circuit_epoch": 1, "dispatched": "dispatched", "http_status": 200, "server_address": "127.0.0.1",
                "attributes": {"jsonrpc.protocol.version": "2.0", "rpc.system.name": "jsonrpc", "server.port": "39301"},
            }),
        );
        [server, client]
    }

    /// Six of eight channels in the order of their scores, which have the bits that a proxy tells.
    fn candidates(&mut self, method: u64, strategy: &str) -> Vec<Value> {
        let mut ranked = Vec::new();
        for channel in 0..8_usize {
            let (provider, usual_ms) = PROVIDERS[channel / 2];
            let latency_ms = *self.latencies_ms.entry((method, channel)).or_insert_with(|| f64::from(usual_ms));
            let mut inputs = String::new();
            write!(
                inputs,
                "priority={},latency_ms={},prior_ms={usual_ms},qualified=1",
                channel / 2 + 1,
                three_digits(latency_ms)
            )
            .unwrap();
            let drawn = f64::from(u32::try_from(self.below(65_536)).unwrap()) / 65_536.0;
            let score = match strategy {
                "fastest" => told(three_digits(latency_ms)),
                "latency_weighted" => told(-(1.0 - drawn).ln() * latency_ms.powi(3)),
                _ => drawn,
            };
            let probability = match strategy {
                "fastest" => 0.0,
                "latency_weighted" => told(1.0 / (6.0 + latency_ms / 1e3)),
                _ => 0.125,
            };
            if channel == 0 || self.below(4) > 0 {
                ranked.push((
                    score,
                    json!({"selection": 1, "provider_id": provider, "transport": TRANSPORTS[channel % 2],
                    "score": score, "probability": probability, "inputs": inputs}),
                ));
            }
        }
        ranked.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let mut rows: Vec<Value> = ranked.into_iter().map(|(_, row)| row).collect();
        for (rank, row) in (1..).zip(&mut rows) {
            row["rank"] = json!(rank);
        }
        rows
    }
    /// How long the provider takes, which moves its average.
    fn answer(&mut self, method: u64, chosen: &Value) -> u64 {
        let channel =
            (0..8).find(|at| chosen["provider_id"] == PROVIDERS[at / 2].0 && chosen["transport"] == TRANSPORTS[at % 2]);
        let channel = channel.unwrap();
        let usual_ns = u64::from(PROVIDERS[channel / 2].1) * 1_000_000;
        let took_ns = usual_ns / 2 + self.below(usual_ns);
        let average_ms = self.latencies_ms.get_mut(&(method, channel)).unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a latency")]
        let took_ms = took_ns as f64 / 1e6;
        *average_ms += (took_ms - *average_ms) / 8.0;
        took_ns
    }
}

fn three_digits(latency_ms: f64) -> f64 {
    if latency_ms < 10.0 { (latency_ms * 100.0).round() / 100.0 } else { (latency_ms * 10.0).round() / 10.0 }
}

/// Sixteen significant bits.
fn told(number: f64) -> f64 {
    f64::from_bits(number.to_bits() >> 37 << 37)
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found
}
