//! Files of a sitting, functions of a screen, names that say something.

use super::{files, none, read, root, shown};

/// Longest source file, in lines.
const MAX_FILE_LINES: usize = 500;

/// Files that are longer, the length that each may have, and why it is one thing.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Places that switch clippy's limit of 70 lines a function off, and why.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

const FORBIDDEN_MODULES: &[&str] = &["util", "utils", "common", "helpers", "misc", "prelude"];

#[test]
fn no_source_file_is_longer_than_a_sitting() {
    let mut offences = Vec::new();
    for path in files(&root(), ".rs").into_iter().chain(files(&root().join("dashboards"), ".js")) {
        let lines = read(&path).lines().count();
        let name = shown(&path);
        let limit = LONG_FILES.iter().find(|(file, _, _)| *file == name).map_or(MAX_FILE_LINES, |(_, limit, _)| *limit);
        if lines > limit {
            offences.push(format!("{name} has {lines} lines, its limit is {limit}"));
        }
    }
    none("a file is read in one sitting", &offences);
}

#[test]
fn an_exception_for_a_long_file_is_still_needed() {
    let offences: Vec<String> = LONG_FILES
        .iter()
        .filter(|(file, _, _)| {
            std::fs::read_to_string(root().join(file)).map_or(0, |text| text.lines().count()) <= MAX_FILE_LINES
        })
        .map(|(file, _, _)| (*file).to_owned())
        .collect();
    none("these are short now: take them off the list", &offences);
}

#[test]
fn only_named_functions_are_longer_than_a_screen() {
    let mut offences = Vec::new();
    for path in files(&root(), ".rs") {
        let name = shown(&path);
        let switched_off = concat!("clippy::too_many", "_lines");
        if read(&path).contains(switched_off) && !LONG_FUNCTIONS.iter().any(|(file, _)| *file == name) {
            offences.push(name);
        }
    }
    none("the limit of a function's length is switched off without a reason in LONG_FUNCTIONS", &offences);
}

#[test]
fn no_module_is_called_after_nothing() {
    let mut offences = Vec::new();
    for path in files(&root(), ".rs") {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder =
            path.parent().and_then(|parent| parent.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        if stem == "mod" || FORBIDDEN_MODULES.contains(&stem.as_str()) || FORBIDDEN_MODULES.contains(&folder.as_str()) {
            offences.push(shown(&path));
        }
    }
    none("a module is called after its subject, and foo.rs stands beside foo/", &offences);
}

#[test]
fn every_source_file_opens_with_why_it_is_so() {
    let offences: Vec<String> =
        files(&root(), ".rs").iter().filter(|path| !read(path).starts_with("//!")).map(|path| shown(path)).collect();
    none("a file opens with //!", &offences);
}

/// The fuzzers build the collector without DataFusion, which nothing else does.
#[test]
fn what_stands_before_the_collectors_worker_does_without_it() {
    let mut offences = Vec::new();
    for path in files(&root(), ".rs") {
        let name = shown(&path);
        let is_before = name.starts_with("collector/src/") && !name.contains("/worker") && !name.contains("/tests");
        let text = read(&path);
        let lines = text.lines().zip(text.lines().skip(1));
        let is_bare = |(above, line): (&str, &str)| {
            line.contains("crate::worker") && !above.contains("cfg(feature = \"worker\")")
        };
        if is_before && lines.into_iter().any(is_bare) {
            offences.push(name);
        }
    }
    none("it names the worker only where that is compiled", &offences);
}

#[test]
fn nothing_unfinished_and_no_ignored_test_stands_in_the_code() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let mut offences = Vec::new();
    for path in files(&root(), ".rs").into_iter().chain(files(&root().join("dashboards"), ".js")) {
        for (number, line) in read(&path).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offences.push(format!("{}:{}", shown(&path), number + 1));
            }
        }
    }
    none("what is unfinished stands in docs/gaps.md", &offences);
}

#[test]
fn every_invariant_is_cited_by_code_or_a_test() {
    let texts: Vec<String> = files(&root(), ".rs")
        .iter()
        .filter(|path| !path.ends_with("schema/src/invariants.rs"))
        .map(|path| read(path))
        .collect();
    let uncited: Vec<String> = lariat_schema::invariants::ALL
        .iter()
        .filter(|invariant| !texts.iter().any(|text| text.contains(invariant.id)))
        // Tenancy is not there yet: docs/gaps.md.
        .filter(|invariant| invariant.id != "I-6")
        .map(|invariant| format!("{}: {}", invariant.id, invariant.holds))
        .collect();
    none("an invariant that nothing cites is a wish", &uncited);
}
