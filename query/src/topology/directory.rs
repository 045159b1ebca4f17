//! The topology as the live feed sees it: where to listen, and the coverage of this moment without asking anybody.

use std::sync::Arc;

use lariat_schema::coverage::{Coverage, NodeState};
use tokio::sync::watch;

use super::{Known, Topology, now_unix_nanos};
use crate::coverage::{NodeFacts, Part, coverage};
use crate::feed::{NodeAddress, NodeDirectory};

impl NodeDirectory for Topology {
    fn nodes(&self) -> Vec<NodeAddress> {
        let ready = self.view().known.into_iter().filter(|node| node.progress.state == NodeState::Ready);
        ready
            .filter_map(|node| {
                let identity = node.info?.identity;
                Some(NodeAddress {
                    node_id: identity.node_id.to_string(),
                    region: identity.region.to_string(),
                    base_url: node.base.as_str().trim_end_matches('/').to_owned(),
                })
            })
            .collect()
    }

    fn coverage(&self) -> Coverage {
        let view = self.view();
        let is_member = |node: &&Known| node.info.is_some();
        let mut facts: Vec<NodeFacts> = Vec::new();
        for member in &view.members {
            let of_member = |node: &&Known| node.info.as_ref().is_some_and(|info| info.store_id == member.store_id);
            let known = view.known.iter().filter(of_member).max_by_key(|node| node.progress.worth_asking());
            facts.push(NodeFacts {
                node_id: member.node_id.to_string(),
                region: Some(member.region.to_string()),
                state: known.map_or(NodeState::Disconnected, |node| node.progress.state),
                since_unix_nanos: Some(member.since_unix_nanos),
                clock_offset_nanos: known.map_or(0, |node| node.clock_offset_nanos),
                answered: known.and_then(heard),
                error: known.and_then(|node| node.error.clone()),
            });
        }
        let remembered = |node: &&Known| view.members.iter().any(|member| member.address == node.address);
        for node in view.known.iter().filter(|node| !is_member(node) && !remembered(node)) {
            facts.push(NodeFacts {
                node_id: node.address.clone(),
                region: None,
                state: NodeState::NeverSeen,
                since_unix_nanos: None,
                clock_offset_nanos: 0,
                answered: None,
                error: node.error.clone(),
            });
        }
        coverage("live".to_owned(), None, now_unix_nanos(), &facts, view.expected_nodes)
    }

    fn token(&self) -> Option<Arc<str>> {
        self.token.as_ref().map(|token| Arc::clone(token.reveal()))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A ready node's events are in the feed.
fn heard(node: &Known) -> Option<Part> {
    let info = node.info.as_ref().filter(|_| node.progress.state == NodeState::Ready)?;
    Some(Part { watermark_unix_nanos: info.watermark_unix_nanos, rows: 0, elapsed_ms: 0.0 })
}
