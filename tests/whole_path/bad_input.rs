//! Bad input ends in one clear message (what, where, what to do) with the right code, and the rest goes on working.

use super::harness::{Lariat, get_json, run};

fn config(dir: &std::path::Path, text: &str) -> String {
    let path = dir.join("lariat.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn every_error_of_a_configuration_is_told_at_once_with_its_path_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("profiles")).unwrap();
    std::fs::write(dir.path().join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    let profiles = dir.path().join("profiles").display().to_string();
    let path = config(
        dir.path(),
        &format!("profiles_dir: {profiles}\nproxi: {{}}\nproxy: {{ listen: here }}\ncollector: {{ flush_age: 60 }}\n"),
    );
    let (code, _, errors) = run(&["check", &path], &[]);
    assert_eq!(code, 2, "{errors}");
    for part in ["proxi", "proxy.listen", "collector.flush_age", "3 errors", "lariat.yaml"] {
        assert!(errors.contains(part), "{part} is not in\n{errors}");
    }
    let path = config(dir.path(), &format!("profiles_dir: {profiles}\n"));
    let (code, text, errors) = run(&["check", &path], &[]);
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("valid"), "{text}");
}

#[test]
fn an_unset_variable_in_a_profile_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("profiles")).unwrap();
    let profile = super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED
        .replace("http://127.0.0.1:9", "http://127.0.0.1:9/${NO_SUCH_KEY}");
    std::fs::write(dir.path().join("profiles/public.yml"), profile).unwrap();
    let path = config(dir.path(), &format!("profiles_dir: {}\n", dir.path().join("profiles").display()));
    for command in [vec!["check", &path], vec!["node", "--config", &path]] {
        let (code, _, errors) = run(&command, &[]);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains("NO_SUCH_KEY") && errors.contains("public.yml"), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_the_address_and_exits_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (code, _, errors) =
        run(&["query", "--data-dir", &dir.path().display().to_string()], &[("LARIAT_QUERY__HTTP", &address)]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains(&address), "{errors}");
}

