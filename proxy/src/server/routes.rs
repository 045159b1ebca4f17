//! Where a request wants to go: path, headers and query as one [`Target`], with the precedence provider override, then
//! header, then query, then path. Names are kept as text here; whether they exist is for the catalog to say.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, Uri};
use lariat_schema::vocabulary::{Strategy, Transport};

use crate::refusal::Refusal;

/// Where the metadata of a reply go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum IncludeMeta {
    #[default]
    None,
    Headers,
    Body,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    /// The default profile unless named.
    pub(crate) profile: Option<String>,
    pub(crate) chain: String,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) provider: Option<String>,
    pub(crate) transport: Option<Transport>,
    pub(crate) include_meta: IncludeMeta,
    /// Providers that are not to be used, by id.
    pub(crate) excluded: Vec<String>,
    /// Whether providers that limit our rate are left out, too.
    pub(crate) leave_out_limited: bool,
    /// Bound on the time of each call.
    pub(crate) timeout: Option<Duration>,
}

/// Names of strategies in paths and queries.
fn strategy(name: &str) -> Option<Strategy> {
    match name {
        "fastest" => Some(Strategy::Fastest),
        "load-balanced" | "load_balanced" | "round-robin" | "round_robin" => Some(Strategy::LoadBalanced),
        "latency-weighted" | "latency_weighted" => Some(Strategy::LatencyWeighted),
        "priority" => Some(Strategy::Priority),
        _ => None,
    }
}

fn transport(name: &str) -> Result<Transport, Refusal> {
    name.parse().map_err(|error| Refusal::BadOption(format!("{error}")))
}

fn include_meta(name: &str) -> Result<IncludeMeta, Refusal> {
    match name {
        "none" => Ok(IncludeMeta::None),
        "headers" => Ok(IncludeMeta::Headers),
        "body" => Ok(IncludeMeta::Body),
        _ => Err(Refusal::BadOption(format!("`{name}` is no place for metadata; one of: headers, body, none"))),
    }
}

/// What the headers of our own options begin with.
const OPTIONS: &str = "x-lariat-";
/// Longest path of a route, in segments behind its prefix.
const MAX_SEGMENTS: usize = 5;

/// A segment of a path as text. Hardly any is escaped, and one that is not is not copied.
pub(super) fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let pair = format!("x={}", segment.replace('+', "%2B"));
    let decoded = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned());
    Cow::Owned(decoded.unwrap_or_default())
}

fn timeout(text: &str) -> Result<Duration, Refusal> {
    let wrong = || Refusal::BadOption(format!("`{text}` is no time; expected milliseconds, 1 or more"));
    text.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(wrong)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

fn flag(text: &str) -> Result<bool, Refusal> {
    let wrong = || Refusal::BadOption(format!("`{text}` is neither true nor false"));
    text.parse().map_err(|_| wrong())
}

fn path(path: &str) -> Option<Target> {
    let rest = path.strip_prefix("/ws").unwrap_or(path).strip_prefix("/rpc/")?;
    let mut found: [Cow<'_, str>; MAX_SEGMENTS] = Default::default();
    let mut count = 0;
    for segment in rest.split('/') {
        *found.get_mut(count)? = decoded(segment);
        count += 1;
    }
    let mut segments = &found[..count];
    let mut target = Target::default();
    if let [profile, slug, rest @ ..] = segments
        && profile == "profile"
        && !rest.is_empty()
    {
        target.profile = Some(slug.clone().into_owned());
        segments = rest;
    }
    match segments {
        [chain] => target.chain = chain.clone().into_owned(),
        [name, chain] if strategy(name).is_some() => {
            target.strategy = strategy(name);
            target.chain = chain.clone().into_owned();
        }
        [chain, provider] => {
            target.chain = chain.clone().into_owned();
            target.provider = Some(provider.clone().into_owned());
        }
        [pin, provider, chain] if pin == "provider" => {
            target.chain = chain.clone().into_owned();
            target.provider = Some(provider.clone().into_owned());
        }
        _ => return None,
    }
    (!target.chain.is_empty()).then_some(target)
}

/// Reads a request's target; none where the path is no route.
///
/// # Errors
/// An option has a value that it cannot have.
pub(crate) fn target(uri: &Uri, headers: &HeaderMap) -> Result<Option<Target>, Refusal> {
    let Some(mut target) = path(uri.path()) else { return Ok(None) };
    if let Some(query) = uri.query() {
        read_query(query, &mut target)?;
    }
    // Few requests have any of these, and to look for each takes longer than to look at all.
    if headers.keys().any(|name| name.as_str().starts_with(OPTIONS)) {
        read_headers(headers, &mut target)?;
    }
    Ok(Some(target))
}

fn read_query(query: &str, target: &mut Target) -> Result<(), Refusal> {
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "strategy" => {
                let known = strategy(&value);
                let unknown =
                    || Refusal::BadOption(format!("`{value}` is no strategy; one of: {}", Strategy::NAMES.join(", ")));
                target.strategy = Some(known.ok_or_else(unknown)?);
            }
            "provider_override" | "provider_id" => target.provider = Some(value.into_owned()),
            "transport" => target.transport = Some(transport(&value)?),
            "include_meta" => target.include_meta = include_meta(&value)?,
            "exclude" => target.excluded = list(&value),
            "exclude_limited" => target.leave_out_limited = flag(&value)?,
            "timeout_ms" => target.timeout = Some(timeout(&value)?),
            // Others are the client's own, such as a key for a gateway in front.
            _ => {}
        }
    }
    Ok(())
}

