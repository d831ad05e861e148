//! The example `worker`, a service in an executable of its own, for the tests that start it.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

#[path = "../../examples/tally/mod.rs"]
pub(crate) mod tally;

/// Where the worker is; it is up to date. Call this outside of watchdogs: building it waits for other builds to end.
pub(crate) fn worker() -> PathBuf {
    static WORKER: OnceLock<PathBuf> = OnceLock::new();
    WORKER.get_or_init(build).clone()
}

/// `cargo test` has built it, with the same features; `cargo test --test executable` has not.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the test binary has a path");
    let profile_dir = test.ancestors().nth(2).expect("the test binary lies in `deps`");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let worker = profile_dir.join("examples/worker");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = changed(&worker);
    if built.is_some()
        && ["Cargo.toml", "src", "crates", "examples"].iter().all(|part| newest(&root.join(part)) < built)
    {
        return worker;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "callgate", "--example", "worker", "--profile", profile, "--manifest-path"]);
    // The two executables must know the same backends.
    let features = [(cfg!(feature = "portable"), "portable"), (cfg!(feature = "sandbox"), "sandbox")];
    let features = features.into_iter().filter_map(|(here, name)| here.then_some(name)).collect::<Vec<_>>().join(",");
    // A failure says itself why on stderr; without a cargo, what was built before will do.
    let _ = cargo.arg(root.join("Cargo.toml")).args(["--features", &features]).status();
    assert!(worker.exists(), "{} was not built", worker.display());
    worker
}

/// When the file was changed; `None` if there is none.
fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|data| data.modified()).ok()
}

/// When the last of the files at `path` was changed.
fn newest(path: &Path) -> Option<SystemTime> {
    let within = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| newest(&entry.path()));
    if path.is_dir() { within.max().flatten() } else { changed(path) }
}