#[test]
fn a_data_directory_that_is_a_file_names_it_and_does_not_exit_0() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    std::fs::write(&file, "").unwrap();
    let (code, _, errors) = run(&["demo", "--port-base", "0", "--data-dir", &file.display().to_string()], &[]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains(&file.display().to_string()), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_calls_otlp_and_sql_get_their_status_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    let (proxy, otlp, query) = (demo.url("proxy").await, demo.url("otlp_http").await, demo.url("query").await);
    let client = super::harness::client();
    let post = async |url: String, body: &str, content_type: &str| {
        let response =
            client.post(&url).header("content-type", content_type).body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for (body, code) in [("{", "-32700"), ("[]", "-32600"), ("{\"jsonrpc\":\"2.0\"}", "-32600"), ("7", "-32600")] {
        let (status, text) = post(format!("{proxy}/rpc/ethereum"), body, "application/json").await;
        assert_eq!(status, 200, "{body}: {text}");
        assert!(text.contains(code), "{body}: {text}");
    }
    let (status, text) =
        post(format!("{proxy}/rpc/nochain"), r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#, "application/json").await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(post(format!("{otlp}/v1/traces"), "{]", "application/json").await.0, 400);
    assert_eq!(post(format!("{otlp}/v1/traces"), "\u{1}\u{2}garbage", "application/x-protobuf").await.0, 400);
    assert_eq!(post(format!("{otlp}/v1/traces"), "x", "text/plain").await.0, 415);

    for (sql, part) in [
        ("SELEC 1", "SELEC"),
        ("SELECT methd FROM routing_decisions", "method"),
        ("SELECT 1 FROM routing_decision", "routing_decisions"),
        ("DROP TABLE spans", "read"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "read"),
        ("COPY spans TO '/tmp/x.csv'", "read"),
        ("SELECT 1 AS a, 2 AS a", "a"),
    ] {
        let url = reqwest::Url::parse_with_params(&format!("{query}/api/v1/sql"), &[("q", sql)]).unwrap();
        let (status, answer) = get_json(url.as_str()).await;
        assert_eq!(status, 400, "{sql}: {answer}");
        let text = answer["error"].to_string();
        assert!(text.contains(part), "{sql}: {text}");
    }
    demo.sql("SELECT count(*) FROM spans").await;
    let (code, _, errors) = run(&["sql", "select nothing from nowhere", "--url", &query], &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("nowhere"), "{errors}");
    let (code, _, errors) = run(&["sql", "select 1", "--url", "http://127.0.0.1:1"], &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("http://127.0.0.1:1"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_api_refuses_who_has_no_cluster_token() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    let node = demo.url("node_api").await;
    for path in ["/v1/info", "/v1/live", "/metrics"] {
        let status = super::harness::client().get(format!("{node}{path}")).send().await.unwrap().status();
        assert_eq!(status.as_u16(), 401, "{path}");
    }
    assert!(super::harness::client().get(format!("{node}/health")).send().await.unwrap().status().is_success());
}

#[test]
fn binding_beyond_loopback_without_a_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, errors) =
        run(&["query", "--data-dir", &dir.path().display().to_string()], &[("LARIAT_QUERY__HTTP", "0.0.0.0:0")]);
    assert_ne!(code, 0);
    assert!(errors.contains("loopback") || errors.contains("token"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_alone_starts_without_a_folder_of_profiles_and_a_node_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data, profiles) = (dir.path().join("data"), dir.path().join("none"));
    let of = |part: &'static str| {
        [
            part.to_owned(),
            "--data-dir".into(),
            data.display().to_string(),
            "--profiles".into(),
            profiles.display().to_string(),
        ]
    };
    let variables = [
        ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
        ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
        ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
        ("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0"),
    ];
    let arguments = of("node");
    let (code, _, errors) = run(&arguments.each_ref().map(String::as_str), &variables);
    assert_eq!(code, 2);
    assert!(errors.contains("none") && errors.contains("profiles"), "{errors}");
    let arguments = of("collector");
    let collector = Lariat::start_with(&arguments.each_ref().map(String::as_str), &variables);
    collector.ready("node_api").await;
    collector.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_service_with_a_token_answers_whoever_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    let query = super::fleet::start_query_with(dir.path(), &[], &[("LARIAT_QUERY__TOKEN", "sesame")]).await;
    let url = query.url("query").await;
    let ask = |token: &'static str| run(&["sql", "SELECT 41 + 1 AS n", "--url", &url], &[("LARIAT_TOKEN", token)]);
    let (code, _, errors) = ask("guessed");
    assert!(code == 1 && errors.contains("the token is wrong") && errors.contains("query.token"), "{errors}");
    let (code, table, errors) = ask("sesame");
    assert!(code == 0 && table.contains("42"), "{table}{errors}");
    query.kill();
}

#[test]
fn the_example_configuration_of_deploy_is_valid() {
    let deploy = super::harness::root().join("deploy");
    let path = deploy.join("lariat.yaml").display().to_string();
    let profiles = deploy.join("profiles").display().to_string();
    let (code, text, errors) = run(&["check", &path], &[("LARIAT_PROFILES_DIR", &profiles)]);
    assert_eq!(code, 0, "{text}{errors}");
}

/// Ten values that cannot be, each of another kind: what to find in the answer, on which line of its file.
const TEN_ERRORS: &str = "---
name: Desk
slug: trading
rps_limit: 0
sampling: { rate: 1.5 }
trace_context: maybe
hedging: { quantile: 0.2 }
speed: 3
---
chains:
  base:
    chain_id: eight
    websocket: { new_heads_timeout_ms: 100 }
    providers:
      - { id: a, priority: 0, url: \"ftp://a\" }
      - { id: b, url: \"http://b/${NO_SUCH_KEY}\", capabilities: { unsupported_categories: [magic] } }
";

#[test]
fn ten_different_errors_of_one_profile_are_told_at_once_with_file_path_and_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("profiles")).unwrap();
    let profile = dir.path().join("profiles/desk.yml");
    std::fs::write(&profile, TEN_ERRORS).unwrap();
    let path = config(
        dir.path(),
        &format!("profiles_dir: {}\nproxy:\n  listen: 0.0.0.0:0\n", dir.path().join("profiles").display()),
    );
    let (code, _, errors) = run(&["check", &path], &[]);
    assert_eq!(code, 2, "{errors}");
    for (line, key) in [
        (3, "slug"),
        (4, "rps_limit"),
        (5, "sampling.rate"),
        (6, "trace_context"),
        (7, "hedging.quantile"),
        (8, "speed"),
        (12, "chains.base.chain_id"),
        (13, "chains.base.websocket.new_heads_timeout_ms"),
        (15, "chains.base.providers[0].priority"),
        (15, "chains.base.providers[0].url"),
        (16, "chains.base.providers[1].url"),
        (16, "chains.base.providers[1].capabilities.unsupported_categories"),
    ] {
        let told = format!("{}:{line}: {key}: ", profile.display());
        assert!(errors.contains(&told), "{told} is not in\n{errors}");
    }
    let told = format!("{path}:3: proxy.listen: 0.0.0.0:0 is not loopback");
    assert!(errors.contains(&told) && errors.contains("proxy.allow_open_access"), "{told} is not in\n{errors}");
    let (code, _, errors) = run(&["proxy", "--config", &path], &[("LARIAT_PROXY__LISTEN", "nowhere")]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("LARIAT_PROXY__LISTEN: proxy.listen: "), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_puts_changed_profiles_in_force_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("profiles")).unwrap();
    let profile = dir.path().join("profiles/public.yml");
    let text = super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED;
    std::fs::write(&profile, text).unwrap();
    let data = dir.path().join("data");
    let node = Lariat::start_with(
        &[
            "node",
            "--profiles",
            &dir.path().join("profiles").display().to_string(),
            "--data-dir",
            &data.display().to_string(),
        ],
        &[
            ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0"),
        ],
    );
    let proxy = node.url("proxy").await;
    let policy = async || get_json(&format!("{proxy}/v1/providers")).await.1["policy_hash"].clone();
    let before = policy().await;
    std::fs::write(&profile, text.replace("rate: 1.0", "rate: 0.5")).unwrap();
    node.signal("HUP");
    super::harness::eventually("the other policy", async || (policy().await != before).then_some(())).await;
}
