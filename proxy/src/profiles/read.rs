//! One profile file, from its text to validated settings. Every key is read here by name, so that a key that is not
//! listed here is an unknown one. A setting that fails is noted and given its default, so that the rest of the file is
//! checked in the same pass; a file with any error yields no profile.

use std::path::Path;

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use lariat_schema::ids::{ChainName, InstanceId, ProfileName, ProviderId};
use lariat_schema::vocabulary::Strategy;
use sha2::{Digest, Sha256};

use super::tree::{Fields, Node, ProfileError, Reader, Tree, take};
use super::{
    Cache, Capabilities, Chain, ClientLimits, Endpoint, ErrorRule, Hedging, Instance, Profile, ProfileKey, Provider,
    Sampling, Websocket,
};
use crate::policy;

const DEFAULT_SLOW_MS: u64 = 1_000;
const DEFAULT_KEPT_WHOLE_PER_SECOND: u64 = 1_000;
const DEFAULT_CACHE_BYTES: u64 = 64 * 1024 * 1024;
const DEFAULT_ARCHIVAL_THRESHOLD: u64 = 128;
const DEFAULT_LAG_ALERT_BLOCKS: u64 = 3;
const DEFAULT_PRIORITY: u64 = 100;
const DEFAULT_PROBE_INTERVAL_MS: u64 = 12_000;
const MIN_PROBE_INTERVAL_MS: u64 = 100;
const MAX_PROBE_INTERVAL_MS: u64 = 600_000;

/// Share of decisions that is kept in a profile that does not say.
fn default_rate(slug: &str) -> f64 {
    match slug {
        "free" => 0.01,
        "byok" => 0.20,
        // `premium` is one of these.
        _ => 0.05,
    }
}

/// Reads one profile; the upstreams that it names are added to `instances`, or found there.
pub(super) fn profile(
    file: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    instances: &mut Vec<Instance>,
) -> Result<Profile, Vec<ProfileError>> {
    let mut reader = Reader { file, env, errors: Vec::new() };
    let documents: Vec<Tree> = match serde_saphyr::from_multiple(text) {
        Ok(documents) => documents,
        Err(error) => {
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            let problem = format!("is no YAML: {}", error.to_string().lines().next().unwrap_or_default());
            return Err(vec![ProfileError { file: file.to_owned(), path: String::new(), line, problem }]);
        }
    };
    let expected = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let profile = read_profile(&mut reader, &documents, expected, instances);
    if reader.errors.is_empty() { Ok(profile) } else { Err(reader.errors) }
}

fn read_profile(r: &mut Reader<'_>, documents: &[Tree], expected: &str, instances: &mut Vec<Instance>) -> Profile {
    let mut f = r.root(documents);
    let name = take!(r, f, "name", text);
    let slug = match f.take("slug") {
        Some(tree) => {
            let slug = r.text(tree, "slug").unwrap_or_default();
            if slug != expected {
                r.fail("slug", Some(tree), format!("is `{slug}`, but must equal the file's name, `{expected}`"));
            }
            slug
        }
        None => expected.to_owned(),
    };
    let rps = take!(r, f, "rps_limit", int, 1..=10_000_000).or(take!(r, f, "default_rps_limit", int, 1..=10_000_000));
    let burst =
        take!(r, f, "burst_limit", int, 1..=10_000_000).or(take!(r, f, "default_burst_limit", int, 1..=10_000_000));
    let default_strategy = take!(r, f, "default_strategy", name).unwrap_or(Strategy::LoadBalanced);
    let trust_trace_context = match f.take("trace_context").map(|tree| (tree, r.text(tree, "trace_context"))) {
        None => false,
        Some((_, Some(text))) if text == "ignore" => false,
        Some((_, Some(text))) if text == "trust" => true,
        Some((tree, _)) => {
            r.fail("trace_context", Some(tree), "expected `ignore` or `trust`");
            false
        }
    };
    let sampling = read_sampling(r, f.take("sampling"), &slug);
    let hedging = f.take("hedging").and_then(|tree| read_hedging(r, tree));
    let cache = read_cache(r, f.take("cache"));
    let (unlisted, logo) = (take!(r, f, "unlisted", bool).unwrap_or(false), take!(r, f, "logo", text));
    let slug = ProfileName::from(slug);
    let mut chains = Vec::new();
    match f.take("chains") {
        Some(tree) => {
            for (key, tree) in r.map(tree, "chains").into_entries() {
                chains.push(read_chain(r, &slug, key, tree, instances));
            }
        }
        None => r.fail("chains", None, "is missing: a profile needs at least one chain"),
    }
    r.finish(
        f,
        "name, slug, logo, rps_limit, burst_limit, unlisted, default_strategy, sampling, trace_context, hedging, cache, chains",
    );
    let name = name.unwrap_or_else(|| slug.as_str().to_owned());
    let limits = ClientLimits { rps, burst };
    Profile {
        key: ProfileKey::of(slug.as_str()),
        slug,
        name,
        default_strategy,
        sampling,
        trust_trace_context,
        limits,
        hedging,
        cache,
        unlisted,
        logo,
        chains,
    }
}

