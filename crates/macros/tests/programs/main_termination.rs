//! A `main` whose result is nobody's business.
use std::process::{ExitCode, Termination};

#[callgate::main]
fn main() -> impl Termination {
    ExitCode::SUCCESS
}
