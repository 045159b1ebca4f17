//! What a reload keeps.

use super::*;
use crate::profiles;

fn catalog(settings: &str, chain_id: u64) -> Catalog {
    let chains = format!("chains:\n  e: {{ chain_id: {chain_id}, providers: [{{ id: a, url: 'http://a' }}] }}\n");
    profiles::parse("public", &format!("{settings}{chains}"), &|_| None).unwrap()
}

fn reply(result: &str) -> Reply {
    Reply::read(&Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)), 1).unwrap()
}

fn look(saving: &Saving, catalog: &Catalog) -> Option<Looked> {
    let snapshot = Snapshot { heights: vec![None], ..Snapshot::default() };
    saving.profile(0).look((0, &catalog.profiles[0].chains[0]), "net_version", None, (&snapshot, 0))
}

fn is_hit(saving: &Saving, catalog: &Catalog) -> bool {
    matches!(look(saving, catalog), Some(Looked::Hit(_)))
}

#[test]
fn a_cache_outlives_a_reload_that_leaves_its_settings_and_its_chain_alone() {
    let before = catalog("cache: { enabled: true }\n", 1);
    let saving = Saving::new(&before);
    let Some(Looked::Miss(place, final_height)) = look(&saving, &before) else { panic!("no miss") };
    saving.profile(0).keep(place, &reply("\"1\""), final_height);
    assert!(is_hit(&saving, &before));
    let same = catalog("cache: { enabled: true }\ndefault_strategy: priority\n", 1);
    assert!(is_hit(&saving.succeed(&same), &same));
    let other_chain = catalog("cache: { enabled: true }\n", 2);
    assert!(!is_hit(&saving.succeed(&other_chain), &other_chain));
    let smaller = catalog("cache: { enabled: true, max_bytes: 1000000 }\n", 1);
    assert!(!is_hit(&saving.succeed(&smaller), &smaller));
    let off = catalog("", 1);
    assert!(look(&saving.succeed(&off), &off).is_none());
}

#[test]
fn the_figures_have_the_profile_as_their_label_and_a_cache_that_is_off_has_none() {
    let mut out = String::new();
    Saving::new(&catalog("cache: { enabled: true }\n", 1)).write_metrics(&mut out);
    assert!(out.contains("\nlariat_cache_hits_total{profile=\"public\"} 0\n"), "{out}");
    let mut out = String::new();
    Saving::new(&catalog("", 1)).write_metrics(&mut out);
    assert!(!out.contains("lariat_cache_hits_total{"), "{out}");
    assert!(out.contains("\nlariat_coalesced_total{profile=\"public\"} 0\n"), "{out}");
}
