//! What the stages of one store share: the directory, the state behind its lock, the manifest and the counters.
//! Belongs to one collector; nothing of it is global to the process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{Boot, NodeIdentity, TableRange};
use lariat_schema::tables::Table;
use object_store::ObjectStore;
use parking_lot::Mutex;

use super::bucket::Bucket;
use super::directory::Directory;
use super::maintain::StoreSettings;
use super::manifest::Manifest;
use super::state::State;
use super::{ReadStore, SealedFile, Snapshot};
use crate::dedup::Window;
use crate::live::Live;
use crate::log::Closed;
use crate::log::clock::Reading;
use crate::receive;

/// The clocks.
pub(crate) type Clock = Arc<dyn Fn() -> Reading + Send + Sync>;

/// The system's clocks.
pub(crate) fn system_clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Reading {
            unix_nanos: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            elapsed_nanos: i64::try_from(start.elapsed().as_nanos()).unwrap_or(i64::MAX),
        }
    })
}

/// What a store counts beside its ledger.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// What its receivers count, for the node's account of itself.
    pub(crate) received: Arc<receive::Counters>,
    pub(crate) requests: AtomicU64,
    pub(crate) refused_requests: AtomicU64,
    pub(crate) refused_bytes: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) dedup_keys: AtomicU64,
    pub(crate) dedup_disk_bytes: AtomicU64,
    pub(crate) dedup_filter_bytes: AtomicU64,
    pub(crate) dedup_failures: AtomicU64,
    pub(crate) clock_jumps: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) log_failures: AtomicU64,
    pub(crate) seals: AtomicU64,
    pub(crate) seal_failures: AtomicU64,
    pub(crate) odd_files: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_failures: AtomicU64,
    pub(crate) derived_hours: AtomicU64,
    pub(crate) packed_files: AtomicU64,
    pub(crate) torn_bytes: AtomicU64,
    pub(crate) checkpoint_failures: AtomicU64,
    pub(crate) checkpoint_used: AtomicU64,
    pub(crate) start_log_bytes: AtomicU64,
    pub(crate) replayed_entries: AtomicU64,
    pub(crate) start_nanos: AtomicU64,
    pub(crate) verified_files: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) expired_files: AtomicU64,
    pub(crate) expired_rows: AtomicU64,
    pub(crate) lost_files: AtomicU64,
    pub(crate) lost_rows: AtomicU64,
    pub(crate) copies_dropped: AtomicU64,
    pub(crate) budget_refusals: AtomicU64,
    pub(crate) uploads: AtomicU64,
    pub(crate) upload_bytes: AtomicU64,
    pub(crate) upload_parts: AtomicU64,
    pub(crate) upload_failures: AtomicU64,
    pub(crate) upload_conflicts: AtomicU64,
    pub(crate) upload_waiting: AtomicU64,
    pub(crate) disk_used_bytes: AtomicU64,
    pub(crate) clock_jumped: AtomicU64,
}

/// Shared by the writer of the log, the sealer and the readers.
pub(crate) struct Core {
    pub(crate) directory: Directory,
    pub(crate) identity: NodeIdentity,
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    pub(crate) flush_age_nanos: i64,
    pub(crate) settings: StoreSettings,
    /// One seal at a time.
    pub(crate) sealing: Mutex<()>,
    /// One change of sealed files at a time, apart from sealing new ones.
    pub(crate) tending: Mutex<()>,
    /// Long work ends early.
    pub(crate) closing: AtomicBool,
    /// Nothing more is taken in until there is room on the disk.
    pub(crate) over_budget: AtomicBool,
    /// Files whose checksum was not compared since the start: no more than there were then, and those of queries.
    pub(crate) unverified: Mutex<VecDeque<String>>,
    pub(crate) state: Mutex<State>,
    pub(crate) manifest: Mutex<Manifest>,
    pub(crate) closed: Closed,
    /// Oldest entry of the log that the dedup window needs, as the manifest says.
    pub(crate) keys_needed_from: AtomicU64,
    pub(crate) live: Live,
    pub(crate) counters: Counters,
}

impl Core {
    pub(crate) fn now(&self) -> i64 {
        (self.clock)().unix_nanos
    }

    /// A request was not taken in.
    pub(crate) fn refused(&self, bytes: usize) {
        self.counters.refused_requests.fetch_add(1, Ordering::Relaxed);
        self.counters.refused_bytes.fetch_add(crate::columns::count(bytes), Ordering::Relaxed);
    }
}

impl ReadStore for Core {
    fn store_id(&self) -> StoreId {
        self.directory.store_id
    }

    fn snapshot(&self, table: Table) -> Snapshot {
        self.state.lock().snapshot(table)
    }

    fn watermark_unix_nanos(&self) -> i64 {
        self.state.lock().watermark_unix_nanos
    }

    fn ranges(&self) -> Vec<TableRange> {
        self.state.lock().ranges()
    }

    fn bucket(&self) -> Option<Arc<dyn ObjectStore>> {
        self.settings.bucket.as_ref().map(Bucket::below_root)
    }

    fn suspect(&self, files: &[Arc<SealedFile>]) {
        let parquet = self.directory.parquet();
        let mut unverified = self.unverified.lock();
        for file in files {
            let Ok(path) = file.path.strip_prefix(&parquet) else { continue };
            let path = path.to_string_lossy().into_owned();
            unverified.retain(|waiting| *waiting != path);
            unverified.push_front(path);
        }
    }

    fn boots(&self) -> Vec<Boot> {
        self.state.lock().boots()
    }
}
