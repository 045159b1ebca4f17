//! Other profiles, and other authorities for providers' certificates, while calls are under way: read, checked as a
//! whole, and put in force in one step, or not at all.
//!
//! A reload makes a new core and swaps it in. Changing the catalog in place would need a lock on the request path and
//! could show a call half of each; restarting the node would forget circuits, heights and evidence, and end every
//! connection. A call keeps the core that it began with. Profiles with any error change nothing: the last good ones stay,
//! each error is logged once, and the files are read again when they change and every [`RETRY_EVERY`].

mod changes;
mod fingerprint;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lariat_schema::ids::InstanceId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::core::Core;
use crate::health::{Place, Succession};
use crate::probe;
use crate::profiles::{self, Catalog, ProfileError};
use crate::record::now_unix_nanos;
use crate::server::Site;
use crate::upstream::{CaFileError, Trust};
pub use changes::Changes;
use fingerprint::Fingerprint;

/// How often the files are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Files that look the same twice, this far apart, are taken to be written to their end.
const SETTLED_AFTER: Duration = Duration::from_millis(200);
/// How often files that change all the time are waited for before they are read all the same.
const MAX_SETTLING: u32 = 10;
/// How long profiles with errors are left alone while their files look the same: what they lack may come from elsewhere,
/// such as a mount.
const RETRY_EVERY: Duration = Duration::from_secs(30);

/// Where profiles are read again from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Their folder.
    pub dir: PathBuf,
    /// Answers for `${VARIABLE}`.
    pub env: fn(&str) -> Option<String>,
}

/// What else of its node is read again when an operator asks for it: whether there is any such, or what is wrong with it.
/// It is nobody's but the node's what that is.
#[derive(Clone)]
pub struct Beside(pub Arc<dyn Fn() -> ReadBeside + Send + Sync>);

/// The reading of it.
pub type ReadBeside = Pin<Box<dyn Future<Output = Result<bool, String>> + Send>>;

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beside")
    }
}

/// Every file that a reload reads.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) source: Option<Source>,
    /// The operator's authorities.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) beside: Option<Beside>,
}

/// Why the old profiles stay in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Nothing can be read again.
    #[error("the profiles of this proxy do not come from files, so there is nothing to read again")]
    NoFiles,
    /// The operator's: what the files hold is wrong.
    #[error("the profiles have {} error(s); the old ones stay in force", .0.len())]
    Invalid(Vec<ProfileError>),
    /// The operator's: the authorities of providers' certificates cannot be read.
    #[error("{0}; the old profiles and authorities stay in force")]
    CaFile(CaFileError),
    /// The TLS library refuses the authorities.
    #[error("cannot set up TLS: {0}; the old profiles and authorities stay in force")]
    Tls(rustls::Error),
    /// The reading itself broke.
    #[error("the reading of the profiles ended early; the old ones stay in force")]
    Broken,
}

/// How reloads ended so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) applied: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// 1 where the latest one did not fail.
    pub(crate) latest_succeeded: AtomicU64,
    /// When the files last held valid profiles, Unix seconds.
    pub(crate) latest_success_unix_s: AtomicU64,
}

/// What reloads need besides the site.
pub(crate) struct Reloader {
    files: Files,
    pub(crate) counters: Counters,
    /// Held through a reload: there is one at a time.
    last: tokio::sync::Mutex<Last>,
    /// The tasks of each instance are ended by its token.
    keepers: Mutex<HashMap<InstanceId, CancellationToken>>,
    tasks: TaskTracker,
    background: CancellationToken,
    catalogs: watch::Sender<Arc<Catalog>>,
}

/// The latest reload.
#[derive(Default)]
struct Last {
    /// The look of the files that it read.
    read: Option<Fingerprint>,
    failed_at: Option<Instant>,
    /// The errors that are in the log already.
    logged: HashSet<String>,
}

impl Last {
    /// Whether files of that look are to be read now.
    fn is_due(&self, found: &Fingerprint, now: Instant) -> bool {
        self.read.as_ref() != Some(found)
            || self.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= RETRY_EVERY)
    }

    fn fail(&mut self, errors: HashSet<String>) {
        self.failed_at = Some(Instant::now());
        for error in errors.difference(&self.logged) {
            tracing::error!(error, "what was read again is wrong; what was in force stays so");
        }
        self.logged = errors;
    }
}

