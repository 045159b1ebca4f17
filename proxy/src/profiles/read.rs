//! One profile file, from its text to validated settings. Every key is read here by name, so that a key that is not
//! listed here is an unknown one. A setting that fails is noted and given its default, so that the rest of the file is
//! checked in the same pass; a file with any error yields no profile.

mod providers;

use std::path::Path;

use lariat_schema::ids::{ChainName, ProfileName};
use lariat_schema::vocabulary::Strategy;

use super::tree::{Fields, ProfileError, Reader, Tree, take};
use super::{Cache, Chain, ClientLimits, Hedging, Instance, Profile, ProfileKey, Sampling, Websocket};
use providers::read_providers;

const DEFAULT_SLOW_MS: u64 = 1_000;
const DEFAULT_KEPT_WHOLE_PER_SECOND: u64 = 1_000;
const DEFAULT_CACHE_BYTES: u64 = 64 * 1024 * 1024;
const DEFAULT_ARCHIVAL_THRESHOLD: u64 = 128;
const DEFAULT_LAG_ALERT_BLOCKS: u64 = 3;
const DEFAULT_PROBE_INTERVAL_MS: u64 = 12_000;
/// Calls per second or at once that a client limit can say.
const MAX_CLIENT_LIMIT: u64 = 10_000_000;
const MIN_PROBE_INTERVAL_MS: u64 = 100;
/// Longest time between two probes where the time between blocks is not known, and the least that it may be where it is:
/// rarer ones would leave heights too old to say anything.
const MAX_PROBE_INTERVAL_MS: u64 = 60_000;
const LEAST_MAX_PROBE_INTERVAL_MS: u64 = 10_000;
/// Sizes of a chain on a map.
const MAP_SIZES: &[&str] = &["sm", "md", "lg", "xl"];

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
    let limits = read_limits(r, &mut f);
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
            let entries = r.map(tree, "chains").into_entries();
            if entries.is_empty() {
                r.fail("chains", Some(tree), "is empty: a profile needs at least one chain");
            }
            for (key, tree) in entries {
                let chain = read_chain(r, &slug, key, tree, instances);
                for name in std::iter::once(key).chain(chain.aliases.iter().map(String::as_str)) {
                    if let Some(other) = chains.iter().find(|other: &&Chain| other.is_called(name)) {
                        let problem =
                            format!("`{name}` is a name of the chain `{}` too; paths could mean either", other.key);
                        r.fail(&format!("chains.{key}"), Some(tree), problem);
                    }
                }
                chains.push(chain);
            }
        }
        None => r.fail("chains", None, "is missing: a profile needs at least one chain"),
    }
    r.finish(
        f,
        "name, slug, logo, rps_limit, burst_limit, unlisted, default_strategy, sampling, trace_context, hedging, cache, chains",
    );
    let name = name.unwrap_or_else(|| slug.as_str().to_owned());
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

fn read_limits(r: &mut Reader<'_>, f: &mut Fields<'_>) -> ClientLimits {
    let mut limit = |key: &str, alias: &str| {
        let (tree, second) = (f.take(key), f.take(alias));
        if let (Some(_), Some(second)) = (tree, second) {
            r.fail(alias, Some(second), format!("is another name of `{key}`, which is set too; keep one"));
        }
        let (name, tree) = tree.map(|tree| (key, tree)).or(second.map(|tree| (alias, tree)))?;
        Some((name.to_owned(), tree, r.int(tree, name, 1..=MAX_CLIENT_LIMIT)))
    };
    let rps = limit("rps_limit", "default_rps_limit");
    let burst = limit("burst_limit", "default_burst_limit");
    if let (None, Some((name, tree, _))) = (&rps, &burst) {
        r.fail(name, Some(tree), "has no effect without `rps_limit`; set that too, or remove this");
    }
    ClientLimits { rps: rps.and_then(|it| it.2), burst: burst.and_then(|it| it.2) }
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
    let longest = block_time_ms.map_or(MAX_PROBE_INTERVAL_MS, |block| (block * 10).max(LEAST_MAX_PROBE_INTERVAL_MS));
    let (mut probe_interval_ms, mut lag_alert_threshold_blocks) = (derived, DEFAULT_LAG_ALERT_BLOCKS);
    if let Some(tree) = f.take("monitoring") {
        let mut m = r.map(tree, &f.at("monitoring"));
        probe_interval_ms = take!(r, m, "probe_interval_ms", int, MIN_PROBE_INTERVAL_MS..=longest).unwrap_or(derived);
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
    let ui_topology = f.take("ui-topology").map(|tree| read_map(r, tree, &f.at("ui-topology")));
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

/// Colour and size on a map.
fn read_map(r: &mut Reader<'_>, tree: &Tree, path: &str) -> (String, String) {
    let mut f = r.map(tree, path);
    let mut one = |key: &str, default: &str, expected: &str, is_right: &dyn Fn(&str) -> bool| {
        let Some(tree) = f.take(key) else { return default.to_owned() };
        let text = r.text(tree, &f.at(key)).unwrap_or_else(|| default.to_owned());
        if !is_right(&text) {
            r.fail(&f.at(key), Some(tree), format!("expected {expected}"));
        }
        text
    };
    let color = one("color", "#6B7280", "a colour as #RRGGBB", &|text| {
        text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.chars().all(|digit| digit.is_ascii_hexdigit()))
    });
    let size = one("size", "md", &format!("one of {}", MAP_SIZES.join(", ")), &|text| MAP_SIZES.contains(&text));
    r.finish(f, "color, size");
    (color, size)
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
