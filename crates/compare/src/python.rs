//! The Python package that callgate descends from, and the parts of `multiprocessing` that it and the package `xpc` are made of. They measure
//! themselves in a script, which gets orders for one batch at a time, so that they too take turns with callgate.

#![forbid(unsafe_code)]

use crate::peer::PeerProcess;
use callgate_suite::{BoxError, Subject};
use serde::Deserialize;
use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use tempfile::TempDir;

/// The peers in Python. The first needs a package that is not part of Python.
pub const NAMES: [&str; 3] = [BRIDGE, "multiprocessing.Manager", CONNECTION];

const BRIDGE: &str = "cross-process-bridge";

/// A connection with challenges for each call, like those of the package `xpc`, from which callgate's `Manager` descends. This one uses a Unix
/// socket, which is faster than the package's TCP: there, a request after a challenge waits 40 ms for the challenge's acknowledgement.
pub const CONNECTION: &str = "multiprocessing.connection";

const SCRIPT: &str = include_str!("../python/peers.py");

/// A Python that can run the script.
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// Finds a Python that can measure `name`. Makes a virtual environment for it beside this executable, if it needs one.
    ///
    /// # Errors
    ///
    /// One sentence that says what is missing.
    pub fn for_peer(name: &str) -> Result<Self, BoxError> {
        let here = Path::new("python3");
        let version = Command::new(here).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.map_err(|error| format!("python3 cannot be run: {error}"))?;
        if name == BRIDGE {
            return Ok(Self { interpreter: virtual_environment(here)? });
        }
        Ok(Self { interpreter: here.into() })
    }

    /// Starts the script, with the two sides of its calls pinned to these CPUs, if given.
    pub fn start(&self, name: &str, cpus: Option<(usize, usize)>) -> Result<Rc<RefCell<Session>>, BoxError> {
        let home = TempDir::with_prefix("callgate-compare-")?;
        let script = home.path().join("peers.py");
        fs::write(&script, SCRIPT)?;
        let words = cpus.map_or(["any".into(), "any".into()], |cpus| [cpus.0.to_string(), cpus.1.to_string()]);
        let mut command = Command::new(&self.interpreter);
        command.arg(&script).args(["run", name]).args(words);
        // Puts Python's temporary files into our temporary directory, so that they are removed with it.
        command.env("TMPDIR", home.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = PeerProcess::run(&mut command)?;
        let (orders, answers) = process.pipes().ok_or("the script has no pipes")?;
        let session = Session { orders, answers: BufReader::new(answers), _process: process, _home: home };
        Ok(Rc::new(RefCell::new(session)))
    }
}

/// The interpreter of a virtual environment with the package. Creates the environment on first use.
fn virtual_environment(python: &Path) -> Result<PathBuf, BoxError> {
    let executable = std::env::current_exe()?;
    let directory = executable.with_file_name("callgate-compare-python");
    let mut script = Command::new(python);
    script.args(["-c", SCRIPT, "prepare"]).arg(&directory).stdin(Stdio::null());
    let done = script.output()?;
    if done.status.success() {
        return Ok(directory.join("venv/bin/python"));
    }
    let reason = String::from_utf8_lossy(&done.stderr);
    Err(reason.lines().last().unwrap_or("python3 made no virtual environment").into())
}

/// A running script. The order of the fields is the order in which they must be dropped.
pub struct Session {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: PeerProcess,
    _home: TempDir,
}

/// The script's answer to an order.
#[derive(Deserialize)]
#[serde(untagged)]
enum ScriptAnswer {
    Nanos(Vec<u64>),
    Failed { error: String },
}

impl Session {
    /// Makes every call once and checks the answers.
    pub fn verify(&mut self) -> Result<(), BoxError> {
        self.order("verify").map(drop)
    }

    fn order(&mut self, order: &str) -> Result<Vec<u64>, BoxError> {
        self.orders.write_all(format!("{order}\n").as_bytes())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return Err("the Python script has ended".into());
        }
        match serde_json::from_str(&line)? {
            ScriptAnswer::Nanos(nanos) => Ok(nanos),
            ScriptAnswer::Failed { error } => Err(error.into()),
        }
    }
}

/// A subject whose batches run in the script, where the call is named `order`.
pub fn subject(peer: &str, call: &str, order: &'static str, session: &Rc<RefCell<Session>>) -> Subject {
    let session = session.clone();
    Subject::custom(format!("{peer} {call}"), move |batch| {
        let time = batch.clock.nanos(batch.clock.now(), batch.until) as u64;
        for nanos in session.borrow_mut().order(&format!("{order} {time}"))? {
            batch.record(nanos as f64);
        }
        Ok(())
    })
}
