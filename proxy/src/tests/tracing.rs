//! Whose trace a decision belongs to, and what providers are told of it.

use http::Request;
use lariat_schema::attributes as key;
use lariat_tools::provider::ProviderHandle;
use lariat_tools::provider::behaviour::{Behaviour, Fault};

use super::fixture::{Fleet, Got, call, eventually, fleet_of, profile, provider, request};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// Bits of a span's flags: whether the parent is remote is known; it is.
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// Providers that want to be told, behind a profile that says so of its clients.
async fn fleet(providers: Vec<ProviderHandle>, trusts: bool) -> Fleet {
    let told = profile(&providers).replace("{ id:", "{ trace_context: true, id:");
    let whom = if trusts { "trust" } else { "ignore" };
    fleet_of(providers, &format!("trace_context: {whom}\n{told}")).await
}

async fn traced(fleet: &Fleet, parent: &str, body: String) -> Got {
    let builder =
        Request::post("/").header("traceparent", parent).header("tracestate", "shop=7,ot=th:8;rv:ffffffffffffff");
    request(fleet.proxy.address(), builder, "/rpc/ethereum", body).await
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[tokio::test]
async fn a_trusted_clients_unsampled_trace_is_continued_and_recorded_all_the_same() {
    let fleet = fleet(vec![provider("a", |it| it).await], true).await;
    let got = traced(&fleet, &parent("02"), call("eth_gasPrice")).await;
    let (span, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((span.flags, span.links.len()), (0x02 | KNOWN | REMOTE, 0));
    assert_eq!(span.trace_state, "shop=7", "a client's threshold would weigh its own calls");
    assert_eq!(of[key::REQUEST_ID], got.headers["x-lariat-request-id"].to_str().unwrap());
    let (attempt, _) = fleet.inbox.attempts_of(&span).remove(0);
    assert_eq!((hex::encode(&attempt.trace_id), attempt.flags), (TRACE.to_owned(), 0x02 | KNOWN));
    let told = fleet.providers[0].traced().pop().unwrap();
    assert_eq!(told["traceparent"], format!("00-{TRACE}-{}-02", hex::encode(&attempt.span_id)));
    assert_eq!(told["tracestate"], "shop=7,ot=th:8;rv:ffffffffffffff");
}

#[tokio::test]
async fn another_clients_trace_is_only_linked_and_its_state_goes_to_nobody() {
    let fleet = fleet(vec![provider("a", |it| it).await], false).await;
    let got = traced(&fleet, &parent("01"), call("eth_gasPrice")).await;
    let request_id = got.headers["x-lariat-request-id"].to_str().unwrap().replace('-', "");
    let (span, _) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((hex::encode(&span.trace_id), span.parent_span_id.len()), (request_id.clone(), 0));
    assert_eq!((span.flags, span.trace_state.as_str()), (0x03 | KNOWN, ""));
    let [link] = &span.links[..] else { panic!("{:?}", span.links) };
    assert_eq!((hex::encode(&link.trace_id), hex::encode(&link.span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((link.flags, link.trace_state.as_str()), (0x01 | KNOWN | REMOTE, "shop=7"));
    let (attempt, _) = fleet.inbox.attempts_of(&span).remove(0);
    let told = fleet.providers[0].traced().pop().unwrap();
    assert_eq!(told["traceparent"], format!("00-{request_id}-{}-03", hex::encode(&attempt.span_id)));
    assert!(told.get("tracestate").is_none());
}

#[tokio::test]
async fn a_malformed_context_is_ignored_and_the_call_answered() {
    let fleet = fleet(vec![provider("a", |it| it).await], true).await;
    for malformed in ["00-0-0-0", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "é"] {
        assert!(traced(&fleet, malformed, call("eth_gasPrice")).await.json()["result"].is_string());
    }
    let decisions = eventually("three decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 3)).await;
    for (span, of) in decisions {
        assert_eq!(hex::encode(&span.trace_id), of[key::REQUEST_ID].replace('-', ""));
        assert!(span.parent_span_id.is_empty() && span.links.is_empty());
    }
}

#[tokio::test]
async fn the_decisions_of_a_batch_share_the_trace_and_each_attempt_is_told_under_its_own_span() {
    let broken = provider("a", |it| it.behaving(Behaviour::always(Fault::ServerError))).await;
    let fleet = fleet(vec![broken, provider("b", |it| it).await], true).await;
    let batch = format!("[{},{}]", call("eth_gasPrice"), call("eth_blockNumber"));
    traced(&fleet, &parent("03"), batch).await;
    let decisions = eventually("two decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 2)).await;
    let mut spans = Vec::new();
    for (span, _) in &decisions {
        assert_eq!(
            (hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)),
            (TRACE.to_owned(), PARENT.to_owned())
        );
        let attempts = fleet.inbox.attempts_of(span);
        assert_eq!(attempts.len(), 2, "a failover");
        spans
            .extend(attempts.into_iter().map(|(attempt, _)| format!("00-{TRACE}-{}-03", hex::encode(attempt.span_id))));
    }
    let mut told: Vec<String> = fleet
        .providers
        .iter()
        .flat_map(|provider| provider.traced())
        .map(|headers| headers["traceparent"].to_str().unwrap().to_owned())
        .collect();
    spans.sort();
    told.sort();
    assert_eq!(spans, told);
}

#[tokio::test]
async fn a_provider_that_did_not_ask_is_told_nothing() {
    let providers = vec![provider("a", |it| it).await];
    let text = format!("trace_context: trust\n{}", profile(&providers));
    let fleet = fleet_of(providers, &text).await;
    traced(&fleet, &parent("01"), call("eth_gasPrice")).await;
    eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert!(fleet.providers[0].traced().is_empty());
}

/// The variable is the process's own, so the test runs itself again in one that has it.
#[tokio::test]
async fn the_samplers_variable_does_not_keep_a_decision_from_being_recorded() {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER";
    const NAME: &str = "tests::tracing::the_samplers_variable_does_not_keep_a_decision_from_being_recorded";
    if std::env::var(VARIABLE).as_deref() != Ok("always_off") {
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact"])
            .env(VARIABLE, "always_off")
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let fleet = fleet(vec![provider("a", |it| it).await], true).await;
    traced(&fleet, &parent("00"), call("eth_gasPrice")).await;
    eventually("a decision", || fleet.inbox.decisions().pop()).await;
}
