//! What is asked of a manifest, of one that a fuzzer made up.

use std::path::Path;

use lariat_schema::node_api::NodeIdentity;
use lariat_schema::tables::Table;

use super::bucket::manifest_of;
use super::compact::plan;
use super::manifest::{Manifest, Pinned};
use super::retain::{Retention, expired, relieve};
use super::write::hour_of;

/// Asks everything that needs no disk.
pub(crate) fn asked(manifest: &Manifest, identity: &NodeIdentity, now_unix_nanos: i64) {
    for upload_after in [None, Some(0), Some(i64::MIN)] {
        let _ = plan(&manifest.files, now_unix_nanos, upload_after);
    }
    let _ = manifest_of(manifest, manifest.store_id, identity, Vec::new(), now_unix_nanos);
    let _ = expired(&manifest.files, &Retention::default(), now_unix_nanos);
    for has_bucket in [false, true] {
        let _ = relieve(&manifest.files, has_bucket, u64::MAX, 1, 1 << 20);
    }
    let mut gone = manifest.gone.clone();
    for file in &manifest.files {
        gone.add(file, lariat_schema::coverage::Why::Lost);
        let _ = hour_of(file.times);
        assert_eq!(Pinned::new(Path::new("/"), file.clone()).file.bytes, file.bytes);
    }
    for table in Table::ALL {
        gone.expire(*table, now_unix_nanos);
        let _ = gone.of(*table);
    }
}
