//! Who belonged to the fleet and when, remembered over restarts: without it a query service that starts after a node has
//! died would call two of three complete, and could say nothing of last Tuesday's fleet.
//!
//! Query services learn from each other through the bucket: what they know of a member is made one by [`union`].
//!
//! What happened is appended as one line of JSON per event and synced ([`journal`]); what it adds up to is a fold over
//! these events, the same one live and at the start. A member is a store and not an address, so a node that comes back
//! elsewhere replaces its old name. Its time as a member is a list of tenures: each ends by a farewell, by an operator's
//! word, or `retire_after` its loss; what was expected before stays expected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lariat_schema::ids::{BootId, NodeId, Region, StoreId};
use lariat_schema::node_api::NodeInfo;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use serde::{Deserialize, Serialize};

mod journal;
mod union;

pub use journal::{MEMBERSHIP_FILE, MembershipError};

use journal::Journal;

/// How often a member that is alive has its last moment written down.
const NOTE_EVERY_NANOS: i64 = 3_600 * NANOS_PER_SECOND;
/// Members that are remembered. A fleet is some dozens; beyond it the one that left longest ago is forgotten, and where
/// none has left, a newcomer is refused.
const MAX_MEMBERS: usize = 4_096;
/// Tenures of one member that are remembered: a year of nightly restarts comes near to it. The oldest two become one.
const MAX_TENURES: usize = 256;

/// A store that belongs to the fleet, or did.
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
    /// When it was last seen, Unix nanoseconds.
    pub last_seen_unix_nanos: i64,
    /// Its latest boot that was seen.
    pub boot_id: Option<BootId>,
    /// Since when it cannot be reached, Unix nanoseconds.
    pub lost_unix_nanos: Option<i64>,
    /// When it was expected, oldest first, never empty.
    pub tenures: Vec<Tenure>,
}

/// A stretch of time in which a member is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// Its beginning, Unix nanoseconds.
    pub from_unix_nanos: i64,
    /// Its end; none: it goes on.
    pub end: Option<End>,
}

/// How a tenure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When, Unix nanoseconds.
    pub at_unix_nanos: i64,
    /// Why.
    pub by: EndedBy,
}

/// Why a member is no longer expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// It ended cleanly and said so.
    Farewell,
    /// An operator retired it.
    Operator,
    /// It was lost for `retire_after`.
    Age,
}

impl EndedBy {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Farewell => "farewell",
            Self::Operator => "operator",
            Self::Age => "age",
        }
    }
}

impl Member {
    /// True while it is expected.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.ended().is_none()
    }

    /// The end of its last tenure, if that is over.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.tenures.last().and_then(|tenure| tenure.end)
    }

    /// When it was expected, as ranges.
    #[must_use]
    pub fn expected(&self) -> Vec<TimeRange> {
        let range = |tenure: &Tenure| {
            TimeRange::new(tenure.from_unix_nanos, tenure.end.map_or(i64::MAX, |end| end.at_unix_nanos))
        };
        self.tenures.iter().map(range).collect()
    }
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// It told who it is: a join, a return, a new name or place, or a sign of life.
    Seen {
        at_unix_nanos: i64,
        store_id: StoreId,
        node_id: NodeId,
        region: Region,
        address: String,
        boot_id: Option<BootId>,
        /// Start of the boot.
        started_unix_nanos: i64,
        /// Since when it is expected if it is new.
        since_unix_nanos: i64,
    },
    /// It cannot be reached any longer.
    Lost { at_unix_nanos: i64, store_id: StoreId },
    /// It said farewell.
    Farewell { at_unix_nanos: i64, store_id: StoreId, boot_id: BootId },
    /// It is no longer expected.
    Retired { at_unix_nanos: i64, store_id: StoreId, by: EndedBy },
    /// All that is known of it, as compaction writes it.
    Known { member: Box<Member> },
}

type Members = BTreeMap<StoreId, Member>;

/// The fold. An event about a store that nobody knows changes nothing.
fn apply(members: &mut Members, event: &Event) {
    match event {
        Event::Seen { .. } => apply_seen(members, event),
        Event::Lost { at_unix_nanos, store_id } => {
            if let Some(member) = members.get_mut(store_id) {
                member.lost_unix_nanos.get_or_insert(*at_unix_nanos);
            }
        }
        Event::Farewell { at_unix_nanos, store_id, .. } => end(members, store_id, *at_unix_nanos, EndedBy::Farewell),
        Event::Retired { at_unix_nanos, store_id, by } => end(members, store_id, *at_unix_nanos, *by),
        Event::Known { member } => drop(members.insert(member.store_id, Member::clone(member))),
    }
}

