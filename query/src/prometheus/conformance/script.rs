//! The commands of a test file: `load`, `clear` and `eval` with what it expects.

use super::super::labels::Labels;
use super::super::syntax::lexer::{duration_seconds, parse_float};
use super::super::value::Series;
use super::points::{self, Point};

/// One command.
pub(super) enum Command {
    Clear,
    Load(Vec<Series>),
    Eval(Evaluation),
}

/// An evaluation and what it has to give.
#[derive(Debug, Default)]
pub(super) struct Evaluation {
    pub(super) line: usize,
    pub(super) query: String,
    pub(super) is_range: bool,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: i64,
    pub(super) fails: bool,
    pub(super) ordered: bool,
    /// Kind (`warn`, `no_info`, `fail`), way of matching (`msg`, `regex`, empty) and text.
    pub(super) expectations: Vec<(String, String, String)>,
    pub(super) expected: Expected,
}

/// The value that is expected.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) scalar: Option<f64>,
    pub(super) text: Option<String>,
    /// Start, end and step of the samples of a range vector.
    pub(super) window: Option<(i64, i64, i64)>,
    pub(super) series: Vec<(Labels, Vec<Point>)>,
}

fn milliseconds(text: &str) -> Result<i64, String> {
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |text| (-1.0, text));
    let seconds = duration_seconds(text).or_else(|| parse_float(text)).ok_or_else(|| format!("bad time {text:?}"))?;
    Ok(super::super::number::milliseconds(sign * seconds))
}

/// All commands, or what is wrong with them.
pub(super) fn parse(text: &str) -> Vec<Result<Command, String>> {
    let lines: Vec<&str> =
        text.lines().map(|line| if line.trim_start().starts_with('#') { "" } else { line.trim() }).collect();
    let is_command = |line: &str| {
        let first = line.split_whitespace().next().unwrap_or("");
        matches!(first, "load" | "load_with_nhcb" | "clear") || first == "eval" || first.starts_with("eval_")
    };
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].is_empty() {
            at += 1;
            continue;
        }
        // A block ends at a blank line that is no comment; comments inside a block are blank here too.
        let end = (at + 1..lines.len())
            .find(|line| is_command(lines[*line]) || text.lines().nth(*line).is_some_and(|raw| raw.trim().is_empty()))
            .unwrap_or(lines.len());
        let block: Vec<&str> = lines[at + 1..end].iter().copied().filter(|line| !line.is_empty()).collect();
        let command = command(lines[at], &block, at + 1);
        commands.push(command.map_err(|message| format!("line {}: {}: {message}", at + 1, lines[at])));
        at = end.max(at + 1);
    }
    commands
}

fn command(head: &str, block: &[&str], line: usize) -> Result<Command, String> {
    let (word, rest) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
    match word {
        "clear" => Ok(Command::Clear),
        "load" | "load_with_nhcb" => {
            let step = milliseconds(rest.trim())?;
            let mut loaded = Vec::new();
            for line in block {
                let (labels, points) = points::series(line)?;
                loaded.push(points::as_series(labels, &points, step));
            }
            if word == "load_with_nhcb" {
                let converted = points::with_custom_bounds(&loaded);
                loaded.extend(converted);
            }
            Ok(Command::Load(loaded))
        }
        _ if word.starts_with("eval") => evaluation(word, rest.trim(), block, line).map(Command::Eval),
        _ => Err("unknown command".to_owned()),
    }
}

/// The next word and what follows it.
fn next(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

fn evaluation(word: &str, rest: &str, block: &[&str], line: usize) -> Result<Evaluation, String> {
    let mut evaluation = Evaluation { line, step: 1, ..Evaluation::default() };
    let (kind, mut rest) = next(rest);
    evaluation.is_range = kind == "range";
    let places: &[&str] = if evaluation.is_range { &["from", "to", "step"] } else { &["at"] };
    let mut times = Vec::new();
    for place in places {
        let (found, after) = next(rest);
        if found != *place {
            return Err(format!("expected {place}, found {found}"));
        }
        let (time, after) = next(after);
        times.push(milliseconds(time)?);
        rest = after;
    }
    evaluation.start = times[0];
    evaluation.end = *times.get(1).unwrap_or(&times[0]);
    evaluation.step = *times.get(2).unwrap_or(&1);
    evaluation.query = rest.trim().to_owned();
    evaluation.fails = word == "eval_fail";
    evaluation.ordered = word == "eval_ordered";
    if matches!(word, "eval_warn" | "eval_info") {
        evaluation.expectations.push((word[5..].to_owned(), String::new(), String::new()));
    }
    for line in block {
        expectation(&mut evaluation, line)?;
    }
    Ok(evaluation)
}

fn expectation(evaluation: &mut Evaluation, line: &str) -> Result<(), String> {
    let (word, rest) = next(line);
    if matches!(word, "expected_fail_message" | "expected_fail_regexp") {
        let how = if word.ends_with("regexp") { "regex" } else { "msg" };
        evaluation.expectations.push(("fail".to_owned(), how.to_owned(), rest.trim().to_owned()));
        return Ok(());
    }
    if word != "expect" {
        match parse_float(line) {
            Some(scalar) => evaluation.expected.scalar = Some(scalar),
            None => evaluation.expected.series.push(points::series(line)?),
        }
        return Ok(());
    }
    let (kind, rest) = next(rest);
    match kind {
        "ordered" => evaluation.ordered = true,
        "string" => {
            let text = rest.trim();
            evaluation.expected.text = Some(text[1..text.len() - 1].to_owned());
        }
        "range" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let at =
                |place: usize| words.get(place).ok_or("too few words".to_owned()).and_then(|word| milliseconds(word));
            evaluation.expected.window = Some((at(2)?, at(4)?, at(6)?));
        }
        _ => {
            evaluation.fails |= kind == "fail";
            let (how, text) = rest.trim().split_once(':').unwrap_or(("", ""));
            let expected = (kind.to_owned(), how.trim().to_owned(), text.trim().to_owned());
            evaluation.expectations.push(expected);
        }
    }
    Ok(())
}