fn read_sampling(r: &mut Reader<'_>, tree: Option<&Tree>, slug: &str) -> Sampling {
    let mut sampling = Sampling {
        rate: default_rate(slug),
        slow_ms: DEFAULT_SLOW_MS,
        kept_whole_per_second: DEFAULT_KEPT_WHOLE_PER_SECOND,
    };
    let Some(tree) = tree else { return sampling };
    let mut f = r.map(tree, "sampling");
    sampling.rate = take!(r, f, "rate", number, 0.0..=1.0).unwrap_or(sampling.rate);
    sampling.slow_ms = take!(r, f, "slow_ms", int, 1..=u64::MAX).unwrap_or(sampling.slow_ms);
    sampling.kept_whole_per_second =
        take!(r, f, "kept_whole_per_second", int, 0..=u64::MAX).unwrap_or(sampling.kept_whole_per_second);
    r.finish(f, "rate, slow_ms, kept_whole_per_second");
    sampling
}

fn read_hedging(r: &mut Reader<'_>, tree: &Tree) -> Option<Hedging> {
    let mut f = r.map(tree, "hedging");
    let quantile = take!(r, f, "quantile", number, 0.5..=0.999).unwrap_or(0.95);
    let budget = take!(r, f, "budget", number, 0.0..=1.0).unwrap_or(0.05);
    r.finish(f, "quantile, budget");
    Some(Hedging { quantile, budget })
}

fn read_cache(r: &mut Reader<'_>, tree: Option<&Tree>) -> Cache {
    let mut cache = Cache { enabled: false, max_bytes: DEFAULT_CACHE_BYTES };
    let Some(tree) = tree else { return cache };
    let mut f = r.map(tree, "cache");
    cache.enabled = take!(r, f, "enabled", bool).unwrap_or(false);
    cache.max_bytes = take!(r, f, "max_bytes", int, 1..=u64::MAX).unwrap_or(DEFAULT_CACHE_BYTES);
    r.finish(f, "enabled, max_bytes");
    cache
}

fn read_chain(r: &mut Reader<'_>, slug: &ProfileName, key: &str, tree: &Tree, instances: &mut Vec<Instance>) -> Chain {
    let mut f = r.map(tree, &format!("chains.{key}"));
    let chain_id = match f.take("chain_id") {
        Some(id) => r.int(id, &f.at("chain_id"), 1..=i64::MAX.unsigned_abs()).unwrap_or(1),
        None => {
            r.fail(&f.at("chain_id"), Some(tree), "is missing: the EIP-155 id of the chain, a number");
            1
        }
    };
    let name = take!(r, f, "name", text).unwrap_or_else(|| key.to_owned());
    let mut aliases = Vec::new();
    for alias in ["url_aliases", "aliases"] {
        if let Some(tree) = f.take(alias) {
            aliases.extend(r.texts(tree, &f.at(alias)));
        }
    }
    let block_time_ms = take!(r, f, "block_time_ms", int, 1..=3_600_000);
    let derived = block_time_ms.map_or(DEFAULT_PROBE_INTERVAL_MS, |block| (block * 2).max(5_000));
    let (mut probe_interval_ms, mut lag_alert_threshold_blocks) = (derived, DEFAULT_LAG_ALERT_BLOCKS);
    if let Some(tree) = f.take("monitoring") {
        let mut m = r.map(tree, &f.at("monitoring"));
        probe_interval_ms =
            take!(r, m, "probe_interval_ms", int, MIN_PROBE_INTERVAL_MS..=MAX_PROBE_INTERVAL_MS).unwrap_or(derived);
        lag_alert_threshold_blocks =
            take!(r, m, "lag_alert_threshold_blocks", int, 0..=1_000_000).unwrap_or(DEFAULT_LAG_ALERT_BLOCKS);
        r.finish(m, "probe_interval_ms, lag_alert_threshold_blocks");
    }
    let (mut max_lag_blocks, mut archival_threshold) = (None, DEFAULT_ARCHIVAL_THRESHOLD);
    if let Some(tree) = f.take("selection") {
        let mut s = r.map(tree, &f.at("selection"));
        max_lag_blocks = take!(r, s, "max_lag_blocks", int, 0..=1_000_000);
        archival_threshold =
            take!(r, s, "archival_threshold", int, 1..=1_000_000_000).unwrap_or(DEFAULT_ARCHIVAL_THRESHOLD);
        r.finish(s, "max_lag_blocks, archival_threshold");
    }
    let websocket = read_websocket(r, f.take("websocket"), &f.at("websocket"));
    let ui_topology = f.take("ui-topology").map(|tree| {
        let mut u = r.map(tree, &f.at("ui-topology"));
        let color = take!(r, u, "color", text).unwrap_or_else(|| "#6B7280".to_owned());
        let size = take!(r, u, "size", text).unwrap_or_else(|| "md".to_owned());
        r.finish(u, "color, size");
        (color, size)
    });
    let mut chain = Chain {
        key: ChainName::from(key),
        chain_id,
        name,
        aliases,
        block_time_ms,
        probe_interval_ms,
        lag_alert_threshold_blocks,
        max_lag_blocks,
        archival_threshold,
        websocket,
        ui_topology,
        providers: Vec::new(),
    };
    read_providers(r, &mut f, slug, &mut chain, tree, instances);
    r.finish(f, "chain_id, name, url_aliases, block_time_ms, monitoring, selection, websocket, ui-topology, providers");
    chain
}

