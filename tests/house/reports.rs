//! A report has one name everywhere: in the API, in its test, on its panel.

use lariat_schema::reports::Report;

use super::{files, none, read, root, shown};

/// Reports that the query service answers: those that read rows and rollups, and the state of the fleet.
fn with_endpoint() -> Vec<Report> {
    let mut reports = lariat_query::reports::SERVED.to_vec();
    reports.push(Report::Nodes);
    reports
}

#[test]
fn every_report_with_an_endpoint_has_a_test() {
    let mut tests: String = files(&root().join("tests"), ".rs").iter().map(|path| read(path)).collect();
    tests.extend(
        files(&root().join("query/src"), ".rs").iter().filter(|path| path.ends_with("tests.rs")).map(|path| read(path)),
    );
    let untested: Vec<String> = with_endpoint()
        .iter()
        .filter(|report| !tests.contains(&format!("/api/v1/{report}")))
        .map(ToString::to_string)
        .collect();
    none("these reports have an endpoint and no test", &untested);
}

#[test]
fn no_panel_is_named_after_a_report_without_an_endpoint() {
    let known = with_endpoint();
    let mut offences = Vec::new();
    for path in files(&root().join("dashboards/web/panels"), ".js") {
        for part in read(&path).split("report: '").skip(1) {
            let name = part.split('\'').next().unwrap_or_default();
            if !name.parse::<Report>().is_ok_and(|report| known.contains(&report)) {
                offences.push(format!("{}: {name}", shown(&path)));
            }
        }
    }
    none("these panels read reports that nobody answers", &offences);
}
