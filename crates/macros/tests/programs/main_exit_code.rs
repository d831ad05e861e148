//! A `main` that returns an exit code, and ends early.
use std::process::ExitCode;

#[callgate::main()]
#[allow(clippy::needless_return)]
/// Ends before it could fail.
pub fn main() -> ExitCode {
    if std::env::args().count() < 100 {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