fn read_websocket(r: &mut Reader<'_>, tree: Option<&Tree>, path: &str) -> Websocket {
    let mut websocket = Websocket {
        subscribe_new_heads: true,
        new_heads_timeout_ms: 42_000,
        max_backfill_blocks: 100,
        backfill_timeout_ms: 30_000,
    };
    let Some(tree) = tree else { return websocket };
    let mut f = r.map(tree, path);
    websocket.subscribe_new_heads = take!(r, f, "subscribe_new_heads", bool).unwrap_or(true);
    websocket.new_heads_timeout_ms = take!(r, f, "new_heads_timeout_ms", int, 5_000..=120_000).unwrap_or(42_000);
    if let Some(tree) = f.take("failover") {
        let mut o = r.map(tree, &f.at("failover"));
        websocket.max_backfill_blocks = take!(r, o, "max_backfill_blocks", int, 1..=10_000).unwrap_or(100);
        websocket.backfill_timeout_ms = take!(r, o, "backfill_timeout_ms", int, 5_000..=300_000).unwrap_or(30_000);
        r.finish(o, "max_backfill_blocks, backfill_timeout_ms");
    }
    r.finish(f, "subscribe_new_heads, new_heads_timeout_ms, failover");
    websocket
}

fn read_providers(
    r: &mut Reader<'_>,
    f: &mut Fields<'_>,
    slug: &ProfileName,
    chain: &mut Chain,
    at: &Tree,
    instances: &mut Vec<Instance>,
) {
    let path = f.at("providers");
    let Some(tree) = f.take("providers") else {
        return r.fail(&path, Some(at), "is missing: a chain needs at least one provider");
    };
    let list = r.list(tree, &path);
    if list.is_empty() {
        r.fail(&path, Some(tree), "is empty: a chain needs at least one provider");
    }
    for (i, tree) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some((provider, explicit)) = read_provider(r, tree, &path, slug, chain, instances) else { continue };
        if chain.providers.iter().any(|other| other.id == provider.id) {
            r.fail(&format!("{path}.id"), Some(tree), format!("`{}` stands twice in this chain", provider.id));
        }
        if explicit && chain.providers.iter().any(|other| other.priority == provider.priority) {
            let problem = format!("{} stands twice in this chain; priorities are unique", provider.priority);
            r.fail(&format!("{path}.priority"), Some(tree), problem);
        }
        chain.providers.push(provider);
    }
}

