//! Where each value of the configuration was written: the file and line, or the variable. Types are checked after all
//! sources are laid over each other, so an error knows only the path of its value; this finds the place to correct.

use std::collections::BTreeMap;
use std::path::Path;

use lariat_proxy::profiles::{Node, Tree};
use toml::de::{DeArray, DeTable, DeValue};

/// Places by path, such as `cluster.nodes[2]`.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Those of a file whose text can be parsed; of another one there are none.
    pub(super) fn of_file(file: &Path, text: &str, toml: bool) -> Self {
        let mut lines = Vec::new();
        if toml {
            if let Ok(table) = DeTable::parse(text) {
                of_table(text, "", table.get_ref(), &mut lines);
            }
        } else if let Ok(tree) = serde_saphyr::from_str::<Tree>(text) {
            of_node("", &tree.value, &mut lines);
        }
        Self(lines.into_iter().map(|(path, line)| (path, format!("{}:{line}", file.display()))).collect())
    }

    /// Notes that a variable overrides what the file says at that path.
    pub(super) fn note(&mut self, path: String, variable: &str) {
        self.0.insert(path, variable.to_owned());
    }

    /// The place of a value; where that is not known, of what it stands in.
    pub(crate) fn of(&self, path: &str) -> Option<&str> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn of_node(path: &str, node: &Node, lines: &mut Vec<(String, u64)>) {
    match node {
        Node::Map(entries) => {
            for (key, value) in entries {
                let path = below(path, &key.value);
                of_node(&path, &value.value, lines);
                lines.push((path, key.referenced.line()));
            }
        }
        Node::List(items) => {
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}[{at}]");
                of_node(&path, &item.value, lines);
                lines.push((path, item.referenced.line()));
            }
        }
        Node::Null | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Text(_) => {}
    }
}

fn line_at(text: &str, offset: usize) -> u64 {
    let before = text.as_bytes().iter().take(offset);
    before.fold(1, |line, byte| line + u64::from(*byte == b'\n'))
}

fn of_table(text: &str, path: &str, table: &DeTable<'_>, lines: &mut Vec<(String, u64)>) {
    for (key, value) in table {
        let path = below(path, key.get_ref());
        of_value(text, &path, value.get_ref(), lines);
        lines.push((path, line_at(text, key.span().start)));
    }
}

fn of_array(text: &str, path: &str, array: &DeArray<'_>, lines: &mut Vec<(String, u64)>) {
    for (at, item) in array.iter().enumerate() {
        let path = format!("{path}[{at}]");
        of_value(text, &path, item.get_ref(), lines);
        lines.push((path, line_at(text, item.span().start)));
    }
}

fn of_value(text: &str, path: &str, value: &DeValue<'_>, lines: &mut Vec<(String, u64)>) {
    match value {
        DeValue::Table(table) => of_table(text, path, table, lines),
        DeValue::Array(array) => of_array(text, path, array, lines),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_line_in_both_formats_and_a_variable_beats_the_file() {
        let yaml = "data_dir: x\ncluster:\n  region: a\n  nodes:\n    - one\n    - two\n";
        let toml = "data_dir = 'x'\n[cluster]\nregion = 'a'\n\nnodes = [\n 'two' ]\n";
        for (text, toml, list) in [(yaml, false, "f:5"), (toml, true, "f:6")] {
            let mut origins = Origins::of_file(Path::new("f"), text, toml);
            assert_eq!(origins.of("data_dir"), Some("f:1"));
            assert_eq!(origins.of("cluster"), Some("f:2"));
            assert_eq!(origins.of("cluster.region"), Some("f:3"));
            assert_eq!(origins.of("cluster.nodes[0]"), Some(list));
            assert_eq!(origins.of("cluster.token.deeper"), Some("f:2"), "what is missing is told at what it misses in");
            assert_eq!(origins.of("proxy.listen"), None);
            origins.note("cluster.region".to_owned(), "CLUSTER_REGION");
            assert_eq!(origins.of("cluster.region"), Some("CLUSTER_REGION"));
        }
    }
}
