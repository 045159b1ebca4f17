//! The one thread that commits: dedup, log, state, acknowledgement, in this order for one group of requests after
//! another.
//!
//! One thread, because dedup and the log have an order and a lock around them would only hide it. Many requests share
//! one sync: while the disk works the next group gathers in the queue. A request that cannot be made durable leaves no
//! trace, in memory or on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::error::ArrowError;
use lariat_schema::tables::Table;
use lariat_schema::time_range::NANOS_PER_SECOND;
use lariat_schema::vocabulary::Signal;
use tokio::sync::oneshot;

use super::{Committed, Refused};
use crate::columns::{count, filtered, signed};
use crate::decode::Decoded;
use crate::dedup::{Dedup, Judgement, Keys};
use crate::held::{Held, Part};
use crate::keep::Policies;
use crate::keep::spans::with_columns;
use crate::ledger::LedgerKey;
use crate::live::count_decisions;
use crate::log::clock::CommitClock;
use crate::log::entry::{self, BadEntry, Packer};
use crate::log::{Entry, Header, InForce, Log, Moment, Received};
use crate::node_status::{self, Facts};
use crate::rollup::rows::moments;
use crate::span_metrics;
use crate::store::ReadStore;
use crate::store::core::Core;
use crate::store::owners::Owners;

/// Requests of one sync: more would make the first of them wait.
const GROUP_REQUESTS: usize = 256;
/// Bytes of rows of one sync.
const GROUP_BYTES: usize = 16 << 20;
/// Beyond this the room for the entries of a group is given back after use.
const FRAMES_BYTES: usize = 4 << 20;
/// How often the watermark moves and waiting spans are looked at while nothing comes.
const TICK: Duration = Duration::from_millis(100);
/// When a client may come back after the disk failed.
pub(crate) const RETRY_DISK: Duration = Duration::from_secs(2);

/// A request that waits for its commit.
pub(crate) struct Job {
    pub(crate) decoded: Decoded,
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Committed, Refused>>,
}

/// What the thread is told.
pub(crate) enum Message {
    Commit(Box<Job>),
    /// Everything before this is committed, then the thread ends.
    Stop,
}

/// What the thread owns.
pub(crate) struct Committer {
    pub(crate) core: Arc<Core>,
    pub(crate) log: Log,
    pub(crate) packer: Packer,
    /// Room for the entries of a group.
    pub(crate) frames: Vec<u8>,
    pub(crate) dedup: Dedup,
    pub(crate) wanted_policies: Arc<ArcSwap<Policies>>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) in_force: InForce,
    pub(crate) in_flight_bytes: Arc<AtomicUsize>,
    pub(crate) killed: Arc<AtomicBool>,
    pub(crate) times: CommitClock,
    pub(crate) next_status: i64,
    pub(crate) next_span_metrics: i64,
}

/// A request as it will stand in the log.
struct Prepared {
    header: Header,
    batch: Option<RecordBatch>,
    committed: Committed,
    conflicts: u64,
    reply: Option<oneshot::Sender<Result<Committed, Refused>>>,
}

