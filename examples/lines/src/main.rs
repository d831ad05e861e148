//! Prints the lines of a file that match a pattern: `cargo run --release -p lines -- PATTERN FILE`
//!
//! A child process reads and searches. It can open that file and no other, and has no more than `MEMORY`, so neither a malicious file nor a pattern harms
//! this process. Each line comes as soon as it is found; the child stays at most 16 matches ahead. Exits as `grep` does: with 0 if a line matches, with 1
//! if none does, with 2 after an error.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::process::ExitCode;
use std::{env, error::Error, iter};

use callgate::{Bridge, Output, Sandbox, StartError, bridge};
use regex::Regex;

#[cfg(test)]
mod tests;

/// How much the child may allocate, in bytes. It holds a few lines at a time.
const MEMORY: u64 = 64 << 20;

/// Searches files.
struct Searcher;

#[bridge]
impl Searcher {
    pub fn new() -> Self {
        Searcher
    }

    /// The lines of the file `path` that match `pattern`, or what prevents the search.
    pub fn matching(&self, path: &str, pattern: &str) -> impl Iterator<Item = Result<String, String>> {
        search(path, pattern).unwrap_or_else(|error| Box::new(iter::once(Err(error))))
    }
}

type Lines = Box<dyn Iterator<Item = Result<String, String>>>;

fn search(path: &str, pattern: &str) -> Result<Lines, String> {
    let pattern = Regex::new(pattern).map_err(|error| error.to_string())?;
    let about = path.to_owned();
    let failed = move |error: io::Error| format!("{about}: {error}");
    let lines = BufReader::new(File::open(path).map_err(&failed)?).split(b'\n');
    let texts = lines.map(move |line| Ok(String::from_utf8_lossy(&line.map_err(&failed)?).into_owned()));
    Ok(Box::new(texts.filter(move |text| text.as_ref().map_or(true, |text| pattern.is_match(text)))))
}

#[callgate::main]
fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [pattern, path] = &args[..] else {
        eprintln!("usage: lines PATTERN FILE");
        return ExitCode::from(2);
    };
    match print_matching(path, pattern) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("lines: {error}");
            ExitCode::from(2)
        }
    }
}

/// Starts a child that can read this file and do nothing else.
fn searcher_of(path: &str) -> Result<Bridge<Searcher>, StartError> {
    let sandbox = Sandbox::strict().memory(MEMORY).read_only(path);
    Searcher::bridge().sandbox(sandbox).stdout(Output::null()).stderr(Output::null()).start()
}

/// Prints matching lines until the file ends or nobody reads the output. Returns whether there was one.
fn print_matching(path: &str, pattern: &str) -> Result<bool, Box<dyn Error>> {
    fs::metadata(path).map_err(|error| format!("{path}: {error}"))?; // a sandbox takes only paths that exist
    let searcher = searcher_of(path)?;
    let mut found = false;
    for line in searcher.matching(path, pattern)? {
        found = true;
        match writeln!(io::stdout(), "{}", line??) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break, // `| head` has seen enough
            written => written?,
        }
    }
    Ok(found)
}
