//! What the bucket holds of every store, as the stores themselves have told: a value that does not change while a query
//! is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use lariat_schema::bucket::{FileInBucket, StoreManifest, TableInBucket, VERSION};
use lariat_schema::coverage::Sampling;
use lariat_schema::ids::StoreId;
use lariat_schema::layout::named_file;
use lariat_schema::node_api::TableRange;
use lariat_schema::tables::Table;

/// The manifests of all stores.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Catalog(BTreeMap<StoreId, Arc<StoreManifest>>);

/// Why what lies in a manifest's place is none. The store's past is then as good as not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadManifest {
    #[error("it is no manifest: {0}")]
    Content(#[from] serde_json::Error),
    #[error("its version is {0}, and this program reads up to {VERSION}: update the query service")]
    Version(u32),
    #[error("it is of store {0}")]
    Store(StoreId),
    #[error("it names `{0}`, which is no file of its store and table")]
    File(String),
}

/// Reads a manifest, and believes it only where every file that it names is one of the store.
pub(crate) fn read(store: StoreId, bytes: &[u8]) -> Result<StoreManifest, BadManifest> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(bytes)?;
    if version > VERSION {
        return Err(BadManifest::Version(version));
    }
    let said: StoreManifest = serde_json::from_slice(bytes)?;
    if said.store_id != store {
        return Err(BadManifest::Store(said.store_id));
    }
    for table in &said.tables {
        let foreign = |file: &&FileInBucket| named_file(table.table, &file.path).is_none_or(|(of, _)| of != store);
        if let Some(file) = table.files.iter().find(foreign) {
            return Err(BadManifest::File(file.path.clone()));
        }
    }
    Ok(said)
}

impl Catalog {
    pub(crate) fn insert(&mut self, said: Arc<StoreManifest>) {
        self.0.insert(said.store_id, said);
    }

    pub(crate) fn remove(&mut self, store: StoreId) {
        self.0.remove(&store);
    }

    pub(crate) fn get(&self, store: StoreId) -> Option<&Arc<StoreManifest>> {
        self.0.get(&store)
    }

    pub(crate) fn stores(&self) -> impl Iterator<Item = &Arc<StoreManifest>> {
        self.0.values()
    }

    pub(crate) fn files(&self) -> usize {
        self.stores().flat_map(|said| &said.tables).map(|table| table.files.len()).sum()
    }
}

/// What a store says of one table.
pub(crate) fn table(said: &StoreManifest, table: Table) -> Option<&TableInBucket> {
    said.tables.iter().find(|of| of.table == table)
}

/// What each table of a store holds in the bucket, as a node tells of itself.
pub(crate) fn ranges(said: &StoreManifest) -> Vec<TableRange> {
    let of_table = |table: &TableInBucket| TableRange {
        table: table.table,
        from_unix_nanos: table.files.iter().map(|file| file.times.from_unix_nanos).min(),
        to_unix_nanos: table.files.iter().map(|file| file.times.to_unix_nanos.saturating_sub(1)).max(),
        rows: table.files.iter().map(|file| file.rows).sum(),
        gone: table.gone.clone(),
    };
    said.tables.iter().map(of_table).collect()
}

/// What sampling did to the rows of these tables, of files as a whole; a file that does not say is of unknown weights.
pub(crate) fn sampling(said: &StoreManifest, tables: &[Table]) -> Sampling {
    let weighted = |table: &&TableInBucket| {
        tables.contains(&table.table) && table.table.schema().field_with_name("adjusted_count").is_ok()
    };
    let (mut rows, mut unknown, mut heaviest) = (0_u64, 0_u64, 1.0_f64);
    for file in said.tables.iter().filter(weighted).flat_map(|table| &table.files) {
        rows = rows.saturating_add(file.rows);
        unknown = unknown.saturating_add(file.weights.map_or(file.rows, |weights| weights.unknown));
        heaviest = heaviest.max(file.weights.map_or(1.0, |weights| weights.heaviest));
    }
    #[allow(clippy::cast_precision_loss, reason = "a share of a row count")]
    let unknown_weight_share = if rows == 0 { 0.0 } else { unknown as f64 / rows as f64 };
    Sampling { weighted: heaviest > 1.0, min_probability: 1.0 / heaviest, unknown_weight_share }
}

#[cfg(test)]
mod tests {
    use lariat_schema::bucket::FileWeights;
    use lariat_schema::layout::file_path;
    use lariat_schema::time_range::TimeRange;

    use super::*;

    fn said(store: StoreId, paths: &[String]) -> StoreManifest {
        let file = |path: &String| FileInBucket {
            path: path.clone(),
            bytes: 10,
            rows: 4,
            crc32: 0,
            times: TimeRange::new(100, 200),
            commits: TimeRange::new(110, 210),
            only_here: false,
            weights: Some(FileWeights { heaviest: 20.0, unknown: 1 }),
        };
        StoreManifest {
            version: VERSION,
            store_id: store,
            node_id: "lariat@a".into(),
            region: "local".into(),
            written_unix_nanos: 1_000,
            boots: Vec::new(),
            tables: vec![TableInBucket {
                table: Table::Spans,
                cut_unix_nanos: 300,
                gone: Vec::new(),
                files: paths.iter().map(file).collect(),
            }],
        }
    }

    #[test]
    fn a_manifest_is_believed_only_as_a_whole_and_of_its_own_store() {
        let (store, other) = (StoreId(uuid::Uuid::from_u128(1)), StoreId(uuid::Uuid::from_u128(2)));
        let good = said(store, &[file_path(Table::Spans, store, 150, 7)]);
        assert_eq!(read(store, &serde_json::to_vec(&good).unwrap()).unwrap(), good);
        assert!(matches!(read(other, &serde_json::to_vec(&good).unwrap()), Err(BadManifest::Store(_))));
        for path in [file_path(Table::Spans, other, 150, 7), file_path(Table::Logs, store, 150, 7), "../x".to_owned()] {
            let bad = said(store, &[path]);
            assert!(matches!(read(store, &serde_json::to_vec(&bad).unwrap()), Err(BadManifest::File(_))));
        }
        let newer = br#"{"version": 2, "something": "else"}"#;
        assert!(read(store, newer).unwrap_err().to_string().contains("version is 2"));
        assert!(matches!(read(store, b"{"), Err(BadManifest::Content(_))));
    }

    #[test]
    fn what_a_store_has_there_is_told_as_its_node_would_tell_it() {
        let store = StoreId(uuid::Uuid::from_u128(1));
        let mut said = said(store, &[file_path(Table::Spans, store, 150, 7), file_path(Table::Spans, store, 150, 8)]);
        let range = &ranges(&said)[0];
        assert_eq!((range.from_unix_nanos, range.to_unix_nanos, range.rows), (Some(100), Some(199), 8));
        let told = sampling(&said, &[Table::Spans]);
        assert_eq!((told.weighted, told.min_probability, told.unknown_weight_share), (true, 0.05, 0.25));
        assert_eq!(sampling(&said, &[Table::Logs]), Sampling::default());
        said.tables[0].files[0].weights = None;
        assert_eq!(sampling(&said, &[Table::Spans]).unknown_weight_share, 0.625);
    }
}
