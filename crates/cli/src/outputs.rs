//! Writes a report to files. They are checked before anything is measured, so that no measurement is lost because it cannot be written.

use crate::print;
use crate::render::{html, markdown};
use callgate_suite::{BenchReport, BoxError};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Default, clap::Args)]
pub struct Outputs {
    /// Write the report as JSON. With `-`, write it to stdout and the tables to stderr.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the report as Markdown, and its plots as SVG files in a folder beside it.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Means stdout in place of a file.
const STDOUT: &str = "-";

/// Why a report was not or could not be written.
#[derive(callgate_macros::Sentence, thiserror::Error)]
pub enum OutputError {
    /// Nothing has been measured yet.
    #[error("the report cannot be written to {}: {source}; nothing was measured", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("{} is given for two forms of the report; give each its own file", .0.display())]
    Twice(PathBuf),
    /// `-` was given for Markdown, which takes several files, or for HTML, which nobody reads from a pipe.
    #[error(
        "only --json can be written to stdout (`-`); name a file, or `./-` if that is its name; nothing was measured"
    )]
    OnlyJson,
    /// `saved` is where the report was saved instead, if that worked.
    #[error("{}{}", .failures.join("; "), saved_text(.saved.as_deref()))]
    NotWritten { failures: Vec<String>, saved: Option<PathBuf> },
}

fn saved_text(saved: Option<&Path>) -> String {
    saved.map_or_else(String::new, |path| format!("; the report is in {} as JSON", path.display()))
}

impl Outputs {
    /// Checks that every file can be written. Changes no file and leaves none behind.
    pub fn check(&self) -> Result<(), OutputError> {
        if [&self.html, &self.markdown].into_iter().flatten().any(|path| is_stdout(path)) {
            return Err(OutputError::OnlyJson);
        }
        let named: Vec<_> = [&self.json, &self.html, &self.markdown].into_iter().flatten().collect();
        for (at, path) in named.iter().enumerate() {
            if named[..at].contains(path) {
                return Err(OutputError::Twice(path.to_path_buf()));
            }
            if !is_stdout(path) {
                check_file(path)?;
            }
        }
        self.markdown.as_deref().map_or(Ok(()), check_folder)
    }

    /// Prints the tables to stdout, or to stderr if the JSON goes to stdout.
    pub fn print(&self, tables: &str) -> Result<(), BoxError> {
        if self.json.as_deref().is_some_and(is_stdout) {
            // If stderr is closed, the user does not want the tables.
            let _ = std::io::stderr().write_all(tables.as_bytes());
            return Ok(());
        }
        print(tables)
    }

    /// Writes the requested files. A failure does not stop the others. If the JSON was not written, saves the report among the temporary
    /// files.
    pub fn write(&self, report: &BenchReport) -> Result<(), OutputError> {
        let mut failures = Vec::new();
        let mut attempt = |path: &Option<PathBuf>, write: &dyn Fn(&Path) -> Result<(), BoxError>| {
            let done = path.as_deref().map(|path| write(path).map_err(|error| (path, error)));
            if let Some(Err((path, error))) = &done {
                failures.push(format!("the report could not be written to {}: {error}", path.display()));
            }
            matches!(done, Some(Ok(())))
        };
        let has_json = attempt(&self.json, &|path| write_json(path, report));
        attempt(&self.html, &|path| Ok(fs::write(path, html::report(report)?)?));
        attempt(&self.markdown, &|path| write_markdown(path, report));
        if failures.is_empty() {
            return Ok(());
        }
        let saved =
            (!has_json).then(|| std::env::temp_dir().join(format!("callgate-report-{}.json", std::process::id())));
        let saved = saved.filter(|path| write_json(path, report).is_ok());
        Err(OutputError::NotWritten { failures, saved })
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new(STDOUT)
}

fn write_json(path: &Path, report: &BenchReport) -> Result<(), BoxError> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    if is_stdout(path) { print(&text) } else { Ok(fs::write(path, text)?) }
}

fn write_markdown(path: &Path, report: &BenchReport) -> Result<(), BoxError> {
    let folder = plots_folder(path);
    let page = markdown::report(report, &folder.file_name().unwrap_or_default().to_string_lossy())?;
    if !page.plots.is_empty() {
        fs::create_dir_all(&folder).map_err(|error| format!("its folder {}: {error}", folder.display()))?;
    }
    for (name, svg) in page.plots {
        let file = folder.join(name);
        fs::write(&file, svg).map_err(|error| format!("its plot {}: {error}", file.display()))?;
    }
    Ok(fs::write(path, page.text)?)
}

/// The folder for a page's plots: `docs/benchmarks` for `docs/BENCHMARKS.md`.
fn plots_folder(page: &Path) -> PathBuf {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_page = page.extension().is_none();
    page.with_file_name(if is_page { format!("{stem}-plots") } else { stem })
}

fn check_folder(page: &Path) -> Result<(), OutputError> {
    let folder = plots_folder(page);
    // A folder that does not exist yet can be created where the page itself can.
    if folder.symlink_metadata().is_ok() { check_file(&folder.join(".callgate-check")) } else { Ok(()) }
}

fn check_file(path: &Path) -> Result<(), OutputError> {
    let is_new = path.symlink_metadata().is_err();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map_err(|source| OutputError::NotWritable { path: path.to_owned(), source })?;
    if is_new {
        // If the removal fails, an empty file stays, which is about to be written anyway.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::parts::sample;

    fn all_in(folder: &Path) -> Outputs {
        let file = |name| Some(folder.join(name));
        Outputs { json: file("a.json"), html: file("a.html"), markdown: file("A.md") }
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_check_leaves_nothing_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.json"), "old").expect("a file");
        all_in(folder.path()).check().expect("writable files");
        assert_eq!(names_in(folder.path()), ["a.json"]);
        assert_eq!(fs::read_to_string(folder.path().join("a.json")).expect("a file"), "old");
    }

    #[test]
    fn all_forms_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        all_in(folder.path()).write(&sample()).expect("written files");
        assert_eq!(names_in(folder.path()), ["A.md", "a", "a.html", "a.json"]);
        assert_eq!(names_in(&folder.path().join("a")), ["distribution-latency.svg", "payload.svg"]);
        let json = fs::read_to_string(folder.path().join("a.json")).expect("a file");
        assert_eq!(serde_json::from_str::<BenchReport>(&json).expect("a report"), sample());
    }

    #[test]
    fn what_cannot_be_written_is_said_before_and_saved_after() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing").join("a.json");
        let outputs = Outputs { json: Some(missing.clone()), html: Some(folder.path().join("a.html")), markdown: None };
        let before = outputs.check().expect_err("no such folder").to_string();
        assert!(before.contains(&*missing.to_string_lossy()) && before.contains("nothing was measured"), "{before}");
        let error = outputs.write(&sample()).expect_err("no such folder");
        assert_eq!(names_in(folder.path()), ["a.html"], "the other file is there");
        let OutputError::NotWritten { saved: Some(saved), .. } = &error else { panic!("{error:?}") };
        assert!(error.to_string().contains(&*saved.to_string_lossy()), "{error}");
        let text = fs::read_to_string(saved).expect("the saved report");
        fs::remove_file(saved).expect("the saved report");
        assert_eq!(serde_json::from_str::<BenchReport>(&text).expect("a report"), sample());
    }

    #[test]
    fn one_file_is_not_for_two_forms() {
        let path = std::env::temp_dir().join("callgate-twice");
        let outputs = Outputs { json: Some(path.clone()), html: Some(path), markdown: None };
        assert!(matches!(outputs.check(), Err(OutputError::Twice(_))));
    }
}
