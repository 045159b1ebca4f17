//! Everything that can be read by name, put into the catalog once: the fleet's tables, longer cells as further names of one of
//! them, the views over them, and what the query service itself knows. The plan of a view is made here and kept: it is the
//! same for all questions, since a table learns only from the session of a question whose rows it has.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::{Result, TableReference, exec_err};
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::sql::parser::DFParser;
use futures::FutureExt as _;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use lariat_schema::views;

use super::system_tables::SystemTable;
use crate::scan::FleetTable;

/// Registers them with a session, for all that are copied from it.
///
/// # Errors
/// When a view reads what there is not.
pub(crate) fn register(session: &SessionState) -> Result<()> {
    let tables = Table::ALL.iter().map(|table| (table.as_str(), FleetTable { table: *table, cells: None }));
    let cells = CellWidth::ALL.iter();
    let cells = cells.map(|width| (width.relation(), FleetTable { table: Table::Rollups, cells: Some(*width) }));
    for (name, table) in tables.chain(cells) {
        put(session, name, Arc::new(table))?;
    }
    for (name, table) in SystemTable::all()? {
        put(session, name, Arc::new(table))?;
    }
    for view in views::ALL {
        let Some(statement) = DFParser::parse_sql(view.sql)?.pop_front() else { continue };
        // Tables are looked up in memory: nothing is waited for.
        let Some(plan) = session.statement_to_plan(statement).now_or_never() else {
            return exec_err!("the view {} cannot be planned at once", view.name);
        };
        put(session, view.name, Arc::new(ViewTable::new(plan?, Some(view.sql.to_owned()))))?;
    }
    Ok(())
}

fn put(session: &SessionState, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
    session.schema_for_ref(TableReference::bare(name))?.register_table(name.to_owned(), table)?;
    Ok(())
}
