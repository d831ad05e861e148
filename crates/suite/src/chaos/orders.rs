//! Orders for the idle child of a [`Victim`](super::victim::Victim): what to do at its protocol steps. They go through a file, because a call
//! would itself go through those steps.

#![forbid(unsafe_code)]

use super::processes::{eventually, state};
use callgate::failpoints::{self, STEPS};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a child may take to carry out an order.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a thread that carries out the order in the file at `path` whenever the file appears.
pub(super) fn follow(path: &str) {
    if path.is_empty() {
        return;
    }
    let path = PathBuf::from(path);
    thread::spawn(move || {
        loop {
            if let Ok(order) = fs::read_to_string(&path) {
                if let Err(why) = obey(&order) {
                    eprintln!("callgate-suite: the order `{order}` cannot be carried out: {why}");
                    std::process::exit(1);
                }
                let _ = fs::remove_file(&path);
            }
            thread::sleep(Duration::from_micros(500));
        }
    });
}

fn obey(order: &str) -> Result<(), String> {
    match order.split_once(' ').ok_or("not two words")? {
        ("watch", file) => watch(file).map_err(|error| error.to_string()),
        (name, actions) => failpoints::set(name, actions),
    }
}

/// Starts to record in `file` which steps this process reaches: one byte for each step.
fn watch(file: &str) -> io::Result<()> {
    let file = Arc::new(File::options().write(true).open(file)?);
    for (at, point) in (0..).zip(STEPS) {
        let file = file.clone();
        let note = move || drop(file.write_at(&[1], at));
        failpoints::call(point.name, note).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Gives an order to the child `pid`, which follows `path`, and waits until the child has carried it out.
///
/// Waits first until the child's worker sleeps: after its last reply, it may still go through steps on its way to the next request.
pub(super) fn give(pid: u32, path: &Path, order: &str) -> Result<(), String> {
    // This is the state of the child's main thread.
    if !eventually(TIMEOUT, || state(pid) == Some('S')) {
        return Err(format!("the child never sleeps that is to follow the order `{order}`"));
    }
    let draft = path.with_extension("draft");
    fs::write(&draft, order).and_then(|()| fs::rename(&draft, path)).map_err(|error| error.to_string())?;
    if !eventually(TIMEOUT, || !path.exists()) {
        return Err(format!("the child does not follow the order `{order}`"));
    }
    Ok(())
}
