//! The built-in dashboard, embedded: the page works wherever the binary does, without a directory to install or to trust.
//!
//! Rejected: serving a directory, for a path from outside would then meet the file system. The table below is the whole
//! list of what can be asked for. Nothing is inlined into the page and no script comes from elsewhere, so its policy
//! needs no exception; the page's own rule against markup from data is enforced by the browser through the same header.
//!
//! Browsers keep a file and ask whether it is still the same (`ETag`), so that a new binary is a new page at once.

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::get;
use xxhash_rust::xxh3::xxh3_64;

/// One file of the page.
#[derive(Debug, Clone, Copy)]
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Only what this service serves, no markup made from data, no frame around the page.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'";

macro_rules! assets {
    ($($content_type:ident: $($path:literal),+ ;)+) => {
        &[$($(Asset {
            path: concat!("/", $path),
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../dashboards/web/", $path)),
        }),+),+]
    };
}

const ASSETS: &[Asset] = assets! {
    HTML: "index.html";
    CSS: "style.css", "panels.css";
    SVG: "favicon.svg";
    JS: "main.js", "api.js", "chart.js", "element.js", "feed.js", "fleet.js", "navigation.js", "panel.js", "poller.js",
        "shell.js", "stream.js",
        "panels/circuits.js", "panels/errors.js", "panels/latency.js", "panels/nodes.js", "panels/providers.js",
        "panels/routing.js", "panels/traffic.js",
        "pure/coverage.js", "pure/decision_model.js", "pure/feed_model.js", "pure/format.js", "pure/matrix.js",
        "pure/providers.js", "pure/series.js", "pure/time.js", "pure/url_state.js",
        "views/decision.js", "views/feed.js", "views/nodes.js", "views/overview.js";
};

const INDEX: &str = "/index.html";

/// Routes of the page: `/` and each of its files. No state: the page asks the APIs beside it.
pub fn router() -> Router {
    let page = ASSETS.iter().filter(|asset| asset.path == INDEX).map(|asset| ("/", *asset));
    let files = ASSETS.iter().map(|asset| (asset.path, *asset));
    page.chain(files).fold(Router::new(), |router, (path, asset)| {
        let tag = tag_of(asset.bytes);
        router.route(path, get(move |headers: HeaderMap| std::future::ready(answer(asset, &tag, &headers))))
    })
}

fn tag_of(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{:016x}\"", xxh3_64(bytes))).expect("hex digits and quotes are header text")
}

fn answer(asset: Asset, tag: &HeaderValue, asked: &HeaderMap) -> Response<Body> {
    let same = asked.get_all(IF_NONE_MATCH).iter().any(|value| names_tag(value, tag));
    let mut response = Response::new(if same { Body::empty() } else { Body::from(asset.bytes) });
    *response.status_mut() = if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(ETAG, tag.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Whether an `If-None-Match` list names the tag; a proxy that compressed the file may have made it a weak one.
fn names_tag(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(list), Ok(tag)) = (list.to_str(), tag.to_str()) else { return false };
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    fn files_in(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}/{}", entry.file_name().into_string().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true if name == "/tests" => {}
                true => files_in(&entry.path(), &name, found),
                false => {
                    found.insert(name);
                }
            }
        }
    }

    async fn ask(path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::builder().uri(path);
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let response = router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[test]
    fn every_file_of_the_page_is_embedded_and_no_other() {
        let mut on_disk = BTreeSet::new();
        files_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/web"), "", &mut on_disk);
        let embedded: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        assert_eq!(on_disk, embedded);
    }

    #[tokio::test]
    async fn the_root_is_the_page_with_a_policy_that_allows_nothing_inline() {
        let (status, headers, body) = ask("/", None).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[CONTENT_TYPE], HTML);
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let page = String::from_utf8(body).unwrap();
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("<script>"), "{page}");
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_is_not_sent_again() {
        let (_, headers, body) = ask("/main.js", None).await;
        assert!(!body.is_empty());
        let tag = headers[ETAG].to_str().unwrap();
        for list in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let (status, _, body) = ask("/main.js", Some(&list)).await;
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{list}");
        }
        assert_eq!(ask("/main.js", Some("\"other\"")).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_is_not_in_the_table_is_not_found() {
        for path in ["/tests/format.test.mjs", "/../Cargo.toml", "/panels", "/panels/"] {
            assert_eq!(ask(path, None).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn no_panel_names_a_report_that_the_schema_has_not() {
        for asset in ASSETS {
            let Some(name) = asset.path.strip_prefix("/panels/") else { continue };
            let name = name.strip_suffix(".js").unwrap();
            assert!(name.parse::<lariat_schema::reports::Report>().is_ok(), "{name}");
        }
    }
}