fn apply_seen(members: &mut Members, event: &Event) {
    let Event::Seen {
        at_unix_nanos,
        store_id,
        node_id,
        region,
        address,
        boot_id,
        started_unix_nanos,
        since_unix_nanos,
    } = event
    else {
        return;
    };
    let member = members.entry(*store_id).or_insert_with(|| Member {
        store_id: *store_id,
        node_id: node_id.clone(),
        region: region.clone(),
        address: address.clone(),
        last_seen_unix_nanos: *at_unix_nanos,
        boot_id: *boot_id,
        lost_unix_nanos: None,
        tenures: vec![Tenure { from_unix_nanos: *since_unix_nanos, end: None }],
    });
    member.node_id = node_id.clone();
    member.region = region.clone();
    member.address.clone_from(address);
    member.last_seen_unix_nanos = member.last_seen_unix_nanos.max(*at_unix_nanos);
    member.boot_id = *boot_id;
    member.lost_unix_nanos = None;
    match member.ended() {
        // It is back: expected again from the start of its boot, and never before the end of what was.
        Some(end) => {
            let from_unix_nanos = end.at_unix_nanos.max(*started_unix_nanos);
            member.tenures.push(Tenure { from_unix_nanos, end: None });
            if member.tenures.len() > MAX_TENURES {
                let oldest = member.tenures.remove(0);
                member.tenures[0].from_unix_nanos = oldest.from_unix_nanos;
            }
        }
        None => {
            if let [only] = member.tenures.as_mut_slice() {
                only.from_unix_nanos = only.from_unix_nanos.min(*since_unix_nanos);
            }
        }
    }
}

fn end(members: &mut Members, store_id: &StoreId, at_unix_nanos: i64, by: EndedBy) {
    let Some(tenure) = members.get_mut(store_id).and_then(|member| member.tenures.last_mut()) else { return };
    if tenure.end.is_none() {
        let at_unix_nanos = at_unix_nanos.max(tenure.from_unix_nanos);
        tenure.end = Some(End { at_unix_nanos, by });
    }
}

/// What came of a word to retire a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Retirement {
    /// It is no longer expected.
    Done(Member),
    /// It was not expected before.
    Already(Member),
    /// Nobody knows it.
    Unknown,
}

/// The memory of one query service.
#[derive(Debug)]
pub(crate) struct Membership {
    members: Members,
    noted: BTreeMap<StoreId, i64>,
    journal: Option<Journal>,
    retire_after_nanos: i64,
    /// Nobody was looking before this.
    opened_unix_nanos: i64,
    /// Stores that found no room.
    pub(crate) refused: u64,
}

impl Membership {
    /// Reads what earlier runs wrote; without a directory nothing is remembered.
    pub(crate) fn open(data_dir: Option<PathBuf>, retire_after_nanos: i64, now: i64) -> Result<Self, MembershipError> {
        let (mut members, mut journal) = (Members::new(), None);
        if let Some(data_dir) = data_dir {
            let (opened, events) = Journal::open(&data_dir)?;
            events.iter().for_each(|event| apply(&mut members, event));
            journal = Some(opened);
        }
        let noted = members.values().map(|member| (member.store_id, member.last_seen_unix_nanos)).collect();
        let mut this = Self { members, noted, journal, retire_after_nanos, opened_unix_nanos: now, refused: 0 };
        this.compact_if_due()?;
        Ok(this)
    }

    /// A node told who it is. True if that is news. A boot that has said farewell is not heard again: what it still
    /// answers while it ends is no return.
    pub(crate) fn seen(&mut self, info: &NodeInfo, address: &str, now: i64) -> Result<bool, MembershipError> {
        let before = self.members.get(&info.store_id);
        let boot_id = info.identity.boot_id;
        let farewell = |member: &Member| member.ended().is_some_and(|end| end.by == EndedBy::Farewell);
        if before.is_some_and(|member| farewell(member) && member.boot_id == Some(boot_id)) {
            return Ok(false);
        }
        if before.is_none() && !self.make_room() {
            self.refused += 1;
            return Ok(false);
        }
        let before = self.members.get(&info.store_id);
        let news = before.is_none_or(|before| {
            (&before.node_id, &before.region, before.address.as_str(), before.boot_id)
                != (&info.identity.node_id, &info.identity.region, address, Some(boot_id))
                || before.lost_unix_nanos.is_some()
                || !before.is_expected()
        });
        let since_unix_nanos = since(info, now);
        let due = self.noted.get(&info.store_id).is_none_or(|noted| now.saturating_sub(*noted) >= NOTE_EVERY_NANOS);
        let event = Event::Seen {
            at_unix_nanos: now,
            store_id: info.store_id,
            node_id: info.identity.node_id.clone(),
            region: info.identity.region.clone(),
            address: address.to_owned(),
            boot_id: Some(boot_id),
            started_unix_nanos: info.started_unix_nanos.min(now),
            since_unix_nanos,
        };
        apply(&mut self.members, &event);
        if news || due {
            self.noted.insert(info.store_id, now);
            self.write(&event)?;
        }
        Ok(news)
    }

    /// A member cannot be reached any longer.
    pub(crate) fn lost(&mut self, store_id: StoreId) -> Result<(), MembershipError> {
        let Some(member) = self.members.get(&store_id) else { return Ok(()) };
        if member.lost_unix_nanos.is_some() || !member.is_expected() {
            return Ok(());
        }
        let at_unix_nanos = member.last_seen_unix_nanos;
        self.happened(&Event::Lost { at_unix_nanos, store_id })
    }

