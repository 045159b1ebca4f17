//! Profiles: which chains exist, which providers serve them, and the limits of both.
//!
//! A directory of YAML files becomes one validated [`Catalog`] that nothing changes afterwards; the request path only
//! follows indices in it. The physical upstreams are kept apart from the providers that name them, since two profiles
//! that share an upstream must share what is known of its health, while an upstream with other credentials is another
//! one. Nothing here reads the environment: the caller hands a function over.

mod read;
pub(crate) mod redact;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lariat_schema::ids::{ChainName, InstanceId, ProfileName, ProviderId};
use lariat_schema::vocabulary::{ErrorCategory, Strategy, Transport};
use sha2::{Digest, Sha256};

pub use tree::{Node, ProfileError, Tree};

/// Every profile and every physical upstream of this node.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// In the order of their slugs.
    pub profiles: Vec<Profile>,
    /// What the providers' `instance` points into.
    pub instances: Vec<Instance>,
    /// Hash of `policy`.
    pub policy_hash: Arc<str>,
    /// The policy in force as JSON, without any secret.
    pub policy: Arc<str>,
}

/// What is kept of a profile from one catalog to the next is kept under this: places change, slugs do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProfileKey(u64);

impl ProfileKey {
    pub(crate) fn of(slug: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(slug.as_bytes()))
    }
}

/// One routing configuration.
#[derive(Debug, Clone)]
pub struct Profile {
    pub(crate) key: ProfileKey,
    /// Its name in paths and in the record; equal to its file's name.
    pub slug: ProfileName,
    /// Name for people.
    pub name: String,
    /// Strategy of calls that name none.
    pub default_strategy: Strategy,
    /// What the collector keeps of its decisions.
    pub sampling: Sampling,
    /// True where a client's trace context is adopted.
    pub trust_trace_context: bool,
    /// Limits on the clients of this profile on this node.
    pub limits: ClientLimits,
    /// When a second attempt is sent beside a slow one.
    pub hedging: Option<Hedging>,
    /// The response cache.
    pub cache: Cache,
    /// True where selectors for people leave it out.
    pub unlisted: bool,
    /// Picture for people.
    pub logo: Option<String>,
    /// In the order of the file.
    pub chains: Vec<Chain>,
}

/// Limits on the clients of a profile; an absent one is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientLimits {
    /// Calls per second.
    pub rps: Option<u64>,
    /// Calls at once; absent, as many as in a second.
    pub burst: Option<u64>,
}

/// What is kept of a profile's decisions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Share of the unremarkable decisions that is kept, from 0 to 1.
    pub rate: f64,
    /// From this duration on a decision is kept whole, in milliseconds.
    pub slow_ms: u64,
    /// Budget for decisions that are kept whole, per second.
    pub kept_whole_per_second: u64,
}

/// When a hedge is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedging {
    /// Quantile of the channel's own latency after which it is sent.
    pub quantile: f64,
    /// Share of calls that may be hedged.
    pub budget: f64,
}

/// The response cache of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Off unless said otherwise.
    pub enabled: bool,
    /// Bound on its size in bytes.
    pub max_bytes: u64,
}

/// A chain of a profile.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Key in the profile, also its name in paths and in the record.
    pub key: ChainName,
    /// EIP-155 id.
    pub chain_id: u64,
    /// Name for people.
    pub name: String,
    /// Further names in paths.
    pub aliases: Vec<String>,
    /// Configured time between blocks, in milliseconds.
    pub block_time_ms: Option<u64>,
    /// Time between two probes of one upstream, in milliseconds.
    pub probe_interval_ms: u64,
    /// Lag in blocks from which a warning is logged.
    pub lag_alert_threshold_blocks: u64,
    /// Lag in blocks beyond which a provider is not used; none is no limit.
    pub max_lag_blocks: Option<u64>,
    /// Age in blocks from which a call needs an archival provider.
    pub archival_threshold: u64,
    /// Settings of subscriptions.
    pub websocket: Websocket,
    /// Drawing on a map: colour and size.
    pub ui_topology: Option<(String, String)>,
    /// In the order of the file.
    pub providers: Vec<Provider>,
}