impl Reloader {
    pub(crate) fn new(files: Files, catalog: Arc<Catalog>, tasks: TaskTracker, background: CancellationToken) -> Self {
        let counters = Counters { latest_succeeded: AtomicU64::new(1), ..Counters::default() };
        counters.latest_success_unix_s.store(now_unix_nanos() / 1_000_000_000, Ordering::Relaxed);
        let (last, keepers, catalogs) = (Default::default(), Mutex::default(), watch::Sender::new(catalog));
        Self { files, counters, last, keepers, tasks, background, catalogs }
    }

    /// The catalog in force, and each one after it.
    pub(crate) fn catalogs(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalogs.subscribe()
    }

    fn count(&self, outcome: Result<&Changes, &ReloadError>) {
        let counters = &self.counters;
        let counter = match outcome {
            Ok(Changes { applied: true, .. }) => &counters.applied,
            Ok(_) => &counters.unchanged,
            Err(_) => &counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        counters.latest_succeeded.store(outcome.is_ok().into(), Ordering::Relaxed);
        if outcome.is_ok() {
            counters.latest_success_unix_s.store(now_unix_nanos() / 1_000_000_000, Ordering::Relaxed);
        }
    }
}

/// Reads the profiles again and puts them in force.
///
/// # Errors
/// Then the old ones stay.
pub(crate) async fn reload(site: &Arc<Site>) -> Result<Changes, ReloadError> {
    read_again(site).instrument(tracing::info_span!("reload")).await
}

/// Reads again what is beside the profiles; false if nothing is.
///
/// # Errors
/// The old one stays.
pub(crate) async fn reload_beside(site: &Arc<Site>) -> Result<bool, String> {
    match &site.reloader.files.beside {
        Some(Beside(read)) => read().await,
        None => Ok(false),
    }
}

async fn read_again(site: &Arc<Site>) -> Result<Changes, ReloadError> {
    let reloader = &site.reloader;
    let Files { source: Some(source), ca_file, .. } = reloader.files.clone() else { return Err(ReloadError::NoFiles) };
    let mut last = reloader.last.lock().await;
    let reading = tokio::task::spawn_blocking(move || {
        // Looked at before they are read: what is written meanwhile looks different afterwards and is read again.
        let found = Fingerprint::of(&source.dir, ca_file.as_deref());
        let trust = Trust::read(ca_file.as_deref()).map_err(ReloadError::CaFile);
        let read = profiles::load(&source.dir, &source.env).map_err(ReloadError::Invalid);
        // The profiles' own errors first: there may be many of them.
        (found, read.and_then(|catalog| trust.map(|trust| (catalog, trust))))
    });
    let outcome = match reading.await {
        Ok((found, read)) => {
            last.read = Some(found);
            read
        }
        Err(_) => Err(ReloadError::Broken),
    };
    let outcome = match outcome {
        Ok((catalog, trust)) => put_in_force(site, catalog, trust).await,
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(_) => (last.failed_at, last.logged) = (None, HashSet::new()),
        Err(ReloadError::Invalid(errors)) => last.fail(errors.iter().map(ToString::to_string).collect()),
        Err(error) => last.fail(HashSet::from([error.to_string()])),
    }
    reloader.count(outcome.as_ref());
    outcome
}

/// Swaps a catalog and authorities in, unless they are the ones in force.
async fn put_in_force(site: &Arc<Site>, catalog: Catalog, trust: Trust) -> Result<Changes, ReloadError> {
    let (changes, core) = {
        let _changing = site.changing.lock();
        let before = site.core();
        let mut changes = Changes::between(&before.catalog, &catalog);
        changes.authorities = !before.upstreams.trusts(&trust);
        changes.applied |= changes.authorities;
        if !changes.applied {
            return Ok(changes);
        }
        let catalog = Arc::new(catalog);
        let upstreams = before.upstreams.trusting(trust).map_err(ReloadError::Tls)?;
        let upstreams = Arc::new(upstreams.succeed(&catalog));
        let book = before.book.succeed(succession(&before, &catalog)).attending(&catalog, &upstreams);
        let core = Arc::new(before.with(catalog, Arc::new(book), upstreams));
        site.replace(core.clone());
        (changes, core)
    };
    tracing::info!(
        policy_hash = &*changes.policy_hash,
        added = ?changes.added,
        removed = ?changes.removed,
        changed = ?changes.changed,
        authorities = changes.authorities,
        "other profiles are in force"
    );
    core.recorder.follow(core.catalog.clone(), core.book.clone());
    keep_instances(site);
    site.reloader.catalogs.send_replace(core.catalog.clone());
    core.recorder.tell_reload(core.catalog.clone()).await;
    Ok(changes)
}

/// What stays of what is known: instances by their id, drained providers by their names, evidence by its profile.
fn succession(before: &Core, after: &Catalog) -> Succession {
    let drained = before.book.snapshot().drained.clone();
    let name = |(p, c, i): Place| {
        let profile = &before.catalog.profiles[p];
        let chain = &profile.chains[c];
        (profile.slug.clone(), chain.key.clone(), chain.providers[i].id.clone())
    };
    let place = |(profile, chain, provider)| {
        let (p, profile) = after.profiles.iter().enumerate().find(|(_, it)| it.slug == profile)?;
        let (c, chain) = profile.chains.iter().enumerate().find(|(_, it)| it.key == chain)?;
        let i = chain.providers.iter().position(|it| it.id == provider)?;
        Some((p, c, i))
    };
    Succession {
        kept: after.instances.iter().map(|instance| before.catalog.instance_at(&instance.id)).collect(),
        shared: after.shared_instances(),
        drained: drained.into_iter().map(name).filter_map(place).collect(),
        profiles: after.profiles.iter().map(|profile| profile.key).collect(),
    }
}

/// Starts what every instance of the catalog needs and does not have yet, and ends what serves instances that are gone.
pub(crate) fn keep_instances(site: &Arc<Site>) {
    let core = site.core();
    let reloader = &site.reloader;
    let mut keepers = reloader.keepers.lock();
    keepers.retain(|id, stop| {
        let stays = core.catalog.instance_at(id).is_some();
        if !stays {
            stop.cancel();
        }
        stays
    });
    for instance in &core.catalog.instances {
        if !keepers.contains_key(&instance.id) {
            let stop = reloader.background.child_token();
            reloader.tasks.spawn(probe::watch(site.clone(), instance.id.clone(), stop.clone()));
            keepers.insert(instance.id.clone(), stop);
        }
    }
}

/// Reloads when the files look different, until stopped.
pub(crate) async fn watch_files(site: Arc<Site>, stop: CancellationToken) {
    let files = site.reloader.files.clone();
    if files.source.is_none() {
        return;
    }
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watching = async {
        loop {
            ticks.tick().await;
            let Some(found) = look(&files).await else { continue };
            if site.reloader.last.lock().await.is_due(&found, Instant::now()) {
                settle(&files, found).await;
                // What came of it is counted and logged.
                let _told = reload(&site).await;
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

async fn look(files: &Files) -> Option<Fingerprint> {
    let Files { source, ca_file, .. } = files.clone();
    let dir = source?.dir;
    tokio::task::spawn_blocking(move || Fingerprint::of(&dir, ca_file.as_deref())).await.ok()
}

/// Waits until the files look the same twice.
async fn settle(files: &Files, mut found: Fingerprint) {
    for _ in 0..MAX_SETTLING {
        tokio::time::sleep(SETTLED_AFTER).await;
        match look(files).await {
            Some(now) if now != found => found = now,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_look_different_and_wrong_ones_again_after_a_while() {
        let now = Instant::now();
        let found = Fingerprint::default();
        let mut last = Last::default();
        assert!(last.is_due(&found, now), "never read");
        last.read = Some(found.clone());
        assert!(!last.is_due(&found, now + RETRY_EVERY));
        last.failed_at = Some(now);
        assert!(!last.is_due(&found, now + RETRY_EVERY / 2));
        assert!(last.is_due(&found, now + RETRY_EVERY));
    }
}
