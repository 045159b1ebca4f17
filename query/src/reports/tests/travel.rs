//! Whether the questions of reports can be answered far away: a node gets its part of a plan as bytes, so every function
//! and operator in it must survive that, and only a comparison with a bare column reaches a file's statistics.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_proto::bytes::{physical_plan_from_bytes, physical_plan_to_bytes};
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use crate::reports::fixture::{NOON, batch, cell};
use crate::reports::parameters::{Accepts, Parameters};
use crate::reports::{blocks, cells, circuits, errors, providers, routing, sql_text, trace, usage};

/// An engine over empty Parquet files but for one cell of rollups.
async fn files(folder: &std::path::Path) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2);
    let context = SessionContext::new_with_config(config);
    lariat_collector::worker::sketches::register(&mut *context.state_ref().write()).unwrap();
    lariat_collector::worker::exclusions::register(&mut *context.state_ref().write()).unwrap();
    for table in Table::ALL {
        let path = folder.join(format!("{table}.parquet"));
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), table.schema(), None).unwrap();
        if *table == Table::Rollups {
            let mut row = cell(json!({ "error_category": "timeout" }), 3, 1_000_000);
            row["excluded"] = json!([{ "reason": "lagging", "count": 1 }]);
            for batch in batch(Table::Rollups, &[row]).1 {
                writer.write(&batch).unwrap();
            }
        }
        writer.close().unwrap();
        let options = ParquetReadOptions::default();
        context.register_parquet(table.as_str(), path.to_str().unwrap(), options.clone()).await.unwrap();
        for width in CellWidth::ALL.iter().filter(|_| *table == Table::Rollups) {
            context.register_parquet(width.relation(), path.to_str().unwrap(), options.clone()).await.unwrap();
        }
    }
    for view in lariat_schema::views::ALL {
        context.sql(&format!("CREATE VIEW {} AS {}", view.name, view.sql)).await.unwrap();
    }
    context
}

async fn plan(context: &SessionContext, sql: &str) -> Arc<dyn ExecutionPlan> {
    context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
}

fn parameters() -> Parameters {
    const ACCEPTS: Accepts = Accepts { filters: &["profile"], own: &[] };
    Parameters::parse("from=1763726100&to=1763726700&profile=public", ACCEPTS, NOON).unwrap()
}

#[tokio::test]
async fn every_question_of_a_report_gives_the_same_answer_after_a_journey_as_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let context = files(folder.path()).await;
    let parameters = parameters();
    let window = &[parameters.cell_window()];
    for sql in [
        cells::question(&[], Some(60_000_000_000), window, &parameters.conditions()),
        cells::question(providers::KEYS, None, window, ""),
        errors::question(&parameters, window),
        routing::question(&parameters, window),
        usage::question(&parameters, window),
        circuits::question(&parameters, window),
        circuits::states_question(&parameters),
        blocks::question(&parameters, window),
        trace::question(&[7; 16], None, 10),
    ] {
        let here = plan(&context, &sql).await;
        let bytes = physical_plan_to_bytes(Arc::clone(&here)).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let there = physical_plan_from_bytes(&bytes, &context.task_ctx()).unwrap();
        let expected = collect(here, context.task_ctx()).await.unwrap();
        let found = collect(there, context.task_ctx()).await.unwrap();
        let text = |batches: &[_]| pretty_format_batches(batches).unwrap().to_string();
        assert_eq!(text(&found), text(&expected), "{sql}");
    }
}

#[tokio::test]
async fn moments_and_ids_are_compared_with_the_bare_column() {
    let folder = tempfile::tempdir().unwrap();
    let context = files(folder.path()).await;
    let within = sql_text::within(parameters().window);
    let id = sql_text::id(&[7; 16]);
    let sql = format!("SELECT * FROM spans WHERE trace_id = {id} AND {within}");
    let shown = displayable(plan(&context, &sql).await.as_ref()).indent(true).to_string();
    assert!(!shown.contains("CAST("), "{shown}");
    assert!(shown.contains("trace_id@") && shown.contains("pruning_predicate"), "{shown}");
}

#[tokio::test]
async fn every_example_of_the_documentation_can_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let context = files(folder.path()).await;
    let text = include_str!("../../../../docs/reports.md");
    let examples: Vec<&str> = text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 9, "{}", examples.len());
    for sql in examples {
        let plan = plan(&context, sql).await;
        collect(plan, context.task_ctx()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[test]
fn every_report_has_its_section_and_every_column_its_line_in_the_documentation() {
    let text = include_str!("../../../../docs/reports.md");
    for report in lariat_schema::reports::Report::ALL {
        let (_, section) = text.split_once(&format!("### `{report}`\n")).unwrap_or_else(|| panic!("no {report}"));
        let section = section.split("\n### ").next().unwrap();
        let columns: &[_] = match report.as_str() {
            "traffic" => crate::reports::traffic::COLUMNS,
            "errors" => errors::COLUMNS,
            "routing" => routing::COLUMNS,
            "providers" => providers::COLUMNS,
            "circuits" => circuits::COLUMNS,
            "blocks" => blocks::COLUMNS,
            "usage" => usage::COLUMNS,
            _ => &[],
        };
        for (column, _) in columns {
            assert!(section.contains(&format!("`{column}`")), "{report} does not explain {column}");
        }
    }
}
