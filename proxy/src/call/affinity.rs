//! Calls about filters. The one that makes a filter goes where any call may; the others go to the channel that holds it
//! and nowhere else, with the provider's own id in place of ours. No failover helps them: another provider does not know
//! the filter, and what a poll has taken away is not given twice.

use std::time::Instant;

use bytes::Bytes;

use super::attempts::Aim;
use super::{Ended, Run};
use crate::filters::Home;
use crate::jsonrpc::Reply;
use crate::refusal::Refusal;

/// What a call is to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FilterCall {
    Make,
    Poll,
    Remove,
}

impl FilterCall {
    pub(super) fn of(method: &str) -> Option<Self> {
        match method {
            "eth_newFilter" | "eth_newBlockFilter" | "eth_newPendingTransactionFilter" => Some(Self::Make),
            "eth_getFilterChanges" | "eth_getFilterLogs" => Some(Self::Poll),
            "eth_uninstallFilter" => Some(Self::Remove),
            _ => None,
        }
    }
}

impl Run<'_> {
    /// The answer to a call about a filter.
    pub(super) async fn about_filter(&mut self, what: FilterCall, aim: Aim) -> Ended {
        if what == FilterCall::Make {
            let ended = self.over_providers(aim).await;
            return self.keep_filter(ended);
        }
        let (filters, profile, chain) = (&self.core.filters, &self.route.profile.slug, &self.route.chain.key);
        let found =
            self.filter_id().and_then(|id| filters.find(&id, profile, chain, Instant::now()).map(|home| (id, home)));
        let Some((id, home)) = found else { return Ended::Refused(Refusal::UnknownFilter) };
        let Some(aim) = self.aim_at(&home) else {
            filters.forget(&id);
            return Ended::Refused(Refusal::UnknownFilter);
        };
        let ended = self.over_providers(aim).await;
        if let Ended::Replied(answered) = &ended {
            let unknown = |message: &str| message.to_ascii_lowercase().contains("filter not found");
            let gone = match &answered.reply.error {
                Some(error) => unknown(&error.message),
                None => what == FilterCall::Remove,
            };
            if gone {
                filters.forget(&id);
            }
        }
        ended
    }

    /// Puts an id of ours in place of the provider's.
    fn keep_filter(&self, ended: Ended) -> Ended {
        let Ended::Replied(mut answered) = ended else { return ended };
        let Some(id) = answered.reply.result.clone() else { return Ended::Replied(answered) };
        let home = Home {
            profile: self.route.profile.slug.clone(),
            chain: self.route.chain.key.clone(),
            instance: answered.chosen.instance_id.clone(),
            transport: answered.chosen.transport,
            id,
        };
        let ours = self.core.filters.keep(home, Instant::now());
        if let Some(reply) = ours.and_then(|ours| Reply::of_result(&format!("\"{ours}\""))) {
            answered.reply = reply;
        }
        Ended::Replied(answered)
    }

    fn filter_id(&self) -> Option<String> {
        let params: Vec<&serde_json::value::RawValue> = serde_json::from_slice(self.call.params.as_deref()?).ok()?;
        serde_json::from_str(params.first()?.get()).ok()
    }

    /// The channel that holds a filter; none where its provider is no longer of this chain.
    fn aim_at(&self, home: &Home) -> Option<Aim> {
        let instances = &self.core.catalog.instances;
        let pin =
            self.route.chain.providers.iter().position(|provider| {
                provider.has(home.transport) && instances[provider.instance].id == home.instance
            })?;
        let params = [b"[".as_slice(), &home.id, b"]"].concat();
        Some(Aim { pin: Some(pin), transport: Some(home.transport), params: Some(Bytes::from(params)) })
    }
}
