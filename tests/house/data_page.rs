//! The lists in docs/data.md are drawn from the schema crate, so that the page cannot say anything else.
//! `UPDATE_DOCS=1 cargo test -p lariat --test house` writes them anew.

use std::fmt::Write as _;

use lariat_schema::{attributes, events, metrics, tables::Table, views};

use super::{read, root};

const BEGIN: &str = "<!-- drawn from the schema crate: begin -->";
const END: &str = "<!-- drawn from the schema crate: end -->";

#[test]
fn the_lists_in_the_page_about_data_are_those_of_the_schema() {
    let path = root().join("docs/data.md");
    let page = read(&path);
    let (before, rest) = page.split_once(BEGIN).expect("docs/data.md has a begin mark");
    let (drawn, after) = rest.split_once(END).expect("docs/data.md has an end mark");
    let wanted = format!("\n\n{}\n", lists());
    if drawn != wanted && std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("docs/data.md can be written");
        return;
    }
    assert!(drawn == wanted, "docs/data.md differs from the schema: UPDATE_DOCS=1 cargo test -p lariat --test house");
}

fn lists() -> String {
    let mut out = String::from(
        "### Attributes\n\n| key | type | unit | on | column of `spans` | meaning |\n|---|---|---|---|---|---|\n",
    );
    for attribute in attributes::ALL {
        let column = attribute.column.map_or("–".to_owned(), |column| format!("`{column}`"));
        let (key, unit, doc) = (attribute.key, attribute.unit, attribute.doc);
        let _ =
            writeln!(out, "| `{key}` | {:?} | {unit} | {:?} | {column} | {doc} |", attribute.value, attribute.carrier);
    }
    out.push_str("\n### Events\n\n| name | meaning |\n|---|---|\n");
    for event in events::ALL {
        let _ = writeln!(out, "| `{}` | {} |", event.name, event.doc);
    }
    out.push_str("\n### Metrics\n\n| name | instrument | unit | meaning |\n|---|---|---|---|\n");
    for metric in metrics::ALL {
        let _ = writeln!(out, "| `{}` | {:?} | {} | {} |", metric.name, metric.instrument, metric.unit, metric.doc);
    }
    out.push_str("\n### Tables\n\n");
    for table in Table::ALL {
        let _ = writeln!(
            out,
            "`{table}`, sorted by {}.\n\n| column | type | null |\n|---|---|---|",
            table.sort_columns().join(", ")
        );
        for field in table.schema().fields() {
            let null = if field.is_nullable() { "yes" } else { "no" };
            let _ = writeln!(
                out,
                "| `{}` | {} | {null} |",
                field.name(),
                field.data_type().to_string().replace('|', "\\|")
            );
        }
        out.push('\n');
    }
    out.push_str("### Views\n\n| view | a row is | definition |\n|---|---|---|\n");
    for view in views::ALL {
        let sql = view.sql.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {} | `{sql}` |", view.name, view.doc);
    }
    out
}
