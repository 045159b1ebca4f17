//! What each 10 s slice of one store's time is, for one table: a pure function of when the store was expected and of what
//! it told when its rows were pinned.
//!
//! A store's life is first laid out as pieces of time, each with one meaning; a slice is then judged by the pieces that it
//! touches. Judging every slice of a year would be three million judgements, so only those are made at which something
//! changes: between two such places all slices are the same.

use lariat_schema::coverage::Why;
use lariat_schema::node_api::{Boot, Heard};
use lariat_schema::time_range::{NANOS_PER_SECOND, SLICE_NANOS, TimeRange, slice_start};

/// Signs of life of a proxy that are no further apart leave no silence between them.
pub(crate) const HEARTBEAT_GAP_NANOS: i64 = 15 * NANOS_PER_SECOND;
/// The same of a collector.
pub(crate) const STATUS_GAP_NANOS: i64 = 25 * NANOS_PER_SECOND;
/// How long after its last heartbeat a proxy may have lived unheard: until the next one was due.
pub(crate) const HEARTBEAT_TAIL_NANOS: i64 = 6 * NANOS_PER_SECOND;
/// The same of a collector's status.
pub(crate) const STATUS_TAIL_NANOS: i64 = 11 * NANOS_PER_SECOND;
/// How long a decision that was numbered may be under way before it counts as lost: longer than any call may take, and
/// the exporter's retries with it.
pub(crate) const UNDER_WAY_NANOS: i64 = 120 * NANOS_PER_SECOND;

/// What a store told when its rows were pinned.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Told {
    /// Commit time up to which its rows are in, Unix nanoseconds.
    pub(crate) watermark_unix_nanos: i64,
    /// Its clock at that moment.
    pub(crate) now_unix_nanos: i64,
    /// Whether heartbeats of a proxy are to be expected of its current boot.
    pub(crate) has_proxy: bool,
    /// Its lives, oldest first; empty where it does not tell, and the watermark alone is believed.
    pub(crate) boots: Vec<Boot>,
}

/// Time whose rows of the table are gone, and why.
pub(crate) type Gone = (TimeRange, Why);

/// What a slice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Nobody expected the store then.
    NotExpected,
    /// Its rows are in.
    Covered,
    /// They are not.
    Missing(Reason),
}

/// [`Why`], in the order in which a slice that has several reasons is told the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Down,
    Late,
    Unknown,
    Unreachable,
    Expired,
    Lost,
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Down => Self::Down,
            Reason::Late => Self::Late,
            Reason::Unknown => Self::Unknown,
            Reason::Unreachable => Self::Unreachable,
            Reason::Expired => Self::Expired,
            Reason::Lost => Self::Lost,
        }
    }
}

/// What is known of one store's time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Life {
    /// When it was expected, in order.
    pub(crate) expected: Vec<TimeRange>,
    pub(crate) source: Source,
}

/// Where the rows of a store are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// It answered, or the bucket does for it.
    Told {
        pieces: Vec<Piece>,
        watermark_unix_nanos: i64,
        /// What slices are that the watermark has not passed.
        later: Reason,
        gone: Vec<Gone>,
        /// When it was gone for good, if it does not answer itself.
        left_unix_nanos: Option<i64>,
    },
    /// It did not, for one reason, and after it was gone for good for another.
    Absent { why: Reason, left_unix_nanos: Option<i64> },
}

/// A stretch of time with one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) times: TimeRange,
    pub(crate) meaning: Verdict,
}

/// A stretch of slices of one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) times: TimeRange,
    pub(crate) verdict: Verdict,
}

impl Stretch {
    /// How many slices it is.
    pub(crate) fn slices(&self) -> u64 {
        u64::try_from(self.times.nanos() / SLICE_NANOS).unwrap_or(0)
    }
}

