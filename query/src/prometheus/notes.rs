//! Annotations: what a reader of a result should know and what is no error. Each says which expression it is about;
//! equal ones are said once, however many series and steps had cause.

use std::collections::BTreeSet;

/// How serious a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The result may be wrong.
    Warning,
    /// The result may surprise.
    Info,
}

/// Notes kept of one query; series and steps may be many, and a reader is not helped by more.
const MAX_NOTES: usize = 100;

/// The notes of one query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(BTreeSet<(Level, usize, String)>);

impl Notes {
    /// Adds a note about the expression at a byte offset.
    pub(crate) fn add(&mut self, level: Level, start: usize, message: impl Into<String>) {
        if self.0.len() < MAX_NOTES {
            self.0.insert((level, start, message.into()));
        }
    }

    /// The notes of a level, as the API shows them.
    pub(crate) fn render(&self, level: Level, query: &str) -> Vec<String> {
        let word = match level {
            Level::Warning => "warning",
            Level::Info => "info",
        };
        self.0
            .iter()
            .filter(|(of, _, _)| *of == level)
            .map(|(_, start, message)| {
                let (line, column) = place(query, *start);
                format!("PromQL {word}: {message} ({line}:{column})")
            })
            .collect()
    }
}

/// Line and column, from 1, of a byte offset.
pub(crate) fn place(query: &str, start: usize) -> (usize, usize) {
    let before = query.get(..start).unwrap_or(query);
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
    (line, column)
}

/// The end of a message that names a metric.
pub(crate) fn named(message: &str, metric: &str) -> String {
    if metric.is_empty() { message.to_owned() } else { format!("{message} for metric name {metric:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_notes_are_said_once_with_their_place() {
        let mut notes = Notes::default();
        notes.add(Level::Warning, 6, "careful");
        notes.add(Level::Warning, 6, "careful");
        notes.add(Level::Info, 0, "by the way");
        assert_eq!(notes.render(Level::Warning, "1 +\n  a"), ["PromQL warning: careful (2:3)"]);
        assert_eq!(notes.render(Level::Info, "1"), ["PromQL info: by the way (1:1)"]);
    }
}
