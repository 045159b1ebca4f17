//! What the fuzzer drives: everything that reads bytes from outside, with what must hold whatever they are. The functions
//! are here and not in the fuzzer's own crate, since what they reach is private; they are built for it and for the tests
//! only. A property that fails panics, which is how a fuzzer is told.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::classify;
use crate::jsonrpc::{self, Body, Call, Reply, RpcError};
use crate::policy;
use crate::profiles;
use crate::server::routes;
use crate::trace_context::TraceContext;

/// A client's body: it is read or refused, and what was read is sent on as a call that reads as the same one.
pub fn call(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    match jsonrpc::read(&body) {
        Ok(Body::Single(Ok(call))) => sent_on(&call),
        Ok(Body::Batch(items)) => items.iter().flatten().for_each(sent_on),
        Ok(Body::TooMany(found)) => assert!(found > crate::admit::MAX_BATCH && found < bytes.len()),
        Ok(Body::Single(Err(_))) | Err(_) => {}
    }
}

fn sent_on(call: &Call) {
    let _ = policy::block_need(call.policy, call.params.as_deref());
    let payload = call.payload(7);
    let again = match jsonrpc::read(&payload) {
        Ok(Body::Single(call)) => call.ok(),
        _ => None,
    };
    let again = again.expect("what is sent on is a call");
    assert_eq!((&again.method, &again.params), (&call.method, &call.params));
    assert_eq!(again.id.as_deref(), Some(&b"7"[..]));
    if let Some(id) = &call.id {
        let reply = jsonrpc::error_reply(id, -32000, "m", None);
        serde_json::from_slice::<&serde_json::value::RawValue>(&reply).expect("an id is JSON");
    }
}

/// A provider's body: as a reply to call 7, under any client's id it is JSON and a reply again.
pub fn reply(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let Some(reply) = Reply::read(&body, 7) else { return };
    let under = Bytes::from(reply.under(b"8"));
    let again = Reply::read(&under, 8).expect("a reply stays one");
    assert_eq!((&again.error, &again.result), (&reply.error, &reply.result));
    if let Some(error) = &reply.error {
        let _ = classify::of_error(&[], 200, error);
    }
}

/// An error: a code, a status, a message; it has a category, always the same.
pub fn error(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_at_checked(10) else { return };
    let mut code = [0; 8];
    code.copy_from_slice(&head[..8]);
    let code = if head[0] < 128 { i64::from(head[0]) - 32_100 } else { i64::from_be_bytes(code) };
    let status = u16::from_be_bytes([head[8], head[9]]);
    let text = String::from_utf8_lossy(rest);
    let (message, data) = text.split_once('\0').unwrap_or((&text, ""));
    let error = RpcError { code, message: message.to_owned(), data: Some(Bytes::copy_from_slice(data.as_bytes())) };
    let category = classify::of_error(&[], status, &error);
    assert_eq!(category, classify::of_error(&[], status, &error));
    let _ = (classify::of_status(status), classify::result_of(category), classify::outcome_of(category));
    match code {
        -32700 | -32600 | -32601 => {}
        _ if message.starts_with("execution reverted") => {
            assert!(status == 429 || category == lariat_schema::vocabulary::ErrorCategory::ExecutionRevert);
        }
        _ => {}
    }
}

/// A profile's YAML: it is read, or every error names its file.
pub fn profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match profiles::parse("fuzzed", text, &|name| Some(name.to_lowercase())) {
        Ok(catalog) => assert!(catalog.profiles.iter().all(|profile| profile.slug.as_str() == "fuzzed")),
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().is_empty())),
    }
}

/// A request's head: the first line is path and query, the others are headers.
pub fn route(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let uri = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(&line[at + 1..])) {
            headers.append(name, value);
        }
    }
    let _ = TraceContext::read(&headers);
    if let Ok(uri) = Uri::try_from(uri)
        && let Ok(Some(target)) = routes::target(&uri, &headers)
    {
        assert!(!target.chain.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: &[(&str, Target)] =
        &[("call", call), ("reply", reply), ("error", error), ("profile", profile), ("route", route)];

    #[test]
    fn every_seed_of_the_fuzzer_is_read_without_a_panic() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let seeds: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!seeds.is_empty(), "no seed for {name}");
            for seed in seeds {
                target(&std::fs::read(seed.unwrap().path()).unwrap());
            }
        }
    }
}
