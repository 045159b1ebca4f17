//! The relations that a client can list: tables, views and system tables, with their columns. Asked of the engine once,
//! by planning a question over each, so that a list and an answer cannot differ.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use tokio::sync::OnceCell;

use crate::ask::{Ask, AskError, Question};
use crate::engine::{MEMBERSHIP, NODES};

/// Name of the catalog, or database, that all relations are in.
pub(crate) const CATALOG: &str = "lariat";
/// Name of their schema.
pub(crate) const SCHEMA: &str = "public";

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Table,
    View,
}

/// A relation.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) schema: SchemaRef,
}

/// All relations, once they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Relations(OnceCell<Arc<[Relation]>>);

impl Relations {
    /// The relations by name.
    pub(crate) async fn all(&self, ask: &dyn Ask) -> Result<Arc<[Relation]>, AskError> {
        self.0.get_or_try_init(|| load(ask)).await.cloned()
    }
}

/// Names and kinds, by name.
pub(crate) fn names() -> Vec<(&'static str, Kind)> {
    let tables = Table::NAMES.iter().copied().chain([NODES, MEMBERSHIP]).map(|name| (name, Kind::Table));
    let cells = CellWidth::ALL.iter().map(|width| (width.relation(), Kind::View));
    let views = lariat_schema::views::ALL.iter().map(|view| (view.name, Kind::View));
    let mut all: Vec<_> = tables.chain(cells).chain(views).collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    all
}

async fn load(ask: &dyn Ask) -> Result<Arc<[Relation]>, AskError> {
    let mut relations = Vec::new();
    for (name, kind) in names() {
        let outline = ask.outline(Question::new(format!("SELECT * FROM {name}"))).await?;
        relations.push(Relation { name, kind, schema: outline.schema });
    }
    Ok(relations.into())
}