    /// A node said farewell. True if it was expected until then.
    pub(crate) fn farewell(
        &mut self,
        store_id: StoreId,
        boot_id: BootId,
        at_unix_nanos: i64,
    ) -> Result<bool, MembershipError> {
        let current = |member: &&Member| member.is_expected() && member.boot_id == Some(boot_id);
        if self.members.get(&store_id).filter(current).is_none() {
            return Ok(false);
        }
        self.happened(&Event::Farewell { at_unix_nanos, store_id, boot_id })?;
        Ok(true)
    }

    /// An operator's word about a node, by its name or its store.
    pub(crate) fn retire(&mut self, name: &str, now: i64) -> Result<Retirement, MembershipError> {
        let named = |member: &&Member| member.node_id.as_str() == name || member.store_id.to_string() == name;
        // Two stores may have had one name: the one that is expected is meant.
        let found = self.members.values().filter(named).max_by_key(|member| member.is_expected());
        let Some(member) = found.cloned() else { return Ok(Retirement::Unknown) };
        if !member.is_expected() {
            return Ok(Retirement::Already(member));
        }
        let store_id = member.store_id;
        self.happened(&Event::Retired { at_unix_nanos: now, store_id, by: EndedBy::Operator })?;
        Ok(self.members.get(&store_id).cloned().map_or(Retirement::Unknown, Retirement::Done))
    }

    /// Retires those that were lost long enough while somebody was looking. True if there was one.
    pub(crate) fn retire_aged(&mut self, now: i64) -> Result<bool, MembershipError> {
        let due = |member: &&Member| {
            // Time in which nobody looked is no absence, unless the loss was noted before.
            let gone_since = member.lost_unix_nanos.unwrap_or(member.last_seen_unix_nanos.max(self.opened_unix_nanos));
            member.is_expected() && now.saturating_sub(gone_since) >= self.retire_after_nanos
        };
        let aged: Vec<StoreId> = self.members.values().filter(due).map(|member| member.store_id).collect();
        for store_id in &aged {
            self.happened(&Event::Retired { at_unix_nanos: now, store_id: *store_id, by: EndedBy::Age })?;
        }
        Ok(!aged.is_empty())
    }

    /// Takes in what others know. True if it is news, beyond a later moment at which a member was seen.
    pub(crate) fn learn(&mut self, theirs: &[Member]) -> Result<bool, MembershipError> {
        let mut news = false;
        for told in theirs.iter().filter(|told| !told.tenures.is_empty()) {
            let Some(mine) = self.members.get(&told.store_id) else {
                // Who has left is not worth the place of another.
                if (told.is_expected() || self.members.len() < MAX_MEMBERS) && self.make_room() {
                    self.happened(&Event::Known { member: Box::new(told.clone()) })?;
                    self.noted.insert(told.store_id, told.last_seen_unix_nanos);
                    news = true;
                }
                continue;
            };
            let both = union::union(mine, told);
            let last_seen_unix_nanos = mine.last_seen_unix_nanos;
            if (Member { last_seen_unix_nanos, ..both.clone() }) == *mine {
                self.members.insert(told.store_id, both);
            } else {
                self.happened(&Event::Known { member: Box::new(both) })?;
                news = true;
            }
        }
        Ok(news)
    }

    /// How long a lost member stays expected.
    pub(crate) fn retire_after_nanos(&self) -> i64 {
        self.retire_after_nanos
    }

    /// Everyone, also those who left.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    fn happened(&mut self, event: &Event) -> Result<(), MembershipError> {
        apply(&mut self.members, event);
        self.write(event)
    }

    fn write(&mut self, event: &Event) -> Result<(), MembershipError> {
        if let Some(journal) = &mut self.journal {
            journal.append(event)?;
        }
        self.compact_if_due()
    }

    fn compact_if_due(&mut self) -> Result<(), MembershipError> {
        match &mut self.journal {
            Some(journal) if journal.is_long(self.members.len()) => {
                let known = |member: &Member| Event::Known { member: Box::new(member.clone()) };
                journal.replace(&self.members.values().map(known).collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }

    /// Forgets the one that left longest ago, if there are too many.
    fn make_room(&mut self) -> bool {
        if self.members.len() < MAX_MEMBERS {
            return true;
        }
        let left = self.members.values().filter_map(|member| Some((member.ended()?.at_unix_nanos, member.store_id)));
        let Some((_, oldest)) = left.min() else { return false };
        self.members.remove(&oldest);
        self.noted.remove(&oldest);
        true
    }
}

/// Since when a new member is expected: its first boot; where none is told, its oldest row.
fn since(info: &NodeInfo, now: i64) -> i64 {
    let first_boot = info.boots.iter().map(|boot| boot.started_unix_nanos).min();
    let oldest_row = || info.ranges.iter().filter_map(|range| range.from_unix_nanos).min();
    first_boot.or_else(oldest_row).unwrap_or(now).min(now)
}

#[cfg(test)]
mod tests;