impl Life {
    /// The slices of `window`, whose bounds are bounds of slices, with neighbours of one verdict as one stretch.
    pub(crate) fn judge(&self, window: TimeRange) -> Vec<Stretch> {
        let mut places = vec![window.from_unix_nanos];
        let mut changes = |at: i64| {
            let slice = slice_start(at);
            places.extend([slice, slice.saturating_add(SLICE_NANOS)]);
        };
        for range in &self.expected {
            changes(range.from_unix_nanos);
            changes(range.to_unix_nanos);
        }
        match &self.source {
            Source::Told { pieces, watermark_unix_nanos, gone, left_unix_nanos, .. } => {
                changes(*watermark_unix_nanos);
                left_unix_nanos.iter().for_each(|at| changes(*at));
                for times in pieces.iter().map(|piece| &piece.times).chain(gone.iter().map(|(times, _)| times)) {
                    changes(times.from_unix_nanos);
                    changes(times.to_unix_nanos);
                }
            }
            Source::Absent { left_unix_nanos, .. } => left_unix_nanos.iter().for_each(|at| changes(*at)),
        }
        places.retain(|place| window.contains(*place));
        places.sort_unstable();
        places.dedup();
        let mut stretches: Vec<Stretch> = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let to = places.get(index + 1).copied().unwrap_or(window.to_unix_nanos);
            let verdict = self.verdict(TimeRange::new(*place, place.saturating_add(SLICE_NANOS)));
            match stretches.last_mut() {
                Some(open) if open.verdict == verdict => open.times.to_unix_nanos = to,
                _ => stretches.push(Stretch { times: TimeRange::new(*place, to), verdict }),
            }
        }
        stretches
    }

    /// What one slice is.
    pub(crate) fn verdict(&self, slice: TimeRange) -> Verdict {
        let parts: Vec<TimeRange> =
            self.expected.iter().map(|range| range.intersection(&slice)).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return Verdict::NotExpected;
        }
        match &self.source {
            Source::Absent { left_unix_nanos: Some(left), .. } | Source::Told { left_unix_nanos: Some(left), .. }
                if slice.from_unix_nanos >= *left =>
            {
                Verdict::Missing(Reason::Down)
            }
            Source::Absent { why, .. } => Verdict::Missing(*why),
            Source::Told { pieces, watermark_unix_nanos, later, gone, .. } => {
                told(&parts, slice, pieces, (*watermark_unix_nanos, *later), gone)
            }
        }
    }
}

/// The verdict over a slice of a store that answered; `parts` are the expected parts of it.
fn told(
    parts: &[TimeRange],
    slice: TimeRange,
    pieces: &[Piece],
    (watermark, later): (i64, Reason),
    gone: &[Gone],
) -> Verdict {
    let begin = pieces.partition_point(|piece| piece.times.to_unix_nanos <= slice.from_unix_nanos);
    let touched = pieces[begin..].iter().take_while(|piece| piece.times.from_unix_nanos < slice.to_unix_nanos);
    let meanings: Vec<Verdict> = touched
        .filter(|piece| parts.iter().any(|part| part.overlaps(&piece.times)))
        .map(|piece| piece.meaning)
        .collect();
    if meanings.iter().all(|meaning| *meaning == Verdict::NotExpected) {
        return Verdict::NotExpected;
    }
    let of_gone = gone.iter().filter(|(times, _)| times.overlaps(&slice));
    let of_gone = of_gone.map(|(_, why)| if *why == Why::Expired { Reason::Expired } else { Reason::Lost });
    // A slice is in once the watermark has passed its end.
    let late = (watermark < slice.to_unix_nanos).then_some(later);
    // A heartbeat in the slice shows that the node ran in it, although it may not have for all of it.
    let heard = meanings.contains(&Verdict::Covered);
    let of_life = meanings.iter().filter_map(|meaning| match meaning {
        Verdict::Missing(Reason::Down) if heard => None,
        Verdict::Missing(reason) => Some(*reason),
        Verdict::NotExpected | Verdict::Covered => None,
    });
    of_gone.chain(late).chain(of_life).max().map_or(Verdict::Covered, Verdict::Missing)
}

