//! Makes a routing decision, or an attempt, of another proxy's span: which spans, and which of their attributes are
//! which of ours, stand in a file.
//!
//! A mapping only adds: what the sender wrote stays in the row's attributes, and a span that names a request id of ours
//! is left alone. The file is checked as a whole when it is read; a span whose value does not fit its column loses that
//! value and nothing else. Expressions were rejected: a table of names can be read by whoever runs the other proxy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lariat_schema::attributes::{self, Carrier, ValueType};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::view::{Attribute, SpanView, Value};
pub use faults::MappingFault;

mod faults;

/// Rules of a mapping at most: each is asked for every span that is none of ours.
const MAX_RULES: usize = 64;

/// The rules of a mapping file, in order: the first that matches a span is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    #[serde(deserialize_with = "rules")]
    rules: Vec<Rule>,
}

/// Why a mapping file cannot be used: its writer's fault.
#[derive(Debug, thiserror::Error)]
pub enum BadMapping {
    /// It is not there, or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no mapping.
    #[error("{}", told(path, faults))]
    Content {
        /// The file.
        path: PathBuf,
        /// All that is wrong in it, by line.
        faults: Vec<MappingFault>,
    },
}

fn told(path: &Path, faults: &[MappingFault]) -> String {
    faults.iter().map(|fault| fault.told(path)).collect::<Vec<_>>().join("; ")
}

impl BadMapping {
    /// Each fault as a text of its own, which names file and line.
    #[must_use]
    pub fn told_apart(&self) -> Vec<String> {
        match self {
            Self::Read { .. } => vec![self.to_string()],
            Self::Content { path, faults } => faults.iter().map(|fault| fault.told(path)).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// For whoever reads the file.
    #[allow(dead_code, reason = "it names the rule in the file")]
    name: String,
    when: When,
    r#as: As,
    set: BTreeMap<Target, Source>,
}

/// What a span must have for a rule: all that is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    scope: Option<String>,
    service: Option<String>,
    span: Option<String>,
    kind: Option<Kind>,
    #[serde(default)]
    has: Vec<String>,
    #[serde(default)]
    equals: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// What a span becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum As {
    /// A SERVER span with a request id, which is the trace's id.
    Decision,
    /// A CLIENT span with that request id.
    Attempt,
}

impl As {
    /// The kind that the row says.
    pub(super) fn kind(self) -> i32 {
        match self {
            Self::Decision => 2,
            Self::Attempt => 3,
        }
    }
}

/// One of our attributes that has a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    key: &'static str,
    is_number: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a text, or a map with `attribute` (and `after`, `values`, `otherwise`), or with `status`"
)]
enum Source {
    /// The same for every span.
    Constant(String),
    /// An attribute of the span.
    Attribute(FromAttribute),
    /// By the span's status.
    Status(FromStatus),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FromAttribute {
    attribute: String,
    /// Only what follows this; without it, no value.
    after: Option<String>,
    /// What a text stands for.
    #[serde(default)]
    values: BTreeMap<String, String>,
    /// What any other text, or none, stands for.
    otherwise: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FromStatus {
    status: Outcomes,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcomes {
    ok: String,
    error: String,
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        let found = attributes::by_key(&key)
            .filter(|attribute| attribute.column.is_some() && attribute.carrier != Carrier::Resource)
            .filter(|attribute| attribute.key != attributes::REQUEST_ID)
            .ok_or_else(|| {
                D::Error::custom(format!("`{key}` is no attribute of a decision or attempt with a column"))
            })?;
        let is_number = matches!(found.value, ValueType::Int | ValueType::Double);
        Ok(Self { key: found.key, is_number })
    }
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    let rules = Vec::<Rule>::deserialize(deserializer)?;
    if rules.len() > MAX_RULES {
        return Err(D::Error::custom(format!("there are {} rules, at most {MAX_RULES} are allowed", rules.len())));
    }
    Ok(rules)
}

impl Mapping {
    /// Reads a file of YAML.
    ///
    /// # Errors
    /// It cannot be read, or is no mapping; the text names file and line.
    pub fn read(path: &Path) -> Result<Self, BadMapping> {
        let text =
            std::fs::read_to_string(path).map_err(|source| BadMapping::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|faults| BadMapping::Content { path: path.to_owned(), faults })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Vec<MappingFault>> {
        serde_saphyr::from_str(text).map_err(|error| {
            let all = faults::all(text);
            if !all.is_empty() {
                return all;
            }
            let line = error.location().map_or(0, |location| location.line());
            vec![MappingFault { line, reason: error.to_string().lines().next().unwrap_or_default().to_owned() }]
        })
    }

    /// The rule for a span, if there is one and the span is not ours.
    pub(super) fn apply<'v>(
        &'v self,
        scope: &str,
        service: &str,
        span: &SpanView<'v>,
        out: &mut Vec<Attribute<'v>>,
    ) -> Option<As> {
        if find(span, attributes::REQUEST_ID).is_some() {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.when.matches(scope, service, span))?;
        for (target, source) in &rule.set {
            if let Some(value) = source.value(span).and_then(|value| target.fit(value)) {
                out.push(Attribute::new(target.key, value));
            }
        }
        Some(rule.r#as)
    }
}

fn find<'v>(span: &SpanView<'v>, key: &str) -> Option<Value<'v>> {
    span.attributes.iter().find(|attribute| attribute.key == key).map(|attribute| attribute.value)
}

impl When {
    fn matches(&self, scope: &str, service: &str, span: &SpanView<'_>) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.scope, scope)
            && is(&self.service, service)
            && is(&self.span, span.name)
            && self.kind.is_none_or(|kind| kind as i32 == span.kind)
            && self.has.iter().all(|key| find(span, key).is_some())
            && self.equals.iter().all(|(key, wanted)| {
                find(span, key).and_then(Value::text).is_some_and(|found| found == wanted.as_str())
            })
    }
}

impl Source {
    fn value<'v>(&'v self, span: &SpanView<'v>) -> Option<Value<'v>> {
        match self {
            Self::Constant(text) => Some(Value::Text(text)),
            Self::Attribute(from) => from.value(find(span, &from.attribute)),
            Self::Status(from) => {
                let failed = span.status_code == i32::from(StatusCode::Error);
                Some(Value::Text(if failed { &from.status.error } else { &from.status.ok }))
            }
        }
    }
}

impl FromAttribute {
    fn value<'v>(&'v self, found: Option<Value<'v>>) -> Option<Value<'v>> {
        let otherwise = self.otherwise.as_deref().map(Value::Text);
        let Some(found) = found else { return otherwise };
        let found = match (&self.after, found) {
            (None, found) => found,
            (Some(after), Value::Text(text)) => match text.strip_prefix(after.as_str()) {
                Some(rest) => Value::Text(rest),
                None => return otherwise,
            },
            (Some(_), _) => return otherwise,
        };
        if self.values.is_empty() {
            return Some(found);
        }
        let known = found.text().and_then(|text| self.values.get(text.as_ref()));
        known.map(|text| Value::Text(text)).or(otherwise)
    }
}

impl Target {
    /// The value as its column takes it: some proxies write numbers as texts.
    fn fit(self, value: Value<'_>) -> Option<Value<'_>> {
        match value {
            Value::Text(text) if self.is_number => {
                text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Double)).ok()
            }
            value => Some(value),
        }
    }
}

#[cfg(test)]
mod tests;
