//! What sampling did to the rows that a query may read: the heaviest weight and the rows without one, from hot batches
//! directly and from sealed files by their footers. A footer is read once per file; the figures are of whole files, so
//! a query over a part of them is told of the worst weight among its neighbours, never of a better one than its own.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, Float64Array, RecordBatch};
use lariat_schema::coverage::Sampling;
use parking_lot::Mutex;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;

use crate::store::{SealedFile, Snapshot};

/// The column of weights.
const COLUMN: &str = "adjusted_count";

/// Files whose figures are remembered: beyond it they are read anew, which costs a footer each.
const MAX_FILES: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Weights {
    rows: u64,
    unknown: u64,
    heaviest: f64,
}

impl Weights {
    const NONE: Self = Self { rows: 0, unknown: 0, heaviest: 1.0 };

    fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            unknown: self.unknown + other.unknown,
            heaviest: self.heaviest.max(other.heaviest),
        }
    }
}

/// The figures of files that were seen before.
#[derive(Debug, Default)]
pub(crate) struct FileWeights {
    known: Mutex<HashMap<PathBuf, Weights>>,
}

impl FileWeights {
    /// What sampling did to the rows of these snapshots. Reads footers: not for an async thread.
    pub(crate) fn sampling(&self, snapshots: &[Snapshot]) -> Sampling {
        let weighted = |snapshot: &&Snapshot| snapshot.table.schema().field_with_name(COLUMN).is_ok();
        let mut sum = Weights::NONE;
        for snapshot in snapshots.iter().filter(weighted) {
            sum = snapshot.batches.iter().map(of_batch).fold(sum, Weights::and);
            sum = snapshot.files.iter().map(|file| self.of_file(file)).fold(sum, Weights::and);
        }
        #[allow(clippy::cast_precision_loss, reason = "a share of a row count")]
        let unknown_weight_share = if sum.rows == 0 { 0.0 } else { sum.unknown as f64 / sum.rows as f64 };
        Sampling { weighted: sum.heaviest > 1.0, min_probability: 1.0 / sum.heaviest, unknown_weight_share }
    }

    fn of_file(&self, file: &SealedFile) -> Weights {
        if let Some(known) = file.weights {
            return Weights { rows: file.rows, unknown: known.unknown, heaviest: known.heaviest };
        }
        if file.only_in_bucket {
            // Not worth a journey, and not to be called exact either.
            return Weights { rows: file.rows, unknown: file.rows, heaviest: 1.0 };
        }
        let path = &file.path;
        if let Some(weights) = self.known.lock().get(path.as_path()) {
            return *weights;
        }
        // A file that cannot be read is the scan's to report: it fails there, with the reason.
        let weights = footer(path).unwrap_or(Weights::NONE);
        let mut known = self.known.lock();
        if known.len() >= MAX_FILES {
            known.clear();
        }
        known.insert(path.clone(), weights);
        weights
    }
}

fn of_batch(batch: &RecordBatch) -> Weights {
    let column = batch.column_by_name(COLUMN).and_then(|column| column.as_any().downcast_ref::<Float64Array>());
    let Some(weights) = column else { return Weights::NONE };
    Weights {
        rows: weights.len() as u64,
        unknown: weights.null_count() as u64,
        heaviest: weights.iter().flatten().fold(1.0, f64::max),
    }
}

fn footer(path: &Path) -> Option<Weights> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    let mut sum = Weights::NONE;
    for group in reader.metadata().row_groups() {
        let column = group.columns().iter().find(|column| column.column_path().parts() == [COLUMN])?;
        let Some(Statistics::Double(statistics)) = column.statistics() else { continue };
        sum = sum.and(Weights {
            rows: u64::try_from(group.num_rows()).unwrap_or(0),
            unknown: statistics.null_count_opt().unwrap_or(0),
            heaviest: statistics.max_opt().copied().unwrap_or(1.0),
        });
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use lariat_schema::tables::Table;
    use lariat_schema::time_range::TimeRange;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn batch(weights: Vec<Option<f64>>) -> RecordBatch {
        RecordBatch::try_from_iter([(COLUMN, Arc::new(Float64Array::from(weights)) as ArrayRef)]).unwrap()
    }

    #[test]
    fn the_heaviest_weight_and_the_unknown_ones_are_found_in_files_and_in_hot_batches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.parquet");
        let sealed = batch(vec![Some(1.0), Some(20.0), None]);
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), sealed.schema(), None).unwrap();
        writer.write(&sealed).unwrap();
        writer.close().unwrap();
        let file = SealedFile {
            path,
            bytes: 1,
            rows: 3,
            times: TimeRange::new(0, 1),
            only_in_bucket: false,
            weights: None,
            request_ids: None,
        };
        let snapshot = Snapshot {
            table: Table::Spans,
            files: vec![Arc::new(file)],
            cells: Vec::new(),
            batches: vec![batch(vec![Some(4.0)])],
            watermark_unix_nanos: 0,
        };
        let sampling = FileWeights::default().sampling(&[snapshot]);
        assert_eq!(sampling, Sampling { weighted: true, min_probability: 0.05, unknown_weight_share: 0.25 });
    }
}
