//! What the live feed needs of the topology: whom to listen to, and how much of the fleet that is at this moment. A
//! node counts as answering while it answers health rounds: its stream is open then.

use std::sync::Arc;

use lariat_schema::coverage::{Coverage, NodeState};
use tokio::sync::watch;

use super::{Known, Topology, View, now_unix_nanos};
use crate::coverage::{NodeFacts, Part, coverage};
use crate::feed::{NodeAddress, NodeDirectory};

/// A topology with the token that its nodes ask for.
pub(crate) struct Directory {
    pub(crate) topology: Arc<Topology>,
    pub(crate) token: Option<Arc<str>>,
}

impl NodeDirectory for Directory {
    fn nodes(&self) -> Vec<NodeAddress> {
        let view = self.topology.view();
        view.known.iter().filter(|known| answers(known)).filter_map(address).collect()
    }

    fn coverage(&self) -> Coverage {
        let view = self.topology.view();
        let facts: Vec<_> = view.members.iter().map(|member| of_member(&view, member)).collect();
        coverage("live".to_owned(), None, now_unix_nanos(), &facts, view.expected_nodes)
    }

    fn token(&self) -> Option<Arc<str>> {
        self.token.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.topology.changes()
    }
}

fn answers(known: &Known) -> bool {
    matches!(known.progress.state, NodeState::Responding | NodeState::Ready)
}

fn address(known: &Known) -> Option<NodeAddress> {
    let identity = &known.info.as_ref()?.identity;
    Some(NodeAddress {
        node_id: identity.node_id.to_string(),
        region: identity.region.to_string(),
        base_url: known.base.as_str().trim_end_matches('/').to_owned(),
    })
}

fn of_member(view: &View, member: &crate::membership::Member) -> NodeFacts {
    let known = view
        .known
        .iter()
        .find(|known| known.info.as_ref().is_some_and(|info| info.store_id == member.store_id))
        .or_else(|| view.known.iter().find(|known| known.info.is_none() && known.address == member.address));
    let answering = known.filter(|known| answers(known)).and_then(|known| known.info.as_ref());
    NodeFacts {
        node_id: member.node_id.to_string(),
        region: Some(member.region.to_string()),
        state: known.map_or(NodeState::Disconnected, |known| known.progress.state),
        since_unix_nanos: Some(member.since_unix_nanos),
        clock_offset_nanos: known.map_or(0, |known| known.clock_offset_nanos),
        answered: answering.map(|info| Part {
            watermark_unix_nanos: info.watermark_unix_nanos,
            rows: 0,
            elapsed_ms: 0.0,
        }),
        error: known.and_then(|known| known.error.clone()),
    }
}
