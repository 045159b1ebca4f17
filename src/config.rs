//! The one configuration of a process: where each value comes from, and how every error is told at once.
//!
//! Flag > `CLUSTER_*` > `LARIAT_PROXY__LISTEN` > file > default. File and environment are laid over each other as plain
//! trees and read once, so that a value from the environment is checked by the same types as one from the file. The
//! sections belong to the crates that read them; this module only lists them.

mod layers;
mod origins;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(crate) use layers::Environment;
use layers::Layers;

use crate::cli::{Failure, ServeArguments};

/// Longest time that a clean end may take.
const DEFAULT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that a process is told.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where data lies.
    pub(crate) data_dir: PathBuf,
    /// Folder of the profiles.
    pub(crate) profiles_dir: PathBuf,
    /// JSON-RPC in.
    pub(crate) proxy: lariat_proxy::Config,
    /// OTLP in, storage.
    pub(crate) collector: lariat_collector::Config,
    /// Answers.
    pub(crate) query: lariat_query::Config,
    /// The fleet and this node's place in it.
    pub(crate) cluster: lariat_query::ClusterConfig,
    /// Longest time that a clean end may take.
    #[serde(deserialize_with = "deserialize_duration")]
    pub(crate) shutdown_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            profiles_dir: PathBuf::from("./profiles"),
            proxy: lariat_proxy::Config::default(),
            collector: lariat_collector::Config::default(),
            query: lariat_query::Config::default(),
            cluster: lariat_query::ClusterConfig::default(),
            shutdown_deadline: DEFAULT_SHUTDOWN_DEADLINE,
        }
    }
}

/// One value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Path of the key, such as `cluster.nodes[2]`.
    pub(crate) path: String,
    /// What is wrong and what to do.
    pub(crate) problem: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Reads file, environment and flags; on failure every error is in the text.
pub(crate) fn load(arguments: &ServeArguments) -> Result<Config, Failure> {
    let environment = Environment::of_process();
    let layers = layers::merged(arguments, &environment).map_err(Failure::Usage)?;
    let origin = arguments.config.as_ref().map_or("the environment".to_owned(), |path| path.display().to_string());
    // What one part would not start with may stand in a file that another part reads too.
    read(layers, |_| Vec::new()).map_err(|errors| Failure::Usage(listed(&origin, &errors)))
}

/// Reads what was laid together, and asks `further` what else is wrong with the whole; each error is told with the place
/// where its value was written.
fn read(layers: Layers, further: fn(&Config) -> Vec<Wrong>) -> Result<Config, Vec<String>> {
    let Layers { tree, origins, errors: mut wrong } = layers;
    let config = match from_tree(tree) {
        Ok(config) => {
            wrong.extend(further(&config));
            Some(config)
        }
        Err(more) => {
            wrong.extend(more);
            None
        }
    };
    match config {
        Some(config) if wrong.is_empty() => Ok(config),
        _ => Err(wrong
            .iter()
            .map(|error| match origins.of(&error.path) {
                Some(place) => format!("{place}: {error}"),
                None => error.to_string(),
            })
            .collect()),
    }
}

/// Profiles of a folder; on failure every error is in the text.
pub(crate) fn load_profiles(dir: &Path) -> Result<lariat_proxy::profiles::Catalog, Failure> {
    let environment = Environment::of_process();
    lariat_proxy::profiles::load(dir, &|name| environment.get(name)).map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Usage(listed(&dir.display().to_string(), &texts))
    })
}

/// The profiles of a collector that runs alone: it routes nothing, and without a folder of them every profile has the
/// default rates.
pub(crate) fn load_rates(dir: &Path) -> Result<lariat_proxy::profiles::Catalog, Failure> {
    if dir.try_exists().is_ok_and(|exists| !exists) {
        tracing::warn!(profiles_dir = %dir.display(), "there is no folder of profiles: all are sampled at the default rates");
        return Ok(lariat_proxy::profiles::Catalog::default());
    }
    load_profiles(dir)
}

/// A variable of this process.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `lariat check`: the file, then the profiles it names; all errors of both.
#[allow(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    let arguments = ServeArguments { config: Some(path.to_owned()), ..ServeArguments::default() };
    let environment = Environment::of_process();
    let layers = layers::merged(&arguments, &environment).map_err(Failure::Usage)?;
    let profiles_dir = layers.tree.get("profiles_dir").and_then(Value::as_str).unwrap_or("./profiles").to_owned();
    let mut texts = Vec::new();
    if let Err(errors) = read(layers, refused) {
        texts.push(listed(&path.display().to_string(), &errors));
    }
    match load_profiles(Path::new(&profiles_dir)) {
        Ok(catalog) => {
            if texts.is_empty() {
                println!("{} is valid; {} profile(s) in {profiles_dir}", path.display(), catalog.profiles.len());
            }
        }
        Err(failure) => texts.push(failure.to_string()),
    }
    if texts.is_empty() { Ok(()) } else { Err(Failure::Usage(texts.join("\n"))) }
}

