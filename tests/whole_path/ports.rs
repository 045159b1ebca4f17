//! Flight SQL and Postgres as their clients meet them: psql from Debian, psycopg, ADBC and flightsql-dbapi from PyPI, over a
//! running fleet.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::harness::{Lariat, call, eventually, on_path, root, rows, tool};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#;

/// A fleet with one call that can be asked about, and the call's request id.
async fn fleet(dir: &Path) -> (Lariat, String) {
    let demo = Lariat::demo(dir, &["--rps", "0", "--nodes", "2"]).await;
    let (_, id) = call(&format!("{}/rpc/ethereum", demo.url("proxy").await), CALL).await;
    eventually("the decision in SQL", async || {
        let answer = demo.sql(&format!("SELECT 1 FROM routing_decisions WHERE request_id = '{id}'")).await;
        rows(&answer).first().cloned()
    })
    .await;
    (demo, id)
}

/// Host and port in a URL.
fn place(url: &str) -> (String, String) {
    let (_, rest) = url.split_once("://").unwrap();
    let (host, port) = rest.split('/').next().unwrap().rsplit_once(':').unwrap();
    (host.to_owned(), port.to_owned())
}

/// Python, if it has these packages.
fn python(packages: &str) -> Option<PathBuf> {
    let found = std::env::var_os("LARIAT_PYTHON").map(PathBuf::from).or_else(|| on_path("python3"));
    let imports = format!("import {packages}");
    tool(
        packages,
        found.filter(|python| {
            Command::new(python).args(["-c", &imports]).output().is_ok_and(|output| output.status.success())
        }),
    )
}

