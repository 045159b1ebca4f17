//! Label sets and matchers. A label set is shared and never changed in place: evaluation copies the labels of a series
//! once per operator and refers to them at every step, so a copy has to cost a reference count and not its texts.

use std::fmt;
use std::sync::Arc;

use regex::Regex;

/// The label that holds a metric's name.
pub(crate) const NAME: &str = "__name__";

/// Labels of a series, sorted by name; an empty value is an absent label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Labels(Arc<Vec<(String, String)>>);

impl Labels {
    /// Labels from pairs in any order; of two with one name the last one holds.
    pub(crate) fn new(mut pairs: Vec<(String, String)>) -> Self {
        pairs.sort_by(|left, right| left.0.cmp(&right.0));
        pairs.reverse();
        pairs.dedup_by(|later, earlier| later.0 == earlier.0);
        pairs.reverse();
        pairs.retain(|(_, value)| !value.is_empty());
        Self(Arc::new(pairs))
    }

    /// Value of a label, empty if absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        match self.0.binary_search_by(|(key, _)| key.as_str().cmp(name)) {
            Ok(at) => &self.0[at].1,
            Err(_) => "",
        }
    }

    /// Name of the metric, empty if dropped.
    pub(crate) fn name(&self) -> &str {
        self.get(NAME)
    }

    /// All pairs in order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// These labels with one set, or removed if `value` is empty.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        if self.get(name) == value {
            return self.clone();
        }
        let mut pairs: Vec<_> = self.0.iter().filter(|(key, _)| key != name).cloned().collect();
        if !value.is_empty() {
            let at = pairs.partition_point(|(key, _)| key.as_str() < name);
            pairs.insert(at, (name.to_owned(), value.to_owned()));
        }
        Self(Arc::new(pairs))
    }

    /// These labels without the named ones.
    pub(crate) fn without<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filtered(|name| !names.iter().any(|other| other.as_ref() == name))
    }

    /// Only the named ones of these labels.
    pub(crate) fn only<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filtered(|name| names.iter().any(|other| other.as_ref() == name))
    }

    /// These labels without the metric's name.
    pub(crate) fn without_name(&self) -> Self {
        self.without(&[NAME])
    }

    fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self(Arc::new(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect()))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (name, value)) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// How a matcher compares.
#[derive(Clone, Debug)]
pub(crate) enum Comparison {
    /// `=`.
    Equal,
    /// `!=`.
    NotEqual,
    /// `=~`, anchored at both ends.
    Regex(Regex),
    /// `!~`, anchored at both ends.
    NotRegex(Regex),
}

/// One condition on a label; an absent label has the empty value.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    /// The label.
    pub(crate) name: String,
    /// How to compare.
    pub(crate) comparison: Comparison,
    /// What to compare with, as written.
    pub(crate) value: String,
}

impl Matcher {
    /// A label equals a value.
    pub(crate) fn equal(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), comparison: Comparison::Equal, value: value.to_owned() }
    }

    /// A matcher from its operator as written; the message says why there is none.
    pub(crate) fn parse(name: String, operator: &str, value: String) -> Result<Self, String> {
        let comparison = match operator {
            "=" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "=~" => Comparison::Regex(anchored(&value)?),
            "!~" => Comparison::NotRegex(anchored(&value)?),
            other => return Err(format!("unexpected {other:?} in label matching, expected label matching operator")),
        };
        Ok(Self { name, comparison, value })
    }

    /// True if `value` satisfies it.
    pub(crate) fn accepts(&self, value: &str) -> bool {
        match &self.comparison {
            Comparison::Equal => value == self.value,
            Comparison::NotEqual => value != self.value,
            Comparison::Regex(regex) => regex.is_match(value),
            Comparison::NotRegex(regex) => !regex.is_match(value),
        }
    }

    /// True if it only compares for equality.
    pub(crate) fn is_equal(&self) -> bool {
        matches!(self.comparison, Comparison::Equal)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.comparison {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Regex(_) => "=~",
            Comparison::NotRegex(_) => "!~",
        };
        write!(f, "{}{operator}{:?}", self.name, self.value)
    }
}

/// A regular expression that has to match a whole text, dots matching newlines too.
pub(crate) fn anchored(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?s:{pattern})$")).map_err(|error| format!("error parsing regexp: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_empty_value_is_an_absent_label() {
        assert_eq!(labels(&[("b", "2"), ("a", "")]), labels(&[("b", "2")]));
        assert_eq!(labels(&[("a", "1")]).with("a", ""), Labels::default());
        assert_eq!(labels(&[("b", "2")]).with("a", "1"), labels(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn a_regex_matches_only_the_whole_value() {
        let matcher = Matcher::parse("a".into(), "=~", "foo|bar.*".into()).unwrap();
        assert!(matcher.accepts("foo") && matcher.accepts("bar\nbaz"));
        assert!(!matcher.accepts("afoo") && !matcher.accepts("foob"));
        assert!(Matcher::parse("a".into(), "=~", "(".into()).is_err());
    }
}
