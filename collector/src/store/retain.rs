//! Which files a store keeps: by age, as long as the operator wants; by size, as much as the disk may hold.
//!
//! Both are pure choices over the manifest. Age is the event time of a file's newest row and, so that one span with a
//! wrong clock takes nothing with it, its commit time too. Size takes what costs least: first copies of what the bucket
//! has, then what is oldest of all tables alike; when even that is not enough, nothing more is taken in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lariat_schema::duration_text;
use lariat_schema::tables::Table;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::manifest::FileEntry;

/// How long rows are kept where nothing else is said.
const DEFAULT_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// The word for a table that is never cleared by age.
const FOREVER: &str = "forever";
/// Share of the budget that is left free, so that the log and the next seal find room: one in so many.
const HEADROOM: u64 = 20;

/// How long the rows of each table are kept, from the key `retention`: `30d`, `forever`, or a map of tables to these
/// with `default` for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    default: Option<Duration>,
    tables: BTreeMap<Table, Option<Duration>>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { default: Some(DEFAULT_RETENTION), tables: BTreeMap::new() }
    }
}

impl Retention {
    /// The same for all tables.
    pub(crate) fn of_all(kept: Duration) -> Self {
        Self { default: Some(kept), tables: BTreeMap::new() }
    }

    /// Rows of a table that ended before this moment are past their retention, if there is one.
    pub(crate) fn horizon(&self, table: Table, now_unix_nanos: i64) -> Option<i64> {
        let kept = self.tables.get(&table).copied().unwrap_or(self.default)?;
        Some(now_unix_nanos.saturating_sub(i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX)))
    }
}