fn read_headers(headers: &HeaderMap, target: &mut Target) -> Result<(), Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(provider) = header("x-lariat-provider") {
        target.provider = Some(provider.to_owned());
    }
    if let Some(name) = header("x-lariat-transport") {
        target.transport = Some(transport(name)?);
    }
    if let Some(name) = header("x-lariat-include-meta") {
        target.include_meta = include_meta(name)?;
    }
    if let Some(ids) = header("x-lariat-exclude") {
        target.excluded = list(ids);
    }
    if let Some(text) = header("x-lariat-exclude-limited") {
        target.leave_out_limited = flag(text)?;
    }
    if let Some(text) = header("x-lariat-timeout-ms") {
        target.timeout = Some(timeout(text)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Option<Target> {
        target(&uri.parse().unwrap(), &HeaderMap::new()).unwrap()
    }

    #[test]
    fn every_shape_of_path_is_read() {
        let chain = |chain: &str| Target { chain: chain.to_owned(), ..Target::default() };
        let pinned = |provider: &str| Target { provider: Some(provider.to_owned()), ..chain("base") };
        assert_eq!(read("/rpc/base"), Some(chain("base")));
        assert_eq!(read("/rpc/fastest/base"), Some(Target { strategy: Some(Strategy::Fastest), ..chain("base") }));
        assert_eq!(read("/rpc/round-robin/1"), Some(Target { strategy: Some(Strategy::LoadBalanced), ..chain("1") }));
        assert_eq!(read("/rpc/base/alpha"), Some(pinned("alpha")));
        assert_eq!(read("/rpc/provider/al%20pha/base"), Some(pinned("al pha")));
        assert_eq!(
            read("/rpc/profile/desk/base/alpha"),
            Some(Target { profile: Some("desk".to_owned()), ..pinned("alpha") })
        );
        assert_eq!(read("/ws/rpc/profile/desk/base/alpha"), read("/rpc/profile/desk/base/alpha"));
        assert_eq!(read("/rpc/a/b/c/d"), None);
        assert_eq!(read("/rpc/"), None);
    }

    #[test]
    fn a_header_comes_before_the_query_and_the_query_before_the_path() {
        let mut headers = HeaderMap::new();
        headers.insert("x-lariat-provider", http::HeaderValue::from_static("h"));
        let uri: Uri = "/rpc/fastest/base?strategy=priority&provider_id=q&include_meta=body".parse().unwrap();
        let found = target(&uri, &headers).unwrap().unwrap();
        assert_eq!((found.strategy, found.provider.as_deref()), (Some(Strategy::Priority), Some("h")));
        assert_eq!(found.include_meta, IncludeMeta::Body);
        assert!(target(&"/rpc/base?strategy=luck".parse().unwrap(), &headers).is_err());
    }

    #[test]
    fn excluded_providers_and_a_time_are_read_from_the_query_and_the_headers() {
        let found = read("/rpc/base?exclude=a,%20b,&exclude_limited=true&timeout_ms=250").unwrap();
        assert_eq!(found.excluded, ["a", "b"]);
        assert_eq!((found.leave_out_limited, found.timeout), (true, Some(Duration::from_millis(250))));
        let mut headers = HeaderMap::new();
        headers.insert("x-lariat-timeout-ms", http::HeaderValue::from_static("9"));
        headers.insert("x-lariat-exclude", http::HeaderValue::from_static("c"));
        let found = target(&"/rpc/base?timeout_ms=250".parse().unwrap(), &headers).unwrap().unwrap();
        assert_eq!((found.timeout, found.excluded), (Some(Duration::from_millis(9)), vec!["c".to_owned()]));
        for wrong in ["timeout_ms=0", "timeout_ms=-1", "timeout_ms=soon", "exclude_limited=maybe"] {
            assert!(target(&format!("/rpc/base?{wrong}").parse().unwrap(), &HeaderMap::new()).is_err(), "{wrong}");
        }
    }
}
