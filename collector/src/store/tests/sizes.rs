//! What a row costs at rest, by column. `LARIAT_SIZES_OF=<folder of Parquet files of spans> cargo test -p lariat-collector
//! bytes_per_row -- --nocapture` writes these rows as one final file and prints what docs/data.md shows.

use parquet::basic::Encoding;

use super::*;
use crate::store::steps::Steps;

#[test]
fn bytes_per_row_by_column() {
    let folder = tempfile::tempdir().unwrap();
    let batches = match std::env::var_os("LARIAT_SIZES_OF") {
        Some(given) => files_below(std::path::Path::new(&given)).iter().flat_map(|path| read(path)).collect(),
        None => vec![crate::fixtures::batch(Table::Spans, &made(2_000))],
    };
    let target = write::Target {
        parquet: folder.path().to_owned(),
        store_id: StoreId(uuid::Uuid::nil()),
        steps: Steps::default(),
    };
    let files = target.write(Table::Spans, &batches, &|| 1).unwrap();
    let decisions: usize = batches.iter().map(crate::live::count_decisions).map(|n| usize::try_from(n).unwrap()).sum();
    let (mut columns, mut bytes, mut rows) = (std::collections::BTreeMap::new(), 0, 0);
    for file in &files {
        (bytes, rows) = (bytes + file.bytes, rows + file.rows);
        let reader = SerializedFileReader::new(File::open(folder.path().join(&file.path)).unwrap()).unwrap();
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let size: &mut (i64, Vec<Encoding>) = columns.entry(column.column_path().string()).or_default();
            size.0 += column.compressed_size();
            size.1.extend(column.encodings());
        }
    }
    let mut sizes: Vec<_> = columns.iter().map(|(name, (size, _))| (*size, name.clone())).collect();
    sizes.sort_by(|a, b| b.cmp(a));
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let per = |size: u64| size as f64 / decisions as f64;
    println!("{decisions} decisions, {rows} rows, {:.1} bytes per decision with indexes and filters", per(bytes));
    for (size, name) in &sizes {
        println!("{:8.2} {name}", per(u64::try_from(*size).unwrap()));
    }
    let sum: i64 = sizes.iter().map(|(size, _)| size).sum();
    assert!(u64::try_from(sum).unwrap() <= bytes);
    assert!(columns["time"].1.contains(&Encoding::DELTA_BINARY_PACKED));
    assert!(columns["decision_seq"].0 < columns["span_id"].0 / 4, "numbers in order cost next to nothing");
}

fn made(count: u128) -> Vec<serde_json::Value> {
    (1..=count)
        .map(|n| {
            let time = START + i64::try_from(n * 1_013 % 50_000).unwrap() * 1_000_000;
            let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let mut row = decision(n, json!({"time": time, "decision_seq": u64::try_from(n).unwrap()}));
            row["span_id"] = json!(format!("{:016x}", u64::try_from(spread >> 64).unwrap()));
            row["duration_ns"] = json!(u64::try_from(spread % 90_000_000).unwrap());
            row
        })
        .collect()
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