/// Settings of a chain's WebSocket subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Websocket {
    /// Whether new heads are subscribed to.
    pub subscribe_new_heads: bool,
    /// Without a head for this long a subscription is stale, in milliseconds.
    pub new_heads_timeout_ms: u64,
    /// Bound on the gap that is filled after a failover, in blocks.
    pub max_backfill_blocks: u64,
    /// Bound on the time for it, in milliseconds.
    pub backfill_timeout_ms: u64,
}

/// A provider of a chain in a profile.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Unique in its chain.
    pub id: ProviderId,
    /// Name for people.
    pub name: String,
    /// Lower is preferred by the strategy `priority`.
    pub priority: u32,
    /// Whether it keeps old state.
    pub archival: bool,
    /// Whether new heads are subscribed to, if it differs from the chain's setting.
    pub subscribe_new_heads: Option<bool>,
    /// Index into [`Catalog::instances`].
    pub instance: usize,
    /// Whether it is reached over HTTP.
    pub has_http: bool,
    /// Whether it is reached over a WebSocket.
    pub has_ws: bool,
    /// Its channels' names in the record, `id:http` and `id:ws`.
    pub(crate) channels: [Arc<str>; 2],
    /// Whether it is told of the trace that a call belongs to.
    pub trace_context: bool,
    /// What it cannot do.
    pub capabilities: Capabilities,
}

/// What a provider cannot do.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// Categories of methods that it lacks.
    pub unsupported_categories: Vec<String>,
    /// Single methods that it lacks.
    pub unsupported_methods: Vec<String>,
    /// Largest span of `eth_getLogs`, in blocks.
    pub max_block_range: Option<u64>,
    /// Oldest state that it serves, in blocks behind the head, for `block_age_methods`.
    pub max_block_age: Option<u64>,
    /// The methods that `max_block_age` is about.
    pub block_age_methods: Vec<String>,
    /// Its own rules for errors; the first that matches wins over the general ones.
    pub error_rules: Vec<ErrorRule>,
}

/// A provider's own rule for an error.
#[derive(Debug, Clone)]
pub struct ErrorRule {
    /// The code, if the rule is about one.
    pub code: Option<i64>,
    /// Any of these, in lower case, stands in the message; empty matches every message.
    pub message_contains: Vec<String>,
    /// What such an error is.
    pub category: ErrorCategory,
}

/// A physical upstream: same chain, URLs and credentials.
#[derive(Clone)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// EIP-155 id that it must report.
    pub chain_id: u64,
    /// JSON-RPC over HTTP.
    pub http: Option<Endpoint>,
    /// JSON-RPC over a WebSocket.
    pub ws: Option<Endpoint>,
    /// Headers of every request to it, credentials included.
    pub(crate) headers: http::HeaderMap,
    /// Shortest probe interval over the chains that use it, in milliseconds.
    pub probe_interval_ms: u64,
    /// The first profile, chain and provider that name it: what its probes are recorded under.
    pub named_by: (ProfileName, ChainName, ProviderId),
}

/// Where an instance is reached.
#[derive(Clone)]
pub struct Endpoint {
    /// The whole URL, which may hold a secret.
    pub(crate) uri: http::Uri,
    /// Host of the URL.
    pub host: Arc<str>,
    /// Port of the URL, explicit or the scheme's.
    pub port: u16,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("id", &self.id)
            .field("http", &self.http)
            .field("ws", &self.ws)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Whether it is reached over a transport.
    pub(crate) const fn has(&self, transport: Transport) -> bool {
        match transport {
            Transport::Http => self.has_http,
            Transport::Ws => self.has_ws,
        }
    }

    /// Name of its channel over a transport.
    pub(crate) const fn channel(&self, transport: Transport) -> &Arc<str> {
        match transport {
            Transport::Http => &self.channels[0],
            Transport::Ws => &self.channels[1],
        }
    }
}

impl Instance {
    /// Where it is reached over a transport, if at all.
    #[must_use]
    pub fn endpoint(&self, transport: Transport) -> Option<&Endpoint> {
        match transport {
            Transport::Http => self.http.as_ref(),
            Transport::Ws => self.ws.as_ref(),
        }
    }