fn told(python: &Path, script: &str, arguments: &[&str]) -> Value {
    let output = Command::new(python).arg(root().join("tests/clients").join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stdout(output: &Output) -> String {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{errors}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_asks_lists_and_describes() {
    let Some(psql) = tool("psql", on_path("psql")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (demo, id) = fleet(dir.path()).await;
    let url = demo.url("postgres").await;
    assert!(url.starts_with("postgresql://") && url.ends_with("/lariat"), "{url}");
    let run = |commands: &[&str]| {
        let mut arguments = vec!["-X", "-A", "-v", "ON_ERROR_STOP=1", url.as_str()];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
        Command::new(&psql).env("PGUSER", "me").env("PGCONNECT_TIMEOUT", "10").args(arguments).output().unwrap()
    };
    let by_id = format!("SELECT method, request_id FROM routing_decisions WHERE request_id = '{id}'");
    assert!(stdout(&run(&[&by_id])).contains(&format!("eth_blockNumber|{id}")));
    let tables = stdout(&run(&["\\dt"]));
    assert!(tables.contains("public|spans|table|lariat") && !tables.contains("routing_decisions"), "{tables}");
    let all = stdout(&run(&["\\d"]));
    assert!(all.contains("public|routing_decisions|view|lariat") && all.contains("public|spans|"), "{all}");
    assert!(stdout(&run(&["\\dv"])).contains("routing_decisions"));
    for relation in ["spans", "routing_decisions"] {
        let columns = stdout(&run(&[&format!("\\d {relation}")]));
        for line in ["time|timestamp with time zone", "request_id|uuid", "duration_ns|bigint", "eligible|json"] {
            assert!(columns.contains(line), "{line} is not in\n{columns}");
        }
    }
    for command in ["\\l", "\\dn", "\\d+ spans", "\\dt+", "\\du", "\\dx", "\\df", "\\di", "\\conninfo", "\\encoding"] {
        stdout(&run(&[command]));
    }
    let script = dir.path().join("describe.sql");
    std::fs::write(&script, "SELECT method, duration_ns FROM routing_decisions \\gdesc\n").unwrap();
    let described = Command::new(&psql).env("PGUSER", "me").args(["-X", "-A", &url, "-f"]).arg(&script).output();
    assert!(stdout(&described.unwrap()).contains("duration_ns|bigint"));
    // psql reads such answers with a cursor of its own.
    let script = dir.path().join("pages.sql");
    std::fs::write(
        &script,
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'spans';\nSELECT 'last';\n",
    )
    .unwrap();
    let pages = ["-X", "-A", "-t", "-v", "FETCH_COUNT=2", &url, "-f"];
    let paged = Command::new(&psql).env("PGUSER", "me").args(pages).arg(&script).output();
    let paged = stdout(&paged.unwrap());
    assert!(paged.lines().count() > 50 && paged.contains("duration_ns") && paged.ends_with("last\n"), "{paged}");
    let file = dir.path().join("copied.csv");
    stdout(&run(&[&format!("\\copy ({by_id}) TO '{}' CSV HEADER", file.display())]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("method,request_id\neth_blockNumber,{id}\n"));
    let wrong = run(&["SELECT * FROM routing_decision"]);
    let errors = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && errors.contains("HINT:") && errors.contains("routing_decisions"), "{errors}");
    let settings = stdout(&run(&["SET lariat.deadline = '2s'", "SHOW lariat.deadline"]));
    assert!(settings.contains("2000ms"), "{settings}");
    demo.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_a_notice_in_psql_and_an_error_where_more_is_wanted() {
    let Some(psql) = tool("psql", on_path("psql")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (demo, _) = fleet(dir.path()).await;
    let url = demo.url("postgres").await;
    let query = demo.url("query").await;
    let killed = super::harness::client().post(format!("{query}/api/v1/demo/nodes/1/kill")).send().await.unwrap();
    assert!(killed.status().is_success());
    let ask = |options: &str| {
        let count = ["-X", "-A", "-t", url.as_str(), "-c", "SELECT count(*) FROM spans"];
        Command::new(&psql).env("PGUSER", "me").env("PGOPTIONS", options).args(count).output().unwrap()
    };
    let output = ask("");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("NOTICE:") && errors.contains("1 of 2 nodes"), "{errors}");
    let refused = ask("-c lariat.min_coverage=0.99");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("below the wanted"), "{errors}");
    demo.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_reads_every_type_in_both_formats_and_both_protocols() {
    let Some(python) = python("psycopg") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (demo, id) = fleet(dir.path()).await;
    let (host, port) = place(&demo.url("postgres").await);
    let told = told(&python, "ask_postgres.py", &[&host, &port, &id]);
    let types = json!(["str", "datetime", "int", "UUID", "list", "str"]);
    assert_eq!((&told["text"]["types"], &told["binary"]["types"]), (&types, &types), "{told}");
    assert_eq!(told["text"]["row"], told["binary"]["row"], "the format changes no value");
    assert_eq!((&told["text"]["row"][0], &told["text"]["row"][3]), (&json!("eth_blockNumber"), &json!(id)));
    assert_eq!(told["by_uuid"], "eth_blockNumber");
    assert!(told["prepared"].as_u64().is_some_and(|rows| rows >= 1), "{told}");
    assert!(told["since"].as_u64().is_some_and(|rows| rows >= 1), "{told}");
    assert_eq!((&told["status"], &told["setting"], &told["stream"]), (&json!("INTRANS"), &json!("0.5"), &json!(3)));
    assert_eq!(told["wrong_table"]["sqlstate"], "42P01", "{told}");
    assert!(told["wrong_table"]["hint"].as_str().is_some_and(|hint| hint.contains("routing_decisions")), "{told}");
    assert_eq!(told["write"]["sqlstate"], "25006", "{told}");
    assert_eq!(told["type"], json!(["uuid", 2950, 2951]));
    assert_eq!(told["cursor"], json!(["provider_id", told["candidates"].to_string()]), "{told}");
    let duration = &told["text"]["row"][2];
    assert_eq!(told["copied_text"], json!([["eth_blockNumber", duration]]), "{told}");
    assert_eq!(told["copied_binary"], told["copied_text"], "{told}");
    demo.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn adbc_and_other_clients_of_flight_sql_are_answered() {
    let Some(python) = python("adbc_driver_flightsql.dbapi, adbc_driver_manager, flightsql, pyarrow") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (demo, id) = fleet(dir.path()).await;
    let url = demo.url("flight_sql").await;
    assert!(url.starts_with("grpc://"), "{url}");
    let (host, port) = place(&url);
    let told = told(&python, "ask_flight_sql.py", &[&host, &port, &id]);
    assert_eq!(told["adbc"]["rows"][0]["method"], "eth_blockNumber", "{told}");
    assert_eq!(told["adbc"]["types"], json!(["string", "int64"]));
    assert!(told["wide"].as_u64().is_some_and(|columns| columns > 50) && told["none"] == json!([]), "{told}");
    assert_eq!(told["after"], 1);
    assert_eq!(told["objects"]["spans"], "BASE TABLE", "{told}");
    assert_eq!(told["objects"]["routing_decisions"], "VIEW", "{told}");
    assert!(told["columns"].as_u64().is_some_and(|columns| columns > 100), "{told}");
    assert_eq!((&told["schema_of"], &told["info"]), (&json!(["time", "request_id"]), &json!("Lariat")));
    let wrong = told["wrong_table"]["message"].as_str().unwrap();
    assert!(wrong.contains("routing_decisions"), "{wrong}");
    assert!(told["write"]["message"].as_str().unwrap().contains("only reading"), "{told}");
    assert!(told["strict"]["message"].as_str().unwrap().contains("from 0 to 1"), "{told}");
    let plain = &told["flightsql"];
    assert_eq!(plain["endpoints"], 1);
    assert!(plain["rows"][0]["n"].as_u64().is_some_and(|rows| rows > 0), "{plain}");
    assert_eq!(plain["beside"]["coverage"]["expected"], 2, "{plain}");
    demo.kill();
}
