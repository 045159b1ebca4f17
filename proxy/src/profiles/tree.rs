//! A YAML document as a tree whose every node knows its line, and a reader that takes values out of it by key.
//!
//! Deserialising straight into structs would be shorter, but serde stops at the first error, and an operator who fixes
//! a profile one error per start learns the last one at night. The reader goes on after an error, notes each with file,
//! path and line, and reports the keys that nobody asked for. It decides nothing about routing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// One error of a profile file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError {
    /// The file.
    pub file: PathBuf,
    /// Path of the key inside the file, empty for the file as a whole.
    pub path: String,
    /// Line, from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ProfileError {}

/// A located node.
pub type Tree = Spanned<Node>;

/// What a node of a YAML document holds.
#[derive(Debug, Clone)]
pub enum Node {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Keys and values, in the order of the file.
    Map(Vec<(Spanned<String>, Tree)>),
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// The entries of a map that have not been asked for yet.
pub(crate) struct Fields<'t> {
    pub(crate) path: String,
    entries: Vec<(&'t Spanned<String>, &'t Tree)>,
}

impl<'t> Fields<'t> {
    /// Takes the value of `key` out; a null counts as absent.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'t Tree> {
        let at = self.entries.iter().position(|(name, _)| name.value == key)?;
        let (_, tree) = self.entries.swap_remove(at);
        (!matches!(tree.value, Node::Null)).then_some(tree)
    }

    /// Every entry, in the order of the file.
    pub(crate) fn into_entries(self) -> Vec<(&'t str, &'t Tree)> {
        self.entries.into_iter().map(|(name, tree)| (name.value.as_str(), tree)).collect()
    }

    /// Path of one key of this map.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// Takes values out of one file's tree and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(crate) file: &'a Path,
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) errors: Vec<ProfileError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn fail(&mut self, path: &str, tree: Option<&Tree>, problem: impl Into<String>) {
        let line = tree.map(|tree| tree.referenced.line()).filter(|line| *line > 0);
        self.errors.push(ProfileError {
            file: self.file.to_owned(),
            path: path.to_owned(),
            line,
            problem: problem.into(),
        });
    }

    /// The maps of all documents of the file as one map.
    pub(crate) fn root<'t>(&mut self, documents: &'t [Tree]) -> Fields<'t> {
        let mut entries: Vec<(&Spanned<String>, &Tree)> = Vec::new();
        for document in documents {
            match &document.value {
                Node::Map(map) => {
                    for (key, value) in map {
                        if entries.iter().any(|(name, _)| name.value == key.value) {
                            self.fail(&key.value, Some(value), "stands both in the front matter and in the body");
                        } else {
                            entries.push((key, value));
                        }
                    }
                }
                Node::Null => {}
                _ => self.fail("", Some(document), "expected a map of keys"),
            }
        }
        Fields { path: String::new(), entries }
    }

    pub(crate) fn map<'t>(&mut self, tree: &'t Tree, path: &str) -> Fields<'t> {
        let entries = match &tree.value {
            Node::Map(map) => map.iter().map(|(key, value)| (key, value)).collect(),
            Node::Null => Vec::new(),
            _ => {
                self.fail(path, Some(tree), "expected a map of keys");
                Vec::new()
            }
        };
        Fields { path: path.to_owned(), entries }
    }

    pub(crate) fn list<'t>(&mut self, tree: &'t Tree, path: &str) -> &'t [Tree] {
        if let Node::List(list) = &tree.value {
            return list;
        }
        self.fail(path, Some(tree), "expected a list");
        &[]
    }

    /// Reports what was not asked for.
    pub(crate) fn finish(&mut self, fields: Fields<'_>, allowed: &str) {
        for (key, tree) in &fields.entries {
            let path = fields.at(&key.value);
            self.fail(&path, Some(tree), format!("unknown key; known here: {allowed}"));
        }
    }

    /// A text with its `${VARIABLES}` filled in.
    pub(crate) fn text(&mut self, tree: &Tree, path: &str) -> Option<String> {
        match &tree.value {
            Node::Text(text) => self.substitute(tree, path, text),
            Node::Int(value) => Some(value.to_string()),
            Node::Float(value) => Some(value.to_string()),
            Node::Bool(value) => Some(value.to_string()),
            Node::Null | Node::List(_) | Node::Map(_) => {
                self.fail(path, Some(tree), "expected a text");
                None
            }
        }
    }

    fn substitute(&mut self, tree: &Tree, path: &str, text: &str) -> Option<String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else {
                self.fail(path, Some(tree), "`${` without a closing `}`");
                return None;
            };
            let name = &rest[start + 2..start + length];
            let Some(value) = (self.env)(name) else {
                self.fail(
                    path,
                    Some(tree),
                    format!("the environment variable `{name}` is not set; set it or remove the reference"),
                );
                return None;
            };
            filled.push_str(&rest[..start]);
            filled.push_str(&value);
            rest = &rest[start + length + 1..];
        }
        filled.push_str(rest);
        Some(filled)
    }

    pub(crate) fn int(&mut self, tree: &Tree, path: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let found = match &tree.value {
            Node::Int(value) => u64::try_from(*value).ok(),
            Node::Text(text) => self.substitute(tree, path, text)?.trim().parse().ok(),
            _ => None,
        };
        match found.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => {
                let end = if *range.end() == u64::MAX { "any".to_owned() } else { range.end().to_string() };
                self.fail(path, Some(tree), format!("expected a whole number from {} to {end}", range.start()));
                None
            }
        }
    }

    pub(crate) fn number(&mut self, tree: &Tree, path: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let found = match &tree.value {
            #[allow(clippy::cast_precision_loss, reason = "a setting, compared with a small range right below")]
            Node::Int(value) => Some(*value as f64),
            Node::Float(value) => Some(*value),
            Node::Text(text) => self.substitute(tree, path, text)?.trim().parse().ok(),
            _ => None,
        };
        match found.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => {
                self.fail(path, Some(tree), format!("expected a number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, tree: &Tree, path: &str) -> Option<bool> {
        let found = match &tree.value {
            Node::Bool(value) => Some(*value),
            Node::Text(text) => self.substitute(tree, path, text)?.trim().parse().ok(),
            _ => None,
        };
        if found.is_none() {
            self.fail(path, Some(tree), "expected true or false");
        }
        found
    }

    /// A name of a closed vocabulary.
    pub(crate) fn name<T: std::str::FromStr<Err: fmt::Display>>(&mut self, tree: &Tree, path: &str) -> Option<T> {
        let text = self.text(tree, path)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(path, Some(tree), error.to_string());
                None
            }
        }
    }

    pub(crate) fn texts(&mut self, tree: &Tree, path: &str) -> Vec<String> {
        self.list(tree, path)
            .iter()
            .enumerate()
            .filter_map(|(i, item)| self.text(item, &format!("{path}[{i}]")))
            .collect()
    }
}

macro_rules! take {
    ($reader:ident, $fields:ident, $key:literal, $kind:ident $(, $arg:expr)*) => {
        match $fields.take($key) {
            Some(tree) => $reader.$kind(tree, &$fields.at($key) $(, $arg)*),
            None => None,
        }
    };
}
pub(crate) use take;
