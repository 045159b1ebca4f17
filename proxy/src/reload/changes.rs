//! What differs between two catalogs, for the operator who changed a file and wants to see that it did what was meant.
//! Compared is what the record calls the policy, so that no secret can show: a changed key shows as another instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::profiles::{Catalog, redact};

/// What a reload changed. Each is named by its path: `profile`, `profile/chain` or `profile/chain/provider`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Hash of the policy that is in force now.
    pub policy_hash: Arc<str>,
    /// True where anything changed, be it only an order.
    pub applied: bool,
    /// True where other authorities are trusted with providers' certificates.
    pub authorities: bool,
    /// What is new.
    pub added: Vec<String>,
    /// What is gone.
    pub removed: Vec<String>,
    /// What says something else than before, by itself and not by what is below it.
    pub changed: Vec<String>,
}

impl Changes {
    pub(crate) fn between(before: &Catalog, after: &Catalog) -> Self {
        let (old, new) = (parts(before), parts(after));
        let missing = |from: &BTreeMap<String, Value>, of: &BTreeMap<String, Value>| {
            of.keys().filter(|path| !from.contains_key(*path)).cloned().collect()
        };
        Self {
            policy_hash: after.policy_hash.clone(),
            applied: before.policy != after.policy,
            authorities: false,
            added: missing(&old, &new),
            removed: missing(&new, &old),
            changed: new
                .iter()
                .filter(|(path, value)| old.get(*path).is_some_and(|before| before != *value))
                .map(|(path, _)| path.clone())
                .collect(),
        }
    }
}

fn parts(catalog: &Catalog) -> BTreeMap<String, Value> {
    let mut parts = BTreeMap::new();
    for profile in &catalog.profiles {
        parts.insert(profile.slug.to_string(), redact::profile(profile));
        for chain in &profile.chains {
            let path = format!("{}/{}", profile.slug, chain.key);
            for provider in &chain.providers {
                parts.insert(format!("{path}/{}", provider.id), redact::provider(provider, &catalog.instances));
            }
            parts.insert(path, redact::chain(chain));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::parse;

    #[test]
    fn each_change_is_named_by_its_path_and_no_secret_is_told() {
        let text = |rest: &str| format!("chains: {{ e: {{ chain_id: 1, providers: [ {rest} ] }} }}\n");
        let read = |text: &str| parse("public", text, &|_| None).unwrap();
        let before = read(&text("{ id: a, url: 'http://a/k3y' }, { id: b, url: 'http://b' }"));
        let after =
            read(&format!("rps_limit: 5\n{}", text("{ id: a, url: 'http://a/n3w' }, { id: c, url: 'http://c' }")));
        let changes = Changes::between(&before, &after);
        assert!(changes.applied);
        assert_eq!(changes.added, ["public/e/c"]);
        assert_eq!(changes.removed, ["public/e/b"]);
        assert_eq!(changes.changed, ["public", "public/e/a"]);
        assert!(!serde_json::to_string(&changes).unwrap().contains("n3w"));
        assert!(!Changes::between(&after, &after).applied);
    }
}
