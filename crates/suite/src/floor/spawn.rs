//! The floor of starts: `Command` runs this program, which writes one byte to stdout in [`init`](crate::init).

#![forbid(unsafe_code)]

use crate::child::{BenchChild, ChildRole};
use std::io::{self, Read, Write};
use std::process::Stdio;

/// Starts a process and waits for its first byte. Dropping the result reaps the process.
///
/// # Errors
///
/// If the process does not start, or ends without writing a byte.
pub fn spawn() -> io::Result<BenchChild> {
    let mut child = BenchChild::start(ChildRole::Byte, &[], Stdio::null(), Stdio::piped())?;
    let mut stdout = child.process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    stdout.read_exact(&mut [0])?;
    Ok(child)
}

/// The child's side.
pub(super) fn answer() -> io::Result<std::convert::Infallible> {
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    std::process::exit(0)
}