/// The provider, and whether its priority was written down.
fn read_provider(
    r: &mut Reader<'_>,
    tree: &Tree,
    path: &str,
    slug: &ProfileName,
    chain: &Chain,
    instances: &mut Vec<Instance>,
) -> Option<(Provider, bool)> {
    let mut f = r.map(tree, path);
    let id = take!(r, f, "id", text);
    if id.as_ref().is_none_or(|id| id.is_empty() || id.contains(['/', ':', ','])) {
        r.fail(&f.at("id"), Some(tree), "is missing, empty or holds one of `/:,`");
    }
    let name = take!(r, f, "name", text);
    let priority = take!(r, f, "priority", int, 1..=1_000_000);
    let archival = take!(r, f, "archival", bool).unwrap_or(true);
    let subscribe_new_heads = take!(r, f, "subscribe_new_heads", bool);
    let isolated = match take!(r, f, "sharing_mode", text).as_deref() {
        None | Some("auto") => false,
        Some("isolated") => true,
        Some(_) => {
            r.fail(&f.at("sharing_mode"), Some(tree), "expected `auto` or `isolated`");
            false
        }
    };
    let trace_context = take!(r, f, "trace_context", bool).unwrap_or(false);
    let http = f.take("url").and_then(|url| endpoint(r, url, &f.at("url"), &["http", "https"]));
    let ws = f.take("ws_url").and_then(|url| endpoint(r, url, &f.at("ws_url"), &["ws", "wss"]));
    let headers = read_headers(r, &mut f);
    let capabilities = read_capabilities(r, f.take("capabilities"), &f.at("capabilities"));
    r.finish(
        f,
        "id, name, priority, url, ws_url, archival, subscribe_new_heads, sharing_mode, trace_context, api_key, credentials, headers, auth_headers, capabilities",
    );
    if http.is_none() && ws.is_none() {
        r.fail(path, Some(tree), "has neither a valid `url` nor a valid `ws_url`; one is needed");
        return None;
    }
    let id = ProviderId::from(id?);
    let isolation = isolated.then(|| format!("{slug}/{id}"));
    let (has_http, has_ws) = (http.is_some(), ws.is_some());
    let instance = instance(slug, chain, &id, http, ws, headers, isolation.as_deref(), instances);
    let name = name.unwrap_or_else(|| id.as_str().to_owned());
    let explicit = priority.is_some();
    let priority = u32::try_from(priority.unwrap_or(DEFAULT_PRIORITY)).unwrap_or(u32::MAX);
    let channels = [format!("{id}:http").into(), format!("{id}:ws").into()];
    Some((
        Provider {
            id,
            name,
            priority,
            archival,
            subscribe_new_heads,
            instance,
            has_http,
            has_ws,
            channels,
            trace_context,
            capabilities,
        },
        explicit,
    ))
}

fn endpoint(r: &mut Reader<'_>, tree: &Tree, path: &str, schemes: &[&str]) -> Option<Endpoint> {
    let text = r.text(tree, path)?;
    let parsed = url::Url::parse(&text).ok().filter(|url| schemes.contains(&url.scheme()));
    let Some((url, uri)) = parsed.and_then(|url| url.as_str().parse::<http::Uri>().ok().map(|uri| (url, uri))) else {
        // The text itself may hold a key and is not repeated.
        r.fail(path, Some(tree), format!("is no URL with scheme {}", schemes.join(" or ")));
        return None;
    };
    let default_port = if matches!(url.scheme(), "https" | "wss") { 443 } else { 80 };
    Some(Endpoint { uri, host: url.host_str().unwrap_or_default().into(), port: url.port().unwrap_or(default_port) })
}

