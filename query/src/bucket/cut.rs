//! The cut: which rows of a store are read from its bucket and which from its node, fixed once for each query.
//!
//! It is made between files and not between commit times. The catalog is fixed before the nodes pin. A file that a
//! manifest names is final: its rows stand in no other file, ever, and it was on its node's list before the node pinned.
//! So a node that answers can be told by number which files to leave out, and rows of these, and no others, are read from
//! the bucket, whatever the node seals, merges, gives up or forgets meanwhile. A position in commit time would have to be
//! compared row by row, on both sides, by clocks that can be set. A store that does not answer is read from the bucket
//! whole.
//!
//! Of a node that answers only what it has itself no longer is read from here: its own disk is nearer than any bucket.

use std::sync::Arc;

use lariat_collector::worker::MAX_WITHOUT;
use lariat_schema::bucket::{FileInBucket, StoreManifest};
use lariat_schema::ids::StoreId;
use lariat_schema::layout::named_file;
use lariat_schema::tables::Table;

use super::catalog::{self, Catalog};
use crate::scan::window::Asked;

/// Where the rows of one table are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cut {
    /// From nodes: the store, and the sequences of the files that its node leaves out.
    pub(crate) nodes: Vec<(StoreId, Arc<[u64]>)>,
    /// From the bucket.
    pub(crate) files: Vec<BucketFile>,
}

/// A file to be read from the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketFile {
    pub(crate) store_id: StoreId,
    pub(crate) path: String,
    pub(crate) bytes: u64,
}

/// A store whose node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answering {
    pub(crate) store_id: StoreId,
    /// Whether the node can leave out files that it is told to.
    pub(crate) leaves_files_out: bool,
}

/// Fixes the cut. `catalog` was read before the nodes pinned; of stores that are not `usable` nothing is read from the
/// bucket.
pub(crate) fn cut(
    table: Table,
    asked: Asked,
    answering: &[Answering],
    catalog: &Catalog,
    usable: impl Fn(StoreId) -> bool,
) -> Cut {
    let mut cut = Cut::default();
    for node in answering {
        let said = catalog.get(node.store_id).filter(|_| node.leaves_files_out && usable(node.store_id));
        let given_up: Vec<&FileInBucket> =
            said.map(|said| files(said, table).filter(|file| file.only_here).collect()).unwrap_or_default();
        if given_up.len() > MAX_WITHOUT {
            cut.nodes.push((node.store_id, Arc::default()));
            continue;
        }
        let sequences = given_up.iter().filter_map(|file| Some(named_file(table, &file.path)?.1));
        cut.nodes.push((node.store_id, sequences.collect()));
        cut.take(node.store_id, asked, given_up.into_iter());
    }
    for said in catalog.stores() {
        let answers = answering.iter().any(|node| node.store_id == said.store_id);
        if !answers && usable(said.store_id) {
            cut.take(said.store_id, asked, files(said, table));
        }
    }
    cut
}

fn files(said: &StoreManifest, table: Table) -> impl Iterator<Item = &FileInBucket> {
    catalog::table(said, table).into_iter().flat_map(|table| &table.files)
}

impl Cut {
    /// Files that may have rows of the time that is asked for.
    fn take<'a>(&mut self, store_id: StoreId, asked: Asked, files: impl Iterator<Item = &'a FileInBucket>) {
        let wanted = files.filter(|file| asked.touches(file.times));
        self.files.extend(wanted.map(|file| BucketFile { store_id, path: file.path.clone(), bytes: file.bytes }));
    }
}

#[cfg(test)]
mod tests;