impl Committer {
    /// Works until told to stop, or killed.
    pub(crate) fn run(mut self, receiver: &Receiver<Message>) {
        self.tick();
        while !self.killed.load(Ordering::Acquire) {
            let stop = match receiver.recv_timeout(TICK) {
                Ok(Message::Commit(job)) => {
                    let (jobs, stop) = gather(*job, receiver);
                    if self.killed.load(Ordering::Acquire) {
                        return;
                    }
                    let bytes: usize = jobs.iter().map(|job| job.bytes).sum();
                    self.commit(jobs);
                    self.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    stop
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            if stop {
                // Nothing is counted after this, so that the next start has nothing to count again.
                self.commit_span_metrics(self.core.now());
                // The last entry: whoever reads the store later knows that nothing came after it.
                self.commit_status(self.core.now(), true);
                // The next start reads neither keys nor segments.
                if let Err(error) = self.dedup.settle_all() {
                    tracing::warn!(%error, "cannot move dedup keys to disk: the next start reads them in the log");
                }
                let mut state = self.core.state.lock();
                state.keys = self.dedup.cut(state.next_lsn);
                self.log.rotate();
                break;
            }
            self.tick();
        }
    }

    /// What happens with time and not with requests.
    pub(crate) fn tick(&mut self) {
        self.follow_policies();
        let now = self.next_moment();
        self.dedup.advance(now.steady_nanos());
        if let Err(error) = self.dedup.settle() {
            tracing::error!(%error, "cannot move dedup keys to disk: they stay in memory");
            self.core.counters.dedup_failures.fetch_add(1, Ordering::Relaxed);
        }
        self.dedup.delete_retired(self.core.keys_needed_from.load(Ordering::Acquire));
        let shown = {
            let mut state = self.core.state.lock();
            state.keys = self.dedup.cut(state.next_lsn);
            // Every later commit is later than this.
            state.pass(now);
            let shown = state.expire(now.steady_nanos());
            self.held().set(Part::Undecided, state.undecided_bytes());
            shown
        };
        self.core.live.show(&shown);
        if now.commit_unix_nanos >= self.next_status {
            let interval = signed(node_status::INTERVAL_SECONDS) * NANOS_PER_SECOND;
            self.next_status = now.commit_unix_nanos.saturating_add(interval);
            self.commit_status(now.commit_unix_nanos, false);
        }
        if now.commit_unix_nanos >= self.next_span_metrics {
            self.next_span_metrics = now.commit_unix_nanos.saturating_add(span_metrics::INTERVAL_NANOS);
            self.commit_span_metrics(now.commit_unix_nanos);
        }
        self.publish();
    }

    fn publish(&self) {
        let counters = &self.core.counters;
        counters.dedup_keys.store(count(self.dedup.len()), Ordering::Relaxed);
        counters.dedup_disk_bytes.store(self.dedup.disk_bytes(), Ordering::Relaxed);
        counters.dedup_filter_bytes.store(count(self.dedup.filter_bytes()), Ordering::Relaxed);
        self.held().set(Part::Keys, self.dedup.memory_bytes());
        counters.clock_jumps.store(self.times.jumps(), Ordering::Relaxed);
    }

    fn held(&self) -> &Held {
        &self.core.counters.received.held
    }

    fn follow_policies(&mut self) {
        let wanted = self.wanted_policies.load_full();
        if !Arc::ptr_eq(&wanted, &self.policies) {
            // A segment says at its start which policies hold, so new ones begin a new segment.
            self.log.rotate();
            let shown = {
                let mut state = self.core.state.lock();
                self.in_force = InForce { policies: (*wanted).clone(), since: state.moment() };
                state.put_in_force(&self.in_force)
            };
            self.core.live.show(&shown);
            self.policies = wanted;
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        self.follow_policies();
        let mut lsn = self.next_lsn();
        let mut frames = std::mem::take(&mut self.frames);
        let mut group = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Job { decoded, reply, .. } = job;
            let bytes = decoded.body_bytes;
            let moment = self.next_moment();
            match self.prepare(decoded, lsn, moment, &mut frames) {
                Ok(mut prepared) => {
                    prepared.reply = Some(reply);
                    // While an entry is packed its rows stand there twice more.
                    let packing = usize::try_from(prepared.header.row_bytes).unwrap_or(usize::MAX).saturating_mul(2);
                    self.held().set(Part::Entries, frames.capacity().saturating_add(packing));
                    group.push((prepared, bytes));
                    lsn += 1;
                }
                Err(error) => {
                    tracing::error!(%error, "a request cannot be written to the log");
                    self.core.refused(bytes);
                    let _ = reply.send(Err(not_durable(&error)));
                }
            }
        }
        self.core.counters.requests.fetch_add(count(group.len()), Ordering::Relaxed);
        self.write(&frames, group);
        frames.clear();
        frames.shrink_to(FRAMES_BYTES);
        self.held().set(Part::Entries, frames.capacity());
        self.frames = frames;
    }

    fn next_lsn(&self) -> u64 {
        self.core.state.lock().next_lsn
    }

    fn next_moment(&mut self) -> Moment {
        self.times.next((self.core.clock)())
    }

    fn prepare(
        &mut self,
        decoded: Decoded,
        lsn: u64,
        moment: Moment,
        frames: &mut Vec<u8>,
    ) -> Result<Prepared, BadEntry> {
        let Decoded { signal, batch, keys, contents, fingerprint, rejected, trusted, .. } = decoded;
        let judgement = self.dedup.judge(signal, fingerprint, &keys, &contents).map_err(BadEntry::Dedup)?;
        let received = received(signal, &batch, judgement.fresh.as_ref());
        let Judgement { fresh, deduplicated, conflicts, keys } = judgement;
        let batch = match &fresh {
            Some(fresh) => filtered(&batch, fresh)?,
            None => batch,
        };
        let accepted = count(batch.num_rows());
        let batch = (accepted > 0).then(|| at_commit(batch, moment.commit_unix_nanos)).transpose()?;
        let decisions = batch.as_ref().filter(|_| signal == Signal::Traces).map_or(0, count_decisions);
        let (packed, row_bytes) = batch.as_ref().map(|batch| self.packer.pack(batch)).transpose()?.unwrap_or_default();
        let header = Header {
            version: entry::VERSION,
            lsn,
            commit_unix_nanos: moment.commit_unix_nanos,
            jumped_nanos: moment.jumped_nanos,
            table: Some(table_of(signal)),
            trusted,
            decisions,
            rejected,
            received,
            row_bytes,
            policies: None,
        };
        let entry = Entry { header, keys, packed };
        let start = frames.len();
        if let Err(error) = entry::write(&entry, frames) {
            frames.truncate(start);
            return Err(error);
        }
        // Before the sync, so that a copy in the same group is seen; forgotten again if the sync fails.
        if !entry.keys.is_empty() {
            self.dedup.remember(&Keys {
                lsn,
                steady_nanos: moment.steady_nanos(),
                decisions,
                may_conflict: conflicts > 0,
                keys: &entry.keys,
            });
        }
        self.packer.reuse(entry.packed);
        let committed = Committed { accepted, deduplicated };
        Ok(Prepared { header: entry.header, batch, committed, conflicts, reply: None })
    }

    fn write(&mut self, frames: &[u8], group: Vec<(Prepared, usize)>) {
        let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { return };
        let (first, last) = (first.header.lsn, (last.header.lsn, last.header.moment().steady_nanos()));
        if let Err(error) = self.log.append(frames, first, last, &self.in_force) {
            tracing::error!(%error, requests = group.len(), "the log cannot be written: requests are refused");
            self.core.counters.log_failures.fetch_add(1, Ordering::Relaxed);
            self.dedup.forget_from(first);
            for (prepared, bytes) in group {
                self.core.refused(bytes);
                if let Some(reply) = prepared.reply {
                    let _ = reply.send(Err(not_durable(&error)));
                }
            }
            return;
        }
        self.core.counters.groups.fetch_add(1, Ordering::Relaxed);
        let mut answers = Vec::with_capacity(group.len());
        let mut shown = Vec::with_capacity(group.len());
        {
            let mut state = self.core.state.lock();
            for (prepared, _) in group {
                self.core.counters.conflicts.fetch_add(prepared.conflicts, Ordering::Relaxed);
                shown.push(state.apply(&prepared.header, prepared.batch));
                answers.push((prepared.reply, prepared.committed));
            }
            // In the same step, so that no seal takes these entries for ones that the window does not need.
            state.keys = self.dedup.cut(state.next_lsn);
        }
        for (reply, committed) in answers {
            if let Some(reply) = reply {
                let _ = reply.send(Ok(committed));
            }
        }
        self.core.live.show_all(&shown);
    }

    fn commit_status(&mut self, now: i64, farewell: bool) {
        let (lsn, moment) = (self.next_lsn(), self.next_moment());
        let counters = &self.core.counters;
        let row = {
            let state = self.core.state.lock();
            node_status::row(&Facts {
                now_unix_nanos: now,
                watermark_unix_nanos: state.watermark_unix_nanos,
                identity: &self.core.identity,
                store_id: self.core.store_id(),
                refused_requests: counters.refused_requests.load(Ordering::Relaxed),
                refused_bytes: counters.refused_bytes.load(Ordering::Relaxed),
                ledger: &state.ledger(),
                ranges: &state.ranges(),
                quarantined: counters.quarantined.load(Ordering::Relaxed),
                sequences: state.sequences(),
                lost: &state.lost(),
                refusals: &counters.received.refusals(),
                receive_to_log_peak_bytes: count(counters.received.held.peak()),
                farewell,
            })
        };
        let mut frames = Vec::new();
        match row
            .map_err(BadEntry::from)
            .and_then(|row| own_entry(&mut self.packer, Table::NodeStatus, row, (lsn, moment), &mut frames))
        {
            Ok(prepared) => self.write(&frames, vec![(prepared, 0)]),
            Err(error) => tracing::error!(%error, "cannot make the node's status"),
        }
    }

    fn commit_span_metrics(&mut self, now: i64) {
        let (lsn, moment) = (self.next_lsn(), self.next_moment());
        let rows = self.core.state.lock().span_metrics.rows(now, &self.core.identity);
        let mut frames = Vec::new();
        let prepared = match rows {
            Ok(None) => return,
            Ok(Some(rows)) => own_entry(&mut self.packer, Table::Metrics, rows, (lsn, moment), &mut frames),
            Err(error) => Err(error.into()),
        };
        match prepared {
            Ok(prepared) => self.write(&frames, vec![(prepared, 0)]),
            Err(error) => tracing::error!(%error, "cannot make the metrics of spans"),
        }
    }
}

fn gather(first: Job, receiver: &Receiver<Message>) -> (Vec<Job>, bool) {
    let mut bytes = first.bytes;
    let mut jobs = vec![first];
    while jobs.len() < GROUP_REQUESTS && bytes < GROUP_BYTES {
        match receiver.try_recv() {
            Ok(Message::Commit(job)) => {
                bytes += job.bytes;
                jobs.push(*job);
            }
            Ok(Message::Stop) => return (jobs, true),
            Err(_) => break,
        }
    }
    (jobs, false)
}

/// An entry of the node's own rows, which nobody sent and no ledger counts.
fn own_entry(
    packer: &mut Packer,
    table: Table,
    row: RecordBatch,
    (lsn, moment): (u64, Moment),
    frames: &mut Vec<u8>,
) -> Result<Prepared, BadEntry> {
    let batch = at_commit(row, moment.commit_unix_nanos)?;
    let (packed, row_bytes) = packer.pack(&batch)?;
    let header = Header {
        version: entry::VERSION,
        lsn,
        commit_unix_nanos: moment.commit_unix_nanos,
        jumped_nanos: moment.jumped_nanos,
        table: Some(table),
        trusted: true,
        decisions: 0,
        rejected: 0,
        received: Vec::new(),
        row_bytes,
        policies: None,
    };
    let entry = Entry { header, keys: Vec::new(), packed };
    entry::write(&entry, frames)?;
    Ok(Prepared {
        header: entry.header,
        batch: Some(batch),
        committed: Committed::default(),
        conflicts: 0,
        reply: None,
    })
}

fn not_durable(error: &dyn std::fmt::Display) -> Refused {
    Refused::NotDurable { reason: error.to_string(), retry_after: RETRY_DISK }
}

/// The batch with its commit time.
fn at_commit(batch: RecordBatch, commit: i64) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    with_columns(batch, &[("observed_time", moments(vec![commit; rows]))])
}

/// The table of a signal's records.
pub(crate) fn table_of(signal: Signal) -> Table {
    match signal {
        Signal::Traces => Table::Spans,
        Signal::Metrics => Table::Metrics,
        Signal::Logs => Table::Logs,
    }
}

pub(crate) fn received(signal: Signal, batch: &RecordBatch, fresh: Option<&BooleanArray>) -> Vec<Received> {
    let mut owners: BTreeMap<LedgerKey, (u64, u64)> = BTreeMap::new();
    for (owner, run) in Owners::of(signal, batch).runs() {
        let counts = owners.entry(owner).or_default();
        counts.0 += count(run.len());
        counts.1 += fresh.map_or(0, |fresh| count(run.len() - fresh.slice(run.start, run.len()).true_count()));
    }
    owners
        .into_iter()
        .map(|(key, (received, deduplicated))| Received {
            profile: key.profile,
            account_id: key.account_id,
            received,
            deduplicated,
        })
        .collect()
}
