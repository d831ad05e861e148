//! A `main` that returns a type of its own, which implements `Termination`.
use std::process::{ExitCode, Termination};

#[callgate::main]
fn main() -> impl Termination {
    ExitCode::SUCCESS
}
