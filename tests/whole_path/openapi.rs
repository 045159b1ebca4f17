//! The OpenAPI document against the service that it describes, by a contract tester that makes requests up, good and bad.

use std::path::PathBuf;
use std::process::Command;

use super::harness::{Lariat, get_json, root, tool};

/// Requests that are made up per operation and kind of test.
const EXAMPLES: &str = "6";

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("LARIAT_PYTHON").map(PathBuf::from)?;
    let has = Command::new(&python).args(["-c", "import schemathesis"]).output().ok()?;
    has.status.success().then_some(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_openapi_document_answers_as_it_says() {
    let Some(python) = tool("schemathesis in LARIAT_PYTHON", python()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--nodes", "1", "--rps", "20"]).await;
    let url = demo.url("query").await;
    let (status, document) = get_json(&format!("{url}/openapi.json")).await;
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .args(["-m", "schemathesis.cli", "--config-file"])
            .arg(root().join("tests/clients/schemathesis.toml"))
            .args(["run", &format!("{url}/openapi.json"), "--phases", "coverage,fuzzing"])
            .args(["--max-examples", EXAMPLES, "--generation-database", "none", "--seed", "1", "--no-color"])
            .current_dir(dir.path())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let of_service = demo.text();
    assert!(output.status.success(), "{text}\n{}\n{of_service}", String::from_utf8_lossy(&output.stderr));
}
