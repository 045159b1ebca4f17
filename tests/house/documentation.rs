//! Names on the wire are documented, links lead somewhere, and the README's two commands are the README's.

use super::{files, none, read, root, shown};

#[test]
fn every_wire_name_stands_in_the_page_about_data() {
    let page = read(&root().join("docs/data.md"));
    let mut names: Vec<&str> = Vec::new();
    names.extend(lariat_schema::attributes::ALL.iter().map(|attribute| attribute.key));
    names.extend(lariat_schema::events::ALL.iter().map(|event| event.name));
    names.extend(lariat_schema::metrics::ALL.iter().map(|metric| metric.name));
    names.extend(lariat_schema::tables::Table::NAMES);
    names.extend(lariat_schema::views::ALL.iter().map(|view| view.name));
    let missing: Vec<String> =
        names.iter().filter(|name| !page.contains(&format!("`{name}`"))).map(|name| (*name).to_owned()).collect();
    none("docs/data.md lacks these names", &missing);
}

#[test]
fn every_invariant_stands_in_the_architecture() {
    let page = read(&root().join("docs/architecture.md"));
    let missing: Vec<String> = lariat_schema::invariants::ALL
        .iter()
        .filter(|invariant| !page.contains(invariant.id))
        .map(|invariant| invariant.id.to_owned())
        .collect();
    none("docs/architecture.md lacks these invariants", &missing);
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut offences = Vec::new();
    for path in files(&root(), ".md") {
        let folder = path.parent().expect("a file has a folder").to_owned();
        for target in links(&read(&path)) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                offences.push(format!("{} → {target}", shown(&path)));
            }
        }
    }
    none("these links lead nowhere", &offences);
}

#[test]
fn the_readme_has_the_two_commands_and_a_picture() {
    let readme = read(&root().join("README.md"));
    for part in ["cargo run --release -- demo", "cargo test --workspace", "docs/dashboard.png"] {
        assert!(readme.contains(part), "README.md lacks {part}");
    }
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}
