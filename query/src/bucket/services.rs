//! The query services that share the reading of the bucket: the addresses of `cluster.queries`, looked at every few
//! seconds. One takes part while it answers with the same version of the program and the same bucket; a plan is understood
//! by no other. Nobody is told of anybody: each asks for itself, and a question that meets a dead one is asked again
//! without it.

use std::collections::BTreeMap;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::worker::ServiceInfo;
use crate::topology::HEALTH_TIMEOUT;
use crate::topology::client::NodeClient;
use crate::topology::state::ROUND;

/// Query services that share a question; more would each read a handful of files.
const MAX_SERVICES: usize = 64;

/// Who takes part.
pub(crate) struct Services {
    own: ServiceInfo,
    addresses: Vec<Url>,
    /// By address, in an order that does not change, so that files are dealt out alike from question to question.
    ready: Mutex<BTreeMap<Url, ServiceInfo>>,
}

impl Services {
    pub(crate) fn new(own: ServiceInfo, addresses: &[String]) -> Self {
        let url = |address: &String| match Url::parse(&format!("http://{address}")) {
            Ok(url) => Some(url),
            Err(error) => {
                tracing::warn!(address, %error, "not an address of a query service");
                None
            }
        };
        let addresses = addresses.iter().filter_map(url).take(MAX_SERVICES).collect();
        Self { own, addresses, ready: Mutex::default() }
    }

    pub(crate) fn own(&self) -> &ServiceInfo {
        &self.own
    }

    /// The others that take part now.
    pub(crate) fn ready(&self) -> Vec<Url> {
        self.ready.lock().keys().cloned().collect()
    }

    /// Looks at all of them, again and again.
    pub(crate) async fn keep_looking(&self, client: &NodeClient, stop: CancellationToken) {
        while !self.addresses.is_empty() {
            self.round(client).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    async fn round(&self, client: &NodeClient) {
        let looks = self.addresses.iter().map(async |url| (url, client.bucket_service(url, HEALTH_TIMEOUT).await));
        for (url, look) in join_all(looks).await {
            let found = look.ok().filter(|info| self.shares(info));
            let mut ready = self.ready.lock();
            match found {
                Some(info) => {
                    if ready.insert(url.clone(), info).is_none() {
                        tracing::info!(%url, "a query service shares the reading of the bucket");
                    }
                }
                None => {
                    if ready.remove(url).is_some() {
                        tracing::warn!(%url, "a query service no longer shares the reading of the bucket");
                    }
                }
            }
        }
    }

    fn shares(&self, info: &ServiceInfo) -> bool {
        info.instance_id != self.own.instance_id && info.version == self.own.version && info.bucket == self.own.bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_one_of_the_same_version_and_bucket_shares() {
        let info = |id: u128, version: &str, bucket: &str| ServiceInfo {
            instance_id: uuid::Uuid::from_u128(id),
            version: version.to_owned(),
            bucket: bucket.to_owned(),
        };
        let services = Services::new(info(1, "1", "s3://a"), &["10.0.0.1:4040".to_owned(), "no address".to_owned()]);
        assert_eq!(services.addresses.len(), 1);
        assert!(services.shares(&info(2, "1", "s3://a")));
        for other in [info(1, "1", "s3://a"), info(2, "2", "s3://a"), info(2, "1", "s3://b")] {
            assert!(!services.shares(&other), "{other:?}");
        }
    }
}
