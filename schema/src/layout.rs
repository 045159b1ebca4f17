//! Where files lie below a store's data directory.
//!
//! `parquet/<table>/date=YYYY-MM-DD/hour=HH/store=<store_id>/<sequence>.parquet`: hive-style keys, so that DuckDB, Spark
//! and Trino prune without knowing us. A name is used once: a sequence never repeats within a store.

use std::path::Path;

use crate::cells::CellWidth;
use crate::ids::StoreId;
use crate::tables::Table;

/// Folder of the sealed files, below the data directory.
pub const PARQUET_DIR: &str = "parquet";
/// Folder of the write-ahead log, below the data directory.
pub const LOG_DIR: &str = "log";
/// Folder of sealed files that could not be read and were set aside, below the data directory.
pub const QUARANTINE_DIR: &str = "quarantine";
/// File that holds the store id, below the data directory.
pub const STORE_ID_FILE: &str = "store_id";
/// File that names the addresses a process listens on, below the data directory.
pub const LISTENING_FILE: &str = "listening.json";
/// Key of the schema's version in a file's metadata.
pub const SCHEMA_VERSION_KEY: &str = "lariat.schema_version";

/// The hour whose folder holds the files of odd times: their rows lie in very many hours, and only their rows tell which.
pub const ODD_TIMES_UNIX_NANOS: i64 = 0;

/// Path of a sealed file below [`PARQUET_DIR`], by the hour that `time_unix_nanos` lies in.
#[must_use]
pub fn file_path(table: Table, store: StoreId, time_unix_nanos: i64, sequence: u64) -> String {
    path_in(table.as_str(), store, time_unix_nanos, sequence)
}

/// Path of a file of longer cells below [`PARQUET_DIR`], by its first hour. They lie apart from the rows that they are made of,
/// so that who reads all files of a table reads nothing twice.
#[must_use]
pub fn cells_path(width: CellWidth, store: StoreId, time_unix_nanos: i64, sequence: u64) -> String {
    path_in(width.relation(), store, time_unix_nanos, sequence)
}

fn path_in(folder: &str, store: StoreId, time_unix_nanos: i64, sequence: u64) -> String {
    let (date, hour) = date_and_hour(time_unix_nanos);
    format!("{folder}/date={date}/hour={hour:02}/store={store}/{sequence:012}.parquet")
}

/// The sequence in a file's name, if it has one.
#[must_use]
pub fn sequence_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The store and the sequence that a path of [`file_path`]'s form names, if it is one of that table.
#[must_use]
pub fn named_file(table: Table, path: &str) -> Option<(StoreId, u64)> {
    let mut parts = path.split('/');
    let of_table = parts.next()? == table.as_str();
    let dated = parts.next()?.starts_with("date=") && parts.next()?.starts_with("hour=");
    let store = parts.next()?.strip_prefix("store=")?.parse().ok()?;
    let digits = parts.next()?.strip_suffix(".parquet")?;
    let whole = parts.next().is_none() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (of_table && dated && whole).then_some((store, digits.parse().ok()?))
}

/// UTC date as `YYYY-MM-DD` and hour of a moment.
/// Source of the calendar arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
#[must_use]
pub fn date_and_hour(unix_nanos: i64) -> (String, u8) {
    let seconds = unix_nanos.div_euclid(1_000_000_000);
    let days = seconds.div_euclid(86_400);
    let hour = seconds.rem_euclid(86_400) / 3_600;
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (format!("{year:04}-{month:02}-{day:02}"), u8::try_from(hour).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_under_its_table_date_hour_and_store() {
        let store: StoreId = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab".parse().unwrap();
        assert_eq!(
            file_path(Table::Spans, store, 1_763_683_200_000_000_000, 7),
            "spans/date=2025-11-21/hour=00/store=0192f0c4-8a5b-7c3d-9e1f-0123456789ab/000000000007.parquet"
        );
    }

    #[test]
    fn a_path_names_its_store_and_sequence_and_nothing_else_passes_for_one() {
        let store: StoreId = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab".parse().unwrap();
        let path = file_path(Table::Logs, store, 0, 1_234_567_890_123);
        assert_eq!(named_file(Table::Logs, &path), Some((store, 1_234_567_890_123)));
        assert_eq!(named_file(Table::Spans, &path), None);
        for wrong in [
            format!("{path}/x"),
            format!("../{path}"),
            path.replace("date=", "day="),
            path.replace("hour=00", ".."),
            path.replace(".parquet", ".json"),
            path.replace("1234567890123.", "+1.").replace("store=0", "store=x"),
            String::new(),
        ] {
            assert_eq!(named_file(Table::Logs, &wrong), None, "{wrong}");
        }
    }

    #[test]
    fn leap_days_and_the_epoch_have_their_dates() {
        assert_eq!(date_and_hour(0), ("1970-01-01".to_owned(), 0));
        assert_eq!(date_and_hour(951_868_799_000_000_000), ("2000-02-29".to_owned(), 23));
        assert_eq!(date_and_hour(-1), ("1969-12-31".to_owned(), 23));
    }
}
