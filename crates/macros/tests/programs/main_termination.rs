//! A `main` that returns an opaque type: `impl Termination`.
use std::process::{ExitCode, Termination};

#[callgate::main]
fn main() -> impl Termination {
    ExitCode::SUCCESS
}
