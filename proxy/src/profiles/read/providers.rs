//! The providers of a chain: where each is reached, with which credentials, and what it cannot do. Two that are the same
//! physical upstream become one instance.

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use lariat_schema::ids::{InstanceId, ProfileName, ProviderId};
use sha2::{Digest, Sha256};

use super::super::tree::{Fields, Node, Reader, Tree, take};
use super::super::{Capabilities, Chain, Endpoint, ErrorRule, Instance, Provider};
use crate::policy;

const DEFAULT_PRIORITY: u64 = 100;

pub(super) fn read_providers(
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