fn kept(text: &str) -> Result<Option<Duration>, duration_text::BadDuration> {
    if text.trim() == FOREVER { Ok(None) } else { duration_text::parse(text).map(Some) }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Retention;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a duration such as 30d, `{FOREVER}`, or a map of tables to these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Retention, E> {
                Ok(Retention { default: kept(text).map_err(E::custom)?, tables: BTreeMap::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Retention, A::Error> {
                let mut retention = Retention::default();
                while let Some((key, text)) = map.next_entry::<String, String>()? {
                    let kept = kept(&text).map_err(de::Error::custom)?;
                    if key == "default" {
                        retention.default = kept;
                    } else {
                        retention.tables.insert(key.parse().map_err(de::Error::custom)?, kept);
                    }
                }
                Ok(retention)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The files whose rows are all past their retention.
pub(crate) fn expired(files: &[FileEntry], retention: &Retention, now_unix_nanos: i64) -> Vec<FileEntry> {
    let past = |file: &&FileEntry| {
        let newest = file.times.to_unix_nanos.max(file.commits.to_unix_nanos);
        retention.horizon(file.table, now_unix_nanos).is_some_and(|horizon| newest <= horizon)
    };
    files.iter().filter(past).cloned().collect()
}

/// What a store on a disk with a budget does next.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Relief {
    /// Files whose local copy goes: the bucket has them.
    pub(crate) uploaded: Vec<FileEntry>,
    /// Files that go for good.
    pub(crate) oldest: Vec<FileEntry>,
    /// True if nothing more is taken in until there is room.
    pub(crate) refuse: bool,
}

/// Chooses what goes so that the rest fits. `used_bytes` is what the store takes on the disk now, of which
/// `leaving_bytes` go by themselves as soon as no query holds them.
pub(crate) fn relieve(
    files: &[FileEntry],
    has_bucket: bool,
    used_bytes: u64,
    leaving_bytes: u64,
    budget_bytes: u64,
) -> Relief {
    let aim = budget_bytes - budget_bytes / HEADROOM;
    let mut left = used_bytes.saturating_sub(leaving_bytes);
    let mut relief = Relief::default();
    let mut order: Vec<&FileEntry> = files.iter().filter(|file| file.is_local()).collect();
    order.sort_by_key(|file| (file.times.to_unix_nanos, file.times.from_unix_nanos, &file.path));
    let (uploaded, others): (Vec<&FileEntry>, Vec<&FileEntry>) =
        order.into_iter().partition(|file| has_bucket && file.uploaded_unix_nanos.is_some());
    for (files, chosen) in [(uploaded, &mut relief.uploaded), (others, &mut relief.oldest)] {
        for file in files {
            if left <= aim {
                break;
            }
            left = left.saturating_sub(file.bytes);
            chosen.push(file.clone());
        }
    }
    let going = relief.uploaded.iter().chain(&relief.oldest).map(|file| file.bytes).fold(0, u64::saturating_add);
    relief.refuse = used_bytes.saturating_sub(going) > budget_bytes;
    relief
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::TimeRange;

    use super::*;

    const DAY: i64 = 86_400 * 1_000_000_000;

    fn file(table: Table, path: &str, day: i64) -> FileEntry {
        let times = TimeRange::new(day * DAY, (day + 1) * DAY);
        FileEntry { times, commits: times, bytes: 100, ..FileEntry::for_test(table, path, 1) }
    }

    fn paths(files: &[FileEntry]) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn retention_is_one_duration_or_one_per_table() {
        let read = |text: &str| serde_json::from_str::<Retention>(text);
        let all = read(r#""7d""#).unwrap();
        assert_eq!(all.horizon(Table::Logs, 10 * DAY), Some(3 * DAY));
        let each = read(r#"{"default": "7d", "spans": "1d", "rollups": "forever"}"#).unwrap();
        assert_eq!(each.horizon(Table::Spans, 10 * DAY), Some(9 * DAY));
        assert_eq!(each.horizon(Table::Rollups, 10 * DAY), None);
        assert_eq!(each.horizon(Table::Metrics, 10 * DAY), Some(3 * DAY));
        for bad in [r#""7""#, r#"{"span": "1d"}"#, r#"{"spans": "soon"}"#, "7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_expires_by_its_newest_row_and_not_before_it_was_written_that_long_ago() {
        let retention: Retention = serde_json::from_str(r#"{"default": "2d", "logs": "5d"}"#).unwrap();
        let mut written_late = file(Table::Spans, "late", 0);
        written_late.commits = TimeRange::new(9 * DAY, 9 * DAY + 1);
        let files =
            [file(Table::Spans, "old", 6), file(Table::Spans, "edge", 7), file(Table::Spans, "young", 8), written_late]
                .into_iter()
                .chain([file(Table::Logs, "log", 5)])
                .collect::<Vec<_>>();
        assert_eq!(paths(&expired(&files, &retention, 10 * DAY)), ["old", "edge"]);
    }

    #[test]
    fn a_full_disk_loses_copies_first_then_the_oldest_then_takes_nothing_more() {
        let mut files = vec![file(Table::Spans, "a", 1), file(Table::Logs, "b", 2), file(Table::Spans, "c", 3)];
        files[2].uploaded_unix_nanos = Some(1);
        assert_eq!(relieve(&files, true, 300, 0, 400), Relief::default());
        let relief = relieve(&files, true, 310, 0, 300);
        assert_eq!((paths(&relief.uploaded), relief.oldest.len(), relief.refuse), (vec!["c"], 0, false));
        let relief = relieve(&files, true, 300, 0, 200);
        assert_eq!((paths(&relief.uploaded), paths(&relief.oldest)), (vec!["c"], vec!["a"]));
        assert!(!relief.refuse);
        // Without the bucket there is only the copy.
        let relief = relieve(&files, false, 310, 0, 300);
        assert_eq!((paths(&relief.oldest), relief.uploaded.len()), (vec!["a"], 0));
        // The log alone is larger than the budget.
        assert!(relieve(&files, true, 900, 0, 200).refuse);
        // What queries hold goes by itself: nothing more is given up for it, and nothing more taken in meanwhile.
        let relief = relieve(&files, true, 400, 250, 200);
        assert_eq!((relief.uploaded.len() + relief.oldest.len(), relief.refuse), (0, true));
    }
}