fn read_headers(r: &mut Reader<'_>, f: &mut Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |r: &mut Reader<'_>, tree: &Tree, path: &str, name: &str, value: &str| match (
        HeaderName::try_from(name),
        HeaderValue::try_from(value),
    ) {
        (Ok(name), Ok(mut value)) => {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        _ => r.fail(path, Some(tree), "is no valid HTTP header"),
    };
    if let Some(tree) = f.take("api_key") {
        let path = f.at("api_key");
        if let Some(key) = r.text(tree, &path) {
            add(r, tree, &path, "authorization", &format!("Bearer {key}"));
        }
    }
    if let Some(tree) = f.take("credentials") {
        let path = f.at("credentials");
        if let Some(pair) = r.text(tree, &path) {
            let basic = base64::engine::general_purpose::STANDARD.encode(pair);
            add(r, tree, &path, "authorization", &format!("Basic {basic}"));
        }
    }
    for key in ["headers", "auth_headers"] {
        let path = f.at(key);
        let Some(tree) = f.take(key) else { continue };
        for (name, tree) in r.map(tree, &path).into_entries() {
            let path = format!("{path}.{name}");
            if let Some(value) = r.text(tree, &path) {
                add(r, tree, &path, name, &value);
            }
        }
    }
    headers
}

fn read_capabilities(r: &mut Reader<'_>, tree: Option<&Tree>, path: &str) -> Capabilities {
    let mut found = Capabilities::default();
    let Some(tree) = tree else { return found };
    let mut f = r.map(tree, path);
    if let Some(tree) = f.take("unsupported_categories") {
        let path = f.at("unsupported_categories");
        for name in r.texts(tree, &path) {
            if policy::CATEGORIES.contains(&name.as_str()) {
                found.unsupported_categories.push(name);
            } else {
                r.fail(
                    &path,
                    Some(tree),
                    format!("`{name}` is no category; one of: {}", policy::CATEGORIES.join(", ")),
                );
            }
        }
    }
    if let Some(tree) = f.take("unsupported_methods") {
        found.unsupported_methods = r.texts(tree, &f.at("unsupported_methods"));
    }
    if let Some(tree) = f.take("limits") {
        let mut l = r.map(tree, &f.at("limits"));
        found.max_block_range = take!(r, l, "max_block_range", int, 1..=u64::MAX);
        found.max_block_age = take!(r, l, "max_block_age", int, 1..=u64::MAX);
        if let Some(tree) = l.take("block_age_methods") {
            found.block_age_methods = r.texts(tree, &l.at("block_age_methods"));
        }
        r.finish(l, "max_block_range, max_block_age, block_age_methods");
    }
    if let Some(tree) = f.take("error_rules") {
        let path = f.at("error_rules");
        for (i, tree) in r.list(tree, &path).iter().enumerate() {
            found.error_rules.extend(read_error_rule(r, tree, &format!("{path}[{i}]")));
        }
    }
    r.finish(f, "unsupported_categories, unsupported_methods, limits, error_rules");
    found
}

fn read_error_rule(r: &mut Reader<'_>, tree: &Tree, path: &str) -> Option<ErrorRule> {
    let mut f = r.map(tree, path);
    let code = f.take("code").and_then(|tree| {
        let code = r.text(tree, &f.at("code"))?.parse().ok();
        if code.is_none() {
            r.fail(&f.at("code"), Some(tree), "expected a whole number");
        }
        code
    });
    let message_contains = match f.take("message_contains") {
        Some(tree) if matches!(tree.value, Node::List(_)) => r.texts(tree, &f.at("message_contains")),
        Some(tree) => r.text(tree, &f.at("message_contains")).into_iter().collect(),
        None => Vec::new(),
    };
    let category = take!(r, f, "category", name);
    if code.is_none() && message_contains.is_empty() {
        r.fail(path, Some(tree), "needs a `code` or a `message_contains`");
    }
    if category.is_none() {
        r.fail(&f.at("category"), Some(tree), "is missing or no error category");
    }
    r.finish(f, "code, message_contains, category");
    let message_contains = message_contains.iter().map(|text| text.to_lowercase()).collect();
    Some(ErrorRule { code, message_contains, category: category? })
}

#[allow(clippy::too_many_arguments, reason = "each is a part of the identity")]
fn instance(
    slug: &ProfileName,
    chain: &Chain,
    provider: &ProviderId,
    http: Option<Endpoint>,
    ws: Option<Endpoint>,
    headers: HeaderMap,
    isolation: Option<&str>,
    instances: &mut Vec<Instance>,
) -> usize {
    let mut hash = Sha256::new();
    hash.update(chain.chain_id.to_be_bytes());
    for endpoint in [&http, &ws] {
        hash.update(endpoint.as_ref().map(|endpoint| endpoint.uri.to_string()).unwrap_or_default());
        hash.update([0]);
    }
    for (name, value) in &headers {
        hash.update(name.as_str());
        hash.update([0]);
        hash.update(value.as_bytes());
        hash.update([0]);
    }
    hash.update(isolation.unwrap_or_default());
    let digest = hex::encode(&hash.finalize()[..6]);
    let host = http.as_ref().or(ws.as_ref()).map(|endpoint| endpoint.host.clone()).unwrap_or_default();
    let id = InstanceId::from(format!("{}:{host}:{digest}", chain.chain_id));
    if let Some(found) = instances.iter().position(|instance| instance.id == id) {
        instances[found].probe_interval_ms = instances[found].probe_interval_ms.min(chain.probe_interval_ms);
        return found;
    }
    instances.push(Instance {
        id,
        chain_id: chain.chain_id,
        http,
        ws,
        headers,
        probe_interval_ms: chain.probe_interval_ms,
        named_by: (slug.clone(), chain.key.clone(), provider.clone()),
    });
    instances.len() - 1
}
