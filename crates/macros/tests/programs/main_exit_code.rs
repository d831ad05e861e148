//! A `main` that returns an exit code, and returns early.
use std::process::ExitCode;

#[callgate::main()]
#[allow(clippy::needless_return)]
/// Succeeds before the last line can fail.
pub fn main() -> ExitCode {
    if std::env::args().count() < 100 {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