/// Reads the tree into types. After each error the value at fault is taken out and the rest is read again, so that one
/// run names all of them.
pub(crate) fn from_tree(mut tree: Value) -> Result<Config, Vec<Wrong>> {
    let mut errors = Vec::new();
    loop {
        match serde_path_to_error::deserialize::<_, Config>(tree.clone()) {
            Ok(config) if errors.is_empty() => return Ok(config),
            Ok(_) => return Err(errors),
            Err(error) => {
                let path = error.path().to_string();
                // The reader's own words would hold the value.
                let problem = if path.ends_with("token") {
                    "must be text, in quotes".to_owned()
                } else {
                    error.inner().to_string()
                };
                let goes_on = layers::remove(&mut tree, &path);
                errors.push(Wrong { path, problem });
                if !goes_on {
                    return Err(errors);
                }
            }
        }
    }
}

/// The errors of a configuration that nobody wrote by hand.
pub(crate) fn failure(errors: &[Wrong]) -> Failure {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::Failed(texts.join("; "))
}

/// What no process would start with, although each value by itself could be.
fn refused(config: &Config) -> Vec<Wrong> {
    let open = |section: &str, key: &str, address: std::net::SocketAddr| Wrong {
        path: format!("{section}.{key}"),
        problem: format!(
            "{address} is not loopback, and nobody would be asked for a key: set {section}.allow_open_access to bind it"
        ),
    };
    let mut wrong = Vec::new();
    if config.proxy.is_open_unsaid() {
        wrong.push(open("proxy", "listen", config.proxy.listen));
    }
    if let Some(Err(error)) = config.collector.mapping.as_deref().map(lariat_collector::Mapping::read) {
        let faults = error.told_apart().into_iter();
        wrong.extend(faults.map(|problem| Wrong { path: "collector.mapping".to_owned(), problem }));
    }
    if let Err(error) = config.proxy.check_files() {
        let problem = format!("{}: {}", error.file.display(), error.problem);
        wrong.push(Wrong { path: "proxy.ca_file".to_owned(), problem });
    }
    if let Some(Err(error)) = config.collector.forward.as_ref().map(lariat_collector::ForwardConfig::check_files) {
        let problem = format!("{}: {}", error.file.display(), error.problem);
        wrong.push(Wrong { path: "collector.forward.ca_file".to_owned(), problem });
    }
    wrong.extend(config.query.open_to_everybody().into_iter().map(|(key, address)| open("query", key, address)));
    wrong
}

fn listed(origin: &str, errors: &[String]) -> String {
    let count = errors.len();
    let head = format!("{origin}: {count} error{}", if count == 1 { "" } else { "s" });
    errors.iter().fold(head, |text, error| format!("{text}\n  {error}"))
}

/// Reads `500ms`, `30s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    lariat_schema::duration_text::parse(text).map_err(|error| error.to_string())
}

fn deserialize_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    lariat_schema::duration_text::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_told_at_once_with_its_path() {
        let tree = serde_json::json!({"data_dri": "x", "proxy": {"listen": "nowhere"}, "shutdown_deadline": "soon"});
        let errors = from_tree(tree).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        for path in ["data_dri", "proxy.listen", "shutdown_deadline"] {
            assert!(errors.iter().any(|error| error.path == path), "{path} is not named in {errors:?}");
        }
    }

    #[test]
    fn a_wrong_mapping_file_is_told_with_its_key_and_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.yaml");
        std::fs::write(&path, "rules:\n  - name: a\n    when: { knd: 1 }\n    as: hop\n    set: {}\n").unwrap();
        let config = from_tree(serde_json::json!({"collector": {"mapping": path}})).unwrap();
        let wrong = refused(&config);
        assert_eq!((wrong.len(), wrong[0].path.as_str()), (2, "collector.mapping"));
        assert!(wrong[0].problem.contains("map.yaml:3: ") && wrong[0].problem.contains("knd"), "{}", wrong[0].problem);
        assert!(wrong[1].problem.contains("map.yaml:4: "), "{}", wrong[1].problem);
    }

    #[test]
    fn an_empty_configuration_has_the_defaults_of_the_contract() {
        let config = from_tree(serde_json::json!({})).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("./data"));
        assert_eq!(config.shutdown_deadline, Duration::from_secs(10));
    }
}
