//! Profiles as operators write them, right and wrong.

use super::*;

const DESK: &str = r#"---
name: "Trading desk"
slug: desk
rps_limit: 300
sampling: { rate: 1.0, slow_ms: 250 }
---
chains:
  base:
    chain_id: 8453
    url_aliases: [base-mainnet]
    block_time_ms: 2000
    selection: { max_lag_blocks: 5 }
    providers:
      - id: alpha
        priority: 1
        url: "https://alpha.example/v1/${ALPHA_KEY}"
        ws_url: "wss://alpha.example/v1/${ALPHA_KEY}"
        capabilities:
          unsupported_categories: [debug, trace]
          limits: { max_block_range: 2000 }
          error_rules: [ { message_contains: ["compute units"], category: rate_limit } ]
      - id: beta
        priority: 2
        url: "https://beta.example:8443"
        archival: false
"#;

fn env(name: &str) -> Option<String> {
    (name == "ALPHA_KEY").then(|| "s3cret".to_owned())
}

#[test]
fn front_matter_and_body_make_one_profile() {
    let catalog = parse("desk", DESK, &env).unwrap();
    let (_, profile) = catalog.profile("desk").unwrap();
    assert_eq!((profile.name.as_str(), profile.limits.rps), ("Trading desk", Some(300)));
    assert_eq!(profile.sampling, Sampling { rate: 1.0, slow_ms: 250, kept_whole_per_second: 1_000 });
    for name in ["base", "base-mainnet", "8453"] {
        assert_eq!(profile.chain(name).unwrap().1.providers.len(), 2);
    }
    let chain = profile.chain("base").unwrap().1;
    assert_eq!((chain.probe_interval_ms, chain.max_lag_blocks, chain.providers[1].archival), (5_000, Some(5), false));
    assert_eq!(catalog.instances[1].http.as_ref().unwrap().port, 8443);
}

#[test]
fn no_secret_of_a_url_is_printed_or_in_the_policy() {
    let catalog = parse("desk", DESK, &env).unwrap();
    assert!(catalog.instances[0].http.as_ref().unwrap().uri.to_string().contains("s3cret"));
    assert!(!format!("{catalog:?}").contains("s3cret"));
    assert!(!catalog.policy.contains("s3cret"));
}

#[test]
fn every_error_is_reported_at_once_with_path_and_line() {
    let text = "slug: other\nspeed: 3\nchains:\n  base:\n    providers:\n      - id: a\n        url: ftp://x\n      - id: b\n        url: \"http://x/${NOPE}\"\n        colour: red\n";
    let errors = parse("desk", text, &|_| None).unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let has = |part: &str| assert!(lines.iter().any(|line| line.contains(part)), "{part} not in {lines:#?}");
    has("desk.yml:1: slug: is `other`");
    has("desk.yml:2: speed: unknown key");
    has("chains.base.chain_id: is missing");
    has("desk.yml:7: chains.base.providers[0].url: is no URL");
    has("desk.yml:9: chains.base.providers[1].url: the environment variable `NOPE` is not set");
    has("desk.yml:10: chains.base.providers[1].colour: unknown key");
}

#[test]
fn what_is_outside_its_range_or_means_two_things_is_told_with_its_line() {
    let text = "chains:
  e:
    chain_id: 1
    block_time_ms: 500
    monitoring: { probe_interval_ms: 10001 }
    ui-topology: { color: red, size: huge }
    providers: [ { id: a, url: 'http://a' } ]
  f:
    chain_id: 2
    aliases: [e]
    monitoring: { probe_interval_ms: 60001 }
    websocket: { failover: { max_backfill_blocks: 10001, backfill_timeout_ms: 4999 } }
    providers: [ { id: a, url: 'http://b', priority: 1 }, { id: b, url: 'http://c', priority: 1 } ]
";
    let told: Vec<String> = parse("p", text, &|_| None).unwrap_err().iter().map(ToString::to_string).collect();
    let starts = [
        "p.yml:5: chains.e.monitoring.probe_interval_ms: expected a whole number from 100 to 10000",
        "p.yml:6: chains.e.ui-topology.color: expected",
        "p.yml:6: chains.e.ui-topology.size: expected one of sm, md, lg, xl",
        "p.yml:11: chains.f.monitoring.probe_interval_ms: expected a whole number from 100 to 60000",
        "p.yml:12: chains.f.websocket.failover.max_backfill_blocks: expected",
        "p.yml:12: chains.f.websocket.failover.backfill_timeout_ms: expected",
        "p.yml:13: chains.f.providers[1].priority: 1 stands twice",
        "p.yml:9: chains.f: `e` is a name of the chain `e` too",
    ];
    for start in starts {
        assert!(told.iter().any(|line| line.starts_with(start)), "{start} not in {told:#?}");
    }
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    assert!(parse("p", "chains: {}\n", &|_| None).is_err());
}

#[test]
fn a_limit_has_one_name_and_a_burst_needs_a_rate() {
    let read = |limits: &str| {
        let text =
            format!("{limits}\nchains: {{ e: {{ chain_id: 1, providers: [ {{ id: a, url: 'http://h:1' }} ] }} }}\n");
        parse("p", &text, &|_| None).map(|catalog| catalog.profiles[0].limits).map_err(|errors| errors[0].to_string())
    };
    let both = ClientLimits { rps: Some(5), burst: Some(9) };
    assert_eq!(read("rps_limit: 5\nburst_limit: 9"), Ok(both));
    assert_eq!(read("default_rps_limit: 5\ndefault_burst_limit: 9"), Ok(both));
    assert_eq!(read(""), Ok(ClientLimits::default()));
    assert!(read("rps_limit: 5\ndefault_rps_limit: 6").unwrap_err().starts_with("p.yml:2: default_rps_limit"));
    assert!(read("burst_limit: 9").unwrap_err().contains("rps_limit"));
    assert!(read("rps_limit: 0").unwrap_err().contains("from 1 to"));
}

#[test]
fn upstreams_are_shared_between_profiles_unless_credentials_differ_or_they_are_isolated() {
    let dir = tempfile::tempdir().unwrap();
    let file = |slug: &str, extra: &str| {
        let text =
            format!("chains: {{ e: {{ chain_id: 1, providers: [ {{ id: a, url: 'http://h:1', {extra} }} ] }} }}\n");
        std::fs::write(dir.path().join(format!("{slug}.yml")), text).unwrap();
    };
    file("one", "");
    file("two", "");
    file("three", "api_key: k");
    file("four", "sharing_mode: isolated");
    file("_ignored", "nonsense: true");
    let catalog = load(dir.path(), &|_| None).unwrap();
    let instance = |slug: &str| catalog.profile(slug).unwrap().1.chains[0].providers[0].instance;
    assert_eq!(instance("one"), instance("two"));
    assert_ne!(instance("one"), instance("three"));
    assert_ne!(instance("one"), instance("four"));
    assert_eq!(catalog.instances.len(), 3);
}