    /// Host and port of it over a transport, for the record; empty where it has none.
    pub(crate) fn server(&self, transport: Transport) -> (Arc<str>, u16) {
        self.endpoint(transport).map_or_else(|| (Arc::from(""), 0), |endpoint| (endpoint.host.clone(), endpoint.port))
    }
}

impl Catalog {
    /// The profile of that slug.
    #[must_use]
    pub fn profile(&self, slug: &str) -> Option<(usize, &Profile)> {
        self.profiles.iter().enumerate().find(|(_, profile)| profile.slug.as_str() == slug)
    }

    /// The place of an instance, if there is one of that id.
    pub(crate) fn instance_at(&self, id: &InstanceId) -> Option<usize> {
        self.instances.iter().position(|instance| instance.id == *id)
    }

    /// For each instance, whether several profiles use it.
    pub(crate) fn shared_instances(&self) -> Vec<bool> {
        let mut users: Vec<Option<usize>> = vec![None; self.instances.len()];
        let mut shared = vec![false; self.instances.len()];
        for (at, profile) in self.profiles.iter().enumerate() {
            for provider in profile.chains.iter().flat_map(|chain| &chain.providers) {
                shared[provider.instance] |= users[provider.instance].is_some_and(|user| user != at);
                users[provider.instance] = Some(at);
            }
        }
        shared
    }

    /// Makes a catalog of profiles and the upstreams that they point into.
    fn assemble(profiles: Vec<Profile>, instances: Vec<Instance>) -> Self {
        let policy = redact::redacted(&profiles, &instances).to_string();
        let policy_hash = hex::encode(&Sha256::digest(policy.as_bytes())[..8]);
        Self { profiles, instances, policy_hash: policy_hash.into(), policy: policy.into() }
    }
}

impl Default for Catalog {
    /// Nobody's profiles: those of a node that routes nothing.
    fn default() -> Self {
        Self::assemble(Vec::new(), Vec::new())
    }
}

impl Profile {
    /// The chain of that key, alias or decimal chain id.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<(usize, &Chain)> {
        let id = name.parse::<u64>().ok();
        self.chains.iter().enumerate().find(|(_, chain)| chain.is_called(name) || Some(chain.chain_id) == id)
    }
}

impl Chain {
    /// Whether that is its key or one of its aliases.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.key.as_str() == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// The files of a folder that are profiles, in the order of their names.
pub(crate) fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let yaml = path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
            yaml && !name.starts_with(['.', '_'])
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Reads every `<slug>.yml` and `<slug>.yaml` of `dir`; names that start with `.` or `_` are left out. `env` answers
/// for `${VARIABLE}`.
///
/// # Errors
/// Every error of every file, at once.
pub fn load(dir: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Catalog, Vec<ProfileError>> {
    let whole = |problem: String| ProfileError { file: dir.to_owned(), path: String::new(), line: None, problem };
    let files = match files(dir) {
        Ok(files) => files,
        Err(error) => return Err(vec![whole(format!("the directory of profiles cannot be read: {error}"))]),
    };
    if files.is_empty() {
        return Err(vec![whole("holds no profile; put a file named <slug>.yml there".to_owned())]);
    }
    let (mut profiles, mut instances, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for file in &files {
        match std::fs::read_to_string(file) {
            Ok(text) => match read::profile(file, &text, env, &mut instances) {
                Ok(profile) => profiles.push(profile),
                Err(found) => errors.extend(found),
            },
            Err(error) => errors.push(ProfileError {
                file: file.clone(),
                path: String::new(),
                line: None,
                problem: format!("cannot be read: {error}"),
            }),
        }
    }
    if errors.is_empty() { Ok(Catalog::assemble(profiles, instances)) } else { Err(errors) }
}

/// Reads one profile from a text, as [`load`] would from a file of that slug.
///
/// # Errors
/// Every error at once.
pub fn parse(slug: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Catalog, Vec<ProfileError>> {
    let mut instances = Vec::new();
    let profile = read::profile(Path::new(&format!("{slug}.yml")), text, env, &mut instances)?;
    Ok(Catalog::assemble(vec![profile], instances))
}
