//! The topology as the live feed sees it: where to listen, and the coverage of this moment without asking anybody.

use std::sync::Arc;

use lariat_schema::coverage::{Coverage, NodeState};
use tokio::sync::watch;

use super::{Known, Topology, View, now_unix_nanos};
use crate::coverage::slices::Told;
use crate::coverage::{Input, NodeFacts, Part, PartSource, coverage};
use crate::feed::{NodeAddress, NodeDirectory};
use crate::membership::Member;

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
        let facts = facts(&view, |_, known| known.and_then(heard), |node| node.error.clone());
        let now_only = Input { table: None, window: None, without: None };
        coverage("live", now_only, now_unix_nanos(), &facts, view.expected_nodes)
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
    let told = Told { watermark_unix_nanos: info.watermark_unix_nanos, ..Told::default() };
    Some(Part { told, ..Part::default() })
}

/// What coverage needs to know of every node: members, and addresses that never told who is there.
pub(crate) fn facts(
    view: &View,
    part: impl Fn(&Member, Option<&Known>) -> Option<Part>,
    error: impl Fn(&Known) -> Option<String>,
) -> Vec<NodeFacts> {
    let of_member = |member: &Member| {
        let known = view.home(member.store_id, &member.address);
        let answered = part(member, known);
        let left = member.ended().map(|end| (end, end.by.as_str()));
        let error = match (&answered, left) {
            (Some(part), _) if part.source == PartSource::Live => None,
            (_, Some((_, by))) => Some(format!("it is no longer expected: {by}")),
            (_, None) => known.and_then(&error).or_else(|| Some("not reachable".to_owned())),
        };
        NodeFacts {
            node_id: member.node_id.to_string(),
            region: Some(member.region.to_string()),
            state: known.map_or(NodeState::Disconnected, |node| node.progress.state),
            expected: Some(member.expected()),
            left_unix_nanos: left.map(|(end, _)| end.at_unix_nanos),
            clock_offset_nanos: known.map_or(0, |node| node.clock.certain_nanos()),
            answered,
            error,
        }
    };
    let of_stranger = |node: &Known| NodeFacts {
        node_id: node.address.clone(),
        region: None,
        state: NodeState::NeverSeen,
        expected: None,
        left_unix_nanos: None,
        clock_offset_nanos: 0,
        answered: None,
        error: error(node).or_else(|| Some("it never told who it is".to_owned())),
    };
    view.members.iter().map(of_member).chain(view.strangers().map(of_stranger)).collect()
}
