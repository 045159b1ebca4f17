//! What all requests of one proxy share: the catalog, what is known of the upstreams, the connections to them, and the
//! recorder's queue. One value per proxy and nothing global, since several nodes may live in one process.

use std::sync::Arc;

use lariat_schema::ids::{BootId, ChainName, ProfileName, ProviderId};
use lariat_schema::seeds::selection_seed;
use lariat_schema::vocabulary::Transport;

use crate::admit::rate::Limits;
use crate::filters::Filters;
use crate::health::{Book, Change, Place};
use crate::profiles::{Catalog, Chain, Provider};
use crate::record::{ChannelEvent, Digest, DigestKey, Happened, Item, Recorder, SpanIds, now_unix_nanos};
use crate::saving::Saving;
use crate::upstream::Upstreams;

pub(crate) struct Core {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) book: Arc<Book>,
    pub(crate) limits: Limits,
    pub(crate) upstreams: Arc<Upstreams>,
    /// What the calls of a profile share so that less is asked of its providers.
    pub(crate) saving: Saving,
    /// Where the filters of clients are; the same over reloads.
    pub(crate) filters: Arc<Filters>,
    pub(crate) recorder: Recorder,
    /// What the seeds of this boot's decisions are made from.
    pub(crate) boot_id: BootId,
    /// Keeps clients from choosing calls that meet in one place of a table.
    pub(crate) hash_seed: u64,
    pub(crate) span_ids: SpanIds,
    /// Key of the digests.
    pub(crate) digests: DigestKey,
}

impl Core {
    /// The same proxy with another catalog, and the book and the connections that belong to it.
    pub(crate) fn with(&self, catalog: Arc<Catalog>, book: Arc<Book>, upstreams: Arc<Upstreams>) -> Self {
        Self {
            limits: self.limits.succeed(&self.catalog, &catalog),
            saving: self.saving.succeed(&catalog),
            catalog,
            book,
            upstreams,
            filters: self.filters.clone(),
            recorder: self.recorder.clone(),
            boot_id: self.boot_id,
            hash_seed: self.hash_seed,
            span_ids: self.span_ids,
            digests: self.digests.clone(),
        }
    }

    /// The seed of a selection.
    pub(crate) fn seed(&self, decision_seq: u64, selection: u64) -> u64 {
        selection_seed(self.boot_id, decision_seq, selection)
    }

    /// Digest of parameters or of a result.
    pub(crate) fn digest(&self, text: &[u8]) -> Digest {
        self.digests.of(text)
    }

    /// Every provider, with its place.
    pub(crate) fn providers(&self) -> impl Iterator<Item = (Place, &ProfileName, &Chain, &Provider)> {
        self.catalog.profiles.iter().enumerate().flat_map(|(p, profile)| {
            profile.chains.iter().enumerate().flat_map(move |(c, chain)| {
                chain.providers.iter().enumerate().map(move |(i, provider)| ((p, c, i), &profile.slug, chain, provider))
            })
        })
    }

    /// Tells of a change of an upstream, once for each provider that it stands behind.
    pub(crate) fn tell(&self, instance: usize, transport: Transport, what: &Happened) {
        let at_unix_nanos = now_unix_nanos();
        for (_, profile, chain, provider) in
            self.providers().filter(|(_, _, _, provider)| provider.instance == instance)
        {
            self.recorder.hand_over(Item::Event(Box::new(ChannelEvent {
                profile: profile.clone(),
                chain: chain.key.clone(),
                chain_id: chain.chain_id,
                provider_id: provider.id.clone(),
                instance_id: self.catalog.instances[instance].id.clone(),
                transport,
                at_unix_nanos,
                what: what.clone(),
            })));
        }
    }

    /// Tells of a circuit's transition.
    pub(crate) fn tell_change(&self, change: Change) {
        let Change { channel, transition } = change;
        let instance = &self.catalog.instances[channel.instance()];
        tracing::info!(instance = %instance.id, transport = %channel.transport(), from = %transition.from, to = %transition.to, reason = transition.reason, "circuit changed");
        let epoch = self.book.snapshot().channel(channel).epoch;
        self.tell(channel.instance(), channel.transport(), &Happened::Circuit { transition, epoch });
    }

    /// What the probes of an instance are recorded under.
    pub(crate) fn named_by(&self, instance: usize) -> &(ProfileName, ChainName, ProviderId) {
        &self.catalog.instances[instance].named_by
    }
}
