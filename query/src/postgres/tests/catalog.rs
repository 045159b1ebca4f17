//! Questions about the catalog as clients send them, to the letter.

use super::{Client, Fleet, error};

/// What Grafana's PostgreSQL data source asks in its editor.
const GRAFANA_TABLES: &str = r#"select quote_ident(table_name) as "table" from information_schema.tables
    where quote_ident(table_schema) not in ('information_schema',
                             'pg_catalog',
                             '_timescaledb_cache',
                             '_timescaledb_catalog',
                             '_timescaledb_internal',
                             '_timescaledb_config',
                             'timescaledb_information',
                             'timescaledb_experimental')
      and 
          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )"#;

const GRAFANA_COLUMNS: &str = r#"select quote_ident(column_name) as "column", data_type as "type"
    from information_schema.columns
    where quote_ident(table_name) = 'spans';
    "#;

#[tokio::test(flavor = "multi_thread")]
async fn grafanas_editor_finds_the_tables_and_their_columns() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    assert_eq!(
        client.rows("SELECT current_setting('server_version_num')::int/100 as version").await,
        [[Some("1500".to_owned())]]
    );
    for extension in ["timescaledb", "questdb"] {
        let sql = format!("SELECT extversion FROM pg_extension WHERE extname = '{extension}'");
        assert!(client.rows(&sql).await.is_empty());
    }
    let tables = client.rows(GRAFANA_TABLES).await;
    for name in ["spans", "routing_decisions", "nodes"] {
        assert!(tables.contains(&vec![Some(name.to_owned())]), "{name} is not in {tables:?}");
    }
    let columns = client.rows(GRAFANA_COLUMNS).await;
    for (name, of) in [
        ("time", "timestamp with time zone"),
        ("duration_ns", "bigint"),
        ("request_id", "uuid"),
        ("trace_id", "text"),
        ("eligible", "json"),
    ] {
        assert!(
            columns.contains(&vec![Some(name.to_owned()), Some(of.to_owned())]),
            "{name} {of} is not in {columns:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grafanas_macros_group_times() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    for group in [
        "floor(extract(epoch from time)/60)*60",
        "time_bucket('60.000s', time)",
        "time_bucket(INTERVAL '1 minute', time)",
        "date_bin('1 minute', time)",
        "date_bin(INTERVAL '1 minute', time, TIMESTAMP '2000-01-01')",
    ] {
        let sql = format!(
            "SELECT {group} AS \"time\", count(*) AS n FROM spans \
             WHERE time BETWEEN '1970-01-01T00:00:00Z' AND '2100-01-01T00:00:00.5Z' GROUP BY 1 ORDER BY 1"
        );
        let found = client.rows(&sql).await;
        let all: u64 = found.iter().map(|row| row[1].as_deref().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(all, 100, "{group}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drivers_and_tools_ask_is_answered() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    for (sql, expected) in [
        ("select pg_catalog.version()", None),
        ("SELECT current_database(), current_schema, current_user, session_user", Some("lariat")),
        ("select current_schema()", Some("public")),
        (
            "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'uuid'",
            Some("2950"),
        ),
        ("SELECT to_regtype('int8')::oid", Some("20")),
        ("SELECT 'spans'::regclass::oid", None),
        (
            "SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1",
            Some("public"),
        ),
        ("SELECT has_table_privilege('spans', 'select')", Some("t")),
        ("show standard_conforming_strings", Some("on")),
        ("SHOW transaction isolation level", Some("read committed")),
        ("SELECT setting FROM pg_settings WHERE name = 'timezone'", Some("UTC")),
        ("SELECT relname FROM pg_class WHERE relkind IN ('r','v') AND oid = 'spans'::regclass", Some("spans")),
        ("SELECT count(*) FROM pg_index", Some("0")),
    ] {
        let found = client.rows(sql).await;
        assert_eq!(found.len(), 1, "{sql}: {found:?}");
        if let Some(expected) = expected {
            assert_eq!(found[0][0].as_deref(), Some(expected), "{sql}");
        }
    }
    for absurd in [
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT a.attname FROM pg_attribute a, pg_attribute b, pg_attribute c",
        "SELECT * FROM pg_catalog.pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert!(error(&client.query(absurd).await).is_some(), "{absurd}");
    }
}
