//! Who belonged to the fleet, remembered over restarts: without it a query service that starts after a node has died
//! would call two of three complete.
//!
//! A line of JSON per event, appended and synced: joins and changes of name or address. A member is a store and not an
//! address, so a node that comes back elsewhere replaces its old name. A member that has vanished stays expected until
//! it is retired, 24 hours after it was last seen.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use lariat_schema::ids::{NodeId, Region, StoreId};
use lariat_schema::node_api::NodeInfo;
use lariat_schema::time_range::NANOS_PER_SECOND;
use serde::{Deserialize, Serialize};

/// The file, below the query service's data directory.
pub const MEMBERSHIP_FILE: &str = "membership.jsonl";

/// How long after it was last seen a member stays expected.
pub const RETIRE_AFTER_NANOS: i64 = 24 * 3_600 * NANOS_PER_SECOND;

/// How often a member that is alive has its last moment written down.
const NOTE_EVERY_NANOS: i64 = 3_600 * NANOS_PER_SECOND;

/// The memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The file cannot be opened, read or appended to.
    #[error("membership file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A store that belongs to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub store_id: StoreId,
    /// Its current name.
    pub node_id: NodeId,
    /// Its region.
    pub region: Region,
    /// Where its node API was last reached.
    pub address: String,
    /// Since when it is expected: its oldest row or its first sight, Unix nanoseconds.
    pub since_unix_nanos: i64,
    /// When it was last seen, Unix nanoseconds.
    pub last_seen_unix_nanos: i64,
}

/// The log and what it adds up to.
#[derive(Debug)]
pub(crate) struct Membership {
    members: BTreeMap<StoreId, Member>,
    noted: BTreeMap<StoreId, i64>,
    file: Option<(PathBuf, File)>,
}

impl Membership {
    /// Reads what earlier runs wrote; without a directory nothing is remembered. A line that cannot be read, as after a
    /// crash in the middle of it, is left out.
    pub(crate) fn open(data_dir: Option<PathBuf>) -> Result<Self, MembershipError> {
        let Some(data_dir) = data_dir else {
            return Ok(Self { members: BTreeMap::new(), noted: BTreeMap::new(), file: None });
        };
        let path = data_dir.join(MEMBERSHIP_FILE);
        let failed = |source| MembershipError::File { path: path.clone(), source };
        std::fs::create_dir_all(&data_dir).map_err(failed)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut members = BTreeMap::new();
        for line in text.lines() {
            match serde_json::from_str::<Member>(line) {
                Ok(member) => drop(members.insert(member.store_id, member)),
                Err(error) => tracing::warn!(%error, "a line of the membership file cannot be read and is left out"),
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        let noted = members.values().map(|member: &Member| (member.store_id, member.last_seen_unix_nanos)).collect();
        Ok(Self { members, noted, file: Some((path, file)) })
    }

    /// A node told who it is. True if that is news.
    pub(crate) fn seen(&mut self, info: &NodeInfo, address: &str, now: i64) -> Result<bool, MembershipError> {
        let oldest = info.ranges.iter().filter_map(|range| range.from_unix_nanos).min().unwrap_or(now).min(now);
        let before = self.members.get(&info.store_id);
        let member = Member {
            store_id: info.store_id,
            node_id: info.identity.node_id.clone(),
            region: info.identity.region.clone(),
            address: address.to_owned(),
            since_unix_nanos: before.map_or(oldest, |before| before.since_unix_nanos.min(oldest)),
            last_seen_unix_nanos: now,
        };
        let news = before.is_none_or(|before| {
            (&before.node_id, &before.region, &before.address) != (&member.node_id, &member.region, &member.address)
        });
        let due = self.noted.get(&info.store_id).is_none_or(|noted| now.saturating_sub(*noted) >= NOTE_EVERY_NANOS);
        if news || due {
            self.append(&member)?;
            self.noted.insert(info.store_id, now);
        }
        self.members.insert(info.store_id, member);
        Ok(news)
    }

    /// Everyone who is expected now.
    pub(crate) fn members(&self, now: i64) -> Vec<Member> {
        let expected = |member: &&Member| now.saturating_sub(member.last_seen_unix_nanos) < RETIRE_AFTER_NANOS;
        self.members.values().filter(expected).cloned().collect()
    }

    fn append(&mut self, member: &Member) -> Result<(), MembershipError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let failed = |source| MembershipError::File { path: path.clone(), source };
        let mut line = serde_json::to_vec(member).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";

    fn info(node_id: &str) -> NodeInfo {
        serde_json::from_value(serde_json::json!({
            "node_id": node_id, "region": "us-east", "boot_id": STORE, "store_id": STORE, "version": "0",
            "started_unix_nanos": 0, "now_unix_nanos": 0, "watermark_unix_nanos": 0, "has_proxy": true, "ranges": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_member_is_remembered_over_a_restart_and_under_its_newest_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Membership::open(Some(dir.path().to_owned())).unwrap();
        assert!(first.seen(&info("lariat@a"), "a:4319", 10).unwrap());
        assert!(!first.seen(&info("lariat@a"), "a:4319", 20).unwrap());
        assert!(first.seen(&info("lariat@b"), "b:4319", 30).unwrap());
        drop(first);
        let again = Membership::open(Some(dir.path().to_owned())).unwrap();
        let members = again.members(40);
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].node_id.as_str(), members[0].since_unix_nanos), ("lariat@b", 10));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_later_lines_are_still_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MEMBERSHIP_FILE), "{\"store_id\":\"0192").unwrap();
        let mut members = Membership::open(Some(dir.path().to_owned())).unwrap();
        members.seen(&info("lariat@a"), "a:4319", 10).unwrap();
        drop(members);
        assert_eq!(Membership::open(Some(dir.path().to_owned())).unwrap().members(10).len(), 1);
    }

    #[test]
    fn a_vanished_member_is_expected_for_a_day_and_then_retired() {
        let mut members = Membership::open(None).unwrap();
        members.seen(&info("lariat@a"), "a:4319", 10).unwrap();
        assert_eq!(members.members(10 + RETIRE_AFTER_NANOS - 1).len(), 1);
        assert_eq!(members.members(10 + RETIRE_AFTER_NANOS).len(), 0);
    }
}
