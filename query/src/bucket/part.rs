//! What the bucket gives to one query: the catalog as it was before the nodes were asked, the query services that read it,
//! and what had to be given up on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use lariat_schema::bucket::StoreManifest;
use lariat_schema::ids::StoreId;
use url::Url;

use super::catalog::Catalog;

/// The bucket in one query.
#[derive(Debug, Clone)]
pub(crate) struct BucketPart {
    pub(crate) catalog: Arc<Catalog>,
    /// Where its files are read. This query service is the first, and is left when all others have failed.
    services: Vec<Url>,
    /// Stores that could not be read, and why.
    out: BTreeMap<StoreId, String>,
    /// Why nothing is read from it at all.
    failed: Option<String>,
    /// The stores that the question is for; `None`: all.
    only: Option<Arc<[StoreId]>>,
}

impl BucketPart {
    pub(crate) fn new(catalog: Arc<Catalog>, services: Vec<Url>, only: Option<Arc<[StoreId]>>) -> Self {
        Self { catalog, services, out: BTreeMap::new(), failed: None, only }
    }

    pub(crate) fn services(&self) -> &[Url] {
        &self.services
    }

    /// Whether a store may be read from here.
    pub(crate) fn is_usable(&self, store: StoreId) -> bool {
        self.failed.is_none()
            && !self.out.contains_key(&store)
            && self.only.as_ref().is_none_or(|only| only.contains(&store))
    }

    /// Nothing more is read of a store: rows of it have gone to the reader.
    pub(crate) fn leave_out_store(&mut self, store: StoreId, error: String) {
        self.out.insert(store, error);
    }

    /// What a store has here, if it may be read.
    pub(crate) fn held(&self, store: StoreId) -> Option<&Arc<StoreManifest>> {
        self.catalog.get(store).filter(|_| self.is_usable(store))
    }

    /// Why a store that is here is not read.
    pub(crate) fn error(&self, store: StoreId) -> Option<&String> {
        self.catalog.get(store)?;
        self.out.get(&store).or(self.failed.as_ref())
    }

    /// A query service failed. Others are done without; where it is this one, it is the bucket that failed: those stores
    /// of it that are known to, and otherwise all.
    pub(crate) fn leave_out(&mut self, service: &Url, error: String, stores: Vec<(StoreId, String)>) {
        if self.services.first() != Some(service) {
            self.services.retain(|other| other != service);
        } else if stores.is_empty() {
            self.failed = Some(error);
        } else {
            self.out.extend(stores);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_service_that_fails_leaves_the_bucket_and_this_one_leaves_stores_or_nothing() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (here, there) = (url("http://here"), url("http://there"));
        let mut part = BucketPart::new(Arc::default(), vec![here.clone(), there.clone()], None);
        let (one, two) = (StoreId(uuid::Uuid::from_u128(1)), StoreId(uuid::Uuid::from_u128(2)));
        part.leave_out(&there, "died".to_owned(), Vec::new());
        assert_eq!((part.services(), part.is_usable(one)), (&[here.clone()][..], true));
        part.leave_out(&here, "damaged".to_owned(), vec![(one, "damaged".to_owned())]);
        assert_eq!((part.is_usable(one), part.is_usable(two)), (false, true));
        part.leave_out(&here, "away".to_owned(), Vec::new());
        assert_eq!((part.services().len(), part.is_usable(two)), (1, false));
    }
}
