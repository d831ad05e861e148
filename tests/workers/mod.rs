//! Builds the example `worker`, a service in its own executable, for the tests that start it.

#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

#[path = "../../examples/tally/mod.rs"]
pub(crate) mod tally;

/// The path of the worker, which is up to date. Call this outside of watchdogs: building it waits for other builds to end.
pub(crate) fn worker() -> PathBuf {
    static WORKER: OnceLock<PathBuf> = OnceLock::new();
    WORKER.get_or_init(build).clone()
}

/// After `cargo test`, cargo finds nothing to do; `cargo test --test executable` has not built it.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the test binary has a path");
    let profile_dir = test.ancestors().nth(2).expect("the test binary lies in `deps`");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", "worker", "--profile", profile, "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    // Both executables must know the same backends. Only a build of all default members has failpoints.
    if cfg!(not(feature = "failpoints")) {
        let features = [(cfg!(feature = "portable"), "portable"), (cfg!(feature = "sandbox"), "sandbox")];
        let features =
            features.into_iter().filter_map(|(here, name)| here.then_some(name)).collect::<Vec<_>>().join(",");
        cargo.args(["-p", "callgate", "--features", &features]);
    }
    // Cargo explains a failure on stderr. Without cargo, an earlier build will do.
    let _ = cargo.status();
    let worker = profile_dir.join("examples/worker");
    assert!(worker.exists(), "{} was not built", worker.display());
    worker
}
