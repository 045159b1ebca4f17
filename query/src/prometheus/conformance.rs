//! Prometheus' own test files, run against the evaluator. The files are not part of the project; where they are absent
//! the test says so. What passes is written down and may only grow.

mod check;
mod points;
mod script;

use std::path::PathBuf;

use super::eval::{Evaluator, Outcome};
use super::syntax;
use super::value::{Grid, Series, Store};
use script::{Command, Evaluation};

/// Evaluations of each file that pass. A file may pass more, never fewer.
const PASSING: &[(&str, usize)] = &[
    ("aggregators.test", 159),
    ("collision.test", 2),
    ("duration_expression.test", 59),
    ("extended_vectors.test", 148),
    ("functions.test", 430),
    ("histograms.test", 185),
    ("literals.test", 25),
    ("info.test", 1),
    ("native_histograms.test", 494),
    ("operators.test", 214),
    ("range_queries.test", 18),
    ("selectors.test", 31),
];

fn directory() -> Option<PathBuf> {
    let given = std::env::var_os("LARIAT_CONFORMANCE").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let found = given.into_iter().chain([beside]);
    found.map(|directory| directory.join("promql")).find(|directory| directory.is_dir())
}

#[test]
fn prometheus_own_tests_pass_as_far_as_is_written_down() {
    let Some(directory) = directory() else {
        println!("not run: prometheus' test files");
        assert!(std::env::var("LARIAT_REQUIRE_ALL").is_err(), "the conformance files are required");
        return;
    };
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut fallen = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (passed, failures) = run(&std::fs::read_to_string(&path).unwrap());
        println!("{name}: {passed} of {} pass", passed + failures.len());
        for failure in &failures {
            println!("  {failure}");
        }
        let wanted = PASSING.iter().find(|(of, _)| *of == name).map_or(0, |(_, count)| *count);
        if passed < wanted {
            fallen.push(format!("{name}: {passed} pass, {wanted} did"));
        }
    }
    assert!(fallen.is_empty(), "{fallen:?}");
}

/// How many evaluations of a script pass, and what is wrong with the others.
fn run(text: &str) -> (usize, Vec<String>) {
    let mut series: Vec<Series> = Vec::new();
    let (mut passed, mut failures) = (0, Vec::new());
    for command in script::parse(text) {
        match command {
            Err(message) => failures.push(message),
            Ok(Command::Clear) => series.clear(),
            Ok(Command::Load(loaded)) => points::merge(&mut series, loaded),
            Ok(Command::Eval(evaluation)) => match evaluate(&series, &evaluation) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("line {}: {}: {message}", evaluation.line, evaluation.query)),
            },
        }
    }
    (passed, failures)
}

fn evaluate(series: &[Series], evaluation: &Evaluation) -> Result<(), String> {
    let store = Store::new(series.to_vec());
    let grid = if evaluation.is_range {
        Grid::new(evaluation.start, evaluation.end, evaluation.step)
    } else {
        Grid { start: evaluation.start, step: 1, count: 1 }
    };
    let outcome: Result<_, String> =
        syntax::parse(&evaluation.query).map_err(|error| error.to_string()).and_then(|expr| {
            let evaluator = Evaluator::new(&store, grid, evaluation.is_range, None);
            let outcome = evaluator.run(&expr).map_err(|error| error.to_string())?;
            Ok((outcome, evaluator.into_notes()))
        });
    if evaluation.fails {
        return match outcome {
            Ok(_) => Err("it does not fail".to_owned()),
            Err(message) => check::failure(evaluation, &message),
        };
    }
    let (outcome, notes) = outcome?;
    check::notes(evaluation, &notes)?;
    let outcome = match outcome {
        Outcome::Scalar(values) if evaluation.is_range => {
            let floats = grid.times().zip(values).collect();
            Outcome::Matrix(vec![Series { floats, ..Series::default() }])
        }
        other => other,
    };
    check::outcome(evaluation, &outcome, grid)
}
