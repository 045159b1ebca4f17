//! The topology as a whole: what addresses, stores and members make of each other.

use serde_json::json;

use super::*;

const STORE: &str = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";

fn met(node_id: &str, boot: u8) -> Met {
    let info = serde_json::from_value(json!({
        "node_id": node_id, "region": "us-east", "boot_id": BootId::from_bytes([boot; 16]), "store_id": STORE,
        "version": "0", "started_unix_nanos": now_unix_nanos(), "now_unix_nanos": now_unix_nanos(),
        "watermark_unix_nanos": 0, "has_proxy": true, "ranges": [],
    }));
    Met { info: info.unwrap(), clock: ClockOffset::default() }
}

fn topology(nodes: &[&str]) -> Arc<Topology> {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    let config = ClusterConfig { nodes, token: Some(Secret::new("word")), ..ClusterConfig::default() };
    Topology::open(&config, None).unwrap()
}

fn state(topology: &Topology, address: &str) -> NodeState {
    topology.view().known.into_iter().find(|node| node.address == address).unwrap().progress.state
}

#[tokio::test(start_paused = true)]
async fn a_store_that_returns_under_a_new_address_replaces_its_old_name() {
    let topology = topology(&["127.0.0.1:1", "127.0.0.1:2"]);
    topology.report("127.0.0.1:1", Event::Looked, Ok(met("lariat@1", 1)));
    assert_eq!(state(&topology, "127.0.0.1:1"), NodeState::Ready);
    topology.report("127.0.0.1:1", Event::Looked, Err(&ClientError::Refused));
    topology.report("127.0.0.1:2", Event::Looked, Ok(met("lariat@2", 2)));
    let view = topology.view();
    assert_eq!(view.members.len(), 1);
    assert_eq!(view.members[0].node_id.as_str(), "lariat@2");
    assert_eq!(view.home(view.members[0].store_id, "").unwrap().address, "127.0.0.1:2");
    assert_eq!(view.strangers().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_live_node_that_is_missing_from_dns_stays_and_a_dead_one_is_forgotten() {
    let topology = topology(&[]);
    let found: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    topology.discovered(&found);
    topology.report("127.0.0.1:1", Event::Looked, Ok(met("lariat@1", 1)));
    topology.report("127.0.0.1:2", Event::Looked, Err(&ClientError::Refused));
    for _ in 0..3 {
        topology.discovered(&[]);
    }
    let view = topology.view();
    assert_eq!(view.known.iter().map(|node| node.address.as_str()).collect::<Vec<_>>(), ["127.0.0.1:1"]);
    assert_eq!(state(&topology, "127.0.0.1:1"), NodeState::Ready);
}

#[tokio::test(start_paused = true)]
async fn changes_of_state_are_news_and_sameness_is_none() {
    let topology = topology(&["127.0.0.1:1"]);
    let mut news = topology.news();
    topology.report("127.0.0.1:1", Event::Looked, Ok(met("lariat@1", 1)));
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();
    topology.report("127.0.0.1:1", Event::Looked, Ok(met("lariat@1", 1)));
    assert!(!news.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_farewell_ends_what_is_expected_and_a_live_node_is_not_retired() {
    let topology = topology(&["127.0.0.1:1"]);
    topology.report("127.0.0.1:1", Event::Looked, Ok(met("lariat@1", 1)));
    assert!(matches!(topology.retire("lariat@1"), Err(RetireError::Answers)));
    topology.farewell("127.0.0.1:1", BootId::from_bytes([1; 16]), now_unix_nanos());
    assert_eq!(state(&topology, "127.0.0.1:1"), NodeState::Disconnected);
    assert!(!topology.view().members[0].is_expected());
    assert!(matches!(topology.retire("lariat@1"), Ok(Retirement::Already(_))));
    assert!(matches!(topology.retire("lariat@9"), Ok(Retirement::Unknown)));
}

#[tokio::test(start_paused = true)]
async fn only_the_clusters_token_makes_an_operator() {
    let topology = topology(&[]);
    assert!(topology.is_operator("word"));
    assert!(!topology.is_operator("wor") && !topology.is_operator("words") && !topology.is_operator(""));
    let open = Topology::open(&ClusterConfig::default(), None).unwrap();
    assert!(!open.is_operator(""));
}

#[test]
fn a_clock_offset_is_taken_from_the_middle_of_the_question_less_what_that_may_be_wrong_by() {
    let measured = ClockOffset::measured(5_000, 1_000, 3_000);
    assert_eq!(measured, ClockOffset { nanos: 3_000, error_nanos: 1_000 });
    assert_eq!(measured.certain_nanos(), 2_000);
    assert_eq!(ClockOffset::measured(0, 1_000, 3_000).certain_nanos(), -1_000);
    assert_eq!(ClockOffset::measured(2_500, 1_000, 3_000).certain_nanos(), 0);
}
