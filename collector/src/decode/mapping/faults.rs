//! Every fault of a mapping file at once, each with its line.
//!
//! A reader of types stops at the first fault. So a file that it refused is read again as a tree whose parts know their
//! lines, and each part is given to the type that it is for. Whether a file is good is the first reader's to say, never
//! this one's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use serde_saphyr::Spanned;

use super::{As, MAX_RULES, Source, Target, When};

/// The members of a rule, all needed.
const MEMBERS: [&str; 4] = ["name", "when", "as", "set"];

/// What is wrong in one place of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappingFault {
    /// Its line, from 1; 0 if it is of the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl MappingFault {
    pub(super) fn told(&self, path: &Path) -> String {
        format!("{}:{}: {}", path.display(), self.line, self.reason)
    }
}

type Members = BTreeMap<String, Spanned<Value>>;

#[derive(Deserialize)]
struct Rules {
    rules: Vec<Members>,
}

/// The members of a rule whose own members have lines too.
#[derive(Deserialize)]
struct Nested {
    rules: Vec<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    when: Inside,
    #[serde(default)]
    set: Inside,
}

/// The members of a map, and none of what is no map: that is told elsewhere.
#[derive(Default)]
struct Inside(Members);

impl<'de> Deserialize<'de> for Inside {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Inside;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inside, A::Error> {
                let mut members = Members::new();
                while let Some((key, value)) = map.next_entry()? {
                    members.insert(key, value);
                }
                Ok(Inside(members))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inside, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Inside::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Inside, E> {
                Ok(Inside::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Inside, E> {
                Ok(Inside::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Inside, E> {
                Ok(Inside::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Inside, E> {
                Ok(Inside::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Inside, E> {
                Ok(Inside::default())
            }

            fn visit_unit<E>(self) -> Result<Inside, E> {
                Ok(Inside::default())
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The faults of a file in the order of their lines; none where its form as a whole is at fault.
pub(super) fn all(text: &str) -> Vec<MappingFault> {
    let mut faults = Faults::default();
    if let Ok(top) = serde_saphyr::from_str::<BTreeMap<String, Spanned<IgnoredAny>>>(text) {
        for (key, member) in top.iter().filter(|(key, _)| *key != "rules") {
            faults.add(member.referenced.line(), format!("unknown field `{key}`, expected `rules`"));
        }
    }
    let Ok(Rules { rules }) = serde_saphyr::from_str::<Rules>(text) else { return faults.in_order() };
    if rules.len() > MAX_RULES {
        faults.add(0, format!("there are {} rules, at most {MAX_RULES} are allowed", rules.len()));
    }
    for rule in &rules {
        of_rule(rule, &mut faults);
    }
    if let Ok(Nested { rules }) = serde_saphyr::from_str::<Nested>(text) {
        for Inner { when, set } in rules {
            for (key, value) in when.0 {
                faults.check::<When>(value.referenced.line(), json!({key: value.value}));
            }
            for (key, value) in set.0 {
                let line = value.referenced.line();
                faults.check::<Target>(line, Value::String(key));
                faults.check::<Source>(line, value.value);
            }
        }
    }
    faults.in_order()
}

fn of_rule(rule: &Members, faults: &mut Faults) {
    let begins = rule.values().map(|member| member.referenced.line()).min().unwrap_or(0);
    for (key, member) in rule {
        let line = member.referenced.line();
        match key.as_str() {
            "name" => faults.check::<String>(line, member.value.clone()),
            "as" => faults.check::<As>(line, member.value.clone()),
            "when" | "set" if !member.value.is_object() => {
                faults.add(line, format!("`{key}` is a map"));
            }
            "when" | "set" => {}
            _ => faults.add(line, format!("unknown field `{key}`, expected one of `{}`", MEMBERS.join("`, `"))),
        }
    }
    for missing in MEMBERS.iter().filter(|member| !rule.contains_key(**member)) {
        faults.add(begins, format!("missing field `{missing}`"));
    }
}

#[derive(Default)]
struct Faults(Vec<MappingFault>);

impl Faults {
    fn add(&mut self, line: u64, reason: String) {
        self.0.push(MappingFault { line, reason });
    }

    fn check<T: DeserializeOwned>(&mut self, line: u64, value: Value) {
        if let Err(error) = serde_json::from_value::<T>(as_texts(value)) {
            self.add(line, error.to_string());
        }
    }

    fn in_order(mut self) -> Vec<MappingFault> {
        self.0.sort();
        self.0.dedup();
        self.0
    }
}

/// A mapping holds texts only, and YAML needs no quotes around `80` or `true` to read one.
fn as_texts(value: Value) -> Value {
    match value {
        Value::Bool(value) => Value::String(value.to_string()),
        Value::Number(value) => Value::String(value.to_string()),
        Value::Array(items) => Value::Array(items.into_iter().map(as_texts).collect()),
        Value::Object(members) => members.into_iter().map(|(key, value)| (key, as_texts(value))).collect(),
        value => value,
    }
}