/// What a table's rows depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depends {
    /// On the proxy: its decisions, each of which has a number.
    Decisions,
    /// On the proxy's being there.
    Heartbeats,
    /// On the collector alone.
    Statuses,
}

/// Lays the lives of a store out as pieces, in order and without gaps.
pub(crate) fn pieces(told: &Told, depends: Depends) -> Vec<Piece> {
    let mut layout = Layout { pieces: Vec::new(), at: i64::MIN };
    let Some(first) = told.boots.first() else {
        layout.up_to(i64::MAX, Verdict::Covered);
        return layout.pieces;
    };
    // Before the first boot that is told nothing can be shown.
    layout.up_to(first.started_unix_nanos, Verdict::Missing(Reason::Unknown));
    for (index, boot) in told.boots.iter().enumerate() {
        let next = told.boots.get(index + 1).map(|next| next.started_unix_nanos);
        layout.boot(boot, next, told, depends);
    }
    layout.pieces
}

struct Layout {
    pieces: Vec<Piece>,
    /// Everything before this is laid out.
    at: i64,
}

impl Layout {
    fn up_to(&mut self, to: i64, meaning: Verdict) {
        if to <= self.at {
            return;
        }
        let times = TimeRange::new(self.at, to);
        self.at = to;
        match self.pieces.last_mut() {
            Some(open) if open.meaning == meaning => open.times.to_unix_nanos = to,
            _ => self.pieces.push(Piece { times, meaning }),
        }
    }

    fn boot(&mut self, boot: &Boot, next: Option<i64>, told: &Told, depends: Depends) {
        let of_proxy =
            depends != Depends::Statuses && (!boot.heartbeats.is_empty() || (next.is_none() && told.has_proxy));
        let (signs, gap, tail) = if of_proxy {
            (&boot.heartbeats, HEARTBEAT_GAP_NANOS, HEARTBEAT_TAIL_NANOS)
        } else {
            (&boot.statuses, STATUS_GAP_NANOS, STATUS_TAIL_NANOS)
        };
        let numbered = of_proxy && depends == Depends::Decisions;
        self.up_to(boot.known_from_unix_nanos, Verdict::Missing(Reason::Unknown));
        for heard in signs {
            self.up_to(heard.from_unix_nanos, self.between(heard, gap, numbered, told.now_unix_nanos));
            self.up_to(heard.to_unix_nanos, Verdict::Covered);
        }
        let end = next.unwrap_or(i64::MAX);
        let farewell = if of_proxy { boot.proxy_farewell_unix_nanos } else { boot.farewell_unix_nanos };
        match (farewell, boot.farewell_unix_nanos) {
            (Some(farewell), _) => {
                self.up_to(farewell.min(end), Verdict::Covered);
                self.up_to(end, Verdict::NotExpected);
            }
            // The node ended cleanly and its proxy's farewell did not come: what it did last is not known.
            (None, Some(farewell)) => {
                self.up_to(farewell.min(end), Verdict::Missing(Reason::Unknown));
                self.up_to(end, Verdict::NotExpected);
            }
            (None, None) => {
                let silent = next.is_some() || told.now_unix_nanos.saturating_sub(self.at) > gap;
                if !silent {
                    return self.up_to(end, Verdict::Missing(Reason::Late));
                }
                self.up_to(self.at.saturating_add(tail).min(end), Verdict::Missing(Reason::Unknown));
                self.up_to(end, Verdict::Missing(Reason::Down));
            }
        }
    }

    /// What the time before a stretch is, back to the last sign before it.
    fn between(&self, heard: &Heard, gap: i64, numbered: bool, now: i64) -> Verdict {
        if numbered && heard.missing_before > 0 {
            let young = now.saturating_sub(heard.from_unix_nanos) <= UNDER_WAY_NANOS;
            return Verdict::Missing(if young { Reason::Late } else { Reason::Lost });
        }
        if heard.from_unix_nanos.saturating_sub(self.at) <= gap {
            return Verdict::Covered;
        }
        Verdict::Missing(Reason::Down)
    }
}

#[cfg(test)]
mod tests;
