//! What the lock file may hold: licences that we can ship under, and one version of each crate of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{none, root};

/// Licences that a dependency may be offered under.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "bzip2-1.0.6",
];

/// Crates whose types cross our own boundaries: two versions of one would not fit together.
const SINGLE: &[&str] = &[
    "arrow",
    "parquet",
    "datafusion",
    "datafusion-distributed",
    "object_store",
    "tonic",
    "prost",
    "opentelemetry",
    "opentelemetry-proto",
    "axum",
    "hyper",
    "rustls",
    "tokio",
    "tower-http",
];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("packages are a list").clone()
}

/// True if `expression` can be satisfied with the allowed licences. Covers AND, OR, `/` and parentheses.
fn allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ");
    alternatives(&text)
}

fn alternatives(text: &str) -> bool {
    split_outside(text, " OR ").iter().any(|part| split_outside(part, " AND ").iter().all(|term| single(term.trim())))
}

fn single(term: &str) -> bool {
    match term.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => alternatives(inner),
        None => LICENCES.contains(&term),
    }
}

fn split_outside<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && text[index..].starts_with(separator) => {
                parts.push(&text[start..index]);
                start = index + separator.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[test]
fn every_dependency_has_a_licence_that_we_can_ship_under() {
    let offences: Vec<String> = packages()
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter(|package| !package["license"].as_str().is_some_and(allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    none("licences to look at", &offences);
}

#[test]
fn the_engines_crates_stand_in_the_lock_file_once() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    let offences: Vec<String> = SINGLE
        .iter()
        .filter_map(|name| {
            versions.get(*name).filter(|found| found.len() > 1).map(|found| format!("{name}: {found:?}"))
        })
        .collect();
    none("two versions of one of these do not fit together", &offences);
}

#[test]
fn no_dependency_comes_from_outside_the_registry() {
    let offences: Vec<String> = packages()
        .iter()
        .filter(|package| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")))
        .map(|package| package["name"].to_string())
        .collect();
    none("these are not from the registry", &offences);
}

#[test]
fn a_licence_expression_is_read_with_its_parentheses() {
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(allowed("GPL-3.0 OR MIT"));
    assert!(!allowed("MIT AND GPL-3.0"));
    assert!(!allowed("(MIT AND GPL-3.0) OR AGPL-3.0"));
}
