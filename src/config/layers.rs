//! Lays the sources of configuration over each other as one tree, lowest first: file, `LARIAT_*`, the cluster's own
//! variables, flags.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Wrong;
use super::origins::Origins;
use crate::cli::ServeArguments;

/// Prefix of the variables that name a key by its path, `__` between levels.
const PREFIX: &str = "LARIAT_";

/// Variables with that prefix that are no keys.
const NOT_KEYS: &[&str] = &["LARIAT_URL", "LARIAT_REQUIRE_ALL", "LARIAT_CONFORMANCE"];

/// The cluster's variables, whose names operators know, and the keys that they set. Of two for one key the later wins.
const CLUSTER_VARIABLES: &[(&str, &[&str])] = &[
    ("CLUSTER_DNS_QUERY", &["cluster", "dns_query"]),
    ("CLUSTER_NODE_BASENAME", &["cluster", "node_basename"]),
    ("CLUSTER_NODE_IP", &["cluster", "node_ip"]),
    ("CLUSTER_REGION", &["cluster", "region"]),
    ("RELEASE_COOKIE", &["cluster", "token"]),
    ("CLUSTER_TOKEN", &["cluster", "token"]),
    ("EXPECTED_NODE_COUNT", &["cluster", "expected_nodes"]),
];

/// The variables of a process; a value, so that a test can make one.
#[derive(Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process; what is no Unicode is left out.
    pub(crate) fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// All sources laid over each other.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) tree: Value,
    pub(crate) origins: Origins,
    /// Texts of the file that cannot be filled in; they are not in the tree.
    pub(crate) errors: Vec<Wrong>,
}

/// All sources as one tree, or why the file cannot be read.
pub(crate) fn merged(arguments: &ServeArguments, environment: &Environment) -> Result<Layers, String> {
    let mut layers = match &arguments.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read the configuration {}: {error}", path.display()))?;
            let toml = path.extension().is_some_and(|extension| extension == "toml");
            let tree = parse(&text, toml).map_err(|error| format!("{}: {error}", path.display()))?;
            Layers { tree, origins: Origins::of_file(path, &text, toml), errors: Vec::new() }
        }
        None => Layers { tree: Value::Object(Map::new()), ..Layers::default() },
    };
    substitute(&mut layers.tree, "", environment, &mut layers.errors);
    for error in &layers.errors {
        remove(&mut layers.tree, &error.path);
    }
    for (name, text) in &environment.0 {
        if NOT_KEYS.contains(&name.as_str()) {
            continue;
        }
        if let Some(path) = name.strip_prefix(PREFIX) {
            let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            // A token is text even if it looks like a number.
            let is_secret = keys.last() == Some(&"token");
            layers.set(&keys, if is_secret { Value::String(text.clone()) } else { scalar(text) }, name);
        }
    }
    for (name, keys) in CLUSTER_VARIABLES {
        if let Some(text) = environment.0.get(*name).filter(|text| !text.is_empty()) {
            let value = if *name == "EXPECTED_NODE_COUNT" { scalar(text) } else { Value::String(text.clone()) };
            layers.set(keys, value, name);
        }
    }
    for (key, flag, path) in
        [("data_dir", "--data-dir", &arguments.data_dir), ("profiles_dir", "--profiles", &arguments.profiles)]
    {
        if let Some(path) = path {
            layers.set(&[key], Value::String(path.display().to_string()), flag);
        }
    }
    Ok(layers)
}

impl Layers {
    fn set(&mut self, keys: &[&str], value: Value, origin: &str) {
        self.origins.note(keys.join("."), origin);
        set(&mut self.tree, keys, value);
    }
}

fn parse(text: &str, toml: bool) -> Result<Value, String> {
    if toml {
        return toml::from_str(text).map_err(|error| error.to_string());
    }
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_saphyr::from_str::<Value>(text).map_err(|error| error.to_string())? {
        Value::Null => Ok(Value::Object(Map::new())),
        tree @ Value::Object(_) => Ok(tree),
        _ => Err("expected keys and values at the top".to_owned()),
    }
}

/// Puts the values of `${VARIABLES}` into the texts of the file, and notes each that has none.
fn substitute(tree: &mut Value, path: &str, environment: &Environment, errors: &mut Vec<Wrong>) {
    match tree {
        Value::String(text) => match filled(text, environment) {
            Ok(filled) => *text = filled,
            Err(problem) => errors.push(Wrong { path: path.to_owned(), problem }),
        },
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                substitute(item, &format!("{path}[{i}]"), environment, errors);
            }
        }
        Value::Object(keys) => {
            for (key, value) in keys.iter_mut() {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                substitute(value, &below, environment, errors);
            }
        }
        _ => {}
    }
}

fn filled(text: &str, environment: &Environment) -> Result<String, String> {
    let mut text = text.to_owned();
    while let Some((before, rest)) = text.split_once("${") {
        let Some((name, after)) = rest.split_once('}') else { return Err("`${` without `}`".to_owned()) };
        let value = environment
            .get(name)
            .ok_or_else(|| format!("the variable {name} is not set; set it, or write the value"))?;
        if value.contains("${") {
            return Err(format!("the value of {name} holds `${{` itself"));
        }
        text = format!("{before}{value}{after}");
    }
    Ok(text)
}

/// A variable's text as YAML would read it, so that numbers, booleans and lists can be given.
fn scalar(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn set(tree: &mut Value, keys: &[&str], value: Value) {
    let Some((last, parents)) = keys.split_last() else { return };
    let mut place = tree;
    for key in parents {
        if !place.get(key).is_some_and(Value::is_object)
            && let Some(object) = place.as_object_mut()
        {
            object.insert((*key).to_owned(), Value::Object(Map::new()));
        }
        match place.get_mut(key) {
            Some(child) => place = child,
            None => return,
        }
    }
    if let Some(object) = place.as_object_mut() {
        object.insert((*last).to_owned(), value);
    }
}

/// Takes out the value at a path such as `cluster.nodes[2]`; false if nothing is there.
pub(super) fn remove(tree: &mut Value, path: &str) -> bool {
    let keys: Vec<&str> = path.split(['.', '[', ']']).filter(|key| !key.is_empty()).collect();
    let Some((last, parents)) = keys.split_last() else { return false };
    let mut place = tree;
    for key in parents {
        let child = match place {
            Value::Object(object) => object.get_mut(*key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
            _ => None,
        };
        match child {
            Some(child) => place = child,
            None => return false,
        }
    }
    match place {
        Value::Object(object) => object.remove(*last).is_some(),
        Value::Array(items) => match last.parse::<usize>() {
            Ok(index) if index < items.len() => {
                items.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_flag_beats_the_cluster_variable_beats_the_path_variable_beats_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lariat.yaml");
        std::fs::write(&file, "data_dir: from-file\ncluster: { region: from-file, expected_nodes: 2 }\n").unwrap();
        let environment = environment(&[
            ("LARIAT_DATA_DIR", "from-path"),
            ("LARIAT_CLUSTER__REGION", "from-path"),
            ("CLUSTER_REGION", "from-cluster"),
        ]);
        let arguments =
            ServeArguments { config: Some(file), data_dir: Some("from-flag".into()), ..ServeArguments::default() };
        let tree = merged(&arguments, &environment).unwrap().tree;
        assert_eq!(tree["data_dir"], "from-flag");
        assert_eq!(tree["cluster"]["region"], "from-cluster");
        assert_eq!(tree["cluster"]["expected_nodes"], 2);
    }

    #[test]
    fn a_path_variable_sets_a_nested_key_and_keeps_its_type() {
        let environment = environment(&[("LARIAT_PROXY__LISTEN", "127.0.0.1:0"), ("EXPECTED_NODE_COUNT", "3")]);
        let tree = merged(&ServeArguments::default(), &environment).unwrap().tree;
        assert_eq!(tree["proxy"]["listen"], "127.0.0.1:0");
        assert_eq!(tree["cluster"]["expected_nodes"], 3);
    }

    #[test]
    fn variables_in_the_file_are_filled_in_and_an_unset_one_is_named_with_its_path() {
        let environment = environment(&[("CLUSTER_KEY", "s3cret")]);
        let mut tree = serde_json::json!({"cluster": {"token": "x-${CLUSTER_KEY}"}});
        let mut errors = Vec::new();
        substitute(&mut tree, "", &environment, &mut errors);
        assert_eq!((tree["cluster"]["token"].as_str(), errors.len()), (Some("x-s3cret"), 0));
        let mut tree = serde_json::json!({"data_dir": "${NOR}", "cluster": {"nodes": ["${NOWHERE}:1"]}});
        substitute(&mut tree, "", &environment, &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[1].contains("cluster.nodes[0]") && errors[1].contains("NOWHERE"), "{errors:?}");
    }

    #[test]
    fn a_token_that_looks_like_a_number_stays_text() {
        let environment = environment(&[("LARIAT_CLUSTER__TOKEN", "123456")]);
        assert_eq!(merged(&ServeArguments::default(), &environment).unwrap().tree["cluster"]["token"], "123456");
    }

    #[test]
    fn toml_and_yaml_give_the_same_tree() {
        let yaml = parse("query: { http: 127.0.0.1:1 }\n", false).unwrap();
        let toml = parse("[query]\nhttp = '127.0.0.1:1'\n", true).unwrap();
        assert_eq!(yaml, toml);
    }

    #[test]
    fn the_message_of_a_syntax_error_names_the_line() {
        let error = parse("proxy:\n  listen: [1\n", false).unwrap_err();
        assert!(error.contains("line"), "{error}");
    }
}
